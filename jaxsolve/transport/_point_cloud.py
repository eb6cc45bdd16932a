"""Costs between points, and the functions of two points that are costs."""

from collections.abc import Callable

import chex
import equinox as eqx
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.transport._geometry import (
    BlockedGeometry,
    DenseCost,
    Geometry,
    some_rows,
)
from jaxsolve.transport._products import HIGHEST

CostFunction = Callable[[chex.Array, chex.Array], chex.Array]


def squared_euclidean(x: chex.Array, y: chex.Array) -> chex.Array:
    r"""The cost :math:`\|x - y\|_2^2` of two points: (d,) and (d,) to ().

    Distances must have squares: from 1e-18 to 1e18 in float32. Scale points beyond, or
    take `euclidean`.
    """
    return jnp.sum((x - y) ** 2)


def euclidean(x: chex.Array, y: chex.Array) -> chex.Array:
    r"""The cost :math:`\|x - y\|_2`; its derivative where x = y is zero."""
    gap, unit = _in_units(x - y)
    return unit * _root(jnp.sum(gap**2), 2)


@core.memoise
def p_norm(p: float) -> CostFunction:
    r"""The cost :math:`\|x - y\|_p`, with :math:`p \ge 1`."""
    if not p >= 1:
        raise ValueError(f"p must be at least 1, got {p!r}.")

    def cost(x, y):
        gap, unit = _in_units(x - y)
        return unit * _root(jnp.sum(jnp.abs(gap) ** p), p)

    return cost


def cosine(x: chex.Array, y: chex.Array) -> chex.Array:
    r"""The cost :math:`1 - x^\top y / (\|x\| \|y\|)`; one where a point is zero."""
    (x, _), (y, _) = _in_units(x), _in_units(y)
    size = _root(jnp.sum(x**2), 2) * _root(jnp.sum(y**2), 2)
    return 1 - jnp.where(size > 0, jnp.sum(x * y) / jnp.where(size > 0, size, 1), 0)


def _in_units(gap):
    """A vector over its largest entry, lest powers of it are no numbers; and that."""
    unit = jax.lax.stop_gradient(jnp.max(jnp.abs(gap)))
    unit = jnp.where(unit > 0, unit, 1)
    return gap / unit, unit


def _root(total, p):
    there = total > 0
    return jnp.where(there, jnp.where(there, total, 1) ** (1 / p), 0)


class PointCloud(BlockedGeometry):
    r"""The cost between points in space.

    On several devices: shard the rows of `x`, and with them the weights a, over a mesh
    with automatic axes, and leave `y` on every device. Potentials of rows, kernels and
    the blocks of an online cloud are then sharded alike; sums over rows are what
    devices exchange, vectors of m.

    Args:
        x: the points of the rows: (n, d), real.
        y: those of the columns: (m, d); `x` by default.
        cost: a function of two points, (d,) each, such as `squared_euclidean` (the
            default), `euclidean`, `cosine` or ``p_norm(p)``.
        block: *online*: the cost is computed anew whenever it is needed, for so many
            points at a time, so that memory grows with n + m; by default the matrix is
            kept.

    Raises:
        ValueError: if the points are not two arrays of real points in one space.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> line = jnp.arange(3.0)[:, None]
        >>> transport.PointCloud(line).matrix()[0]
        Array([0., 1., 4.], dtype=float32)
    """

    x: chex.Array
    y: chex.Array
    cost: CostFunction = eqx.field(static=True)
    rows: int | None = eqx.field(static=True)

    def __init__(
        self,
        x: chex.Array,
        y: chex.Array | None = None,
        *,
        cost: CostFunction = squared_euclidean,
        block: int | None = None,
    ):
        x = jnp.asarray(x)
        y = x if y is None else jnp.asarray(y)
        shapes = x.ndim == y.ndim == 2 and x.shape[1] == y.shape[1]
        if not shapes or 0 in (*x.shape, *y.shape):
            raise ValueError(
                "points are arrays (n, d) and (m, d) that are not empty, got shapes "
                f"{x.shape} and {y.shape}."
            )
        if not callable(cost) or cost is p_norm:
            raise ValueError(
                "cost must be a function of two points such as "
                f"transport.squared_euclidean or transport.p_norm(1.5), got "
                f"{getattr(cost, '__name__', core.describe(cost))}."
            )
        if block is not None and (not isinstance(block, int) or block < 1):
            raise ValueError(f"block must be a positive integer, got {block!r}.")
        if not all(jnp.issubdtype(z.dtype, jnp.floating) for z in (x, y)):
            raise ValueError(f"points are floats, got dtypes {x.dtype} and {y.dtype}.")
        dtype = core.real_dtype([x, y])
        self.x, self.y = x.astype(dtype), y.astype(dtype)
        self.cost, self.rows = cost, block

    @property
    def shape(self):
        return self.x.shape[0], self.y.shape[0]

    @property
    def dtype(self):
        return self.x.dtype

    @property
    def block(self):
        return self.rows or self.x.shape[0]

    def left(self):
        return self.x

    def right(self):
        return self.y

    def pairs(self, left, right):
        return self._costs(left, right, self.cost)

    def pairs_by_columns(self, right, left):
        return self._costs(right, left, lambda y, x: self.cost(x, y))

    def _costs(self, outer, inner, cost):
        """The cost between all points of one side and all of the other."""
        if self.cost is squared_euclidean:
            # About a common centre, where less of the squares cancels.
            centre = jax.lax.stop_gradient(jnp.mean(self.y, 0, keepdims=True))
            outer, inner = outer - centre, inner - centre
            products = jnp.matmul(outer, inner.T, precision=HIGHEST)
            squares = jnp.sum(outer**2, 1)[:, None] + jnp.sum(inner**2, 1)[None]
            return jnp.maximum(squares - 2 * products, 0)
        return jax.vmap(jax.vmap(cost, (None, 0)), (0, None))(outer, inner)

    def thinned(self, count: int) -> Geometry:
        few = some_rows(self.x, count)
        return PointCloud(few, self.y, cost=self.cost, block=self.rows)

    def stored(self) -> Geometry:
        return DenseCost(self.matrix()) if self.rows is None else self
