"""Solvers inside JAX programs: init/update pairs that compile, batch, differentiate."""

from jaxsolve import core, linesearch, prox, smooth
from jaxsolve.core import (
    Solution,
    Solver,
    Status,
    from_optax,
    iterate,
    run,
    scan,
    solve_batch,
    to_optax,
)

__all__ = (
    "Solution",
    "Solver",
    "Status",
    "core",
    "from_optax",
    "iterate",
    "linesearch",
    "prox",
    "run",
    "scan",
    "smooth",
    "solve_batch",
    "to_optax",
)
__version__ = "0.1.0"
