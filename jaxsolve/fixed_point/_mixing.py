"""Anderson's mixing: a memory of steps and residuals, and what is made of it.

It knows of vectors only: of a point and of what is to vanish there. So it serves any
iteration whose updates can be seen as a map.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


class Mixing(NamedTuple):
    """The last m changes of the point and of the residual, as a ring."""

    count: chex.Array  # (), int32: changes seen; the next goes to row count % m.
    steps: chex.Array  # (m, n), real: changes of the point, zero where not yet filled.
    bends: chex.Array  # (m, n), real: changes of the residual.
    gram: chex.Array  # (m, m), real: the inner products of the bends.


def empty(memory: int, x: chex.Array) -> Mixing:
    """A memory of `memory` changes of vectors like `x`, none of them filled."""
    rows = jnp.zeros((memory, x.size), x.dtype)
    gram = jnp.zeros((memory, memory), x.dtype)
    return Mixing(jnp.zeros((), jnp.int32), rows, rows, gram)


def push(mixing: Mixing, step: chex.Array, bend: chex.Array) -> Mixing:
    """Replaces the oldest change; the Gram matrix is renewed in one row."""
    row = mixing.count % mixing.gram.shape[0]
    bends = mixing.bends.at[row].set(bend)
    products = jnp.matmul(bends, bend, precision=jax.lax.Precision.HIGHEST)
    return Mixing(
        mixing.count + 1,
        mixing.steps.at[row].set(step),
        bends,
        mixing.gram.at[row].set(products).at[:, row].set(products),
    )


def weights(mixing: Mixing, residual: chex.Array, ridge: float) -> chex.Array:
    r"""The combination of the bends that is nearest to the residual: (m,).

    Minimises :math:`\|f - \sum_i \gamma_i y_i\|^2 + \rho \sum_i \gamma_i^2 \|y_i\|^2`,
    which is the same in any units of the residual and of each bend. Zero where nothing
    is filled; not finite only where what was pushed is not.
    """
    squares = jnp.diagonal(mixing.gram)
    filled = squares > 0
    scale = jnp.where(filled, jax.lax.rsqrt(jnp.where(filled, squares, 1)), 0)
    gram = scale[:, None] * mixing.gram * scale[None, :]
    system = gram + jnp.diag(jnp.where(filled, ridge, 1).astype(gram.dtype))
    right = jnp.matmul(mixing.bends, residual, precision=jax.lax.Precision.HIGHEST)
    return scale * jnp.linalg.solve(system, scale * right)


def mix(
    mixing: Mixing, x: chex.Array, residual: chex.Array, damping, ridge
) -> chex.Array:
    """The next point, from the newest one and its residual."""
    gamma = weights(mixing, residual, ridge)
    plain = x + damping * residual
    return plain - gamma @ (mixing.steps + damping * mixing.bends)


def cleared(mixing: Mixing, where: chex.Array) -> Mixing:
    """Forgets everything where a condition holds."""
    return jax.tree.map(lambda x: jnp.where(where, jnp.zeros_like(x), x), mixing)
