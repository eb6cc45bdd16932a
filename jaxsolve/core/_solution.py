"""What a run returns."""

from typing import Any, NamedTuple

import chex
import jax
import numpy as np

from jaxsolve.core._status import Status
from jaxsolve.core._tree import is_concrete


class Solution(NamedTuple):
    """The end of a run.

    Attributes:
        params: the last accepted iterate. `run` differentiates these, and these alone.
        state: the solver's last state; its derivatives are zero.
        status: a `Status`, as an int32 array of shape (), one per lane under vmap.
        history: what was recorded, stacked along the first axis, or None.
    """

    params: Any
    state: Any
    status: chex.Array
    history: Any = None

    @property
    def converged(self) -> chex.Array:
        """Whether the status is `Status.CONVERGED`: bool, of the shape of status."""
        return self.status == int(Status.CONVERGED)

    def __repr__(self) -> str:
        """Says how the run ended, after how many updates, with which error."""
        leaves = jax.tree.leaves((self.params, self.state, self.status))
        if not all(map(is_concrete, leaves)) or not isinstance(
            self.status, jax.Array | np.ndarray | int
        ):
            return f"Solution(traced, params={self.params})"
        status = np.asarray(self.status)
        count = np.asarray(getattr(self.state, "count", -1))
        error = np.asarray(getattr(self.state, "error", np.nan))
        if status.ndim == 0:
            head = (
                f"{Status(int(status)).name.lower()} after {int(np.max(count))} "
                f"updates, error {float(np.max(error)):.2e}"
            )
        else:
            ends = ", ".join(
                f"{int(np.sum(status == value))} {Status(value).name.lower()}"
                for value in np.unique(status)
            )
            head = (
                f"{status.size} lanes: {ends or 'none'}; "
                f"{_range(count, '{:.0f}')} updates, error up to "
                f"{np.max(error, initial=0):.2e}"
            )
        return f"Solution({head}, params={_brief(self.params)})"


def _range(values, form):
    low, high = form.format(np.min(values)), form.format(np.max(values))
    return low if low == high else f"{low} to {high}"


def _brief(tree):
    def show(leaf):
        leaf = np.asarray(leaf)
        if leaf.size <= 8:
            return np.array2string(leaf.astype(np.float64), precision=6)
        return f"{leaf.dtype}{list(leaf.shape)}"

    shown = jax.tree.map(lambda leaf: _Text(show(leaf)), tree)
    return repr(shown)


class _Text(str):
    def __repr__(self):
        return str(self)
