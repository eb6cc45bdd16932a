"""The conformance cases of the solvers that look for a slice."""

import functools

import jax
import numpy as np

from jaxsolve import transport
from tests.case import Case

X = np.array([[0.3, -0.1, 0.2], [-0.4, 0.2, 0.1], [0.1, 0.5, -0.3], [0.0, -0.6, 0.1]])
Y = np.array([[1.5, 2.0, -0.4], [0.6, 2.3, -0.9], [1.2, 1.4, -0.5]])
DATA = transport.PointPair(
    X, Y, np.array([0.3, 0.2, 0.4, 0.1]), np.array([0.5, 0.3, 0.2])
)
# Params are a direction, and there are no functions of the user.
COMMON = dict(
    params=np.array([1.0, -0.6, 0.5]), data=DATA, dicts=False, closes=False, calls=0
)


@functools.cache
def distributional():
    """One solver: a factory that is given an array, the key, makes new ones."""
    return transport.distributional_sliced(
        10.0, key=jax.random.key(0), slices=5, resample=False
    )


CASES = (
    Case(
        factory="transport.max_sliced",
        make=lambda form: transport.max_sliced(),
        **COMMON,
    ),
    Case(
        # With new slices in every update it does not converge: see its own test.
        factory="transport.distributional_sliced",
        make=lambda form: distributional(),
        **COMMON,
    ),
)
