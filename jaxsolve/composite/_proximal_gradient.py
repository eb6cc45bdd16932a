"""Proximal gradient descent, plain and accelerated."""

from typing import NamedTuple

import chex
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.composite import _backtracking
from jaxsolve.composite._backtracking import Backtracking
from jaxsolve.composite._forward_backward import (
    at_rounding,
    extrapolate,
    follow,
    forward_backward,
    mapping_error,
    narrow,
    widen,
)
from jaxsolve.core import Status, as_status
from jaxsolve.prox import Prox


class ProximalGradientState(NamedTuple):
    """State of proximal gradient descent."""

    count: chex.Array  # (), int32: updates taken, one oracle call each.
    error: chex.Array  # (), real: sup-norm of the gradient mapping that gave params.
    status: chex.Array  # (), int32: running, stalled or diverged.
    point: core.Params  # like params, of at least 32 bits: x.
    trial: core.Params  # likewise: where the objective is evaluated next; z, or a test.
    momentum: chex.Array  # (), real: Nesterov's t.
    search: Backtracking | None  # what a searched stepsize needs beside.


@core.memoise
def proximal_gradient(
    fun: core.Objective,
    prox: Prox,
    stepsize: optax.ScalarOrSchedule | None = None,
    *,
    accelerate: bool = True,
    restart: bool = True,
    max_trials: int = 40,
) -> core.Solver:
    r"""Minimises a smooth function plus a proximable one, plain or accelerated.

    Solves :math:`\min_x f(x) + g(x)`. From the iterate :math:`x`, the point :math:`z`,
    the momentum :math:`t` and the stepsize :math:`\eta`, one iteration computes

    .. math::

        x^+ &= \operatorname{prox}_{\eta g}(z - \eta \nabla f(z)) \\
        t^+ &= (1 + \sqrt{1 + 4 (\eta / \eta^+) t^2}) / 2 \\
        z^+ &= x^+ + \tfrac{t - 1}{t^+} (x^+ - x)

    and :math:`z^+ = x^+` if not accelerated. Where :math:`(z - x^+)^\top (x^+ - x) > 0`
    the momentum points uphill and is restarted, :math:`t^+ = 1, z^+ = x^+`: O'Donoghue
    and Candes' gradient scheme, which needs no value of :math:`g`. For convex
    :math:`f` and :math:`\eta \le 1/L` the gap after k iterations is :math:`O(1/k^2)`
    accelerated, :math:`O(1/k)` plain; restarts make it linear where :math:`f + g` is
    strongly convex, with a factor that the user need not know.

    With a given stepsize one update is one iteration. Without one, an update is one
    trial. A step is accepted if the objective there is below its model,

    .. math::

        f(y) \le f(z) + \nabla f(z)^\top (y - z) + \tfrac{1}{2 \eta} \|y - z\|^2

    with :math:`y = x^+`, a forward pass; otherwise :math:`\eta` shrinks. Where the last
    two gradients show a curvature below :math:`1/\eta`, and steps of that length have
    passed, the test is made at :math:`y = z^+` instead, whose gradient comes next
    anyway: one update an iteration. The stepsize grows again, ever more rarely if that
    fails. Where values do not resolve the model, their gradients are compared with it.

    Args:
        fun: :math:`f`, as ``fun(params, data) -> scalar``, smooth; convex for the
            rates. Infinite or NaN values outside a region make a search step back; with
            a given stepsize they end the run as diverged.
        prox: of :math:`g`, as ``prox(params, stepsize) -> params``, or made by
            :func:`prox.of_data <jaxsolve.prox.of_data>`. It is shown leaves of at least
            32 bits.
        stepsize: :math:`\eta > 0`, a scalar or a schedule of the update count, which
            must not increase if accelerated; searched for by default.
        accelerate: whether to extrapolate (FISTA).
        restart: whether the momentum is restarted.
        max_trials: how many times in a row a search may shrink before it has stalled.

    Returns:
        A solver. Its error is :math:`\|x^+ - z\|_\infty / \min(\eta, 1)` of the step
        that led to params, its residual :math:`x - \operatorname{prox}_g(x - \nabla
        f(x))`. On minibatches the error cannot stop a run.

    Raises:
        ValueError: if `stepsize` or `max_trials` is not positive; while tracing, if the
            objective is not a real scalar or `prox` returns another tree.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import composite, prox
        >>> fun = lambda x, b: 0.5 * jnp.sum((x - b) ** 2)
        >>> solver = composite.proximal_gradient(fun, prox.l1(1.0))
        >>> solution = jaxsolve.run(solver, jnp.zeros(3), jnp.array([3.0, 0.5, -2.0]))
        >>> print(solution.converged, jnp.round(solution.params, 3))
        True [ 2.  0. -1.]

    References:
        Beck and Teboulle, `A Fast Iterative Shrinkage-Thresholding Algorithm for
        Linear Inverse Problems <https://doi.org/10.1137/080716542>`_, 2009, (4.1) to
        (4.3). O'Donoghue and Candes, `Adaptive Restart for Accelerated Gradient Schemes
        <https://doi.org/10.1007/s10208-013-9150-3>`_, 2015. Scheinberg, Goldfarb and
        Bai, `Fast First-Order Methods for Composite Convex Optimization with
        Backtracking <https://doi.org/10.1007/s10208-014-9189-9>`_, 2014.
    """
    core.check_stepsize(stepsize)
    if not isinstance(max_trials, int) or max_trials < 1:
        raise ValueError(f"max_trials must be a positive integer, got {max_trials!r}.")
    oracle = core.value_and_grad(fun)

    def init(params, data=None):
        del data
        point, inf = widen(params), core.real_scalar(jnp.inf, params)
        return ProximalGradientState(
            count=jnp.zeros((), jnp.int32),
            error=inf,
            status=as_status(Status.RUNNING),
            point=point,
            trial=point,
            momentum=core.real_scalar(1, params),
            search=_backtracking.start(point, inf) if stepsize is None else None,
        )

    def residual(params, data=None):
        x, one = widen(params), core.real_scalar(1, params)
        step = forward_backward(prox, x, oracle(params, data)[1], one, data)
        return narrow(optax.tree.sub(x, step), params)

    if stepsize is None:
        update = _backtracking.searched(
            core.objective(fun), prox, accelerate, restart, max_trials
        )
    else:
        schedule = core.as_schedule(stepsize)
        update = _stepped(oracle, prox, schedule, accelerate, restart)
    return core.Solver(init, update, residual, core.implicit())


def _stepped(oracle, prox, schedule, accelerate, restart):
    def update(params, state, data=None):
        x, _ = follow(params, state.point)
        # Zero unless params were changed meanwhile; then the extrapolation goes along.
        z = optax.tree.add(state.trial, optax.tree.sub(x, state.point))
        value, grad = oracle(narrow(z, params), data)
        grad = widen(grad)
        eta = core.real_scalar(schedule(state.count), params)
        new_x = forward_backward(prox, z, grad, eta, data)
        new_z, t, _ = extrapolate(x, new_x, z, state.momentum, 1, accelerate, restart)
        step = optax.tree.sub(new_x, z)
        bottom = -(float(jnp.finfo(value.dtype).max) ** 0.5)
        ok = jnp.isfinite(value) & (value > bottom) & (eta > 0) & jnp.isfinite(eta)
        ok = ok & core.all_finite((grad, narrow(new_z, params)))
        stalled = jnp.where(at_rounding(step, new_x), Status.STALLED, state.status)
        new_x = core.where(ok, new_x, x)
        return narrow(new_x, params), state._replace(
            count=state.count + 1,
            error=jnp.where(ok, mapping_error(step, grad, z, eta), state.error),
            status=jnp.where(ok, stalled, as_status(Status.DIVERGED)),
            point=new_x,
            trial=core.where(ok, new_z, new_x),
            momentum=jnp.where(ok, t, 1),
        )

    return update
