"""The memory of limited-memory quasi-Newton methods, in compact form."""

from typing import NamedTuple

import chex
import jax.numpy as jnp


class Memory(NamedTuple):
    """The last m changes of the iterate and of the gradient, as a ring.

    Beside them it keeps what makes a product with the inverse Hessian two matrix-vector
    products and no triangular solve: with :math:`R` the upper triangle (in order of
    age) of :math:`S Y^T`, its inverse, and :math:`Y Y^T`. Where there is no pair yet,
    the rows and columns of the inverse are zero, and nothing else in the row counts.
    """

    count: chex.Array  # (), int32: pairs accepted; the next goes to row count % m.
    pairs: chex.Array  # (2, m, n), real: changes of the iterate, and of the gradient.
    sy: chex.Array  # (m,), real: their inner products.
    yy: chex.Array  # (m, m), real: the inner products of the y with each other.
    inverse: chex.Array  # (m, m), real: R^-1.
    gamma: chex.Array  # (), real: scale of the initial inverse Hessian.

    @property
    def s(self) -> chex.Array:
        """The changes of the iterate, in ring order: (m, n)."""
        return self.pairs[0]

    @property
    def y(self) -> chex.Array:
        """The changes of the gradient, in ring order: (m, n)."""
        return self.pairs[1]

    @property
    def rho(self) -> chex.Array:
        """One over the inner products of s and y, zero where there is none: (m,)."""
        there = self.sy > 0
        return jnp.where(there, 1 / jnp.where(there, self.sy, 1), 0)

    def ordered(self) -> tuple[chex.Array, chex.Array, chex.Array]:
        """Returns s, y and rho from the oldest pair to the newest, zeros first."""
        shift = -(self.count % self.sy.size)
        there = (self.sy > 0)[:, None]
        s, y = jnp.where(there, self.s, 0), jnp.where(there, self.y, 0)
        return tuple(jnp.roll(a, shift, axis=0) for a in (s, y, self.rho))


def empty(size: int, x: chex.Array) -> Memory:
    """A memory of `size` pairs of vectors like `x`, with the identity as inverse."""
    zeros = lambda *shape: jnp.zeros(shape, x.dtype)
    return Memory(
        jnp.zeros((), jnp.int32),
        zeros(2, size, x.size),
        zeros(size),
        zeros(size, size),
        zeros(size, size),
        jnp.ones((), x.dtype),
    )


def push_apply(
    memory: Memory, s: chex.Array, y: chex.Array, g: chex.Array
) -> tuple[Memory, chex.Array]:
    """Replaces the oldest pair, and multiplies a vector by the new inverse Hessian.

    The pair itself is left to `write`, so that a solver can write it in place though
    this be one branch of two. A pair without curvature worth keeping leaves its row
    empty: of no effect until the next pair takes it.

    Returns:
        The memory but for its `pairs`, and H g by the compact form of Byrd, Nocedal and
        Schnabel.
    """
    size = memory.sy.size
    fresh = jnp.arange(size, dtype=jnp.int32) == memory.count % size
    # Two matrix-vector products are faster than one product with two columns.
    flat = memory.pairs.reshape(2 * size, -1)
    put = lambda new, old: jnp.where(fresh, new, old)
    dot = lambda u, v: jnp.sum(u * v)  # compiles in half the time of u @ v
    sy, yy = dot(s, y), dot(y, y)
    s_y, y_y = map(put, (sy, yy), (flat @ y).reshape(2, size))
    s_g, y_g = map(put, (dot(s, g), dot(y, g)), (flat @ g).reshape(2, size))
    good = sy > float(jnp.finfo(s.dtype).eps) * jnp.sqrt(dot(s, s) * yy)

    # R^-1 by bordering, the new pair being last in order of age.
    cross = fresh[:, None] | fresh[None, :]
    kept = jnp.where(cross, 0, memory.inverse)
    border = put(good.astype(s.dtype), -(kept @ s_y)) / jnp.where(good, sy, 1)
    inverse = jnp.where(fresh[None, :] & good, border[:, None], kept)
    pairwise = jnp.where(fresh[:, None], y_y[None, :], y_y[:, None])
    memory = Memory(
        memory.count + good.astype(jnp.int32),
        memory.pairs,
        put(jnp.where(good, sy, 0), memory.sy),
        jnp.where(cross, pairwise, memory.yy),
        inverse,
        jnp.where(good, sy / jnp.where(good, yy, 1), memory.gamma),
    )
    a = inverse @ s_g
    b = (memory.sy * a + memory.gamma * (memory.yy @ a - y_g)) @ inverse
    a = -memory.gamma * a
    old = jnp.concatenate([put(0, b), put(0, a)]) @ flat
    new = jnp.sum(jnp.where(fresh, b, 0)) * s + jnp.sum(jnp.where(fresh, a, 0)) * y
    return memory, memory.gamma * g + old + new


def write(
    memory: Memory, where: chex.Array, s: chex.Array, y: chex.Array
) -> chex.Array:
    """Returns the pairs with the row of the next pair written, if `where` holds."""
    size = memory.sy.size
    # Writing at an index out of range is the cheap way not to write.
    row = jnp.where(where, memory.count % size, size)
    return memory.pairs.at[:, row].set(jnp.stack([s, y]), mode="drop")


def cleared(memory: Memory, where: chex.Array) -> Memory:
    """Forgets all pairs where a condition holds; what stays of them has no effect."""
    keep = lambda x, start: jnp.where(where, jnp.asarray(start, x.dtype), x)
    return Memory(
        keep(memory.count, 0),
        memory.pairs,
        keep(memory.sy, 0),
        keep(memory.yy, 0),
        keep(memory.inverse, 0),
        keep(memory.gamma, 1),
    )
