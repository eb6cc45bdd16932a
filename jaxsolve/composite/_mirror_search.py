"""Mirror descent with a searched stepsize, one oracle call an update."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.composite import _stepsize
from jaxsolve.composite._forward_backward import (
    at_rounding,
    follow,
    inner,
    narrow,
    widen,
)
from jaxsolve.composite._stepsize import Stepsize
from jaxsolve.core import Status, as_status
from jaxsolve.prox import MirrorMap


class MirrorSearch(NamedTuple):
    """A step under way: from the anchor, by its gradient, to the candidate."""

    testing: chex.Array  # (), bool: whether the trial is the candidate, or the anchor.
    stepsize: Stepsize  # of the step.
    anchor: core.Params  # y.
    value: chex.Array  # (), real: the objective at the anchor.
    grad: core.Params  # the gradient there.
    candidate: core.Params  # x+, to be accepted or not.
    ahead: core.Params  # z+, that it comes from.
    bound: chex.Array  # (), real: the most by which the model may be exceeded there.


def start(point: core.Params, inf: chex.Array) -> MirrorSearch:
    """Nothing is known yet: the start itself is evaluated first."""
    return MirrorSearch(
        testing=jnp.zeros((), bool),
        stepsize=_stepsize.start(inf),
        anchor=point,
        value=inf,
        grad=optax.tree.zeros_like(point),
        candidate=point,
        ahead=point,
        bound=inf,
    )


def coupling(weight: chex.Array, eta: chex.Array) -> chex.Array:
    """The share of the mirror point: the root of (1 - theta) / theta^2 = A / eta."""
    return 2 / (1 + jnp.sqrt(1 + 4 * weight / eta))


def couple(theta: chex.Array, x: core.Params, z: core.Params) -> core.Params:
    """Computes (1 - theta) x + theta z; z itself where theta is one."""
    mixed = core.axpy(theta, optax.tree.sub(z, x), x)
    return core.where(theta == 1, z, mixed)


def searched(oracle, certify, mirror: MirrorMap, accelerate, restart, max_trials):
    """Makes the update of mirror descent with a searched stepsize."""

    def update(params, state, data=None):
        s = state.search
        x, moved = follow(params, state.point)
        trial, z = core.where(moved, (x, x), (state.trial, state.mirror))
        weight = jnp.where(moved, 0, state.weight)
        testing = s.testing & ~moved
        shown = narrow(trial, params)
        value, grad = oracle(shown, data)
        grad = widen(grad)
        finite = jnp.isfinite(value) & core.all_finite((grad, shown))

        step = optax.tree.sub(widen(shown), widen(narrow(s.anchor, params)))
        test = _stepsize.test(s.stepsize, value, s.value, s.grad, step, params)
        test = test._replace(bound=s.bound)
        bend = optax.tree.sub(grad, s.grad)
        accept = testing & finite & test.passed(step, grad, bend)
        reject = testing & ~accept

        # What follows if the candidate is accepted, or its anchor was not finite.
        eta = s.stepsize.eta
        longer = _stepsize.accepted(
            s.stepsize, _stepsize.next_eta(s.stepsize, test), jnp.ones((), bool)
        )
        shorter = _stepsize.rejected(s.stepsize, test, jnp.isfinite(value))
        stepsize = core.where(accept, longer, core.where(reject, shorter, s.stepsize))
        stepsize = _stepsize.started(stepsize, grad)
        change = optax.tree.sub(s.candidate, x)
        uphill = restart & (inner(s.grad, change) > 0)
        theta = coupling(weight, jnp.where(eta > 0, eta, 1))
        grown = jnp.where(accelerate & ~uphill, eta / theta**2, 0)
        new_weight = jnp.where(accept, grown, jnp.where(reject | finite, weight, 0))
        new_x = core.where(accept, s.candidate, x)
        new_z = core.where(accept, s.ahead, z)
        plain = new_weight == 0
        new_z = core.where(plain, new_x, new_z)

        anchored = finite & (~testing | (accept & plain))
        ready = anchored | (reject & plain)
        s = s._replace(
            testing=ready,
            stepsize=stepsize,
            anchor=core.where(anchored, trial, s.anchor),
            value=jnp.where(anchored, value, s.value),
            grad=core.where(anchored, grad, s.grad),
        )
        s, target = propose(s, new_x, new_z, new_weight, ready)

        at_params = accept | (~testing & (weight == 0))
        reach = jnp.where(finite & at_params, certify(trial, grad), state.error)
        bottom = -(float(jnp.finfo(value.dtype).max) ** 0.5)
        lost = (~testing & ~finite & (weight == 0)) | (value < bottom)
        still = accept & at_rounding(change, new_x)
        stalled = still | (stepsize.trials >= max_trials)
        status = jnp.where(stalled, as_status(Status.STALLED), state.status)
        return narrow(new_x, params), state._replace(
            count=state.count + 1,
            error=reach,
            status=jnp.where(lost, as_status(Status.DIVERGED), status),
            point=new_x,
            mirror=new_z,
            weight=new_weight,
            trial=target,
            search=s,
        )

    def propose(s, x, z, weight, ready):
        """Finds the candidate from the anchor, or the next anchor."""
        eta = jnp.where(s.stepsize.eta > 0, s.stepsize.eta, 1)
        theta = coupling(weight, eta)
        ahead = mirror_step(mirror, z, s.grad, eta / theta)
        candidate = couple(theta, x, ahead)
        far = mirror.divergence(ahead, z)
        moves = optax.tree.sub(ahead, z)
        # A start outside the set has no divergence.
        far = jnp.where(jnp.isfinite(far), far, inner(moves, moves) / 2)
        bound = theta**2 * far.astype(eta.dtype) / eta
        s = s._replace(candidate=candidate, ahead=ahead, bound=bound)
        return s, core.where(ready, candidate, couple(theta, x, z))

    return update


def mirror_step(mirror, point, grad, stepsize):
    """Computes a mirror step, checked to be like its point."""
    new = mirror.step(point, grad, stepsize)
    core.check_like("what the step of mirror_map returns", new, point)
    return jax.tree.map(jnp.asarray, new)
