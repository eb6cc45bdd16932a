"""StableMax: class probabilities that do not saturate, and their losses."""

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve.transforms._wide import wide_dtype

Axis = int | tuple[int, ...]


def log_stablemax(
    logits: chex.Array, axis: Axis = -1, where: chex.Array | None = None
) -> chex.Array:
    r"""Computes logarithms of StableMax probabilities.

    .. math::

        s(x) = x + 1 \text{ if } x \ge 0, \text{ else } \frac{1}{1 - x},
        \qquad p_i = \frac{s(x_i)}{\sum_j s(x_j)}

    that is the softmax of :math:`\log s(x) = \operatorname{sign}(x) \log(1 + |x|)`.
    Probabilities grow like logits and not like their exponential: where a softmax in
    float32 is one, and its loss zero, from a lead of about 17 on, this needs one of
    :math:`10^7`, so that fitted samples go on to give gradients.

    Args:
        logits: real numbers.
        axis: the axis, or axes, along which probabilities sum to one.
        where: which entries count.

    Returns:
        An array like logits, computed in at least 32 bits.

    Raises:
        ValueError: if logits are not real floating-point numbers.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> logits = jnp.array([2.0, -2.0])  # s is 3 and 1/3
        >>> print(f"{jnp.exp(transforms.log_stablemax(logits))[0]:.3f}")
        0.900

    References:
        Prieto, Barsbey, Mediano and Birdal, `Grokking at the Edge of Numerical
        Stability <https://arxiv.org/abs/2501.04697>`_, 2025. Definition 3.
    """
    return jax.nn.log_softmax(_log_s(logits), axis, where).astype(logits.dtype)


def stablemax_cross_entropy(
    logits: chex.Array,
    labels: chex.Array,
    axis: Axis = -1,
    where: chex.Array | None = None,
) -> chex.Array:
    r"""Computes the cross entropy of StableMax probabilities and label probabilities.

    .. math::

        -\sum_i y_i \log p_i

    with :math:`p` of :func:`log_stablemax`: ``optax.softmax_cross_entropy`` with
    another link.

    Args:
        logits: (..., classes).
        labels: (..., classes), one-hot or probabilities.
        axis: of the classes.
        where: which entries count, of the shape of logits or of the result.

    Returns:
        The losses, (...), in the dtype of logits.

    Raises:
        ValueError: if logits are not real floating-point numbers.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> logits, labels = jnp.array([3e4, 0.0, 0.0]), jnp.array([1.0, 0.0, 0.0])
        >>> print(f"{transforms.stablemax_cross_entropy(logits, labels):.1e}")
        6.7e-05

    References:
        Prieto, Barsbey, Mediano and Birdal, `Grokking at the Edge of Numerical
        Stability <https://arxiv.org/abs/2501.04697>`_, 2025.
    """
    stretched = _log_s(logits)
    labels = jnp.asarray(labels).astype(stretched.dtype)
    loss = optax.softmax_cross_entropy(stretched, labels, axis, where)
    return loss.astype(logits.dtype)


def stablemax_cross_entropy_with_integer_labels(
    logits: chex.Array,
    labels: chex.Array,
    axis: Axis = -1,
    where: chex.Array | None = None,
) -> chex.Array:
    r"""Computes the cross entropy of StableMax probabilities and class numbers.

    .. math::

        -\log p_y

    with :math:`p` of :func:`log_stablemax`, as
    ``optax.softmax_cross_entropy_with_integer_labels`` has it of a softmax.

    Args:
        logits: (..., classes).
        labels: (...), integers from 0 to classes - 1.
        axis: of the classes.
        where: which entries count, of the shape of logits or of the result.

    Returns:
        The losses, (...), in the dtype of logits.

    Raises:
        ValueError: if logits are not real floating-point numbers.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> loss = transforms.stablemax_cross_entropy_with_integer_labels
        >>> print(f"{loss(jnp.array([1.0, 0.0]), jnp.array(1)):.3f}")  # log 3
        1.099

    References:
        Prieto, Barsbey, Mediano and Birdal, `Grokking at the Edge of Numerical
        Stability <https://arxiv.org/abs/2501.04697>`_, 2025.
    """
    loss = optax.softmax_cross_entropy_with_integer_labels
    return loss(_log_s(logits), labels, axis, where).astype(logits.dtype)


def softmax_collapse(logits: chex.Array, labels: chex.Array) -> chex.Array:
    r"""Counts the samples on which a softmax has nothing left to learn.

    The share of samples whose probability by a softmax of their label, in the dtype of
    logits, is one exactly: their loss is zero, and so is their gradient. In float32
    this is a lead of about 17 over all other logits.

    Args:
        logits: (..., classes).
        labels: (...), integers from 0 to classes - 1.

    Returns:
        The share, of at least 32 bits.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> logits = jnp.array([[30.0, 0.0], [10.0, 0.0]])
        >>> print(transforms.softmax_collapse(logits, jnp.array([0, 0])))
        0.5

    References:
        Prieto, Barsbey, Mediano and Birdal, `Grokking at the Edge of Numerical
        Stability <https://arxiv.org/abs/2501.04697>`_, 2025.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    index = jnp.asarray(labels)[..., None]
    picked = jnp.take_along_axis(probabilities, index, axis=-1)
    return jnp.mean((picked == 1).astype(wide_dtype(logits)))


def _log_s(logits):
    if not jnp.issubdtype(jnp.result_type(logits), jnp.floating):
        raise ValueError(
            f"logits must be real floating-point numbers, got {jnp.result_type(logits)}"
            "; cast them, for example with logits.astype(jnp.float32)."
        )
    x = logits.astype(wide_dtype(logits))
    # Not sign(x) log1p(|x|), whose derivative at zero is zero and not one.
    above, below = jnp.where(x >= 0, x, 0), jnp.where(x >= 0, 0, -x)
    return jnp.log1p(above) - jnp.log1p(below)
