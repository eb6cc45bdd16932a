"""Where the kernel of Newton's method for transport is anchored, and when anew."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.transport._newton_state import inverse
from jaxsolve.transport._problem import damped


class Plan(NamedTuple):
    """An accepted trial in terms of the kernel it was tried with."""

    f: chex.Array  # (n,), real: the point that the update began with.
    g: chex.Array  # (m,), real: the best at the trial.
    u: chex.Array  # (n,), real: exp of what the trial is above its anchor.
    v: chex.Array  # (m,), real: the same of g.
    row: chex.Array  # (n,), real: the kernel's product with b v.
    column: chex.Array  # (m,), real: its transpose's with a u.
    accepted: chex.Array  # (), bool: whether all this is so.


def renewed(data, state, epsilon, moved, plan, matrix, power, radius):
    """The state and the kernel's matrix, anchored anew where that is due.

    A kernel at an accepted trial is the old one with rows and columns scaled, and at an
    integer fraction of the temperature a power of that: no exponentials. At the last
    temperature it is computed from the cost, lest rounding grow. At the start, and
    where a scaling would lose a row or a column, a step of Sinkhorn's comes first.
    """
    far = jnp.where(data.a > 0, jnp.abs(state.point - state.anchor_f), 0)
    # A g so far from its anchor that its exponential is cut is right all the same, but
    # what was measured with it is not.
    steep = jnp.where(data.b > 0, jnp.abs(plan.g - state.anchor_g), 0)
    steep = plan.accepted & (jnp.max(steep) > radius * epsilon)
    cold = state.epsilon != epsilon
    renew = (
        steep | ~state.anchored | moved | cold | (jnp.max(far) > radius / 2 * epsilon)
    )
    least = float(jnp.finfo(epsilon.dtype).tiny) ** (0.5 / (power or 1))
    within = lambda total: (total > least) & (total < 1 / least)
    whole = lambda weight, total: jnp.all((weight == 0) | within(total))
    safe = whole(data.a, plan.u * plan.row) & whole(data.b, plan.v * plan.column)
    safe = safe & jnp.all((data.a > 0) | within(plan.row)) & plan.accepted
    again = renew & ~(safe & state.anchored)
    fresh = again | steep | (state.epsilon <= data.epsilon) | (cold & (power is None))
    fresh = fresh & renew

    # Rows without weight take their best f, lest their entries overflow.
    best = 1 / jnp.where(plan.row > 0, plan.row, 1)
    u = jnp.where(data.a > 0, plan.u, best)
    f = jnp.where(data.a > 0, state.point, state.anchor_f + epsilon * jnp.log(u))
    share = damped(data.b * inverse(plan.v * plan.column), data.rho_b, epsilon)

    def scaled():
        other = u[:, None] * matrix * plan.v[None, :]
        if power is not None:
            other = jnp.where(cold, jax.lax.integer_pow(other, power), other)
        return jnp.where(renew, other, matrix)

    def computed(f, g):
        kernel = data.geometry.kernel(f, g, state.epsilon)
        return jnp.where(fresh, kernel.matrix, scaled())

    def anew():
        swept = lambda: core.where(again, _swept(data, state), (f, plan.g, state))
        kept = lambda: (f, plan.g, state)
        f_new, g, new = jax.lax.cond(core.any_lane(again), swept, kept)
        started = again | cold | steep
        shift = jnp.where(started, data.best_shift(f_new, g), 0)
        f_new, g = f_new + shift, g - shift
        here = new._replace(point=f_new, anchor_f=f_new, anchor_g=g, share=share)
        here = here._replace(anchored=jnp.ones_like(again))
        new = core.where(renew, core.where(started, _started(here), here), new)
        if matrix is None:
            return new, None
        compute = lambda: computed(f_new, g)
        return new, jax.lax.cond(core.any_lane(fresh), compute, scaled)

    return jax.lax.cond(core.any_lane(renew), anew, lambda: (state, matrix))


def _started(state):
    """The state at its anchors, to be evaluated there."""
    return state._replace(
        error=jnp.full_like(state.error, jnp.inf),
        value=jnp.full_like(state.value, -jnp.inf),
        solving=jnp.zeros_like(state.solving),
        direction=jnp.zeros_like(state.direction),
        slope=jnp.zeros_like(state.slope),
        stepsize=jnp.ones_like(state.stepsize),
    )


def _swept(data, state):
    """Potentials after a step of Sinkhorn's, and the state with what it told."""
    f, epsilon = state.point, state.epsilon
    finite = lambda h, other: jnp.where(jnp.isfinite(h), h, other)
    f = finite(f, 0)
    column = data.other(f, epsilon)
    row = data.best(finite(column, 0), epsilon)
    nan = jnp.any(jnp.isnan(column)) | jnp.any(jnp.isnan(row) & (data.a > 0))
    lost = lambda weight, h: jnp.any((weight > 0) & (h == jnp.inf))
    status = jnp.where(
        lost(data.a, row) | lost(data.b, column),
        as_status(Status.PRIMAL_INFEASIBLE),
        state.status,
    )
    status = jnp.where(nan, as_status(Status.DIVERGED), status)
    return finite(row, f), finite(column, 0), state._replace(status=status)
