"""Points of a polytope as weights on its vertices, and directions between these."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve.prox import Corners

_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class ActiveSet(NamedTuple):
    """A convex combination: weights, and the vertices where they are not numbered."""

    weights: chex.Array  # (m,), real, at least zero, of sum one.
    atoms: chex.Array | None  # (m, n), real: vertices; free where the weight is zero.


class Exchange(NamedTuple):
    """A direction in the weights."""

    change: chex.Array  # (m,), real: of the weights, for a step of one.
    limit: chex.Array  # (), real: the longest step.
    drop: chex.Array  # (m,), bool: what weighs nothing after that.


def start(x: chex.Array, corners: Corners | None, capacity: int) -> ActiveSet:
    """An empty set for points like `x`: (n,)."""
    if corners is not None:
        return ActiveSet(jnp.zeros((corners.count(x.size),), x.dtype), None)
    atoms = jnp.zeros((capacity, x.size), x.dtype)
    return ActiveSet(jnp.zeros((capacity,), x.dtype), atoms)


def combine(active: ActiveSet, weights: chex.Array, corners: Corners | None):
    """The combination of the vertices with other weights: (n,)."""
    if active.atoms is None:
        return corners.combine(weights)
    return _product(weights, active.atoms)


def insert(active: ActiveSet, vertex, grad, corners):
    """Makes room for a vertex that minimises <grad, .>.

    Where no slot is free, the two lightest atoms are replaced by their mean, which
    leaves the point where it is.

    Returns:
        The set, the products of its vertices with the gradient, (m,), and the index of
        the new one.
    """
    if active.atoms is None:
        scores = corners.scores(grad)
        return active, scores, jnp.argmin(scores)
    weights, atoms = active
    used = weights > 0
    same = used & jnp.all(atoms == vertex[None], axis=1)
    known = jnp.any(same)
    first, second = jnp.argsort(weights)[:2]
    # A free slot is the lightest, and there is nothing to merge.
    merge = used[first] & ~known
    a, b = weights[first], weights[second]
    mean = (a * atoms[first] + b * atoms[second]) / jnp.where(a + b > 0, a + b, 1)
    atoms = atoms.at[second].set(jnp.where(merge, mean, atoms[second]))
    weights = weights.at[second].set(jnp.where(merge, a + b, b))
    weights = weights.at[first].set(jnp.where(merge, 0, weights[first]))
    slot = jnp.where(known, jnp.argmax(same), first)
    atoms = atoms.at[slot].set(vertex)
    return ActiveSet(weights, atoms), _product(atoms, grad), slot


def exchange(weights, scores, enter, pairwise: bool) -> Exchange:
    """Chooses a direction: to the vertex `enter`, away from the worst, or both.

    Args:
        weights: (m,), of the iterate; all zero if it is no combination yet.
        scores: (m,), products of the vertices with the gradient.
        enter: the index of the best vertex.
        pairwise: whether weight goes straight from the worst vertex to the best.
    """
    unit = lambda i: jax.nn.one_hot(i, weights.size, dtype=weights.dtype)
    used = weights > 0
    worst = jnp.argmax(jnp.where(used, scores, -jnp.inf))
    forth, share = unit(enter) - weights, weights[worst]
    if pairwise:
        back, limit = unit(enter) - unit(worst), share
        forward = ~jnp.any(used)
    else:
        back = weights - unit(worst)
        limit = share / jnp.where(share < 1, 1 - share, 1)
        # A lone vertex cannot be left.
        better = _product(forth, scores) <= _product(back, scores)
        forward = better | (share >= 1) | ~jnp.any(used)
    return Exchange(
        change=jnp.where(forward, forth, back),
        limit=jnp.where(forward, 1, limit),
        drop=(unit(worst) > 0) & ~forward,
    )


def move(weights: chex.Array, by: Exchange, gamma: chex.Array) -> chex.Array:
    """The weights after a step, of sum one; at its limit a weight is zero exactly."""
    new = jnp.maximum(weights + gamma * by.change, 0)
    new = jnp.where(by.drop & (gamma >= by.limit), 0, new)
    total = jnp.sum(new)
    return new / jnp.where(total > 0, total, 1)
