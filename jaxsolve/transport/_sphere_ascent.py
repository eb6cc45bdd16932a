"""Ascent on the sphere of directions: what the solvers of slices share."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.transport._sliced import prepared, unit


def start_of(params, data, p, point=None):
    """A direction as a vector, how to put it back, and the pair in its dtype."""
    theta, unravel = (
        core.ravel(params) if point is None else core.ravel_fine(params, point)
    )
    pair = prepared(data, p, theta.dtype)
    if theta.size != pair.x.shape[1]:
        raise ValueError(
            f"params are a direction in the points' space, ({pair.x.shape[1]},), got "
            f"{theta.size} numbers."
        )
    return theta, unravel, pair


def ascent(
    transform: optax.GradientTransformation | None, p: float, exact: bool
) -> optax.GradientTransformationExtraArgs:
    """The transformation that makes a gradient a step; ours, if none is given."""
    if transform is None:
        return _relative(p, exact)
    if not isinstance(transform, optax.GradientTransformation):
        raise ValueError(
            "an optax transformation is wanted, such as optax.sgd(0.1), got "
            f"{core.describe(transform)}."
        )
    return optax.with_extra_args_support(transform)


class RelativeState(NamedTuple):
    """State of the step that knows the scale of the problem."""

    factor: chex.Array  # (), real: in (0, 1].
    value: chex.Array  # (), real: the last.


def _relative(p, exact):
    """Divides the gradient by 2 p times the value, which leaves no scale to know.

    The cost is homogeneous of degree p, so that its gradient is p W along the
    direction; without the factor two this is the power method. Where values are exact,
    steps are halved after the cost fell, and grow again: they end on a ridge.
    """

    def init(params):
        one, inf = core.real_scalar(1, params), core.real_scalar(jnp.inf, params)
        return RelativeState(one, inf)

    def update(updates, state, params=None, *, value, **extra):
        del params, extra
        factor = state.factor
        if exact:
            noise = 4 * jnp.finfo(value.dtype).eps * jnp.abs(value)
            worse = value > state.value + noise
            factor = jnp.where(worse, 0.5 * factor, jnp.minimum(1.2 * factor, 1))
        size = 2 * p * jnp.abs(value)
        step = -factor * updates / jnp.where(size > 0, size, 1)
        return step, RelativeState(factor, value)

    return optax.GradientTransformationExtraArgs(init, update)


def fresh(transform: optax.GradientTransformationExtraArgs, point: chex.Array) -> Any:
    """The first state of a transformation, strongly typed."""
    strong = lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype)
    return jax.tree.map(lambda leaf: strong(jnp.asarray(leaf)), transform.init(point))


def climb(transform, point, value, grad, inner):
    """One step up from a point of the sphere, back onto it.

    Returns:
        The next point, the transformation's state, and whether both may be used; if
        not they are the old ones.
    """
    with jax.numpy_dtype_promotion("standard"):  # optax mixes counts and floats
        updates, new_inner = transform.update(
            -grad, inner, point, value=-value, grad=-grad
        )
    moved = point + updates.astype(point.dtype)
    ok = core.all_finite((value, grad, moved))
    new_inner = jax.tree.map(lambda new, old: new.astype(old.dtype), new_inner, inner)
    new_point = jnp.where(ok, unit(jnp.where(ok, moved, point)), point)
    return new_point, core.where(ok, new_inner, inner), ok
