"""Doors for people who have a problem rather than a favourite algorithm."""

from jaxsolve.doors._fixed_point import solve_fixed_point
from jaxsolve.doors._minimize import minimize

__all__ = ("minimize", "solve_fixed_point")
