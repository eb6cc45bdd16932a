"""The memory of limited-memory quasi-Newton methods, in compact form."""

from typing import NamedTuple

import chex
import jax.numpy as jnp


class Memory(NamedTuple):
    """The last m changes of the iterate and of the gradient, as a ring.

    Beside them it keeps the inverse of :math:`R`, the upper triangle (in order of age)
    of :math:`S Y^T`, so that a product with the inverse Hessian takes a few
    matrix-vector products, no loop and no triangular solve. Where there is no pair yet,
    its row and column are zero, and nothing else in the row counts.
    """

    count: chex.Array  # (), int32: pairs accepted; the next goes to row count % m.
    s: chex.Array  # (m, n), real: changes of the iterate.
    y: chex.Array  # (m, n), real: changes of the gradient.
    sy: chex.Array  # (m,), real: their inner products, zero where there is no pair.
    inverse: chex.Array  # (m, m), real: R^-1.
    gamma: chex.Array  # (), real: scale of the initial inverse Hessian.

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
        zeros(size, x.size),
        zeros(size, x.size),
        zeros(size),
        zeros(size, size),
        jnp.ones((), x.dtype),
    )


def write(memory: Memory, where: chex.Array, s: chex.Array, y: chex.Array) -> Memory:
    """Writes a pair into the row of the oldest, if `where` holds; `push` must follow.

    The two are apart so that a solver can write in place outside of a branch.
    """
    size = memory.sy.size
    # Writing at an index out of range is the cheap way not to write.
    row = jnp.where(where, memory.count % size, size)
    return memory._replace(
        s=memory.s.at[row].set(s, mode="drop"), y=memory.y.at[row].set(y, mode="drop")
    )


def push(memory: Memory, s: chex.Array, y: chex.Array, forget: chex.Array) -> Memory:
    """Takes up the pair just written, in place of the oldest, or forgets all pairs.

    A pair without curvature worth keeping leaves its row empty: of no effect until the
    next pair takes it.
    """
    size = memory.sy.size
    fresh = jnp.arange(size, dtype=jnp.int32) == memory.count % size
    dot = lambda u, v: jnp.sum(u * v)  # compiles in half the time of u @ v
    sy, yy = dot(s, y), dot(y, y)
    eps = float(jnp.finfo(s.dtype).eps)
    good = ~forget & (sy > eps * jnp.sqrt(dot(s, s) * yy))
    divisor = jnp.where(good, sy, 1)
    # R^-1 by bordering, the new pair being last in order of age.
    stale = fresh | forget
    kept = jnp.where(stale[:, None] | stale[None, :], 0, memory.inverse)
    border = jnp.where(fresh, 1, -(kept @ (memory.s @ y))) / divisor
    return memory._replace(
        count=jnp.where(forget, 0, memory.count + good.astype(jnp.int32)),
        sy=jnp.where(fresh & good, sy, jnp.where(stale, 0, memory.sy)),
        inverse=jnp.where(fresh[None, :] & good, border[:, None], kept),
        gamma=jnp.where(
            good, sy / jnp.where(good, yy, 1), jnp.where(forget, 1, memory.gamma)
        ),
    )


def apply(memory: Memory, g: chex.Array) -> chex.Array:
    """Multiplies a vector by the inverse Hessian: the two-loop recursion at once.

    With a = R^-1 S g and q = g - Y' a it is gamma q + S' R^-T (D a - gamma Y q).
    """
    a = memory.inverse @ (memory.s @ g)
    q = g - a @ memory.y
    b = (memory.sy * a - memory.gamma * (memory.y @ q)) @ memory.inverse
    return memory.gamma * q + b @ memory.s
