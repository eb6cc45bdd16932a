"""Anderson acceleration of any solver, as a wrapper."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.fixed_point import _mixing
from jaxsolve.fixed_point._mixing import Mixing


class AccelerateState(NamedTuple):
    """State of an accelerated solver."""

    count: chex.Array  # (), int32: updates taken, one of the solver's each.
    error: chex.Array  # (), real: the solver's own, after its last accepted update.
    status: chex.Array  # (), int32: the solver's own.
    point: chex.Array  # (n,), real: params, raveled.
    trial: chex.Array  # (n,), real: where the solver is updated next.
    last: chex.Array  # (n,), real: where its last accepted update began.
    residual: chex.Array  # (n,), real: by how much that moved it.
    plain: chex.Array  # (), bool: whether the trial is params.
    best: chex.Array  # (), real: the solver's least error since the memory was empty.
    mixing: Mixing  # the last changes of the trial and of the residual.
    inner: Any  # the solver's state after its last accepted update.


@core.memoise
def accelerate(
    solver: core.Solver,
    memory: int = 5,
    *,
    every: int = 1,
    damping: chex.Numeric = 1.0,
    ridge: chex.Numeric | None = None,
    growth: chex.Numeric = 2.0,
) -> core.Solver:
    r"""Accelerates any solver by Anderson's mixing of its iterates.

    Takes the update of a solver for a map :math:`T` of its params. With
    :math:`f = T(z) - z`, and the last changes of :math:`z` and of :math:`f` as the
    columns of :math:`S` and :math:`Y`, one update computes

    .. math::

        x &= T(z) \\
        \gamma &= \arg\min_\gamma \|f - Y \gamma\|_2^2
            + \rho \textstyle\sum_i \gamma_i^2 \|Y_i\|_2^2 \\
        z^+ &= z + \beta f - (S + \beta Y) \gamma

    and returns :math:`x`, an iterate of the solver itself: feasible where the solver
    keeps it so, though :math:`z` need not be. It is safe: where an update from a mixed
    :math:`z` is not finite, ends the solver, or leaves its error `growth` times the
    least since the memory was empty, params and the solver's state stay, the memory is
    emptied, and the next update is the solver's own from params. The solver's state
    (momentum, stepsizes) goes along from update to update and sees mixed params as
    params that were changed from outside. So what is accelerated best is a solver
    whose update is a smooth map of its params: gradient and proximal gradient descent
    with a given stepsize, Picard, block coordinate descent. One with momentum of its
    own, or that searches, gains little.

    Args:
        solver: whatever :class:`~jaxsolve.core.Solver`.
        memory: :math:`m`, how many changes are kept, at least 1.
        every: updates from one mixing to the next; those between are the solver's own.
        damping: :math:`\beta > 0`.
        ridge: :math:`\rho \ge 0`, free of units; 100 machine epsilons by default.
        growth: of the solver's error that empties the memory, more than 1.

    Returns:
        A solver. Its error, residual and derivative are those of `solver`.

    Raises:
        ValueError: if `solver` is none, `memory` or `every` is not a positive integer,
            or a number is out of its range.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> scales = jnp.array([1.0, 10.0, 100.0])
        >>> fun = lambda x, b: jnp.sum(scales * (x - b) ** 2)
        >>> plain = jaxsolve.smooth.gradient_descent(fun, 0.005)
        >>> fast = jaxsolve.fixed_point.accelerate(plain)
        >>> count = lambda solver: jaxsolve.run(solver, jnp.zeros(3), 1.0).state.count
        >>> bool(20 * count(fast) < count(plain))
        True

    References:
        Anderson, `Iterative Procedures for Nonlinear Integral Equations
        <https://doi.org/10.1145/321296.321305>`_, 1965. Zhang, O'Donoghue and Boyd,
        `Globally Convergent Type-I Anderson Acceleration
        <https://doi.org/10.1137/18M1232772>`_, 2020, for the need of a safeguard.
    """
    if not isinstance(solver, core.Solver):
        raise ValueError(
            f"accelerate takes a jaxsolve.Solver, got {type(solver).__name__}; a map "
            "is accelerated by `fixed_point.anderson(fun)`."
        )
    for name, value in (("memory", memory), ("every", every)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}.")
    _check(damping > 0, "damping must be positive", damping)
    _check(ridge is None or ridge >= 0, "ridge must not be negative", ridge)
    _check(growth > 1, "growth must be more than 1", growth)

    def init(params, data=None):
        x, _ = core.ravel(params)
        inf = jnp.full((), jnp.inf, x.dtype)
        return AccelerateState(
            count=jnp.zeros((), jnp.int32),
            error=inf,
            status=as_status(Status.RUNNING),
            point=x,
            trial=x,
            last=x,
            residual=jnp.zeros_like(x),
            plain=jnp.ones((), bool),
            best=inf,
            mixing=_mixing.empty(memory, x),
            inner=solver.init(params, data),
        )

    def update(params, state, data=None):
        x, unravel = core.ravel(params)
        moved = jnp.any(x != state.point)
        plain = state.plain | moved
        trial = jnp.where(plain, x, state.trial)
        started = core.where(plain, params, unravel(trial))
        trial, _ = core.ravel(started)  # where the solver is updated, rounded
        new_params, inner = solver.update(started, state.inner, data)
        new_x, _ = core.ravel(new_params)
        residual = new_x - trial

        own = getattr(inner, "status", as_status(Status.RUNNING))
        error = inner.error.astype(x.dtype)
        good = jnp.all(jnp.isfinite(new_x)) & (own == Status.RUNNING)
        good = good & (error <= jnp.asarray(growth, x.dtype) * state.best)
        accept = plain | good

        known = state.count > 0
        moves = jnp.any(residual != 0)  # a solver that searches may stay where it is
        keep = accept & known & moves
        step, bend = trial - state.last, residual - state.residual
        mixing = _mixing.push(
            state.mixing, jnp.where(keep, step, 0), jnp.where(keep, bend, 0)
        )
        mixing = core.where(keep, mixing, state.mixing)
        mixing = _mixing.cleared(mixing, ~accept)
        beta = jnp.asarray(damping, x.dtype)
        rho = 100 * float(jnp.finfo(x.dtype).eps) if ridge is None else ridge
        mixed = _mixing.mix(mixing, trial, residual, beta, jnp.asarray(rho, x.dtype))
        count = state.count + 1
        mixes = accept & moves & (mixing.count > 0) & (count % every == 0)
        mixes = mixes & jnp.all(jnp.isfinite(mixed))
        best = jnp.where(plain, error, jnp.minimum(error, state.best))
        params = core.where(accept, new_params, params)
        point = jnp.where(accept, new_x, x)
        return params, AccelerateState(
            count=count,
            error=jnp.where(accept, error, state.error),
            status=jnp.where(accept, own, state.status),
            point=point,
            trial=jnp.where(mixes, mixed, point),
            last=jnp.where(accept, trial, state.last),
            residual=jnp.where(accept, residual, state.residual),
            plain=~mixes,
            best=jnp.where(accept, best, jnp.full_like(best, jnp.inf)),
            mixing=mixing,
            inner=core.where(accept, inner, state.inner),
        )

    return core.Solver(init, update, solver.residual, core.of_inner(solver.derivative))


def _check(condition, message, value):
    if not isinstance(condition, jax.core.Tracer) and not condition:
        raise ValueError(f"{message}, got {value!r}.")
