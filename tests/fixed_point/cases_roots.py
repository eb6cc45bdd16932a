"""The conformance cases of the solvers of equations, F(x) = 0."""

import jax.numpy as jnp
import numpy as np

from jaxsolve import core, fixed_point
from tests.case import Case

DATA = {
    "matrix": np.array([[3.0, -0.4, 0.1], [0.2, 4.0, 0.3], [-0.1, 0.5, 5.0]]),
    "shift": np.array([10.0, -20.0, 15.0]),
}
ENDS = {"scale": np.array([1.0, 2.0]), "shift": np.array([20.0, 8.0])}


def bent(x, data):
    return data["matrix"] @ x + x**3 / 2 - data["shift"]


def cubes(x, data):
    """Entry by entry: the root of the first is not that of the second."""
    return data["scale"] * x**3 - data["shift"]


def roots(data):
    return np.cbrt(data["shift"] / data["scale"])


def affine(x, data):
    return (data["matrix"] @ x - data["shift"]) / 10


def solution(data):
    return np.linalg.solve(data["matrix"], data["shift"])


def high(data):
    return jnp.sum(data["scale"]) + 3


def inside(params):
    vector, _ = core.ravel(params)
    return jnp.all((vector >= -9) & (vector <= 20))


CASES = (
    Case(
        factory="fixed_point.newton_root",
        make=lambda form: fixed_point.newton_root(form.map(bent)),
        params=np.full(3, 9.0),
        data=DATA,
    ),
    Case(
        factory="fixed_point.newton_root",
        variant="bounds",
        make=lambda form: fixed_point.newton_root(
            form.map(bent), bounds=(-9.0, 20.0), backtrack=False
        ),
        params=np.full(3, 9.0),
        data=DATA,
        usable=inside,
    ),
    Case(
        factory="fixed_point.newton_krylov",
        make=lambda form: fixed_point.newton_krylov(form.map(bent)),
        params=np.full(3, 9.0),
        data=DATA,
    ),
    Case(
        factory="fixed_point.chord",
        make=lambda form: fixed_point.chord(form.map(bent)),
        params=np.full(3, 9.0),
        data=DATA,
    ),
    Case(
        factory="fixed_point.broyden",
        make=lambda form: fixed_point.broyden(form.map(bent), 6),
        params=np.full(3, 2.0),
        data=DATA,
    ),
    Case(
        factory="fixed_point.broyden",
        variant="affine",
        make=lambda form: fixed_point.broyden(form.map(affine), 6, scale=2.0),
        params=np.zeros(3),
        data=DATA,
        solution=solution,
    ),
    Case(
        factory="fixed_point.bisection",
        make=lambda form: fixed_point.bisection(form.map(cubes), 0.0, 5.0),
        params=np.full(2, 1.0),
        data=ENDS,
        solution=roots,
    ),
    Case(
        factory="fixed_point.brent",
        make=lambda form: fixed_point.brent(form.map(cubes), 0.0, 5.0),
        params=np.full(2, 1.0),
        data=ENDS,
        solution=roots,
    ),
    Case(
        factory="fixed_point.itp",
        make=lambda form: fixed_point.itp(
            form.map(cubes), 0.0, lambda data: high(form.unwrap_data(data))
        ),
        params=np.full(2, 1.0),
        data=ENDS,
        solution=roots,
    ),
    Case(
        factory="fixed_point.accelerate",
        make=lambda form: fixed_point.accelerate(
            fixed_point.picard(form.map(lambda x, data: x - affine(x, data))), 3
        ),
        params=np.zeros(3),
        data=DATA,
        solution=solution,
    ),
)
