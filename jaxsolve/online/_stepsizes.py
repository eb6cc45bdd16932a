"""Stepsizes of online learners."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.online._rounds import check_positive


class VariationStepsize(NamedTuple):
    """A stepsize that falls as gradients surprise; made by `variation_stepsize`.

    Attributes:
        at: the stepsize after surprises of V in all, as ``at(variation)``.
        bound: a bound on the regret there, as ``bound(variation)``.
    """

    at: Callable[[chex.Array], chex.Array]
    bound: Callable[[chex.Array], chex.Array]


@core.memoise
def variation_stepsize(
    diameter: chex.Numeric, gradient_bound: chex.Numeric, delta: chex.Numeric = 1.0
) -> VariationStepsize:
    r"""Makes the stepsize for convex losses that may be anything from fixed to hostile.

    With the surprises :math:`V_t = \sum_{s \le t} \|g_s - g_{s-1}\|_2^2`, where
    :math:`g_0 = 0`, the stepsize of round t is

    .. math::

        \eta_t = \frac{D}{\sqrt{\delta + 4 G^2 + V_{t-1}}}

    which is known before the round is played. With it, optimistic mirror descent in the
    2-norm has on every sequence of convex losses a regret of at most

    .. math::

        \tfrac{5}{2} D \sqrt{\delta + 4 G^2 + V_T}

    that does not grow where losses do not change.

    Args:
        diameter: :math:`D > 0`, of the set: twice the radius of a ball. Without a
            bounded set there is no bound.
        gradient_bound: :math:`G > 0`, of the gradients' norms; with one that is too
            small the learner works, but not by that bound.
        delta: :math:`\delta > 0`, what keeps the first steps bounded.

    Returns:
        What `mirror_descent` and `ftrl` take for a stepsize. Its ``bound(variation)``
        is the regret bound at the ``variation`` of a state, of learners with
        ``optimistic=True``: plain ones pay for gradients, not for surprises.

    Raises:
        ValueError: if a number is not positive and finite.

    Examples:
        >>> from jaxsolve import online
        >>> law = online.variation_stepsize(2.0, 1.0)
        >>> print(f"{law.at(4.0):.3f} {law.bound(4.0):.1f}")
        0.667 15.0

    References:
        Chen, Zhang, Tu, Zhao and Zhang, `Optimistic Online Mirror Descent for Bridging
        Stochastic and Adversarial Online Convex Optimization
        <https://arxiv.org/abs/2302.04552>`_, 2024.
    """
    check_positive(diameter=diameter, gradient_bound=gradient_bound, delta=delta)

    def size(variation):
        return jnp.sqrt(variation + _like(delta + 4 * gradient_bound**2, variation))

    def at(variation):
        return _like(diameter, variation) / size(variation)

    def bound(variation):
        return _like(2.5 * diameter, variation) * size(variation)

    return VariationStepsize(at, bound)


@core.memoise
def strongly_convex_stepsize(modulus: chex.Numeric) -> optax.Schedule:
    r"""Makes the stepsize for strongly convex losses, :math:`\eta_t = 2 / (\lambda t)`.

    With it the regret of optimistic mirror descent in the 2-norm grows with the
    logarithm of the rounds, or of what losses vary, whichever is less. No bound of the
    set or of gradients enters. The constant is taken from the literature with medium
    confidence.

    Args:
        modulus: :math:`\lambda > 0`, such that every loss, or at least their
            expectation, is :math:`\lambda`-strongly convex. One that is too large
            makes steps too short: the regret may then grow like the rounds.

    Returns:
        A schedule of the update count, which is :math:`t - 1`.

    Raises:
        ValueError: if the modulus is not positive and finite.

    Examples:
        >>> from jaxsolve import online
        >>> schedule = online.strongly_convex_stepsize(0.5)
        >>> print(schedule(0), schedule(3))
        4.0 1.0

    References:
        Chen, Zhang, Tu, Zhao and Zhang, `Optimistic Online Mirror Descent for Bridging
        Stochastic and Adversarial Online Convex Optimization
        <https://arxiv.org/abs/2302.04552>`_, 2024.
    """
    check_positive(modulus=modulus)

    def schedule(count):
        rounds = jnp.asarray(count, float) + 1
        return 2 / (jnp.asarray(modulus, float) * rounds)

    return schedule


def law(stepsize: optax.ScalarOrSchedule | VariationStepsize) -> Callable:
    """Makes a function of the count and the variation of what a learner is given."""
    if isinstance(stepsize, VariationStepsize):
        return lambda count, variation: stepsize.at(variation)
    if not callable(stepsize):
        core.check_number("stepsize", stepsize)
    schedule = core.as_schedule(stepsize)
    return lambda count, variation: core.real_scalar(schedule(count), variation)


def usable(eta: chex.Array) -> chex.Array:
    """Whether a stepsize can be taken; zero can, where a schedule ends."""
    return (eta >= 0) & jnp.isfinite(eta)


def _like(number, x):
    return jnp.asarray(number, core.real_dtype(x))
