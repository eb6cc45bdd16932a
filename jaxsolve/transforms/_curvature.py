"""Products with the Hessian of the batch, from what a training loop has at hand."""

from collections.abc import Callable

import chex
import jax

from jaxsolve import linear
from jaxsolve.transforms._wide import widened


def curvature(
    name: str,
    params: chex.ArrayTree | None,
    updates: chex.ArrayTree,
    hvp: Callable | None,
    value_fn: Callable | None,
) -> tuple[Callable, chex.ArrayTree]:
    """Returns the product with the Hessian, and a tree like what it multiplies.

    A Hessian that is made of `value_fn` is that at params of at least 32 bits:
    products in fewer are mostly noise.

    Raises:
        ValueError: if neither of the extra arguments is given, or params are wanted.
    """
    if hvp is not None:
        return hvp, updates if params is None else params
    if value_fn is None:
        raise ValueError(
            f"{name} needs products with the Hessian of the batch: pass the extra "
            "argument hvp, as hvp(v) -> H v, or value_fn, as value_fn(params) -> "
            "scalar, to update."
        )
    if params is None:
        raise ValueError(
            f"{name} takes the Hessian of value_fn at the params: call "
            "`transform.update(updates, state, params, ...)`."
        )
    wide = widened(params)
    return linear.hessian_product(value_fn, wide), wide


def first_key(key: chex.PRNGKey | None) -> chex.PRNGKey:
    """The key that a state begins with."""
    return jax.random.key(0) if key is None else key
