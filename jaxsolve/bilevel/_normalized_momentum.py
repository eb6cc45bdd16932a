"""Momentum of which only the direction counts."""

import chex
import optax

from jaxsolve import core

EPS = 1e-10  # added to the norm: zero momentum makes no step


def normalized_momentum(
    stepsize: optax.ScalarOrSchedule, decay: chex.Numeric = 0.9
) -> optax.GradientTransformation:
    r"""Makes steps of a given length along an average of the gradients.

    With :math:`m` zero at first, one update computes

    .. math::

        m^+ &= \beta m + (1 - \beta) g \\
        \Delta x &= -\eta \, m^+ / (\|m^+\| + 10^{-10})

    with one norm over all leaves, so that :math:`\|\Delta x\| = \eta` to rounding
    however large the gradient is. The first step is along :math:`-g` whatever the
    decay. The iterates never come to rest: they end up at a distance of about
    :math:`\eta` from a minimiser, so let :math:`\eta` decrease, or average.

    Args:
        stepsize: :math:`\eta > 0`, a scalar or a schedule of the steps taken.
        decay: :math:`\beta` in [0, 1); 0 is normalised gradient descent.

    Returns:
        An optax chain of an exponential average without debiasing, a normalisation,
        and the stepsize.

    Raises:
        ValueError: on a stepsize that is not positive, or a decay outside of [0, 1).

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import bilevel
        >>> rule = bilevel.normalized_momentum(0.1)
        >>> grad = jnp.array([300.0, -400.0])
        >>> print(rule.update(grad, rule.init(grad))[0])
        [-0.06  0.08]

    References:
        Cutkosky and Mehta, `Momentum Improves Normalized SGD
        <https://arxiv.org/abs/2002.03305>`_, 2020.
    """
    core.check_stepsize(stepsize)
    if core.is_concrete(decay) and not 0 <= decay < 1:
        raise ValueError(f"decay must lie in [0, 1), got {decay!r}.")
    return optax.chain(
        optax.ema(decay, debias=False),
        optax.normalize_by_update_norm(eps=EPS),
        optax.scale_by_learning_rate(stepsize),
    )
