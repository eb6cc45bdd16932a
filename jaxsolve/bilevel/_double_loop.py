"""The double loop of penalty methods, as the phases of one machine."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.bilevel._oracle import accept, begin, error_of, upper_step
from jaxsolve.bilevel._penalty import (
    Numbers,
    Triple,
    descent,
    lower_step,
    mapping,
    mix,
    penalty_oracle,
    penalty_rule,
    within,
)
from jaxsolve.bilevel._problem import BilevelProblem, Levels


class PenaltyState(NamedTuple):
    """State of PBO and of F2SA."""

    count: chex.Array  # (), int32: updates taken.
    error: chex.Array  # (), real: largest entry of the mapping at the last step of x.
    status: chex.Array  # (), int32: running or diverged.
    shadow: Any  # like y: z, which minimises g alone; y at first.
    inner: Any  # (u, v), each like y: the inner iterates; None without centres.
    upper: Any  # the optimizer's own state.
    turn: chex.Array  # (), int32: lower steps taken in this round.
    round: chex.Array  # (), int32: steps of x taken.


def double_loop(
    problem: BilevelProblem,
    optimizer: optax.GradientTransformation,
    numbers: Numbers,
    steps: int,
) -> core.Solver:
    """Makes a solver that takes `steps` lower steps, then one of x, and so on.

    Without a rho, u and v are y and z themselves.
    """
    at = penalty_oracle(problem)
    begin_upper, step = upper_step(problem, optimizer)
    centred = numbers.rho is not None

    def init(params, data=None):
        del data
        first, zero = begin(params), jnp.zeros((), jnp.int32)
        x, y = within(problem, params)
        inner = (y, y) if centred else None
        return PenaltyState(*first, y, inner, begin_upper(x), zero, zero)

    def update(params, state, data=None):
        x, y = within(problem, params)
        centres = y, state.shadow
        inner = state.inner if centred else centres
        here = numbers.at(state.round, params)
        slopes = at(Triple(x, *inner), data)

        def below():
            turn = state.turn + 1
            new = lower_step(problem, here, inner, centres, slopes)
            new_y, new_z = new
            if centred:
                last = turn == steps
                moved = mix(here.damping, centres, new)
                new_y, new_z = core.where(last, moved, centres)
                new = core.where(last, moved, new)
            new_state = state._replace(
                shadow=new_z, inner=new if centred else None, turn=turn
            )
            return Levels(x, new_y), new_state

        def above():  # here u and v are y and z
            gradient = descent(slopes, here.penalty)
            new_x, upper = step(gradient.upper, state.upper, x)
            new_state = state._replace(
                error=error_of(mapping(problem, Triple(x, *centres), gradient)),
                upper=upper,
                turn=jnp.zeros_like(state.turn),
                round=state.round + 1,
            )
            return Levels(new_x, y), new_state

        new_params, new_state = jax.lax.cond(state.turn < steps, below, above)
        new_state = new_state._replace(count=state.count + 1)
        return accept(params, state, new_params, new_state, free=("upper",))

    residual, rule = penalty_rule(problem, numbers.penalty)
    return core.Solver(init, update, residual, rule)
