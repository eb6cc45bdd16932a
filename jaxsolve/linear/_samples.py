"""Means over random samples, a few of them at a time."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve.linear._operator import check_count


class Estimate(NamedTuple):
    """A mean of samples, and how far it may be off."""

    value: chex.ArrayTree  # real: the estimate.
    error: chex.ArrayTree  # like value: its standard error; infinite of one sample.


def map_samples(
    fun: Callable, key: chex.PRNGKey, samples: int, chunk: int, unrolled: bool = False
) -> chex.ArrayTree:
    """Stacks `fun(key)` over as many keys, of which `chunk` are mapped at a time.

    Unrolled, the program grows with the number of chunks.
    """
    parts = _chunks(key, samples, chunk)[0]
    if parts.shape[0] == 1 or unrolled:
        found = [_map(fun, keys) for keys in parts]
        return jax.tree.map(lambda *x: jnp.concatenate(x)[:samples], *found)
    _, results = jax.lax.scan(lambda _, keys: (None, _map(fun, keys)), None, parts)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:samples], results)


def mean(values: chex.Array) -> Estimate:
    """The mean of samples along the first axis: (N, ...)."""
    count = values.shape[0]
    peak = jnp.max(jnp.abs(values), axis=0)
    peak = jnp.where(peak > 0, peak, 1)  # relative to which squares stay in range
    variance = jnp.var(values / peak, axis=0, ddof=1) if count > 1 else None
    error = peak * _error(variance, values, count)
    return Estimate(jnp.mean(values, axis=0), jax.lax.stop_gradient(error))


def ratio(fun: Callable, key: chex.PRNGKey, samples: int, chunk: int) -> Estimate:
    """The mean of x over the mean of y, entry by entry, of `x, y = fun(key)`.

    Nothing is stored of a sample but its share of first and second moments.
    """
    if samples == 1:
        x, y = fun(key)
        value = jax.tree.map(jnp.divide, x, y)
        return Estimate(value, jax.tree.map(lambda v: jnp.full_like(v, jnp.inf), value))
    parts, counted = _chunks(key, samples, chunk)

    def stacked(key):
        return jax.tree.map(lambda x, y: jnp.stack([x, y]), *fun(key))

    def nothing(x):
        return jnp.zeros(x.shape, x.dtype), jnp.zeros((2, *x.shape), x.dtype)

    shapes, treedef = jax.tree.flatten(jax.eval_shape(stacked, parts[0, 0]))
    start = jnp.zeros((), jnp.int32), [nothing(x) for x in shapes]

    def add(carry, part):
        count, moments = carry
        keys, mask = part
        new = jnp.sum(mask, dtype=jnp.int32)
        values = jax.tree.leaves(_map(stacked, keys))
        both = zip(moments, values, strict=True)
        merged = [_merged(m, v, mask, count, new) for m, v in both]
        return (count + new, merged), None

    (_, moments), _ = jax.lax.scan(add, start, (parts, counted))

    def finish(first, second):
        value = first[0] / first[1]
        spread = second[0, 0] - 2 * value * second[0, 1] + value**2 * second[1, 1]
        variance = jnp.maximum(spread, 0) / (samples - 1)
        return value, _error(variance, value, samples) / jnp.abs(first[1])

    pairs = [finish(*m) for m in moments]
    values, errors = ([pair[i] for pair in pairs] for i in (0, 1))
    return Estimate(treedef.unflatten(values), treedef.unflatten(errors))


def _merged(moments, values, mask, old, new):
    """Means and central second moments of all samples, from those of two groups."""
    mean, second = moments
    real = lambda x: x.astype(mean.dtype)
    weight = real(mask).reshape(-1, *(1,) * (values.ndim - 1))
    here = jnp.sum(weight * values, 0) / real(new)
    off = (values - here[None]) * weight
    apart = here - mean
    share = real(new) / real(old + new)
    spread = jnp.sum(off[:, :, None] * off[:, None, :], 0)
    between = apart[:, None] * apart[None, :] * (real(old) * share)
    return mean + apart * share, second + spread + between


def _error(variance, value, count):
    if variance is None:
        return jnp.full_like(value[0], jnp.inf)
    return jnp.sqrt(variance / count)


def _chunks(key, samples, chunk):
    """Keys in equal parts, (P, size), and which of them count: repeats do not."""
    check_count("samples", samples)
    check_count("chunk", chunk)
    parts = -(-samples // chunk)
    size = -(-samples // parts)
    index = jnp.arange(parts * size, dtype=jnp.int32)
    if not jnp.issubdtype(jnp.asarray(key).dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)  # of the old kind, without a type
    keys = jax.random.split(key, samples)[jnp.minimum(index, samples - 1)]
    return keys.reshape(parts, size), (index < samples).reshape(parts, size)


def _map(fun, keys):
    if keys.shape[0] > 1:
        return jax.vmap(fun)(keys)
    return jax.tree.map(lambda x: x[None], fun(keys[0]))
