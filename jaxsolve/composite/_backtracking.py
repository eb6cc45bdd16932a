"""Proximal gradient descent with a searched stepsize, one oracle call an update."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.composite import _stepsize
from jaxsolve.composite._forward_backward import (
    at_rounding,
    extrapolate,
    follow,
    forward_backward,
    inner,
    mapping_error,
    narrow,
    widen,
)
from jaxsolve.composite._stepsize import Stepsize
from jaxsolve.core import Status, as_status
from jaxsolve.prox import Prox, resolve

LANDED = 0  # the trial is the next anchor, whatever it is worth.
CAREFUL = 1  # the trial is the candidate: it is accepted if the test holds there.
BOLD = 2  # the trial is the anchor after the candidate, accepted if the test holds.


class Backtracking(NamedTuple):
    """A step under way: from the anchor, along its gradient, to the candidate."""

    phase: chex.Array  # (), int32: what the trial is; see above.
    stepsize: Stepsize  # of the step.
    candidate: core.Params  # x+, to be accepted or not.
    anchor: core.Params  # z, from which it was found.
    value: chex.Array  # (), real: the objective at the anchor.
    grad: core.Params  # the gradient there.


def start(point: core.Params, inf: chex.Array) -> Backtracking:
    """Nothing is known yet: the start itself is evaluated first."""
    return Backtracking(
        phase=jnp.full((), LANDED, jnp.int32),
        stepsize=_stepsize.start(inf),
        candidate=point,
        anchor=point,
        value=inf,
        grad=optax.tree.zeros_like(point),
    )


def searched(objective, prox: Prox, accelerate, restart, max_trials):
    """Makes the update of proximal gradient descent with a searched stepsize."""
    ahead = lambda *args: extrapolate(*args, accelerate, restart)

    def update(params, state, data=None):
        s, eta = state.search, state.search.stepsize.eta
        x, moved = follow(params, state.point)
        trial = core.where(moved, x, state.trial)
        t = jnp.where(moved, 1, state.momentum)
        phase = jnp.where(moved, LANDED, s.phase)
        landed, bold = phase == LANDED, phase == BOLD
        shown = narrow(trial, params)
        value, pull = jax.vjp(lambda p: objective(p, data), shown)
        value = jnp.where(core.all_finite(shown), value, jnp.inf)
        step = optax.tree.sub(widen(shown), widen(narrow(s.anchor, params)))
        test = _stepsize.test(s.stepsize, value, s.value, s.grad, step, params)

        # What follows if the candidate is accepted. It grows only after a real test.
        new_eta = jnp.where(bold, eta, _stepsize.next_eta(s.stepsize, test))
        ratio = eta / jnp.where(new_eta > 0, new_eta, 1)
        z, new_t, same = ahead(x, s.candidate, s.anchor, t, ratio)
        wanted = landed | ~test.resolved | (test.holds & (bold | same))
        grad = jax.lax.cond(
            wanted & jnp.isfinite(value),
            lambda: widen(pull(jnp.ones_like(value))[0]),
            lambda: optax.tree.zeros_like(trial),
        )
        bend = optax.tree.sub(grad, s.grad)
        finite = jnp.isfinite(value) & core.all_finite((grad, trial))
        good = finite & (landed | test.passed(step, grad, bend))

        accept, reject = good & ~landed, ~good & (phase == CAREFUL)
        new_x = core.where(accept, s.candidate, x)
        new_t = jnp.where(accept, new_t, jnp.where(landed & ~finite, 1, t))
        longer = _stepsize.accepted(s.stepsize, new_eta, ~bold)
        shorter = _stepsize.rejected(s.stepsize, test, jnp.isfinite(value))
        stepsize = core.where(accept, longer, core.where(reject, shorter, s.stepsize))
        stepsize = _stepsize.started(stepsize, grad)
        # Wherever there is a gradient it is gone on from.
        anchored = good & (landed | bold | same)
        new = s._replace(
            stepsize=stepsize,
            anchor=core.where(anchored, trial, s.anchor),
            value=jnp.where(anchored, value, s.value),
            grad=core.where(anchored, grad, s.grad),
        )
        gentle = stepsize.eta * inner(bend, bend) <= inner(bend, step)
        here = resolve(prox, data)
        new, target = aim(here, new, new_x, new_t, anchored, anchored & gentle, reject)
        landing = ~anchored & (accept | landed)
        target = core.where(landing, core.where(accept, z, new_x), target)
        new = new._replace(phase=jnp.where(landing, LANDED, new.phase))

        moves = optax.tree.sub(s.candidate, s.anchor)
        bottom = -(float(jnp.finfo(value.dtype).max) ** 0.5)
        lost = (landed & ~finite & (t == 1)) | (jnp.isfinite(value) & (value < bottom))
        still = accept & at_rounding(moves, s.candidate)
        spent = stepsize.trials >= max_trials
        stalled = still | spent
        # No step has ever had an end: the prox has none, as of an empty set.
        nowhere = spent & jnp.isinf(state.error) & ~core.all_finite(s.candidate)
        status = jnp.where(stalled, as_status(Status.STALLED), state.status)
        reach = mapping_error(moves, s.grad, s.anchor, eta)
        return narrow(new_x, params), state._replace(
            count=state.count + 1,
            error=jnp.where(accept, reach, state.error),
            status=jnp.where(lost | nowhere, as_status(Status.DIVERGED), status),
            point=new_x,
            trial=target,
            momentum=new_t,
            search=new,
        )

    def aim(prox, s, x, t, anchored, gentle, reject):
        """Finds the candidate from a new anchor or stepsize, and what to try first."""
        found = forward_backward(prox, s.anchor, s.grad, s.stepsize.eta)
        candidate = core.where(anchored | reject, found, s.candidate)
        due = s.stepsize.idle >= s.stepsize.wait
        trusted = gentle & s.stepsize.tested & ~due & accelerate
        z, _, _ = ahead(x, candidate, s.anchor, t, 1)
        phase = jnp.where(trusted, BOLD, CAREFUL).astype(jnp.int32)
        target = core.where(trusted, z, candidate)
        return s._replace(candidate=candidate, phase=phase), target

    return update
