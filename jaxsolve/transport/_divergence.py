"""The Sinkhorn divergence: entropic transport without its bias."""

from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.transport._point_cloud import (
    CostFunction,
    PointCloud,
    squared_euclidean,
)
from jaxsolve.transport._solve import TransportSolution, solve


class SinkhornDivergence(eqx.Module):
    """A divergence, and the three problems that it is made of."""

    value: chex.Array  # (), real.
    between: TransportSolution  # of x and y.
    first: TransportSolution  # of x and itself.
    second: TransportSolution | None  # of y and itself; None if it was left out.

    @property
    def converged(self) -> chex.Array:
        """Whether all three have converged: (), bool."""
        parts = [self.between, self.first]
        parts += [] if self.second is None else [self.second]
        return jnp.all(jnp.stack([part.converged for part in parts]))

    def __repr__(self):
        if isinstance(self.value, jax.core.Tracer) or jnp.shape(self.value) != ():
            return f"SinkhornDivergence(shape={self.between.problem.shape})"
        ended = "converged" if self.converged else "not converged"
        return f"SinkhornDivergence({ended}, value {float(self.value):.6g})"


def sinkhorn_divergence(
    x: chex.Array,
    y: chex.Array,
    a: chex.Array | None = None,
    b: chex.Array | None = None,
    *,
    epsilon: chex.Numeric,
    cost: CostFunction = squared_euclidean,
    block: int | None = None,
    static_second: bool = False,
    **options: Any,
) -> SinkhornDivergence:
    r"""Compares two weighted clouds of points.

    .. math::

        S_\epsilon(a, b) = \mathrm{OT}_\epsilon(a, b) - \tfrac12 \mathrm{OT}_\epsilon(a,
        a) - \tfrac12 \mathrm{OT}_\epsilon(b, b) + \tfrac\epsilon2 (\textstyle\sum a -
        \sum b)^2

    It is zero for equal clouds, positive for others (of a cost such as squared
    distance), and convex in each of both weights. Its derivatives are those of the
    three values by Danskin's theorem, without a linear solve but for second ones.

    Args:
        x: the first points: (n, d), real.
        y: the second points: (m, d).
        a: weights of the first: (n,); uniform by default.
        b: weights of the second: (m,).
        epsilon: the temperature, the same in all three.
        cost: between two points; symmetric.
        block: of `PointCloud`, for large clouds.
        static_second: leaves out the term of (b, b), where y is not to be moved.
        **options: of `solve`: ``tau_a``, ``tau_b``, ``tol``, ``max_steps``.

    Returns:
        A `SinkhornDivergence`.

    Raises:
        ValueError: as `TransportProblem`; if `tau_a` and `tau_b` differ.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> x = jnp.array([[0.0, 0.0], [1.0, 0.0]])
        >>> moved = transport.sinkhorn_divergence(x, x + 1.0, epsilon=0.1)
        >>> print(f"{moved.value:.3f}")
        2.000

    References:
        Feydy, Séjourné, Vialard, Amari, Trouvé and Peyré, `Interpolating between
        Optimal Transport and MMD using Sinkhorn Divergences
        <https://arxiv.org/abs/1810.08278>`_, 2019. Séjourné, Feydy, Vialard, Trouvé and
        Peyré, `Sinkhorn Divergences for Unbalanced Optimal Transport
        <https://arxiv.org/abs/1910.12958>`_, 2019.
    """
    prices = [options.get(name, 1.0) for name in ("tau_a", "tau_b")]
    if prices[0] is not prices[1] and prices[0] != prices[1]:
        raise ValueError("a divergence has one price of mass: give equal tau_a, tau_b.")
    x, y = jnp.asarray(x), jnp.asarray(y)
    dtype = core.real_dtype([x, y])
    if all(jnp.issubdtype(z.dtype, jnp.floating) for z in (x, y)):
        x, y = x.astype(dtype), y.astype(dtype)
    cloud = lambda x, y: PointCloud(x, y, cost=cost, block=block)
    between = solve(cloud(x, y), a, b, epsilon=epsilon, **options)
    first = solve(cloud(x, x), a, a, epsilon=epsilon, **options)
    value = between.dual_value - first.dual_value / 2
    second = None
    if not static_second:
        second = solve(cloud(y, y), b, b, epsilon=epsilon, **options)
        value = value - second.dual_value / 2
    masses = jnp.sum(between.problem.a) - jnp.sum(between.problem.b)
    value = value + between.problem.epsilon / 2 * masses**2
    return SinkhornDivergence(value, between, first, second)
