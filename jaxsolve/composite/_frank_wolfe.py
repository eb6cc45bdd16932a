"""Frank-Wolfe: descent by vertices, without a projection."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.composite import _frank_wolfe_search as _search
from jaxsolve.composite._forward_backward import (
    at_rounding,
    follow,
    inner,
    narrow,
    widen,
)
from jaxsolve.composite._frank_wolfe_search import FrankWolfeSearch
from jaxsolve.core import Status, as_status
from jaxsolve.prox import LinearOracle


class FrankWolfeState(NamedTuple):
    """State of Frank-Wolfe methods."""

    count: chex.Array  # (), int32: updates taken, one oracle call each.
    error: chex.Array  # (), real: the Frank-Wolfe gap.
    status: chex.Array  # (), int32: running, stalled or diverged.
    point: core.Params  # like params, of at least 32 bits: x.
    search: FrankWolfeSearch | None  # what a searched step needs beside.


@core.memoise
def frank_wolfe(
    fun: core.Objective,
    oracle: LinearOracle | Callable,
    stepsize: optax.ScalarOrSchedule | None = None,
    *,
    max_trials: int = 40,
) -> core.Solver:
    r"""Minimises a smooth function over a compact set, by its linear oracle.

    Solves :math:`\min_{x \in C} f(x)` where linear functions are easily minimised over
    the convex set :math:`C`, and projections may not be. From :math:`x`, one iteration
    computes

    .. math::

        s &= \arg\min_{v \in C} \langle \nabla f(x), v \rangle \\
        \gamma &= \min\Bigl(\frac{\eta \langle \nabla f(x), x - s \rangle}
                  {\|x - s\|^2}, 1\Bigr) \\
        x^+ &= x + \gamma (s - x)

    with :math:`1/\eta` an estimate of the Lipschitz constant of the gradient: a step is
    accepted if

    .. math::

        f(x^+) \le f(x) + \gamma \langle \nabla f(x), s - x \rangle
        + \tfrac{\gamma^2}{2 \eta} \|s - x\|^2,

    otherwise :math:`\eta` shrinks; it grows again. An update is one trial: one
    evaluation, most of which are accepted. The first update evaluates the start, which
    need not lie in the set, and the second goes to a vertex; iterates after it lie in
    the set. A given `stepsize` is :math:`\gamma` itself, such as ``lambda k: 2 / (k +
    2)``; then every update is an iteration.

    For convex :math:`f` the smallest gap so far falls as :math:`O(1/k)`, and no faster
    on a polytope with the solution in the relative interior of a face: see
    `pairwise_frank_wolfe` for that. It is linear where the set is strongly convex and
    the gradient bounded away from zero on it, or where the solution lies inside of the
    set and :math:`f` is strongly convex. An iterate is a combination of
    few vertices: sparse, or of low rank.

    Args:
        fun: :math:`f`, as ``fun(params, data) -> scalar``, smooth; convex for the rate.
        oracle: of :math:`C`, such as ``prox.simplex_vertex()``, or a function ``grad ->
            params``. It is shown leaves of at least 32 bits.
        stepsize: :math:`\gamma` in (0, 1], a schedule of the update count; searched for
            by default. Unless it begins with 1, the start must lie in the set.
        max_trials: how many times in a row a search may shrink before it has stalled.

    Returns:
        A solver. Its error is the Frank-Wolfe gap :math:`\langle \nabla f(x), x - s
        \rangle`, which bounds :math:`f(x) - \min f` for convex :math:`f`: a difference
        of values, not a gradient; with a given stepsize that before the step. Its
        residual is :math:`x - P_C(x - \nabla f(x))` if the oracle has a projection. If
        not, there is none: the vertices that matter are not smooth in the data, and
        a solution is differentiated by a rule that the user chooses.

    Raises:
        ValueError: if `oracle` is no oracle, `stepsize` or `max_trials` not positive;
            while tracing, if the objective is not a real scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import composite, prox
        >>> fun = lambda x, b: 0.5 * jnp.sum((x - b) ** 2)
        >>> solver = composite.frank_wolfe(fun, prox.l2_ball_vertex())
        >>> solution = jaxsolve.run(solver, jnp.zeros(2), jnp.array([3.0, 4.0]))
        >>> print(solution.converged, jnp.round(solution.params, 3))
        True [0.6 0.8]

    References:
        Jaggi, `Revisiting Frank-Wolfe: Projection-Free Sparse Convex Optimization
        <https://proceedings.mlr.press/v28/jaggi13.html>`_, 2013. Pedregosa, Negiar,
        Askari and Jaggi, `Linearly Convergent Frank-Wolfe with Backtracking Line-Search
        <https://proceedings.mlr.press/v108/pedregosa20a.html>`_, 2020, Algorithm 1; the
        estimate grows by other rules here.
    """
    core.check_stepsize(stepsize)
    oracle = as_oracle(oracle)
    if stepsize is None:
        return searching(fun, oracle, _search.straight(), max_trials)
    gradient = core.value_and_grad(fun)
    update = _stepped(gradient, oracle, core.as_schedule(stepsize))
    return _solver(gradient, oracle, lambda point, inf: None, update)


def as_oracle(oracle: LinearOracle | Callable) -> LinearOracle:
    """Makes a linear oracle of one, or of a function from gradients to vertices."""
    if isinstance(oracle, LinearOracle):
        return oracle
    if not callable(oracle):
        raise ValueError(
            "oracle must be a jaxsolve.prox.LinearOracle or a function `grad -> "
            f"params`, got {type(oracle).__name__}."
        )
    if _takes_a_stepsize(oracle):
        raise ValueError(
            "oracle is a prox or a projection, which takes a stepsize; a linear oracle "
            "takes a gradient to a vertex, such as jaxsolve.prox.simplex_vertex()."
        )
    return LinearOracle(oracle)


def _takes_a_stepsize(oracle):
    try:
        inspect.signature(oracle).bind(None, 1.0)
    except (TypeError, ValueError):
        return False
    return True


def searching(fun, oracle, directions, max_trials) -> core.Solver:
    """Makes a solver that searches along given directions."""
    if not isinstance(max_trials, int) or max_trials < 1:
        raise ValueError(f"max_trials must be a positive integer, got {max_trials!r}.")
    gradient = core.value_and_grad(fun)
    start = lambda point, inf: _search.start(point, inf, directions)
    update = _search.searched(gradient, oracle, directions, max_trials)
    return _solver(gradient, oracle, start, update)


def _solver(gradient, oracle, start, update):
    def init(params, data=None):
        del data
        point, inf = widen(params), core.real_scalar(jnp.inf, params)
        return FrankWolfeState(
            count=jnp.zeros((), jnp.int32),
            error=inf,
            status=as_status(Status.RUNNING),
            point=point,
            search=start(point, inf),
        )

    def residual(params, data=None):
        x = widen(params)
        step = oracle.projection(optax.tree.sub(x, widen(gradient(params, data)[1])))
        return narrow(optax.tree.sub(x, step), params)

    if oracle.projection is None:
        return core.Solver(init, update)
    return core.Solver(init, update, residual, core.implicit())


def _stepped(gradient, oracle, schedule):
    def update(params, state, data=None):
        x, _ = follow(params, state.point)
        value, grad = gradient(narrow(x, params), data)
        grad = widen(grad)
        direction = optax.tree.sub(_search.vertex_of(oracle, grad), x)
        gamma = core.real_scalar(schedule(state.count), params)
        gap = -inner(grad, direction)
        new_x = core.axpy(gamma, direction, x)
        bottom = -(float(jnp.finfo(value.dtype).max) ** 0.5)
        ok = jnp.isfinite(value) & (value > bottom) & (gamma > 0) & (gamma <= 1)
        ok = ok & core.all_finite((grad, new_x))
        still = at_rounding(optax.tree.sub(new_x, x), new_x)
        stalled = jnp.where(still, as_status(Status.STALLED), state.status)
        new_x = core.where(ok, new_x, x)
        # The gap of a start outside the set tells nothing.
        gap = jnp.where(state.count > 0, jnp.maximum(gap, 0), jnp.inf)
        return narrow(new_x, params), state._replace(
            count=state.count + 1,
            error=jnp.where(ok, gap, state.error),
            status=jnp.where(ok, stalled, as_status(Status.DIVERGED)),
            point=new_x,
        )

    return update
