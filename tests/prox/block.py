"""What a case of the table of operators holds."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

TREE = {"b": (3,), "w": (2, 2)}  # Flattened, a vector of seven entries.
ROWS = (4, 3)


class Case(NamedTuple):
    """An operator, and what it must be."""

    id: str
    name: str  # of the public factory it stands for.
    make: Callable  # of numbers, to a Prox.
    numbers: tuple  # arguments of make, which may be traced and differentiated.
    value: Callable  # g(x, *numbers) of the array or flattened tree, in NumPy.
    params: Any = TREE  # a pytree of shapes.
    projection: bool = False
    convex: bool = True
    line: tuple | None = None  # numbers for one-dimensional params.
    conjugate: Callable | None = None  # of the same numbers, to the Prox of g*.


def inside(violation):
    """The value of the indicator of a set, up to rounding."""
    return 0.0 if np.max(violation) <= 1e-8 else np.inf


def tree(vector):
    return {"b": vector[:3], "w": vector[3:].reshape(2, 2)}
