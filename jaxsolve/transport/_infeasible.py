"""Whether forbidden pairs leave no plan, as the potentials of a stalled run tell."""

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.transport._problem import TransportProblem, is_stored


def certified(
    data: TransportProblem, f: chex.Array, error: chex.Array, status: chex.Array
) -> chex.Array:
    """A run's status; infeasible, if it has stalled far from a plan and f shows why.

    Without a plan potentials grow without bound, most where rows get too little. The
    rows above some level of f may then reach, by pairs that are not forbidden, columns
    of less mass only: a proof. Only of balanced problems whose cost is stored.
    """
    if not data.balanced or not is_stored(data):
        return status
    far = (status == Status.STALLED) & ~(error <= 0.01)

    def judged():
        a, b, allowed = data.a, data.b, data.geometry.cost != jnp.inf
        level = jnp.where(a > 0, f, -jnp.inf)
        reached = jnp.max(jnp.where(allowed, level[:, None], -jnp.inf), 0)
        slack = max(float(jnp.finfo(a.dtype).eps) ** 0.5, 1e-6) * jnp.sum(a)

        def excess(least):  # of the rows above that level: no matrix of them all
            above = lambda h, w: jnp.sum(jnp.where(h >= least, w, 0))
            return above(level, a) - above(reached, b)

        short = (a > 0) & (jax.lax.map(excess, level) > slack)
        infeasible = as_status(Status.PRIMAL_INFEASIBLE)
        return jnp.where(far & jnp.any(short), infeasible, status)

    return jax.lax.cond(core.any_lane(far), judged, lambda: status)
