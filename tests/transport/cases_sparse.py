"""The conformance cases of sparse transport, with L-BFGS as its method."""

import jax.numpy as jnp
import numpy as np

from jaxsolve import smooth, transport
from tests.case import Case
from tests.transport.cases import COLUMNS, COST, ROWS


def problem(cost, a, b, gamma, k):
    """A problem of NumPy arrays in float64, whatever JAX's own precision is."""
    made = transport.SparseTransportProblem.__new__(transport.SparseTransportProblem)
    fields = dict(cost=cost, a=a, b=b, gamma=np.array(gamma), k=k, mark=np.zeros(()))
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


# Masses stay equal along these.
TURN = np.array([[0.3, -0.2, 0.1, 0.2], [0.1, 0.0, -0.3, 0.2], [-0.1, 0.2, 0.3, 0.0]])
MORE_ROWS, MORE_COLUMNS = (
    np.array([0.1, -0.15, 0.05]),
    np.array([-0.1, 0.05, 0.1, -0.05]),
)


def direction(gamma, k):
    return problem(TURN, MORE_ROWS, MORE_COLUMNS, gamma, k)


# No entries tie, and no entry of the plan begins or ends, in any lane.
SPARSE = problem(
    COST + 0.2 * TURN, ROWS + 0.2 * MORE_ROWS, COLUMNS + 0.2 * MORE_COLUMNS, 0.5, 2
)
QUADRATIC = problem(COST, ROWS, COLUMNS, 2.0, 3)


def centred(params):
    """What the data determine of potentials."""
    alpha, beta = params if isinstance(params, tuple) else (params, None)
    mean = jnp.mean(jnp.asarray(alpha))
    return alpha - mean if beta is None else (alpha - mean, beta + mean)


# The data are one object, and there are no functions of the user.
COMMON = dict(
    factory="transport.sparse_transport",
    output=centred,
    dicts=False,
    closes=False,
    calls=0,
)

CASES = (
    Case(
        make=lambda form: transport.sparse_transport(smooth.lbfgs),
        params=np.zeros(3),
        data=SPARSE,
        direction=direction(0.05, 2),
        spread=0.05,
        **COMMON,
    ),
    Case(
        variant="quadratic",
        make=lambda form: transport.sparse_transport(smooth.lbfgs),
        params=np.zeros(3),
        data=QUADRATIC,
        direction=direction(0.0, 3),
        **COMMON,
    ),
    Case(
        variant="dual",
        make=lambda form: transport.sparse_transport(smooth.lbfgs, dual=True),
        params=(np.zeros(3), np.zeros(4)),
        data=SPARSE,
        direction=direction(0.05, 2),
        spread=0.05,
        **COMMON,
    ),
)
