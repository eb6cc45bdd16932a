"""The inverse of Broyden's matrix, as changes of rank one since it was a number."""

from typing import NamedTuple

import chex
import jax.numpy as jnp

from jaxsolve.fixed_point._equation import HIGHEST, norm

SINGULAR = 0.1  # the least factor by which one change may shrink the determinant


class Secants(NamedTuple):
    """The inverse H = gamma I + sum of outer(out, in); emptied when it is full."""

    count: chex.Array  # (), int32: how many terms there are.
    gamma: chex.Array  # (), real: the inverse slope where nothing is known.
    outs: chex.Array  # (m, n), real.
    ins: chex.Array  # (m, n), real.


def empty(memory: int, x: chex.Array, gamma: chex.Array) -> Secants:
    """The inverse gamma I, with room for `memory` terms on vectors like `x`."""
    rows = jnp.zeros((memory, x.size), x.dtype)
    return Secants(jnp.zeros((), jnp.int32), gamma, rows, rows)


def apply(secants: Secants, v: chex.Array) -> chex.Array:
    """Computes H v: (n,)."""
    return _times(secants, secants.ins, secants.outs, v)


def push(secants: Secants, s, y, learns, fixed: bool) -> Secants:
    """Makes H y = s by a change of rank one, where `learns`, else changes nothing.

    Args:
        secants: the inverse. If it is empty, or full and then emptied, gamma becomes
            the ratio of s to y in length, of the sign of their product.
        s: (n,), real: a change of the point.
        y: (n,), real: the change of F.
        learns: (), bool.
        fixed: whether gamma stays as it is.
    """
    size = secants.ins.shape[0]
    length = s @ s
    learns = learns & (length > 0)
    begins = (secants.count == 0) | (secants.count == size)
    ratio = jnp.sqrt(length) / norm(y)
    ratio = jnp.where(s @ y < 0, -ratio, ratio)
    usable = jnp.isfinite(ratio) & (ratio != 0) & (not fixed)
    old = secants._replace(
        count=jnp.where(begins, 0, secants.count),
        gamma=jnp.where(begins & usable, ratio, secants.gamma),
    )
    image = apply(old, y)
    pull = _times(old, old.outs, old.ins, s)
    factor = s @ image / jnp.where(length > 0, length, 1)
    # That is what the determinant is multiplied by: kept from zero, by moving y
    # towards what the matrix foresees.
    bound = jnp.where(factor < 0, -SINGULAR, SINGULAR)
    weak = jnp.abs(factor) < SINGULAR
    theta = jnp.where(weak, (1 - bound) / jnp.where(weak, 1 - factor, 1), 1)
    image = theta * image + jnp.where(weak, (1 - theta) * s, 0)
    below = s @ image
    out = (s - image) / jnp.where(below != 0, below, 1)
    sound = jnp.all(jnp.isfinite(out)) & jnp.all(jnp.isfinite(pull)) & (below != 0)
    learns = learns & sound
    row = jnp.where(learns, old.count, size)
    return Secants(
        jnp.where(learns, old.count + 1, secants.count),
        jnp.where(learns, old.gamma, secants.gamma),
        secants.outs.at[row].set(out, mode="drop"),
        secants.ins.at[row].set(pull, mode="drop"),
    )


def _times(secants, right, left, v):
    """Adds gamma v and left' (right v), over the terms that there are."""
    weights = jnp.matmul(right, v, precision=HIGHEST)
    there = jnp.arange(weights.size, dtype=jnp.int32) < secants.count
    weights = jnp.where(there, weights, 0)
    return secants.gamma * v + jnp.matmul(weights, left, precision=HIGHEST)
