"""The door to minimisation."""

from typing import Any

from jaxsolve import core, smooth
from jaxsolve.doors._bounded import Bounded, pair, with_bounds
from jaxsolve.doors._methods import SMALL, Method, Stage, check_function, size_of, solve


def _stages(fun, size):
    """L-BFGS, and where it stalls the curvature that it could not see."""
    if size > SMALL:
        first = Stage(Method.LBFGS, smooth.lbfgs(fun), share=0.7, least=100)
        return first, Stage(Method.NEWTON_CG, smooth.newton_cg(fun))
    first = Stage(Method.LBFGS, smooth.lbfgs(fun), share=0.4, least=100)
    newton = Stage(Method.NEWTON, smooth.newton(fun, scaled=True), cost=size + 1)
    return first, newton._replace(share=0.7, restart=True), newton


def minimize(
    fun: core.Objective,
    x0: core.Params,
    data: core.Data = None,
    *,
    bounds: tuple[Any, Any] | None = None,
    **options: Any,
) -> core.Solution:
    r"""Minimises a smooth function, if wanted between bounds.

    Solves :math:`\min_x f(x)`, or :math:`\min_{l \le x \le u} f(x)`: the latter by
    L-BFGS-B, which evaluates :math:`f` in the box only. Without bounds by L-BFGS, and
    where that stalls, or has spent its share of `max_steps`, by Newton's method in a
    trust region: with the full Hessian up to 30 unknowns, from the start once more,
    then from the best point; with Hessian-vector products beyond. `solution.method`
    tells which it was.

    The solution is differentiable in the data, in the bounds, and in what `fun` closes
    over. Called eagerly again with the same function and new numbers it costs no new
    trace: `fun` is traced as under `jax.jit`, so what changes between calls belongs in
    `data`. A method that is not needed is not compiled, unless inside jit or vmap.

    Args:
        fun: :math:`f`, as ``fun(params, data) -> scalar``.
        x0: where to start, a tree of real float arrays; with bounds it is projected
            into the box.
        data: whatever the problem depends on.
        bounds: a pair ``(lower, upper)``, each None, a number, or a tree like `x0`
            whose leaves broadcast to those of `x0`. Infinite bounds are legal. SciPy's
            list of pairs is ``bounds=tuple(np.array(pairs, float).T)``.
        **options: of `jaxsolve.run`: ``max_steps``, ``tol``, ``derivative``, ``stop``,
            ``record``, ``progress``, ... Here `max_steps` bounds the oracle calls of
            all methods together, where a Hessian of n unknowns counts n + 1; with
            `record` the first method does alone.

    Returns:
        A `Solution`, with SciPy's names beside ours. Its error is the sup-norm of the
        gradient, with bounds of the projected gradient :math:`P(x - \nabla f(x)) - x`.

    Raises:
        ValueError: if params are not real floats, the bounds cross or do not fit them,
            or the objective is not a real scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> fun = lambda x, a: jnp.sum((x - a) ** 2) + jnp.prod(x)
        >>> solution = jaxsolve.minimize(fun, jnp.zeros(2), 3.0, bounds=(0.0, 1.0))
        >>> print(solution.params, solution.converged)
        [1. 1.] True
    """
    check_function(fun)
    if bounds is None:
        size = size_of(x0)
        return solve(_stages(fun, size), x0, data, **options)
    core.check_bounds(bounds, x0)
    only = (Stage(Method.LBFGSB, smooth.lbfgsb(with_bounds(fun), pair)),)
    return solve(only, x0, Bounded(data, *bounds), **options)
