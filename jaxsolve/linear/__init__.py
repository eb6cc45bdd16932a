"""Probes of linear operators that are given as products `v -> A v` of trees.

Traces and diagonals (`hutchinson_trace`, `hutchinson_diagonal`, `hutch_plus_plus`),
Ritz pairs (`lanczos`), functions (`matrix_function`, `trace_of_function`) and spectra,
of functions, lineax operators and matrices alike; and the products of second-order
methods: `hessian_product`, `gauss_newton_product`, `fisher_product` and its estimates.
Linear systems are lineax's to solve.
"""

from jaxsolve.linear._functions import matrix_function
from jaxsolve.linear._hutchinson import (
    hutch_plus_plus,
    hutchinson_diagonal,
    hutchinson_trace,
)
from jaxsolve.linear._lanczos import Lanczos, lanczos, ritz_vectors
from jaxsolve.linear._operator import Operator, Product, gaussian, rademacher
from jaxsolve.linear._products import (
    empirical_fisher_product,
    fisher_product,
    gauss_newton_product,
    hessian_product,
    monte_carlo_fisher_product,
)
from jaxsolve.linear._quadrature import (
    Spectrum,
    lanczos_spectrum,
    spectral_density,
    spectral_sum,
    trace_of_function,
)
from jaxsolve.linear._samples import Estimate

__all__ = (
    "Estimate",
    "Lanczos",
    "Operator",
    "Product",
    "Spectrum",
    "empirical_fisher_product",
    "fisher_product",
    "gauss_newton_product",
    "gaussian",
    "hessian_product",
    "hutch_plus_plus",
    "hutchinson_diagonal",
    "hutchinson_trace",
    "lanczos",
    "lanczos_spectrum",
    "matrix_function",
    "monte_carlo_fisher_product",
    "rademacher",
    "ritz_vectors",
    "spectral_density",
    "spectral_sum",
    "trace_of_function",
)
