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

    @property
    def error(self) -> chex.Array:
        """The state's error, which the solver documents: what `tol` bounds."""
        return self.state.error

    @property
    def value(self) -> chex.Array:
        """The objective at params, of solvers that keep it.

        Its derivative is zero, as the state's: differentiate ``fun(solution.params,
        data)`` instead.
        """
        return self._of_state("value", "value")

    @property
    def count(self) -> chex.Array:
        """The updates taken."""
        return self.state.count

    @property
    def message(self) -> str:
        """What the status means, in a sentence; of one solve, not of a batch."""
        if not is_concrete(self.status) or np.ndim(self.status):
            raise ValueError(
                "a message is for one finished solve; of a traced or batched one read "
                "`solution.status`."
            )
        return Status(int(self.status)).message

    @property
    def method(self) -> str | None:
        """The algorithm that a door has chosen, by name; None of a plain run."""
        return getattr(self.state, "name", None)

    # The names that SciPy's users type.

    @property
    def x(self) -> Any:
        """The params, by SciPy's name."""
        return self.params

    @property
    def fun(self) -> chex.Array:
        """The value, by SciPy's name; of `least_squares` and `root` it is a scalar."""
        return self._of_state("value", "fun")

    @property
    def jac(self) -> chex.Array:
        """The gradient at params, raveled, of solvers that keep it; SciPy's name."""
        return self._of_state("grad", "jac")

    @property
    def nit(self) -> chex.Array:
        """The updates taken, by SciPy's name."""
        return self.count

    @property
    def nfev(self) -> chex.Array:
        """The oracle calls: of most solvers one an update; SciPy's name."""
        return getattr(self.state, "calls", self.count)

    @property
    def success(self) -> chex.Array:
        """Whether it converged, by SciPy's name."""
        return self.converged

    def _by(self):
        return "" if self.method is None else f" of {self.method}"

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
                f"updates{self._by()}, error {float(np.max(error)):.2e}"
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

    def _by(self):
        return "" if self.method is None else f" of {self.method}"

    def _of_state(self, field, name):
        found = getattr(self.state, field, None)
        if found is None:
            raise AttributeError(
                f"this solution has no {name}, as {type(self.state).__name__} keeps no "
                f"{field}; evaluate the function, or its gradient, at solution.params."
            )
        return found


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
