"""Separable costs on grids."""

from collections.abc import Sequence

import chex
import jax.numpy as jnp
import numpy as np

from jaxsolve import core
from jaxsolve.transport._geometry import Geometry, applied
from jaxsolve.transport._products import HIGHEST, over, shifted_sum


class GridCost(Geometry):
    r"""The cost between the points of two grids, a sum over their axes.

    :math:`C_{(i_1, \dots), (j_1, \dots)} = \sum_k C^k_{i_k j_k}`, points in row-major
    order. A pass over n points in d dimensions takes :math:`d n^{1 + 1/d}` operations
    instead of :math:`n^2`: transport between images.

    Args:
        costs: one matrix an axis, (n_k, m_k) each, real and finite.

    Raises:
        ValueError: if there is no matrix, or one is empty or not real.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> line = jnp.linspace(0.0, 1.0, 4)
        >>> squares = (line[:, None] - line[None]) ** 2
        >>> transport.GridCost([squares, squares]).shape
        (16, 16)
    """

    costs: tuple[chex.Array, ...]

    def __init__(self, costs: Sequence[chex.Array]):
        costs = tuple(jnp.asarray(c) for c in costs)
        good = costs and all(c.ndim == 2 and 0 not in c.shape for c in costs)
        if not good or not all(jnp.issubdtype(c.dtype, jnp.floating) for c in costs):
            raise ValueError(
                "a grid has one real matrix (n_k, m_k) for each of its axes, got "
                f"shapes {[c.shape for c in costs]}."
            )
        dtype = core.real_dtype(costs)
        self.costs = tuple(c.astype(dtype) for c in costs)

    @property
    def shape(self):
        return tuple(int(np.prod([c.shape[k] for c in self.costs])) for k in (0, 1))

    @property
    def dtype(self):
        return self.costs[0].dtype

    def _sides(self, axis):
        return [c if axis == 1 else c.T for c in self.costs]

    def sums(self, potential, weights, epsilon, axis):
        costs = self._sides(axis)
        grid = [c.shape[1] for c in costs]
        h, w = potential.reshape(grid), weights.reshape(grid)
        for k, cost in enumerate(costs):  # the sum of an axis weighs the next one's
            h, w = jnp.moveaxis(h, k, -1)[..., None, :], jnp.moveaxis(w, k, -1)
            wide = cost.reshape((1,) * (h.ndim - 2) + cost.shape)
            w, shift = shifted_sum(wide, h, w[..., None, :], epsilon, -1)
            h, w = jnp.moveaxis(epsilon * shift, -1, k), jnp.moveaxis(w, -1, k)
        return w.reshape(-1), over(h.reshape(-1), epsilon)

    def apply(self, vector, axis, function=None):
        if function is not None:
            return applied(self.matrix(), vector, axis, function)
        costs = self._sides(axis)
        v = vector.reshape([c.shape[1] for c in costs])
        total = 0
        for k in range(len(costs)):
            term = v
            for i, cost in enumerate(costs):
                used = cost if i == k else jnp.ones_like(cost)
                moved = jnp.moveaxis(term, i, -1)
                summed = jnp.matmul(moved, used.T, precision=HIGHEST)
                term = jnp.moveaxis(summed, -1, i)
            total = total + term
        return total.reshape(-1)

    def scale(self):
        return sum(jnp.mean(c) for c in self.costs)

    def spread(self):
        return jnp.sqrt(sum(jnp.var(c) for c in self.costs))

    def sound(self):
        return jnp.all(jnp.stack([jnp.all(c > -jnp.inf) for c in self.costs]))

    def matrix(self):
        total = jnp.zeros((1, 1), self.dtype)
        for cost in self.costs:
            n, m = total.shape[0] * cost.shape[0], total.shape[1] * cost.shape[1]
            total = (total[:, None, :, None] + cost[None, :, None, :]).reshape(n, m)
        return total
