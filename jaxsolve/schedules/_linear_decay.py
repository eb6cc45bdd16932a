"""Linear decay, tables, and a warm-up of any schedule."""

import chex
import jax.numpy as jnp
import numpy as np
import optax

from jaxsolve import core
from jaxsolve.schedules._check import check, left, real


def linear_decay(
    peak_value: chex.Numeric,
    steps: chex.Numeric,
    *,
    warmup_steps: chex.Numeric = 0,
) -> optax.Schedule:
    r"""Linear decay to zero, with which the last iterate has the regret of the base.

    For the step :math:`t = 1, \dots, T`, the count plus one,

    .. math::

        \eta_t = \bar\eta \, (1 - t / T) \min \{ t / W, 1 \}

    so that the last step is one of zero: :math:`x_T` is reached by :math:`T - 1`. For a
    convex f with subgradients of length G, a start D from a minimum, and
    :math:`\bar\eta = D / (G \sqrt T)`, the expected gap of :math:`x_T` is at most
    :math:`D G / \sqrt T`. It is what :func:`refined` makes of equal norms.

    Without a warm-up, ``optax.linear_schedule(peak * (1 - 1 / T), 0.0, T - 1)`` is the
    same. Let it scale the whole update, also a decoupled weight decay.

    Args:
        peak_value: :math:`\bar\eta > 0`.
        steps: :math:`T \ge 1`, below :math:`2^{31}`, as counts are.
        warmup_steps: :math:`W \ge 0` steps of a linear ramp, at most T; usually a few
            percent.

    Returns:
        An optax schedule.

    Raises:
        ValueError: if a number is out of its range.

    Examples:
        >>> from jaxsolve import schedules
        >>> stepsize = schedules.linear_decay(1.0, 4)
        >>> print([float(stepsize(count)) for count in range(5)])
        [0.75, 0.5, 0.25, 0.0, 0.0]

    References:
        Defazio, Cutkosky, Mehta and Mishchenko, `When, Why and How Much? Adaptive
        Learning Rate Scheduling by Refinement <https://arxiv.org/abs/2310.07831>`_,
        2023.
    """
    check("peak_value", peak_value)
    check("steps", steps, 0, 2**31)
    last = steps if core.is_concrete(steps) else np.inf
    check("warmup_steps", warmup_steps, 0, last, "[]")
    cast = real(peak_value, steps, warmup_steps)

    def decay(count):
        return cast(peak_value) * (left(steps, count, cast, 1) / cast(steps))

    return warmup(decay, warmup_steps)


def warmup(schedule: optax.ScalarOrSchedule, steps: chex.Numeric) -> optax.Schedule:
    r"""Multiplies a schedule by a linear ramp, :math:`\min \{ t / W, 1 \}`.

    Optax's own warm-ups join a ramp and a decay, which then begins late, and give the
    first update a stepsize of zero; this one lies over any schedule, leaves its time as
    it is, and begins with 1/W.

    Args:
        schedule: of the count, or a number.
        steps: :math:`W \ge 0`; zero changes nothing.

    Returns:
        An optax schedule.

    Raises:
        ValueError: if `steps` is negative.

    Examples:
        >>> from jaxsolve import schedules
        >>> stepsize = schedules.warmup(1.0, 4)
        >>> print([float(stepsize(count)) for count in range(5)])
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    check("steps", steps, closed="[")
    inner = core.as_schedule(schedule)

    def warmed(count):
        value = inner(count)
        cast = real(value)
        ramp = (cast(count) + 1) / jnp.maximum(cast(steps), 1)
        return jnp.minimum(ramp, 1) * cast(value)

    return warmed


def tabulated(values: chex.Array, steps: chex.Numeric | None = None) -> optax.Schedule:
    r"""A schedule of given values, stretched over another number of steps.

    The step t of T, the count plus one, has the value at :math:`t T' / T` of the
    :math:`T'` given, linearly between two of them; beyond the ends, that at the end.

    Args:
        values: of the steps :math:`1, \dots, T'`: (T',), real.
        steps: :math:`T`, by default T'.

    Returns:
        An optax schedule.

    Raises:
        ValueError: if there are no values, or `steps` is not positive.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import schedules
        >>> stepsize = schedules.tabulated(jnp.array([3.0, 1.0]), steps=4)
        >>> print([float(stepsize(count)) for count in range(5)])
        [3.0, 3.0, 2.0, 1.0, 1.0]
    """
    check("steps", steps, 0, 2**31)
    if jnp.ndim(values) != 1 or jnp.size(values) == 0:
        raise ValueError(
            f"values must be one axis of at least one, got shape {jnp.shape(values)}."
        )
    table = real(values)(values)
    cast, last = real(table), table.size - 1
    total = table.size if steps is None else steps

    def schedule(count):
        # Counted from the end, so that it is met exactly.
        before = left(total, count, cast, 1) * (table.size / cast(total))
        before = jnp.minimum(before, last)
        part = before - jnp.floor(before)
        high = last - jnp.floor(before).astype(jnp.int32)
        low = jnp.maximum(high - 1, 0)
        return (1 - part) * table[high] + part * table[low]

    return schedule
