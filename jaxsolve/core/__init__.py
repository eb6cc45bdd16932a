"""The contract: solvers, runs, derivatives, batches, and the bridges to optax."""

from jaxsolve.core._batch import solve_batch
from jaxsolve.core._bounds import (
    Bounds,
    box,
    box_step,
    check_bounds,
    onto_box,
    ravel_bounds,
)
from jaxsolve.core._derivative import (
    Adjoint,
    Derivative,
    adjoint,
    envelope,
    implicit,
    implicit_function,
    of_inner,
    one_step,
    stop,
    truncated,
    unrolled,
)
from jaxsolve.core._iterate import iterate, scan
from jaxsolve.core._lanes import any_lane, once
from jaxsolve.core._linear import solve_linear
from jaxsolve.core._memoise import memoise
from jaxsolve.core._minibatch import MinibatchState, minibatch
from jaxsolve.core._numbers import check_number, is_zero
from jaxsolve.core._observe import plot_convergence
from jaxsolve.core._optax import (
    LinkState,
    OptaxState,
    from_optax,
    to_optax,
    transform_pair,
)
from jaxsolve.core._run import run
from jaxsolve.core._solution import Solution
from jaxsolve.core._solver import (
    Data,
    Objective,
    Params,
    Solver,
    State,
    check_like,
    objective,
    value_and_grad,
)
from jaxsolve.core._status import Status, as_status
from jaxsolve.core._stop import l2_below
from jaxsolve.core._tree import (
    all_finite,
    as_schedule,
    as_tol,
    axpy,
    check_stepsize,
    describe,
    is_concrete,
    ravel,
    ravel_fine,
    real_dtype,
    real_scalar,
    sup_norm,
    where,
)
from jaxsolve.core._workers import WorkersState, per_worker, workers

__all__ = (
    "Adjoint",
    "Bounds",
    "Data",
    "Derivative",
    "LinkState",
    "MinibatchState",
    "Objective",
    "OptaxState",
    "Params",
    "Solution",
    "Solver",
    "State",
    "Status",
    "WorkersState",
    "adjoint",
    "all_finite",
    "any_lane",
    "as_schedule",
    "as_status",
    "as_tol",
    "axpy",
    "box",
    "box_step",
    "check_bounds",
    "check_like",
    "check_number",
    "check_stepsize",
    "describe",
    "envelope",
    "from_optax",
    "implicit",
    "implicit_function",
    "is_concrete",
    "is_zero",
    "iterate",
    "l2_below",
    "memoise",
    "minibatch",
    "objective",
    "of_inner",
    "once",
    "one_step",
    "onto_box",
    "per_worker",
    "plot_convergence",
    "ravel",
    "ravel_bounds",
    "ravel_fine",
    "real_dtype",
    "real_scalar",
    "run",
    "scan",
    "solve_batch",
    "solve_linear",
    "stop",
    "sup_norm",
    "to_optax",
    "transform_pair",
    "truncated",
    "unrolled",
    "value_and_grad",
    "where",
    "workers",
)
