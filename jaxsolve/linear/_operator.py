"""Operators in whatever form they come, and the trees that they multiply."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from jaxsolve import core

HIGHEST = jax.lax.Precision.HIGHEST

Product = Callable[[chex.ArrayTree], chex.ArrayTree]
Operator = Product | lx.AbstractLinearOperator | chex.Array


def as_product(
    operator: Operator, like: chex.ArrayTree | None = None
) -> tuple[Product, Any]:
    """Makes of a square operator its product, and the shapes of what it multiplies.

    Args:
        operator: a function ``v -> A v`` of trees, a lineax operator, or a matrix.
        like: a tree of arrays or of their shapes; may be left out for the latter two.

    Returns:
        The product, and a tree of `jax.ShapeDtypeStruct`.

    Raises:
        ValueError: where `like` is wanted, is not real and floating, or is not what a
            product returns.
    """
    if isinstance(operator, lx.AbstractLinearOperator):
        product, known = operator.mv, operator.in_structure()
    elif callable(operator):
        product, known = operator, like
    else:
        matrix = jnp.asarray(operator)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(
                "operator must be a function v -> A v, a lineax operator or a square "
                f"matrix, got an array of shape {matrix.shape}."
            )
        product = lambda v: jnp.matmul(matrix, v, precision=HIGHEST)
        known = jax.ShapeDtypeStruct(matrix.shape[:1], matrix.dtype)
    like = known if like is None else like
    if like is None:
        raise ValueError(
            "like is missing: of a function v -> A v the shapes are not known; pass a "
            "tree of the form of v, such as the params."
        )
    return _checked(product), jax.tree.map(_shape, like)


def _shape(leaf):
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"an operator's trees must be real and floating, got a leaf of {dtype}."
        )
    return jax.ShapeDtypeStruct(jnp.shape(leaf), dtype)


def _checked(product):
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)

    def checked(vector):
        image = product(vector)
        if shapes(image) != shapes(vector):
            raise ValueError(
                "operator must return trees of the form that it is given: of "
                f"{shapes(vector)} it made {shapes(image)}."
            )
        return image

    return checked


def widened(tree: chex.ArrayTree) -> chex.ArrayTree:
    """The same tree in at least 32 bits."""
    return jax.tree.map(lambda x: jnp.asarray(x, core.real_dtype(x)), tree)


def cast_like(tree: chex.ArrayTree, like: chex.ArrayTree) -> chex.ArrayTree:
    """The same tree in the dtypes of another."""
    return jax.tree.map(lambda x, y: x.astype(y.dtype), tree, like)


def inner(a: chex.ArrayTree, b: chex.ArrayTree) -> chex.Array:
    """The inner product of two trees, in their real dtype."""
    dtype = core.real_dtype(a)
    terms = jax.tree.map(lambda x, y: jnp.sum(x.astype(dtype) * y.astype(dtype)), a, b)
    return sum(jax.tree.leaves(terms), jnp.zeros((), dtype))


def rademacher(key: chex.PRNGKey, like: chex.ArrayTree) -> chex.ArrayTree:
    """Signs, plus or minus one with equal chances: one key for each leaf.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve import linear
        >>> v = linear.rademacher(jax.random.key(0), {"w": jnp.zeros(2)})
        >>> print(v["w"] ** 2)
        [1. 1.]
    """
    return _drawn(jax.random.rademacher, key, like)


def gaussian(key: chex.PRNGKey, like: chex.ArrayTree) -> chex.ArrayTree:
    """Standard normal numbers: one key for each leaf.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve import linear
        >>> linear.gaussian(jax.random.key(0), {"w": jnp.zeros(2)})["w"].shape
        (2,)
    """
    return _drawn(jax.random.normal, key, like)


def _drawn(draw, key, like):
    leaves, treedef = jax.tree.flatten(like)
    keys = jax.random.split(key, max(len(leaves), 1))
    drawn = [
        draw(k, jnp.shape(x), jnp.result_type(x))
        for k, x in zip(keys, leaves, strict=False)
    ]
    return treedef.unflatten(drawn)


def check_count(name: str, count: int, least: int = 1) -> None:
    """Raises a `ValueError` unless a count is a Python integer that is large enough."""
    if not isinstance(count, int | np.integer) or count < least:
        raise ValueError(f"{name} must be an integer, at least {least}, got {count!r}.")
