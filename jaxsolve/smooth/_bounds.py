"""Bounds on params, as the core reads them."""

from jaxsolve.core import Bounds, check_bounds
from jaxsolve.core import ravel_bounds as as_vectors

__all__ = ("Bounds", "as_vectors", "check_bounds")
