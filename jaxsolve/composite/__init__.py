"""Solvers of a smooth function plus a simple one."""

from jaxsolve.composite._proximal_gradient import (
    ProximalGradientState,
    proximal_gradient,
)

__all__ = ("ProximalGradientState", "proximal_gradient")
