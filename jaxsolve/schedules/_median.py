"""A running median."""

import chex
import jax
import jax.numpy as jnp


def running_median(values: chex.Array, width: int) -> chex.Array:
    """The medians of all windows of a sequence, centred; shorter by `width - 1`.

    By a wavelet matrix: the ranks of the values are sorted bit by bit, stably, and each
    window follows its median down. All windows take O(n log n) operations, whatever
    their width.

    Args:
        values: (n,), real.
        width: of a window, odd, at most n.

    Returns:
        (n - width + 1,), real.
    """
    n = values.size
    order = jnp.argsort(values)
    places = jnp.arange(n, dtype=jnp.int32)
    ranks = jnp.zeros(n, jnp.int32).at[order].set(places)
    left = jnp.arange(n - width + 1, dtype=jnp.int32)
    wanted = jnp.full_like(left, width // 2)
    bits = max(n - 1, 1).bit_length()

    def descend(i, carry):
        ranks, left, right, wanted, found = carry
        bit = bits - 1 - i
        high = (ranks >> bit) & 1
        zeros = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(1 - high)])
        below = zeros[right] - zeros[left]  # of the window, with this bit zero
        up = wanted >= below
        into = lambda at: jnp.where(up, zeros[-1] + at - zeros[at], zeros[at])
        target = jnp.where(high == 1, zeros[-1] + places - zeros[:-1], zeros[:-1])
        moved = jnp.zeros_like(ranks).at[target].set(ranks)
        found = found | (up.astype(jnp.int32) << bit)
        return moved, into(left), into(right), wanted - jnp.where(up, below, 0), found

    first = (ranks, left, left + width, wanted, jnp.zeros_like(left))
    found = jax.lax.fori_loop(0, bits, descend, first)[-1]
    return values[order][found]
