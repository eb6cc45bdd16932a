"""The diagonal of the Hessian, sampled and smoothed over blocks."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsolve import linear
from jaxsolve.transforms._curvature import curvature, first_key
from jaxsolve.transforms._wide import like


class HessianDiagonalState(NamedTuple):
    """State of a sampled diagonal of the Hessian."""

    key: chex.PRNGKey  # (), key: of the next sample.


def hessian_diagonal(
    samples: int = 1,
    *,
    average: Callable[[chex.ArrayTree], chex.ArrayTree] | None = None,
    sampler: Callable = linear.rademacher,
    chunk: int = 8,
    key: chex.PRNGKey | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Replaces gradients by an estimate of the diagonal of the Hessian.

    With :math:`z` a tree of random signs, a key for each leaf, one update computes

    .. math::

        D = z \odot H z

    or the mean of several, and smooths it by `average`. It is what
    :func:`scale_by_adahessian` divides by, and serves
    ``optax.contrib.sophia(hessian_diagonal_fn=...)`` as well. Where the gradient or the
    product is not finite neither is the estimate.

    Args:
        samples: how many products are taken, at least one.
        average: as ``average(D) -> D``, such as :func:`spatial_average`.
        sampler: ``linear.rademacher`` or ``linear.gaussian``.
        chunk: how many products are taken at a time.
        key: of the first sample; ``jax.random.key(0)`` by default.

    Returns:
        A transformation that needs the extra argument ``hvp``, as ``hvp(v) -> H v`` on
        the batch of the gradient, or instead ``value_fn`` and params. Across devices
        that see different batches, ``hvp`` must average, as the gradient does.

    Raises:
        ValueError: if `samples` is below one; in update, without ``hvp`` and
            ``value_fn``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> transform, x = transforms.hessian_diagonal(), jnp.array([1.0, 2.0])
        >>> D, _ = transform.update(
        ...     4 * x**3, transform.init(x), x, value_fn=lambda x: jnp.sum(x**4))
        >>> print(D)
        [12. 48.]

    References:
        Bekas, Kokiopoulou and Saad, `An Estimator for the Diagonal of a Matrix
        <https://doi.org/10.1016/j.apnum.2007.01.003>`_, 2007.
    """
    if not isinstance(samples, int | np.integer) or samples < 1:
        raise ValueError(f"samples must be an integer, at least 1, got {samples!r}.")

    def init(params):
        del params
        return HessianDiagonalState(first_key(key))

    def update(updates, state, params=None, *, hvp=None, value_fn=None, **extra):
        del extra
        product, form = curvature(
            "the diagonal of the Hessian", params, updates, hvp, value_fn
        )
        new_key, now = jax.random.split(state.key)
        diagonal = linear.hutchinson_diagonal(
            product, form, key=now, samples=samples, sampler=sampler, chunk=chunk
        ).value
        diagonal = diagonal if average is None else average(diagonal)
        sound = lambda d, g: jnp.where(jnp.isfinite(d) & jnp.isfinite(g), d, jnp.nan)
        diagonal = like(jax.tree.map(sound, diagonal, updates), updates)
        return diagonal, HessianDiagonalState(new_key)

    return optax.GradientTransformationExtraArgs(init, update)


def spatial_average(
    row_block: int | None = None,
    *,
    channels_first: bool = False,
    abs_before_average: bool = True,
) -> Callable[[chex.ArrayTree], chex.ArrayTree]:
    r"""Makes the rule by which AdaHessian averages a diagonal over blocks of a leaf.

    Leaves of three axes and more are kernels of convolutions, averaged over their
    spatial axes; matrices over blocks along their input axis, if so wanted; vectors and
    scalars (biases, norms) are left alone.

    Args:
        row_block: how many consecutive inputs of a matrix are one block: none (the
            authors' code for images), 32 (that for transformers), or -1, all inputs. A
            last block may be smaller.
        channels_first: whether kernels are OIHW and matrices (out, in), as in Equinox,
            rather than HWIO and (in, out), as in Flax.
        abs_before_average: whether absolute values are averaged, as in the authors'
            code, or signed ones, as in the paper.

    Returns:
        A function of trees.

    Raises:
        ValueError: if `row_block` is neither None, -1 nor positive.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> D = jnp.array([[1.0, -3.0, 5.0]])  # one output, three inputs
        >>> print(transforms.spatial_average(2, channels_first=True)(D))
        [[2. 2. 5.]]

    References:
        Yao, Gholami, Shen, Mustafa, Keutzer and Mahoney, `ADAHESSIAN: An Adaptive
        Second Order Optimizer for Machine Learning
        <https://arxiv.org/abs/2006.00719>`_, 2021. Section on spatial averaging.
    """
    known = isinstance(row_block, int | np.integer)
    if row_block is not None and not (known and (row_block == -1 or row_block > 0)):
        raise ValueError(
            "row_block must be None, -1 for whole rows, or positive, got "
            f"{row_block!r}."
        )

    def leaf(d):
        if d.ndim < 2 or (d.ndim == 2 and row_block is None) or d.size == 0:
            return d
        d = jnp.abs(d) if abs_before_average else d
        if d.ndim > 2:
            first = 2 if channels_first else 0
            axes = tuple(range(first, first + d.ndim - 2))
            return jnp.broadcast_to(jnp.mean(d, axes, keepdims=True), d.shape)
        axis = 1 if channels_first else 0
        size = d.shape[axis] if row_block == -1 else row_block
        return jnp.moveaxis(_blocks(jnp.moveaxis(d, axis, -1), size), -1, axis)

    return lambda diagonal: jax.tree.map(leaf, diagonal)


def _blocks(d, size):
    """The mean of each block along the last axis, in place of its entries."""
    rows, length = d.shape
    count = -(-length // size)
    sizes = np.minimum(size, length - size * np.arange(count))
    padded = jnp.pad(d, ((0, 0), (0, count * size - length)))
    sums = jnp.sum(padded.reshape(rows, count, size), -1)
    means = sums / jnp.asarray(sizes, d.dtype)[None, :]
    return jnp.repeat(means, size, axis=1)[:, :length]
