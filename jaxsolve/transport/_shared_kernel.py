"""A kernel that several measures share, and its products with all of them at once."""

from typing import NamedTuple

import chex
import jax.numpy as jnp

from jaxsolve.transport._geometry import DenseCost, Geometry
from jaxsolve.transport._grid import GridCost
from jaxsolve.transport._products import HIGHEST


class SharedKernel(NamedTuple):
    """The kernel exp((least - C) / epsilon), of which no entry is above one."""

    factors: tuple[chex.Array, ...]  # one matrix for each axis of a grid, (n_k, m_k).
    least: chex.Array  # (), real: the least cost.


def shared_kernel(geometry: Geometry, epsilon: chex.Array) -> SharedKernel | None:
    """The kernel of a cost, by its factors; None where a cost is never stored."""
    if isinstance(geometry, DenseCost):
        costs = (geometry.cost,)
    elif isinstance(geometry, GridCost):
        costs = geometry.costs
    else:
        return None
    factors = tuple(jnp.exp((jnp.min(cost) - cost) / epsilon) for cost in costs)
    return SharedKernel(factors, sum(jnp.min(cost) for cost in costs))


def softmins(
    kernel: SharedKernel,
    potentials: chex.Array,
    weights: chex.Array,
    epsilon: chex.Array,
    axis: int,
) -> tuple[chex.Array, chex.Array]:
    r"""Computes :math:`-\epsilon \log \sum_k w_k \exp((h_k - C_k) / \epsilon)`, by row.

    Args:
        kernel: of the cost :math:`C`.
        potentials: :math:`h`, one row for each measure, over the side that is summed.
        weights: :math:`w`, alike, not negative.
        epsilon: the temperature: (), real.
        axis: 0 sums over the rows of the cost, 1 over its columns.

    Returns:
        One row for each over the other side, and whether no entry has lost digits to
        underflow: (), bool.
    """
    there = weights > 0
    top = jnp.max(jnp.where(there, potentials, -jnp.inf), 1, keepdims=True)
    top = jnp.where(jnp.isfinite(top), top, 0)
    scaled = jnp.exp(jnp.minimum((potentials - top) / epsilon, 0))
    vectors = jnp.where(there, weights * scaled, 0)
    total = products(kernel, vectors, axis)
    # Products below the least normal number are lost: no more than so many an entry.
    info = jnp.finfo(total.dtype)
    lost = 2 * vectors.shape[1] * float(info.tiny)
    safe = total > lost / float(info.eps)
    value = kernel.least - top - epsilon * jnp.log(jnp.where(safe, total, 1))
    return value, jnp.all(safe)


def products(kernel: SharedKernel, vectors: chex.Array, axis: int) -> chex.Array:
    """The products of the kernel, or for axis 0 its transpose, with rows of vectors."""
    sizes = (matrix.shape[axis] for matrix in kernel.factors)
    out = vectors.reshape(-1, *sizes)
    for matrix in kernel.factors:  # an axis of the grid goes, and comes back as last
        out = jnp.tensordot(out, matrix, ((1,), (axis,)), precision=HIGHEST)
    return out.reshape(vectors.shape[0], -1)
