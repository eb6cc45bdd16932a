"""What the learners of this room share: how a round is looked at, and booked."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.prox import MirrorMap


def widen(params: core.Params) -> core.Params:
    """Params with leaves of at least 32 bits."""
    return jax.tree.map(lambda x: jnp.asarray(x, core.real_dtype(x)), params)


def narrow(fine: core.Params, params: core.Params) -> core.Params:
    """A tree like `fine` in the dtypes of `params`."""
    return jax.tree.map(lambda f, x: f.astype(jnp.result_type(x)), fine, params)


def follow(params: core.Params, point: core.Params) -> core.Params:
    """Params in the precision of the point they were rounded from.

    Entries that are no longer what the point rounds to were changed by somebody else,
    and count as they are.
    """

    def entry(x, fine):
        return jnp.where(fine.astype(x.dtype) == x, fine, x.astype(fine.dtype))

    return jax.tree.map(entry, params, point)


def inner(a: core.Params, b: core.Params) -> chex.Array:
    """The inner product of two trees, in the `real_dtype` of the first."""
    dtype = core.real_dtype(a)
    products = jax.tree.map(
        lambda x, y: jnp.sum(x.astype(dtype) * y.astype(dtype)), a, b
    )
    return sum(jax.tree.leaves(products), jnp.zeros((), dtype))


def add(sums: Any, lost: Any, amounts: Any) -> tuple[Any, Any]:
    """Adds amounts to sums, and what rounding cuts off to what was lost before.

    The sums of many rounds, leaf by leaf, in words of twice their length: sums are
    right to their last digit, however small the amounts are beside them.
    """

    def entry(s, low, x):
        rough = s + x
        back = rough - s
        low = low + ((s - (rough - back)) + (x - back))
        new = rough + low
        return new, low - (new - rough)

    pairs = jax.tree.map(entry, sums, lost, amounts)
    return jax.tree.transpose(jax.tree.structure(sums), None, pairs)


def apart(state: Any) -> Any:
    """Gives every leaf of a first state a buffer of its own, so that it is donated."""
    return jax.tree.map(jnp.copy, state)


def start(params: core.Params) -> dict:
    """The fields that the states of all learners begin with."""
    zero = core.real_scalar(0, params)
    return dict(
        count=jnp.zeros((), jnp.int32),
        error=core.real_scalar(jnp.inf, params),
        status=as_status(Status.RUNNING),
        skipped=jnp.zeros((), jnp.int32),
        value=zero,
        grad=optax.tree.zeros_like(widen(params)),
        variation=zero,
    )


def observe(
    oracle: Any, mirror_map: MirrorMap, params: core.Params, state: Any, data: core.Data
) -> tuple[dict, chex.Array]:
    """Asks for the loss of the point played: new fields, and whether all is finite."""
    value, grad = oracle(params, data)
    grad = widen(grad)
    surprise = optax.tree.sub(grad, state.grad)
    variation = state.variation + inner(surprise, surprise)
    # Few stepsizes read it: no round is lost because it overflows.
    variation = jnp.minimum(variation, float(jnp.finfo(variation.dtype).max))
    ok = jnp.isfinite(value) & core.all_finite(grad)
    error = certify(mirror_map, params, grad)
    return dict(value=value, grad=grad, variation=variation, error=error), ok


def settle(
    ok: chex.Array, params: core.Params, new_params: core.Params, state: Any, **new: Any
) -> tuple[core.Params, Any]:
    """Takes what a round brought, or leaves all as it was but the counts."""
    new_state = core.where(ok, state._replace(**new), state)
    diverged = as_status(Status.DIVERGED)
    return core.where(ok, narrow(new_params, params), params), new_state._replace(
        count=state.count + 1,
        status=jnp.where(ok, state.status, diverged),
        skipped=state.skipped + jnp.where(ok, 0, 1).astype(jnp.int32),
    )


def certify(mirror_map: MirrorMap, params: core.Params, grad: core.Params):
    """The error of this room, zero where params minimise the loss over the set."""
    point = widen(params)
    if mirror_map.violation is not None:
        return core.sup_norm(mirror_map.violation(point, grad))
    there = mapping(mirror_map, point, grad)

    def entries(y, x, g):
        # A gradient that is lost in the rounding of the point counts as it is.
        lost = jnp.abs(g) <= float(jnp.finfo(x.dtype).eps) * jnp.abs(x)
        return jnp.maximum(jnp.abs(y - x), jnp.where(lost, jnp.abs(g), 0))

    return core.sup_norm(jax.tree.map(entries, there, point, grad))


def mapping(mirror_map: MirrorMap, point: core.Params, grad: core.Params):
    """Where a step of length one leads, in the 2-norm if that is known."""
    if mirror_map.projection is None:
        return mirror_map.step(point, grad, core.real_scalar(1, point))
    return mirror_map.projection(optax.tree.sub(point, grad))


def residual_of(oracle: Any, mirror_map: MirrorMap) -> Any:
    """Zero where params minimise one loss: what implicit differentiation reads."""

    def residual(params, data=None):
        point, grad = widen(params), widen(oracle(params, data)[1])
        there = mapping(mirror_map, point, grad)
        return narrow(optax.tree.sub(point, there), params)

    return residual


def check_map(mirror_map: Any) -> None:
    """Raises a `ValueError` unless it is a mirror map."""
    if not isinstance(mirror_map, MirrorMap):
        raise ValueError(
            "mirror_map must be a jaxsolve.prox.MirrorMap, such as prox.entropy_map() "
            "or prox.euclidean_map(prox.l2_ball(1.0)), got "
            f"{type(mirror_map).__name__}."
        )


def check_positive(**numbers: Any) -> None:
    """Raises a `ValueError` unless numbers, where known, are positive and finite."""
    for name, value in numbers.items():
        core.check_number(name, value)
