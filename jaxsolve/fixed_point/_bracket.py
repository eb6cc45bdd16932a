"""Roots in brackets: one machine for every rule that chooses the next trial.

Every entry of params has a bracket of its own, and a function of its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.fixed_point._equation import Equation, equation

Bound = Any  # of a bracket: a number, a tree, or a function of the data
START, LOWER, UPPER, INSIDE = range(4)


class End(NamedTuple):
    """A point of every bracket, and F there."""

    x: chex.Array  # (n,), real.
    f: chex.Array  # (n,), real.


class Ends(NamedTuple):
    """What is known of the brackets; all raveled."""

    newest: End
    across: End  # the end on the other side of the root.
    older: End  # the one before.
    first: chex.Array  # (n,), real: the width of the first bracket.
    halved: chex.Array  # (n,), real: that width, halved at every step since.


class BracketState(NamedTuple):
    """State of the methods that shrink brackets."""

    count: chex.Array  # (), int32: updates taken, one evaluation of F each.
    error: chex.Array  # (), real: sup-norm of F at params, where not yet within width.
    status: chex.Array  # (), int32: running, or how the run has failed.
    point: chex.Array  # (n,), real: params, raveled: the best end of every bracket.
    value: chex.Array  # (n,), real: F there; infinite where not yet evaluated.
    phase: chex.Array  # (), int32: what is evaluated next: start, lower, upper, inside.
    ends: Ends  # the brackets; before they are known, the start in place of newest.
    first: chex.Array  # (n,), real: the larger |F| at the ends of the first bracket.


def bracketing(
    fun: Equation,
    lower: Bound,
    upper: Bound,
    width: chex.Numeric | None,
    propose: Callable[[Ends], chex.Array],
) -> core.Solver:
    """Makes a solver of a rule for trials.

    Args:
        fun: as ``fun(params, data) -> values``, entry by entry.
        lower: the lower ends: a number, a tree, or a function of the data.
        upper: the upper ends.
        width: half-width of a bracket whose entry is solved, or None.
        propose: as ``propose(ends) -> trial``, (n,); clipped into the bracket.
    """
    if width is not None and not isinstance(width, jax.core.Tracer) and not width > 0:
        raise ValueError(f"width must be positive, got {width!r}.")
    values = equation(fun)

    def box(params, data):
        """The ends, whether they are in order, and whether they are finite."""
        pair = tuple(end(data) if callable(end) else end for end in (lower, upper))
        low, high = core.ravel_bounds(pair, params)
        ordered = jnp.all(low <= high)
        finite = jnp.all(jnp.isfinite(low) & jnp.isfinite(high))
        good = jnp.isfinite(low) & jnp.isfinite(high) & (low <= high)
        return jnp.where(good, low, 0), jnp.where(good, high, 0), ordered, finite

    def init(params, data=None):
        x, _ = core.ravel(params)
        low, high, _, _ = box(params, data)
        inf = jnp.full_like(x, jnp.inf)
        middle = low + 0.5 * (high - low)
        x = jnp.where((low < x) & (x < high), x, middle)
        return BracketState(
            count=jnp.zeros((), jnp.int32),
            error=jnp.full((), jnp.inf, x.dtype),
            status=as_status(Status.RUNNING),
            point=x,
            value=inf,
            phase=jnp.asarray(START, jnp.int32),
            ends=Ends(End(x, inf), End(high, inf), End(low, inf), inf, inf),
            first=inf,
        )

    def update(params, state, data=None):
        x, unravel = core.ravel_fine(params, state.point)
        low, high, ordered, finite = box(params, data)
        trial, phase = _trial(state, x, low, high, propose)
        trial, _ = core.ravel(unravel(trial))  # where it is evaluated, rounded
        value = values(unravel(trial), data)

        inside, opens = phase == INSIDE, phase == UPPER
        trial = End(trial, value)
        shrunk = _shrunk(state.ends, trial)
        ends = core.where(inside, shrunk, _opened(state.ends, trial, phase))
        point, best = _best(state, trial, ends, phase)
        new_phase = jnp.minimum(phase + 1, INSIDE)

        zero = best == 0
        one, other = ends.newest, ends.across
        apart = jnp.sign(one.f) * jnp.sign(other.f) <= 0
        missing = opens & jnp.any(~apart & ~zero)
        unknown = jnp.isnan(one.f) | jnp.isnan(other.f)
        unknown = (opens | inside) & jnp.any((unknown | jnp.isnan(value)) & ~zero)
        size = jnp.maximum(jnp.abs(one.f), jnp.abs(other.f))
        first = jnp.where(opens, size, state.first)
        gap = jnp.abs(one.x - other.x)
        middle, _ = core.ravel(unravel(one.x + 0.5 * (other.x - one.x)))
        stuck = (middle == one.x) | (middle == other.x) | zero
        within = jnp.zeros_like(zero)
        if width is not None:
            narrow = (gap <= 2 * jnp.asarray(width, gap.dtype)) & (new_phase == INSIDE)
            within = narrow & (jnp.abs(best) <= first)  # else it is a pole
        error = jnp.max(jnp.where(within, 0, jnp.abs(best)), initial=0)
        stalled = inside & jnp.all(stuck | within)
        status = state.status
        for condition, name in (
            (stalled, Status.STALLED),
            (missing, Status.BREAKDOWN),
            (unknown, Status.DIVERGED),
            (~finite, Status.BREAKDOWN),
            (~ordered, Status.PRIMAL_INFEASIBLE),
        ):
            status = jnp.where(condition, as_status(name), status)
        return unravel(point), BracketState(
            count=state.count + 1,
            error=error,
            status=status,
            point=point,
            value=best,
            phase=new_phase,
            ends=ends,
            first=first,
        )

    rule = core.implicit(_divide, symmetric=True)
    return core.Solver(init, update, values, rule)


def _divide(product, right):
    """Solves with the Jacobian of a function that works entry by entry."""
    return right / product(jnp.ones_like(right))


def _trial(state, x, low, high, propose):
    """Where to evaluate next, and as what; params that were changed come first."""
    one, other = state.ends.newest.x, state.ends.across.x
    least, most = jnp.minimum(one, other), jnp.maximum(one, other)
    inside = state.phase == INSIDE
    within = (jnp.where(inside, least, low) <= x) & (x <= jnp.where(inside, most, high))
    moved = (x != state.point) & within
    again = jnp.any(moved) & ~inside
    phase = jnp.where(again, START, state.phase).astype(jnp.int32)
    chosen = jnp.clip(propose(state.ends), least, most)
    chosen = jnp.where(inside & (state.value != 0), chosen, state.point)
    end = jnp.where(phase == LOWER, low, high)
    trial = jnp.where((phase == LOWER) | (phase == UPPER), end, chosen)
    return jnp.where(moved, x, trial), phase


def _shrunk(ends, trial):
    """The bracket after a trial inside; it stays where F is not a number."""
    same = jnp.sign(trial.f) == jnp.sign(ends.newest.f)
    across, older = _pick(same, ends.across, ends.newest)
    blind = jnp.isnan(trial.f)
    newest, _ = _pick(blind, ends.newest, trial)
    across, _ = _pick(blind, ends.across, across)
    older, _ = _pick(blind, ends.older, older)
    return Ends(newest, across, older, ends.first, ends.halved / 2)


def _opened(ends, trial, phase):
    """Before there is a bracket: the start, the upper and the lower end, as they come.

    After the last it is made of these: the newest is the start if F is a number there,
    else the end with the smaller value.
    """
    middle = core.where(phase == START, trial, ends.newest)
    low = core.where(phase == LOWER, trial, ends.older)
    high = core.where(phase == UPPER, trial, ends.across)
    left = jnp.sign(middle.f) != jnp.sign(low.f)  # the root is below the start
    across, older = _pick(left, low, high)
    best, worst = _pick(jnp.abs(high.f) < jnp.abs(low.f), high, low)
    blind = jnp.isnan(middle.f)
    newest, _ = _pick(blind, best, middle)
    across, _ = _pick(blind, worst, across)
    older, _ = _pick(blind, worst, older)
    done = phase == UPPER
    made = core.where(done, (newest, across, older), (middle, high, low))
    gap = jnp.abs(made[0].x - made[1].x)
    return Ends(*made, gap, gap)


def _pick(condition, one, other):
    """Two ends, or the other way round where the condition does not hold."""
    pick = lambda a, b: jnp.where(condition, a, b)
    return jax.tree.map(pick, one, other), jax.tree.map(pick, other, one)


def _best(state, trial, ends, phase):
    """The end of the bracket, or before there is one the point, with the least |F|."""
    first = jnp.abs(ends.newest.f) <= jnp.abs(ends.across.f)
    end, _ = _pick(first, ends.newest, ends.across)
    better = (phase == START) | (jnp.abs(trial.f) < jnp.abs(state.value))
    better = better & jnp.isfinite(trial.f)
    settled = (phase >= UPPER) & jnp.isfinite(end.f) & (state.value != 0)
    point = jnp.where(settled, end.x, jnp.where(better, trial.x, state.point))
    return point, jnp.where(settled, end.f, jnp.where(better, trial.f, state.value))
