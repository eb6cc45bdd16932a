"""Projected gradient descent."""

from collections.abc import Callable

import optax

from jaxsolve import core
from jaxsolve.composite._proximal_gradient import proximal_gradient
from jaxsolve.prox import from_projection, of_data, resolve


@core.memoise
def projected_gradient(
    fun: core.Objective,
    projection: Callable,
    stepsize: optax.ScalarOrSchedule | None = None,
    *,
    accelerate: bool = True,
    restart: bool = True,
    max_trials: int = 40,
) -> core.Solver:
    r"""Minimises a smooth function over a convex set, plain or accelerated.

    Solves :math:`\min_{x \in C} f(x)`: it is :func:`proximal_gradient` with the
    projection onto :math:`C` in place of the prox. One iteration computes

    .. math::

        x^+ = P_C(z - \eta \nabla f(z))

    where :math:`z` is :math:`x`, extrapolated if accelerated. The start need not be
    feasible; params are from the first accepted step on. Accelerated, :math:`f` is
    evaluated at extrapolated points, which may lie outside of :math:`C`.

    Args:
        fun: :math:`f`, as ``fun(params, data) -> scalar``, smooth.
        projection: :math:`P_C`, as ``projection(params) -> params``: of
            `jaxsolve.prox`, of `optax.projections`, or your own; or made by
            :func:`prox.of_data <jaxsolve.prox.of_data>` where the set depends on data.
        stepsize: :math:`\eta > 0`, a scalar or a schedule; searched for by default.
        accelerate: whether to extrapolate.
        restart: whether the momentum is restarted.
        max_trials: how many times in a row a search may shrink before it has stalled.

    Returns:
        A solver, whose state is that of :func:`proximal_gradient`. Its error is
        :math:`\|x^+ - z\|_\infty / \min(\eta, 1)`, its residual
        :math:`x - P_C(x - \nabla f(x))`.

    Raises:
        ValueError: as :func:`proximal_gradient`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import composite, prox
        >>> fun = lambda x, b: 0.5 * jnp.sum((x - b) ** 2)
        >>> solver = composite.projected_gradient(fun, prox.simplex())
        >>> solution = jaxsolve.run(solver, jnp.zeros(3), jnp.array([1.0, 0.5, -2.0]))
        >>> print(jnp.round(100 * solution.params))
        [75. 25.  0.]

    References:
        Goldstein, `Convex Programming in Hilbert Space
        <https://doi.org/10.1090/S0002-9904-1964-11178-2>`_, 1964. Levitin and Polyak,
        `Constrained Minimization Methods
        <https://doi.org/10.1016/0041-5553(66)90114-5>`_, 1966.
    """

    def at(data):
        return from_projection(resolve(projection, data))

    options = dict(accelerate=accelerate, restart=restart, max_trials=max_trials)
    return proximal_gradient(fun, of_data(at), stepsize, **options)
