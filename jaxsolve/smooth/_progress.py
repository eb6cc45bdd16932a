"""How the solvers of this room tell a stall and divergence from progress."""

from typing import NamedTuple

import chex
import jax.numpy as jnp

from jaxsolve.core import Status, all_finite, as_status, once, ravel
from jaxsolve.linesearch import ACCEPTED, FAILED


class Progress(NamedTuple):
    """What has been reached, and for how long no more."""

    best: chex.Array  # (), real: the least error so far.
    floor: chex.Array  # (), real: the value when it last improved beyond rounding.
    idle: chex.Array  # (), int32: accepted steps since value or error last improved.

    @staticmethod
    def start(inf: chex.Array) -> "Progress":
        """Nothing has been reached yet."""
        return Progress(inf, inf, jnp.zeros((), jnp.int32))


def evaluate(oracle, params, data):
    """Evaluates an objective; where params overflow their own dtype it is infinite."""
    value, grad = oracle(params, data)
    return jnp.where(all_finite(params), value, jnp.inf), ravel(grad)[0]


def settle(search, moved, value):
    """Ends a search whose params were changed meanwhile, and were evaluated instead.

    Whatever is finite there is accepted.
    """
    there = jnp.where(jnp.isfinite(value), ACCEPTED, FAILED).astype(jnp.int32)
    return search._replace(outcome=once(jnp.where(moved, there, search.outcome)))


def judge(state, search, point, value, grad, fresh, patience):
    """Judges an accepted step, or the failure of a search.

    Args:
        state: the solver's, before the step, with its value, status and progress.
        search: the line search that ended.
        point: the new iterate: (n,), real.
        value: the objective there: (), real.
        grad: the gradient there: (n,), real.
        fresh: whether the search followed the steepest descent: (), bool.
        patience: accepted steps without progress that are a stall.

    Returns:
        The error, the status, and the progress.
    """
    dtype = value.dtype
    eps = float(jnp.finfo(dtype).eps)
    bottom = -(float(jnp.finfo(dtype).max) ** 0.75)
    error = jnp.where(jnp.isfinite(value), jnp.max(jnp.abs(grad), initial=0), jnp.inf)
    first = ~jnp.isfinite(state.value)
    floor = state.progress.floor
    lower = first | (value < floor - 2 * eps * jnp.abs(floor))
    better = error < 0.9 * state.progress.best
    idle = jnp.where(lower | better, 0, state.progress.idle + 1)
    far = jnp.max(jnp.abs(point), initial=0) > 1e12
    stuck = (search.failed & fresh) | (idle >= patience)
    lost = (search.failed & first) | (search.unbounded & far) | (value < bottom)
    status = jnp.where(
        lost,
        as_status(Status.DIVERGED),
        jnp.where(stuck, as_status(Status.STALLED), state.status),
    )
    best = jnp.minimum(error, state.progress.best)
    return error, status, Progress(best, jnp.where(lower, value, floor), idle)
