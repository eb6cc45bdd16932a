"""Gradient descent, with a given stepsize or a search for one."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.linesearch import LineSearch, Search, backtracking
from jaxsolve.smooth._progress import Progress, evaluate, judge, settle


class GradientDescentState(NamedTuple):
    """State of gradient descent."""

    count: chex.Array  # (), int32: updates taken, one oracle call each.
    error: chex.Array  # (), real: sup-norm of the gradient where it was last taken.
    status: chex.Array  # (), int32: running, stalled or diverged.
    value: chex.Array  # (), real: the objective there.
    point: chex.Array  # (n,), real: params, raveled, in full precision.
    grad: chex.Array | None  # (n,), real: the gradient at params, where searched.
    search: Search | None  # the search under way, if there is one.
    progress: Progress | None  # what tells a stall, where searched.


@core.memoise
def gradient_descent(
    fun: core.Objective,
    stepsize: optax.ScalarOrSchedule | None = None,
    *,
    search: LineSearch | None = None,
    patience: int = 50,
) -> core.Solver:
    r"""Minimises a smooth function by gradient descent.

    Solves :math:`\min_x f(x)`. With a given stepsize one update computes

    .. math::

        x^+ = x - \eta \nabla f(x)

    which converges for :math:`\eta < 2 / L`; a gradient that is not finite is not
    taken, and ends the run as diverged. Without one, each update evaluates one trial of
    a line search along :math:`-\nabla f(x)`, which begins at the stepsize of Barzilai
    and Borwein, :math:`s^\top y / y^\top y` for the last accepted step.

    Args:
        fun: :math:`f`, as ``fun(params, data) -> scalar``.
        stepsize: :math:`\eta > 0`, a scalar or a schedule of the update count; searched
            for by default.
        search: a line search, instead of a stepsize; ``linesearch.backtracking()`` by
            default.
        patience: accepted steps without progress beyond rounding after which a searched
            run has stalled.

    Returns:
        A solver. Its error is :math:`\|\nabla f\|_\infty` where it was last evaluated:
        at params if searched, at the iterate before with a given stepsize. Its residual
        is :math:`\nabla f(x)`. On minibatches the error cannot stop a run.

    Raises:
        ValueError: if both a stepsize and a search are given, or a stepsize that is not
            positive and finite; while tracing, if the
            objective is not a real scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> fun = lambda x, data: jnp.sum((x - data) ** 2)
        >>> solver = jaxsolve.smooth.gradient_descent(fun, stepsize=0.25)
        >>> print(f"{jaxsolve.run(solver, 0.0, 3.0).params:.3f}")
        3.000

    References:
        Barzilai and Borwein, `Two-Point Step Size Gradient Methods
        <https://doi.org/10.1093/imanum/8.1.141>`_, 1988, (5).
    """
    if stepsize is not None and search is not None:
        raise ValueError("give gradient_descent a stepsize or a search, not both.")
    core.check_stepsize(stepsize)
    oracle = core.value_and_grad(fun)

    def residual(params, data=None):
        return oracle(params, data)[1]

    if stepsize is None:
        search = backtracking() if search is None else search
        init, update = _searched(oracle, search, patience)
    else:
        init, update = _stepped(oracle, core.as_schedule(stepsize))
    return core.Solver(init, update, residual, core.implicit(psd=True))


def _start(params, search=None):
    x, _ = core.ravel(params)
    zero, inf = jnp.zeros((), x.dtype), jnp.full((), jnp.inf, x.dtype)
    return GradientDescentState(
        count=jnp.zeros((), jnp.int32),
        error=inf,
        status=as_status(Status.RUNNING),
        value=inf,
        point=x,
        grad=None if search is None else jnp.zeros_like(x),
        search=None if search is None else search.init(inf, zero, zero),
        progress=None if search is None else Progress.start(inf),
    )


def _stepped(oracle, schedule):
    def init(params, data=None):
        del data
        return _start(params)

    def update(params, state, data=None):
        x, unravel = core.ravel_fine(params, state.point)
        value, grad = evaluate(oracle, unravel(x), data)
        new_x = x - jnp.asarray(schedule(state.count), x.dtype) * grad
        ok = jnp.isfinite(value) & core.all_finite(unravel(new_x))
        new_x = jnp.where(ok, new_x, x)
        return unravel(new_x), state._replace(
            count=state.count + 1,
            error=jnp.where(ok, jnp.max(jnp.abs(grad), initial=0), state.error),
            status=jnp.where(ok, state.status, as_status(Status.DIVERGED)),
            value=jnp.where(ok, value, state.value),
            point=new_x,
        )

    return init, update


def _searched(oracle, search, patience):
    def init(params, data=None):
        del data
        return _start(params, search)

    def update(params, state, data=None):
        x, unravel = core.ravel_fine(params, state.point)
        moved = jnp.any(x != state.point)
        trial = x - jnp.where(moved, 0, state.search.stepsize) * state.grad
        value, grad = evaluate(oracle, unravel(trial), data)
        found = search.update(state.search, value, -grad @ state.grad)
        found = settle(found, moved, value)

        def accept():
            ok = ~found.failed
            new_x = jnp.where(ok, trial, state.point)
            new_value = jnp.where(ok, value, state.value)
            new_grad = jnp.where(ok, grad, state.grad)
            s, y = new_x - state.point, new_grad - state.grad
            squared = new_grad @ new_grad
            curved = s @ y > 0
            short = jnp.minimum(1, 1 / jnp.sqrt(jnp.where(squared > 0, squared, 1)))
            longer = jnp.where(found.stepsize > 0, 2 * found.stepsize, short)
            bb = s @ y / jnp.where(curved, y @ y, 1)
            stepsize = jnp.where(curved, bb, longer)
            error, status, progress = judge(
                state,
                found,
                new_x,
                new_value,
                new_grad,
                jnp.ones((), bool),
                patience,
            )
            return GradientDescentState(
                state.count + 1,
                error,
                status,
                new_value,
                new_x,
                new_grad,
                search.init(new_value, -squared, stepsize),
                progress,
            )

        def try_again():
            return state._replace(count=state.count + 1, search=found)

        state = jax.lax.cond(found.done, accept, try_again)
        return unravel(state.point), state

    return init, update
