"""The door to nonlinear least squares."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxsolve import core, smooth
from jaxsolve.doors._bounded import Bounded, pair, with_bounds
from jaxsolve.doors._methods import (
    LARGE,
    SMALL,
    Method,
    Stage,
    check_function,
    size_of,
    solve,
)


@core.memoise
def _half_squares(fun, loss):
    def objective(params, data):
        squares = [jnp.abs(r) ** 2 for r in jax.tree.leaves(fun(params, data))]
        terms = squares if loss is None else [loss(square) for square in squares]
        return 0.5 * sum(jnp.sum(term) for term in terms)

    return objective


def _stages(fun, loss, bounds, size):
    """Levenberg-Marquardt, bold, then careful; then what sees all curvature."""
    objective = _half_squares(fun, loss)
    if bounds is not None:
        last = Stage(Method.LBFGSB, smooth.lbfgsb(objective, bounds))
    elif size > SMALL:
        last = Stage(Method.LBFGS, smooth.lbfgs(objective))
    else:
        last = Stage(Method.NEWTON, smooth.newton(objective), cost=size + 1)
    if size > LARGE:
        return (last,)
    marquardt = functools.partial(
        smooth.levenberg_marquardt, fun, bounds=bounds, loss=loss
    )
    first = Stage(Method.LEVENBERG_MARQUARDT, marquardt(), share=0.4, least=100)
    careful = first._replace(solver=marquardt(damping=100.0), restart=True)
    return first, careful, last


def least_squares(
    fun: Callable[[core.Params, core.Data], Any],
    x0: core.Params,
    data: core.Data = None,
    *,
    bounds: tuple[Any, Any] | None = None,
    loss: smooth.Loss | None = None,
    **options: Any,
) -> core.Solution:
    r"""Minimises a sum of squares, if wanted between bounds or with a robust loss.

    Solves :math:`\min_x \tfrac12 \|r(x)\|^2` by Levenberg-Marquardt, which forms the
    Jacobian, with more than 2,000 unknowns by L-BFGS; where that stalls, once more from
    the start with much damping, then by Newton's method (up to 30 unknowns), L-BFGS, or
    within bounds L-BFGS-B. `solution.method` tells which it was. The solution is
    differentiable in the data, the bounds, and in what `fun` closes over. Called
    eagerly again with the same function and new numbers it costs no new trace.

    Args:
        fun: :math:`r`, as ``fun(params, data) -> tree of residuals``.
        x0: where to start, a tree of real float arrays; with bounds it is projected
            into the box.
        data: whatever the problem depends on.
        bounds: a pair ``(lower, upper)`` as of `minimize`; :math:`r` is evaluated in
            the box only.
        loss: a robust loss: ``jaxsolve.smooth.huber_loss(scale)``, ``soft_l1_loss``,
            ``cauchy_loss``, ``arctan_loss``, or a function of the squared residual.
        **options: of `jaxsolve.run`; ``max_steps`` counts evaluations of :math:`r`,
            each with its Jacobian.

    Returns:
        A `Solution`; `solution.value` is half the sum of squares, or of losses, and
        `solution.jac` its gradient (SciPy's are residuals and Jacobian). Its
        error is that of the method, a sup-norm of the gradient, scaled by the columns
        of the Jacobian if that is Levenberg-Marquardt.

    Raises:
        ValueError: if params are not real floats, the bounds cross or do not fit them,
            or the residuals are not real.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> t = jnp.linspace(0.0, 1.0, 9)
        >>> residuals = lambda x, y: jnp.exp(-x * t) - y
        >>> solution = jaxsolve.least_squares(residuals, 1.0, jnp.exp(-3.0 * t))
        >>> print(f"{solution.params:.3f} by {solution.method}")
        3.000 by levenberg_marquardt
    """
    check_function(fun)
    if loss is not None and not callable(loss):
        raise ValueError(
            f"loss must be a function of the squared residual such as "
            f"jaxsolve.smooth.huber_loss(1.0), got {loss!r}."
        )
    size = size_of(x0)
    if bounds is None:
        return solve(_stages(fun, loss, None, size), x0, data, **options)
    core.check_bounds(bounds, x0)
    stages = _stages(with_bounds(fun), loss, pair, size)
    return solve(stages, x0, Bounded(data, *bounds), **options)
