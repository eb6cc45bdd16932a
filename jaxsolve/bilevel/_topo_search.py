"""One search of TOPO: which swaps to try, what they gain, which to make."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve import core


class Swaps(NamedTuple):
    """Pairs of places in the order, in batches, each as large as a small search."""

    early: chex.Array  # (batches, size), integers: the place of j.
    late: chex.Array  # (batches, size), integers: the place of i, after that of j.
    wanted: chex.Array  # (batches, size), bool: whether this search evaluates it.


def fit_of(scores, state, data, order):
    """The fit in an order, in the dtype of the state: values, weights."""
    values, weights = scores.fit(data, order)
    dtype = state.weights.dtype
    return jnp.asarray(values, dtype), jnp.asarray(weights, dtype)


def candidates(scores, acyclicity, min_slope, sizes, state, data) -> Swaps:
    """The swaps that close the fewest walks: a batch of a small search, then the rest.

    `sizes` are those of a small and of a large search.
    """
    order = state.order
    early, late = np.triu_indices(order.shape[0], 1)
    small, large = (min(size, early.size) for size in sizes)
    closed = _walks(acyclicity, state.weights, order)[late, early]
    slope = jnp.ones_like(closed)
    if scores.slope is not None:
        slope = jnp.asarray(scores.slope(data, state.weights), closed.dtype)
        slope = jnp.abs(slope[order[late], order[early]])
    index = jnp.arange(early.size, dtype=jnp.int32)
    _, _, best = jax.lax.sort((closed, -slope, index), num_keys=2)
    batches = -(-large // small)
    best = jnp.pad(best[:large], (0, batches * small - large))
    rank = np.arange(batches * small)
    wanted = jnp.where(state.large, rank >= small, rank < small) & (rank < large)
    wanted = wanted & (slope[best] > jnp.asarray(min_slope, slope.dtype))
    swaps = Swaps(jnp.asarray(early)[best], jnp.asarray(late)[best], wanted)
    return jax.tree.map(lambda x: x.reshape(batches, small), swaps)


def _walks(acyclicity, weights: chex.Array, order: chex.Array) -> chex.Array:
    """The gradient of h at the absolute weights, rows and columns in the order.

    In the order the matrix is triangular, so that what is zero is exactly zero. What is
    too large for the dtype becomes its largest number.
    """
    sorted_weights = jnp.abs(weights)[order[:, None], order[None, :]]
    walked = jax.grad(acyclicity)(sorted_weights)
    top = jnp.finfo(walked.dtype).max
    return jnp.where(walked <= top, walked, top)


def gains_of(scores, swaps, state, data):
    """By how much each swap improves the score, zero if not: (batches, size)."""
    # Rounding must not look like progress, or swaps would go in circles.
    margin = 100 * jnp.finfo(state.values.dtype).eps * jnp.sum(jnp.abs(state.values))

    def gain(early, late, wanted):
        order = _swap(state.order, early, late)
        values, _ = fit_of(scores, state, data, order)
        # Only these nodes have other predecessors than before.
        touched = _between(order, early, late)
        gain = jnp.sum(jnp.where(touched, state.values[order] - values[order], 0))
        return jnp.where(wanted & (gain > margin), gain, 0)

    def batch(_, swaps):
        evaluate = lambda: jax.vmap(gain)(*swaps)
        skip = lambda: jnp.zeros(swaps.wanted.shape, state.values.dtype)
        needed = core.any_lane(jnp.any(swaps.wanted))
        return None, jax.lax.cond(needed, evaluate, skip)

    return jax.lax.scan(batch, None, swaps)[1]


def apply(order, swaps, gains, first):
    """The order after the improving swaps that are apart from all better ones."""
    early, late, _ = jax.tree.map(jnp.ravel, swaps)
    gains = gains.ravel()
    if first:
        is_first = jnp.arange(gains.size) == jnp.argmax(gains > 0)
        gains = jnp.where(is_first, gains, 0)
    ranking = jnp.argsort(-gains)

    def one(k, carry):
        order, taken = carry
        p, q = early[ranking[k]], late[ranking[k]]
        interval = _between(order, p, q)
        free = ~jnp.any(taken & interval)
        return jnp.where(free, _swap(order, p, q), order), taken | (interval & free)

    carry = order, jnp.zeros(order.shape, bool)
    return jax.lax.fori_loop(0, jnp.sum(gains > 0), one, carry)[0]


def _swap(order, early, late):
    return order.at[early].set(order[late]).at[late].set(order[early])


def _between(order, early, late):
    """Which places lie in an interval: (d,), bool."""
    places = np.arange(order.shape[0])
    return (places >= early) & (places <= late)
