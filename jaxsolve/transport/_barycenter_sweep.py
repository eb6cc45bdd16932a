"""One pass each way of iterative Bregman projections, and what it tells."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.transport._barycenter_problem import status_of_problem
from jaxsolve.transport._products import bounded_exp as _exp
from jaxsolve.transport._shared_kernel import softmins


class Sweep(NamedTuple):
    """What one pass each way tells."""

    f_raw: chex.Array  # (K, n), real: best at g; infinite where out of reach.
    f: chex.Array  # (K, n), real: with the barycenter's log-weights, relaxed.
    logs: chex.Array  # (n,), real: these log-weights.
    there: chex.Array  # (n,), bool: where they count.
    log_kd: chex.Array | None  # (n,), real: the logarithm of K d.
    g_raw: chex.Array  # (K, m), real: best at f; infinite where out of reach.


def positive(d):
    """The vector d, one where it is zero: for logarithms."""
    return jnp.where(d > 0, d, 1)


def sweep(data, kernel, g, d, relaxed):
    """One pass each way: by the kernel, or in the log domain where that underflows."""

    def finished(rows, columns):
        """The sweep, and whether its passes have lost no digits."""
        f_raw, log_kd, safe = rows
        logs, there = data.log_weights(f_raw, d)
        f = relaxed(data.absolute(f_raw, logs, there))
        f = jnp.where(there[None], f, 0)
        g_raw, safe_too = columns(f, there)
        return Sweep(f_raw, f, logs, there, log_kd, g_raw), safe & safe_too

    def in_logs():
        yes = jnp.ones((), bool)
        columns = lambda f, there: (data.column_passes(f, there), yes)
        return finished((*data.row_passes(g, d), yes), columns)[0]

    if kernel is None:
        return in_logs()

    def columns(f, there):
        weights = jnp.broadcast_to(there.astype(f.dtype)[None], f.shape)
        return softmins(kernel, f, weights, data.epsilon, 0)

    rows, safe = softmins(kernel, *data.stacked(g, d), data.epsilon, 1)
    cheap, safe = finished((*data.parted(rows, d), safe), columns)
    return jax.lax.cond(
        core.any_lane(~safe),
        lambda: core.where(safe, cheap, in_logs()),
        lambda: cheap,
    )


def error_of(data, new, g, d):
    """The largest disagreement of a plan with what it should be, over the mass."""
    alpha, b = data.weights_of(new.logs, new.there), data.measures
    best = data.absolute(new.f_raw, new.logs, new.there)
    rows = alpha[None] * jnp.abs(_exp((new.f - best) / data.epsilon) - 1)
    columns = b * jnp.abs(_exp((g - new.g_raw) / data.epsilon) - 1)
    gaps = jnp.sum(rows, 1) + jnp.sum(jnp.where(b > 0, columns, 0), 1)
    if d is not None:
        itself = _exp(jnp.log(positive(d)) + new.log_kd - new.logs)
        own = jnp.sum(jnp.where(new.there, alpha * jnp.abs(itself - 1), 0))
        gaps = jnp.append(gaps, own)
    error = jnp.max(gaps) / data.mass
    return jnp.where(jnp.isfinite(error), error, jnp.inf)


def status_of(data, new, status, symmetric):
    """The status, but for stalls."""
    reached = jnp.isfinite(new.g_raw) | (data.measures == 0)
    feasible = jnp.all(reached) & jnp.any(new.there)
    number = ~(jnp.any(jnp.isnan(new.f_raw)) | jnp.any(jnp.isnan(new.g_raw)))
    infeasible = as_status(Status.PRIMAL_INFEASIBLE)
    status = status_of_problem(data, jnp.where(feasible, status, infeasible))
    return jnp.where(number & symmetric, status, as_status(Status.DIVERGED))


def is_symmetric(geometry):
    """Whether a cost is symmetric, by its products with one vector: (), bool."""
    probe = 2 + jnp.cos(jnp.arange(geometry.shape[0], dtype=geometry.dtype))
    right, left = geometry.apply(probe, 1), geometry.apply(probe, 0)
    tolerance = float(jnp.finfo(geometry.dtype).eps) ** 0.5
    return jnp.max(jnp.abs(right - left)) <= tolerance * jnp.max(jnp.abs(right))
