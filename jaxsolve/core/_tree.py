"""Arithmetic over trees, where optax has none that keeps every dtype."""

import math
import numbers
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree


def real_dtype(tree: chex.ArrayTree) -> np.dtype:
    """Returns the dtype that scalars beside `tree` have: at least 32 bits, real.

    float64 if any leaf has 64-bit parts, else float32. The global x64 flag plays no
    part beyond deciding the dtype of Python floats.
    """
    wide = any(
        jnp.finfo(jnp.result_type(leaf)).bits == 64
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    )
    return np.dtype(np.float64 if wide else np.float32)


def real_scalar(value: chex.Numeric, tree: chex.ArrayTree) -> chex.Array:
    """Makes a strongly typed scalar of the dtype `real_dtype(tree)`."""
    return jnp.asarray(value, real_dtype(tree))


def axpy(scalar: chex.Numeric, x: chex.ArrayTree, y: chex.ArrayTree) -> chex.ArrayTree:
    """Computes `scalar * x + y` leaf by leaf, in the dtype of each leaf of `y`."""
    return jax.tree.map(
        lambda a, b: jnp.asarray(scalar, b.dtype) * a.astype(b.dtype) + b, x, y
    )


def where(
    condition: chex.Array, on_true: chex.ArrayTree, on_false: chex.ArrayTree
) -> chex.ArrayTree:
    """Selects between two trees of the same form by one scalar condition."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), on_true, on_false)


def all_finite(tree: chex.ArrayTree) -> chex.Array:
    """Tells whether every entry of every leaf is finite: (), bool."""
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves)) if leaves else jnp.ones((), bool)


def sup_norm(tree: chex.ArrayTree) -> chex.Array:
    """Returns the largest absolute entry, a scalar of `real_dtype(tree)`."""
    dtype = real_dtype(tree)
    leaves = [jnp.max(jnp.abs(x), initial=0) for x in jax.tree.leaves(tree)]
    return jnp.max(jnp.stack([x.astype(dtype) for x in leaves]))


def ravel(tree: chex.ArrayTree) -> tuple[chex.Array, Callable]:
    """Flattens a tree of arrays into one vector of its `real_dtype`.

    Unlike `jax.flatten_util.ravel_pytree` it accepts leaves of different dtypes under
    strict promotion, and never computes in fewer than 32 bits.

    Returns:
        The vector, (n,), and its inverse, which restores shapes and dtypes.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import core
        >>> vector, unravel = core.ravel({"a": jnp.ones(2), "b": jnp.bfloat16(3)})
        >>> vector
        Array([1., 1., 3.], dtype=float32)
        >>> unravel(vector)["b"].dtype
        dtype(bfloat16)
    """
    dtype = real_dtype(tree)
    dtypes = jax.tree.map(jnp.result_type, tree)
    vector, unflatten = ravel_pytree(
        jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)
    )

    def unravel(vector):
        return jax.tree.map(lambda x, d: x.astype(d), unflatten(vector), dtypes)

    return vector, unravel


def ravel_fine(params: chex.ArrayTree, fine: chex.Array) -> tuple[chex.Array, Callable]:
    """Flattens params as `ravel`, but in the precision of a master copy.

    Leaves of fewer than 32 bits lose small steps; `fine` is what they were rounded
    from. Where params are no longer that (another link of a chain, or the user, has
    changed them), they count.

    Args:
        params: a tree of float arrays.
        fine: (n,), the last iterate before it was rounded to params.

    Returns:
        As `ravel`.
    """
    x, unravel = ravel(params)
    if all(jnp.result_type(leaf) == x.dtype for leaf in jax.tree.leaves(params)):
        return x, unravel
    rounded, _ = ravel(unravel(fine))
    return jnp.where(rounded == x, fine, x), unravel


def as_schedule(value: optax.ScalarOrSchedule) -> optax.Schedule:
    """Makes a schedule, a function of the update count, of a number or a schedule."""
    return value if callable(value) else lambda count: value


def default_tol(tree: chex.ArrayTree) -> float:
    """Returns the square root of the machine epsilon of the coarsest leaf."""
    leaves = jax.tree.leaves(tree)
    return math.sqrt(max(float(jnp.finfo(jnp.result_type(x)).eps) for x in leaves))


def describe(value) -> str:
    """Says what a value is in words of the user's, for messages: no tracers."""
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return f"an array of shape {np.shape(value)}"
    if type(value) in (tuple, list):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, type) or not callable(value) or hasattr(value, "_fields"):
        return getattr(value, "__name__", type(value).__name__)
    return "a function"


def is_concrete(value) -> bool:
    """Tells whether a value is known while tracing."""
    return not isinstance(value, jax.core.Tracer)


def as_tol(tol: chex.Numeric | None, params: chex.ArrayTree) -> chex.Array:
    """Validates a tolerance and gives it the dtype of scalars beside `params`."""
    if tol is None:
        tol = default_tol(params)
    is_real = _is_number(tol) and not jnp.issubdtype(
        jnp.result_type(tol), jnp.complexfloating
    )
    if not is_real or (is_concrete(tol) and not 0 <= np.asarray(tol) < np.inf):
        raise ValueError(
            f"tol must be one non-negative, finite number, got {tol!r}; leave it out "
            "for the default, or pass 0.0 to run until max_steps."
        )
    if not is_concrete(tol):
        return tol.astype(real_dtype(params))
    return np.asarray(tol, real_dtype(params))


def _is_number(value) -> bool:
    kinds = numbers.Number | np.ndarray | np.generic | jax.Array
    return isinstance(value, kinds) and np.ndim(value) == 0


def as_count(what: str, value: int, least: int) -> int:
    """Checks a count that must be known: a Python integer, or what equals one."""
    top = np.iinfo(np.int32).max
    if not is_concrete(value):
        raise ValueError(f"{what} must be a Python integer, got a traced value.")
    whole = _is_number(value) and np.isreal(value) and value == np.round(value)
    if not whole or not least <= value <= top:
        raise ValueError(
            f"{what} must be an integer between {least} and {top}, got {value!r}."
        )
    return int(value)


def check_stepsize(stepsize) -> None:
    """Raises a `ValueError` unless a stepsize, where known, is positive and finite."""
    if stepsize is None or callable(stepsize) or not is_concrete(stepsize):
        return
    if not _is_number(stepsize) or not 0 < stepsize < np.inf:
        raise ValueError(
            f"stepsize must be one positive, finite number or a schedule, got "
            f"{stepsize!r}."
        )


def as_params(params: chex.ArrayTree) -> chex.ArrayTree:
    """Checks that `params` can be optimised, and makes its leaves strong arrays.

    Raises:
        ValueError: on an empty tree, or a leaf that is not real floating point.
    """
    leaves, treedef = jax.tree.flatten(params)
    if not leaves:
        raise ValueError("params has no leaves: there is nothing to solve for.")
    return jax.tree.unflatten(treedef, [_as_param(leaf) for leaf in leaves])


def _as_param(leaf):
    if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, numbers.Number)):
        raise ValueError(
            f"params must be a tree of float arrays, got a leaf of type "
            f"{type(leaf).__name__}; with an equinox model, pass "
            "`params, static = eqx.partition(model, eqx.is_inexact_array)` the first, "
            "and call `eqx.combine(params, static)` in the objective."
        )
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.floating):
        hint = (
            "pass its real and imaginary parts as two leaves"
            if jnp.issubdtype(dtype, jnp.complexfloating)
            else "convert it, for instance with `jnp.asarray(x, float)`"
        )
        raise ValueError(
            f"params must be a tree of real float arrays, got a leaf of dtype {dtype}; "
            f"{hint}."
        )
    if isinstance(leaf, jax.Array) and not leaf.aval.weak_type:
        return leaf
    return jnp.asarray(leaf, dtype)


def check_like(what: str, got: chex.ArrayTree, params: chex.ArrayTree) -> None:
    """Raises a `ValueError` unless two trees have the same form."""
    form = lambda tree: jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)
    if jax.tree.structure(got) != jax.tree.structure(params):
        raise ValueError(
            f"{what} must have the tree structure {jax.tree.structure(params)}, got "
            f"{jax.tree.structure(got)}."
        )
    if form(got) != form(params):
        raise ValueError(
            f"{what} must have shapes and dtypes {form(params)}, got {form(got)}."
        )
