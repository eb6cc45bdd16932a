"""Doors for people who have a problem rather than a favourite algorithm."""

from jaxsolve.doors._fixed_point import solve_fixed_point
from jaxsolve.doors._least_squares import least_squares
from jaxsolve.doors._methods import DoorState, Method
from jaxsolve.doors._minimize import minimize
from jaxsolve.doors._root import root

__all__ = (
    "DoorState",
    "Method",
    "least_squares",
    "minimize",
    "root",
    "solve_fixed_point",
)
