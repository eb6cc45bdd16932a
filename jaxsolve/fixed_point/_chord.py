"""The chord method: Newton's for equations, with the Jacobian of an earlier point."""

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
    damped,
    equation,
    factorised,
    jacobian,
    norm,
    settle,
    stepped,
    strictly,
)
from jaxsolve.linesearch import ACCEPTED, FAILED, Search, backtracking


class ChordState(NamedTuple):
    """State of the chord method."""

    count: chex.Array  # (), int32: updates taken, one evaluation of F each.
    error: chex.Array  # (), real: sup-norm of F at params.
    status: chex.Array  # (), int32: running, stalled or diverged.
    point: chex.Array  # (n,), real: params, raveled, in full precision.
    direction: chex.Array  # (n,), real: of the search.
    search: Search  # the line search under way, on the norm of F.
    inverse: chex.Array  # (n, n), real: of the Jacobian, where it was formed last.
    fresh: chex.Array  # (), bool: whether that is where the search began.
    jacobians: chex.Array  # (), int32: how many were formed.


@core.memoise
def chord(fun: Equation, slow: chex.Numeric = 0.5) -> core.Solver:
    r"""Solves equations by Newton's method with a Jacobian that is seldom renewed.

    Solves :math:`F(x) = 0`. Each update evaluates :math:`F` at one trial, from

    .. math::

        p = - A^{-1} F

    where :math:`A` is the Jacobian at an earlier iterate. It is formed anew, from the
    linearisation at hand, where the last step did not bring :math:`\|F\|_2` below
    `slow` times what it was; where it brought no decrease at all, at the iterate
    before, and a line search on :math:`\|F\|` follows. One that fails with a new
    Jacobian is a stall. Converges linearly, the faster the nearer that point was to
    the root, and takes fewer Jacobians than :func:`newton_root`: for equations of
    which these cost much, and that start near their root. Singular ones are damped.

    Takes n times n numbers, the inverse.

    Args:
        fun: :math:`F`, as ``fun(params, data) -> values``, as many as params has
            entries; a tree like params, or any other.
        slow: the ratio of two norms above which the Jacobian is renewed, in [0, 1];
            0 is Newton's method.

    Returns:
        A solver. Its error is :math:`\|F(x)\|_\infty` at params, its residual
        :math:`F`.

    Raises:
        ValueError: if `slow` is not in [0, 1]; while tracing, if the number of
            equations is not that of unknowns, if they are not real, or the Jacobian
            takes more than 4 GiB.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> solver = jaxsolve.fixed_point.chord(lambda x, a: x**3 - a)
        >>> solution = jaxsolve.run(solver, 2.5, 8.0, tol=1e-5)
        >>> print(f"{solution.params:.4f}", solution.state.jacobians)
        2.0000 1

    References:
        Kelley, `Iterative Methods for Linear and Nonlinear Equations
        <https://doi.org/10.1137/1.9781611970944>`_, 1995, Section 5.4.
    """
    if not isinstance(slow, jax.core.Tracer) and not 0 <= slow <= 1:
        raise ValueError(f"slow must be a ratio between 0 and 1, got {slow!r}.")
    values = equation(fun)
    rule = backtracking(approximate=False, max_trials=20)

    def init(params, data=None):
        del data
        x, _ = core.ravel(params)
        check_dense(x, "chord")
        zero, inf = jnp.zeros((), x.dtype), jnp.full((), jnp.inf, x.dtype)
        return ChordState(
            count=jnp.zeros((), jnp.int32),
            error=inf,
            status=as_status(Status.RUNNING),
            point=x,
            direction=jnp.zeros_like(x),
            search=rule.init(inf, zero, zero),  # the first trial is the start
            inverse=jnp.zeros((x.size, x.size), x.dtype),
            fresh=jnp.ones((), bool),
            jacobians=jnp.zeros((), jnp.int32),
        )

    def update(params, state, data=None):
        x, unravel = core.ravel_fine(params, state.point)
        moved = jnp.any(x != state.point)
        trial = stepped(x, state.direction, state.search, moved)
        value, push = jax.linearize(lambda x: values(unravel(x), data), trial)
        size, before = norm(value), state.search.value
        found = rule.update(state.search, size, jnp.full_like(size, jnp.inf))
        # With an old Jacobian there is no search: a trial that fails asks for a new.
        found = strictly(found, size)
        outcome = jnp.where(found.done | state.fresh, found.outcome, FAILED)
        found = settle(found._replace(outcome=outcome), moved, size)
        ok, failed = found.outcome == ACCEPTED, found.outcome == FAILED
        begins = moved | ~jnp.isfinite(before)
        short = state.fresh & (state.search.stepsize < 1)
        good = size <= jnp.asarray(slow, x.dtype) * before
        renew = ok & (begins | short | ~good) & (size > 0)

        inverse = jax.lax.cond(
            core.any_lane(renew),
            lambda: jnp.where(renew, _inverse(jacobian(push, x)), state.inverse),
            lambda: state.inverse,
        )
        p = -jnp.matmul(inverse, value, precision=HIGHEST)
        p = jnp.where(jnp.isfinite(p), p, 0)
        still = jnp.all(jnp.abs(p) <= 2 * float(jnp.finfo(x.dtype).eps) * jnp.abs(x))
        stuck = (failed & state.fresh) | (ok & renew & still)
        status = jnp.where(
            failed & begins,
            as_status(Status.DIVERGED),
            jnp.where(stuck, as_status(Status.STALLED), state.status),
        )
        # After a failure the point is evaluated again, for its Jacobian.
        zero, inf = jnp.zeros_like(size), jnp.full_like(size, jnp.inf)
        merit, slope = jnp.where(ok, size, inf), jnp.where(ok, -size, zero)
        begun = rule.init(merit, slope, ok.astype(x.dtype))
        finished = ChordState(
            state.count + 1,
            jnp.where(ok, jnp.max(jnp.abs(value), initial=0), state.error),
            status,
            jnp.where(ok, trial, state.point),
            jnp.where(ok, p, 0),
            begun,
            inverse,
            renew,
            state.jacobians + renew.astype(jnp.int32),
        )
        again = state._replace(count=state.count + 1, search=found)
        state = core.where(found.done, finished, again)
        return unravel(state.point), state

    return core.Solver(init, update, values, core.implicit())


def _inverse(matrix):
    """The inverse of a matrix; where it is singular, of a damped one."""
    solve, regular = factorised(matrix)
    identity = jnp.eye(matrix.shape[0], dtype=matrix.dtype)
    inverse = solve(identity)
    sound = regular & jnp.all(jnp.isfinite(inverse))
    least = (max(matrix.shape[0], 1) * float(jnp.finfo(matrix.dtype).eps)) ** 0.5

    def safe():
        return jnp.where(
            sound, inverse, damped(matrix, identity, jnp.asarray(least, matrix.dtype))
        )

    return jax.lax.cond(core.any_lane(~sound), safe, lambda: inverse)
