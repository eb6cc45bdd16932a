"""What the states of this room need: marks of problems, and arrays of their own."""

from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp


def mark_of(tree: Any, sound: chex.Array, dtype: Any) -> chex.Array:
    """A number that other arrays hardly share: a checksum of all bits, (), real.

    Args:
        tree: a problem's arrays.
        sound: (), bool: whether its costs make sense; the mark is NaN if not.
        dtype: of the mark.
    """
    total = jnp.zeros((), jnp.uint32)
    for k, leaf in enumerate(jax.tree.leaves(eqx.filter(tree, eqx.is_array))):
        words = _mixed(leaf, k)
        total = total * jnp.uint32(31) + jnp.sum(words, dtype=jnp.uint32)
    # What a float32 can hold.
    return jnp.where(sound, (total >> 8).astype(dtype), jnp.nan)


def owned(state: Any) -> Any:
    """A state that shares no array with itself, params or data: it may be donated."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True), state)


def anew(stale: chex.Array, new: chex.Numeric, old: chex.Array) -> chex.Array:
    """A field of a state, begun anew where that is of another problem."""
    return jnp.where(stale, new, old).astype(old.dtype)


def _mixed(leaf, k):
    """A word for each entry, of which its bits and its place change half of the bits.

    Entries stay where they are, on whatever device.
    """
    wide = leaf.dtype.itemsize == 8
    kinds = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}
    kind = jnp.uint64 if wide else jnp.uint32
    bits = jax.lax.bitcast_convert_type(leaf, kinds[leaf.dtype.itemsize]).astype(kind)
    place = jnp.full(leaf.shape, k, kind)
    for axis in range(leaf.ndim):
        along = jax.lax.broadcasted_iota(kind, leaf.shape, axis)
        place = place * kind(leaf.shape[axis]) + along
    if wide:
        words = bits ^ (bits >> 32) ^ (place * kind(0x9E3779B97F4A7C15))
        words = words * kind(0xFF51AFD7ED558CCD)
        return (words ^ (words >> 32)).astype(jnp.uint32)
    words = (bits ^ (bits >> 16)) * kind(0x85EBCA6B) ^ (place * kind(0x9E3779B9))
    words = (words ^ (words >> 13)) * kind(0xC2B2AE35)
    return words ^ (words >> 16)
