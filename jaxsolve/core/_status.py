"""How a run can end: one enum and one table of messages for the whole library."""

import enum
from typing import Any

import chex
import jax.numpy as jnp


class Status(enum.IntEnum):
    """How a run ended; under vmap there is one per lane."""

    RUNNING = 0
    CONVERGED = 1
    STALLED = 2
    MAX_STEPS = 3
    DIVERGED = 4
    PRIMAL_INFEASIBLE = 5
    DUAL_INFEASIBLE = 6
    BREAKDOWN = 7

    @property
    def message(self) -> str:
        """What this status means, in a sentence."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.RUNNING: "The run has not ended.",
    Status.CONVERGED: "The error fell below the tolerance.",
    Status.STALLED: (
        "No further progress: at the limit of the precision, or of the method."
    ),
    Status.MAX_STEPS: "max_steps updates were taken before the error was small enough.",
    Status.DIVERGED: "Values became infinite or not a number, or unbounded below.",
    Status.PRIMAL_INFEASIBLE: "No point satisfies the constraints.",
    Status.DUAL_INFEASIBLE: "The objective is unbounded on the feasible set.",
    Status.BREAKDOWN: (
        "A factorisation or a recursion broke down, or a bracket has no sign change."
    ),
}


def as_status(status: Status) -> chex.Array:
    """Makes the array form of a status: (), int32."""
    return jnp.asarray(int(status), jnp.int32)


def status_of(state: Any, tol: chex.Array) -> chex.Array:
    """Judges a solver's state: (), int32.

    The state's own failure beats a small error; a small error beats a stall; an error
    that is not a number is divergence.
    """
    by_error = jnp.where(
        (state.error <= tol) & jnp.isfinite(state.error),
        as_status(Status.CONVERGED),
        jnp.where(
            jnp.isnan(state.error),
            as_status(Status.DIVERGED),
            as_status(Status.RUNNING),
        ),
    )
    own = getattr(state, "status", None)
    if own is None:
        return by_error
    stalled = (own == Status.STALLED) & (by_error == Status.CONVERGED)
    return jnp.where((own == Status.RUNNING) | stalled, by_error, own)
