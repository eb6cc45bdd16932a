"""The conformance cases of dense BFGS and of nonlinear conjugate gradients."""

import numpy as np

from jaxsolve import linesearch, smooth
from tests.case import Case
from tests.smooth.cases import DATA, quartic, tilted

CASES = (
    Case(
        factory="smooth.bfgs",
        make=lambda form: smooth.bfgs(form.function(tilted)),
        params=np.zeros(3),
        data=DATA,
    ),
    Case(
        factory="smooth.bfgs",
        variant="backtracking",
        make=lambda form: smooth.bfgs(
            form.function(quartic), search=linesearch.backtracking()
        ),
        params=np.zeros(3),
        data=DATA,
        solution=lambda data: data["center"],
    ),
    Case(
        factory="smooth.nonlinear_cg",
        make=lambda form: smooth.nonlinear_cg(form.function(tilted)),
        params=np.zeros(3),
        data=DATA,
        # Values of the far lanes cancel, and say nothing from 1e-4 on.
        tol32=2e-6,
    ),
    Case(
        factory="smooth.nonlinear_cg",
        variant="polak_ribiere",
        make=lambda form: smooth.nonlinear_cg(
            form.function(quartic), smooth.polak_ribiere, restart=0.2
        ),
        params=np.zeros(3),
        data=DATA,
        solution=lambda data: data["center"],
    ),
)
