"""Solvers of smooth problems, unconstrained or in a box."""

from jaxsolve.smooth._bounds import check_bounds
from jaxsolve.smooth._gradient_descent import GradientDescentState, gradient_descent
from jaxsolve.smooth._lbfgs import LBFGSState, lbfgs
from jaxsolve.smooth._lbfgsb import LBFGSBState, lbfgsb
from jaxsolve.smooth._memory import Memory

__all__ = (
    "GradientDescentState",
    "LBFGSBState",
    "LBFGSState",
    "Memory",
    "check_bounds",
    "gradient_descent",
    "lbfgs",
    "lbfgsb",
)
