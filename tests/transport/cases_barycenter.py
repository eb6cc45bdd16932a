"""The conformance cases of barycenters."""

import numpy as np

from jaxsolve import transport
from tests.case import Case
from tests.transport.cases import COST

WEIGHTS = np.array([0.6, 0.4])
MEASURES = np.array([[0.5, 0.2, 0.2, 0.1], [0.1, 0.3, 0.2, 0.4]])
LINE = np.array([0.0, 0.5, 1.1])


def problem(cost, measures, weights, epsilon):
    """A problem of NumPy arrays in float64, whatever JAX's own precision is."""
    made = transport.BarycenterProblem.__new__(transport.BarycenterProblem)
    geometry = transport.DenseCost.__new__(transport.DenseCost)
    object.__setattr__(geometry, "cost", cost)
    fields = dict(geometry=geometry, measures=measures, weights=weights)
    fields |= dict(epsilon=np.array(epsilon), mark=np.zeros(()))
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


PLAIN = problem(COST, MEASURES, WEIGHTS, 0.1)
# Masses stay equal along these, and weights on the simplex.
TURN = problem(
    np.array([[0.3, -0.2, 0.1, 0.2], [0.1, 0.0, -0.3, 0.2], [-0.1, 0.2, 0.3, 0.0]]),
    np.array([[0.1, -0.15, 0.05, 0.0], [-0.1, 0.05, 0.1, -0.05]]),
    np.array([0.2, -0.2]),
    0.02,
)
SYMMETRIC = problem(
    (LINE[:, None] - LINE[None]) ** 2,
    np.array([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]]),
    WEIGHTS,
    0.3,
)
BEND = problem(
    np.array([[0.0, 0.1, -0.1], [0.1, 0.0, 0.2], [-0.1, 0.2, 0.0]]),
    np.array([[0.1, -0.1, 0.0], [-0.05, 0.1, -0.05]]),
    np.array([0.2, -0.2]),
    0.02,
)
# The data are one object, and there are no functions of the user.
COMMON = dict(factory="transport.barycenter", dicts=False, closes=False, calls=0)

CASES = (
    Case(
        make=lambda form: transport.barycenter(),
        params=np.zeros((2, 4)),
        data=PLAIN,
        direction=TURN,
        **COMMON,
    ),
    Case(
        variant="logs",
        make=lambda form: transport.barycenter(kernel=False, relaxation=1.2),
        params=np.zeros((2, 4)),
        data=PLAIN,
        direction=TURN,
        **COMMON,
    ),
    Case(
        variant="debiased",
        make=lambda form: transport.barycenter(debiased=True),
        params=(np.zeros((2, 3)), np.ones(3)),
        data=SYMMETRIC,
        direction=BEND,
        **COMMON,
    ),
)
