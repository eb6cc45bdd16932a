"""Limited-memory BFGS in a box."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.linesearch import LineSearch, Search, wolfe
from jaxsolve.smooth._progress import Progress, evaluate, judge, settle


class LBFGSBState(NamedTuple):
    """State of L-BFGS-B."""

    count: chex.Array  # (), int32: updates taken, one oracle call each.
    error: chex.Array  # (), real: sup-norm of the projected gradient at params.
    status: chex.Array  # (), int32: running, stalled, diverged or primal infeasible.
    value: chex.Array  # (), real: the objective at params.
    point: chex.Array  # (n,), real: params, raveled, in full precision.
    grad: chex.Array  # (n,), real: the gradient there.
    direction: chex.Array  # (n,), real: of the search; its unit step stays in the box.
    search: Search  # the line search under way.
    kept: chex.Array  # (), int32: pairs accepted since the memory was last emptied.
    pairs: chex.Array  # (2, m, n), real: s and y over the root of s'y, a ring.
    theta: chex.Array  # (), real: scale of the initial Hessian.
    progress: Progress  # what tells a stall.


@core.memoise
def lbfgsb(
    fun: core.Objective,
    bounds: core.Bounds,
    memory: int = 10,
    *,
    search: LineSearch | None = None,
    patience: int = 20,
) -> core.Solver:
    r"""Minimises a smooth function in a box, and never evaluates it outside.

    Solves :math:`\min_{l \le x \le u} f(x)`. Each update evaluates :math:`f` and its
    gradient :math:`g` at one trial point :math:`x + t p` of a line search, with
    :math:`t` at most the step to the boundary. When the search is done, the variables
    that the gradient presses against their bounds are held; in the others, :math:`F`,

    .. math::

        d_F &= - (B_{FF})^{-1} g_F, \quad B = \theta I - W M W^\top \\
        p &= P(x + d) - x

    where :math:`B` is the compact L-BFGS matrix of the last pairs and :math:`P` the
    projection onto the box. If :math:`p` does not descend, it is the projected gradient
    step. After a failed search the memory is emptied; a second failure in a row is a
    stall. The memory takes 2m vectors like params. A start outside the box is first
    projected into it.

    Args:
        fun: :math:`f`, as ``fun(params, data) -> scalar``; it need not be defined
            outside the box.
        bounds: a pair ``(lower, upper)``, each None, a number, or a tree like params
            whose leaves broadcast to those of params; infinite and equal bounds are
            legal. Or a function of the data that returns such a pair: bounds that
            change from solve to solve cost no new trace, and are differentiable.
        memory: :math:`m`, the number of pairs kept, at least 1.
        search: a line search; ``linesearch.wolfe()`` by default.
        patience: accepted steps without progress in value or error beyond rounding
            after which the run has stalled.

    Returns:
        A solver. Its error is the sup-norm at params of :math:`P(x - g) - x`, each
        entry divided by the width of its box where that is less than one; its residual
        is :math:`x - P(x - g)`. Bounds count in the dtype of their leaf; those that
        cross, found out at run time only, end a run as primal infeasible. Where a
        variable lies at a bound and its gradient is zero, derivatives are those of
        holding it there.

    Raises:
        ValueError: if `memory` is not a positive integer; while tracing, if the bounds
            cross or do not fit params, or the objective is not a real scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> fun = lambda x, data: jnp.sum((x - data) ** 2)
        >>> solver = jaxsolve.smooth.lbfgsb(fun, (0.0, 1.0))
        >>> solution = jaxsolve.run(solver, jnp.zeros(3), jnp.array([-1.0, 0.5, 2.0]))
        >>> print(solution.params.round(3))
        [0.  0.5 1. ]

    References:
        Byrd, Lu, Nocedal and Zhu, `A Limited Memory Algorithm for Bound Constrained
        Optimization <https://doi.org/10.1137/0916069>`_, 1995, (3.2), (5.11). Morales
        and Nocedal, `Remark on Algorithm 778 <https://doi.org/10.1145/2049662.2049669>`_,
        2011, for the projection of the subspace step. The active set is that of the
        projected gradient in place of a Cauchy point: Bertsekas, `Projected Newton
        Methods <https://doi.org/10.1137/0320018>`_, 1982, (32). The first step is as in
        the authors' code: a unit step of a projected gradient in a box that is finite
        on all sides, else one of unit length at most.
    """
    if not isinstance(memory, int) or memory < 1:
        raise ValueError(f"memory must be a positive integer, got {memory!r}.")
    search = wolfe() if search is None else search
    oracle = core.value_and_grad(fun)

    def init(params, data=None):
        x, _ = core.ravel(params)
        lower, upper, _ = core.box(bounds, params, data)
        x = jnp.clip(x, lower, upper)
        zero, inf = jnp.zeros((), x.dtype), jnp.full((), jnp.inf, x.dtype)
        return LBFGSBState(
            count=jnp.zeros((), jnp.int32),
            error=inf,
            status=as_status(Status.RUNNING),
            value=inf,
            point=x,
            grad=jnp.zeros_like(x),
            direction=jnp.zeros_like(x),
            search=search.init(inf, zero, zero),  # the first trial is the start
            kept=jnp.zeros((), jnp.int32),
            pairs=jnp.zeros((2, memory, x.size), x.dtype),
            theta=jnp.ones((), x.dtype),
            progress=Progress.start(inf),
        )

    def update(params, state, data=None):
        x, unravel = core.ravel_fine(params, state.point)
        lower, upper, feasible = core.box(bounds, params, data)
        x = jnp.clip(x, lower, upper)
        moved = jnp.any(x != state.point)
        trial = x + jnp.where(moved, 0, state.search.stepsize) * state.direction
        trial = core.onto_box(trial, lower, upper)
        value, grad = evaluate(oracle, unravel(trial), data)
        found = search.update(state.search, value, grad @ state.direction)
        found = settle(found, moved, value)

        def accept():
            ok = ~found.failed
            new_x = jnp.where(ok, trial, jnp.clip(state.point, lower, upper))
            new_value = jnp.where(ok, value, state.value)
            new_grad = jnp.where(ok, grad, state.grad)
            s, y = new_x - state.point, new_grad - state.grad
            kept, pairs, theta = _push(state, s, y, found.failed)
            p, fresh = _direction(new_x, new_grad, lower, upper, kept, pairs, theta)
            limit = _limit(new_x, p, lower, upper)
            squared = p @ p
            short = 1 / jnp.sqrt(jnp.where(squared > 0, squared, 1))
            # A box that is finite on all sides says how long a first step may be.
            boxed = jnp.all(jnp.isfinite(upper - lower))
            stepsize = jnp.where(fresh & ~boxed, jnp.minimum(1, short), 1)
            width = jnp.minimum(upper - lower, 1)
            optimal = core.box_step(-new_grad, new_x, lower, upper)
            optimal = optimal / jnp.where(width > 0, width, 1)
            error, status, progress = judge(
                state, found, new_x, new_value, optimal, state.kept == 0, patience
            )
            return LBFGSBState(
                state.count + 1,
                error,
                jnp.where(feasible, status, as_status(Status.PRIMAL_INFEASIBLE)),
                new_value,
                new_x,
                new_grad,
                p,
                search.init(new_value, new_grad @ p, stepsize, limit),
                kept,
                pairs,
                theta,
                progress,
            )

        def try_again():
            return state._replace(count=state.count + 1, search=found)

        state = jax.lax.cond(found.done | ~feasible, accept, try_again)
        return unravel(state.point), state

    def residual(params, data=None):
        x, unravel = core.ravel(params)
        lower, upper, _ = core.box(bounds, params, data)
        grad, _ = core.ravel(oracle(params, data)[1])
        return unravel(-core.box_step(-grad, x, lower, upper))

    return core.Solver(init, update, residual, core.implicit())


def _push(state, s, y, failed):
    """Replaces the oldest pair, unless the new one has no curvature worth keeping."""
    size = state.pairs.shape[1]
    sy, yy = s @ y, y @ y
    eps = float(jnp.finfo(s.dtype).eps)
    good = ~failed & (sy > eps * jnp.sqrt((s @ s) * yy))
    root = jnp.sqrt(jnp.where(good, sy, 1))
    row = jnp.where(good, state.kept % size, size)
    pairs = state.pairs.at[:, row].set(jnp.stack([s, y]) / root, mode="drop")
    theta = jnp.where(good, yy / jnp.where(good, sy, 1), state.theta)
    kept = jnp.where(failed, 0, state.kept + good.astype(jnp.int32))
    return kept, pairs, jnp.where(failed, 1, theta)


def _direction(x, g, lower, upper, kept, pairs, theta):
    """A step within the box, and whether it is a scaled gradient step only."""
    cauchy = core.box_step(-g, x, lower, upper)
    # In the metric of the Hessian's scale, or held variables step in arbitrary units.
    scaled = -g / theta
    reach = core.box_step(scaled, x, lower, upper)
    near = jnp.minimum(1e-3, jnp.max(jnp.abs(reach), initial=0))
    pressed = ((x <= lower + near) & (g > 0)) | ((x >= upper - near) & (g < 0))
    pressed = pressed & ((x + scaled <= lower) | (x + scaled >= upper))
    free = ~pressed & (lower < upper)
    d = jnp.where(free, -_subspace_newton(g, free, kept, pairs, theta), scaled)
    p = jnp.clip(x + d, lower, upper) - x
    slope = g @ p
    eps = float(jnp.finfo(x.dtype).eps)
    size = jnp.sqrt((g @ g) * (p @ p))
    fresh = (kept == 0) | ~(slope < -eps * size)
    return jnp.where(fresh, cauchy, p), fresh


def _subspace_newton(g, free, kept, pairs, theta):
    """Solves with the compact L-BFGS matrix restricted to the free variables.

    With the rows of W' = [Y; theta S] and those of the pairs scaled to s'y = 1, solves
    (inverse(M) - W_F' W_F / theta) v = W_F' g and returns (g + W_F v / theta) / theta.
    """
    size = pairs.shape[1]
    there = jnp.arange(size, dtype=jnp.int32) < kept
    age = (jnp.arange(size, dtype=jnp.int32) - kept) % size
    newer = age[:, None] > age[None, :]
    s, y = jnp.where(there[None, :, None], pairs, 0)
    identity = jnp.eye(size, dtype=g.dtype)
    below = jnp.where(newer, s @ y.T, 0)
    inverse = jnp.block([[-identity, below.T], [below, theta * (s @ s.T)]])
    w = jnp.where(free[None, :], jnp.concatenate([y, theta * s]), 0)
    both = jnp.concatenate([there, there])
    system = jnp.where(
        both[:, None] & both[None, :],
        inverse - w @ w.T / theta,
        jnp.eye(2 * size, dtype=g.dtype),
    )
    r = jnp.where(free, g, 0)
    v = jnp.linalg.solve(system, w @ r)
    return (r + v @ w / theta) / theta


def _limit(x, p, lower, upper):
    """The largest step along p that stays in the box, at least one."""
    room = jnp.where(p > 0, upper - x, lower - x)
    steps = jnp.where(p != 0, room / jnp.where(p != 0, p, 1), jnp.inf)
    return jnp.maximum(1, jnp.min(steps, initial=jnp.inf))
