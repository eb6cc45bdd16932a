"""Squares of trees, in units in which they neither overflow nor vanish."""

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core


def binade(size: chex.Array) -> chex.Array:
    """The power of two at or below a size, one for zero: a division by it is exact.

    It is a constant to derivatives, and not a number for an infinite size. Its inverse,
    with which a compiler may multiply instead, does not vanish.
    """
    size = jax.lax.stop_gradient(size)
    known = jnp.where(size > 0, size, 1)
    mantissa, _ = jnp.frexp(known)
    return jnp.minimum(known / (2 * mantissa), 1 / jnp.finfo(size.dtype).tiny)


def scaled_squares(
    tree: chex.ArrayTree, root: chex.Array
) -> tuple[chex.Array, chex.Array]:
    """The square of a number plus those of all entries of a tree.

    Returns:
        A unit and the sum in squares of it, both of the dtype of the number.
    """
    check_real(tree)
    leaves = [x.astype(root.dtype) for x in jax.tree.leaves(tree)]
    top = core.sup_norm([root, *leaves]).astype(root.dtype)
    unit = binade(top)
    squares = [jnp.sum((x / unit) ** 2) for x in leaves]
    return unit, sum(squares, (root / unit) ** 2)


def scaled(tree: chex.ArrayTree, dtype: jnp.dtype) -> tuple:
    """A tree over a power of two near its largest entry, in a dtype, and that."""
    check_real(tree)
    top = core.sup_norm([jnp.zeros((), dtype), *jax.tree.leaves(tree)])
    unit = binade(top.astype(dtype))
    return jax.tree.map(lambda x: x.astype(dtype) / unit, tree), unit


def dot(a: chex.ArrayTree, b: chex.ArrayTree, dtype: jnp.dtype) -> chex.Array:
    """The inner product of two trees, whose leaves may differ in dtype."""
    check_real((a, b))
    cast = lambda tree: jax.tree.map(lambda x: x.astype(dtype), tree)
    return jnp.asarray(optax.tree.vdot(cast(a), cast(b)), dtype)


def check_real(tree: chex.ArrayTree) -> None:
    """Raises a `ValueError` if a leaf is complex."""
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise ValueError(
                "this transformation knows real params and gradients only, got a leaf "
                f"of {leaf.dtype}; optax.contrib.split_real_and_imaginary makes them."
            )
