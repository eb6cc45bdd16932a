"""Lower levels of many blocks: how these are sampled, read and written."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.bilevel._problem import Levels, split


class BlockSampling(NamedTuple):
    """Which blocks and examples an update looks at.

    Attributes:
        blocks: how many blocks, drawn without replacement; all by default.
        examples: how many examples of each, drawn likewise: an integer, or a tree of
            integers that is a prefix of the data, such as ``(64, 32)``, with None where
            a part has no axis of examples; all by default. The leaves below one
            integer share their second axis, and are drawn alike.
        lazy: whether blocks that are not sampled stay behind, and make up for the steps
            that they have missed when they are sampled next. An update then touches the
            sampled blocks only; params are those of the last visits. They make up by
            one step of the present stepsize, projected once: exact for constant
            stepsizes and an infinite radius alone.
    """

    blocks: int | None = None
    examples: Any = None
    lazy: bool = False


def check_sampling(sampling: BlockSampling, key: chex.PRNGKey | None) -> None:
    """Raises a `ValueError` unless blocks can be sampled in this way."""
    if not isinstance(sampling, BlockSampling):
        raise ValueError(
            f"sampling must be a bilevel.BlockSampling, got {type(sampling).__name__}."
        )
    sizes = [sampling.blocks, *jax.tree.leaves(sampling.examples)]
    if any(size is not None and (type(size) is not int or size < 1) for size in sizes):
        raise ValueError(
            "the sizes of a BlockSampling must be positive Python integers, got "
            f"{sampling!r}."
        )
    if key is None and any(size is not None for size in sizes):
        raise ValueError("blocks or examples are sampled by a key: give `key=`.")


def block_count(params: Levels, data: Any, sampling: BlockSampling) -> int:
    """The number of blocks, m.

    Raises:
        ValueError: unless all leaves of the lower params and of the data have it as
            their leading axis, and it is at least the number to be sampled.
    """
    leading = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves((params.lower, data))}
    if len(leading) != 1 or () in leading:
        raise ValueError(
            "every leaf of the lower params and of the data must have the same leading "
            f"axis, of blocks; got leading axes {sorted(leading)}."
        )
    ((count,),) = leading
    if sampling.blocks is not None and sampling.blocks > count:
        raise ValueError(f"{sampling.blocks} of {count} blocks cannot be sampled.")
    return count


def sampler(sampling: BlockSampling) -> Callable:
    """Makes ``(key, data, blocks, count) -> index, data of these blocks, key``.

    The first updates visit all blocks in turn, from then on they are drawn. The index
    is None where it is all blocks: then nothing is gathered, and a sharded axis of
    blocks stays where it is.
    """

    def sample(key, data, blocks, count):
        size, turns = sampling.blocks or blocks, sweeps(sampling, blocks)
        which = what = None
        if key is not None:
            key, which, what = jax.random.split(key, 3)
        index = None
        if size < blocks:
            start = jnp.minimum(jnp.minimum(count, turns) * size, blocks - size)
            in_turn = start + jnp.arange(size, dtype=jnp.int32)
            drawn = _choose(which, blocks, size)
            index = jnp.where(count < turns, in_turn, drawn)
        return index, _examples(what, split(data), index, sampling.examples), key

    return sample


def sweeps(sampling: BlockSampling, blocks: int) -> int:
    """How many updates it takes to visit all blocks in turn."""
    return -(-blocks // (sampling.blocks or blocks))


def _choose(key, total, size):
    """Draws `size` of `total` without replacement."""
    _, index = jax.lax.top_k(jax.random.bits(key, (total,), jnp.uint32), size)
    return index.astype(jnp.int32)


def _examples(key, data, index, sizes):
    sizes, prefix = jax.tree.flatten(sizes, is_leaf=lambda size: size is None)
    parts = prefix.flatten_up_to(data)
    keys = [None] * len(sizes) if key is None else jax.random.split(key, len(sizes))
    drawn = [_draw(*one, index) for one in zip(keys, parts, sizes, strict=True)]
    return jax.tree.unflatten(prefix, drawn)


def _draw(key, part, size, index):
    if size is None:
        return take(part, index)
    axes = {jnp.shape(leaf)[1:2] for leaf in jax.tree.leaves(part)}
    if len(axes) != 1 or () in axes:
        raise ValueError(
            "data of which examples are sampled must share a second axis, of examples; "
            f"got second axes {sorted(axes)}."
        )
    ((count,),) = axes
    if size > count:
        raise ValueError(f"{size} of {count} examples cannot be sampled.")
    leading = len(jax.tree.leaves(part)[0] if index is None else index)
    choose = jax.vmap(lambda key: _choose(key, count, size))
    rows = choose(jax.random.split(key, leading))
    if index is None:
        pick = jax.vmap(lambda leaf, row: leaf[row])
    else:
        pick = lambda leaf, rows: leaf[index[:, None], rows]
    return jax.tree.map(lambda leaf: pick(jnp.asarray(leaf), rows), part)


def take(tree: Any, index: chex.Array | None) -> Any:
    """The rows of all leaves; all of them where there is no index."""
    if index is None:
        return jax.tree.map(jnp.asarray, tree)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[index], tree)


def put(tree: Any, index: chex.Array | None, rows: Any, ok: chex.Array) -> Any:
    """Writes rows of all leaves, if they are to be written at all."""
    if index is None:
        return core.where(ok, rows, tree)

    def write(leaf, row):
        nowhere = jnp.full_like(index, len(leaf))
        return leaf.at[jnp.where(ok, index, nowhere)].set(row, mode="drop")

    return jax.tree.map(write, tree, rows)
