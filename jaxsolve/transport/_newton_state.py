"""What Newton's method for transport keeps from update to update."""

from typing import NamedTuple

import chex
import jax.numpy as jnp


class Krylov(NamedTuple):
    """Conjugate gradients under way, for a step in units of the temperature."""

    solution: chex.Array  # (n,), real.
    residual: chex.Array  # (n,), real.
    direction: chex.Array  # (n,), real.
    size: chex.Array  # (), real: the residual's square in the preconditioner's norm.
    goal: chex.Array  # (), real: the size at which it ends.
    steps: chex.Array  # (), int32.


class NewtonTransportState(NamedTuple):
    """State of Newton's method for transport."""

    count: chex.Array  # (), int32: updates taken, a pair of kernel products each.
    error: chex.Array  # (), real: L1 error of the rows at params, over the mass.
    status: chex.Array  # (), int32: running, stalled, diverged or infeasible.
    epsilon: chex.Array  # (), real: the temperature of the next update.
    point: chex.Array  # (n,), real: params, raveled, in full precision.
    value: chex.Array  # (), real: the dual objective there; -inf accepts any trial.
    level: chex.Array  # (), real: the error there, at this temperature.
    rows: chex.Array  # (n,), real: the sums of the plan's rows there.
    share: chex.Array  # (m,), real: what turns K'(a u p) into b v times a change of g.
    krylov: Krylov  # the linear solve.
    solving: chex.Array  # (), bool: whether that is under way, or else a search.
    direction: chex.Array  # (n,), real: of the search.
    slope: chex.Array  # (), real: of the objective along it.
    stepsize: chex.Array  # (), real: of the next trial.
    best: chex.Array  # (), real: the least error at this temperature.
    best_point: chex.Array  # (n,), real: where that was.
    idle: chex.Array  # (), int32: accepted steps since.
    mark: chex.Array  # (), real: of the problem that this is a state of.
    anchored: chex.Array  # (), bool: whether there are anchors yet.
    anchor_f: chex.Array  # (n,), real.
    anchor_g: chex.Array  # (m,), real.
    kernel: chex.Array | None  # (n, m): exp((f + g - C) / epsilon) there, if stored.


def inverse(diagonal):
    return jnp.where(diagonal > 0, 1 / jnp.where(diagonal > 0, diagonal, 1), 0)
