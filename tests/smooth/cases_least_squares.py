"""The conformance cases of the solvers of nonlinear least squares."""

import jax.numpy as jnp
import numpy as np

from jaxsolve import smooth
from tests.case import Case

TIMES = np.array([0.0, 0.3, 0.7, 1.2, 2.0])
DATA = {
    "level": np.array([2.6, 1.9, 1.6, 1.0, 0.9]),
    "prior": np.array([0.4, 1.5]),
}


def decay(x, data):
    """A decay with an offset, seen with an error, and a prior: five and two."""
    times = jnp.asarray(TIMES, x.dtype)
    curve = x[0] + 2 * jnp.exp(-x[1] * times)
    return {"fit": curve - data["level"], "prior": (x - data["prior"]) / 4}


def in_box(x):
    """The offset would like to be smaller."""
    return jnp.all(x >= 0.9)


START = np.array([-1.0, 4.0])

CASES = (
    Case(
        factory="smooth.levenberg_marquardt",
        make=lambda form: smooth.levenberg_marquardt(form.function(decay)),
        params=START,
        data=DATA,
    ),
    Case(
        factory="smooth.levenberg_marquardt",
        variant="geodesic",
        make=lambda form: smooth.levenberg_marquardt(
            form.function(decay), geodesic=True
        ),
        params=START,
        data=DATA,
    ),
    Case(
        factory="smooth.levenberg_marquardt",
        variant="box",
        make=lambda form: smooth.levenberg_marquardt(
            form.function(decay), bounds=(0.9, None)
        ),
        params=START,
        data=DATA,
        usable=in_box,
    ),
    Case(
        factory="smooth.levenberg_marquardt",
        variant="robust",
        make=lambda form: smooth.levenberg_marquardt(
            form.function(decay), loss=smooth.cauchy_loss(0.5)
        ),
        params=START,
        data=DATA,
    ),
    Case(
        factory="smooth.gauss_newton",
        make=lambda form: smooth.gauss_newton(form.function(decay)),
        params=START,
        data=DATA,
    ),
    Case(
        factory="smooth.gauss_newton",
        variant="pure",
        make=lambda form: smooth.gauss_newton(form.function(decay), 1.0),
        params=np.array([0.0, 2.5]),
        data=DATA,
        starved=2,
    ),
    Case(
        factory="smooth.dogleg",
        make=lambda form: smooth.dogleg(form.function(decay)),
        params=START,
        data=DATA,
    ),
    Case(
        factory="smooth.gauss_newton_cg",
        make=lambda form: smooth.gauss_newton_cg(form.function(decay)),
        params=START,
        data=DATA,
    ),
)
