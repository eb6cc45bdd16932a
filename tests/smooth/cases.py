"""The conformance cases of the solvers of smooth problems."""

import jax.numpy as jnp
import numpy as np

from jaxsolve import smooth
from tests.case import Case

DATA = {
    "center": np.array([1.0, -2.0, 0.5]),
    "matrix": np.array([[1.0, 0.3, 0.0], [0.0, 1.2, -0.4], [0.2, 0.0, 0.8]]),
}


def quartic(x, data):
    """Its minimum is at the center, whatever the matrix."""
    z = data["matrix"] @ (x - data["center"])
    return jnp.sum(z**2 / 2 + z**4 / 40)


def tilted(x, data):
    """The same, moved by a linear term: the solution depends on all data."""
    return quartic(x, data) + jnp.sum(jnp.sin(data["matrix"]) @ x) / 10


def in_box(x):
    """The middle one of three unknowns would like to be lower."""
    return jnp.all((x >= -1.5) & (x <= 3.0))


CASES = (
    Case(
        factory="smooth.lbfgs",
        make=lambda form: smooth.lbfgs(form.function(tilted)),
        params=np.zeros(3),
        data=DATA,
    ),
    Case(
        factory="smooth.gradient_descent",
        make=lambda form: smooth.gradient_descent(form.function(tilted), 0.4),
        params=np.zeros(3),
        data=DATA,
    ),
    Case(
        factory="smooth.gradient_descent",
        variant="searched",
        make=lambda form: smooth.gradient_descent(form.function(tilted)),
        params=np.zeros(3),
        data=DATA,
    ),
    Case(
        factory="smooth.lbfgsb",
        make=lambda form: smooth.lbfgsb(form.function(tilted), (-1.5, 3.0)),
        params=np.zeros(3),
        data=DATA,
        usable=in_box,
    ),
    Case(
        factory="smooth.lbfgsb",
        variant="inside",
        make=lambda form: smooth.lbfgsb(form.function(quartic), (None, 9.0), memory=3),
        params=np.zeros(3),
        data=DATA,
        solution=lambda data: data["center"],
    ),
)
