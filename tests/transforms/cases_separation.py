"""The conformance cases of the perceptrons."""

import jax.numpy as jnp
import numpy as np

from jaxsolve import transforms
from tests.case import Case

# The worst case of Tyurin (2025): one point against many, all but opposite.
DATA = {"z": np.array([[0.5, -1.0]] + 19 * [[0.5, 1.0]])}
LONG = {"z": np.array([[0.1, -7.0]] + 19 * [[0.1, 1.0]])}  # takes eight errors
SEPARABLE = dict(
    params=np.zeros(2),
    data=DATA,
    output=lambda x: jnp.sign(jnp.asarray(x)[:1]),  # all that is sure of a solution
    solution=lambda data: np.array([1.0, 0.0]),
    spread=1e-3,
    direction={"z": np.tile([[1.0, 0.0]], (20, 1))},
    differentiable=False,  # solutions are an open set
)


def margins(x, data):
    return data["z"] @ x


CASES = (
    Case(
        factory="transforms.logistic_perceptron",
        make=lambda form: transforms.logistic_perceptron(form.function(margins), 0.5),
        **SEPARABLE,
    ),
    Case(
        factory="transforms.logistic_perceptron",
        variant="plain",
        make=lambda form: transforms.logistic_perceptron(
            form.function(margins), 50.0, normalize=False
        ),
        **SEPARABLE,
    ),
    Case(
        factory="transforms.batch_perceptron",
        make=lambda form: transforms.batch_perceptron(form.function(margins)),
        **SEPARABLE,
    ),
    Case(
        factory="transforms.perceptron",
        make=lambda form: transforms.perceptron(form.function(margins)),
        **{**SEPARABLE, "data": LONG},
    ),
)
