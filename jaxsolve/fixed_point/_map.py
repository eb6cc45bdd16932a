"""The user's map, checked and raveled; how the solvers of this room judge a point."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.core import Status, as_status

Map = Callable[[core.Params, core.Data], core.Params]


def checked(fun: Map) -> Map:
    """Makes a map whose value is sure to be like params.

    Raises:
        ValueError: while tracing, if it has another tree, shape, or no real floats.
    """

    def mapped(params, data):
        value = jax.tree.map(jnp.asarray, fun(params, data))
        form = lambda tree: (jax.tree.structure(tree), [*map(jnp.shape, leaves(tree))])
        leaves = jax.tree.leaves
        if form(value) != form(params):
            raise ValueError(
                "a fixed-point map must return a tree like params, with structure and "
                f"shapes {form(params)}, got {form(value)}."
            )
        if not all(jnp.issubdtype(x.dtype, jnp.floating) for x in leaves(value)):
            raise ValueError(
                "a fixed-point map must return real floats, got "
                f"{[str(x.dtype) for x in leaves(value)]}."
            )
        return jax.tree.map(lambda v, x: v.astype(jnp.result_type(x)), value, params)

    return mapped


def residual_of(mapped: Map) -> Callable:
    """Makes the residual of this room, x - T(x)."""

    def residual(params, data=None):
        return optax.tree.sub(params, mapped(params, data))

    return residual


def judge(x: chex.Array, value: chex.Array, error: chex.Array) -> chex.Array:
    """The status at an evaluated point: stalled where no entry moves but by rounding.

    Args:
        x: (n,), real: the point.
        value: (n,), real: the map there.
        error: (), real: the sup-norm of their difference; not finite if the map is not.
    """
    scale = jnp.maximum(jnp.abs(x), jnp.abs(value))
    still = jnp.all(jnp.abs(value - x) <= 2 * float(jnp.finfo(x.dtype).eps) * scale)
    stalled = jnp.where(still, as_status(Status.STALLED), as_status(Status.RUNNING))
    return jnp.where(jnp.isfinite(error), stalled, as_status(Status.DIVERGED))


def check_positive(name: str, value: optax.ScalarOrSchedule) -> None:
    """Raises a `ValueError` if a number that is known is not positive."""
    if not callable(value):
        core.check_number(name, value)
