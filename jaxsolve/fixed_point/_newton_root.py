"""Newton's method for equations, with a dense Jacobian."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.fixed_point._equation import (
    HIGHEST,
    Equation,
    check_dense,
    column_norms,
    damped,
    equation,
    factorised,
    jacobian,
    norm,
    settle,
    stepped,
    strictly,
)
from jaxsolve.linesearch import ACCEPTED, FAILED, LineSearch, Search, backtracking

LARGEST_DAMPING = 1e3


class NewtonRootState(NamedTuple):
    """State of Newton's method for equations."""

    count: chex.Array  # (), int32: updates taken, one linearisation of F each.
    error: chex.Array  # (), real: sup-norm of F at params.
    status: chex.Array  # (), int32: running, stalled, diverged or primal infeasible.
    point: chex.Array  # (n,), real: params, raveled, in full precision.
    direction: chex.Array  # (n,), real: of the search.
    search: Search  # the line search under way, on the norm of F.
    damping: chex.Array  # (), real: of the next step; zero for Newton's own.


@core.memoise
def newton_root(
    fun: Equation,
    *,
    bounds: core.Bounds | None = None,
    search: LineSearch | None = None,
    backtrack: bool = True,
) -> core.Solver:
    r"""Solves equations by Newton's method, from far away and in a box too.

    Solves :math:`F(x) = 0`. Each update evaluates :math:`F` at one trial of a line
    search on :math:`\|F\|_2`. Where the search is done, it forms the Jacobian :math:`J`
    from the same linearisation, and the next direction

    .. math::

        p = - J^{-1} F

    Converges quadratically near a root with a regular Jacobian. Where :math:`J` is
    singular, or the last search had to shorten its step below a tenth, the direction
    is :math:`-(J^\top J + \lambda D^2)^{-1} J^\top F` instead, :math:`D` the norms of
    the columns: it descends even there. :math:`\lambda` grows from search to search
    that fails; if none is left, or :math:`J^\top F` vanishes, the run has stalled, at
    a point such as a minimum of :math:`\|F\|` that is no root. In a box the direction
    is shortened to :math:`P(x + p) - x`, and variables that :math:`\|F\|` presses
    against their bounds are held. A value that is not finite is stepped back from.

    Takes n times n numbers; with many unknowns use :func:`newton_krylov` or
    :func:`broyden`.

    Args:
        fun: :math:`F`, as ``fun(params, data) -> values``, as many as params has
            entries; a tree like params, or any other.
        bounds: a pair ``(lower, upper)`` as in `core.check_bounds`, or a function of
            the data that returns one; :math:`F` is never evaluated outside. A start
            outside is first projected.
        search: a line search; ``linesearch.backtracking(approximate=False)`` with 20
            trials by default.
        backtrack: False takes full steps, wherever :math:`F` is finite.

    Returns:
        A solver. Its error is :math:`\|F(x)\|_\infty` at params, its residual
        :math:`F`.

    Raises:
        ValueError: while tracing, if the number of equations is not that of unknowns,
            if they are not real, if the bounds make no sense, or the Jacobian takes
            more than 4 GiB.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> fun = lambda x, a: jnp.stack([x[0] ** 2 + x[1] ** 2 - a, x[0] - x[1]])
        >>> solver = jaxsolve.fixed_point.newton_root(fun)
        >>> print(jaxsolve.run(solver, jnp.array([1.0, 2.0]), 8.0).params.round(3))
        [2. 2.]

    References:
        Dennis and Schnabel, `Numerical Methods for Unconstrained Optimization and
        Nonlinear Equations <https://doi.org/10.1137/1.9781611971200>`_, 1996, Sections
        6.3 and 6.5; the damping is Levenberg's, scaled as Marquardt's.
    """
    if search is None:
        search = backtracking(approximate=False, max_trials=20)
    values = equation(fun)

    def init(params, data=None):
        x, _ = core.ravel(params)
        check_dense(x, "newton_root")
        lower, upper, _ = core.box(bounds, params, data)
        zero, inf = jnp.zeros((), x.dtype), jnp.full((), jnp.inf, x.dtype)
        return NewtonRootState(
            count=jnp.zeros((), jnp.int32),
            error=inf,
            status=as_status(Status.RUNNING),
            point=jnp.clip(x, lower, upper),
            direction=jnp.zeros_like(x),
            search=search.init(inf, zero, zero),  # the first trial is the start
            damping=zero,
        )

    def update(params, state, data=None):
        x, unravel = core.ravel_fine(params, state.point)
        lower, upper, feasible = core.box(bounds, params, data)
        x = jnp.clip(x, lower, upper)
        moved = jnp.any(x != state.point)
        trial = jnp.clip(stepped(x, state.direction, state.search, moved), lower, upper)
        value, push = jax.linearize(lambda x: values(unravel(x), data), trial)
        size = norm(value)
        found = search.update(state.search, size, jnp.full_like(size, jnp.inf))
        found = settle(strictly(found, size), moved | (not backtrack), size)

        def finish():
            ok = found.outcome == ACCEPTED
            matrix = jacobian(push, x)
            damping, lost, stuck = _damping(state, found, moved, backtrack)
            free = _free(matrix, value, trial, lower, upper)
            p, slope, flat = _direction(matrix, value, free, damping)
            q = jnp.clip(trial + p, lower, upper) - trial
            if bounds is not None:
                p, slope = _inside(matrix, value, free, trial, q, lower, upper)
            still = jnp.all(jnp.abs(p) <= eps_of(x) * jnp.abs(trial))
            still = (still | flat | (slope > -eps_of(x) * size)) & (size > 0)
            status = jnp.where(
                lost,
                as_status(Status.DIVERGED),
                jnp.where(
                    stuck | (ok & still), as_status(Status.STALLED), state.status
                ),
            )
            # After a failure the point is evaluated again, for its Jacobian.
            zero, inf = jnp.zeros_like(size), jnp.full_like(size, jnp.inf)
            begun = search.init(
                jnp.where(ok, size, inf), jnp.where(ok, slope, zero), ok.astype(x.dtype)
            )
            return NewtonRootState(
                state.count + 1,
                jnp.where(ok, jnp.max(jnp.abs(value), initial=0), state.error),
                jnp.where(feasible, status, as_status(Status.PRIMAL_INFEASIBLE)),
                jnp.where(ok, trial, jnp.clip(state.point, lower, upper)),
                jnp.where(ok, p, 0),
                begun,
                damping,
            )

        again = state._replace(count=state.count + 1, search=found)
        done = found.done | ~feasible
        state = jax.lax.cond(
            core.any_lane(done),
            lambda: core.where(done, finish(), again),
            lambda: again,
        )
        return unravel(state.point), state

    return core.Solver(init, update, values, core.implicit())


def eps_of(x):
    """Two units of rounding."""
    return 2 * float(jnp.finfo(x.dtype).eps)


def _damping(state, found, moved, backtrack):
    """The damping of the next step, and whether the run is lost, or stuck."""
    least = _least(state.point)
    usual = jnp.isfinite(state.search.value) & ~moved & backtrack
    t = state.search.stepsize
    fewer = jnp.where(state.damping > 10 * least, state.damping / 10, 0)
    more = jnp.maximum(least, 10 * state.damping)
    after = jnp.where(t < 0.1, more, jnp.where(t == 1, fewer, state.damping))
    damping = jnp.where(usual, after, state.damping)
    failed = found.outcome == FAILED
    harder = jnp.maximum(1e-3, 100 * state.damping)
    stuck = failed & usual & (state.damping >= LARGEST_DAMPING)
    return jnp.where(failed, harder, damping), failed & ~usual, stuck


def _least(x):
    return (max(x.size, 1) * float(jnp.finfo(x.dtype).eps)) ** 0.5


def _free(matrix, value, x, lower, upper):
    """Variables that the norm of F does not press against their bounds."""
    size = norm(value)  # in units of which no product overflows
    unit = value / jnp.where(size > 0, size, 1)
    slope = jnp.matmul(matrix.T, unit, precision=HIGHEST)
    return ~(((x <= lower) & (slope >= 0)) | ((x >= upper) & (slope <= 0)))


def _direction(matrix, value, free, damping):
    """Newton's direction or a damped one, its slope, and whether none descends."""
    size = norm(value)
    solve, regular = factorised(matrix)
    newton = -solve(value)
    sound = regular & jnp.all(jnp.isfinite(newton)) & jnp.all(free) & (damping == 0)
    columns = jnp.where(free[None, :], matrix, 0)
    least = _least(value)

    def safe():
        return jnp.where(
            sound, newton, -damped(columns, value, jnp.maximum(damping, least))
        )

    p = jax.lax.cond(core.any_lane(~sound), safe, lambda: newton)
    unit = value / jnp.where(size > 0, size, 1)
    product = jnp.matmul(columns.T, unit, precision=HIGHEST)
    length = column_norms(columns)
    cosine = jnp.abs(product) / jnp.where(length > 0, length, 1)
    # In trouble, the floor of what values can tell; else that of rounding alone.
    noise = 5 * max(value.size, 1) ** 0.5 * eps_of(value)
    noise = jnp.where(damping > 0, max(noise, eps_of(value) ** 0.5), noise)
    flat = jnp.max(cosine, initial=0) <= noise
    p = jnp.where(jnp.isfinite(p), p, 0)
    slope = jnp.where(sound, -size, product @ p)
    return p, slope, flat


def _inside(matrix, value, free, x, q, lower, upper):
    """A projected direction; where it does not descend, the projected gradient."""
    size = norm(value)
    unit = value / jnp.where(size > 0, size, 1)
    gradient = jnp.matmul(matrix.T, unit, precision=HIGHEST)
    length = column_norms(matrix)
    length = jnp.where(length > 0, length, 1)
    steepest = jnp.where(free, gradient / length / length, 0)
    bend = jnp.matmul(matrix, steepest, precision=HIGHEST)
    square = bend @ bend
    t = size * (gradient @ steepest) / jnp.where(square > 0, square, 1)
    plain = jnp.clip(x - t * steepest, lower, upper) - x
    slope = gradient @ q
    descends = slope < -1e-3 * size
    better = descends | (slope <= gradient @ plain)
    return jnp.where(better, q, plain), jnp.where(better, slope, gradient @ plain)
