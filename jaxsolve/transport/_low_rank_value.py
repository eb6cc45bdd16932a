"""The objective of low-rank transport, and what its optimum depends on."""

import chex
import jax
import jax.numpy as jnp

from jaxsolve.transport._low_rank_plan import LowRankPlan
from jaxsolve.transport._matrices import cost_products
from jaxsolve.transport._problem import TransportProblem
from jaxsolve.transport._products import HIGHEST


def evaluate(
    plan: LowRankPlan, problem: TransportProblem, epsilon: chex.Numeric
) -> tuple[chex.Array, LowRankPlan, chex.Array]:
    """The objective of low-rank transport, its gradient, and the size of its terms."""
    q, r, g = plan
    costs = cost_products(problem.geometry, r, 1)
    back = cost_products(problem.geometry, q, 0)
    share = jnp.sum(q * costs, 0) / g
    value, gradient = (
        jnp.sum(share),
        LowRankPlan(costs / g[None], back / g[None], -share / g),
    )
    logs = LowRankPlan(*(jnp.log(jnp.where(z > 0, z, 1)) for z in plan))
    epsilon = jnp.asarray(epsilon, value.dtype)
    terms = [z * (log - 1) for z, log in zip(plan, logs, strict=True)]
    size = jnp.abs(value) + epsilon * sum(jnp.sum(jnp.abs(z)) for z in terms)
    value = value + epsilon * sum(jnp.sum(z) for z in terms)
    slopes = (d + epsilon * log for d, log in zip(gradient, logs, strict=True))
    return value, LowRankPlan(*slopes), size


def shares_of(matrix: chex.Array, weights: chex.Array) -> chex.Array:
    """How the weight of each row is spread, uniformly where there is none."""
    there = (weights > 0)[:, None]
    share = matrix / jnp.where(there, weights[:, None], 1)
    return jnp.where(there, share, 1 / matrix.shape[1])


def covariances(share: chex.Array, weights: chex.Array) -> chex.Array:
    """How the sums of the columns answer to logarithms of their scales: (r, r)."""
    weighted = weights[:, None] * share
    square = jnp.matmul(share.T, weighted, precision=HIGHEST)
    return jnp.diag(jnp.sum(weighted, 0)) - square


def low_rank_value(
    plan: LowRankPlan, problem: TransportProblem, *, epsilon: chex.Numeric = 0.0
) -> chex.Array:
    r"""The optimal value at a stationary plan, with its derivative by Danskin.

    The plan counts as constant if the run had ``derivative=core.envelope()``, which
    refuses where it has not converged. The derivative in costs and points is that of
    :math:`\langle C, P \rangle`; in the weights it is the multipliers of the marginals,
    which are found from the plan by least squares.

    Args:
        plan: what `low_rank_sinkhorn` has converged to.
        problem: where.
        epsilon: of the solver.

    Returns:
        :math:`\langle C, P \rangle`, and the entropies of the factors times epsilon:
        (), real. Right in first derivatives, of problems whose masses stay equal.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import core, transport
        >>> def value(x):
        ...     cloud = transport.PointCloud(x, x[::-1] + 1)
        ...     problem = transport.TransportProblem(cloud)
        ...     start = transport.LowRankPlan.start(problem, 2)
        ...     solver, rule = transport.low_rank_sinkhorn(), core.envelope()
        ...     out = jaxsolve.run(solver, start, problem, derivative=rule)
        ...     return transport.low_rank_value(out.params, problem)
        >>> jax.grad(value)(jnp.arange(4.0)[:, None]).shape
        (4, 1)
    """
    fixed, still = jax.lax.stop_gradient((plan, problem))
    value, _, _ = evaluate(plan, problem, epsilon)
    _, (dq, dr, dg), _ = evaluate(fixed, still, jax.lax.stop_gradient(epsilon))
    g, count = fixed.g, fixed.g.size
    pairs = [(fixed.q, still.a, dq), (fixed.r, still.b, dr)]
    shares = [shares_of(z, w) for z, w, _ in pairs]
    means = [jnp.sum(s * d, 1) for s, (_, _, d) in zip(shares, pairs, strict=True)]
    sides = [
        jnp.sum(z * (d - mean[:, None]), 0) - g * dg
        for (z, _, d), mean in zip(pairs, means, strict=True)
    ]
    one, two = (covariances(s, w) for s, (_, w, _) in zip(shares, pairs, strict=True))
    matrix = jnp.tile(jnp.diag(g), (2, 2))
    matrix = matrix.at[:count, :count].add(one).at[count:, count:].add(two)
    # Along (1, -1) there is nothing to find, and more directions where factors part.
    inverse = jnp.linalg.pinv(matrix, rtol=float(jnp.finfo(g.dtype).eps) ** 0.75)
    found = jnp.split(jnp.matmul(inverse, jnp.concatenate(sides), precision=HIGHEST), 2)
    for share, mean, scale, now, then in zip(
        shares, means, found, (problem.a, problem.b), (still.a, still.b), strict=True
    ):
        price = jax.lax.stop_gradient(
            mean - jnp.matmul(share, scale, precision=HIGHEST)
        )
        value = value + jnp.sum(price * (now - then))
    return value
