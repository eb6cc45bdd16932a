"""Picard's iteration, plain and damped."""

from typing import NamedTuple

import chex
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.fixed_point._map import Map, check_positive, checked, judge, residual_of


class PicardState(NamedTuple):
    """State of Picard's iteration."""

    count: chex.Array  # (), int32: updates taken, one evaluation of the map each.
    error: chex.Array  # (), real: sup-norm of T(x) - x at the iterate before params.
    status: chex.Array  # (), int32: running, stalled or diverged.
    point: chex.Array  # (n,), real: params, raveled, in full precision.


@core.memoise
def picard(fun: Map, damping: optax.ScalarOrSchedule = 1.0) -> core.Solver:
    r"""Finds a fixed point by iterating the map.

    Solves :math:`x = T(x)`. From the iterate :math:`x`, one update computes

    .. math::

        x^+ = (1 - \beta) x + \beta T(x)

    Converges linearly, at the rate :math:`1 - \beta + \beta q`, where :math:`T` is a
    contraction of factor :math:`q < 1`; damped, :math:`\beta < 1`, also where it is
    only non-expansive (Krasnoselskii and Mann). A value that is not finite is not
    taken, and ends the run as diverged. Where the map is expensive, or :math:`q` near
    one, use :func:`anderson`.

    Args:
        fun: :math:`T`, as ``fun(params, data) -> params``.
        damping: :math:`\beta > 0`, a scalar or a schedule of the update count; 1 is the
            plain iteration, more than 1 over-relaxes.

    Returns:
        A solver. Its error is :math:`\|T(x) - x\|_\infty` where the map was evaluated,
        at the iterate before params; its residual :math:`x - T(x)`.

    Raises:
        ValueError: if `damping` is not positive; while tracing, if the map returns
            another tree than params.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> solver = jaxsolve.fixed_point.picard(lambda x, a: jnp.cos(a * x))
        >>> print(f"{jaxsolve.run(solver, 1.0, 1.0).params:.3f}")
        0.739

    References:
        Krasnoselskii, Two remarks on the method of successive approximations (Uspekhi
        Mat. Nauk 10), 1955. Mann, `Mean value methods in iteration
        <https://doi.org/10.1090/S0002-9939-1953-0054846-3>`_, 1953.
    """
    check_positive("damping", damping)
    schedule = core.as_schedule(damping)
    mapped = checked(fun)

    def init(params, data=None):
        del data
        return PicardState(
            count=jnp.zeros((), jnp.int32),
            error=core.real_scalar(jnp.inf, params),
            status=as_status(Status.RUNNING),
            point=core.ravel(params)[0],
        )

    def update(params, state, data=None):
        x, unravel = core.ravel_fine(params, state.point)
        value, _ = core.ravel(mapped(params, data))
        beta = core.real_scalar(schedule(state.count), params)
        new_x = (1 - beta) * x + beta * value
        ok = jnp.all(jnp.isfinite(new_x))
        reach = jnp.max(jnp.abs(value - x), initial=0)
        status = judge(x, value, jnp.where(ok, reach, jnp.inf))
        new_x = jnp.where(ok, new_x, x)
        error = jnp.where(ok, reach, state.error)
        return unravel(new_x), PicardState(state.count + 1, error, status, new_x)

    return core.Solver(init, update, residual_of(mapped), core.implicit())
