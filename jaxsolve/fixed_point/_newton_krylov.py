"""Newton's method for equations, matrix-free: one product with the Jacobian a step."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.fixed_point import _arnoldi
from jaxsolve.fixed_point._arnoldi import Arnoldi
from jaxsolve.fixed_point._equation import (
    Equation,
    equation,
    norm,
    settle,
    stepped,
    strictly,
)
from jaxsolve.linesearch import ACCEPTED, FAILED, LineSearch, Search, backtracking

TIGHT = 1e-3  # forcing after a search that failed


class NewtonKrylovState(NamedTuple):
    """State of the Newton-Krylov method."""

    count: chex.Array  # (), int32: updates taken, one product or one value each.
    error: chex.Array  # (), real: sup-norm of F at params.
    status: chex.Array  # (), int32: running, stalled, diverged or breakdown.
    point: chex.Array  # (n,), real: params, raveled, in full precision.
    value: chex.Array  # (n,), real: F there.
    direction: chex.Array  # (n,), real: of the search; what GMRES has so far.
    search: Search  # the line search, on the norm of F, when not solving.
    solving: chex.Array  # (), bool: whether GMRES is under way.
    forcing: chex.Array  # (), real: the reduction that is asked of GMRES.
    krylov: Arnoldi  # its basis and its factorisation.


@core.memoise
def newton_krylov(
    fun: Equation,
    memory: int = 20,
    *,
    forcing: chex.Numeric = 0.5,
    search: LineSearch | None = None,
) -> core.Solver:
    r"""Solves large equations by Newton's method with GMRES, without a matrix.

    Solves :math:`F(x) = 0`. An update is one of two, and either costs one `jax.jvp` of
    :math:`F`, so that lanes of a batch never wait for one another: a step of
    restarted GMRES for

    .. math::

        \|F + J p\| \le \eta \|F\|

    or, when that is reached, one trial :math:`F(x + t p)` of a line search on
    :math:`\|F\|_2`. The forcing :math:`\eta` is Eisenstat and Walker's second choice,

    .. math::

        \eta^+ = 0.9 \, (\|F^+\| / \|F\|)^{(1 + \sqrt 5) / 2},

    at least the root of the machine epsilon and not much less than the last, so that
    far from a root little is spent on steps that will be shortened, and near it the
    rate is superlinear. GMRES ends early where a restart gained less than a tenth. If
    a search fails, GMRES is run again to 1e-3; if the next fails too, or nothing is
    left in the range of :math:`J`, the run has stalled.

    The memory takes m vectors like params. With few unknowns :func:`newton_root` is
    faster.

    Args:
        fun: :math:`F`, as ``fun(params, data) -> values``, as many as params has
            entries; a tree like params, or any other.
        memory: :math:`m`, of GMRES between restarts, at least 1.
        forcing: the first :math:`\eta`, in (0, 1).
        search: a line search; ``linesearch.backtracking(approximate=False)`` with 20
            trials by default.

    Returns:
        A solver. Its error is :math:`\|F(x)\|_\infty` at params, its residual
        :math:`F`.

    Raises:
        ValueError: if `memory` is not a positive integer or `forcing` not in (0, 1);
            while tracing, if the number of equations is not that of unknowns, or they
            are not real.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> fun = lambda x, a: x + 0.1 * jnp.cumsum(x) ** 2 - a
        >>> solver = jaxsolve.fixed_point.newton_krylov(fun)
        >>> bool(jaxsolve.run(solver, jnp.zeros(100), 0.01).converged)
        True

    References:
        Eisenstat and Walker, `Choosing the Forcing Terms in an Inexact Newton Method
        <https://doi.org/10.1137/0917003>`_, 1996, (2.6). Saad and Schultz, `GMRES
        <https://doi.org/10.1137/0907058>`_, 1986.
    """
    if not isinstance(memory, int) or memory < 1:
        raise ValueError(f"memory must be a positive integer, got {memory!r}.")
    if not isinstance(forcing, jax.core.Tracer) and not 0 < forcing < 1:
        raise ValueError(f"forcing must be between 0 and 1, got {forcing!r}.")
    if search is None:
        search = backtracking(approximate=False, max_trials=20)
    values = equation(fun)

    def init(params, data=None):
        del data
        x, _ = core.ravel(params)
        zero, inf = jnp.zeros((), x.dtype), jnp.full((), jnp.inf, x.dtype)
        return NewtonKrylovState(
            count=jnp.zeros((), jnp.int32),
            error=inf,
            status=as_status(Status.RUNNING),
            point=x,
            value=jnp.zeros_like(x),
            direction=jnp.zeros_like(x),
            search=search.init(inf, zero, zero),  # the first trial is the start
            solving=jnp.zeros((), bool),
            forcing=jnp.asarray(forcing, x.dtype),
            krylov=_arnoldi.empty(min(memory, x.size), x),
        )

    def update(params, state, data=None):
        x, unravel = core.ravel_fine(params, state.point)
        moved = jnp.any(x != state.point)
        solving = state.solving & ~moved
        trial = stepped(x, state.direction, state.search, moved | solving)
        tangent = jnp.where(solving, _arnoldi.newest(state.krylov), 0)
        function = lambda x: values(unravel(x), data)
        value, product = jax.jvp(function, (trial,), (tangent,))
        size = norm(value)

        krylov = _arnoldi.extend(state.krylov, product)
        wanted = state.forcing * norm(state.value)
        p, left, ended = _arnoldi.end(krylov, state.direction, wanted)
        # J p is what the linear residual leaves of -F.
        before = norm(state.value)
        unit = state.value / jnp.where(before > 0, before, 1)
        slope = -before - unit @ left
        solved = _solved(state, search, krylov, p, left, ended, slope, before)

        found = search.update(state.search, size, jnp.full_like(size, jnp.inf))
        found = settle(strictly(found, size), moved, size)
        tried = _tried(state, search, found, moved, trial, value, forcing)
        new_state = core.where(solving, solved, tried)
        state = new_state._replace(count=state.count + 1)
        return unravel(state.point), state

    return core.Solver(init, update, values, core.implicit())


def _solved(state, search, krylov, p, left, ended, slope, before):
    """After a step of GMRES: on with it, restarted or not, or a search."""
    size = norm(left)
    eps = 2 * float(jnp.finfo(p.dtype).eps)
    restart = ended.full & (size < 0.9 * state.krylov.start)
    over = (ended.enough | ended.full) & ~restart
    useless = over & ~(slope < -10 * eps * before)
    small = over & jnp.all(jnp.abs(p) <= eps * jnp.abs(state.point))
    status = jnp.where(
        useless & ~ended.sound,
        as_status(Status.BREAKDOWN),
        jnp.where(useless | small, as_status(Status.STALLED), state.status),
    )
    krylov = core.where(restart, _arnoldi.start(krylov, left), krylov)
    begun = search.init(before, slope, jnp.ones_like(before))
    return state._replace(
        status=status,
        direction=jnp.where(over | restart, p, state.direction),
        search=core.where(over, begun, state.search),
        solving=~over,
        krylov=krylov,
    )


def _tried(state, search, found, moved, trial, value, forcing):
    """After a trial: on with the search, or GMRES at the new point or the old."""
    ok, failed = found.outcome == ACCEPTED, found.outcome == FAILED
    size, before = norm(value), state.search.value
    begins = moved | ~jnp.isfinite(before)
    tight = state.forcing <= TIGHT
    root = float(jnp.finfo(value.dtype).eps) ** 0.5
    golden = (1 + 5**0.5) / 2
    ratio = size / jnp.where(begins | ~(before > 0), 1, before)
    eta = 0.9 * ratio**golden
    memory = 0.9 * state.forcing**golden
    eta = jnp.where(memory > 0.1, jnp.maximum(eta, memory), eta)
    eta = jnp.clip(eta, root, 0.9)
    eta = jnp.where(begins, jnp.asarray(forcing, eta.dtype), eta)
    eta = jnp.where(failed, jnp.minimum(TIGHT, state.forcing), eta)
    status = jnp.where(failed & tight, as_status(Status.STALLED), state.status)
    status = jnp.where(failed & begins, as_status(Status.DIVERGED), status)
    new_value = jnp.where(ok, value, state.value)
    zero, inf = jnp.zeros_like(size), jnp.full_like(size, jnp.inf)
    idle = search.init(inf, zero, zero)
    done = found.done
    return state._replace(
        error=jnp.where(ok, jnp.max(jnp.abs(value), initial=0), state.error),
        status=status,
        point=jnp.where(ok, trial, state.point),
        value=new_value,
        direction=jnp.where(done, 0, state.direction),
        search=core.where(done, idle, found),
        solving=done,
        forcing=jnp.where(done, eta, state.forcing),
        krylov=core.where(done, _arnoldi.start(state.krylov, -new_value), state.krylov),
    )
