"""Logistic regression with normalised gradients, for steps of any size."""

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.transforms._wide import wide


def scale_by_normalized_logistic() -> optax.GradientTransformationExtraArgs:
    r"""Divides gradients of the logistic loss by the mean probability of an error.

    For the margins :math:`m_i`, positive where a sample is classified correctly, and
    the gradient g of :math:`\frac{1}{n} \sum_i \log(1 + e^{-m_i})`, computes

    .. math::

        g \mapsto \frac{g}{\frac{1}{n} \sum_i p_i}, \qquad p_i = \frac{1}{1 + e^{m_i}}

    so that for margins :math:`m_i = \langle z_i, \theta \rangle` it is minus the mean
    of :math:`z_i` with the weights :math:`p_i / \sum_j p_j`: it does not fade as the
    loss does. Where every probability underflows, and the gradient with them, it gives
    a step of zero: all margins are above 88 then in float32, 709 in float64.

    Returns:
        A transformation that needs the extra argument ``margins``, (n,), those of the
        batch of the gradient at params, of any model. It leaves the sign of gradients.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> transform = transforms.scale_by_normalized_logistic()
        >>> g = -jnp.array([0.5, 1.0]) / 2  # of one sample, at params of zero
        >>> print(transform.update(g, transform.init(g), margins=jnp.zeros(1))[0])
        [-0.5 -1. ]

    References:
        Tyurin, `From Logistic Regression to the Perceptron Algorithm: Exploring
        Gradient Descent with Large Step Sizes <https://arxiv.org/abs/2412.08424>`_,
        2025.
    """

    def init(params):
        del params
        return optax.EmptyState()

    def update(updates, state, params=None, *, margins, **extra):
        del params, extra
        logs = jax.nn.log_sigmoid(-jnp.asarray(margins, core.real_dtype(updates)))
        beta = jnp.exp(jnp.log(logs.size) - jax.nn.logsumexp(logs))
        beta = jnp.where(jnp.isinf(beta), 0, beta)
        scaled = lambda g: (beta * g.astype(beta.dtype)).astype(g.dtype)
        return jax.tree.map(scaled, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def normalized_logistic(
    learning_rate: optax.ScalarOrSchedule, weight_decay: chex.Numeric = 0.0
) -> optax.GradientTransformationExtraArgs:
    r"""Gradient descent on the logistic loss, normalised: Normalized LR+GD.

    With the probabilities of :func:`scale_by_normalized_logistic`, computes

    .. math::

        \theta^+ = \theta - \gamma \frac{\nabla f(\theta)}{\frac{1}{n} \sum_i p_i}

    which separates data of the margin :math:`\mu` and the radius R from :math:`\theta =
    0` in :math:`R^2 / \mu^2 + 2 \log(2 n - 1) / (\gamma \mu^2)` steps, so the larger
    :math:`\gamma` the better. Loss and norm of the gradient oscillate meanwhile. To run
    it until the data are separated, see :func:`logistic_perceptron`.

    Args:
        learning_rate: :math:`\gamma > 0`, a number or a schedule, as large as you like.
        weight_decay: as that of ``optax.adamw``, for models that are not linear.

    Returns:
        A transformation that needs the extra argument ``margins``, and with decay
        params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> transform = transforms.normalized_logistic(100.0)
        >>> g = -jnp.array([0.5, 1.0]) / 2
        >>> print(transform.update(g, transform.init(g), margins=jnp.zeros(1))[0])
        [ 50. 100.]

    References:
        Tyurin, `From Logistic Regression to the Perceptron Algorithm: Exploring
        Gradient Descent with Large Step Sizes <https://arxiv.org/abs/2412.08424>`_,
        2025.
    """
    decay = (
        [] if core.is_zero(weight_decay) else [optax.add_decayed_weights(weight_decay)]
    )
    rate = optax.scale_by_learning_rate(learning_rate)
    return optax.chain(scale_by_normalized_logistic(), wide(optax.chain(*decay, rate)))
