"""The algorithm of Levenberg and Marquardt."""

from typing import NamedTuple

import chex
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.linesearch import Damping, nielsen
from jaxsolve.smooth._damped_step import (
    damped_step,
    geodesic_step,
    renew_triangle,
)
from jaxsolve.smooth._least_squares import (
    Residuals,
    box_of,
    least_squares_residual,
    linear_model,
    residual_vector,
    scaled_gradient,
)
from jaxsolve.smooth._loss import Loss
from jaxsolve.smooth._progress import Outcome, Progress, judge


class LevenbergMarquardtState(NamedTuple):
    """State of Levenberg-Marquardt."""

    count: chex.Array  # (), int32: updates taken, one linearisation each.
    error: chex.Array  # (), real: the scaled gradient at params.
    status: chex.Array  # (), int32: running, stalled, diverged or primal infeasible.
    value: chex.Array  # (), real: half the sum of squares, or of losses, at params.
    point: chex.Array  # (n,), real: params, raveled, in full precision.
    grad: chex.Array  # (n,), real: the gradient there.
    triangle: chex.Array  # (n, n + 1), real: [R q], R'R = J'J + lambda D^2, R'q = J'r.
    scale: chex.Array  # (n,), real: D, the largest norms of the columns so far.
    step: chex.Array  # (n,), real: to be tried next.
    predicted: chex.Array  # (), real: the reduction that the model predicts of it.
    damping: Damping  # lambda, and what became of the last trial.
    progress: Progress  # what tells a stall.
    probing: chex.Array | None  # (), bool: the step is only looked along next.


@core.memoise
def levenberg_marquardt(
    fun: Residuals,
    *,
    bounds: core.Bounds | None = None,
    loss: Loss | None = None,
    geodesic: bool = False,
    damping: chex.Numeric = 1e-3,
    scaled: bool = True,
    patience: int = 20,
) -> core.Solver:
    r"""Minimises a sum of squares by damped Gauss-Newton steps.

    Solves :math:`\min_x f(x) = \tfrac12 \|r(x)\|^2`, with as many residuals as there
    may be. Each update linearises :math:`r` at one trial point :math:`x + p`, with

    .. math::

        D &= \max(D, \text{norms of the columns of } J) \\
        p &= \arg\min_p \left\| \begin{pmatrix} J \\ \sqrt\lambda D \end{pmatrix} p
            + \begin{pmatrix} r \\ 0 \end{pmatrix} \right\|

    by a triangular factor of the matrix: Cholesky's where its columns are independent
    to a quarter of the digits, by QR where not. The trial is accepted or not, and
    :math:`\lambda` adapted, by ``linesearch.nielsen``. The Jacobian is taken at every
    trial: in one sweep with the residuals by forward mode up to 32 unknowns; above, by
    products with one linearisation, reverse where there are fewer residuals than
    unknowns. The state keeps the triangle, whose size does not depend on the number of
    residuals.

    With bounds, variables that the gradient presses against them are held, the step of
    the others is projected, :math:`p = P(x + d) - x`, and replaced by a projected
    gradient step where that is the better one by the model; nothing is ever evaluated
    outside the box, and a start outside is first projected into it. With a robust loss
    :math:`\rho`, :math:`f(x) = \tfrac12 \sum_i \rho(r_i^2)`, residuals and rows of J
    are multiplied by the root of :math:`\rho'(r_i^2)`: iteratively reweighted least
    squares. With geodesic acceleration, the residuals' second derivative
    along :math:`p` is taken at :math:`x`, by one update of its own, and bends the step
    to :math:`p + a / 2`; where :math:`2 \|D a\| > \tfrac34 \|D p\|`, the step counts as
    rejected. It pays in long curved valleys.

    Where J does not fit into memory, use ``gauss_newton_cg``.

    Args:
        fun: :math:`r`, as ``fun(params, data) -> tree of residuals``. Infinite or NaN
            values outside a region make a trial be rejected.
        bounds: a pair ``(lower, upper)``, each None, a number, or a tree like params
            whose leaves broadcast to those of params; or a function of the data that
            returns such a pair.
        loss: :math:`\rho`, a function of the squared residuals, entry by entry and
            increasing, such as ``smooth.huber_loss()``; squares by default.
        geodesic: whether steps are bent; not within bounds.
        damping: the first :math:`\lambda > 0`; large is careful.
        scaled: whether :math:`D` has one entry a column, so that the steps do not
            depend on the units of params; otherwise all are its largest.
        patience: accepted steps without progress in value or error beyond rounding
            after which the run has stalled.

    Returns:
        A solver. Its error is :math:`\max_j |\partial_j f| / s_j` at params, where
        :math:`s_j` is the norm of the column j of J, or :math:`\min(1, \|r\|)` where
        that is larger: a gradient that depends neither on the units of params with
        large columns, nor vanishes before the residuals do near a singular root. For
        :math:`s_j = \|J_j\|`, half its square is the largest reduction of :math:`f`
        that the model promises along one coordinate. With bounds it is the projection
        :math:`s_j (P(x - S^{-2} \nabla f) - x)_j`, over the width of the box where that
        is less than one; J and r are scaled by a robust loss. Its residual is
        :math:`\nabla f`, or :math:`x - P(x - \nabla f)`: derivatives take the full
        Hessian, which must be regular.

    Raises:
        ValueError: if geodesic acceleration is asked for within bounds, or the damping
            is not positive; while tracing, if the residuals are not real floats, or
            the bounds cross or do not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> t = jnp.linspace(0.0, 1.0, 20)
        >>> decay = lambda x, y: x["size"] * jnp.exp(-x["rate"] * t) - y
        >>> solver = jaxsolve.smooth.levenberg_marquardt(decay)
        >>> start = {"rate": 1.0, "size": 1.0}
        >>> out = jaxsolve.run(solver, start, 3.0 * jnp.exp(-2.0 * t))
        >>> print(out.converged, f"{out.params['rate']:.3f} {out.params['size']:.3f}")
        True 2.000 3.000

    References:
        Marquardt, `An Algorithm for Least-Squares Estimation of Nonlinear Parameters
        <https://doi.org/10.1137/0111030>`_, 1963. Moré, `The Levenberg-Marquardt
        algorithm: Implementation and theory <https://doi.org/10.1007/BFb0067700>`_,
        1978, for D and QR. Transtrum and Sethna, `Improvements to the
        Levenberg-Marquardt algorithm for nonlinear least-squares minimization
        <https://arxiv.org/abs/1201.5885>`_, 2012, for the acceleration.
        Holland and Welsch, `Robust regression using iteratively reweighted
        least-squares
        <https://doi.org/10.1080/03610927708827533>`_, 1977, for the loss.
    """
    if geodesic and bounds is not None:
        raise ValueError(
            "geodesic acceleration knows no bounds: give one or the other."
        )
    if isinstance(damping, int | float) and not 0 < damping < float("inf"):
        raise ValueError(f"damping must be positive and finite, got {damping!r}.")
    residuals, rule = residual_vector(fun), nielsen()
    oracle = linear_model(residuals, loss)

    def init(params, data=None):
        x, _ = core.ravel(params)
        box, _ = box_of(bounds, params, data)
        x = x if box is None else jnp.clip(x, *box)
        n, inf = x.size, jnp.full((), jnp.inf, x.dtype)
        return LevenbergMarquardtState(
            count=jnp.zeros((), jnp.int32),
            error=inf,
            status=as_status(Status.RUNNING),
            value=inf,
            point=x,
            grad=jnp.zeros_like(x),
            triangle=jnp.zeros((n, n + 1), x.dtype),
            scale=jnp.zeros_like(x),
            step=jnp.zeros_like(x),  # the first trial is the start
            predicted=jnp.zeros((), x.dtype),
            damping=rule.init(jnp.asarray(damping, x.dtype)),
            progress=Progress.start(inf),
            probing=jnp.zeros((), bool) if geodesic else None,
        )

    def update(params, state, data=None):
        x, unravel = core.ravel_fine(params, state.point)
        box, feasible = box_of(bounds, params, data)
        x = x if box is None else jnp.clip(x, *box)
        moved = jnp.any(x != state.point)
        probing = state.probing & ~moved if geodesic else jnp.zeros((), bool)
        trial = x + jnp.where(moved | probing, 0, state.step)
        trial = trial if box is None else core.onto_box(trial, *box)
        known = jnp.where(moved, jnp.inf, state.value)
        along = state.step if geodesic else None
        tried = oracle(trial, unravel, data, along)

        slope = scaled_gradient(tried, trial, box)
        closer = jnp.max(jnp.abs(slope), initial=0) < state.error
        lost = jnp.all(trial == x) & ~probing
        value = tried.value
        if geodesic:
            step, bent = geodesic_step(state, tried.bend)
            value = jnp.where(probing, known + state.predicted, value)
        found = rule.update(state.damping, known, value, state.predicted, closer, lost)
        take = found.accepted
        pick = lambda new, old: jnp.where(take, new, old)
        point, new_value = pick(trial, state.point), pick(tried.value, state.value)
        grad = pick(tried.grad, state.grad)
        slope = pick(slope, state.error)
        failed = found.failed & (~moved | ~jnp.isfinite(state.value))
        ended, fresh = Outcome(failed, jnp.zeros((), bool)), jnp.ones((), bool)
        judged = judge(state, ended, point, new_value, slope, fresh, patience)
        same = state.error, state.status, state.progress
        error, status, progress = core.where(take | failed, judged, same)
        status = jnp.where(feasible, status, as_status(Status.PRIMAL_INFEASIBLE))
        norms = tried.norms if scaled else jnp.full_like(x, jnp.max(tried.norms))
        scale = pick(jnp.maximum(state.scale, norms), state.scale)
        triangle = renew_triangle(state, tried, found, scale)
        new_step, predicted = damped_step(
            triangle, grad, scale, found.factor, point, box
        )
        new_state = state._replace(
            error=error,
            status=status,
            value=new_value,
            point=point,
            grad=grad,
            triangle=triangle,
            scale=scale,
            step=new_step,
            predicted=predicted,
            damping=found,
            progress=progress,
            probing=~jnp.zeros((), bool) if geodesic else None,
        )
        if geodesic:
            go_on = state._replace(step=step, probing=jnp.zeros((), bool))
            new_state = core.where(probing & bent, go_on, new_state)
        new_state = new_state._replace(count=state.count + 1)
        return unravel(new_state.point), new_state

    residual = least_squares_residual(residuals, loss, bounds)
    rule_of_derivative = core.implicit(psd=True) if bounds is None else core.implicit()
    return core.Solver(init, update, residual, rule_of_derivative)
