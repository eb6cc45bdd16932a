"""Arithmetic in at least 32 bits around transformations that have none of it."""

import chex
import jax
import jax.numpy as jnp
import optax


def wide(
    transform: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Shows a transformation leaves of at least 32 bits, so that its memory has them.

    Its updates have the dtypes of those that came in. Of leaves that are wide already
    nothing changes.
    """
    inner = optax.with_extra_args_support(transform)

    def init(params):
        return inner.init(widened(params))

    def update(updates, state, params=None, **extra):
        shown = None if params is None else widened(params)
        new, state = inner.update(widened(updates), state, shown, **extra)
        return like(new, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def widened(tree: chex.ArrayTree) -> chex.ArrayTree:
    """Casts the floating leaves of fewer than 32 bits to float32."""
    return jax.tree.map(lambda x: x.astype(wide_dtype(x)), tree)


def like(tree: chex.ArrayTree, other: chex.ArrayTree) -> chex.ArrayTree:
    """Casts every leaf to the dtype of that of `other`."""
    return jax.tree.map(lambda x, y: x.astype(y.dtype), tree, other)


def wide_dtype(leaf: chex.Array) -> jnp.dtype:
    """The dtype that memory beside a leaf has: its own, but at least 32 bits."""
    dtype = jnp.result_type(leaf)
    floating = jnp.issubdtype(dtype, jnp.floating)
    return jnp.float32 if floating and jnp.finfo(dtype).bits < 32 else dtype
