"""Schedules refined from the gradient norms of an earlier run."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsolve import core
from jaxsolve.schedules._check import check, real
from jaxsolve.schedules._last_iterate_bound import tails
from jaxsolve.schedules._linear_decay import tabulated
from jaxsolve.schedules._median import running_median


def refined(
    norms: chex.Array,
    peak_value: chex.Numeric = 1.0,
    *,
    steps: chex.Numeric | None = None,
    power: chex.Numeric = 2.0,
    smoothing: float = 0.1,
) -> optax.Schedule:
    r"""Makes the schedule that the gradient norms of an earlier run ask for.

    Of norms :math:`G_1, \dots, G_T` and their running median :math:`\hat G` over the
    fraction :math:`\tau` of them

    .. math::

        w_t &= \hat G_t^{-p}, \quad
        s_t = w_t \, (w_{t+1} + \dots + w_T) / (w_1 + \dots + w_T) \\
        \eta_t &= \bar\eta \, s_t / \max_k s_k

    for the step t, the count plus one. For subgradient steps with :math:`p = 2` it
    minimises a bound of the gap at the last iterate, :func:`refined_bound`. Equal norms
    give linear decay; norms that are large early, a warm-up.

    Args:
        norms: (T,), of raw gradients at the batch size of the new run, one a step, as
            ``transforms.record_gradient_norms`` keeps them. One that is not finite
            counts as the last before it that is, zeros as the smallest that does not
            overflow. Of a run that stopped early, give ``norms[:count]``, and `steps`
            if the new one shall be longer.
        peak_value: :math:`\bar\eta > 0`.
        steps: of the new run; the schedule is stretched to it. By default T.
        power: :math:`p > 0`: 2 with l2 norms for SGD and its like, 1 with l1 norms for
            Adam and its like.
        smoothing: :math:`\tau`, at least 0 (no median) and below 1.

    Returns:
        An optax schedule; its last value is zero.

    Raises:
        ValueError: if a number is out of its range, norms have not one axis, or the
            last of them are known to be zero.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import schedules
        >>> norms = jnp.array([4.0, 2.0, 1.0, 1.0, 1.0, 1.0])
        >>> stepsize = schedules.refined(norms, smoothing=0.0)
        >>> print([round(float(stepsize(count)), 2) for count in range(6)])
        [0.09, 0.33, 1.0, 0.67, 0.33, 0.0]

    References:
        Defazio, Cutkosky, Mehta and Mishchenko, `When, Why and How Much? Adaptive
        Learning Rate Scheduling by Refinement <https://arxiv.org/abs/2310.07831>`_,
        2023.
    """
    check("peak_value", peak_value)
    shape, _ = _shape(norms, power, smoothing)
    top = jnp.max(shape)
    cast = real(shape)
    return tabulated(cast(peak_value) * shape / jnp.where(top > 0, top, 1), steps)


def refined_stepsize(
    norms: chex.Array, distance: chex.Numeric, *, smoothing: float = 0.1
) -> optax.Schedule:
    r"""The refined schedule of subgradient steps, with its size from theory.

    With w and s of :func:`refined` for the power 2,

    .. math::

        \eta_t = D s_t / \sqrt{\textstyle\sum_k w_k^2 \hat G_k^2}

    Args:
        norms: (T,), l2 norms, one for each step that will be taken.
        distance: :math:`D > 0`, of the start from a minimum.
        smoothing: :math:`\tau`, at least 0 and below 1.

    Returns:
        An optax schedule.

    Raises:
        ValueError: if a number is out of its range, norms have not one axis, or the
            last of them are known to be zero.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import schedules
        >>> stepsize = schedules.refined_stepsize(jnp.full(4, 2.0), 1.0)
        >>> print(stepsize(0))  # D (1 - 1/4) / (G sqrt 4)
        0.1875
    """
    check("distance", distance)
    shape, quotient = _shape(norms, 2.0, smoothing)
    return tabulated(real(shape)(distance) * shape / quotient)


def _shape(norms, power, smoothing):
    """The schedule before it is scaled, and the quotient of its size in theory."""
    check("power", power)
    check("smoothing", smoothing, 0, 1, "[")
    if jnp.ndim(norms) != 1 or jnp.size(norms) == 0:
        raise ValueError(
            f"norms must be one axis of at least one, got shape {jnp.shape(norms)}."
        )
    if core.is_concrete(norms):
        known = len(np.trim_zeros(np.asarray(norms), "b"))
        if 0 < known < len(norms):
            raise ValueError(
                f"the last {len(norms) - known} of {len(norms)} norms are zero, as in "
                f"a record that was not filled: give norms[:{known}]."
            )
    return _computed(real(norms)(norms), jnp.asarray(power), smoothing)


@functools.partial(jax.jit, static_argnames="smoothing")
def _computed(norms, power, smoothing):
    smooth = _smoothed(_finite(norms), smoothing)
    top = jnp.max(smooth)
    relative = smooth / jnp.where(top > 0, top, 1)
    info, power = jnp.finfo(relative.dtype), power.astype(relative.dtype)
    # The root of the largest number is what weights may be at most, to be summed.
    least = jnp.exp(-np.log(float(info.max)) / (2 * power))
    least = jnp.maximum(least, float(info.eps))
    relative = jnp.where(top > 0, jnp.maximum(relative, least), 1)
    weights = relative**-power
    sums = tails(weights)
    after = jnp.concatenate([sums[1:], jnp.zeros_like(sums[:1])])
    size = jnp.where(top > 0, top, 1) * jnp.sqrt(jnp.sum((weights * relative) ** 2))
    return weights * (after / sums[0]), size


def _finite(norms):
    """Norms that are not finite, replaced by the last one before that is."""
    good = jnp.isfinite(norms)
    places = jnp.arange(norms.size, dtype=jnp.int32)
    last = jax.lax.cummax(jnp.where(good, places, -1))
    filled = norms[jnp.where(last < 0, jnp.argmax(good).astype(jnp.int32), last)]
    return jnp.where(jnp.any(good), filled, 1)


def _smoothed(norms, smoothing):
    """The running median, mirrored at the end, where the first value stands before."""
    half = int(smoothing * norms.size / 2)
    if half == 0:
        return norms
    before = jnp.full_like(norms, norms[0], shape=half)
    mirrored = jnp.pad(norms, (0, half), mode="reflect")
    return running_median(jnp.concatenate([before, mirrored]), 2 * half + 1)
