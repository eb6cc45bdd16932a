"""Plans of low rank: three thin arrays in place of a matrix."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.transport._geometry import Geometry
from jaxsolve.transport._matrices import cost_products, rounded
from jaxsolve.transport._problem import TransportProblem, as_geometry
from jaxsolve.transport._products import HIGHEST


class LowRankPlan(NamedTuple):
    r"""A plan :math:`P = Q \, \mathrm{diag}(1 / g) \, R^\top` of rank r.

    Rows of Q sum to a, those of R to b, and the columns of both to g, so that P has the
    marginals a and b.
    """

    q: chex.Array  # (n, r), real, not negative.
    r: chex.Array  # (m, r), real, not negative.
    g: chex.Array  # (r,), real, positive.

    @staticmethod
    def start(
        problem: TransportProblem, rank: int, *, key: chex.PRNGKey | None = None
    ) -> "LowRankPlan":
        r"""Makes a plan to start from, with the marginals of a problem.

        Without a key, that of Scetbon and Cuturi: g is uniform, and Q is
        :math:`\lambda x y^\top + (1 - \lambda) x' y'^\top` with increasing x and y,
        and x' and y' such that the sums are right. With one, random entries, in [1, 2)
        before they are scaled: starts that differ may end at plans that differ.

        Args:
            problem: whose weights the plan has.
            rank: r, from 1 to the least of n and m.
            key: of the random numbers.

        Raises:
            ValueError: if the rank is out of its range.
        """
        check_rank(rank, problem.shape)
        a, b = problem.a, problem.b
        mass = jnp.sum(a)
        g = jnp.full((rank,), 1 / rank, a.dtype)
        if key is None:
            shares = _shares(a / mass, b / mass, g)
        else:
            shares = [
                1 + jax.random.uniform(k, (w.size, rank), w.dtype)
                for k, w in zip(jax.random.split(key), (a, b), strict=True)
            ]
        q, r = (
            rounded(w[:, None] * s / jnp.sum(s, 1, keepdims=True), w, mass * g)
            for w, s in zip((a, b), shares, strict=True)
        )
        return LowRankPlan(q, r, mass * g)

    def matrix(self) -> chex.Array:
        """The plan as a matrix: (n, m), real."""
        return jnp.matmul(self.q / self.g[None], self.r.T, precision=HIGHEST)

    def apply(self, values: chex.Array, axis: int = 1) -> chex.Array:
        """Multiplies the plan, or for axis 0 its transpose, by values.

        Args:
            values: (m,) or (m, k); for axis 0 (n,) or (n, k).
            axis: the side that is summed.

        Returns:
            (n,) or (n, k); for axis 0 (m,) or (m, k). In time that is linear in n + m.
        """
        kept, summed = (self.q, self.r) if axis == 1 else (self.r, self.q)
        inner = jnp.matmul((summed / self.g[None]).T, values, precision=HIGHEST)
        return jnp.matmul(kept, inner, precision=HIGHEST)

    def cost(self, geometry: Geometry | chex.Array) -> chex.Array:
        """The cost of the plan, by r products with the cost matrix: (), real."""
        costs = cost_products(as_geometry(geometry), self.r, 1)
        return jnp.sum(jnp.sum(self.q * costs, 0) / self.g)


def check_rank(rank: int, shape: tuple[int, int]) -> None:
    """Raises a `ValueError` unless a rank suits a plan of that shape."""
    if not isinstance(rank, int) or not 1 <= rank <= min(shape):
        raise ValueError(
            f"the rank of a plan {shape} is an integer from 1 to {min(shape)}, got "
            f"{rank!r}."
        )


def _shares(a, b, g):
    """Row-stochastic factors of rank two, which differ from row to row."""
    least = jnp.minimum(
        jnp.min(jnp.where(a > 0, a, 1)), jnp.min(jnp.where(b > 0, b, 1))
    )
    mix = jnp.minimum(least, g[0]) / 2

    def rising(size):
        steps = jnp.arange(1, size + 1, dtype=g.dtype)
        return steps / jnp.sum(steps)

    def share(w):
        x, y = jnp.where(w > 0, rising(w.size), 0), rising(g.size)
        x = x / jnp.sum(x)
        rest = (w - mix * x) / (1 - mix), (g - mix * y) / (1 - mix)
        both = mix * x[:, None] * y[None] + (1 - mix) * rest[0][:, None] * rest[1][None]
        return jnp.where(w[:, None] > 0, both, 1)

    return share(a), share(b)


def plan_of(params, data: TransportProblem, point: LowRankPlan | None = None):
    """The plan that params are, checked, in the working dtype; and how to go back."""
    if not isinstance(data, TransportProblem) or not data.balanced:
        raise ValueError(
            "the data of low_rank_sinkhorn are a balanced transport.TransportProblem, "
            f"got {core.describe(data)}."
        )
    shapes = [jnp.shape(z) for z in params] if isinstance(params, tuple) else []
    n, m = data.shape
    rank = shapes[2][0] if len(shapes) == 3 and len(shapes[2]) == 1 else 0
    if shapes != [(n, rank), (m, rank), (rank,)]:
        raise ValueError(
            f"params are a transport.LowRankPlan of factors ({n}, r), ({m}, r) and "
            f"(r,), got shapes {shapes or core.describe(params)}; make one by "
            "`transport.LowRankPlan.start(problem, rank)`."
        )
    check_rank(rank, data.shape)
    if point is None:
        x, unravel = core.ravel(params)
    else:
        x, unravel = core.ravel_fine(params, core.ravel(point)[0])
    x = x.astype(data.geometry.dtype)
    q, r, g = jnp.split(x, [n * rank, (n + m) * rank])
    plan = LowRankPlan(q.reshape(n, rank), r.reshape(m, rank), g)
    return plan, lambda plan: unravel(core.ravel(plan)[0])


def feasible(
    plan: LowRankPlan, data: TransportProblem, least: chex.Numeric
) -> LowRankPlan:
    """A feasible plan near one that need not be; uniform where it makes no sense."""
    mass = jnp.sum(data.a)
    positive = lambda z: jnp.where(jnp.isfinite(z) & (z > 0), z, 0)
    share = positive(plan.g)
    total = jnp.sum(share)
    share = jnp.where(total > 0, share / jnp.where(total > 0, total, 1), 1)
    share = jnp.maximum(share, least)
    g = mass * share / jnp.sum(share)

    def factor(z, w):
        z = positive(z)
        sums = jnp.sum(z, 1, keepdims=True)
        z = jnp.where(sums > 0, z / jnp.where(sums > 0, sums, 1), (g / mass)[None])
        out = rounded(w[:, None] * z, w, g)
        return jnp.where(jnp.isfinite(out), out, 1)

    g = jnp.where(jnp.isfinite(g), g, 1)
    return LowRankPlan(factor(plan.q, data.a), factor(plan.r, data.b), g)
