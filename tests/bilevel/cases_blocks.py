"""The conformance cases of bilevel solvers of many lower blocks."""

import numpy as np
import optax

from jaxsolve import bilevel
from jaxsolve.bilevel import BlockSampling, Levels
from tests.bilevel import many, quadratic
from tests.case import Case


def second(form, **options):
    """BSVRB-v2 on all blocks: sampled ones do not converge."""
    problem = quadratic.problem_of(form)
    return bilevel.bsvrb_v2(problem, optax.sgd(0.1), 0.4, 0.4, **options)


COMMON = dict(
    params=Levels(np.zeros(2), np.zeros((3, 3))),
    data=many.draw(m=3, dx=2, dy=3, top=2.0),
    solution=many.solution,
    calls=2,  # both objectives
    dicts=False,
    closes=False,  # a function of one block cannot close over the data of all
    tol32=1e-5,
    spread=0.03,  # the Hessians of all lanes stay above the floor
)

CASES = (
    Case(
        factory="bilevel.bsvrb_v1",
        make=lambda form: bilevel.bsvrb_v1(
            quadratic.problem_of(form), optax.sgd(0.3), 0.5, 0.3
        ),
        **COMMON,
    ),
    Case(factory="bilevel.bsvrb_v2", make=second, **COMMON),
    Case(
        factory="bilevel.bsvrb_v2",
        variant="lazy",
        make=lambda form: second(form, sampling=BlockSampling(lazy=True), radius=50.0),
        **COMMON,
    ),
)
