"""The single loop of penalty methods, with STORM on every gradient."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.bilevel._oracle import accept, begin, error_of, upper_step
from jaxsolve.bilevel._penalty import (
    Numbers,
    Slopes,
    Triple,
    descent,
    lower_step,
    mapping,
    mix,
    penalty_oracle,
    penalty_rule,
    stack,
    unstack,
    within,
)
from jaxsolve.bilevel._problem import BilevelProblem, Levels


class PenaltyMomentumState(NamedTuple):
    """State of PBO with momentum and of F3SA."""

    count: chex.Array  # (), int32: updates taken.
    error: chex.Array  # (), real: largest entry of the mapping at the last update.
    status: chex.Array  # (), int32: running or diverged.
    shadow: Any  # like y: z, which minimises g alone; y at first.
    inner: Any  # (u, v), each like y: the inner iterates; None without centres.
    upper: Any  # the optimizer's own state.
    previous: Triple  # x, u and v where the gradients were estimated last.
    estimate: Slopes  # of the five gradients there.


def storm(estimate: Any, now: Any, previous: Any, weight: chex.Numeric) -> Any:
    """Carries an estimate over from the previous point, seen by the same sample."""
    return core.axpy(1 - weight, optax.tree.sub(estimate, previous), now)


def single_loop(
    problem: BilevelProblem,
    optimizer: optax.GradientTransformation,
    numbers: Numbers,
    momentum: optax.ScalarOrSchedule,
) -> core.Solver:
    """Makes a solver that moves x, u, v and their centres at every update.

    Without a rho, u and v are y and z themselves.
    """
    at = penalty_oracle(problem)
    begin_upper, step = upper_step(problem, optimizer)
    weights = core.as_schedule(momentum)
    centred = numbers.rho is not None

    def init(params, data=None):
        del data
        first, (x, y) = begin(params), within(problem, params)
        inner = (y, y) if centred else None
        nothing = optax.tree.zeros_like(Slopes(x, y, x, y, y))
        return PenaltyMomentumState(
            *first, y, inner, begin_upper(x), Triple(x, y, y), nothing
        )

    def update(params, state, data=None):
        x, y = within(problem, params)
        centres = y, state.shadow
        inner = state.inner if centred else centres
        here = numbers.at(state.count, params)
        triple = Triple(x, *inner)
        both = stack(triple, state.previous)
        slopes, old = unstack(jax.vmap(lambda triple: at(triple, data))(both))
        weight = core.real_scalar(weights(state.count), params)
        weight = jnp.where(state.count == 0, jnp.ones_like(weight), weight)
        estimate = storm(state.estimate, slopes, old, weight)
        new = lower_step(problem, here, inner, centres, estimate)
        new_y, new_z = mix(here.damping, centres, new) if centred else new
        gradient = descent(estimate, here.penalty)
        new_x, upper = step(gradient.upper, state.upper, x)
        parts = [mapping(problem, triple, descent(slopes, here.penalty))]
        if centred:
            pull = here.penalty / core.real_scalar(here.rho, params)
            away = optax.tree.sub(inner, centres)
            parts.append(core.axpy(pull, away, optax.tree.zeros_like(away)))
        new_state = PenaltyMomentumState(
            state.count + 1,
            error_of(*parts),
            state.status,
            new_z,
            new if centred else None,
            upper,
            triple,
            estimate,
        )
        new_params = Levels(new_x, new_y)
        return accept(params, state, new_params, new_state, free=("upper",))

    residual, rule = penalty_rule(problem, numbers.penalty)
    return core.Solver(init, update, residual, rule)
