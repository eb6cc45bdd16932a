"""The conformance cases of the solvers of composite problems."""

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
    z = data["matrix"] @ (x - data["center"])
    return jnp.sum(z**2 / 2 + z**4 / 40) + jnp.sum(jnp.sin(data["matrix"]) @ x) / 10


def shrunk(data):
    center = data["center"]
    return np.sign(center) * np.maximum(np.abs(center) - 0.25, 0)


def in_the_box(params):
    return jnp.all(jnp.isfinite(params) & (jnp.abs(params) <= 0.75))


def make(form, fun, operator, *args, **options):
    return composite.proximal_gradient(form.function(fun), operator, *args, **options)


CASES = (
    Case(
        factory="composite.proximal_gradient",
        make=lambda form: make(form, separable, prox.l1(0.25), 0.4),
        params=np.zeros(3),
        data=DATA,
        solution=shrunk,
    ),
    Case(
        factory="composite.proximal_gradient",
        variant="plain",
        make=lambda form: make(form, tilted, prox.l1(0.3), 0.4, accelerate=False),
        params=np.zeros(3),
        data=DATA,
    ),
    Case(
        factory="composite.proximal_gradient",
        variant="searched",
        make=lambda form: make(form, tilted, prox.l1(0.3)),
        params=np.zeros(3),
        data=DATA,
    ),
    Case(
        factory="composite.proximal_gradient",
        variant="searched-plain",
        make=lambda form: make(form, tilted, prox.box(-0.75, 0.75), accelerate=False),
        params=np.zeros(3),
        data=DATA,
        usable=in_the_box,
    ),
)
