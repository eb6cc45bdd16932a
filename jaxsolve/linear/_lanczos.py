"""Lanczos' method, with full reorthogonalisation."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.linear._operator import (
    HIGHEST,
    Operator,
    as_product,
    cast_like,
    check_count,
    inner,
    widened,
)


class Lanczos(NamedTuple):
    """A Krylov basis of a symmetric operator, and its Ritz pairs from the least."""

    rank: chex.Array  # (), int32: vectors of the basis; fewer than m after a breakdown.
    norm: chex.Array  # (), real: of the start.
    basis: chex.ArrayTree  # (m, ...) leaves, real: orthonormal, zero from rank on.
    alpha: chex.Array  # (m,), real: the diagonal of T.
    beta: chex.Array  # (m,), real: beside it; the last goes beyond the basis.
    values: chex.Array  # (m,), real: Ritz values; from rank on the largest again.
    rotation: chex.Array  # (m, m), real: eigenvectors of T in columns, or zero.
    weights: chex.Array  # (m,), real: squares of its first row; they sum to one.
    residuals: chex.Array  # (m,), real: norms of A u - theta u of the Ritz vectors.


def lanczos(
    operator: Operator,
    start: chex.ArrayTree,
    steps: int,
    *,
    tol: chex.Numeric | None = None,
) -> Lanczos:
    r"""Projects a symmetric operator onto a Krylov space, by Lanczos' method.

    From :math:`q_1 = v / \|v\|`, for :math:`j = 1, \dots, m` computes

    .. math::

        w &= A q_j \\
        \alpha_j &= q_j^\top w \\
        w &\leftarrow w - Q_j Q_j^\top w \quad \text{twice} \\
        \beta_j &= \|w\| \\
        q_{j+1} &= w / \beta_j

    and the eigenpairs :math:`T = U \Theta U^\top` of the tridiagonal matrix of
    :math:`\alpha` and :math:`\beta`. The Ritz vectors are the columns of :math:`Q U`,
    with weights :math:`u_{1k}^2` and residuals :math:`\beta_m |u_{mk}|`. Where
    :math:`\beta_j` is nothing but rounding the space is invariant and the Ritz values
    are eigenvalues; all that follows is masked.

    Derivatives are those of an eigendecomposition: not finite where T has multiple
    eigenvalues, as after a breakdown. Those of functions of the operator are better
    taken by :func:`matrix_function` and :func:`trace_of_function`.

    Args:
        operator: :math:`A`, symmetric: a function ``v -> A v`` of trees, a lineax
            operator, or a matrix. It is given trees of the dtypes of `start`; in fewer
            than 32 bits few Ritz values are worth anything.
        start: :math:`v`, a tree; of zeros, it gives a basis of rank zero.
        steps: :math:`m`, products taken and vectors kept.
        tol: the smallest :math:`\beta_j` in units of the largest :math:`\|A q_i\|`;
            the 3/4th power of the machine epsilon by default.

    Returns:
        The decomposition.

    Raises:
        ValueError: if `steps` is below one, or the operator returns other trees.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import linear
        >>> scales = jnp.array([1.0, 4.0, 9.0, 9.0])
        >>> krylov = linear.lanczos(lambda v: scales * v, jnp.ones(4), 4)
        >>> print(krylov.rank, jnp.round(krylov.values, 3))
        3 [1. 4. 9. 9.]

    References:
        Golub and Meurant, `Matrices, Moments and Quadrature with Applications
        <https://doi.org/10.1515/9781400833887>`_, 2010. Chapter 4.
    """
    check_count("steps", steps)
    product, like = as_product(operator, start)
    dtype = core.real_dtype(start)
    tol = float(jnp.finfo(dtype).eps) ** 0.75 if tol is None else tol
    floor = jnp.asarray(tol, dtype)

    def advance(carry, j):
        basis, q, alive, scale = carry
        basis = jax.tree.map(lambda rows, x: rows.at[j].set(x), basis, q)
        w = widened(product(cast_like(q, like)))
        w = jax.tree.map(lambda x: jnp.where(alive, x, 0), w)
        scale = jnp.maximum(scale, _norm(w))
        alpha = inner(q, w)
        for _ in range(2):  # once leaves copies of the outer eigenvalues in float32
            w = jax.tree.map(jnp.subtract, w, combine(basis, _coefficients(basis, w)))
        beta = _norm(w)
        # A number that is not one goes on, to be seen.
        going = alive & ~(beta <= floor * scale)
        beta = jnp.where(going, beta, 0)
        q = _unit(w, beta, going)
        return (basis, q, going, scale), (alpha, beta, alive)

    wide = widened(start)
    norm = _norm(wide)
    alive = ~(norm <= 0)
    rows = jax.tree.map(lambda x: jnp.zeros((steps, *x.shape), x.dtype), wide)
    carry = rows, _unit(wide, norm, alive), alive, jnp.zeros((), dtype)
    index = jnp.arange(steps, dtype=jnp.int32)
    (basis, *_), (alpha, beta, alive) = jax.lax.scan(advance, carry, index)
    rank = jnp.sum(alive, dtype=jnp.int32)
    values, rotation = _eigh(alpha, beta, rank)
    weights, residuals = rotation[0] ** 2, beta[-1] * jnp.abs(rotation[-1])
    return Lanczos(rank, norm, basis, alpha, beta, values, rotation, weights, residuals)


def ritz_vectors(krylov: Lanczos) -> chex.ArrayTree:
    """Returns the Ritz vectors of a decomposition, from the least Ritz value.

    Returns:
        A tree with leaves (m, ...), orthonormal; zero from the rank on.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import linear
        >>> krylov = linear.lanczos(jnp.diag(jnp.array([1.0, 4.0])), jnp.ones(2), 2)
        >>> print(jnp.round(jnp.abs(linear.ritz_vectors(krylov)), 3))
        [[1. 0.]
         [0. 1.]]
    """
    return combine(krylov.basis, krylov.rotation)


def function_times_start(krylov: Lanczos, values: chex.Array) -> chex.ArrayTree:
    """Returns f(A) v of the start v, from the values f(theta) at the Ritz values."""
    values = jnp.where(_counted(krylov), values, 0)
    part = values * krylov.rotation[0] * krylov.norm
    return combine(krylov.basis, jnp.matmul(krylov.rotation, part, precision=HIGHEST))


def quadrature(krylov: Lanczos, values: chex.Array) -> chex.Array:
    """Returns v' f(A) v of the start v, from the values f(theta)."""
    values = jnp.where(_counted(krylov), values, 0)
    return krylov.norm * (krylov.norm * jnp.sum(krylov.weights * values))


def combine(basis: chex.ArrayTree, numbers: chex.Array) -> chex.ArrayTree:
    """Combines the vectors of a basis by numbers (m,), or by the columns of (m, k)."""

    def leaf(rows):
        factors = numbers.astype(rows.dtype).T
        return jnp.tensordot(factors, rows, axes=1, precision=HIGHEST)

    return jax.tree.map(leaf, basis)


def _coefficients(basis, w):
    dtype = core.real_dtype(w)

    def leaf(rows, x):
        dots = jnp.tensordot(rows, x, axes=x.ndim, precision=HIGHEST)
        return dots.astype(dtype)

    terms = jax.tree.leaves(jax.tree.map(leaf, basis, w))
    return sum(terms) if terms else jnp.zeros((), dtype)


def _norm(tree):
    """The norm, also of entries whose squares leave the range; NaN if it does."""
    if not jax.tree.leaves(tree):
        return core.real_scalar(0, tree)
    peak = jax.lax.stop_gradient(core.sup_norm(tree))
    tiny = float(
        jnp.finfo(peak.dtype).tiny
    )  # what is less than that is flushed to zero
    peak = jnp.clip(peak, tiny, 1 / tiny)
    relative = jax.tree.map(lambda x: x / peak.astype(x.dtype), tree)
    square = inner(relative, relative)
    positive = square > 0
    root = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), square)
    return jnp.where(peak * root <= 1 / tiny, peak * root, jnp.nan)


def _unit(tree, size, alive):
    size = jnp.where(alive, size, 1)
    return jax.tree.map(lambda x: jnp.where(alive, x / size.astype(x.dtype), 0), tree)


def _counted(krylov):
    return jnp.arange(krylov.values.size, dtype=jnp.int32) < krylov.rank


def _eigh(alpha, beta, rank):
    """The eigenpairs of T; what is masked is put beyond the others, to be last."""
    index = jnp.arange(alpha.size, dtype=jnp.int32)
    counted = index < rank
    bound = jnp.max(jnp.abs(alpha) + 2 * jnp.max(beta))
    beyond = jnp.where(bound > 0, 2 * bound, 1)
    diagonal = jnp.where(counted, alpha, beyond)
    beside = beta[:-1]
    matrix = jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)
    values, rotation = jnp.linalg.eigh(matrix)
    largest = jnp.where(rank > 0, values[jnp.maximum(rank - 1, 0)], 0)
    values = jnp.where(counted, values, largest)
    return values, jnp.where(counted[None, :], rotation, 0)
