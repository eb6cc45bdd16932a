"""Solvers inside JAX programs: init/update pairs that compile, batch, differentiate."""

from jaxsolve import (
    bilevel,
    composite,
    core,
    doors,
    fixed_point,
    linear,
    linesearch,
    online,
    prox,
    schedules,
    smooth,
    transforms,
    transport,
)
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
from jaxsolve.doors import least_squares, minimize, root, solve_fixed_point

__all__ = (
    "Solution",
    "Solver",
    "Status",
    "bilevel",
    "composite",
    "core",
    "doors",
    "fixed_point",
    "from_optax",
    "iterate",
    "least_squares",
    "linear",
    "linesearch",
    "minimize",
    "online",
    "prox",
    "root",
    "run",
    "scan",
    "schedules",
    "smooth",
    "solve_batch",
    "solve_fixed_point",
    "to_optax",
    "transforms",
    "transport",
)
__version__ = "0.1.0"
