"""How the solvers of this room tell a stall and divergence from progress."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve.core import Status, all_finite, as_status, once, ravel, value_and_grad
from jaxsolve.linesearch import ACCEPTED, FAILED


class Progress(NamedTuple):
    """What has been reached, and for how long no more."""

    best: chex.Array  # (), real: the least error so far.
    floor: chex.Array  # (), real: the value when it last improved beyond rounding.
    idle: chex.Array  # (), int32: accepted steps since value or error last improved.
    reach: chex.Array | None = None  # (), real: the largest radius, of a region.

    @staticmethod
    def start(inf: chex.Array, region: bool = False) -> "Progress":
        """Nothing has been reached yet."""
        reach = jnp.zeros_like(inf) if region else None
        return Progress(inf, inf, jnp.zeros((), jnp.int32), reach)


class Outcome(NamedTuple):
    """How a step ended that no line search or region judged."""

    failed: chex.Array  # (), bool: no step is acceptable any more.
    unbounded: chex.Array  # (), bool: it was good, and as long as steps can be.


def evaluate(oracle, params, data):
    """Evaluates an objective; where params overflow their own dtype it is infinite."""
    value, grad = oracle(params, data)
    return jnp.where(all_finite(params), value, jnp.inf), ravel(grad)[0]


def second_order(fun):
    """Makes `(params, data) -> (value, gradient, product)` at one call site.

    As by `evaluate`, but the value is infinite where the gradient is not finite too.
    The product with the Hessian is a linear function of a vector.
    """
    oracle = value_and_grad(fun)

    def linearised(params, data):
        (value, grad), push = jax.linearize(lambda p: oracle(p, data), params)
        _, unravel = ravel(params)
        usable = all_finite(params) & all_finite(grad)
        value = jnp.where(usable, value, jnp.inf)
        return value, ravel(grad)[0], lambda v: ravel(push(unravel(v))[1])[0]

    return linearised


def norm(x):
    """The Euclidean norm, also where its square overflows."""
    largest = jnp.max(jnp.abs(x), initial=0)
    largest = jnp.where(largest > 0, largest, 1)
    return largest * jnp.sqrt(jnp.sum(jnp.square(x / largest)))


def settle(search, moved, value):
    """Ends a search whose params were changed meanwhile, and were evaluated instead.

    Whatever is finite there is accepted.
    """
    there = jnp.where(jnp.isfinite(value), ACCEPTED, FAILED).astype(jnp.int32)
    return search._replace(outcome=once(jnp.where(moved, there, search.outcome)))


def judge(state, search, point, value, grad, fresh, patience):
    """Judges an accepted step, or the failure of a search.

    A step after which a region is larger than ever is no idle one: far from the
    solution many doublings may pass before a value tells them from rounding.

    Args:
        state: the solver's, before the step, with its value, status and progress.
        search: the line search, region or outcome that ended it.
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
    more, reach = 1, state.progress.reach
    if reach is not None:
        more = jnp.where(search.radius > reach, 0, 1)
        reach = jnp.maximum(reach, search.radius)
    idle = jnp.where(lower | better, 0, state.progress.idle + more)
    far = jnp.max(jnp.abs(point), initial=0) > 1e12
    stuck = (search.failed & fresh) | (idle >= patience)
    lost = (search.failed & first) | (search.unbounded & far) | (value < bottom)
    status = jnp.where(
        lost,
        as_status(Status.DIVERGED),
        jnp.where(stuck, as_status(Status.STALLED), state.status),
    )
    best = jnp.minimum(error, state.progress.best)
    return error, status, Progress(best, jnp.where(lower, value, floor), idle, reach)
