"""The door to roots."""

from collections.abc import Callable
from typing import Any

from jaxsolve import core, fixed_point, smooth
from jaxsolve.doors._bounded import Bounded, pair, with_bounds
from jaxsolve.doors._methods import LARGE, Method, Stage, check_function, size_of, solve


def _stages(fun, bounds, size):
    """Newton's method; where it is stuck, with full steps, and by least squares."""
    if size > LARGE and bounds is None:
        value = lambda state: state.error
        krylov = fixed_point.newton_krylov(fun)
        broyden = fixed_point.broyden(fun)
        return (
            Stage(Method.NEWTON_KRYLOV, krylov, share=0.5, value=value, grad=False),
            Stage(Method.BROYDEN, broyden, value=value, grad=False, restart=True),
        )
    value = lambda state: state.error
    newton = Stage(
        Method.NEWTON_ROOT,
        fixed_point.newton_root(fun, bounds=bounds),
        share=0.4,
        value=value,
        grad=False,
    )
    # A least sum of squares need not be a root: Newton's method has the last word.
    squares = smooth.levenberg_marquardt(fun, bounds=bounds)
    handed = Stage(Method.LEVENBERG_MARQUARDT, squares, share=0.9, grad=False)
    handed = handed._replace(restart=True, relay=True)
    again = newton._replace(method=handed.method, share=1.0)
    if bounds is not None:
        return newton, handed, again
    # What holds it up may be a valley without a root: full steps jump out of it.
    jumping = fixed_point.newton_root(fun, backtrack=False)
    jumping = newton._replace(solver=jumping, share=0.3, restart=True)
    return newton, jumping, handed, again


def root(
    fun: Callable[[core.Params, core.Data], Any],
    x0: core.Params,
    data: core.Data = None,
    *,
    bounds: tuple[Any, Any] | None = None,
    bracket: tuple[Any, Any] | None = None,
    **options: Any,
) -> core.Solution:
    r"""Finds a root of as many equations as unknowns.

    Solves :math:`F(x) = 0`: by Newton's method with a dense Jacobian, and where that is
    stuck with full steps from the start, then by Levenberg-Marquardt from there, whose
    end is handed to Newton's method again; with more than 2,000 unknowns by
    Newton-Krylov, then Broyden's method; one unknown in a bracket by Brent's.
    `solution.method` tells which it was. A least sum of squares that is no root ends as
    stalled. The solution is differentiable in the data, and in what `fun` closes over.
    Called eagerly again with the same function and new numbers it costs no new trace.

    Args:
        fun: :math:`F`, as ``fun(params, data) -> values``, a tree with as many numbers
            as params.
        x0: where to start, a tree of real float arrays.
        data: whatever the problem depends on.
        bounds: a pair ``(lower, upper)`` as of `minimize`; :math:`F` is evaluated in
            the box only.
        bracket: a pair of numbers between which a scalar :math:`F` changes its sign;
            `x0` is then a guess between them.
        **options: of `jaxsolve.run`; ``max_steps`` counts evaluations of :math:`F`,
            each with its Jacobian.

    Returns:
        A `Solution`; its error, and `solution.value`, are :math:`\|F(x)\|_\infty`
        (SciPy's ``fun`` is F itself).

    Raises:
        ValueError: if params are not real floats, the numbers of equations and unknowns
            differ, bounds cross, or bounds and a bracket are given.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> fun = lambda x, a: jnp.stack([x[0] ** 2 + x[1] ** 2 - a, x[0] - x[1]])
        >>> solution = jaxsolve.root(fun, jnp.array([1.0, 3.0]), 8.0)
        >>> print(solution.params, solution.converged)
        [2. 2.] True
    """
    check_function(fun)
    if bracket is not None:
        if bounds is not None:
            raise ValueError("give root bounds or a bracket, not both.")
        ends = with_bounds(fun)
        brent = fixed_point.brent(ends, _lower, _upper)
        only = Stage(Method.BRENT, brent, value=lambda state: state.error, grad=False)
        return solve((only,), x0, Bounded(data, *bracket), **options)
    size = size_of(x0)
    if bounds is None:
        return solve(_stages(fun, None, size), x0, data, **options)
    core.check_bounds(bounds, x0)
    stages = _stages(with_bounds(fun), pair, size)
    return solve(stages, x0, Bounded(data, *bounds), **options)


def _lower(bounded):
    return bounded.lower


def _upper(bounded):
    return bounded.upper
