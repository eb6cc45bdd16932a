"""The conformance cases of bilevel solvers with coupled lower constraints."""

import numpy as np
import optax

from jaxsolve import bilevel
from jaxsolve.bilevel import Levels
from tests.bilevel import coupled
from tests.bilevel.quadratic import draw
from tests.case import Case

PENALTY = 1.0


def make(form, equality):
    """With a constant penalty, so that it converges to a biased point, and quickly."""
    return bilevel.lv_hba(
        coupled.problem_of(form, equality=equality),
        optax.sgd(0.3),
        0.4,
        0.5,
        PENALTY,
        gamma=coupled.GAMMA,
        radius=10.0,
    )


def feasible(levels):
    """What params satisfy, up to rounding."""
    excess = coupled.constraint(levels, None)["first"]
    return np.isfinite(excess) and excess <= 1e-5


COMMON = dict(
    factory="bilevel.lv_hba",
    params=Levels(np.zeros(2), np.array([1.5, 0.0, 0.0])),
    data=draw(dx=2, dy=3, top=2.0),
    solution=lambda data: coupled.solution(data, PENALTY),
    calls=5,  # the upper objective once, the lower one and the constraint twice
    dicts=False,
    tol32=1e-5,
    max_steps=3000,
)

CASES = (
    Case(variant="equality", make=lambda form: make(form, True), **COMMON),
    Case(
        variant="inequality",
        make=lambda form: make(form, False),
        usable=feasible,
        **COMMON,
    ),
)
