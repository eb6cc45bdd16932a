"""The frame of Newton steps that are no longer than gamma."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.transforms._scaled import check_real, scaled_squares
from jaxsolve.transforms._wide import like, widened

_EPS = 1e-8  # what is added to gamma in a quotient


class GradientNormalizedState(NamedTuple):
    """State of gradient-normalised Newton steps."""

    count: chex.Array  # (), int32: updates taken.
    gamma: chex.Array  # (), real: what the last step is not longer than.
    shift: chex.Array  # (), real: lambda of the last step; zero before there is one.
    value: chex.Array  # (), real: the objective before it, if gamma adapts.


def normalized(
    gamma: optax.ScalarOrSchedule, adaptive: bool, solve: Callable, name: str, hint: str
) -> optax.GradientTransformationExtraArgs:
    """Makes a transformation of a way to solve with a regularised curvature.

    Args:
        gamma: what the steps are not longer than, or a schedule of it.
        adaptive: whether it follows the values.
        solve: as ``solve(grad, shift, given, updates)``, where `grad` are the updates
            in at least 32 bits and `given` is the extra argument.
        name: of the extra argument that tells the curvature.
        hint: what it must be.

    Returns:
        A transformation.

    Raises:
        ValueError: if gamma is not positive and finite, or a schedule that is to adapt.
    """
    if callable(gamma) and adaptive:
        raise ValueError("gamma cannot both be a schedule and adapt to the values.")
    if not callable(gamma):
        core.check_number("gamma", gamma)
    schedule = core.as_schedule(gamma)

    def init(params):
        real = lambda number: core.real_scalar(number, params)
        count = jnp.zeros((), jnp.int32)
        first = real(schedule(count))
        return GradientNormalizedState(count, first, real(0), real(0))

    def update(updates, state, params=None, **extra):
        del params
        given = _needed(extra, name, hint)
        value = _needed(extra, "value", "the objective") if adaptive else None
        check_real(updates)
        grad = widened(updates)
        size = _norm(grad)
        sound = jnp.isfinite(size)
        if adaptive:
            value = core.real_scalar(value, grad).astype(state.value.dtype)
            sound = sound & jnp.isfinite(value)
            new_gamma = _follow(state, value, size)
        else:
            new_gamma = jnp.asarray(schedule(state.count), state.gamma.dtype)
        moves = sound & (size > 0)
        legal = (new_gamma >= 0) & (new_gamma < jnp.inf)
        shift = size / (new_gamma.astype(size.dtype) + _EPS)
        found = solve(grad, jnp.where(moves, shift, 1), given, updates)
        length = _norm(found)
        long = length > new_gamma.astype(size.dtype)
        # Only where a curvature is not positive, and by rounding.
        fit = jnp.where(long, new_gamma.astype(size.dtype) / length, 1)
        fit = jnp.where(legal, fit, jnp.nan)
        scale = lambda d: jnp.where(moves, fit.astype(d.dtype) * d, 0)
        new = state._replace(
            gamma=new_gamma, shift=jnp.where(moves, shift, 0).astype(state.shift.dtype)
        )
        new = new._replace(value=value) if adaptive else new
        new = core.where(sound, new, state)
        new = new._replace(count=optax.safe_increment(state.count))
        return like(jax.tree.map(scale, found), updates), new

    return optax.GradientTransformationExtraArgs(init, update)


def _needed(extra, name, hint):
    if extra.get(name) is None:
        raise ValueError(
            f"the extra argument `{name}` is missing: pass {hint}, as "
            f"`transform.update(updates, state, params, {name}=...)`."
        )
    return extra[name]


def _follow(state, value, size):
    """Doubles or halves gamma, by what the last step has brought."""
    shift = jnp.where(state.shift > 0, state.shift, 1)
    size = size.astype(shift.dtype)
    wanted = size * (size / (8 * shift))
    factor = jnp.where(state.value - value >= wanted, 2.0, 0.5).astype(shift.dtype)
    first = state.shift <= 0
    least, most = 1e-9, float(jnp.finfo(shift.dtype).max) ** 0.5
    return jnp.where(first, state.gamma, jnp.clip(factor * state.gamma, least, most))


def _norm(tree):
    """The norm over all leaves, whose squares may be beyond all numbers, or vanish."""
    unit, total = scaled_squares(tree, core.real_scalar(0, tree))
    return unit * jnp.sqrt(total)


def inner(a: chex.ArrayTree, b: chex.ArrayTree) -> chex.Array:
    """The inner product over all leaves, in at least 32 bits."""
    dtype = core.real_dtype(a)
    products = jax.tree.map(lambda x, y: jnp.sum(x * y).astype(dtype), a, b)
    return sum(jax.tree.leaves(products), jnp.zeros((), dtype))
