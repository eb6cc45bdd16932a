"""The conformance cases of the solvers of entropic transport."""

import numpy as np

from jaxsolve import transport
from tests.case import Case

COST = np.array([[0.0, 0.4, 0.9, 0.3], [0.5, 0.1, 0.2, 0.8], [0.7, 0.6, 0.0, 0.5]])
ROWS, COLUMNS = np.array([0.5, 0.2, 0.3]), np.array([0.3, 0.3, 0.2, 0.2])


def problem(cost, a, b, epsilon, prices=(None, None)):
    """A problem of NumPy arrays in float64, whatever JAX's own precision is."""
    made = transport.TransportProblem.__new__(transport.TransportProblem)
    geometry = transport.DenseCost.__new__(transport.DenseCost)
    object.__setattr__(geometry, "cost", cost)
    fields = dict(geometry=geometry, a=a, b=b, epsilon=epsilon, mark=np.zeros(()))
    fields |= dict(zip(("rho_a", "rho_b"), prices, strict=True))
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


BALANCED = problem(COST, ROWS, COLUMNS, np.array(0.2))
UNBALANCED = problem(COST, ROWS, 2 * COLUMNS, np.array(0.2), (np.array(0.5), None))
# Masses stay equal along these.
DIRECTION = problem(
    np.array([[0.3, -0.2, 0.1, 0.2], [0.1, 0.0, -0.3, 0.2], [-0.1, 0.2, 0.3, 0.0]]),
    np.array([0.1, -0.15, 0.05]),
    np.array([-0.1, 0.05, 0.1, -0.05]),
    np.array(0.05),
)
FREE = problem(
    DIRECTION.geometry.cost,
    np.array([0.2, 0.1, -0.1]),
    np.array([-0.1, 0.2, 0.1, -0.05]),
    np.array(0.05),
    (np.array(0.1), None),
)
# The data are one object, and there are no functions of the user.
COMMON = dict(params=np.zeros(3), dicts=False, closes=False, calls=0)

CASES = (
    Case(
        factory="transport.sinkhorn",
        make=lambda form: transport.sinkhorn(),
        data=BALANCED,
        direction=DIRECTION,
        **COMMON,
    ),
    Case(
        factory="transport.sinkhorn",
        variant="unbalanced",
        make=lambda form: transport.sinkhorn(kernel=False),
        data=UNBALANCED,
        direction=FREE,
        **COMMON,
    ),
    Case(
        factory="transport.newton_transport",
        make=lambda form: transport.newton_transport(),
        data=BALANCED,
        direction=DIRECTION,
        **COMMON,
    ),
    Case(
        factory="transport.sinkhorn_newton_sparse",
        make=lambda form: transport.sinkhorn_newton_sparse(sweeps=2),
        data=BALANCED,
        direction=DIRECTION,
        **COMMON,
    ),
)
