"""The conformance cases of solvers that are made for one use: pruning."""

import jax.numpy as jnp
import numpy as np
import optax

from jaxsolve import bilevel
from jaxsolve.bilevel import Levels
from tests.case import Case

TARGET = np.array([2.0, -1.5, 0.4, 0.25])
RIDGE = 0.5


def distance(weights, target):
    """The squared distance; a function that closes over all data sees both levels'."""
    target = target[1] if isinstance(target, tuple) else target
    return jnp.sum((weights - target) ** 2) / 2


def case(keep, **changes):
    make = lambda form: bilevel.bip(
        form.function(distance),
        optax.sgd(0.1),
        optax.sgd(0.5, momentum=0.1),
        keep,
        RIDGE,
        coefficient=0.1,
    )
    settings = dict(
        params=Levels(np.array([0.9, 1.0, 0.2, 0.1]), np.full(4, 0.7)),
        data=(TARGET, TARGET),
        # The two largest targets are kept, and shrunk by the ridge.
        solution=lambda data: Levels(
            None, np.where(np.abs(TARGET) > 1, data[1], 0) / (1 + RIDGE)
        ),
        output=lambda params: params.lower,
        calls=2,
        dicts=False,
    )
    return Case("bilevel.bip", make, **{**settings, **changes})


CASES = (
    case(2, variant="clipped"),
    case(bilevel.top_k(2, capped=True), variant="capped"),
)
