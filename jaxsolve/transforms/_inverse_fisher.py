"""The inverse of an empirical Fisher matrix, without the matrix."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve import core

HIGHEST = jax.lax.Precision.HIGHEST


class InverseFisher(eqx.Module):
    r"""The inverse of a damped empirical Fisher matrix, block by block.

    With the Cholesky factor :math:`C C^\top = m \lambda I + G G^\top` of a block and
    :math:`W = C^{-1} G` it is

    .. math::

        F^{-1} = \tfrac{1}{\lambda} (I - W^\top W)

    whose products cost :math:`O(m d)`, whose entries :math:`O(m)`. It is symmetric, and
    its products are linear: ``core.implicit(linear_solve=lambda mv, rhs:
    inverse.product(rhs))`` makes it the solve behind an implicit derivative, exact
    where the Fisher matrix is the Hessian.

    Attributes:
        whitened: (blocks, m, size): W of each block, the last one padded with zeros.
        least: like one gradient: :math:`1 / F_{kk}`, at least which the diagonal is.
        damping: (), real: :math:`\lambda`.
    """

    whitened: chex.Array
    least: chex.ArrayTree
    damping: chex.Array

    def product(self, vector: chex.ArrayTree) -> chex.ArrayTree:
        r"""Multiplies :math:`F^{-1}` by a vector.

        Args:
            vector: like params, or flat: (d,).

        Returns:
            The product, like `vector`.

        Raises:
            ValueError: if `vector` has not d entries.
        """
        flat, unravel = core.ravel(vector)
        x = self._split(flat.astype(self.whitened.dtype))
        inner = jnp.einsum("bmk,bk->bm", self.whitened, x, precision=HIGHEST)
        back = jnp.einsum("bmk,bm->bk", self.whitened, inner, precision=HIGHEST)
        return unravel(self._join((x - back) / self.damping).astype(flat.dtype))

    def diagonal(self) -> chex.ArrayTree:
        r"""Computes the diagonal of :math:`F^{-1}`.

        Returns:
            A tree like params, positive even where rounding leaves no digit of it.
        """
        least, unravel = core.ravel(self.least)
        rest = (1 - jnp.sum(self.whitened**2, 1)) / self.damping
        return unravel(jnp.maximum(self._join(rest).astype(least.dtype), least))

    def entries(self, rows: chex.Array, columns: chex.Array) -> chex.Array:
        r"""Computes single entries of :math:`F^{-1}`.

        Args:
            rows: of the entries, integers that count through flattened params;
                negative ones from their end.
            columns: likewise; the two broadcast.

        Returns:
            The entries; zero where row and column lie in different blocks, and not a
            number for a traced index that is out of range.

        Raises:
            ValueError: if an index is no integer, or out of range where it is known.
        """
        k, n = self._index("rows", rows), self._index("columns", columns)
        k, n = jnp.broadcast_arrays(k, n)
        size = self.whitened.shape[2]
        of = lambda i: self.whitened[i // size, :, i % size]
        inner = jnp.sum(of(k) * of(n), -1)
        unit = (k == n).astype(inner.dtype)
        entries = jnp.where(k // size == n // size, unit - inner, 0) / self.damping
        within = lambda i: (0 <= i) & (i < self._count())
        return jnp.where(within(k) & within(n), entries, jnp.nan)

    def _index(self, name, index):
        count, known = self._count(), core.is_concrete(index)
        index = np.asarray(index) if known else index
        if not jnp.issubdtype(index.dtype, jnp.integer):
            raise ValueError(f"{name} must be integers, got {index.dtype}.")
        if known and not np.all((-count <= index) & (index < count)):
            raise ValueError(
                f"{name} must lie between {-count} and {count - 1}, got {index}."
            )
        index = jnp.asarray(index)
        return jnp.where(index < 0, index + count, index)

    def _split(self, x):
        blocks, _, size = self.whitened.shape
        if x.size != self._count():
            raise ValueError(
                f"a vector of {self._count()} entries is wanted, as many as the "
                f"gradients have, got {x.size}."
            )
        return jnp.pad(x, (0, blocks * size - x.size)).reshape(blocks, size)

    def _join(self, x):
        return x.reshape(-1)[: self._count()]

    def _count(self):
        return sum(x.size for x in jax.tree.leaves(self.least))


def inverse_fisher(
    gradients: chex.ArrayTree,
    damping: chex.Numeric = 1e-5,
    *,
    block_size: int | None = None,
) -> InverseFisher:
    r"""Makes the inverse of the empirical Fisher matrix of some gradients.

    Of the rows :math:`g_1, \dots, g_m` of :math:`G` it inverts

    .. math::

        F = \lambda I + \tfrac{1}{m} \sum_{i=1}^m g_i g_i^\top

    by one Cholesky factor of :math:`m \lambda I + G G^\top`, for :math:`O(d m^2)` time
    and :math:`O(d m)` memory: the static algorithm of M-FAC, whose recursion computes
    the same rows up to their lengths. A relative :math:`16 m` roundings are added to
    the diagonal of :math:`G G^\top`, without which a factor may not exist in float32: a
    curvature above :math:`5 \cdot 10^5 \lambda` counts as that there.

    Args:
        gradients: a tree like params with a leading axis of size m. As an approximation
            of a Hessian they are gradients of the loss on minibatches, at one point.
        damping: :math:`\lambda > 0`. In float32 a relative error of
            :math:`10^{-7} \|F\| / \lambda` is to be expected.
        block_size: split the flattened params into blocks of this many entries, and
            neglect what lies between blocks; one block by default. Time and memory stay
            the same, but small blocks see more of the curvature.

    Returns:
        The inverse, an equinox module with ``product``, ``diagonal`` and ``entries``.

    Raises:
        ValueError: if there are no gradients, they differ in number between leaves, the
            damping is not positive, or the block size not a positive integer.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> gradients = jnp.array([[2.0, 0.0], [0.0, 0.0]])
        >>> inverse = transforms.inverse_fisher(gradients, damping=0.5)
        >>> product = inverse.product(jnp.array([5.0, 1.0]))  # F = diag(2.5, 0.5)
        >>> print(jnp.round(product, 3))
        [2. 2.]

    References:
        Frantar, Kurtic and Alistarh, `M-FAC: Efficient Matrix-Free Approximations of
        Second-Order Information <https://arxiv.org/abs/2107.03356>`_, 2021. Section 3.
    """
    core.check_number("damping", damping)
    count = _leading(gradients)
    whole = isinstance(block_size, int) and not isinstance(block_size, bool)
    if block_size is not None and (not whole or block_size < 1):
        raise ValueError(f"block_size must be a positive integer, got {block_size!r}.")
    matrix = jax.vmap(lambda g: core.ravel(g)[0])(gradients)
    damping = jnp.asarray(damping, matrix.dtype)
    size = max(1, min(block_size or matrix.shape[1], matrix.shape[1]))
    blocks = -(-matrix.shape[1] // size)
    padded = jnp.pad(matrix, ((0, 0), (0, blocks * size - matrix.shape[1])))
    split = jnp.moveaxis(padded.reshape(count, blocks, size), 1, 0)

    def whiten(block):
        factor = damped_factor(jnp.matmul(block, block.T, precision=HIGHEST), damping)
        return jax.scipy.linalg.solve_triangular(factor, block, lower=True)

    def least(g):
        wide = g.astype(core.real_dtype(g))
        return 1 / (damping.astype(wide.dtype) + jnp.mean(wide**2, 0))

    return InverseFisher(
        jax.vmap(whiten)(split), jax.tree.map(least, gradients), damping
    )


def damped_factor(products: chex.Array, damping: chex.Numeric) -> chex.Array:
    """The lower Cholesky factor of m lambda I + S, with a ridge at its rounding."""
    count, dtype = len(products), products.dtype
    ridge = 16 * count * float(jnp.finfo(dtype).eps) * jnp.diagonal(products)
    damped = count * jnp.asarray(damping, dtype) + ridge
    return jnp.linalg.cholesky(products + jnp.diag(damped))


def _leading(gradients):
    counts = {np.shape(g)[:1] for g in jax.tree.leaves(gradients)}
    if len(counts) != 1 or counts <= {(), (0,)}:
        raise ValueError(
            "gradients must be a tree like params with one leading axis more, of one "
            "size for all leaves and at least one, got shapes "
            f"{jax.tree.map(np.shape, gradients)}."
        )
    return counts.pop()[0]
