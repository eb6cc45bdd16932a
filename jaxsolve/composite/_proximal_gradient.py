"""Proximal gradient descent, plain and accelerated."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsolve import core
from jaxsolve.composite import _backtracking
from jaxsolve.composite._backtracking import Backtracking
from jaxsolve.composite._forward_backward import (
    at_rounding,
    extrapolate,
    follow,
    forward_backward,
    mapping_error,
    narrow,
    widen,
)
from jaxsolve.core import Status, as_status
from jaxsolve.prox import Prox


class ProximalGradientState(NamedTuple):
    """State of proximal gradient descent."""

    count: chex.Array  # (), int32: updates taken, one oracle call each.
    error: chex.Array  # (), real: sup-norm of the gradient mapping that gave params.
    status: chex.Array  # (), int32: running, stalled or diverged.
    point: core.Params  # like params, of at least 32 bits: x.
    trial: core.Params  # likewise: where the objective is evaluated next; z, or a test.
    momentum: chex.Array  # (), real: Nesterov's t.
    search: Backtracking | None  # what a searched stepsize needs beside.


@core.memoise
def proximal_gradient(
    fun: core.Objective,
    prox: Prox,
    stepsize: optax.ScalarOrSchedule | None = None,
    *,
    accelerate: bool = True,
    restart: bool = True,
    max_trials: int = 40,
) -> core.Solver:
    r"""Minimises."""
    if stepsize is not None and not callable(stepsize) and _nonpositive(stepsize):
        raise ValueError(f"stepsize must be positive, got {stepsize}.")
    if not isinstance(max_trials, int) or max_trials < 1:
        raise ValueError(f"max_trials must be a positive integer, got {max_trials!r}.")
    oracle = core.value_and_grad(fun)

    def init(params, data=None):
        del data
        point, inf = widen(params), core.real_scalar(jnp.inf, params)
        return ProximalGradientState(
            count=jnp.zeros((), jnp.int32),
            error=inf,
            status=as_status(Status.RUNNING),
            point=point,
            trial=point,
            momentum=core.real_scalar(1, params),
            search=_backtracking.start(point, inf) if stepsize is None else None,
        )

    def residual(params, data=None):
        x, one = widen(params), core.real_scalar(1, params)
        step = forward_backward(prox, x, oracle(params, data)[1], one)
        return narrow(optax.tree.sub(x, step), params)

    if stepsize is None:
        # The objective as `core.value_and_grad` checks and casts it.
        objective = oracle.__wrapped__
        update = _backtracking.searched(
            objective, prox, accelerate, restart, max_trials
        )
    else:
        schedule = core.as_schedule(stepsize)
        update = _stepped(oracle, prox, schedule, accelerate, restart)
    return core.Solver(init, update, residual, core.implicit())


def _nonpositive(stepsize):
    return not isinstance(stepsize, jax.core.Tracer) and not np.all(stepsize > 0)


def _stepped(oracle, prox, schedule, accelerate, restart):
    def update(params, state, data=None):
        x, _ = follow(params, state.point)
        # Zero unless params were changed meanwhile; then the extrapolation goes along.
        z = optax.tree.add(state.trial, optax.tree.sub(x, state.point))
        value, grad = oracle(narrow(z, params), data)
        grad = widen(grad)
        eta = core.real_scalar(schedule(state.count), params)
        new_x = forward_backward(prox, z, grad, eta)
        new_z, t, _ = extrapolate(
            x, new_x, z, state.momentum, 1, accelerate, restart
        )
        step = optax.tree.sub(new_x, z)
        bottom = -(float(jnp.finfo(value.dtype).max) ** 0.5)
        ok = jnp.isfinite(value) & (value > bottom) & core.all_finite((grad, new_z))
        stalled = jnp.where(at_rounding(step, new_x), Status.STALLED, state.status)
        new_x = core.where(ok, new_x, x)
        return narrow(new_x, params), state._replace(
            count=state.count + 1,
            error=jnp.where(ok, mapping_error(step, grad, z, eta), state.error),
            status=jnp.where(ok, stalled, as_status(Status.DIVERGED)),
            point=new_x,
            trial=core.where(ok, new_z, new_x),
            momentum=jnp.where(ok, t, 1),
        )

    return update
