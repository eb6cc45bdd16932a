"""Bilevel optimisation: hypergradients with an error estimate, and algorithms."""

from jaxsolve.bilevel._hypergradient import Hypergradient, implicit_hypergradient
from jaxsolve.bilevel._linear_solves import (
    conjugate_gradient,
    dense,
    gmres,
    neumann,
    normal_cg,
)
from jaxsolve.bilevel._penalty_hypergradient import penalty_hypergradient
from jaxsolve.bilevel._problem import BilevelProblem, Levels
from jaxsolve.bilevel._unrolled import unrolled_hypergradient

__all__ = (
    "BilevelProblem",
    "Hypergradient",
    "Levels",
    "conjugate_gradient",
    "dense",
    "gmres",
    "implicit_hypergradient",
    "neumann",
    "normal_cg",
    "penalty_hypergradient",
    "unrolled_hypergradient",
)
