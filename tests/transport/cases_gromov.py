"""The conformance cases of low-rank Sinkhorn and of Gromov-Wasserstein transport."""

import jax.numpy as jnp
import numpy as np

from jaxsolve import transport
from tests.case import Case
from tests.transport.cases import BALANCED, COLUMNS, COST, DIRECTION, ROWS


def dense(cost):
    """A geometry of a NumPy array in float64, whatever JAX's own precision is."""
    geometry = transport.DenseCost.__new__(transport.DenseCost)
    object.__setattr__(geometry, "cost", cost)
    return geometry


def problem(x, y, cross, a, b, epsilon, alpha):
    """A problem of two spaces, made in the same way."""
    made = transport.GromovProblem.__new__(transport.GromovProblem)
    fields = dict(a=a, b=b, epsilon=np.array(epsilon), alpha=np.array(alpha))
    fields |= dict(geometry_x=dense(x), geometry_y=dense(y), mark=np.zeros(()))
    fields |= dict(cross=None if cross is None else dense(cross))
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def between(points):
    """Distances on the line."""
    return np.abs(points[:, None] - points[None])


X, Y = between(np.array([0.0, 0.7, 1.0])), between(np.array([0.3, 0.0, 1.0, 0.8]))
SLOPES = problem(
    0.2 * X @ X, 0.1 * Y @ Y, None, DIRECTION.a, DIRECTION.b, 0.02, np.zeros(())
)
FUSED = problem(
    0.2 * X @ X,
    0.1 * Y @ Y,
    DIRECTION.geometry.cost,
    DIRECTION.a,
    DIRECTION.b,
    0.02,
    0.1,
)


def started(rank):
    """The start of the papers, in NumPy."""
    plan = transport.LowRankPlan.start(
        transport.TransportProblem(COST, ROWS, COLUMNS, epsilon=1.0), rank
    )
    return transport.LowRankPlan(*(np.asarray(z, np.float64) for z in plan))


def matrix(plan):
    """What the data determine of factors."""
    q, r, g = (jnp.asarray(z) for z in plan)
    return jnp.matmul(q / g[None], r.T, precision="highest")


# The data are one object, and there are no functions of the user.
COMMON = dict(dicts=False, closes=False, calls=0)
# Factors are not determined, so their derivative is not promised; see its own test.
LOW_RANK = dict(factory="transport.low_rank_sinkhorn", differentiable=False, **COMMON)

CASES = (
    Case(
        make=lambda form: transport.low_rank_sinkhorn(),
        params=started(2),
        data=BALANCED,
        direction=DIRECTION,
        output=matrix,
        **LOW_RANK,
    ),
    Case(
        variant="entropic",
        make=lambda form: transport.low_rank_sinkhorn(epsilon=0.02),
        params=started(2),
        data=BALANCED,
        direction=DIRECTION,
        output=matrix,
        tol32=4e-6,  # at the default small entries depend on rounding
        **LOW_RANK,
    ),
    Case(
        factory="transport.gromov",
        make=lambda form: transport.gromov(),
        params=np.zeros((3, 4)),
        data=problem(X, Y, None, ROWS, COLUMNS, 0.1, 1.0),
        direction=SLOPES,
        **COMMON,
    ),
    Case(
        factory="transport.gromov",
        variant="fused",
        make=lambda form: transport.gromov(transport.sinkhorn()),
        params=np.zeros((3, 4)),
        data=problem(X, Y, COST, ROWS, COLUMNS, 0.1, 0.6),
        direction=FUSED,
        **COMMON,
    ),
)
