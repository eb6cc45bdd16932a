"""What a bandit knows of all losses, from the loss of one arm."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve import core
from jaxsolve.online._rounds import check_positive

HIGHEST = jax.lax.Precision.HIGHEST


def importance_weighted(
    loss: chex.Numeric, action: chex.Numeric, probabilities: chex.Array
) -> chex.Array:
    r"""Estimates the losses of all arms from that of the one that was drawn.

    .. math::

        c_i = \frac{\ell}{p_i} \, [i = A]

    whose expectation over :math:`A \sim p` is the vector of losses.

    Args:
        loss: :math:`\ell`, of the arm.
        action: :math:`A`, its integer.
        probabilities: :math:`p`, (K,), by which it was drawn.

    Returns:
        The estimates, (K,).

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import online
        >>> online.importance_weighted(1.0, 1, jnp.array([0.75, 0.25]))
        Array([0., 4.], dtype=float32)
    """
    probabilities = _floating("probabilities", probabilities)
    arms = jnp.arange(len(probabilities), dtype=jnp.int32)
    drawn = arms == _known("action", action, len(arms))
    # Divided where it was drawn only: others may have no probability.
    ratio = jnp.asarray(loss, probabilities.dtype) / jnp.where(drawn, probabilities, 1)
    return jnp.where(jnp.any(drawn), jnp.where(drawn, ratio, 0), jnp.nan)


def inverse_covariance(
    features: chex.Array,
    probabilities: chex.Array | None = None,
    *,
    ridge: chex.Numeric,
) -> chex.Array:
    r"""Inverts the covariance of features under a policy, with a ridge.

    .. math::

        \Sigma^{-1}_\gamma = \Bigl( \gamma I + \sum_a p_a \phi_a \phi_a^\top
        \Bigr)^{-1}

    by one Cholesky factorisation.

    Args:
        features: :math:`\phi`, (K, d), of all actions, or of samples.
        probabilities: :math:`p`, (K,), of the actions; by default each counts
            :math:`1 / K`, as samples do.
        ridge: :math:`\gamma > 0`, of the order of one over the rounds. Too small a
            value makes estimates vary, too large a value biases them.

    Returns:
        The inverse, (d, d).

    Raises:
        ValueError: if a known ridge is not positive and finite, or shapes do not fit.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import online
        >>> p = jnp.array([0.25, 0.75])
        >>> print(online.inverse_covariance(jnp.eye(2), p, ridge=0.25).round(3))
        [[2. 0.]
         [0. 1.]]
    """
    check_positive(ridge=ridge)
    features = _floating("features", features)
    count = len(features)
    if probabilities is None:
        probabilities = jnp.full(count, 1 / max(count, 1), features.dtype)
    _check_shares(features, probabilities)
    ridge = jnp.where(jnp.asarray(ridge) > 0, ridge, jnp.nan)
    dimension = features.shape[1]
    weighed = probabilities.astype(features.dtype)[:, None] * features
    eye = jnp.eye(dimension, dtype=features.dtype)
    covariance = jnp.matmul(weighed.T, features, precision=HIGHEST)
    matrix = covariance + jnp.asarray(ridge, features.dtype) * eye
    return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix), eye)


def linear_estimate(
    loss: chex.Numeric, action: chex.Numeric, features: chex.Array, inverse: chex.Array
) -> chex.Array:
    r"""Estimates losses that are linear in features from that of one action.

    .. math::

        c_a = w_a \ell, \qquad w_a = \phi_a^\top \Sigma^{-1}_\gamma \phi_A

    Its expectation is the loss, but for the bias of the ridge.

    Args:
        loss: :math:`\ell`, of the action.
        action: :math:`A`, its integer.
        features: :math:`\phi`, (K, d), of all actions.
        inverse: :math:`\Sigma^{-1}_\gamma`, of :func:`inverse_covariance`.

    Returns:
        The estimates, (K,), as negative as :math:`-\ell / \gamma`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import online
        >>> features = jnp.array([[1.0, 0.0], [1.0, 1.0], [0.0, -1.0]])
        >>> online.linear_estimate(0.5, 1, features, jnp.eye(2))
        Array([ 0.5,  1. , -0.5], dtype=float32)
    """
    return _weights(action, features, inverse) * jnp.asarray(loss, features.dtype)


def magnitude_reduced(
    loss: chex.Numeric,
    action: chex.Numeric,
    features: chex.Array,
    inverse: chex.Array,
    probabilities: chex.Array,
    *,
    most: chex.Numeric = 1.0,
    samples: chex.Array | None = None,
) -> chex.Array:
    r"""Estimates losses as `linear_estimate`, by numbers that are less negative.

    For losses in :math:`[0, H]` and with :math:`(z)_- = \min(z, 0)`, computes

    .. math::

        w_a &= \phi_a^\top \Sigma^{-1}_\gamma \phi_A \\
        m_a &= H \, E_{A' \sim p} \, (\phi_a^\top \Sigma^{-1}_\gamma \phi_{A'})_- \\
        c_a &= w_a \ell - H (w_a)_- + m_a

    which has the expectation of :math:`w_a \ell`, but is at least :math:`m_a \ge - H
    \sqrt{\phi_a^\top \Sigma^{-1}_\gamma \phi_a}`: small enough for exponential weights.

    Args:
        loss: :math:`\ell`, of the action.
        action: :math:`A`, its integer.
        features: :math:`\phi`, (K, d), of all actions.
        inverse: :math:`\Sigma^{-1}_\gamma`, of :func:`inverse_covariance`.
        probabilities: :math:`p`, (K,), by which the action was drawn.
        most: :math:`H > 0`; losses beyond it void the floor.
        samples: (M,), integers, fresh draws from p over which to average instead of the
            exact expectation, where actions are many.

    Returns:
        The estimates, (K,).

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import online
        >>> features, p = jnp.array([[1.0], [-1.0]]), jnp.array([0.5, 0.5])
        >>> online.linear_estimate(0.5, 0, features, jnp.eye(1))
        Array([ 0.5, -0.5], dtype=float32)
        >>> online.magnitude_reduced(0.5, 0, features, jnp.eye(1), p)
        Array([0., 0.], dtype=float32)

    References:
        Dai, Luo, Wei and Zimmert, `Refined Regret for Adversarial MDPs with Linear
        Function Approximation <https://arxiv.org/abs/2301.12942>`_, 2023.
    """
    _check_shares(features, probabilities)
    dtype = features.dtype
    shares = probabilities.astype(dtype)
    others = features
    if samples is not None:
        if not len(samples):
            raise ValueError("samples must be at least one action, got none.")
        others = _rows("samples", features, samples)
        shares = jnp.full(len(samples), 1 / len(samples), dtype)
    product = lambda a, b: jnp.matmul(a, b, precision=HIGHEST)
    gram = product(product(features, inverse), others.T)
    mean = product(jnp.minimum(gram, 0), shares)
    weights, top = _weights(action, features, inverse), jnp.asarray(most, dtype)
    return weights * jnp.asarray(loss, dtype) + top * (mean - jnp.minimum(weights, 0))


def exploration_bonus(
    features: chex.Array,
    inverse: chex.Array,
    probabilities: chex.Array,
    scale: chex.Numeric,
) -> chex.Array:
    r"""Computes how little is known of each action, in the metric of what was seen.

    .. math::

        b_a = \beta \bigl( \|\phi_a\|_{\Sigma^{-1}}^2
            + E_{A \sim p} \|\phi_A\|_{\Sigma^{-1}}^2 \bigr)

    The form is the paper's, its constants are left to the user.

    Args:
        features: :math:`\phi`, (K, d), of all actions.
        inverse: :math:`\Sigma^{-1}`, of :func:`inverse_covariance`.
        probabilities: :math:`p`, (K,).
        scale: :math:`\beta`.

    Returns:
        The bonuses, (K,), to be taken from losses.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import online
        >>> p = jnp.array([0.25, 0.75])
        >>> online.exploration_bonus(jnp.eye(2), jnp.diag(1 / p), p, 0.5)
        Array([3.        , 1.6666667], dtype=float32)
    """
    _check_shares(features, probabilities)
    norms = jnp.sum(jnp.matmul(features, inverse, precision=HIGHEST) * features, -1)
    mean = jnp.sum(probabilities.astype(norms.dtype) * norms)
    return jnp.asarray(scale, norms.dtype) * (norms + mean)


def dilated_bonus(
    bonus: chex.Array, transitions: chex.Array, policy: chex.Array
) -> chex.Array:
    r"""Adds up bonuses along the stages of an episode, dilated.

    From the last of :math:`H` stages to the first, with :math:`B_{H+1} = 0`,

    .. math::

        B_h(s, a) = b_h(s, a) + (1 + 1/H) \sum_{s', a'} P_h(s' | s, a)
            \pi_{h+1}(a' | s') B_{h+1}(s', a')

    For finitely many states and known transitions. The recursion is reconstructed, with
    low confidence, from a description of the method.

    Args:
        bonus: :math:`b`, (H, S, A), such as of :func:`exploration_bonus`.
        transitions: :math:`P`, (H, S, A, S); that of the last stage plays no part.
        policy: :math:`\pi`, (H, S, A).

    Returns:
        The dilated bonuses, (H, S, A).

    Raises:
        ValueError: if shapes do not fit.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import online
        >>> ones = jnp.ones((2, 1, 1))
        >>> online.dilated_bonus(ones, jnp.ones((2, 1, 1, 1)), ones)[:, 0, 0]
        Array([2.5, 1. ], dtype=float32)

    References:
        Dai, Luo, Wei and Zimmert, `Refined Regret for Adversarial MDPs with Linear
        Function Approximation <https://arxiv.org/abs/2301.12942>`_, 2023.
    """
    shapes = (np.shape(bonus), np.shape(transitions), np.shape(policy))
    if len(shapes[0]) != 3 or shapes[1:] != (shapes[0] + shapes[0][1:2], shapes[0]):
        raise ValueError(
            "bonus and policy must have one shape (H, S, A) and transitions (H, S, A, "
            f"S), got {shapes}."
        )
    if 0 in shapes[0]:
        raise ValueError(f"bonus must have stages, states, actions, got {shapes[0]}.")
    factor = jnp.asarray(1 + 1 / shapes[0][0], core.real_dtype(bonus))

    def back(value, stage):
        bonus, transition, policy = stage
        ahead = jnp.matmul(transition, value, precision=HIGHEST)
        dilated = bonus + factor.astype(bonus.dtype) * ahead
        return jnp.sum(policy * dilated, -1), dilated

    none = jnp.zeros(shapes[0][1], jnp.result_type(bonus))
    return jax.lax.scan(back, none, (bonus, transitions, policy), reverse=True)[1]


def _weights(action, features, inverse):
    """The product of every action's features with those of the one that was taken."""
    taken = _rows("action", features, action)
    taken = jnp.matmul(inverse, taken, precision=HIGHEST)
    return jnp.matmul(features, taken, precision=HIGHEST)


def _rows(name, features, actions):
    """Rows of features, not numbers for actions that there are not."""
    actions = _known(name, actions, len(features))
    legal = (actions >= 0) & (actions < len(features))
    return jnp.where(legal[..., None], features[actions], jnp.nan)


def _known(name, actions, number):
    """Actions as integers; where they are known, of those that there are."""
    if not jnp.issubdtype(jnp.result_type(actions), jnp.integer):
        raise ValueError(f"{name} must be integer, got {jnp.result_type(actions)}.")
    if core.is_concrete(actions):
        given = np.asarray(actions)
        if np.any((given < 0) | (given >= number)):
            raise ValueError(f"{name} must lie in [0, {number}), got {actions!r}.")
    return jnp.asarray(actions, jnp.int32)


def _floating(name, array):
    if not jnp.issubdtype(jnp.result_type(array), jnp.floating):
        raise ValueError(f"{name} must be floating, got {jnp.result_type(array)}.")
    return jnp.asarray(array)


def _check_shares(features, probabilities):
    """Raises a `ValueError` unless every action has a probability."""
    shape = np.shape(features)
    if len(shape) != 2 or 0 in shape or np.shape(probabilities) != shape[:1]:
        raise ValueError(
            "features must be (K, d) and probabilities (K,), with an action at least, "
            f"got {shape} and {np.shape(probabilities)}."
        )
