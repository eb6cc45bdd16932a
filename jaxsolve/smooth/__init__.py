"""Solvers of smooth problems, unconstrained so far."""

from jaxsolve.smooth._gradient_descent import GradientDescentState, gradient_descent
from jaxsolve.smooth._lbfgs import LBFGSState, lbfgs
from jaxsolve.smooth._memory import Memory

__all__ = (
    "GradientDescentState",
    "LBFGSState",
    "Memory",
    "gradient_descent",
    "lbfgs",
)
