"""Thin matrices: their products with a cost, and their sums made right."""

import chex
import jax
import jax.numpy as jnp

from jaxsolve.transport._geometry import Geometry


def cost_products(geometry: Geometry, matrix: chex.Array, axis: int) -> chex.Array:
    """Multiplies the cost, for axis 0 its transpose, by the columns of a matrix."""
    one = lambda column: geometry.apply(column, axis)
    return jax.vmap(one, 1, 1)(matrix)


def rounded(matrix: chex.Array, rows: chex.Array, columns: chex.Array) -> chex.Array:
    """The matrix with those sums that a matrix nearly of those sums is rounded to.

    Entries stay non-negative. See Altschuler, Weed and Rigollet, `Near-linear time
    approximation algorithms for optimal transport via Sinkhorn iteration
    <https://arxiv.org/abs/1705.09634>`_, 2017, Algorithm 2.
    """

    def shrunk(sums, wanted):
        return jnp.minimum(1, wanted / jnp.where(sums > 0, sums, 1))

    matrix = matrix * shrunk(jnp.sum(matrix, 1), rows)[:, None]
    matrix = matrix * shrunk(jnp.sum(matrix, 0), columns)[None]
    row = jnp.maximum(rows - jnp.sum(matrix, 1), 0)
    column = jnp.maximum(columns - jnp.sum(matrix, 0), 0)
    total = jnp.sum(column)
    return matrix + row[:, None] * (column / jnp.where(total > 0, total, 1))[None]
