"""What every law checks of its numbers, and in which dtype it computes."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve import core


def real(*numbers: chex.Numeric) -> Callable[[chex.Numeric], chex.Array]:
    """Makes a cast to the dtype of those numbers that have one, else of a float."""
    arrays = [x for x in numbers if isinstance(x, jax.Array | np.ndarray | np.generic)]
    floating = [x for x in arrays if jnp.issubdtype(x.dtype, jnp.floating)]
    dtype = core.real_dtype(floating or 0.0)
    return lambda number: jnp.asarray(number, dtype)


def left(
    steps: chex.Numeric, count: chex.Numeric, cast: Callable, after: int = 0
) -> chex.Array:
    """How many steps are left from a count on, or `after` some more; never below zero.

    It is subtracted in integers: float32 does not tell counts beyond 2**24 apart.
    """
    count, steps = jnp.asarray(count), jnp.asarray(steps)
    if not jnp.issubdtype(count.dtype, jnp.integer):
        return jnp.maximum(cast(steps) - cast(count) - after, 0)
    whole = steps
    if not jnp.issubdtype(steps.dtype, jnp.integer):
        whole = jnp.floor(steps)
    rest = whole.astype(jnp.int32) - after - count.astype(jnp.int32)
    return jnp.maximum(cast(rest) + cast(steps - whole), 0)


def check(name: str, value, low: float = 0, high: float = np.inf, closed: str = ""):
    """Checks numbers, or arrays of them, as `core.check_number`; None and laws pass."""
    if value is not None and not callable(value):
        core.check_number(name, value, low, high, closed, arrays=True)
