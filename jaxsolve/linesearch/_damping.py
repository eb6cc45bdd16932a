"""Damping rules: how far from the Gauss-Newton step to stay."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax.numpy as jnp

from jaxsolve.core import memoise
from jaxsolve.linesearch._search import ACCEPTED, FAILED


class Damping(NamedTuple):
    """A damping factor, and what became of the last trial step."""

    factor: chex.Array  # (), real: lambda, of the next step.
    growth: chex.Array  # (), real: by what it grows if the next trial is rejected.
    outcome: chex.Array  # (), int32: 0 rejected, 1 accepted, 2 failed.
    ratio: chex.Array  # (), real: actual over predicted reduction of the last trial.
    trials: chex.Array  # (), int32: trials rejected in a row.

    @property
    def accepted(self) -> chex.Array:
        """Whether the last trial is the next iterate: (), bool."""
        return self.outcome == ACCEPTED

    @property
    def failed(self) -> chex.Array:
        """Whether no step that changes the point is believed any more: (), bool."""
        return self.outcome == FAILED


class DampingRule(NamedTuple):
    """A rule for the damping as a pair of pure functions.

    Attributes:
        init: as ``init(factor) -> damping``, from the first factor, a real array.
        update: as ``update(damping, value, trial_value, predicted, closer, lost) ->
            damping``, from the objective at the iterate and at the trial, the reduction
            that the model predicted, whether the error is smaller at the trial, and
            whether the step was lost in the rounding of the iterate. A trial that
            cannot be used has the value infinity. An infinite `value` means that the
            trial is the starting point itself: any finite value is then accepted, and
            the factor is left alone.
    """

    init: Callable[[chex.Array], Damping]
    update: Callable[..., Damping]


@memoise
def nielsen(
    accept: float = 1e-4, *, shrink: float = 1 / 3, max_trials: int = 100
) -> DampingRule:
    r"""Judges trial steps by the gain ratio, and adapts the damping smoothly.

    With the actual over the predicted reduction :math:`\rho`, a step is accepted when
    :math:`\rho > \eta`. Then, or otherwise,

    .. math::

        \lambda^+ &= \lambda \max(\gamma, 1 - (2 \rho - 1)^3), \quad \nu^+ = 2 \\
        \lambda^+ &= \nu \lambda, \quad \nu^+ = 2 \nu

    Where both reductions are within the rounding error :math:`10 \varepsilon |f(x)|` of
    the objective, values cannot tell: the step is accepted if the error is smaller at
    the trial, and counts as :math:`\rho = 1`, and is rejected if not. Factors stay
    within :math:`[\varepsilon^2, \varepsilon^{-2}]`. After a trial that cannot be used
    the factor grows eightfold at least.

    Args:
        accept: :math:`\eta`, in [0, 1/2).
        shrink: :math:`\gamma`, in (0, 1): the fastest decrease.
        max_trials: rejections in a row after which the rule has failed.

    Returns:
        A damping rule.

    Raises:
        ValueError: unless ``0 <= accept < 1/2`` and ``0 < shrink < 1``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import linesearch
        >>> init, update = linesearch.nielsen()
        >>> damping = update(init(jnp.asarray(1.0)), 5.0, 6.0, 1.0, False, False)
        >>> print(damping.accepted, damping.factor, damping.growth)
        False 2.0 4.0

    References:
        Nielsen, `Damping Parameter in Marquardt's Method
        <https://www2.imm.dtu.dk/documents/ftp/tr99/tr05_99.pdf>`_, 1999, (2.5).
    """
    if not (0 <= accept < 0.5 and 0 < shrink < 1):
        raise ValueError(
            "nielsen needs 0 <= accept < 1/2 and 0 < shrink < 1, got "
            f"accept={accept} and shrink={shrink}."
        )

    def init(factor):
        count = jnp.zeros((), jnp.int32)
        return Damping(factor, 2 * jnp.ones_like(factor), count, 0 * factor, count)

    def update(damping, value, trial_value, predicted, closer, lost):
        real = lambda x: jnp.asarray(x, damping.factor.dtype)
        value, trial_value, predicted = map(real, (value, trial_value, predicted))
        first = ~jnp.isfinite(value)
        finite = jnp.isfinite(trial_value)
        eps = float(jnp.finfo(damping.factor.dtype).eps)
        noise = 10 * eps * jnp.abs(value)
        actual = value - trial_value
        level = (jnp.abs(actual) <= noise) & (jnp.abs(predicted) <= noise)
        promised = (predicted > 0) & jnp.isfinite(actual)
        ratio = jnp.where(promised, actual / jnp.where(promised, predicted, 1), -1)
        ratio = jnp.where(level, jnp.where(closer, real(1), real(-1)), ratio)
        passed = jnp.where(first, finite, finite & (ratio > accept))

        less = jnp.maximum(shrink, 1 - (2 * jnp.minimum(ratio, 1) - 1) ** 3)
        wild = jnp.where(finite, 1, 4).astype(damping.growth.dtype)
        more = damping.growth * wild
        factor = damping.factor * jnp.where(passed, less, more)
        factor = jnp.clip(factor, eps**2, 1 / eps**2)
        factor = jnp.where(first, damping.factor, factor)
        growth = jnp.where(passed | first, 2, 2 * damping.growth)
        trials = jnp.where(passed, 0, damping.trials + 1)
        failed = ~passed & (first | jnp.asarray(lost) | (trials >= max_trials))
        outcome = jnp.where(failed, FAILED, passed.astype(jnp.int32))
        growth = jnp.minimum(growth.astype(factor.dtype), 1 / eps)
        return Damping(factor, growth, outcome.astype(jnp.int32), ratio, trials)

    return DampingRule(init, update)
