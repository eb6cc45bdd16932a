"""GMRES as a state: one product with the matrix a step."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.fixed_point._equation import HIGHEST, norm


class Arnoldi(NamedTuple):
    """A Krylov basis, and the QR factors of the matrix in it, by Givens' rotations."""

    column: chex.Array  # (), int32: products taken since the start.
    start: chex.Array  # (), real: norm of the residual that the basis starts from.
    basis: chex.Array  # (m + 1, n), real: orthonormal rows.
    rotation: chex.Array  # (m + 1, m + 1), real: the product of the rotations.
    triangle: chex.Array  # (m, m), real: upper triangular.
    lost: chex.Array  # (), bool: whether a product was not finite.
    closed: chex.Array  # (), bool: whether the basis spans all that is to be had.


class Ended(NamedTuple):
    """Why GMRES may end."""

    enough: chex.Array  # (), bool: the residual is small enough, or cannot be smaller.
    full: chex.Array  # (), bool: the basis is full.
    sound: chex.Array  # (), bool: all products were finite.


def empty(memory: int, x: chex.Array) -> Arnoldi:
    """Room for `memory` products of vectors like `x`."""
    no = jnp.zeros((), bool)
    return Arnoldi(
        column=jnp.zeros((), jnp.int32),
        start=jnp.zeros((), x.dtype),
        basis=jnp.zeros((memory + 1, x.size), x.dtype),
        rotation=jnp.eye(memory + 1, dtype=x.dtype),
        triangle=jnp.zeros((memory, memory), x.dtype),
        lost=no,
        closed=no,
    )


def start(krylov: Arnoldi, residual: chex.Array) -> Arnoldi:
    """Begins anew, from a residual; the rows of old are written over later."""
    size = norm(residual)
    first = residual / jnp.where(size > 0, size, 1)
    return Arnoldi(
        column=jnp.zeros_like(krylov.column),
        start=size,
        basis=krylov.basis.at[0].set(first),
        rotation=jnp.eye(krylov.rotation.shape[0], dtype=first.dtype),
        triangle=jnp.zeros_like(krylov.triangle),
        lost=jnp.zeros_like(krylov.lost),
        closed=jnp.zeros_like(krylov.closed),
    )


def newest(krylov: Arnoldi) -> chex.Array:
    """The vector whose product is asked for: (n,)."""
    return krylov.basis[krylov.column]


def extend(krylov: Arnoldi, product: chex.Array) -> Arnoldi:
    """Takes the product of the newest vector."""
    j = krylov.column
    rows = krylov.basis.shape[0]
    index = jnp.arange(rows, dtype=jnp.int32)
    lost = ~jnp.all(jnp.isfinite(product))
    w = jnp.where(lost, 0, product)
    length = norm(w)
    h = jnp.zeros((rows,), w.dtype)
    for _ in range(2):  # twice is enough
        part = jnp.matmul(krylov.basis, w, precision=HIGHEST)
        part = jnp.where(index <= j, part, 0)
        w = w - jnp.matmul(part, krylov.basis, precision=HIGHEST)
        h = h + part
    size = norm(w)
    closed = size <= 10 * float(jnp.finfo(w.dtype).eps) * length
    size = jnp.where(closed, 0, size)
    h = jnp.where(index == j + 1, size, h)
    h = jnp.matmul(krylov.rotation, h, precision=HIGHEST)
    a, b = h[j], h[j + 1]
    rho = jnp.sqrt(a * a + b * b)
    some = rho > 0
    c = jnp.where(some, a / jnp.where(some, rho, 1), 1)
    s = jnp.where(some, b / jnp.where(some, rho, 1), 0)
    upper, lower = krylov.rotation[j], krylov.rotation[j + 1]
    rotation = krylov.rotation.at[j].set(c * upper + s * lower)
    rotation = rotation.at[j + 1].set(c * lower - s * upper)
    column = jnp.where(index < j, h, jnp.where(index == j, rho, 0))[:-1]
    return Arnoldi(
        column=j + 1,
        start=krylov.start,
        basis=krylov.basis.at[j + 1].set(w / jnp.where(size > 0, size, 1)),
        rotation=rotation,
        triangle=krylov.triangle.at[:, j].set(column),
        lost=lost,
        closed=closed,
    )


def end(krylov: Arnoldi, direction: chex.Array, wanted: chex.Array):
    """What GMRES has found.

    Args:
        krylov: after `extend`.
        direction: (n,), real: what earlier cycles have found.
        wanted: (), real: the norm of the residual that is small enough.

    Returns:
        The direction and its residual -F - J p, where it ends, and why it does.
    """
    m = krylov.triangle.shape[0]
    j = krylov.column
    index = jnp.arange(m + 1, dtype=jnp.int32)
    coordinates = krylov.start * krylov.rotation[:, 0]
    size = jnp.abs(coordinates[j])
    ended = Ended((size <= wanted) | krylov.closed | krylov.lost, j >= m, ~krylov.lost)

    def solve():
        diagonal = jnp.diagonal(krylov.triangle)
        top = jnp.max(jnp.abs(diagonal), initial=0)
        eps = float(jnp.finfo(top.dtype).eps)
        live = (index[:-1] < j) & (jnp.abs(diagonal) > 10 * eps * top)
        system = jnp.where(live[:, None] & live[None, :], krylov.triangle, 0)
        system = system + jnp.diag(jnp.where(live, 0, 1).astype(top.dtype))
        right = jnp.where(live, coordinates[:-1], 0)
        y = jax.scipy.linalg.solve_triangular(system, right)
        p = direction + jnp.matmul(y, krylov.basis[:-1], precision=HIGHEST)
        # What y leaves of the coordinates, rotated back into the basis.
        rest = coordinates - jnp.concatenate(
            [krylov.triangle @ y, jnp.zeros_like(y[:1])]
        )
        rest = jnp.where(index <= j, rest, 0)
        back = jnp.matmul(rest, krylov.rotation, precision=HIGHEST)
        left = jnp.matmul(
            jnp.where(index <= j, back, 0), krylov.basis, precision=HIGHEST
        )
        return p, left

    p, left = jax.lax.cond(
        core.any_lane(ended.enough | ended.full),
        solve,
        lambda: (direction, jnp.zeros_like(direction)),
    )
    return p, left, ended
