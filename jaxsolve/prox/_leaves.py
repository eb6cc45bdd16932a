"""What every operator of this room asks of its leaves and of its numbers.

Operators compute in at least 32 bits and round once, to the dtype of the leaf. A number
(weight, radius, bound, shift, stepsize) is a scalar, an array that broadcasts to every
leaf, or a pytree like params; it is cast to the dtype in which its leaf is computed.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

Axis = int | tuple[int, ...] | None


def real(params: chex.ArrayTree) -> chex.ArrayTree:
    """Params as arrays, all of them real and floating."""

    def check(path, x):
        x = jnp.asarray(x)
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                "params must be real floating-point arrays, but "
                f"params{jax.tree_util.keystr(path)} is {x.dtype}: cast it, for "
                "example with x.astype(jnp.float32)."
            )
        return x

    return jax.tree.map_with_path(check, params)


def working_dtype(params: chex.ArrayTree) -> Any:
    """The widest dtype among the leaves, of at least 32 bits."""
    dtypes = [jnp.dtype(jnp.float32), *(x.dtype for x in jax.tree.leaves(params))]
    return max(dtypes, key=lambda dtype: jnp.finfo(dtype).bits)


def widen(params: chex.ArrayTree) -> chex.ArrayTree:
    """Params in one dtype of at least 32 bits."""
    params = real(params)
    dtype = working_dtype(params)
    return jax.tree.map(lambda x: x.astype(dtype), params)


def narrow(wide: chex.ArrayTree, params: chex.ArrayTree) -> chex.ArrayTree:
    """Undo `widen`: the values of `wide` in the dtypes of `params`."""
    return jax.tree.map(lambda w, x: w.astype(x.dtype), wide, real(params))


def ravel(params: chex.ArrayTree) -> tuple[chex.Array, Callable]:
    """Params as one vector of at least 32 bits, and the way back."""
    wide, treedef = jax.tree.flatten(widen(params))
    ends = np.cumsum([x.size for x in wide])

    def unravel(vector):
        parts = jnp.split(vector, ends[:-1]) if wide else []
        parts = [part.reshape(x.shape) for part, x in zip(parts, wide, strict=True)]
        return narrow(treedef.unflatten(parts), params)

    vector = jnp.concatenate([x.ravel() for x in wide]) if wide else jnp.zeros(0)
    return vector, unravel


def is_leaf(value: chex.ArrayTree) -> bool:
    """Whether a number is a scalar or an array, not a pytree of them."""
    return jax.tree.structure(value) == jax.tree.structure(0)


def is_scalar(value: chex.ArrayTree) -> bool:
    """Whether a number is one scalar, not an array or a pytree."""
    return is_leaf(value) and jnp.ndim(value) == 0


def like(name: str, value: chex.ArrayTree, params: chex.ArrayTree) -> chex.ArrayTree:
    """The number `value` for every leaf: of its rank, of at least 32 bits."""
    if is_leaf(value):
        value = jax.tree.map(lambda _: value, params)
    elif jax.tree.structure(value) != jax.tree.structure(params):
        raise ValueError(
            f"{name} must be a scalar, an array, or a pytree like params, which is "
            f"{jax.tree.structure(params)}, but it is {jax.tree.structure(value)}: "
            "give it one array for each leaf of params."
        )

    def fit(path, x, number):
        number = jnp.asarray(number, working_dtype(x))
        sizes = zip(number.shape[::-1], x.shape[::-1], strict=False)
        if number.ndim > x.ndim or any(m not in (1, n) for m, n in sizes):
            raise ValueError(
                f"{name} must broadcast to each leaf of params, but its shape is "
                f"{number.shape} and that of params{jax.tree_util.keystr(path)} is "
                f"{x.shape}: reshape it, or give a pytree with one array for each leaf."
            )
        return number.reshape((1,) * (x.ndim - number.ndim) + number.shape)

    return jax.tree.map_with_path(fit, params, value)


def per_group(
    name: str, value: chex.ArrayTree, params: chex.ArrayTree, axis: Axis
) -> chex.ArrayTree:
    """The number `value` for every leaf, with size 1 along the axis of its groups."""
    if axis is None and not is_scalar(value):
        raise ValueError(
            f"{name} must be a scalar where axis is None, since all of params is one "
            f"group, but it is {jax.tree.map(jnp.shape, value)}: give a scalar or an "
            "axis."
        )

    def check(x, number):
        if any(number.shape[a] != 1 for a in axes_of(x, axis)):
            raise ValueError(
                f"{name} must hold one number for each group, but against params of "
                f"shape {x.shape} with axis={axis} its shape is {number.shape}: give "
                "it size 1 along that axis."
            )
        return number

    params = real(params)
    return jax.tree.map(check, params, like(name, value, params))


def axes_of(x: chex.Array, axis: Axis) -> tuple[int, ...]:
    """The axes of the leaf `x` along which its groups lie."""
    axes = axis if isinstance(axis, tuple) else () if axis is None else (axis,)
    if any(not -x.ndim <= a < x.ndim for a in axes):
        raise ValueError(
            f"axis must lie within every leaf of params, but it is {axis} and a leaf "
            f"has the shape {x.shape}: give another axis, or axis=None for one group "
            "of all entries, or treat the leaves apart with prox.separable_sum."
        )
    return axes


def leafwise(
    fun: Callable, params: chex.ArrayTree, **numbers: chex.ArrayTree
) -> chex.ArrayTree:
    """Map `fun(x, *numbers)` over the leaves, in at least 32 bits."""
    params = real(params)
    values = [like(name, value, params) for name, value in numbers.items()]
    wide = jax.tree.map(lambda x: x.astype(working_dtype(x)), params)
    return narrow(jax.tree.map(fun, wide, *values), params)


def groupwise(
    fun: Callable,
    params: chex.ArrayTree,
    axis: Axis,
    entries: Mapping[str, chex.ArrayTree] | None = None,
    **numbers: chex.ArrayTree,
) -> chex.ArrayTree:
    """Map `fun(x, *entries, *numbers)` over the groups, each a last axis.

    Of `entries` every entry of params has its own, of `numbers` every group.
    """
    entries = {k: _of_entries(k, v, params) for k, v in (entries or {}).items()}
    if axis is None:
        vector, unravel = ravel(params)
        each = [ravel(v)[0].astype(vector.dtype) for v in entries.values()]
        values = [per_group(k, v, vector, axis) for k, v in numbers.items()]
        return unravel(fun(vector, *each, *values))

    def apply(x, *values):
        axes = axes_of(x, axis)
        last = tuple(range(-len(axes), 0))

        def group_last(v):
            v = jnp.moveaxis(v, axes, last)
            lead = v.shape[: v.ndim - len(axes)]
            return v.reshape(*lead, math.prod(v.shape[len(lead) :]))

        new = fun(group_last(x), *map(group_last, values))
        return jnp.moveaxis(new.reshape(jnp.moveaxis(x, axes, last).shape), last, axes)

    numbers = {k: per_group(k, v, params, axis) for k, v in numbers.items()}
    return leafwise(apply, params, **entries, **numbers)


def _of_entries(name, value, params):
    """The number `value` for every entry: broadcast to every leaf."""
    params = real(params)
    spread = lambda x, number: jnp.broadcast_to(number, x.shape)
    return jax.tree.map(spread, params, like(name, value, params))


def norms(params: chex.ArrayTree, axis: Axis) -> tuple[chex.ArrayTree, chex.ArrayTree]:
    """The 2-norm of every group times a scale, and the scale: numbers for `leafwise`.

    The scale is one, but for entries so large that their norm might overflow: there it
    brings them near one. The norm does not underflow either, and its derivative at zero
    is zero, not NaN.
    """

    def norm(leaves, axes, keepdims):
        tops = [jnp.max(jnp.abs(x), axes, keepdims=keepdims, initial=0) for x in leaves]
        top = jax.lax.stop_gradient(functools.reduce(jnp.maximum, tops))
        room = 8 * math.sqrt(sum(x.size for x in leaves) + 1)
        large = top > float(jnp.finfo(top.dtype).max) / room
        scale = jnp.where(large, 1 / power_of_two(top), 1).astype(top.dtype)
        unit = jnp.where((top > 0) & (top < jnp.inf), top * scale, 1)
        parts = [x * scale / unit for x in leaves]
        total = sum(jnp.sum(x**2, axes, keepdims=keepdims) for x in parts)
        root = jnp.sqrt(jnp.where(total == 0, 1, total))
        return jnp.where(total == 0, 0, unit * root), scale

    wide = widen(params)
    if axis is None:
        return norm(jax.tree.leaves(wide) or [jnp.zeros(())], None, False)
    pairs = jax.tree.map(lambda x: norm([x], axes_of(x, axis), True), wide)
    pick = lambda i: jax.tree.map(lambda _, pair: pair[i], wide, pairs)
    return pick(0), pick(1)


def power_of_two(x: chex.Array) -> chex.Array:
    """A power of two near a positive number, a constant; one if it is zero.

    Neither it nor its reciprocal is a subnormal number, which XLA takes for zero.
    """
    x, info = jax.lax.stop_gradient(x), jnp.finfo(x.dtype)
    _, exponent = jnp.frexp(jnp.where((x > 0) & (x < jnp.inf), x, 1))
    exponent = jnp.clip(exponent - 1, int(info.minexp) + 1, int(info.maxexp) - 3)
    return jnp.ldexp(jnp.ones_like(x), exponent)


@jax.custom_jvp
def over_norm(number: chex.Array, norm: chex.Array) -> chex.Array:
    """A number over a norm, or over one where the norm is zero."""
    return number / jnp.where(norm == 0, 1, norm)


@over_norm.defjvp
def _over_norm_jvp(primals, tangents):
    # Not by the squared norm, which under- or overflows where the norm does not.
    (number, norm), (number_dot, norm_dot) = primals, tangents
    ratio = over_norm(number, norm)
    return ratio, over_norm(number_dot - ratio * norm_dot, norm)


def check_at_least_zero(**numbers: chex.ArrayTree) -> None:
    """Refuse negative numbers, as far as they are known; tracers are not."""
    for name, value in numbers.items():
        for number in map(known, jax.tree.leaves(value)):
            if number is not None and np.any(number < 0):
                raise ValueError(
                    f"{name} must be at least zero, but it is {number}: the function "
                    "is not convex or the set is empty; change its sign."
                )


def known(number: Any) -> np.ndarray | None:
    """The value of a number, or None where it is traced or lies on other hosts."""
    if isinstance(number, jax.core.Tracer):
        return None
    if not getattr(number, "is_fully_addressable", True):
        return None
    return np.asarray(number)
