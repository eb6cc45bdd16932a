"""The door to fixed points."""

from collections.abc import Callable
from typing import Any

from jaxsolve import core, fixed_point


def solve_fixed_point(
    fun: Callable[[core.Params, core.Data], core.Params],
    x0: core.Params,
    data: core.Data = None,
    **options: Any,
) -> core.Solution:
    r"""Finds a fixed point of a map, by Anderson acceleration.

    Solves :math:`x = T(x)`. The solution is differentiable in the data and in what
    `fun` closes over. Called eagerly again with the same function and new numbers it
    costs no new trace.

    Args:
        fun: :math:`T`, as ``fun(params, data) -> params``.
        x0: where to start, a tree of real float arrays.
        data: whatever the map depends on.
        **options: of `jaxsolve.run`: ``max_steps``, ``tol``, ``derivative``, ...

    Returns:
        A `Solution`. Its state's error is :math:`\|T(x) - x\|_\infty`.

    Raises:
        ValueError: if params are not real floats, or the map changes their form.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> solution = jaxsolve.solve_fixed_point(lambda x, a: jnp.cos(a * x), 1.0, 1.0)
        >>> print(f"{solution.params:.2f}")
        0.74
    """
    return core.run(fixed_point.anderson(fun), x0, data, **options)
