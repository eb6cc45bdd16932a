"""The memory of limited-memory quasi-Newton methods, in compact form."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


class Memory(NamedTuple):
    """The last m changes of the iterate and of the gradient, as a ring.

    Beside them it keeps what makes a product with the inverse Hessian three
    matrix-vector products and no triangular solve: with :math:`R` the upper triangle
    (in order of age) of :math:`S Y^T`, its inverse, and :math:`Y Y^T`.
    """

    count: chex.Array  # (), int32: pairs accepted; the next goes to row count % m.
    s: chex.Array  # (m, n), real: changes of the iterate, zero where not yet filled.
    y: chex.Array  # (m, n), real: changes of the gradient.
    sy: chex.Array  # (m,), real: their inner products.
    yy: chex.Array  # (m, m), real: the inner products of the y with each other.
    inverse: chex.Array  # (m, m), real: R^-1.
    gamma: chex.Array  # (), real: scale of the initial inverse Hessian.

    @property
    def rho(self) -> chex.Array:
        """One over the inner products of s and y, zero where not filled: (m,)."""
        filled = self.sy > 0
        return jnp.where(filled, 1 / jnp.where(filled, self.sy, 1), 0)

    def ordered(self) -> tuple[chex.Array, chex.Array, chex.Array]:
        """Returns s, y and rho from the oldest pair to the newest, zeros first."""
        shift = -(self.count % self.sy.size)
        return tuple(jnp.roll(a, shift, axis=0) for a in (self.s, self.y, self.rho))


def empty(size: int, x: chex.Array) -> Memory:
    """A memory of `size` pairs of vectors like `x`, with the identity as inverse."""
    zeros = lambda *shape: jnp.zeros(shape, x.dtype)
    return Memory(
        jnp.zeros((), jnp.int32),
        zeros(size, x.size),
        zeros(size, x.size),
        zeros(size),
        zeros(size, size),
        zeros(size, size),
        jnp.ones((), x.dtype),
    )


def push(memory: Memory, s: chex.Array, y: chex.Array) -> Memory:
    """Replaces the oldest pair, unless the new one has no curvature worth keeping."""
    size = memory.sy.size
    sy, yy = s @ y, y @ y
    eps = float(jnp.finfo(s.dtype).eps)
    good = sy > eps * jnp.sqrt((s @ s) * yy)
    row = memory.count % size
    # Writing at an index out of range is the cheap way not to write.
    at = jnp.where(good, row, size)
    fresh = jnp.arange(size) == row
    put = lambda array, value: array.at[at].set(value, mode="drop")
    new_y = put(memory.y, y)
    products = new_y @ y
    column = jnp.where(fresh, 0, memory.s @ y)
    # R^-1 by bordering; zero rows and columns stand for pairs that are not there.
    kept = jnp.where(fresh[:, None] | fresh[None, :], 0, memory.inverse)
    border = jnp.where(fresh, 1, -(kept @ column)) / jnp.where(good, sy, 1)
    inverse = jnp.where(fresh[None, :], border[:, None], kept)
    cross = fresh[:, None] | fresh[None, :]
    pairwise = jnp.where(fresh[:, None], products[None, :], products[:, None])
    pick = lambda new, old: jnp.where(good, new, old)
    return Memory(
        memory.count + good.astype(jnp.int32),
        put(memory.s, s),
        new_y,
        put(memory.sy, sy),
        pick(jnp.where(cross, pairwise, memory.yy), memory.yy),
        pick(inverse, memory.inverse),
        pick(sy / jnp.where(good, yy, 1), memory.gamma),
    )


def apply(memory: Memory, g: chex.Array) -> chex.Array:
    """Multiplies a vector by the inverse Hessian: Byrd, Nocedal and Schnabel's form."""
    a = memory.inverse @ (memory.s @ g)
    inner = memory.sy * a + memory.gamma * (memory.yy @ a - memory.y @ g)
    b = inner @ memory.inverse
    return memory.gamma * g + b @ memory.s - memory.gamma * (a @ memory.y)


def cleared(memory: Memory, where: chex.Array) -> Memory:
    """Forgets all pairs where a condition holds."""
    return jax.tree.map(
        lambda x, start: jnp.where(where, jnp.asarray(start, x.dtype), x),
        memory,
        Memory(0, 0, 0, 0, 0, 0, 1),
    )
