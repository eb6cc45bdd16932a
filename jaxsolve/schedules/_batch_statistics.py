"""Means and variances of the gradients of single samples."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core

_HIGHEST = jax.lax.Precision.HIGHEST


class BatchStatistics(NamedTuple):
    """What a batch tells of the distribution of its gradients."""

    count: chex.Array  # (), real: samples.
    mean: chex.ArrayTree  # like params, at least 32 bits: the gradient of the batch.
    variance: chex.ArrayTree  # like params, at least 32 bits: of a sample's, unbiased.
    along: chex.Array | None  # (), real: variance of its inner product with the mean.


def batch_statistics(
    gradients: chex.ArrayTree,
    *,
    mask: chex.Array | None = None,
    axis: str | None = None,
) -> BatchStatistics:
    r"""Computes mean and variance of the gradients of single samples.

    For gradients :math:`g_1, \dots, g_b`

    .. math::

        g = \frac1b \sum_i g_i, \quad
        V = \frac{1}{b - 1} \sum_i (g_i - g)^2, \quad
        v = \frac{1}{b - 1} \sum_i (\langle g_i, g \rangle - \|g\|^2)^2

    Over the workers of a named axis they are those of all samples together, exactly:
    sums are taken over it, first for g.

    Args:
        gradients: a tree like params with an axis of samples in front of every leaf, as
            ``jax.vmap(jax.grad(loss), (None, 0))(params, batch)`` makes it.
        mask: (b,), which samples count, in a batch that is padded to a fixed length.
        axis: the name of an axis of workers, under ``vmap`` or ``shard_map``.

    Returns:
        The statistics. The variance of fewer than two samples is NaN, the mean of none
        zero.

    Raises:
        ValueError: if the leaves do not share one axis of samples, or there is only one
            sample, which has no variance.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import schedules
        >>> batch = schedules.batch_statistics(jnp.array([[1.0, 4.0], [3.0, 4.0]]))
        >>> print(batch.mean, batch.variance, batch.along)
        [2. 4.] [2. 0.] 8.0
    """
    size = _samples(gradients)
    if size < 2 and axis is None:
        raise ValueError("the variance of gradients needs at least two samples.")
    dtype = core.real_dtype(gradients)
    weights = jnp.ones(size, dtype) if mask is None else mask.astype(dtype)
    total = lambda x: x if axis is None else jax.lax.psum(x, axis)
    wide = jax.tree.map(lambda g: _shown(g, weights), gradients)
    count = total(jnp.sum(weights))
    dots = lambda g: jnp.tensordot(weights.astype(g.dtype), g, 1, precision=_HIGHEST)
    over = lambda g: total(dots(g))
    some = jnp.where(count > 0, count, 1)
    mean = jax.tree.map(lambda g: over(g) / some.astype(g.dtype), wide)
    away = jax.tree.map(lambda g, m: g - m[None], wide, mean)
    free = jnp.maximum(count - 1, 0)
    variance = jax.tree.map(lambda d: over(d**2) / free.astype(d.dtype), away)
    along = total(jnp.sum(weights * _inner(away, mean) ** 2)) / free
    return BatchStatistics(count, mean, variance, along)


def chunked_statistics(
    gradients: Callable[[core.Data], chex.ArrayTree],
    batch: core.Data,
    size: int,
    *,
    along: bool = True,
) -> BatchStatistics:
    r"""Computes :func:`batch_statistics` a chunk of the batch at a time.

    Only the gradients of one chunk are in memory. Their inner products with the mean
    need a second pass, and so each gradient is computed twice; without them once.

    Args:
        gradients: as ``gradients(chunk)``: the gradients of its samples, with an axis
            of samples in front.
        batch: a tree whose leaves share an axis of samples in front.
        size: of a chunk, a divisor of the length of that axis, at least 2.
        along: whether the variance of the inner products is computed, which
            :func:`inner_product_test` and :func:`orthogonality_test` need.

    Returns:
        The statistics.

    Raises:
        ValueError: if the chunks do not fill the batch, or have one sample.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import schedules
        >>> samples = jnp.arange(12.0).reshape(6, 2)
        >>> batch = schedules.chunked_statistics(lambda chunk: 2 * chunk, samples, 3)
        >>> print(batch.mean, jnp.round(batch.variance))
        [10. 12.] [56. 56.]
    """
    length = _samples(batch)
    if not isinstance(size, int) or size < 2 or length % size:
        raise ValueError(
            f"chunks of {size!r} must have at least two samples and divide the "
            f"{length} of the batch."
        )
    split = lambda x: jnp.reshape(x, (length // size, size, *jnp.shape(x)[1:]))
    chunks = jax.tree.map(split, batch)
    shape = jax.eval_shape(gradients, jax.tree.map(lambda x: x[0], chunks))
    none = jax.tree.map(lambda g: jnp.zeros(g.shape[1:], _wide(g)), shape)
    zero = core.real_scalar(0, none)

    def add(carry, chunk):
        direction, found, products = carry
        there = jax.tree.map(lambda g: g.astype(_wide(g)), gradients(chunk))
        new = merge_statistics(found, batch_statistics(there))
        inner = batch_statistics(_inner(there, direction))
        return (direction, new, merge_statistics(products, inner)), None

    def sweep(direction, _):
        empty = BatchStatistics(zero, none, none, None)
        nothing = BatchStatistics(zero, zero, zero, None)
        carry = (direction, empty, nothing)
        (_, found, products), _ = jax.lax.scan(add, carry, chunks)
        return found.mean, (found, products.variance)

    _, passes = jax.lax.scan(sweep, none, None, length=2 if along else 1)
    found, variance = jax.tree.map(lambda x: x[-1], passes)
    return found._replace(along=variance if along else None)


def merge_statistics(left: BatchStatistics, right: BatchStatistics) -> BatchStatistics:
    r"""Merges the statistics of two parts of a batch, as of accumulated gradients.

    With the numbers m and n of samples and the difference :math:`\delta` of the means

    .. math::

        g = g_1 + \frac{n}{m + n} \delta, \quad
        V = \frac{(m - 1) V_1 + (n - 1) V_2 + \frac{m n}{m + n} \delta^2}{m + n - 1}

    which is exact: up to the ends of the denominators the mean of the variances plus
    the variance of the means. A part of one sample, or of none, adds no variance of its
    own.

    Args:
        left: of one part; an empty one has the count 0 and zeros.
        right: of the other.

    Returns:
        Those of both; without the variance along the mean, which parts do not tell.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import schedules
        >>> parts = jnp.array([[1.0, 3.0], [5.0, 7.0]])
        >>> merged = schedules.merge_statistics(*map(schedules.batch_statistics, parts))
        >>> print(merged.mean, merged.count, round(float(merged.variance), 3))
        4.0 4.0 6.667
    """
    m, n = left.count, right.count
    both = m + n
    share = n / jnp.maximum(both, 1)
    delta = optax.tree.sub(right.mean, left.mean)
    scaled = lambda c, x: c.astype(x.dtype) * x
    scatter = lambda c, v: jnp.where(c > 1, scaled(c - 1, v), 0)  # NaN of fewer

    def variance(v, w, d):
        total = scatter(m, v) + scatter(n, w) + scaled(m * share, d**2)
        return total / jnp.maximum(both - 1, 0).astype(d.dtype)

    new = jax.tree.map(variance, left.variance, right.variance, delta)
    return BatchStatistics(both, core.axpy(share, delta, left.mean), new, None)


def _samples(tree):
    lengths = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(tree)}
    if len(lengths) != 1 or () in lengths:
        raise ValueError(
            "the leaves must share one axis of samples in front, got leading axes "
            f"{sorted(lengths)}."
        )
    return lengths.pop()[0]


def _wide(leaf):
    return core.real_dtype(leaf)


def _shown(leaf, weights):
    """The samples that count, in at least 32 bits; zeros in place of the others."""
    counts = jnp.expand_dims(weights != 0, range(1, leaf.ndim))
    return jnp.where(counts, leaf.astype(_wide(leaf)), 0)


def _inner(samples, direction):
    """The inner product of each sample with a direction: (b,), real."""
    dtype = core.real_dtype(samples)

    def of(g, d):
        products = jnp.reshape(g * d[None], (g.shape[0], d.size))
        return jnp.sum(products.astype(dtype), axis=1)

    return sum(jax.tree.leaves(jax.tree.map(of, samples, direction)))
