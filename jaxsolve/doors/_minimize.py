"""The door to minimisation."""

from typing import Any, NamedTuple

from jaxsolve import core, smooth


class _Bounded(NamedTuple):
    """The data of a problem, and its bounds, which may change from call to call."""

    data: Any
    lower: Any
    upper: Any


@core.memoise
def _in_a_box(fun):
    return smooth.lbfgsb(
        lambda params, bounded: fun(params, bounded.data),
        lambda bounded: (bounded.lower, bounded.upper),
    )


def minimize(
    fun: core.Objective,
    x0: core.Params,
    data: core.Data = None,
    *,
    bounds: tuple[Any, Any] | None = None,
    **options: Any,
) -> core.Solution:
    r"""Minimises a smooth function, if wanted between bounds.

    Solves :math:`\min_x f(x)`, or :math:`\min_{l \le x \le u} f(x)`: by L-BFGS, or by
    L-BFGS-B, which evaluates :math:`f` in the box only. The solution is differentiable
    in the data, in the bounds, and in what `fun` closes over. Called eagerly again with
    the same function and new numbers it costs no new trace: `fun` is traced once, as
    under `jax.jit`, so what changes between calls belongs in `data`.

    Args:
        fun: :math:`f`, as ``fun(params, data) -> scalar``.
        x0: where to start, a tree of real float arrays; with bounds it is projected
            into the box.
        data: whatever the problem depends on.
        bounds: a pair ``(lower, upper)``, each None, a number, or a tree like `x0`
            whose leaves broadcast to those of `x0`. Infinite bounds are legal. SciPy's
            list of pairs is ``bounds=tuple(np.array(pairs, float).T)``.
        **options: of `jaxsolve.run`: ``max_steps``, ``tol``, ``derivative``, ``stop``,
            ``record``, ``progress``, ...

    Returns:
        A `Solution`. Its state's error is the sup-norm of the gradient, with bounds of
        the projected gradient :math:`P(x - \nabla f(x)) - x`.

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
    if bounds is None:
        return core.run(smooth.lbfgs(fun), x0, data, **options)
    smooth.check_bounds(bounds, x0)
    return core.run(_in_a_box(fun), x0, _Bounded(data, *bounds), **options)
