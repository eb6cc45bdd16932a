"""What the factories of this room check of their numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve import core


def check_number(
    name: str, value: Any, low: Any = 0, high: Any = np.inf, closed: str = ""
) -> None:
    """Raises a `ValueError` unless a value is one real number, in a range where known.

    Args:
        name: what it is called.
        value: the number; of a traced one the range is not known.
        low: the lower end; where it is traced, the lower end is zero.
        high: the upper end.
        closed: which ends belong to the range: any of "[" and "]".
    """
    low = low if core.is_concrete(low) else 0
    if _is_number(value):
        if not core.is_concrete(value):
            return
        given = np.asarray(value)
        above = low <= given if "[" in closed else low < given
        below = given <= high if "]" in closed else given < high
        if above and below:
            return
    ends = ("[" if "[" in closed else "(") + f"{low}, {high}"
    ends += "]" if "]" in closed else ")"
    raise ValueError(f"{name} must be one real number in {ends}, got {value!r}.")


def is_zero(value: Any) -> bool:
    """Tells whether a number is known to be zero."""
    return isinstance(value, float | int) and value == 0


def _is_number(value):
    if not isinstance(value, float | int | np.ndarray | np.generic | jax.Array):
        return False
    real = jnp.issubdtype(getattr(value, "dtype", float), np.floating)
    whole = jnp.issubdtype(getattr(value, "dtype", float), np.integer)
    return np.ndim(value) == 0 and (real or whole)
