"""The Gauss-Newton algorithm, searched or with a given stepsize."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.linesearch import LineSearch, Search, backtracking
from jaxsolve.smooth._least_squares import (
    Residuals,
    gauss_newton_step,
    least_squares_residual,
    linear_model,
    positive,
    residual_vector,
    scaled_gradient,
)
from jaxsolve.smooth._loss import Loss
from jaxsolve.smooth._progress import Progress, judge, settle


class GaussNewtonState(NamedTuple):
    """State of Gauss-Newton."""

    count: chex.Array  # (), int32: updates taken, one linearisation each.
    error: chex.Array  # (), real: the scaled gradient where it was last taken.
    status: chex.Array  # (), int32: running, stalled or diverged.
    value: chex.Array  # (), real: half the sum of squares, or of losses, there.
    point: chex.Array  # (n,), real: params, raveled, in full precision.
    grad: chex.Array  # (n,), real: the gradient where it was last taken.
    scale: chex.Array | None  # (n,), real: norms of the columns of J, where searched.
    direction: chex.Array | None  # (n,), real: of the search, if there is one.
    steepest: chex.Array | None  # (), bool: whether that is the scaled gradient's.
    search: Search | None  # the search under way.
    progress: Progress | None  # what tells a stall, where searched.


@core.memoise
def gauss_newton(
    fun: Residuals,
    stepsize: optax.ScalarOrSchedule | None = None,
    *,
    search: LineSearch | None = None,
    loss: Loss | None = None,
    patience: int = 20,
) -> core.Solver:
    r"""Minimises a sum of squares by Gauss-Newton steps.

    Solves :math:`\min_x f(x) = \tfrac12 \|r(x)\|^2`. One update computes

    .. math::

        p &= - J^+ r \\
        x^+ &= x + \eta p

    where :math:`J^+` is the pseudoinverse with columns scaled to length one, damped by
    :math:`\varepsilon^{3/2}`, so that singular values below :math:`\varepsilon^{3/4}`
    count as zero: rank-deficient, over- and underdetermined systems are legal. With a
    given stepsize each update linearises :math:`r` at params, and nothing keeps
    :math:`f` from growing: one that is not finite is not taken, and ends the run as
    diverged. Without one, each update evaluates one trial of a line search on
    :math:`f` along :math:`p`, from stepsize one; after a failed search it follows the
    scaled gradient, and a second failure in a row is a stall. Quadratic convergence
    where the residuals vanish at the solution, linear or none where they are large and
    curved: there ``levenberg_marquardt`` is the sturdier choice.

    Args:
        fun: :math:`r`, as ``fun(params, data) -> tree of residuals``.
        stepsize: :math:`\eta > 0`, a scalar or a schedule of the update count, 1.0 for
            the pure method; searched for by default.
        search: a line search, instead of a stepsize; ``linesearch.backtracking()`` by
            default.
        loss: a robust loss, a function of the squared residuals such as
            ``smooth.huber_loss()``: the steps are then those of iteratively reweighted
            least squares.
        patience: accepted steps without progress beyond rounding after which a searched
            run has stalled.

    Returns:
        A solver. Its error is that of ``levenberg_marquardt``, the largest
        :math:`|\partial_j f| / s_j` with :math:`s_j = \max(\|J_j\|, \min(1, \|r\|))`,
        where it was last evaluated: at params if searched, at the iterate before with a
        given stepsize. Its residual is :math:`\nabla f`.

    Raises:
        ValueError: if both a stepsize and a search are given, or a stepsize that is not
            positive and finite; while tracing, if the residuals are not real floats.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> circle_and_line = lambda x, radius: {
        ...     "circle": x @ x - radius**2, "line": x[0] - x[1]}
        >>> solver = jaxsolve.smooth.gauss_newton(circle_and_line)
        >>> out = jaxsolve.run(solver, jnp.array([3.0, 1.0]), jnp.sqrt(2.0))
        >>> print(out.params.round(3))
        [1. 1.]

    References:
        Björck, `Numerical Methods for Least Squares Problems
        <https://doi.org/10.1137/1.9781611971484>`_, 1996, Section 9.2.
    """
    if stepsize is not None and search is not None:
        raise ValueError("give gauss_newton a stepsize or a search, not both.")
    core.check_stepsize(stepsize)
    residuals = residual_vector(fun)
    oracle = linear_model(residuals, loss)
    if stepsize is None:
        search = backtracking() if search is None else search
        init, update = _searched(oracle, search, patience)
    else:
        init, update = _stepped(oracle, core.as_schedule(stepsize))
    residual = least_squares_residual(residuals, loss)
    return core.Solver(init, update, residual, core.implicit(psd=True))


def _start(params, search=None):
    x, _ = core.ravel(params)
    zero, inf = jnp.zeros((), x.dtype), jnp.full((), jnp.inf, x.dtype)
    searched = search is not None
    return GaussNewtonState(
        count=jnp.zeros((), jnp.int32),
        error=inf,
        status=as_status(Status.RUNNING),
        value=inf,
        point=x,
        grad=jnp.zeros_like(x),
        scale=jnp.zeros_like(x) if searched else None,
        direction=jnp.zeros_like(x) if searched else None,
        steepest=jnp.zeros((), bool) if searched else None,
        search=search.init(inf, zero, zero) if searched else None,
        progress=Progress.start(inf) if searched else None,
    )


def _stepped(oracle, schedule):
    def init(params, data=None):
        del data
        return _start(params)

    def update(params, state, data=None):
        x, unravel = core.ravel_fine(params, state.point)
        model = oracle(x, unravel, data)
        new_x = x + jnp.asarray(schedule(state.count), x.dtype) * gauss_newton_step(
            model
        )
        ok = jnp.isfinite(model.value) & core.all_finite(unravel(new_x))
        new_x = jnp.where(ok, new_x, x)
        error = jnp.max(jnp.abs(scaled_gradient(model, x, None)), initial=0)
        return unravel(new_x), state._replace(
            count=state.count + 1,
            error=jnp.where(ok, error, state.error),
            status=jnp.where(ok, state.status, as_status(Status.DIVERGED)),
            value=jnp.where(ok, model.value, state.value),
            point=new_x,
            grad=jnp.where(ok, model.grad, state.grad),
        )

    return init, update


def _searched(oracle, search, patience):
    def init(params, data=None):
        del data
        return _start(params, search)

    def update(params, state, data=None):
        x, unravel = core.ravel_fine(params, state.point)
        moved = jnp.any(x != state.point)
        trial = x + jnp.where(moved, 0, state.search.stepsize) * state.direction
        model = oracle(trial, unravel, data)
        slope = model.grad @ state.direction
        found = settle(
            search.update(state.search, model.value, slope), moved, model.value
        )

        def accept():
            ok = ~found.failed
            pick = lambda new, old: jnp.where(ok, new, old)
            new_x, value = pick(trial, state.point), pick(model.value, state.value)
            grad, scale = pick(model.grad, state.grad), pick(model.norms, state.scale)
            steepest = found.failed & ~moved
            gradient = -grad / (grad.size * positive(scale) ** 2)
            direction = jnp.where(steepest, gradient, gauss_newton_step(model))
            direction = jnp.where(steepest | ok, direction, state.direction)
            slope = pick(scaled_gradient(model, trial, None), state.error)
            error, status, progress = judge(
                state, found, new_x, value, slope, state.steepest & ~moved, patience
            )
            return GaussNewtonState(
                state.count + 1,
                error,
                status,
                value,
                new_x,
                grad,
                scale,
                direction,
                steepest,
                search.init(value, grad @ direction, 1),
                progress,
            )

        def try_again():
            return state._replace(count=state.count + 1, search=found)

        state = jax.lax.cond(found.done, accept, try_again)
        return unravel(state.point), state

    return init, update
