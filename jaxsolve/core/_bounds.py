"""Bounds on params, in all the forms in which users write them."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve.core._tree import is_concrete, ravel, real_dtype

Bounds = tuple[Any, Any] | Callable[[Any], tuple[Any, Any]]


def check_bounds(bounds: tuple[Any, Any], params: chex.ArrayTree) -> tuple[Any, Any]:
    """Broadcasts a pair of bounds to params, and checks what can be known of them.

    Args:
        bounds: a pair ``(lower, upper)``, each None for none, a number, or a tree that
            is a prefix of params, its leaves arrays that broadcast to those of params.
        params: a tree of float arrays.

    Returns:
        Two trees like params.

    Raises:
        ValueError: if the bounds do not fit params, or cross where both are known.
    """
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise ValueError(
            "bounds must be a pair (lower, upper), each None, a number, or a tree like "
            f"params, got {type(bounds).__name__}."
        )
    lower = _spread(bounds[0], params, -jnp.inf, "lower")
    upper = _spread(bounds[1], params, jnp.inf, "upper")
    for low, high in zip(jax.tree.leaves(lower), jax.tree.leaves(upper), strict=True):
        if not (is_concrete(low) and is_concrete(high)):
            continue
        low, high = np.asarray(low), np.asarray(high)
        wrong = ~((low <= high) & (low < np.inf) & (high > -np.inf))
        if np.any(wrong):
            raise ValueError(
                "every lower bound must be at most its upper bound, less than inf, and "
                f"every upper one more than -inf; {np.sum(wrong)} cross, are NaN, or "
                f"leave nothing in {low.dtype}."
            )
    return lower, upper


def ravel_bounds(
    bounds: tuple[Any, Any], params: chex.ArrayTree
) -> tuple[chex.Array, chex.Array]:
    """Broadcasts a pair of bounds to params, and ravels both: two vectors, (n,)."""
    lower, upper = check_bounds(bounds, params)
    return ravel(lower)[0], ravel(upper)[0]


def box(
    bounds: Bounds | None, params: chex.ArrayTree, data: Any
) -> tuple[chex.Array, chex.Array, chex.Array]:
    """Reads bounds, or a function of the data that returns them.

    Returns:
        Two vectors, (n,), infinite where the bounds make no sense, and whether all of
        them do: (), bool.
    """
    pair = bounds(data) if callable(bounds) else bounds
    lower, upper = ravel_bounds((None, None) if pair is None else pair, params)
    sane = (lower <= upper) & (lower < jnp.inf) & (upper > -jnp.inf)
    lower, upper = jnp.where(sane, lower, -jnp.inf), jnp.where(sane, upper, jnp.inf)
    return lower, upper, jnp.all(sane)


def box_step(
    step: chex.Array, x: chex.Array, lower: chex.Array, upper: chex.Array
) -> chex.Array:
    """P(x + step) - x, without the rounding of x, and on a bound that of holding it."""
    low, high = lower - x, upper - x
    return jnp.where(step <= low, low, jnp.where(step >= high, high, step))


def onto_box(x: chex.Array, lower: chex.Array, upper: chex.Array) -> chex.Array:
    """Projects onto the box, and onto a bound from within its rounding."""
    eps = 4 * float(jnp.finfo(x.dtype).eps)
    beside = lambda bound: jnp.abs(x - bound) <= eps * jnp.abs(bound)
    x = jnp.where(beside(lower) & jnp.isfinite(lower), lower, x)
    x = jnp.where(beside(upper) & jnp.isfinite(upper), upper, x)
    return jnp.clip(x, lower, upper)


def _spread(bound, params, default, which):
    bound = default if bound is None else bound
    is_none = lambda x: x is None
    treedef = jax.tree.structure(bound, is_leaf=is_none)
    try:
        parts = treedef.flatten_up_to(params)
    except ValueError as error:
        raise ValueError(
            f"the {which} bound must be a number or a tree like params, of structure "
            f"{jax.tree.structure(params)}, got {treedef}; of an array of params it "
            "is a number or an array, and SciPy's list of pairs is "
            "tuple(np.array(pairs, float).T)."
        ) from error
    leaves = jax.tree.leaves(bound, is_leaf=is_none)
    full = [
        jax.tree.map(lambda x, b=b: _like(default if b is None else b, x, which), part)
        for b, part in zip(leaves, parts, strict=True)
    ]
    return jax.tree.unflatten(treedef, full)


def _like(bound: Any, x: chex.Array, which: str):
    shape = np.shape(x)
    try:
        fits = np.broadcast_shapes(np.shape(bound), shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"the {which} bound must broadcast to the shape {shape} of its leaf of "
            f"params, got shape {np.shape(bound)}."
        )
    # First in the leaf's own dtype, so that rounding params never leaves the box.
    own, dtype = jnp.result_type(x), real_dtype(x)
    # What is known stays known while tracing, so that crossed bounds are found.
    if is_concrete(bound):
        with np.errstate(over="ignore"):  # an overflow is refused by what follows
            return np.broadcast_to(np.asarray(bound, own).astype(dtype), shape)
    return jnp.broadcast_to(jnp.asarray(bound, own).astype(dtype), shape)
