"""The conformance cases of the solvers of fixed-point equations."""

import jax.numpy as jnp
import numpy as np

from jaxsolve import fixed_point
from tests.case import Case

DATA = {
    "matrix": np.array([[0.3, -0.4, 0.1], [0.2, 0.1, 0.3], [-0.1, 0.5, 0.2]]),
    "shift": np.array([1.0, -2.0, 0.5]),
}


def affine(x, data):
    return data["matrix"] @ x + data["shift"]


def bent(x, data):
    return jnp.tanh(affine(x, data))


def solution(data):
    return np.linalg.solve(np.eye(3) - data["matrix"], data["shift"])


CASES = (
    Case(
        factory="fixed_point.picard",
        make=lambda form: fixed_point.picard(form.map(affine)),
        params=np.zeros(3),
        data=DATA,
        solution=solution,
    ),
    Case(
        factory="fixed_point.picard",
        variant="damped",
        make=lambda form: fixed_point.picard(form.map(bent), 0.7),
        params=np.zeros(3),
        data=DATA,
    ),
    Case(
        factory="fixed_point.anderson",
        make=lambda form: fixed_point.anderson(form.map(affine), memory=2),
        params=np.zeros(3),
        data=DATA,
        solution=solution,
    ),
    Case(
        factory="fixed_point.anderson",
        variant="bent",
        make=lambda form: fixed_point.anderson(form.map(bent)),
        params=np.zeros(3),
        data=DATA,
    ),
)
