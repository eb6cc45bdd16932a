"""Trust regions: how far a model of the objective is believed."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax.numpy as jnp

from jaxsolve.core import memoise
from jaxsolve.linesearch._search import ACCEPTED, FAILED, UNBOUNDED


class Region(NamedTuple):
    """A trust region, and what became of the last trial step."""

    radius: chex.Array  # (), real: the next step is no longer than this.
    outcome: chex.Array  # (), int32: 0 rejected, 1 accepted, 2 failed, 3 unbounded.
    ratio: chex.Array  # (), real: actual over predicted reduction of the last trial.
    trials: chex.Array  # (), int32: trials rejected in a row.

    @property
    def accepted(self) -> chex.Array:
        """Whether the last trial is the next iterate: (), bool."""
        return (self.outcome == ACCEPTED) | (self.outcome == UNBOUNDED)

    @property
    def failed(self) -> chex.Array:
        """Whether no step that changes the point is believed any more: (), bool."""
        return self.outcome == FAILED

    @property
    def unbounded(self) -> chex.Array:
        """Whether the step was good at the largest radius of all: (), bool."""
        return self.outcome == UNBOUNDED


class TrustRegion(NamedTuple):
    """A rule for the radius as a pair of pure functions.

    Attributes:
        init: as ``init(radius) -> region``, from the first radius, a real array.
        update: as ``update(region, value, trial_value, predicted, length, scale=0) ->
            region``, from the objective at the iterate and at the trial, the reduction
            that the model predicted, the length of the step in the norm of the radius,
            and the size of the iterate in that norm: a region whose radius is below its
            rounding has failed. A trial that cannot be used, such as one with a NaN
            gradient, has the value infinity. An infinite `value` means that the trial
            is the starting point itself: any finite value is then accepted, and the
            radius is left alone.
    """

    init: Callable[[chex.Array], Region]
    update: Callable[..., Region]


@memoise
def trust_region(
    accept: float = 1e-4,
    *,
    poor: float = 0.25,
    good: float = 0.75,
    shrink: float = 0.25,
    grow: float = 2.0,
    max_radius: float = 1e15,
    max_trials: int = 100,
) -> TrustRegion:
    r"""Judges trial steps by the gain ratio, and adapts the radius.

    With :math:`f` the objective, :math:`m` the reduction that a model predicts for the
    step :math:`s`, and :math:`\Delta` the radius, the gain ratio is

    .. math::

        \rho = \frac{f(x) - f(x + s)}{m}

    or one, where both reductions are within the rounding error :math:`10 \varepsilon
    |f(x)|` of the objective: values can no longer tell, the model is believed. The step
    is accepted when :math:`\rho > \eta`. The next radius is

    .. math::

        \Delta^+ = \begin{cases}
            0.1 \min(\|s\|, \Delta) & f(x + s) \text{ or } m \text{ is not finite} \\
            \gamma_1 \min(\|s\|, \Delta) & \rho < \rho_1 \\
            \gamma_2 \Delta & \rho \ge \rho_2, \ \|s\| \ge 0.9 \Delta \\
            \Delta & \text{otherwise.} \end{cases}

    Args:
        accept: :math:`\eta`, in [0, poor).
        poor: :math:`\rho_1`, below which the radius shrinks.
        good: :math:`\rho_2`, from which on it grows, if the step reached it.
        shrink: :math:`\gamma_1`, in (0, 1).
        grow: :math:`\gamma_2`, at least 1.
        max_radius: no radius grows beyond; a good step of that length is `unbounded`.
        max_trials: rejections in a row after which the region has failed.

    Returns:
        A trust region.

    Raises:
        ValueError: unless ``0 <= accept < poor <= good < 1``, ``0 < shrink < 1`` and
            ``grow >= 1``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import linesearch
        >>> init, update = linesearch.trust_region()
        >>> region = init(jnp.asarray(1.0))
        >>> region = update(region, 5.0, 4.0, predicted=1.1, length=1.0)
        >>> print(region.accepted, region.radius)
        True 2.0
        >>> region = update(region, 4.0, jnp.nan, predicted=3.0, length=2.0)
        >>> print(region.accepted, region.radius)
        False 0.2

    References:
        Conn, Gould and Toint, `Trust-Region Methods
        <https://doi.org/10.1137/1.9780898719857>`_, 2000, Algorithm 6.1.1; Section
        17.4.2 on rounding.
    """
    if not (0 <= accept < poor <= good < 1 and 0 < shrink < 1 and grow >= 1):
        raise ValueError(
            "trust_region needs 0 <= accept < poor <= good < 1, 0 < shrink < 1 and "
            f"grow >= 1, got accept={accept}, poor={poor}, good={good}, "
            f"shrink={shrink} and grow={grow}."
        )

    def init(radius):
        count = jnp.zeros((), jnp.int32)
        return Region(radius, count, jnp.zeros_like(radius), count)

    def update(region, value, trial_value, predicted, length, scale=0.0):
        real = lambda x: jnp.asarray(x, region.radius.dtype)
        value, trial_value, predicted = map(real, (value, trial_value, predicted))
        length, scale = real(length), real(scale)
        first = ~jnp.isfinite(value)
        finite = jnp.isfinite(trial_value)
        sane = finite & jnp.isfinite(predicted) & jnp.isfinite(length)
        ratio = _ratio(value, trial_value, predicted)
        passed = jnp.where(first, finite, sane & (ratio > accept))

        reach = jnp.minimum(length, region.radius)
        usable = jnp.isfinite(reach) & (reach > 0)
        reach = jnp.where(usable, reach, jnp.minimum(region.radius, 1))
        reached = length >= 0.9 * region.radius
        longer = jnp.minimum(grow * region.radius, max_radius)
        longer = jnp.where((ratio >= good) & reached, longer, region.radius)
        shorter = jnp.where(sane, shrink, 0.1).astype(reach.dtype) * reach
        radius = jnp.where(sane & (ratio >= poor), longer, shorter)
        radius = jnp.where(first, region.radius, radius)

        trials = jnp.where(passed, 0, region.trials + 1)
        info = jnp.finfo(radius.dtype)
        lost = radius <= jnp.maximum(float(info.eps) * scale, float(info.tiny))
        failed = ~passed & (first | lost | (trials >= max_trials))
        unbounded = passed & reached & (ratio >= good) & (length >= 0.9 * max_radius)
        outcome = jnp.where(unbounded & ~first, UNBOUNDED, jnp.where(passed, 1, 0))
        outcome = jnp.where(failed, FAILED, outcome).astype(jnp.int32)
        return Region(radius, outcome, ratio, trials)

    return TrustRegion(init, update)


def _ratio(value, trial_value, predicted):
    """The gain ratio; one where neither reduction can be told from rounding.

    Minus infinity where there is nothing to compare, so that the trial is rejected.
    """
    noise = 10 * float(jnp.finfo(value.dtype).eps) * jnp.abs(value)
    actual = value - trial_value
    level = (jnp.abs(actual) <= noise) & (jnp.abs(predicted) <= noise)
    promised = predicted > 0
    ratio = actual / jnp.where(promised, predicted, 1)
    known = promised & jnp.isfinite(actual) & jnp.isfinite(predicted)
    return jnp.where(level, 1, jnp.where(known, ratio, -jnp.inf))
