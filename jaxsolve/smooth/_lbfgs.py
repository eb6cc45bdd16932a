"""Limited-memory BFGS."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.linesearch import LineSearch, Search, wolfe
from jaxsolve.smooth import _memory
from jaxsolve.smooth._memory import Memory
from jaxsolve.smooth._progress import Progress, evaluate, judge, settle


class LBFGSState(NamedTuple):
    """State of L-BFGS."""

    count: chex.Array  # (), int32: updates taken, one oracle call each.
    error: chex.Array  # (), real: sup-norm of the gradient at params.
    status: chex.Array  # (), int32: running, stalled or diverged.
    value: chex.Array  # (), real: the objective at params.
    point: chex.Array  # (n,), real: params, raveled, in full precision.
    grad: chex.Array  # (n,), real: the gradient there.
    direction: chex.Array  # (n,), real: of the search.
    search: Search  # the line search under way.
    memory: Memory  # the last pairs s and y.
    progress: Progress  # what tells a stall.


@core.memoise
def lbfgs(
    fun: core.Objective,
    memory: int = 10,
    *,
    search: LineSearch | None = None,
    patience: int = 20,
) -> core.Solver:
    r"""Minimises a smooth function by limited-memory BFGS.

    Solves :math:`\min_x f(x)`. Each update evaluates :math:`f` and its gradient at one
    trial point :math:`x + t d` of a line search. When the search is done, with
    :math:`s = t d` and :math:`y` the change of the gradient,

    .. math::

        x^+ &= x + s \\
        H^+ &= V^\top H V + \rho s s^\top, \quad V = I - \rho y s^\top, \quad
            \rho = 1 / s^\top y \\
        d^+ &= - H^+ \nabla f(x^+)

    with :math:`H` rebuilt from the last pairs, starting at :math:`\gamma I`,
    :math:`\gamma = s^\top y / y^\top y`. Pairs without positive curvature have no
    effect. After a failed search the memory is emptied; a second failure in a row is a
    stall. The memory takes 2m vectors like params. Params that were changed between two
    updates, by another link of a chain, are evaluated and gone on from. The default for
    smooth problems.

    Args:
        fun: :math:`f`, as ``fun(params, data) -> scalar``. Infinite or NaN values
            outside a region make the search step back.
        memory: :math:`m`, the number of pairs kept, at least 1.
        search: a line search; ``linesearch.wolfe()`` by default.
        patience: accepted steps without progress in value or error beyond rounding
            after which the run has stalled.

    Returns:
        A solver. Its error is :math:`\|\nabla f(x)\|_\infty` at params, its residual
        :math:`\nabla f(x)`. The state's ``memory.ordered()`` returns the pairs and
        :math:`\rho`, oldest first.

    Raises:
        ValueError: if `memory` is not a positive integer; while tracing, if the
            objective is not a real scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> rosenbrock = lambda x, a: jnp.sum(
        ...     a * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)
        >>> solver = jaxsolve.smooth.lbfgs(rosenbrock)
        >>> solution = jaxsolve.run(solver, jnp.zeros(5), 100.0)
        >>> print(solution.converged, jnp.round(solution.params, 2))
        True [1. 1. 1. 1. 1.]

    References:
        Liu and Nocedal, `On the limited memory BFGS method for large scale
        optimization <https://doi.org/10.1007/BF01589116>`_, 1989. Byrd, Nocedal and
        Schnabel, `Representations of quasi-Newton matrices and their use in limited
        memory methods <https://doi.org/10.1007/BF01582063>`_, 1994, (3.1).
    """
    if not isinstance(memory, int) or memory < 1:
        raise ValueError(f"memory must be a positive integer, got {memory!r}.")
    search = wolfe() if search is None else search
    oracle = core.value_and_grad(fun)

    def init(params, data=None):
        del data
        x, _ = core.ravel(params)
        zero, inf = jnp.zeros((), x.dtype), jnp.full((), jnp.inf, x.dtype)
        return LBFGSState(
            count=jnp.zeros((), jnp.int32),
            error=inf,
            status=as_status(Status.RUNNING),
            value=inf,
            point=x,
            grad=jnp.zeros_like(x),
            direction=jnp.zeros_like(x),
            search=search.init(inf, zero, zero),  # the first trial is the start
            memory=_memory.empty(memory, x),
            progress=Progress.start(inf),
        )

    def update(params, state, data=None):
        x, unravel = core.ravel_fine(params, state.point)
        moved = jnp.any(x != state.point)
        trial = x + jnp.where(moved, 0, state.search.stepsize) * state.direction
        value, grad = evaluate(oracle, unravel(trial), data)
        found = search.update(state.search, value, grad @ state.direction)
        found = settle(found, moved, value)
        s, y = trial - state.point, grad - state.grad
        ok = found.done & ~found.failed
        written = _memory.write(state.memory, ok, s, y)
        rows = {"s": None, "y": None}  # no business of the branches

        def accept():
            new_x = jnp.where(ok, trial, state.point)
            new_value = jnp.where(ok, value, state.value)
            new_grad = jnp.where(ok, grad, state.grad)
            kept = _memory.push(written, s, y, found.failed)
            direction = _memory.apply(kept, new_grad)
            slope = -new_grad @ direction
            descends = (slope < 0) & jnp.isfinite(slope)
            steepest, length = _shortened(new_grad)
            direction = jnp.where(descends, -direction, -steepest)
            slope = jnp.where(descends, slope, -new_grad @ steepest)
            fresh = (kept.count == 0) | ~descends
            short = 1 / jnp.where(length > 0, length, 1)
            stepsize = jnp.where(fresh, jnp.minimum(1, short), 1)
            error, status, progress = judge(
                state,
                found,
                new_x,
                new_value,
                new_grad,
                state.memory.count == 0,
                patience,
            )
            return LBFGSState(
                state.count + 1,
                error,
                status,
                new_value,
                new_x,
                new_grad,
                direction,
                search.init(new_value, slope, stepsize),
                kept._replace(**rows),
                progress,
            )

        def try_again():
            same = state.memory._replace(**rows)
            return state._replace(count=state.count + 1, search=found, memory=same)

        state = jax.lax.cond(found.done, accept, try_again)
        new_memory = state.memory._replace(s=written.s, y=written.y)
        state = state._replace(memory=new_memory)
        return unravel(state.point), state

    def residual(params, data=None):
        return oracle(params, data)[1]

    return core.Solver(init, update, residual, core.implicit(psd=True))


def _shortened(grad):
    """The gradient, divided by its size where its square overflows, and its norm."""
    size = jnp.max(jnp.abs(grad), initial=0)
    large = size > float(jnp.finfo(grad.dtype).max) ** 0.4
    steepest = grad / jnp.where(large, size, 1)
    return steepest, jnp.sqrt(steepest @ steepest)
