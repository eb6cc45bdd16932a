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


def check(name: str, value, low: float = 0, high: float = np.inf, closed: str = ""):
    """Raises a `ValueError` unless a number, where known, lies between two others.

    Args:
        name: what it is called.
        value: the number; None and traced ones pass.
        low: the lower end.
        high: the upper end.
        closed: which ends belong to the range: any of "[" and "]".
    """
    if value is None or not core.is_concrete(value) or callable(value):
        return
    given = np.asarray(value)
    above = low <= given if "[" in closed else low < given
    below = given <= high if "]" in closed else given < high
    if not np.all(above & below):
        ends = ("[" if "[" in closed else "(") + f"{low}, {high}"
        ends += "]" if "]" in closed else ")"
        raise ValueError(f"{name} must lie in {ends}, got {value!r}.")
