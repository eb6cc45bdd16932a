"""Pool adjacent violators: which entries of an isotonic regression are equal."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


class _Stack(NamedTuple):
    blocks: chex.Array  # (n, 3), real: of the closed blocks, moments and beginning.
    closed: chex.Array  # (), int32: how many there are.
    block: chex.Array  # (3,), real: the open block, after them.
    end: chex.Array  # (), int32: where it ends, and the rest begins.


def pool(moments: chex.Array, join: Callable, value: Callable) -> chex.Array:
    """Number the blocks of the increasing regression of a sequence.

    A step either joins the open block to the last closed one, where their values fall,
    or closes it and opens the next entry. That is 2 n steps for whatever data: lanes of
    a batch never wait for one another, and nothing is copied. On a CPU they are taken
    one after the other all the same: a step of a few numbers is cheaper than one that
    gathers and scatters.

    Args:
        moments: (n, 2), real: two numbers for every entry that tell its value.
        join: of two entries' moments (2,), to those of the block of both.
        value: of moments (2,), to the value of a block of these.

    Returns:
        (n,), int32: the number of the block in which each entry lies, from zero.
    """
    return _pooled(join, value)(moments)


@functools.lru_cache
def _pooled(join, value):
    """The function of moments alone, with a rule for batches."""

    @jax.custom_batching.custom_vmap
    def pooled(moments):
        return _pool(moments, join, value)

    @pooled.def_vmap
    def _batch(axis_size, in_batched, moments):
        del axis_size, in_batched
        one_by_one = lambda rows: jax.lax.map(pooled, rows)
        together = jax.vmap(lambda row: _pool(row, join, value))
        out = jax.lax.platform_dependent(moments, cpu=one_by_one, default=together)
        return out, True

    return pooled


def _pool(moments, join, value):
    size = moments.shape[0]
    if size == 0:
        return jnp.zeros(0, jnp.int32)
    # One array, rows written in one piece: all that a step costs is moving data. Reals
    # hold whole numbers, up to 2^24 in float32.
    index = jnp.arange(size, dtype=moments.dtype)
    entries = jnp.concatenate([moments, index[:, None]], 1)

    def step(_, s):
        # The row beyond the closed blocks is written first, whether or not it becomes
        # theirs, and the last one read from the result: so the stack stays in place.
        blocks = s.blocks.at[s.closed].set(s.block)
        last = blocks[jnp.maximum(s.closed - 1, 0)]
        falls = (s.closed > 0) & (value(last[:2]) > value(s.block[:2]))
        opens = ~falls & (s.end < size)
        following = entries[jnp.minimum(s.end, size - 1)]
        joined = jnp.concatenate([join(last[:2], s.block[:2]), last[2:]])
        return _Stack(
            blocks=blocks,
            closed=s.closed + jnp.where(falls, -1, opens.astype(jnp.int32)),
            block=jnp.where(falls, joined, jnp.where(opens, following, s.block)),
            end=s.end + opens.astype(jnp.int32),
        )

    number = lambda i: jnp.asarray(i, jnp.int32)
    stack = _Stack(jnp.zeros_like(entries), number(0), entries[0], number(1))
    stack = jax.lax.fori_loop(0, 2 * size - 2, step, stack)
    starts = stack.blocks[:, 2].at[stack.closed].set(stack.block[2]).astype(jnp.int32)
    real = jnp.arange(size, dtype=jnp.int32) <= stack.closed
    starts = jnp.where(real, starts, size)
    begins = jnp.zeros(size, jnp.int32).at[starts].set(1, mode="drop")
    return jnp.cumsum(begins, dtype=jnp.int32) - 1


def block_sums(x: chex.Array, block: chex.Array) -> chex.Array:
    """The sum of its block for every entry."""
    return jax.ops.segment_sum(x, block, x.size, indices_are_sorted=True)[block]


def block_max(x: chex.Array, block: chex.Array) -> chex.Array:
    """The largest entry of its block for every entry."""
    return jax.ops.segment_max(x, block, x.size, indices_are_sorted=True)[block]
