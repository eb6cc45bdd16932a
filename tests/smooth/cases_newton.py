"""The conformance cases of the Newton methods."""

import jax.numpy as jnp
import numpy as np

from jaxsolve import smooth
from tests.case import Case
from tests.smooth.cases import DATA, quartic, tilted

CASES = (
    Case(
        factory="smooth.newton_cg",
        make=lambda form: smooth.newton_cg(form.function(tilted)),
        params=np.zeros(3),
        data=DATA,
    ),
    Case(
        factory="smooth.newton",
        make=lambda form: smooth.newton(form.function(tilted)),
        params=np.zeros(3),
        data=DATA,
    ),
    Case(
        factory="smooth.regularized_newton",
        make=lambda form: smooth.regularized_newton(form.function(quartic)),
        params=np.zeros(3),
        data=DATA,
        solution=lambda data: data["center"],
    ),
    Case(
        factory="smooth.gradient_normalized_newton",
        make=lambda form: smooth.gradient_normalized_newton(form.function(tilted)),
        params=np.zeros(3),
        data=DATA,
    ),
    Case(
        factory="smooth.gradient_normalized_newton",
        variant="approximate",
        make=lambda form: smooth.gradient_normalized_newton(
            form.function(tilted),
            smooth.gauss_newton_hessian(
                form.function(lambda x, data: data["matrix"] @ (x - data["center"])),
                lambda z, data: jnp.sum(z**2 / 2 + z**4 / 40),
            ),
            np.array([1.0, 2.0, 0.5]),
        ),
        params=np.zeros(3),
        data=DATA,
        calls=2,  # the objective, and the outputs that make its curvature
    ),
)
