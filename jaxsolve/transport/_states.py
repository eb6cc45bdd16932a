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
        size = leaf.dtype.itemsize
        word = {1: jnp.uint8, 2: jnp.uint16}.get(size, jnp.uint32)
        words = jnp.ravel(jax.lax.bitcast_convert_type(leaf, word)).astype(jnp.uint32)
        place = (jax.lax.iota(jnp.uint32, words.size) + k) * jnp.uint32(0x9E3779B9)
        # Every bit of a word and of its place changes half of those of the sum.
        words = (words ^ (words >> 16)) * jnp.uint32(0x85EBCA6B) ^ place
        words = (words ^ (words >> 13)) * jnp.uint32(0xC2B2AE35)
        words = words ^ (words >> 16)
        total = total * jnp.uint32(31) + jnp.sum(words, dtype=jnp.uint32)
    # What a float32 can hold.
    return jnp.where(sound, (total >> 8).astype(dtype), jnp.nan)


def owned(state: Any) -> Any:
    """A state that shares no array with itself, params or data: it may be donated."""
    return jax.tree.map(lambda x: jnp.array(x, copy=True), state)


def anew(stale: chex.Array, new: chex.Numeric, old: chex.Array) -> chex.Array:
    """A field of a state, begun anew where that is of another problem."""
    return jnp.where(stale, new, old).astype(old.dtype)
