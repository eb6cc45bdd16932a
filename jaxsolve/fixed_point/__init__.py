"""Solvers of fixed-point equations, x = T(x)."""

from jaxsolve.fixed_point._anderson import AndersonState, anderson
from jaxsolve.fixed_point._mixing import Mixing
from jaxsolve.fixed_point._picard import PicardState, picard

__all__ = ("AndersonState", "Mixing", "PicardState", "anderson", "picard")
