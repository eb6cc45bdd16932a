"""The same run in the open: step by step in Python, or over a stream of data."""

from collections.abc import Callable, Iterator
from typing import Any

import chex
import jax

from jaxsolve.core._run import cached, ended, verdict
from jaxsolve.core._solution import Solution
from jaxsolve.core._solver import Data, Params, Solver, State, begin, check_solver, step
from jaxsolve.core._status import Status
from jaxsolve.core._tree import as_count, as_params, as_tol


def iterate(
    solver: Solver,
    params: Params,
    data: Data = None,
    *,
    max_steps: int = 1000,
    tol: chex.Numeric | None = None,
    state: State | None = None,
) -> Iterator[tuple[Params, State]]:
    """Yields `(params, state)` after every update, as `run` would take it.

    For notebooks, debuggers and other people's loops: one compiled update per step, on
    the host's clock. Ends where `run` with the same arguments ends.

    Args:
        solver: a `Solver`.
        params: where to start.
        data: whatever the problem depends on.
        max_steps: how many updates to take at most.
        tol: as in `run`.
        state: a saved state to go on from, on the same data.

    Yields:
        The accepted iterate, and the solver's state.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> solver = jaxsolve.fixed_point.picard(lambda x, a: jnp.cos(a * x))
        >>> for x, state in jaxsolve.iterate(solver, 1.0, 1.0, max_steps=3):
        ...     print(f"{x:.4f}")
        0.5403
        0.8576
        0.6543
    """
    check_solver(solver)
    params = as_params(params)
    tol = as_tol(tol, params)
    max_steps = as_count("max_steps", max_steps, 0)

    def make(solver, _):
        init = jax.jit(lambda params, data: begin(solver, params, data))

        @jax.jit
        def update(params, state, data, tol):
            params, state = step(solver, params, state, data)
            return params, state, verdict(params, state, tol, None)

        return init, update

    init, update = cached(solver, (), "iterate", make)
    state = init(params, data) if state is None else state
    for _ in range(max_steps):
        params, state, status = update(params, state, data, tol)
        yield params, state
        if int(status) != Status.RUNNING:
            return


def scan(
    solver: Solver,
    params: Params,
    batches: Data,
    *,
    state: State | None = None,
    record: Callable[[Params, State], Any] | None = None,
) -> Solution:
    """Takes one update per leading slice of `batches`: minibatches, or a stream.

    A plain `jax.lax.scan`: nothing stops it early, and derivatives flow through every
    update. For whole epochs of a data set see `minibatch`.

    Args:
        solver: a `Solver`.
        params: where to start.
        batches: a tree of arrays with equal, non-empty leading axes; each slice is the
            `data` of one update.
        state: a state to go on from.
        record: what to keep of every update, as ``record(params, state)``; the state's
            error by default.

    Returns:
        A `Solution`, its history stacked along the first axis. Its status is the last
        state's own; `MAX_STEPS` if that is still running, as errors on different
        batches do not tell convergence.

    Raises:
        ValueError: if `batches` has no leaves, unequal leading axes, or no batch.
    """
    check_solver(solver)
    params = as_params(params)
    leaves = jax.tree.leaves(batches)
    lengths = {jax.numpy.shape(leaf)[:1] for leaf in leaves}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        raise ValueError(
            "batches must be a tree of arrays with one equal, non-zero leading axis, "
            f"got leading axes {sorted(lengths)}."
        )
    if state is None:
        first = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf)[0], batches)
        state = begin(solver, params, first)
    keep = record or (lambda params, state: state.error)

    def body(carry, batch):
        params, state = step(solver, *carry, batch)
        return (params, state), keep(params, state)

    (params, state), history = jax.lax.scan(body, (params, state), batches)
    status = ended(getattr(state, "status", jax.numpy.zeros((), jax.numpy.int32)))
    return Solution(params, state, status, history)
