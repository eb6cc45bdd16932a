"""A run: one compiled loop over a solver, with its derivative attached."""

import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve.core._derivative import ALL, Derivative, _Undefined, implicit
from jaxsolve.core._lanes import any_lane, least_lane
from jaxsolve.core._linear import convert
from jaxsolve.core._memoise import WeakIdentityDict
from jaxsolve.core._observe import report
from jaxsolve.core._solution import Solution
from jaxsolve.core._solver import (
    Data,
    Params,
    Solver,
    State,
    begin,
    check_like,
    check_solver,
    step,
)
from jaxsolve.core._status import Status, as_status, status_of
from jaxsolve.core._tree import (
    all_finite,
    as_count,
    as_params,
    as_tol,
    default_tol,
    where,
)


class Options(NamedTuple):
    """What a compiled loop depends on beside its solver; all static."""

    check_every: int
    length: int | None
    progress: bool
    derivative: Derivative | None


def run(
    solver: Solver,
    params: Params,
    data: Data = None,
    *,
    max_steps: chex.Numeric = 1000,
    tol: chex.Numeric | None = None,
    derivative: Derivative | None = None,
    state: State | None = None,
    stop: Callable[[Params, State], chex.Array] | None = None,
    check_every: int = 1,
    record: Callable[[Params, State], Any] | None = None,
    progress: bool = False,
) -> Solution:
    """Runs a solver until its error is at most `tol`.

    One compiled loop, differentiable by rule. Called eagerly it compiles once for each
    solver and each shape of its arguments; new numbers cost no trace. As under
    `jax.jit`, the solver's functions are traced once, so what changes between calls
    belongs in `data`. It may be called inside jit, grad and vmap; under vmap every
    lane is stopped and counted by itself.

    Args:
        solver: a `Solver`.
        params: where to start: a tree of real float arrays. Nothing flows back to it:
            the derivative of a solution in its start is zero, by most rules.
        data: whatever the problem depends on. Differentiable.
        max_steps: how many updates to take at most in this call.
        tol: bound on the state's error, whose meaning the solver documents; by default
            the square root of the machine epsilon of the params' dtype.
        derivative: a rule instead of the solver's own, such as
            ``jaxsolve.core.implicit(psd=True)``.
        state: a saved state to go on from, with the params it came with and on the same
            data. On new data, or elsewhere, start from params alone.
        stop: a further criterion, as ``stop(params, state) -> bool``; where it holds
            the run has converged. If the error is large there, implicit derivatives are
            refused all the same. Define it, and `record`, once: each new function
            compiles anew.
        check_every: updates between two looks at the error.
        record: what to keep of every update, as ``record(params, state)``; it is found
            in `Solution.history`, `max_steps` rows of which those not reached are NaN
            (zero for integers). Then `max_steps` must be a Python integer.
        progress: whether to show a progress bar on standard error.

    Returns:
        A `Solution`: params, state, status, history.

    Raises:
        ValueError: on what is no solver, params that are not real floats, a negative
            tolerance, an update that changes the form of params or state.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> fun = lambda x, data: jnp.sum((x - data) ** 2)
        >>> solver = jaxsolve.smooth.gradient_descent(fun, stepsize=0.5)
        >>> jaxsolve.run(solver, jnp.zeros(2), jnp.array([1.0, 2.0]))
        Solution(converged after 2 updates, error 0.00e+00, params=[1. 2.])
    """
    check_solver(solver)
    params = as_params(params)
    tol = as_tol(tol, params)
    rule = derivative if derivative is not None else _default_rule(solver)
    if not isinstance(rule, Derivative):
        raise ValueError(
            f"derivative must be a rule such as jaxsolve.core.implicit(), got {rule!r}."
        )
    length = None
    if record is not None or rule.unroll == ALL:
        length = as_count("with record= or unrolled(), max_steps", max_steps, 1)
    check_every = as_count("check_every", check_every, 1)
    options = Options(check_every, length, bool(progress), rule)
    solve = _compiled(solver, stop, record, options)
    return solve(params, data, state, _as_steps(max_steps), tol)


def _as_steps(max_steps):
    if isinstance(max_steps, jax.core.Tracer):
        return max_steps.astype(jnp.int32)
    return np.asarray(as_count("max_steps", max_steps, 0), np.int32)


def _default_rule(solver):
    if solver.derivative is not None:
        return solver.derivative
    return _Undefined() if solver.residual is None else implicit()


# -------------------------------------------------------- one compiled loop per solver

_LOOPS = WeakIdentityDict()


def cached(solver: Solver, extra: tuple, key: Any, make: Callable) -> Any:
    """Keeps `make(solver, extra)` for as long as the functions involved live.

    `make` is given weak proxies in place of functions, so that what it compiles keeps
    none of them alive.
    """
    entries = _LOOPS.setdefault(solver.update, dict)
    functions = (solver.init, solver.residual, *extra)
    key = (tuple(map(id, functions)), _identity(solver.derivative), key)
    held = entries.get(key)
    if held is None or _is_dead(held):  # an id may be used again
        for dead in [k for k, entry in entries.items() if _is_dead(entry)]:
            del entries[dead]
        refs = tuple(None if f is None else weakref.ref(f) for f in functions)
        init, residual, *rest = [ref and _weak(ref) for ref in refs]
        update = _weak(weakref.ref(solver.update))
        proxy = Solver._make((init, update, residual, solver.derivative))
        held = entries[key] = (refs, make(proxy, tuple(rest)))
    return held[1]


def _weak(ref):
    return lambda *args: ref()(*args)


def _is_dead(entry):
    return any(ref is not None and ref() is None for ref in entry[0])


def _identity(rule):
    """A rule's key: its fields, or itself where a field cannot be hashed."""
    try:
        hash(rule)
    except TypeError:
        return id(rule)
    return rule


def _compiled(solver, stop, record, options):
    def make(solver, extra):
        stop, record = extra

        def solve(params, data, state, max_steps, tol):
            return _solve(
                solver, params, data, state, max_steps, tol, stop, record, options
            )

        return jax.jit(solve)

    key = options._replace(derivative=_identity(options.derivative))
    return cached(solver, (stop, record), key, make)


def _solve(solver, params, data, state, max_steps, tol, stop, record, options):
    rule = options.derivative
    if rule.unroll == ALL:
        return unrolled_loop(
            solver, params, data, state, max_steps, tol, stop, record, options.length
        )
    before = max_steps if not rule.unroll else jnp.maximum(max_steps - rule.unroll, 0)

    def forward(params, data, state, tol):
        return _loop(solver, params, data, state, before, tol, stop, record, options)

    solution, consts = without_derivative(forward, params, data, state, tol)
    if rule.unroll:
        return _more(solver, data, solution, rule.unroll, max_steps, tol, stop)
    proved = stop is None
    return attach_rule(rule, solver, solution, data, consts, tol, proved)


def attach_rule(rule, solver, solution, data, consts, tol, proved=True) -> Solution:
    """Attaches a rule to the params of a solution."""
    ok = is_solution(solution.status, solution.state, tol, solution.params, proved)
    if solver.residual is None:  # then no residual tells what was closed over
        data = (data, consts)
    further = getattr(solver.derivative, "further", None)
    if further is None:
        params = rule.attach(solver.residual, solution.params, data, ok)
    else:  # the equations are those of a pair
        unknowns = solution.params, jax.lax.stop_gradient(further(solution.state))
        params, _ = rule.attach(solver.residual, unknowns, data, ok)
    return solution._replace(params=params)


def without_derivative(function: Callable, *args):
    """Calls `function` cut off from derivatives in `args` and in what it closes over.

    Returns:
        The result, and what `function` closes over.
    """
    function, consts = convert(function, *args)
    args, free = jax.lax.stop_gradient((args, consts))
    return jax.lax.stop_gradient(function(free, *args)), consts


def is_solution(status, state, tol, params, proved) -> chex.Array:
    """Tells whether a run may be differentiated: converged, or stalled very near.

    A run that a user's own criterion ended proves nothing by its status.
    """
    near = 30 * jnp.maximum(tol, jnp.asarray(default_tol(params), tol.dtype))
    ended_there = (status == Status.CONVERGED) | (status == Status.STALLED)
    close = ended_there & (state.error <= near)
    return ((status == Status.CONVERGED) | close) if proved else close


def verdict(params, state, tol, stop) -> chex.Array:
    """Judges a state by its error, its own status and the user's criterion."""
    status = status_of(state, tol)
    if stop is None:
        return status
    met = (status == Status.RUNNING) & jnp.asarray(stop(params, state), bool)
    return jnp.where(met, as_status(Status.CONVERGED), status)


def ended(status) -> chex.Array:
    """Turns a status that is still running into `MAX_STEPS`."""
    running = status == Status.RUNNING
    return jnp.where(running, as_status(Status.MAX_STEPS), status)


def _rows(record, params, state, length):
    if record is None:
        return None
    rows = jax.eval_shape(record, params, state)

    def empty(row):
        inexact = jnp.issubdtype(row.dtype, jnp.inexact)
        return jnp.full((length, *row.shape), jnp.nan if inexact else 0, row.dtype)

    return jax.tree.map(empty, rows)


def first_status(params) -> chex.Array:
    """Judges a start: diverged if it is not finite, else running."""
    diverged, running = as_status(Status.DIVERGED), as_status(Status.RUNNING)
    return jnp.where(all_finite(params), running, diverged)


def finite_start(params):
    """The start, with zeros where it is not finite: params are always usable."""
    return jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, 0), params)


def _first(solver, params, data, state):
    """The params, the state and the status that a run begins with."""
    status, params = first_status(params), finite_start(params)
    fresh = lambda: begin(solver, params, data)
    if state is None:
        return params, fresh(), status
    check_like("state", state, jax.eval_shape(fresh))
    # At least one update: an error that was measured elsewhere proves nothing here.
    own = getattr(state, "status", status)
    return params, state, jnp.where(status == Status.RUNNING, own, status)


def _loop(solver, params, data, state, max_steps, tol, stop, record, options):
    params, state, status = _first(solver, params, data, state)
    history = _rows(record, params, state, options.length)
    zero = jnp.zeros((), jnp.int32)
    carry = params, state, status, zero, history

    def running(carry):
        _, _, status, steps, _ = carry
        return (status == Status.RUNNING) & (steps < max_steps)

    def one(_, carry):
        params, state, steps, history = carry
        params, state = step(solver, params, state, data)
        if record is not None:
            row = record(params, state)
            history = jax.tree.map(lambda h, r: h.at[steps].set(r), history, row)
        return params, state, steps + 1, history

    def body(carry):
        params, state, _, steps, history = carry
        if options.check_every == 1:
            carry = one(0, (params, state, steps, history))
        else:
            # Equal in all running lanes of a vmap, so that no update is masked.
            left = jnp.where(running(carry), max_steps - steps, options.check_every)
            chunk = least_lane(jnp.minimum(left, options.check_every))
            carry = (params, state, steps, history)
            carry = jax.lax.fori_loop(0, chunk, one, carry)
        params, state, steps, history = carry
        status = verdict(params, state, tol, stop)
        if options.progress:
            report(steps, max_steps, state.error, status != Status.RUNNING)
        return params, state, status, steps, history

    params, state, status, _, history = jax.lax.while_loop(running, body, carry)
    return Solution(params, state, ended(status), history)


def _more(solver, data, solution, steps, max_steps, tol, stop):
    """Takes a few more updates, left to JAX to differentiate."""

    def body(carry, taken):
        return where(taken < max_steps, step(solver, *carry, data), carry), None

    carry = solution.params, solution.state
    taken = jnp.arange(steps, dtype=jnp.int32)
    (params, state), _ = jax.lax.scan(body, carry, taken)
    judged = verdict(params, state, tol, stop)
    status = jnp.where(
        solution.status == Status.MAX_STEPS, ended(judged), solution.status
    )
    state, status = jax.lax.stop_gradient((state, status))
    return Solution(params, state, status, solution.history)


def unrolled_loop(solver, params, data, state, max_steps, tol, stop, record, length):
    """The same loop as a checkpointed scan that JAX can differentiate.

    Segments, and single updates in them, are skipped when no lane of a batch needs
    them, so that a generous `max_steps` costs nothing; the checkpoints stand outside of
    the branches, or what a branch reads would be saved once an update.
    """
    params, state, first = _first(solver, params, data, state)
    history = _rows(record, params, state, length)
    outer = max(1, int(np.ceil(np.sqrt(length))))
    inner = max(1, int(np.ceil(length / outer)))

    def is_live(carry):
        params, state, steps, _ = jax.lax.stop_gradient(carry)
        running = verdict(params, state, tol, stop) == Status.RUNNING
        running = running | (steps == 0)
        return running & (first == Status.RUNNING) & (steps < max_steps)

    @jax.checkpoint
    def one(carry, _):
        live = is_live(carry)

        def go(carry):
            params, state, steps, history = carry
            new = step(solver, params, state, data)
            params, state = where(live, new, (params, state))
            if record is not None:
                row = jax.lax.stop_gradient(record(params, state))
                at = jnp.where(live, steps, length)
                put = lambda rows, row: rows.at[at].set(row, mode="drop")
                history = jax.tree.map(put, history, row)
            return params, state, steps + live.astype(jnp.int32), history

        return jax.lax.cond(any_lane(live), go, lambda carry: carry, carry), None

    @jax.checkpoint
    def segment(carry, _):
        go = lambda carry: jax.lax.scan(one, carry, length=inner)[0]
        live = any_lane(is_live(carry))
        return jax.lax.cond(live, go, lambda carry: carry, carry), None

    carry = params, state, jnp.zeros((), jnp.int32), history
    (params, state, _, history), _ = jax.lax.scan(segment, carry, length=outer)
    status = ended(verdict(params, state, tol, stop))
    status = jnp.where(first == Status.RUNNING, status, first)
    state, status, history = jax.lax.stop_gradient((state, status, history))
    return Solution(params, state, status, history)
