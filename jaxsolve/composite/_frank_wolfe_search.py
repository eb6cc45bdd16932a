"""Frank-Wolfe steps of searched length, one oracle call an update."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.composite import _active_set, _stepsize
from jaxsolve.composite._active_set import ActiveSet, Exchange
from jaxsolve.composite._forward_backward import (
    at_rounding,
    follow,
    inner,
    narrow,
    widen,
)
from jaxsolve.composite._stepsize import Stepsize
from jaxsolve.core import Status, as_status
from jaxsolve.prox import LinearOracle

START = 0  # the trial is what the user gave; a vertex follows.
VERTEX = 1  # the trial is a vertex, accepted whatever it is worth.
TEST = 2  # the trial is a step from the iterate, accepted if the test holds there.


class Plan(NamedTuple):
    """Where a step goes: a direction from the iterate, and how far it may lead."""

    direction: core.Params  # d, like params.
    limit: chex.Array  # (), real: the longest step that stays in the set.
    active: ActiveSet | None  # the iterate as a combination of vertices.
    by: Exchange | None  # what the step does to its weights.
    target: chex.Array | None  # (m,), real: the weights at the trial.


class FrankWolfeSearch(NamedTuple):
    """A step under way."""

    phase: chex.Array  # (), int32: what the trial is; see above.
    trial: core.Params  # like params, of at least 32 bits: evaluated next.
    value: chex.Array  # (), real: the objective at the iterate.
    grad: core.Params  # the gradient there.
    stepsize: Stepsize  # the reciprocal of the Lipschitz estimate.
    plan: Plan


class Directions(NamedTuple):
    """How a method finds its directions."""

    start: Callable  # (x, inf) -> Plan: an empty one.
    find: Callable  # (x, grad, vertex, plan) -> Plan at an iterate.
    reach: Callable  # (x, plan, gamma) -> trial, plan


def start(point: core.Params, inf: chex.Array, directions: Directions):
    """Nothing is known yet: the start itself is evaluated first."""
    return FrankWolfeSearch(
        phase=jnp.full((), START, jnp.int32),
        trial=point,
        value=inf,
        grad=optax.tree.zeros_like(point),
        stepsize=_stepsize.start(inf),
        plan=directions.start(point, inf),
    )


def vertex_of(oracle: LinearOracle, grad: core.Params) -> core.Params:
    """Asks a linear oracle, and checks that its answer is like the gradient."""
    found = oracle.vertex(grad)
    core.check_like("the vertex that the oracle returns", found, grad)
    return found


def straight() -> Directions:
    """The directions of the plain method: to the vertex."""

    def begin(x, inf):
        return Plan(optax.tree.zeros_like(x), jnp.zeros_like(inf), None, None, None)

    def find(x, grad, vertex, plan):
        one = jnp.ones_like(plan.limit)
        return plan._replace(direction=optax.tree.sub(vertex, x), limit=one)

    def reach(x, plan, gamma):
        return core.axpy(gamma, plan.direction, x), plan

    return Directions(begin, find, reach)


def among_vertices(oracle: LinearOracle, capacity: int, pairwise: bool) -> Directions:
    """The directions of the methods that can take weight off a vertex again."""
    corners = oracle.corners

    def begin(x, inf):
        vector, _ = core.ravel(x)
        active = _active_set.start(vector, corners, capacity)
        no = active.weights
        by = Exchange(no, jnp.zeros_like(inf), no > 0)
        return Plan(optax.tree.zeros_like(x), jnp.zeros_like(inf), active, by, no)

    def find(x, grad, vertex, plan):
        _, unravel = core.ravel(x)
        g, v = core.ravel(grad)[0], core.ravel(vertex)[0]
        active, scores, enter = _active_set.insert(plan.active, v, g, corners)
        by = _active_set.exchange(active.weights, scores, enter, pairwise)
        direction = unravel(_active_set.combine(active, by.change, corners))
        return Plan(direction, by.limit, active, by, plan.target)

    def reach(x, plan, gamma):
        _, unravel = core.ravel(x)
        target = _active_set.move(plan.active.weights, plan.by, gamma)
        trial = unravel(_active_set.combine(plan.active, target, corners))
        return trial, plan._replace(target=target)

    return Directions(begin, find, reach)


def searched(gradient, oracle: LinearOracle, directions: Directions, max_trials: int):
    """Makes the update of a Frank-Wolfe method, given how it finds a direction."""

    def update(params, state, data=None):
        s = state.search
        x, moved = follow(params, state.point)
        trial = core.where(moved, x, s.trial)
        phase = jnp.where(moved, START, s.phase)
        starting, testing = phase == START, phase == TEST
        shown = narrow(trial, params)
        value, grad = gradient(shown, data)
        grad = widen(grad)
        finite = jnp.isfinite(value) & core.all_finite((grad, shown))

        step = optax.tree.sub(widen(shown), widen(narrow(x, params)))
        test = _stepsize.test(s.stepsize, value, s.value, s.grad, step, params)
        good = test.passed(step, grad, optax.tree.sub(grad, s.grad))
        passed = finite & (~testing | good)
        longer = _stepsize.accepted(
            s.stepsize, _stepsize.next_eta(s.stepsize, test), jnp.ones((), bool)
        )
        shorter = _stepsize.rejected(s.stepsize, test, jnp.isfinite(value))
        changed = core.where(passed, longer, shorter)
        stepsize = core.where(testing, changed, s.stepsize)
        stepsize = _stepsize.started(stepsize, grad)

        accept = passed & ~starting
        new_x = core.where(accept, trial, x)
        vertex = vertex_of(oracle, grad)
        gap = -inner(grad, optax.tree.sub(vertex, trial))
        found = directions.find(new_x, grad, vertex, _landed(s.plan, accept, starting))
        plan = core.where(passed, found, s.plan)
        grad = core.where(passed, grad, s.grad)
        # The first step goes all the way, and need not begin in the set.
        gamma = jnp.where(starting, 1, _length(grad, plan, stepsize.eta))
        target, plan = directions.reach(new_x, plan, gamma)
        target = core.where(starting, vertex, target)

        bottom = -(float(jnp.finfo(value.dtype).max) ** 0.5)
        lost = (~testing & ~finite) | (value < bottom)
        still = testing & passed & at_rounding(step, new_x)
        stalled = still | (stepsize.trials >= max_trials)
        status = jnp.where(stalled, as_status(Status.STALLED), state.status)
        return narrow(new_x, params), state._replace(
            count=state.count + 1,
            error=jnp.where(accept, jnp.maximum(gap, 0), state.error),
            status=jnp.where(lost, as_status(Status.DIVERGED), status),
            point=new_x,
            search=FrankWolfeSearch(
                phase=jnp.where(starting, VERTEX, TEST).astype(jnp.int32),
                trial=target,
                value=jnp.where(passed, value, s.value),
                grad=grad,
                stepsize=stepsize,
                plan=plan,
            ),
        )

    return update


def _landed(plan: Plan, accept, starting) -> Plan:
    """The plan with the weights of the new iterate; a start has none."""
    if plan.active is None:
        return plan
    weights = jnp.where(accept, plan.target, plan.active.weights)
    weights = jnp.where(starting, 0, weights)
    return plan._replace(active=plan.active._replace(weights=weights))


def _length(grad, plan: Plan, eta) -> chex.Array:
    """The least of the model along the direction, within its limit."""
    square = inner(plan.direction, plan.direction)
    slope = -inner(grad, plan.direction)
    best = eta * slope / jnp.where(square > 0, square, 1)
    return jnp.clip(best, 0, plan.limit)
