"""Newton's method, regularised so that no step is longer than gamma."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.smooth import _hessian
from jaxsolve.smooth._curvature import Curvature, Evaluation, exact_hessian
from jaxsolve.smooth._metric import (
    Modes,
    flat_part,
    from_dual,
    halve,
    modes,
    shifted,
    to_dual,
    to_metric,
)
from jaxsolve.smooth._progress import Progress, judge, norm, second_order

_MAX_TRIALS = 40  # of one step, before it has failed
_LEAST, _EPS = 1e-9, 1e-8  # of gamma after a step; what is added to it in a quotient


class GradientNormalizedNewtonState(NamedTuple):
    """State of gradient-normalised Newton."""

    count: chex.Array  # (), int32: updates taken, one oracle call each.
    error: chex.Array  # (), real: sup-norm of the gradient at params.
    status: chex.Array  # (), int32: running, stalled or diverged.
    value: chex.Array  # (), real: the objective at params.
    point: chex.Array  # (n,), real: params, raveled, in full precision.
    grad: chex.Array  # (n,), real: the gradient there.
    half: chex.Array | None  # of a metric C C': C, (n, n), or 1 / C, (n,), real.
    modes: Modes  # of the curvature there, in the coordinates of the metric.
    gamma: chex.Array  # (), real: what the length of the step is below.
    step: chex.Array  # (n,), real: to try next.
    shift: chex.Array  # (), real: lambda of that step.
    trials: chex.Array  # (), int32: steps rejected in a row.
    progress: Progress  # what tells a stall.


class _Outcome(NamedTuple):
    """How a step ended."""

    failed: chex.Array  # (), bool: no step is acceptable any more.
    unbounded: chex.Array  # (), bool: it was good, and as long as steps can be.
    radius: chex.Array  # (), real: what bounded its length, or zero.


@core.memoise
def gradient_normalized_newton(
    fun: core.Objective,
    hessian: Curvature | None = None,
    metric: chex.Array | Callable[[core.Data], chex.Array] | None = None,
    gamma: float = 1.0,
    *,
    adaptive: bool = True,
    patience: int = 20,
) -> core.Solver:
    r"""Minimises by Newton steps with an approximate Hessian, none longer than gamma.

    Solves :math:`\min_x f(x)`. With the norms :math:`\|s\|^2 = \langle s, B s \rangle`
    and :math:`\|g\|_*^2 = \langle g, B^{-1} g \rangle` of a metric B, each update
    evaluates :math:`f` at one trial point

    .. math::

        x^+ = x + s, \quad (H + \lambda B) s = -g, \quad
            \lambda = \|g\|_* / (\gamma + 10^{-8})

    with the gradient g and a curvature H at x: the Hessian, or what stands for it. It
    is accepted, and :math:`\gamma` doubled, when

    .. math::

        f(x) - f(x^+) \ge \|\nabla f(x^+)\|_*^2 / (8 \lambda)

    or, where values do not resolve that, as it is below :math:`10 \varepsilon |f(x)|`,
    when the value has not risen by more and the norm of the gradient has not risen.
    Otherwise, and as long as :math:`H + \lambda B` is not positive, :math:`\gamma` is
    halved. Where H has a negative eigenvalue :math:`-\mu` with respect to B the step
    may still be longer than :math:`\gamma`; then :math:`\mu` is added to
    :math:`\lambda`, which bounds it: :math:`\|s\| \le \gamma + 10^{-8}` always.

    No constant of smoothness is asked for: :math:`\gamma` follows, within a factor two,
    how far the gradient is predicted by H. For convex f and the exact Hessian the rate
    is the best of those known for Hölder, Lipschitz and quasi-self-concordant Hessians,
    the last a global linear one (logistic regression, also of separable data). An
    approximation with :math:`\|\nabla^2 f - H\| \le C_1 + C_2 \|g\|^{1 - \beta}` keeps
    it up to a term in :math:`C_1`. Beside `regularized_newton` it takes approximations,
    a metric, and functions that are not convex.

    One update costs value and gradient; if its trial is accepted also the curvature,
    decomposed once: :math:`O(n^3)` for a matrix, :math:`O(m^2 n)` for m rows, less for
    a diagonal. A trial after that costs :math:`O(n^2)` at most. The functions of a
    curvature are evaluated once more than f, beside it.

    Args:
        fun: :math:`f`, as ``fun(params, data) -> scalar``. Infinite or NaN values
            outside a region make the step shrink; a curvature that is not finite where
            value and gradient are counts as zero.
        hessian: :math:`H`: :func:`exact_hessian` by default, :func:`fisher_hessian`,
            :func:`gauss_newton_hessian`, :func:`factored_hessian`,
            :func:`rank_one_hessian` or :func:`diagonal_hessian`.
        metric: :math:`B`, a positive diagonal (n,) or a positive definite matrix (n, n)
            in the order of raveled params, or a function of the data that makes one,
            cached by ``init``; the identity by default. Add 1e-8 to the diagonal of one
            that may be singular; where it is, no trial is accepted.
        gamma: the first one, positive; with ``adaptive=False`` the one of all steps.
        adaptive: whether trials are tested and gamma is adapted. Without, every finite
            trial is accepted, at a gamma that must be known for the problem.
        patience: accepted steps without progress in value or error beyond rounding
            after which the run has stalled.

    Returns:
        A solver. Its error is :math:`\|\nabla f(x)\|_\infty` at params, its residual
        :math:`\nabla f(x)`, whose derivatives are exact whatever H is.

    Raises:
        ValueError: if gamma is not positive and finite; while tracing, if the Hessian
            would take more than 2 GiB, the metric has another shape, or the objective
            is not a real scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> fun = lambda x, data: (1 - x[0])**2 + data * (x[1] - x[0]**2)**2
        >>> solver = jaxsolve.smooth.gradient_normalized_newton(fun)
        >>> solution = jaxsolve.run(solver, jnp.array([-2.0, 2.0]), 100.0)
        >>> print(solution.converged, jnp.round(solution.params, 2))
        True [1. 1.]

    References:
        Semenov, Jaggi and Doikov, `Gradient-Normalized Smoothness for Optimization with
        Approximate Hessians <https://arxiv.org/abs/2506.13710>`_, 2025, Algorithm 1;
        that rounding is allowed for, and that long steps are shortened, is ours.
    """
    core.check_number("gamma", gamma)
    curvature = exact_hessian() if hessian is None else hessian
    oracle, gradient = second_order(fun), core.value_and_grad(fun)

    def init(params, data=None):
        x, _ = core.ravel(params)
        x = jnp.copy(x)  # one buffer a leaf, so that all may be donated
        inf, half = lambda: jnp.full((), jnp.inf, x.dtype), halve(metric, x, data)
        return GradientNormalizedNewtonState(
            count=jnp.zeros((), jnp.int32),
            error=inf(),
            status=as_status(Status.RUNNING),
            value=inf(),
            point=x,
            grad=jnp.zeros_like(x),
            half=half,
            modes=_no_modes(curvature, params, data, half),
            gamma=_sound(gamma, x),
            step=jnp.zeros_like(x),  # the first trial is the start
            shift=jnp.zeros((), x.dtype),
            trials=jnp.zeros((), jnp.int32),
            progress=Progress.start(inf(), region=True)._replace(floor=inf()),
        )

    def update(params, state, data=None):
        x, unravel = core.ravel_fine(params, state.point)
        moved = jnp.any(x != state.point)
        trial = jnp.where(moved, x, x + state.step)
        value, grad, product = oracle(unravel(trial), data)
        fresh = moved | ~jnp.isfinite(state.value)
        good = _accepted(state, value, grad) if adaptive else jnp.ones((), bool)
        ok = jnp.isfinite(value) & (fresh | good)

        trials = jnp.where(ok, 0, state.trials + 1)
        least = float(jnp.finfo(x.dtype).eps) * norm(state.point)
        lost = ~(norm(state.step) > least)  # also where it is not a number
        failed = ~ok & (fresh | lost | (trials > _MAX_TRIALS))
        new_x = jnp.where(ok, trial, state.point)
        new_value = jnp.where(ok, value, state.value)
        new_grad = jnp.where(ok, grad, state.grad)
        flat = flat_part(state.modes, to_metric(state.half, state.step))
        # Where gamma bounds the step many doublings may pass before values resolve it.
        bound = 2 * norm(to_metric(state.half, state.step)) >= state.gamma
        reach = jnp.where(ok & bound, state.gamma, 0)
        outcome = _Outcome(failed, ok & (norm(flat) > 1e12), reach)
        ended = judge(state, outcome, new_x, new_value, new_grad, ~moved, patience)
        same = state.error, state.status, state.progress
        error, status, progress = core.where(ok | failed, ended, same)

        at = Evaluation(unravel(trial), data, value, grad, product)
        renew = lambda: core.where(ok, modes(curvature(at), state.half), state.modes)
        new_modes = jax.lax.cond(core.any_lane(ok), renew, lambda: state.modes)
        larger = _after_step(state.gamma) if adaptive else _sound(gamma, x)
        new_gamma = jnp.where(ok, larger, state.gamma / 2)
        new_gamma = jnp.where(fresh, state.gamma, new_gamma)
        new_gamma, step, shift = _step(state.half, new_modes, new_grad, new_gamma)
        return unravel(new_x), GradientNormalizedNewtonState(
            state.count + 1,
            error,
            status,
            new_value,
            new_x,
            new_grad,
            state.half,
            new_modes,
            new_gamma,
            step,
            shift,
            trials,
            progress,
        )

    def residual(params, data=None):
        return gradient(params, data)[1]

    return core.Solver(init, update, residual, core.implicit(psd=True))


def _sound(gamma, x):
    """Gamma, not a number where a traced one is not positive and finite."""
    gamma = jnp.asarray(gamma, x.dtype)
    return jnp.where((gamma > 0) & (gamma < jnp.inf), gamma, jnp.nan)


def _no_modes(curvature, params, data, half):
    """Modes to begin with, in a form that is found without computing any."""

    def form(params, data, half):
        x, _ = core.ravel(params)
        at = Evaluation(params, data, jnp.ones((), x.dtype), x, lambda v: v)
        return modes(curvature(at), half)

    x, _ = core.ravel(params)
    found = jax.eval_shape(form, params, data, half)
    if found.vectors is not None and found.vectors.shape == (x.size, x.size):
        return Modes(*_hessian.start(x, "gradient_normalized_newton"))
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, x.dtype), found)


def _accepted(state, value, grad):
    """Whether the value has come down by what the new gradient asks for."""
    old, new = norm(to_dual(state.half, state.grad)), norm(to_dual(state.half, grad))
    shift = jnp.where(state.shift > 0, state.shift, 1)
    wanted = new * (new / shift) / 8
    noise = 10 * float(jnp.finfo(value.dtype).eps) * jnp.abs(state.value)
    level = (wanted <= noise) & (value <= state.value + noise)
    return (state.value - value >= wanted) | (level & (new <= old))


def _after_step(gamma):
    most = float(jnp.finfo(gamma.dtype).max) ** 0.5
    return jnp.clip(2 * gamma, _LEAST, most)


def _step(half, modes, grad, gamma):
    """Halves gamma until the matrix is positive, and takes no step beyond it."""
    dual = to_dual(half, grad)
    size = norm(dual)
    lowest = -jnp.min(modes.values, initial=0)
    most = size / jnp.where(lowest > 0, lowest, 1) - _EPS  # below which it is
    most = jnp.maximum(most, float(jnp.finfo(gamma.dtype).tiny))
    halvings = jnp.floor(jnp.log2(gamma / most)).astype(jnp.int32) + 1
    halvings = jnp.where((lowest > 0) & (gamma >= most), halvings, 0)
    gamma = jnp.ldexp(gamma, -jnp.minimum(halvings, _MAX_TRIALS))
    shift = size / (gamma + _EPS)
    step = shifted(modes, shift, dual)
    # What is barely positive is as good as singular: its step has any length.
    long = (norm(step) > gamma + _EPS) | (lowest >= shift)
    lift = jnp.where(long, lowest, 0)
    lifted = modes._replace(values=modes.values + lift)
    step = jnp.where(lift > 0, shifted(lifted, shift, dual), step)
    return gamma, from_dual(half, step), shift + lift
