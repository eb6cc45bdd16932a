"""Powell's dogleg for nonlinear least squares."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.linesearch import Region, TrustRegion, dogleg_step, trust_region
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


class DoglegState(NamedTuple):
    """State of the dogleg."""

    count: chex.Array  # (), int32: updates taken, one linearisation each.
    error: chex.Array  # (), real: the scaled gradient at params.
    status: chex.Array  # (), int32: running, stalled or diverged.
    value: chex.Array  # (), real: half the sum of squares, or of losses, at params.
    point: chex.Array  # (n,), real: params, raveled, in full precision.
    grad: chex.Array  # (n,), real: the gradient there.
    scale: chex.Array  # (n,), real: D, the largest norms of the columns so far.
    newton: chex.Array  # (n,), real: the Gauss-Newton step from params.
    curvature: chex.Array  # (), real: of the model along the scaled gradient.
    step: chex.Array  # (n,), real: to be tried next.
    predicted: chex.Array  # (), real: the reduction that the model predicts of it.
    region: Region  # the radius, in the norm |D p|, and what became of the last trial.
    progress: Progress  # what tells a stall.


@core.memoise
def dogleg(
    fun: Residuals,
    *,
    radius: chex.Numeric = 1.0,
    region: TrustRegion | None = None,
    loss: Loss | None = None,
    patience: int = 20,
) -> core.Solver:
    r"""Minimises a sum of squares along Powell's dogleg in a trust region.

    Solves :math:`\min_x f(x) = \tfrac12 \|r(x)\|^2`. Each update linearises :math:`r`
    at one trial point :math:`x + p`, accepts it or not, and adapts the radius
    :math:`\Delta`. In the variables :math:`z = D p`, where :math:`D` has the largest
    norms so far of the columns of J, and with :math:`h = D^{-1} J^\top r`,

    .. math::

        c &= - \frac{\|h\|^2}{\|J D^{-1} h\|^2} h, \quad n = - D J^+ r \\
        D p &= \text{the last point of the path } 0 \to c \to n \text{ with }
            \|z\| \le \Delta

    where :math:`J^+` is the pseudoinverse of ``gauss_newton``. Where J is nearly
    singular far from the solution, ``levenberg_marquardt`` is the sturdier choice.

    Args:
        fun: :math:`r`, as ``fun(params, data) -> tree of residuals``. Infinite or NaN
            values outside a region make a trial be rejected.
        radius: the first :math:`\Delta` over :math:`\|D x\|`, positive; over
            :math:`2 \|c\|` where that is zero.
        region: ``linesearch.trust_region()`` by default.
        loss: a robust loss, a function of the squared residuals such as
            ``smooth.huber_loss()``: the model is then that of iteratively reweighted
            least squares.
        patience: accepted steps without progress in value or error beyond rounding
            after which the run has stalled.

    Returns:
        A solver. Its error is that of ``levenberg_marquardt`` at params, the largest
        :math:`|\partial_j f| / s_j` with :math:`s_j = \max(\|J_j\|, \min(1, \|r\|))`;
        its residual is :math:`\nabla f`.

    Raises:
        ValueError: if the radius is not positive; while tracing, if the residuals are
            not real floats.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> rosenbrock = lambda x, a: jnp.stack([a * (x[1] - x[0] ** 2), 1 - x[0]])
        >>> out = jaxsolve.run(jaxsolve.smooth.dogleg(rosenbrock), jnp.zeros(2), 10.0)
        >>> print(out.params.round(3))
        [1. 1.]

    References:
        Powell, "A hybrid method for nonlinear equations", in Rabinowitz (ed.),
        "Numerical Methods for Nonlinear Algebraic Equations", Gordon and Breach, 1970,
        pp. 87-114. Moré, Garbow and Hillstrom, `User Guide for MINPACK-1
        <https://doi.org/10.2172/6997568>`_, 1980, for D.
    """
    if isinstance(radius, int | float) and not 0 < radius < float("inf"):
        raise ValueError(f"radius must be positive and finite, got {radius!r}.")
    region = trust_region() if region is None else region
    residuals = residual_vector(fun)
    oracle = linear_model(residuals, loss)

    def init(params, data=None):
        del data
        x, _ = core.ravel(params)
        inf = jnp.full((), jnp.inf, x.dtype)
        return DoglegState(
            count=jnp.zeros((), jnp.int32),
            error=inf,
            status=as_status(Status.RUNNING),
            value=inf,
            point=x,
            grad=jnp.zeros_like(x),
            scale=jnp.zeros_like(x),
            newton=jnp.zeros_like(x),
            curvature=jnp.zeros((), x.dtype),
            step=jnp.zeros_like(x),  # the first trial is the start
            predicted=jnp.zeros((), x.dtype),
            region=region.init(jnp.asarray(radius, x.dtype)),
            progress=Progress.start(inf, region=True),
        )

    def update(params, state, data=None):
        x, unravel = core.ravel_fine(params, state.point)
        moved = jnp.any(x != state.point)
        first = ~jnp.isfinite(state.value)
        trial = jnp.where(moved, x, x + state.step)
        model = oracle(trial, unravel, data)
        length, size = (jnp.linalg.norm(state.scale * v) for v in (state.step, x))
        judged = region.update(
            state.region, state.value, model.value, state.predicted, length, size
        )
        judged = settle(core.where(moved, state.region, judged), moved, model.value)

        ok = judged.accepted
        pick = lambda new, old: jnp.where(ok, new, old)
        new_x, value = pick(trial, state.point), pick(model.value, state.value)
        grad = pick(model.grad, state.grad)
        scale = pick(jnp.maximum(state.scale, model.norms), state.scale)
        unit = positive(scale)
        h = grad / unit
        fresh = lambda: (
            pick(gauss_newton_step(model), state.newton),
            pick(_curvature(model, h / unit), state.curvature),
        )
        known = lambda: (state.newton, state.curvature)
        newton, curvature = jax.lax.cond(core.any_lane(ok), fresh, known)
        start = judged.radius * _extent(scale * new_x, h, curvature)
        judged = judged._replace(radius=jnp.where(first & ok, start, judged.radius))
        step, predicted = dogleg_step(unit * newton, h, curvature, judged.radius)
        slope = pick(scaled_gradient(model, trial, None), state.error)
        ended = judge(state, judged, new_x, value, slope, ~moved, patience)
        same = state.error, state.status, state.progress
        error, status, progress = core.where(ok | judged.failed, ended, same)
        return unravel(new_x), DoglegState(
            state.count + 1,
            error,
            status,
            value,
            new_x,
            grad,
            scale,
            newton,
            curvature,
            step / unit,
            predicted,
            judged,
            progress,
        )

    residual = least_squares_residual(residuals, loss)
    return core.Solver(init, update, residual, core.implicit(psd=True))


def _extent(x, h, curvature):
    """The size of the start; where it is zero twice that of the Cauchy step, or one.

    Twice, as a step that ends inside of the region is never taken for an endless one.
    """
    size, slope = jnp.linalg.norm(x), jnp.linalg.norm(h)
    cauchy = slope * (slope / jnp.sqrt(jnp.where(curvature > 0, curvature, 1))) ** 2
    known = (curvature > 0) & (cauchy > 0) & jnp.isfinite(cauchy)
    return jnp.where(size > 0, size, jnp.where(known, 2 * cauchy, 1))


def _curvature(model, v):
    change = v @ model.columns[:-1]
    return change @ change
