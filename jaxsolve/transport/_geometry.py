"""What transport needs to know of a cost, and costs that are kept as matrices."""

import abc
import functools
from collections.abc import Callable
from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve import core
from jaxsolve.transport._products import (
    HIGHEST,
    StoredKernel,
    kernel_of,
    over,
    shifted_sum,
    softmin_of,
)


class Geometry(eqx.Module):
    r"""A cost between n points and m points.

    The base of `DenseCost`, `PointCloud`, `GridCost` and `LowRankCost`. A geometry of
    your own gives `shape`, `dtype`, `sums`, `apply` and `matrix`; the rest follows.
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """The numbers of points on both sides: n and m."""

    @property
    @abc.abstractmethod
    def dtype(self) -> Any:
        """The real dtype of the cost, and of whatever is computed with it."""

    @abc.abstractmethod
    def sums(
        self,
        potential: chex.Array,
        weights: chex.Array,
        epsilon: chex.Array,
        axis: int,
    ) -> tuple[chex.Array, chex.Array]:
        r"""Computes :math:`\sum_k w_k \exp((h_k - C_k) / \epsilon) = s e^m`.

        Args:
            potential: :math:`h`, over the side that is summed: (n,) for axis 0.
            weights: :math:`w`, of any sign, over the same side.
            epsilon: the temperature: (), real.
            axis: 0 sums over the n points, 1 over the m points.

        Returns:
            :math:`s` and :math:`m`, over the other side.
        """

    @abc.abstractmethod
    def apply(
        self, vector: chex.Array, axis: int, function: Callable | None = None
    ) -> chex.Array:
        r"""Multiplies by the cost: :math:`C v` for axis 1, :math:`C^\top v` for axis 0.

        Infinite costs count as zero.

        Args:
            vector: (m,) for axis 1, (n,) for axis 0.
            axis: the side that is summed.
            function: applied to the cost entry by entry; none by default.

        Returns:
            (n,) for axis 1, (m,) for axis 0.
        """

    def softmin(
        self,
        potential: chex.Array,
        weights: chex.Array,
        epsilon: chex.Array,
        axis: int,
    ) -> chex.Array:
        r"""Computes :math:`-\epsilon \log \sum_k w_k \exp((h_k - C_k) / \epsilon)`.

        As `sums`; infinity where the sum is empty.
        """
        total, shift = self.sums(potential, weights, epsilon, axis)
        return softmin_of(total, shift, epsilon)

    def product(
        self,
        potentials: tuple[chex.Array, chex.Array],
        values: chex.Array,
        epsilon: chex.Array,
        axis: int,
    ) -> chex.Array:
        r"""Multiplies by :math:`\exp((f_i + g_j - C_{ij}) / \epsilon)`.

        Args:
            potentials: :math:`f` and :math:`g`: (n,) and (m,).
            values: (m,) or (m, k) for axis 1, (n,) or (n, k) for axis 0.
            epsilon: the temperature: (), real.
            axis: the side that is summed.

        Returns:
            (n,) or (n, k) for axis 1, (m,) or (m, k) for axis 0.
        """
        kept, summed = potentials if axis == 1 else potentials[::-1]

        def one(vector):
            total, shift = self.sums(summed, vector, epsilon, axis)
            return total * jnp.exp(shift + over(kept, epsilon))

        return one(values) if values.ndim == 1 else jax.vmap(one, 1, 1)(values)

    def kernel(self, f: chex.Array, g: chex.Array, epsilon: chex.Array):
        r"""The matrix :math:`\exp((f_i + g_j - C_{ij}) / \epsilon)` by its products."""
        return LazyKernel(self, f, g, epsilon)

    @abc.abstractmethod
    def matrix(self) -> chex.Array:
        """The cost as a matrix: (n, m)."""

    def scale(self) -> chex.Array:
        """The mean cost over all pairs that are not forbidden: (), real."""
        one = jnp.ones(self.shape[1], self.dtype)
        legal = self.apply(one, 1, jnp.ones_like)
        return jnp.sum(self.apply(one, 1)) / jnp.maximum(jnp.sum(legal), 1)

    def spread(self) -> chex.Array:
        """The standard deviation of the cost over the same pairs: (), real."""
        one = jnp.ones(self.shape[1], self.dtype)
        legal = jnp.maximum(jnp.sum(self.apply(one, 1, jnp.ones_like)), 1)
        mean = jax.lax.stop_gradient(self.scale())
        # In units of the cost, whose square need not be a number.
        unit = jax.lax.stop_gradient(jnp.sum(self.apply(one, 1, jnp.abs)) / legal)
        unit = jnp.where((unit > 0) & jnp.isfinite(unit), unit, 1)
        square = self.apply(one, 1, lambda cost: ((cost - mean) / unit) ** 2)
        return unit * jnp.sqrt(jnp.sum(square) / legal)

    def thinned(self, count: int) -> "Geometry":
        """The cost of about so many points of the rows, or of all, to judge it by."""
        del count
        return self

    def stored(self) -> "Geometry":
        """The same, with the matrix computed where it is to be kept."""
        return self

    def sound(self) -> chex.Array:
        """Whether costs that are stored are numbers or infinite: (), bool."""
        return jnp.ones((), bool)


class LazyKernel(eqx.Module):
    """A kernel whose entries are computed anew for every product."""

    geometry: Geometry
    f: chex.Array  # (n,), real.
    g: chex.Array  # (m,), real.
    epsilon: chex.Array  # (), real.

    def times(self, v: chex.Array) -> chex.Array:
        """The product with what is over the columns: (m,) or (m, k) to (n,), (n, k)."""
        return self.geometry.product((self.f, self.g), v, self.epsilon, 1)

    def transposed(self, u: chex.Array) -> chex.Array:
        """The transpose's, with what is over the rows: to (m,) or (m, k)."""
        return self.geometry.product((self.f, self.g), u, self.epsilon, 0)


class DenseCost(Geometry):
    r"""A cost matrix.

    Args:
        cost: :math:`C`: (n, m), real; infinite where a pair is forbidden.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> transport.DenseCost(jnp.eye(3)).shape
        (3, 3)
    """

    cost: chex.Array

    def __init__(self, cost: chex.Array):
        cost = jnp.asarray(cost)
        if cost.ndim != 2 or 0 in cost.shape:
            raise ValueError(
                f"a cost is a matrix (n, m) that is not empty, got shape {cost.shape}."
            )
        if not jnp.issubdtype(cost.dtype, jnp.floating):
            raise ValueError(f"a cost is real, of floats, got dtype {cost.dtype}.")
        self.cost = cost.astype(core.real_dtype(cost))

    @property
    def shape(self):
        return self.cost.shape

    @property
    def dtype(self):
        return self.cost.dtype

    def sums(self, potential, weights, epsilon, axis):
        potential, weights = (
            jnp.expand_dims(v, 1 - axis) for v in (potential, weights)
        )
        return shifted_sum(self.cost, potential, weights, epsilon, axis)

    def apply(self, vector, axis, function=None):
        return applied(self.cost, vector, axis, function)

    def kernel(self, f, g, epsilon):
        return StoredKernel(kernel_of(self.cost, f[:, None], g[None], epsilon))

    def matrix(self):
        return self.cost

    def thinned(self, count):
        return DenseCost(some_rows(self.cost, count))

    def sound(self):
        return jnp.min(self.cost) > -jnp.inf


def some_rows(x: chex.Array, count: int) -> chex.Array:
    """About so many rows of all, from everywhere but with no period."""
    size = x.shape[0]
    if size <= count:
        return x
    golden = (5**0.5 - 1) / 2
    return x[np.unique((np.arange(count) * golden % 1 * size).astype(np.int32))]


def applied(cost, vector, axis, function):
    """A product with a cost matrix, after a function, forbidden pairs left out."""
    forbidden = cost == jnp.inf
    cost = jnp.where(forbidden, 0, cost)
    if function is not None:
        cost = jnp.where(forbidden, 0, function(cost))
    cost = cost if axis == 1 else cost.T
    return jnp.matmul(cost, vector, precision=HIGHEST)


class BlockedGeometry(Geometry):
    """A cost that is computed in blocks of rows, and never kept whole.

    Gives `left`, `right` and `pairs`: what one point of either side is, and the cost
    between a block of one side and all of the other.
    """

    @abc.abstractmethod
    def left(self) -> chex.ArrayTree:
        """The points of the rows: leaves (n, ...)."""

    @abc.abstractmethod
    def right(self) -> chex.ArrayTree:
        """The points of the columns: leaves (m, ...)."""

    @abc.abstractmethod
    def pairs(self, left: chex.ArrayTree, right: chex.ArrayTree) -> chex.Array:
        """The cost between some points of both sides: a row for each on the left."""

    def pairs_by_columns(
        self, right: chex.ArrayTree, left: chex.ArrayTree
    ) -> chex.Array:
        """The same cost with a row for each point on the right."""
        return self.pairs(left, right).T

    @property
    @abc.abstractmethod
    def block(self) -> int:
        """How many rows are computed at a time."""

    def _kept(self, function, axis, *values):
        """Maps `function(cost, *values)`, of rows of the side kept, over that side.

        Every block takes rows from all over the side, in equal strides: where the side
        is sharded over devices, each of them has its share of every block.
        """
        kept, summed = self.left(), self.right()
        if axis == 0:
            kept, summed = summed, kept
        pairs = self.pairs if axis == 1 else self.pairs_by_columns
        size = self.shape[1 - axis]
        count = -(-size // self.block)
        block = -(-size // count)

        def divided(x):
            short = [(0, count * block - size)] + [(0, 0)] * (x.ndim - 1)
            x = jnp.pad(x, short, mode="edge") if count * block > size else x
            return jnp.moveaxis(x.reshape(block, count, *x.shape[1:]), 1, 0)

        @jax.checkpoint
        def one(rows):
            return function(pairs(rows[0], summed), *rows[1:])

        out = jax.lax.map(one, jax.tree.map(divided, (kept, *values)))
        whole = lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])[:size]
        return jax.tree.map(whole, out)

    # Compiled once, also where they are called eagerly.

    @functools.partial(jax.jit, static_argnames="axis")
    def sums(self, potential, weights, epsilon, axis):
        def function(cost):
            return shifted_sum(cost, potential[None], weights[None], epsilon, 1)

        return self._kept(function, axis)

    @functools.partial(jax.jit, static_argnames="axis")
    def product(self, potentials, values, epsilon, axis):
        kept, summed = potentials if axis == 1 else potentials[::-1]

        def function(cost, kept):
            entries = kernel_of(cost, kept[:, None], summed[None], epsilon)
            if values.ndim == 1:
                return jnp.sum(entries * values[None], 1)
            return jnp.matmul(entries, values, precision=HIGHEST)

        return self._kept(function, axis, kept)

    def apply(self, vector, axis, function=None):
        # What a cache would keep must not hold traced values.
        closed = getattr(function, "__closure__", None) is not None
        one = BlockedGeometry._apply if closed else _apply_once
        return one(self, vector, axis, function)

    def _apply(self, vector, axis, function):
        return self._kept(lambda cost: applied(cost, vector, 1, function), axis)

    @jax.jit
    def spread(self):
        return Geometry.spread(self)

    def matrix(self):
        return self.pairs(self.left(), self.right())


@functools.partial(jax.jit, static_argnums=(2, 3))
def _apply_once(geometry, vector, axis, function):
    return BlockedGeometry._apply(geometry, vector, axis, function)
