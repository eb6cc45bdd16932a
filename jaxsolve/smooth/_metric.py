"""Shifted solves with a curvature, in the coordinates of a metric.

A metric B = C C' makes the coordinates y = C' x, in which it is the identity, the
gradient is C^-1 g, and a curvature H is C^-1 H C^-T.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from jaxsolve import core
from jaxsolve.smooth._curvature import Diagonal, Rows

_HIGHEST = jax.lax.Precision.HIGHEST


class Modes(NamedTuple):
    """Eigenvalues and vectors of a curvature; beyond the vectors it is zero."""

    values: chex.Array  # (k,), real.
    vectors: chex.Array | None  # (n, k), real: in columns; None for the unit vectors.


def halve(metric: chex.Array | Callable | None, x: chex.Array, data: core.Data):
    """What `to_dual` and the like read: C, lower triangular, or 1 / C, a diagonal.

    To multiply by an inverse rounds alike whether or not it is known while compiling.

    Raises:
        ValueError: if the metric has no shape of one.
    """
    if metric is None:
        return None
    given = metric(data) if callable(metric) else metric
    matrix = jnp.asarray(given).astype(x.dtype)
    if matrix.shape == (x.size,):
        return 1 / jnp.sqrt(matrix)
    if matrix.shape == (x.size, x.size):
        return jnp.linalg.cholesky(matrix)
    raise ValueError(
        f"the metric must have the shape ({x.size},) or ({x.size}, {x.size}) for "
        f"{x.size} unknowns, got {matrix.shape}."
    )


def to_dual(half: chex.Array | None, grad: chex.Array) -> chex.Array:
    """A gradient in the coordinates of the metric: C^-1 g. Also of columns."""
    if half is None:
        return grad
    if half.ndim == 2:
        return solve_triangular(half, grad, lower=True)
    return grad * (half if grad.ndim == 1 else half[:, None])


def from_dual(half: chex.Array | None, step: chex.Array) -> chex.Array:
    """A step in the coordinates of the unknowns: C^-T s."""
    if half is None:
        return step
    if half.ndim == 1:
        return step * half
    return solve_triangular(half, step, lower=True, trans=1)


def to_metric(half: chex.Array | None, step: chex.Array) -> chex.Array:
    """A step in the coordinates of the metric: C' s."""
    if half is None:
        return step
    return step / half if half.ndim == 1 else step @ half


def modes(curvature: chex.Array | Rows | Diagonal, half: chex.Array | None) -> Modes:
    """Decomposes a curvature; one that is not finite counts as zero."""
    curvature = core.where(
        core.all_finite(curvature), curvature, jax.tree.map(jnp.zeros_like, curvature)
    )
    if isinstance(curvature, Diagonal):
        entries = curvature.entries
        if half is None or half.ndim == 1:
            return Modes(entries if half is None else entries * half**2, None)
        curvature = jnp.diag(entries)
    if isinstance(curvature, Rows):
        columns = to_dual(half, curvature.rows.T)
        n, m = columns.shape
        if m < n:
            return _few(columns)
        matrix = columns @ columns.T
    else:
        matrix = to_dual(half, to_dual(half, curvature).T)
    return Modes(*jnp.linalg.eigh((matrix + matrix.T) / 2))


def _few(columns):
    """The modes of `columns @ columns.T` for fewer columns than rows."""
    gram = jnp.matmul(columns.T, columns, precision=_HIGHEST)
    images = jnp.matmul(columns, jnp.linalg.eigh(gram)[1], precision=_HIGHEST)
    values = jnp.sum(images**2, axis=0)  # small ones are lost in those of the product
    seen = values > _rounding(values) * jnp.max(values, initial=0)
    lengths = jnp.sqrt(jnp.where(seen, values, 1))
    vectors = jnp.where(seen[None, :], images / lengths[None, :], 0)
    return Modes(jnp.where(seen, values, 0), vectors)


def _rounding(values):
    """Of eigenvalues, relative to the largest; a sum over unknowns adds little."""
    return max(values.size, 10) * float(jnp.finfo(values.dtype).eps)


def shifted(modes: Modes, shift: chex.Array, grad: chex.Array) -> chex.Array:
    """Solves `(H + shift) s = -grad`; zero along what is not positive then."""
    values, vectors = modes
    divisor = values + shift
    inverse = jnp.where(divisor > 0, 1 / jnp.where(divisor > 0, divisor, 1), 0)
    if vectors is None:
        return -grad * inverse
    along = grad @ vectors
    step = -(vectors @ (along * inverse))
    if vectors.shape[1] == grad.size:
        return step
    rest = grad - vectors @ along
    return step - jnp.where(shift > 0, rest / jnp.where(shift > 0, shift, 1), 0)


def flat_part(modes: Modes, step: chex.Array) -> chex.Array:
    """What of a step lies where the curvature is not positive beyond rounding."""
    values, vectors = modes
    if vectors is None:
        return jnp.where(values <= 0, step, 0)
    flat = values <= _rounding(values) * jnp.max(jnp.abs(values), initial=0)
    if vectors.shape[1] == step.size:
        return vectors @ jnp.where(flat, step @ vectors, 0)
    return step - vectors @ jnp.where(flat, 0, step @ vectors)
