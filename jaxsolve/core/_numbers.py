"""What factories check of the numbers that they are given."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve.core._tree import is_concrete


def check_number(
    name: str,
    value: Any,
    low: Any = 0,
    high: Any = np.inf,
    closed: str = "",
    *,
    arrays: bool = False,
) -> None:
    """Raises a `ValueError` unless a value is one real number, in a range where known.

    Args:
        name: what it is called.
        value: the number; of a traced one the range is not known.
        low: the lower end; where it is traced, the lower end is zero.
        high: the upper end.
        closed: which ends belong to the range: any of "[" and "]".
        arrays: whether it may be an array of such numbers.
    """
    low = low if is_concrete(low) else 0
    if _is_real(value) and (arrays or np.ndim(value) == 0):
        if not is_concrete(value):
            return
        given = np.asarray(value)
        above = low <= given if "[" in closed else low < given
        below = given <= high if "]" in closed else given < high
        if np.all(above & below):
            return
    ends = ("[" if "[" in closed else "(") + f"{low}, {high}"
    ends += "]" if "]" in closed else ")"
    wanted = "real numbers" if arrays and np.ndim(value) else "one real number"
    raise ValueError(f"{name} must be {wanted} in {ends}, got {value!r}.")


def is_zero(value: Any) -> bool:
    """Tells whether a number is known to be zero, so that a term may be left out."""
    return isinstance(value, float | int) and value == 0


def _is_real(value):
    if not isinstance(value, float | int | np.ndarray | np.generic | jax.Array):
        return False
    dtype = getattr(value, "dtype", float)
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
