"""The fixed-point iteration that Douglas-Rachford and Davis-Yin splitting share."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.composite._forward_backward import (
    at_rounding,
    follow,
    forward_backward,
    mapping_error,
    narrow,
    widen,
)
from jaxsolve.core import Status, as_status
from jaxsolve.prox import Prox


class SplittingState(NamedTuple):
    """State of Douglas-Rachford and of Davis-Yin splitting."""

    count: chex.Array  # (), int32: updates taken.
    error: chex.Array  # (), real: sup-norm of y - x, over the stepsize if below one.
    status: chex.Array  # (), int32: running, stalled or diverged.
    point: core.Params  # like params, of at least 32 bits: x, or the start.
    governing: core.Params  # likewise: z, where the next update starts from.


def start(params, data=None) -> SplittingState:
    """Begins at z = params: nothing is evaluated yet."""
    del data
    point = widen(params)
    return SplittingState(
        count=jnp.zeros((), jnp.int32),
        error=core.real_scalar(jnp.inf, params),
        status=as_status(Status.RUNNING),
        point=point,
        governing=point,
    )


def split(oracle, prox_f: Prox, prox_g: Prox, stepsize, relaxation):
    """Makes the update; `oracle` gives value and gradient of h, or is None."""

    def update(params, state, data=None):
        eta = core.real_scalar(stepsize, params)
        seen, _ = follow(params, state.point)
        # Zero unless params were changed meanwhile; then z goes along.
        z = optax.tree.add(state.governing, optax.tree.sub(seen, state.point))
        nothing = optax.tree.zeros_like(z)
        x = forward_backward(prox_g, z, nothing, eta, data)
        value, grad = jnp.zeros_like(eta), nothing
        if oracle is not None:
            value, grad = oracle(narrow(x, params), data)
            grad = widen(grad)
        mirrored = optax.tree.sub(optax.tree.add(x, x), z)
        y = forward_backward(prox_f, mirrored, grad, eta, data)
        step = optax.tree.sub(y, x)
        new_z = core.axpy(core.real_scalar(relaxation, params), step, z)

        bottom = -(float(jnp.finfo(value.dtype).max) ** 0.5)
        ok = jnp.isfinite(value) & (value > bottom) & (eta > 0) & jnp.isfinite(eta)
        ok = ok & core.all_finite((narrow(x, params), grad, new_z))
        reach = mapping_error(step, grad, x, eta)
        unseen = _unseen(step, optax.tree.sub(x, z), z, eta)
        stalled = jnp.where(at_rounding(step, z), Status.STALLED, state.status)
        new_x = core.where(ok, x, seen)
        return narrow(new_x, params), SplittingState(
            count=state.count + 1,
            error=jnp.where(ok, jnp.maximum(reach, unseen), state.error),
            status=jnp.where(ok, stalled, as_status(Status.DIVERGED)),
            point=new_x,
            governing=core.where(ok, new_z, z),
        )

    return update


def _unseen(step, shift, z, eta):
    """What the error may be at most where nothing moves: the rounding of z, as a slope.

    Neither prox has then shown that it does anything, and may only be lost in rounding.
    """

    def entries(d, s, z):
        unit = float(jnp.finfo(z.dtype).eps) * jnp.abs(z)
        still = (jnp.abs(d) <= unit) & (jnp.abs(s) <= unit)
        return jnp.where(still, unit / 2, 0) / jnp.minimum(eta.astype(z.dtype), 1)

    return core.sup_norm(jax.tree.map(entries, step, shift, z))


RULE = core.implicit(further=lambda state: state.governing)


def equations(oracle, prox_f: Prox, prox_g: Prox, stepsize):
    """Makes the residual in x and z, which solve x = prox_g(z) and y = x."""

    def residual(unknowns, data):
        params, z = unknowns
        eta, x = core.real_scalar(stepsize, params), widen(params)
        nothing = optax.tree.zeros_like(z)
        grad = nothing if oracle is None else widen(oracle(params, data)[1])
        shadow = forward_backward(prox_g, z, nothing, eta, data)
        mirrored = optax.tree.sub(optax.tree.add(x, x), z)
        y = forward_backward(prox_f, mirrored, grad, eta, data)
        return narrow(optax.tree.sub(x, shadow), params), optax.tree.sub(x, y)

    return residual


def check(stepsize, relaxation) -> None:
    """Raises a `ValueError` on numbers for which nothing converges."""
    if callable(stepsize):
        raise ValueError(
            "stepsize must be one number, as the fixed point changes with it, got a "
            "schedule; give a number."
        )
    core.check_stepsize(stepsize)
    check_relaxation(relaxation)


def check_relaxation(relaxation) -> None:
    """Raises a `ValueError` unless a relaxation, where known, lies in (0, 2)."""
    known = isinstance(relaxation, float | int)
    if known and not 0 < relaxation < 2:
        raise ValueError(
            f"relaxation must lie between 0 and 2, got {relaxation!r}; one is plain, "
            "about 1.6 often faster."
        )
