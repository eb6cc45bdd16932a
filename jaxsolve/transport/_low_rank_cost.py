"""Costs that are products of thin matrices."""

import chex
import equinox as eqx
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.transport._geometry import BlockedGeometry
from jaxsolve.transport._point_cloud import PointCloud, squared_euclidean
from jaxsolve.transport._products import HIGHEST


class LowRankCost(BlockedGeometry):
    r"""A cost :math:`C = A B^\top` of rank r, never kept whole.

    Its product with a vector takes r (n + m) operations, which is what low-rank
    Sinkhorn and Gromov-Wasserstein live on; sums of exponentials are taken in blocks.

    Args:
        left_factor: :math:`A`: (n, r), real.
        right_factor: :math:`B`: (m, r).
        block: rows computed at a time.

    Raises:
        ValueError: if these are not real matrices with as many columns.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> transport.LowRankCost(jnp.ones((5, 2)), jnp.ones((4, 2))).matrix()[0, 0]
        Array(2., dtype=float32)
    """

    left_factor: chex.Array
    right_factor: chex.Array
    rows: int = eqx.field(static=True)

    def __init__(
        self, left_factor: chex.Array, right_factor: chex.Array, *, block: int = 256
    ):
        a, b = jnp.asarray(left_factor), jnp.asarray(right_factor)
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or 0 in a.shape:
            raise ValueError(
                f"the factors are (n, r) and (m, r), got shapes {a.shape}, {b.shape}."
            )
        if not all(jnp.issubdtype(z.dtype, jnp.floating) for z in (a, b)):
            raise ValueError(f"factors are floats, got dtypes {a.dtype} and {b.dtype}.")
        dtype = core.real_dtype([a, b])
        self.left_factor, self.right_factor = a.astype(dtype), b.astype(dtype)
        self.rows = block

    @property
    def shape(self):
        return self.left_factor.shape[0], self.right_factor.shape[0]

    @property
    def dtype(self):
        return self.left_factor.dtype

    @property
    def block(self):
        return self.rows

    def left(self):
        return self.left_factor

    def right(self):
        return self.right_factor

    def pairs(self, left, right):
        return jnp.matmul(left, right.T, precision=HIGHEST)

    def pairs_by_columns(self, right, left):
        return self.pairs(right, left)

    def apply(self, vector, axis, function=None):
        if function is not None:
            return super().apply(vector, axis, function)
        kept, summed = self.left_factor, self.right_factor
        if axis == 0:
            kept, summed = summed, kept
        inner = jnp.matmul(vector, summed, precision=HIGHEST)
        return jnp.matmul(kept, inner, precision=HIGHEST)

    def scale(self):
        left, right = (jnp.mean(z, 0) for z in (self.left_factor, self.right_factor))
        return jnp.sum(left * right)


def low_rank(cloud: PointCloud, *, block: int = 256) -> LowRankCost:
    r"""Writes squared Euclidean distances as a cost of rank d + 2.

    Args:
        cloud: points with the cost `squared_euclidean`.
        block: of the result.

    Raises:
        ValueError: if the cost is another.
    """
    if cloud.cost is not squared_euclidean:
        raise ValueError("only squared Euclidean distances are of low rank.")
    centre = jnp.mean(cloud.y, 0, keepdims=True)
    x, y = cloud.x - centre, cloud.y - centre
    square = lambda z: jnp.sum(z**2, 1, keepdims=True)
    one = lambda z: jnp.ones_like(z[:, :1])
    left = jnp.concatenate([square(x), one(x), -2 * x], axis=1)
    right = jnp.concatenate([one(y), square(y), y], axis=1)
    return LowRankCost(left, right, block=block)
