"""Bounds as data: new ones from call to call cost no new trace."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxsolve import core


class Bounded(NamedTuple):
    """The data of a problem, and its bounds."""

    data: Any
    lower: Any
    upper: Any


def pair(bounded: Bounded) -> tuple[Any, Any]:
    """The bounds, as solvers want them of data."""
    return bounded.lower, bounded.upper


@core.memoise
def with_bounds(fun: Callable) -> Callable:
    """Makes of `fun(params, data)` the same function of data with bounds."""
    return lambda params, bounded: fun(params, bounded.data)
