"""The conformance cases of splitting methods and of projected gradient descent."""

import jax.numpy as jnp
import numpy as np

from jaxsolve import composite, prox
from tests.case import Case

DATA = {
    "center": np.array([1.0, -2.0, 0.5]),
    "matrix": np.array([[1.0, 0.3, 0.0], [0.0, 1.2, -0.4], [0.2, 0.0, 0.8]]),
}


def separable(x, data):
    """With the l1 norm, its minimum is the soft-thresholded center."""
    return jnp.sum((x - data["center"]) ** 2) / 2


def tilted(x, data):
    """No closed form."""
    return jnp.sum((data["matrix"] @ (x - data["center"])) ** 2) / 2


def image(x, data):
    return data["matrix"] @ x


def near(form):
    """The prox of `separable`, which takes its center from the data."""

    def make(data):
        center = form.unwrap_data(data)["center"]
        return form.prox(lambda x, t: (x + t * center) / (1 + t))

    return prox.of_data(make)


def shrunk(data):
    center = data["center"]
    return np.sign(center) * np.maximum(np.abs(center) - 0.25, 0)


def clipped(data):
    return np.clip(data["center"], -0.75, 0.75)


def in_the_box(params):
    return jnp.all(jnp.isfinite(params) & (jnp.abs(params) <= 0.75))


CASES = (
    Case(
        factory="composite.douglas_rachford",
        make=lambda form: composite.douglas_rachford(near(form), prox.l1(0.25), 0.4),
        params=np.zeros(3),
        data=DATA,
        solution=shrunk,
    ),
    Case(
        factory="composite.davis_yin",
        make=lambda form: composite.davis_yin(
            form.function(tilted), prox.l1(0.1), prox.box(-0.75, 0.75), 0.7
        ),
        params=np.zeros(3),
        data=DATA,
        usable=in_the_box,
    ),
    Case(
        factory="composite.admm",
        make=lambda form: composite.admm(
            composite.Quadratic(form.function(tilted)),
            prox.l1(0.3),
            form.function(image),
        ),
        params=np.zeros(3),
        data=DATA,
        calls=2,  # of the objective and of the operator.
    ),
    Case(
        factory="composite.admm",
        variant="linearised",
        make=lambda form: composite.admm(
            near(form), prox.l1(0.3), form.function(image), 0.5, relaxation=1.0
        ),
        params=np.zeros(3),
        data=DATA,
    ),
    Case(
        factory="composite.projected_gradient",
        make=lambda form: composite.projected_gradient(
            form.function(separable), prox.box(-0.75, 0.75), 0.4
        ),
        params=np.zeros(3),
        data=DATA,
        solution=clipped,
        usable=in_the_box,
    ),
)
