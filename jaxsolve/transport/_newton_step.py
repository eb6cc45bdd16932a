"""A step of Newton's method for transport: the linear solve, and the search."""

from typing import NamedTuple

import chex
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.transport import _continuation
from jaxsolve.transport._newton_state import Krylov, inverse
from jaxsolve.transport._problem import damped, dot, dual, rounding
from jaxsolve.transport._products import bounded_exp

_TINY = 1e-3  # a stepsize below which a search has failed


class Tried(NamedTuple):
    """A trial point, and what the products told of it."""

    point: chex.Array  # (n,), real.
    value: chex.Array  # (), real: the dual objective.
    rows: chex.Array  # (n,), real: the sums of the rows.
    gap: chex.Array  # (n,), real: what these ought to be, less what they are.
    error: chex.Array  # (), real: its L1 norm over the mass, or floor.
    floor: chex.Array  # (), real: the least that rounding lets it be.
    share: chex.Array  # (m,), real: as in the state.


def best_columns(data, state, column):
    """The best g, exp of what it is above its anchor, and the share of the columns."""
    there = column > float(jnp.finfo(column.dtype).tiny)
    total = jnp.where(there, column, 1)
    g = state.anchor_g - state.epsilon * jnp.log(total)
    g = damped(g, data.rho_b, state.epsilon)
    g = jnp.where(there, g, jnp.where(data.b > 0, jnp.inf, state.anchor_g))
    v = jnp.where(there, bounded_exp((g - state.anchor_g) / state.epsilon), 0)
    share = damped(data.b * v / total, data.rho_b, state.epsilon)
    return g, v, share


def value_of(data, f, g, mass, epsilon):
    """The dual objective, but for a constant."""
    return dual(data.a, f, data.rho_a) + dual(data.b, g, data.rho_b) - epsilon * mass


def _diagonal(data, point, rows, epsilon):
    """The diagonal of the Hessian in units of the temperature, its main part."""
    if data.rho_a is None:
        return rows
    return rows + epsilon / data.rho_a * data.wanted_rows(point)


def conjugate(data, state, product, max_products, radius):
    """A step of conjugate gradients; after the last one a search begins."""
    k, p = state.krylov, state.krylov.direction
    diagonal = _diagonal(data, state.point, state.rows, state.epsilon)
    image = diagonal * p - product
    if data.balanced:  # along constants there is nothing to solve but rounding
        image = image + data.a * jnp.sum(data.a * p) / jnp.sum(data.a)
    curvature = jnp.sum(p * image)
    convex = curvature > 0
    t = jnp.where(convex, k.size / jnp.where(convex, curvature, 1), 0)
    solution, left = k.solution + t * p, k.residual - t * image
    scaled = left * inverse(diagonal)
    size = jnp.sum(left * scaled)
    turn = jnp.where(k.size > 0, size / jnp.where(k.size > 0, k.size, 1), 0)
    steps = k.steps + 1
    krylov = Krylov(solution, left, scaled + turn * p, size, k.goal, steps)
    done = (size <= k.goal) | (steps >= max_products) | ~convex

    newton = state.epsilon * solution
    gap = data.wanted_rows(state.point) - state.rows
    slope = jnp.sum(gap * newton)
    uphill = (slope > 0) & jnp.isfinite(slope)
    step = jnp.where(uphill, newton, _sinkhorn_step(data, state))
    return _search(data, state, step, radius)._replace(
        krylov=krylov,
        solving=~done,
        slope=jnp.where(uphill, slope, 0),
        value=jnp.where(done & ~uphill, -jnp.inf, state.value),
    )


def _sinkhorn_step(data, state):
    """From the accepted point to the best f at its g."""
    there = (state.rows > 0) & (data.a > 0)
    ratio = jnp.where(there, data.a / jnp.where(there, state.rows, 1), 1)
    raw = state.point + state.epsilon * jnp.log(ratio)
    return damped(raw, data.rho_a, state.epsilon) - state.point


def _search(data, state, step, radius):
    """A search along a step, within the radius of the kernel's anchor."""
    step = step - data.centre(step)
    longest = lambda h: jnp.max(jnp.where(data.a > 0, jnp.abs(h), 0))
    length, most = longest(step), radius * state.epsilon
    left = jnp.maximum(most - longest(state.point - state.anchor_f), 0.1 * most)
    limit = left / jnp.where(length > 0, length, 1)
    return state._replace(
        direction=step, stepsize=jnp.where(length > 0, jnp.minimum(1, limit), 1)
    )


def tried_of(state, data, point, g, value, rows, share):
    """A trial and its error, which is not less than rounding makes it."""
    gap = jnp.where(data.a > 0, data.wanted_rows(point) - rows, 0)
    error = jnp.sum(jnp.abs(gap)) / jnp.sum(data.b)
    floor = rounding(data, point, g, state.epsilon)
    return Tried(point, value, rows, gap, jnp.maximum(error, floor), floor, share)


def judged(data, state, tried, continuation, forcing, radius, patience):
    """Accepts a trial, and begins a linear solve; or steps back."""
    eps = float(jnp.finfo(tried.value.dtype).eps)
    size = jnp.abs(tried.value) + dot(data.a, jnp.abs(tried.point))
    noise = 10 * eps * jnp.where(jnp.isfinite(size), size, 0)
    change = tried.value - state.value
    higher = change >= 1e-4 * state.stepsize * state.slope
    level = (change >= -noise) & (tried.error <= 2 * state.level)
    finite = jnp.isfinite(tried.value) & jnp.isfinite(tried.error)
    accepted = finite & (higher | level)

    error = tried.error
    final = state.epsilon <= data.epsilon
    epsilon, onward = _continuation.following(continuation, data, state.epsilon, error)
    better = error < state.best
    idle = jnp.where(better, 0, state.idle + 1)
    diagonal = _diagonal(data, tried.point, tried.rows, state.epsilon)
    scaled = tried.gap * inverse(diagonal)
    square = jnp.sum(tried.gap * scaled)
    share = jnp.where(final, jnp.minimum(forcing, jnp.sqrt(error)), forcing)
    # At the floor there is nothing to gain, whatever the steps.
    stalled = ((idle >= patience) & ~onward) | (final & (error <= tried.floor))
    go_on = state._replace(
        error=jnp.where(final, error, jnp.inf),
        status=jnp.where(stalled, as_status(Status.STALLED), state.status),
        epsilon=epsilon,
        point=tried.point,
        value=tried.value,
        level=error,
        rows=tried.rows,
        share=tried.share,
        krylov=Krylov(
            jnp.zeros_like(scaled),
            tried.gap,
            scaled,
            square,
            share**2 * square,
            jnp.zeros_like(state.idle),
        ),
        solving=jnp.ones((), bool),
        direction=jnp.zeros_like(scaled),
        best=jnp.where(onward, jnp.inf, jnp.minimum(error, state.best)),
        best_point=jnp.where(better, tried.point, state.best_point),
        idle=jnp.where(onward, 0, idle),
    )
    # A search that failed is followed by a step of Sinkhorn's, which always ascends.
    failed = state.stepsize < _TINY
    sinkhorn = _search(data, state, _sinkhorn_step(data, state), radius)
    sinkhorn = sinkhorn._replace(value=jnp.full_like(state.value, -jnp.inf))
    lost = failed & ~jnp.isfinite(state.value)
    back = core.where(failed, sinkhorn, state._replace(stepsize=0.5 * state.stepsize))
    back = back._replace(
        status=jnp.where(lost, as_status(Status.STALLED), state.status)
    )
    return core.where(accepted, go_on, back)
