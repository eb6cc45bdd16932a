"""The machine of the double-loop algorithms: a lower, an adjoint and an upper phase."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.bilevel._oracle import (
    accept,
    begin,
    error_of,
    lower_oracle,
    projected,
    stationarity,
    upper_oracle,
    upper_step,
)
from jaxsolve.bilevel._problem import BilevelProblem, Levels

LOWER, ADJOINT, UPPER = range(3)  # the phases of a round


class PhasesState(NamedTuple):
    """State of stocBiO, AmIGO, implicit descent and BO-REP."""

    count: chex.Array  # (), int32: updates taken.
    error: chex.Array  # (), real: largest entry of what should be zero, at the last
    # upper step: the hypergradient, g_y, and H w - f_y.
    status: chex.Array  # (), int32: running or diverged, or an inner solver's failure.
    outer: chex.Array  # (), int32: k, upper steps taken.
    phase: chex.Array  # (), int32: 0 lower, 1 adjoint, 2 upper.
    taken: chex.Array  # (), int32: updates of the lower phase, then of the others.
    value: chex.Array  # (), real: f where it was last evaluated; zero before.
    grad: Levels  # like params: f_x and f_y there.
    adjoint: Any  # like y: w, which tends to H^{-1} f_y.
    search: Any  # what the adjoint phase remembers beside w.
    lower: Any  # what the lower phase remembers beside y.
    upper: Any  # the optimizer's own state.


class LowerLoop(NamedTuple):
    """How y moves in a lower phase."""

    init: Callable  # (levels, data) -> memory
    wanted: Callable  # (outer) -> bool: whether this round has a lower phase.
    step: Callable  # (levels, state, slope, data) -> y, memory, done
    reads_slope: bool = True  # whether `step` reads g_y; if not it calls its own.


class AdjointLoop(NamedTuple):
    """How w moves in an adjoint phase."""

    begin: Callable  # (w, memory, f_y, outer) -> w, memory
    probe: Callable  # (w, memory, taken) -> what is multiplied by H next
    step: Callable  # (state, H times that) -> w, memory, done
    init: Callable = lambda y: None  # (y) -> memory
    empty: bool = False  # whether there is nothing to do but to begin.


class Seen(NamedTuple):
    """What an update evaluates, and where the adjoint stands then."""

    slope: Any  # like y: g_y.
    product: Levels  # (J^T v, H v) of the probe or the adjoint v.
    value: chex.Array
    grad: Levels
    adjoint: Any
    search: Any


def phases(
    problem: BilevelProblem,
    lower_loop: LowerLoop,
    adjoint_loop: AdjointLoop,
    optimizer: optax.GradientTransformation,
) -> core.Solver:
    """Makes a solver of rounds: lower steps, then adjoint steps, then one of x.

    An update linearises the lower level once, at one call site. Its products are taken
    in the adjoint and the upper phase only; the upper level is evaluated by the first
    update after the lower phase, and kept for the round.
    """
    look = _observer(problem, adjoint_loop)
    begin_upper, step = upper_step(problem, optimizer)
    after_lower = UPPER if adjoint_loop.empty else ADJOINT

    def first_phase(outer):
        wanted = lower_loop.wanted(outer)
        return jnp.where(wanted, LOWER, after_lower).astype(jnp.int32)

    steps = (
        _lower_phase(lower_loop, after_lower),
        _adjoint_phase(adjoint_loop),
        _upper_phase(problem, step, first_phase),
    )

    def init(params, data=None):
        first, (x, y) = begin(params), params
        zero, nothing = jnp.zeros((), jnp.int32), optax.tree.zeros_like(params)
        return PhasesState(
            *first,
            outer=zero,
            phase=first_phase(zero),
            taken=zero,
            value=core.real_scalar(0, params),
            grad=nothing,
            adjoint=nothing.lower,
            search=adjoint_loop.init(y),
            lower=lower_loop.init(params, data),
            upper=begin_upper(x),
        )

    def update(params, state, data=None):
        if lower_loop.reads_slope:
            seen = look(params, state, data)
        else:
            active = state.phase != LOWER
            nothing = _nothing_seen(params, state)
            seen = when(active, lambda: look(params, state, data), nothing)
        begun = state._replace(
            count=state.count + 1,
            value=seen.value,
            grad=seen.grad,
            adjoint=seen.adjoint,
            search=seen.search,
        )
        moved = jax.lax.switch(state.phase, steps, params, begun, seen, data)
        return accept(params, state, *moved, free=("lower", "upper"))

    return core.Solver(init, update, stationarity(problem), core.implicit())


def _lower_phase(loop, after):
    def step(params, state, seen, data):
        y, memory, done = loop.step(params, state, seen.slope, data)
        return Levels(params.upper, y), state._replace(
            phase=jnp.where(done, after, LOWER).astype(jnp.int32),
            taken=jnp.where(done, 0, state.taken + 1).astype(jnp.int32),
            lower=memory,
        )

    return step


def _adjoint_phase(loop):
    def step(params, state, seen, data):
        del data
        adjoint, search, done = loop.step(state, seen.product.lower)
        return params, state._replace(
            phase=jnp.where(done, UPPER, ADJOINT).astype(jnp.int32),
            taken=state.taken + 1,
            adjoint=adjoint,
            search=search,
        )

    return step


def _upper_phase(problem, move, first_phase):
    def step(params, state, seen, data):
        del data
        x, y = params
        gradient = optax.tree.sub(state.grad.upper, seen.product.upper)
        gap = optax.tree.sub(seen.product.lower, state.grad.lower)
        new_x, upper = move(gradient, state.upper, x, state.value)
        return Levels(new_x, y), state._replace(
            error=error_of(projected(problem, x, gradient), seen.slope, gap),
            outer=state.outer + 1,
            phase=first_phase(state.outer + 1),
            taken=jnp.zeros_like(state.taken),
            upper=upper,
        )

    return step


def _observer(problem, adjoint_loop):
    """Makes ``(levels, state, data) -> Seen``: all that an update evaluates."""
    lower, upper = lower_oracle(problem), upper_oracle(problem)

    def look(levels, state, data):
        slope, pull = lower(levels, data)
        active = state.phase != LOWER
        fresh = active & (state.taken == 0)
        old = state.value, state.grad
        value, grad = when(fresh, lambda: upper(levels, data), old)
        started = adjoint_loop.begin(
            state.adjoint, state.search, grad.lower, state.outer
        )
        adjoint, search = core.where(fresh, started, (state.adjoint, state.search))
        probe = adjoint_loop.probe(adjoint, search, state.taken)
        vector = core.where(state.phase == UPPER, adjoint, probe)
        nothing = optax.tree.zeros_like(levels)
        product = when(active, lambda: pull(vector), nothing)
        return Seen(slope, product, value, grad, adjoint, search)

    return look


def _nothing_seen(params, state):
    zeros = optax.tree.zeros_like(params)
    kept = state.value, state.grad, state.adjoint, state.search
    return Seen(zeros.lower, zeros, *kept)


def when(predicate: chex.Array, compute: Callable, otherwise: Any) -> Any:
    """Computes where the predicate holds, and only if it does in some lane."""
    return jax.lax.cond(
        core.any_lane(predicate),
        lambda: core.where(predicate, compute(), otherwise),
        lambda: otherwise,
    )


def check_steps(**steps: int) -> None:
    """Raises a `ValueError` unless every number of steps is a positive integer."""
    for name, value in steps.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}.")
