"""The conformance cases of the Newton methods."""

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
)
