"""Newton's method, regularised by the square root of the gradient's norm."""

from typing import NamedTuple

import chex
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.smooth import _hessian
from jaxsolve.smooth._hessian import Spectrum
from jaxsolve.smooth._progress import Outcome, Progress, judge, norm, second_order

_MAX_TRIALS = 60  # of one step, before it has failed


class RegularizedNewtonState(NamedTuple):
    """State of regularised Newton."""

    count: chex.Array  # (), int32: updates taken, one oracle call each.
    error: chex.Array  # (), real: sup-norm of the gradient at params.
    status: chex.Array  # (), int32: running, stalled or diverged.
    value: chex.Array  # (), real: the objective at params.
    point: chex.Array  # (n,), real: params, raveled, in full precision.
    grad: chex.Array  # (n,), real: the gradient there.
    spectrum: Spectrum  # of the Hessian there.
    constant: chex.Array  # (), real: M, half a Lipschitz constant of the Hessian.
    step: chex.Array  # (n,), real: to try next.
    shift: chex.Array  # (2,), real: lambda and what was added to the Hessian, of it.
    trials: chex.Array  # (), int32: steps rejected in a row.
    progress: Progress  # what tells a stall.


@core.memoise
def regularized_newton(
    fun: core.Objective, constant: float = 1.0, *, patience: int = 20
) -> core.Solver:
    r"""Minimises a smooth convex function by gradient-regularised Newton steps.

    Solves :math:`\min_x f(x)`. Each update evaluates :math:`f` at one trial point

    .. math::

        x^+ = x + s, \quad (H + \lambda I) s = -g, \quad
            \lambda = \sqrt{M \|g\|}

    with g and H the gradient and the Hessian at x. It is accepted when

    .. math::

        f(x^+) \le f(x) - \tfrac23 \lambda \|s\|^2, \quad
            \|\nabla f(x^+)\| \le 2 \lambda \|s\|

    or, as values may no longer resolve the decrease, when :math:`f(x^+) \le f(x) + 10
    \varepsilon |f(x)|` and the second holds. Either is sure to hold once M is at least
    half the Lipschitz constant of the Hessian. The constant that the trial showed to be
    enough, :math:`\|\nabla f(x^+) + \lambda s\| / \|s\|^2`, is taken next, where that
    is 2 to :math:`10^4` M after a rejection, and 1/2 to 1/16 M after acceptance.

    For convex f with a Lipschitz Hessian :math:`f - \min f` is :math:`O(1 / k^2)` from
    any start, without any constant to be known; for strongly convex f, whose Hessian at
    the minimum is regular, convergence is superlinear. Where H has a negative
    eigenvalue its size is added to :math:`\lambda`, and the second condition is not
    asked for; for problems that are not convex, `newton` is better. Costs are those of
    `newton`.

    Args:
        fun: :math:`f`, as ``fun(params, data) -> scalar``, twice differentiable.
            Infinite or NaN values outside a region make the step shrink; a Hessian that
            is not finite where value and gradient are counts as the identity.
        constant: :math:`M` at first, positive.
        patience: accepted steps without progress in value or error beyond rounding
            after which the run has stalled.

    Returns:
        A solver. Its error is :math:`\|\nabla f(x)\|_\infty` at params, its residual
        :math:`\nabla f(x)`.

    Raises:
        ValueError: if the constant is not positive and finite; while tracing, if the
            Hessian would take more than 2 GiB, or the objective is not a real scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> fun = lambda x, data: jnp.sum(jnp.logaddexp(x, -3 * x)) + data @ x
        >>> solver = jaxsolve.smooth.regularized_newton(fun)
        >>> solution = jaxsolve.run(solver, jnp.full(2, 9.0), jnp.array([1.0, 0.0]))
        >>> print(solution.converged, jnp.round(solution.params, 3))
        True [0.    0.275]

    References:
        Mishchenko, `Regularized Newton Method with Global O(1/k^2) Convergence
        <https://arxiv.org/abs/2112.02089>`_, 2023, Algorithm 2, where M is doubled and
        halved; the estimate is that of Algorithm 3. Doikov and Nesterov, `Gradient
        regularization of Newton method with Bregman distances
        <https://doi.org/10.1007/s10107-023-01943-7>`_, 2023.
    """
    known = isinstance(constant, int | float)
    if known and not 0 < constant < float("inf"):
        raise ValueError(f"constant must be positive and finite, got {constant!r}.")
    oracle, gradient = second_order(fun), core.value_and_grad(fun)

    def init(params, data=None):
        del data
        x, _ = core.ravel(params)
        inf = jnp.full((), jnp.inf, x.dtype)
        return RegularizedNewtonState(
            count=jnp.zeros((), jnp.int32),
            error=inf,
            status=as_status(Status.RUNNING),
            value=inf,
            point=x,
            grad=jnp.zeros_like(x),
            spectrum=_hessian.start(x, "regularized_newton"),
            constant=jnp.asarray(constant, x.dtype),
            step=jnp.zeros_like(x),  # the first trial is the start
            shift=jnp.zeros(2, x.dtype),
            trials=jnp.zeros((), jnp.int32),
            progress=Progress.start(inf),
        )

    def update(params, state, data=None):
        x, unravel = core.ravel_fine(params, state.point)
        moved = jnp.any(x != state.point)
        trial = jnp.where(moved, x, x + state.step)
        value, grad, product = oracle(unravel(trial), data)
        fresh = moved | ~jnp.isfinite(state.value)
        ok = jnp.isfinite(value) & (fresh | _accepted(state, value, grad))

        trials = jnp.where(ok, 0, state.trials + 1)
        length = norm(state.step)
        eps = float(jnp.finfo(x.dtype).eps)
        lost = length <= eps * norm(state.point)
        failed = ~ok & (fresh | lost | (trials > _MAX_TRIALS))
        new_x = jnp.where(ok, trial, state.point)
        new_value = jnp.where(ok, value, state.value)
        new_grad = jnp.where(ok, grad, state.grad)
        outcome = Outcome(failed, ok & _endless(state))
        ended = judge(state, outcome, new_x, new_value, new_grad, ~moved, patience)
        same = state.error, state.status, state.progress
        error, status, progress = core.where(ok | failed, ended, same)

        adapted = _adapt(state, ok, value, grad)
        new_constant = jnp.where(fresh, state.constant, adapted)
        spectrum = _hessian.refresh(product, ok, state.spectrum)
        step, shift = _step(spectrum, new_grad, new_constant)
        return unravel(new_x), RegularizedNewtonState(
            state.count + 1,
            error,
            status,
            new_value,
            new_x,
            new_grad,
            spectrum,
            new_constant,
            step,
            shift,
            trials,
            progress,
        )

    def residual(params, data=None):
        return gradient(params, data)[1]

    return core.Solver(init, update, residual, core.implicit(psd=True))


def _step(spectrum, grad, constant):
    values, vectors = spectrum
    plain = jnp.sqrt(constant) * jnp.sqrt(norm(grad))
    added = plain - jnp.min(values, initial=0)
    divisor = values + added
    a = grad @ vectors
    z = -jnp.where(divisor > 0, a / jnp.where(divisor > 0, divisor, 1), 0)
    return vectors @ z, jnp.stack([plain, added])


def _endless(state):
    """Whether the step is as long as steps can be where no curvature would end it."""
    values, vectors = state.spectrum
    rounding = values.size * float(jnp.finfo(values.dtype).eps)
    flat = values <= rounding * jnp.max(jnp.abs(values), initial=0)
    return norm(jnp.where(flat, state.step @ vectors, 0)) > 1e12


def _accepted(state, value, grad):
    """Whether value and gradient have come down as a right constant ensures."""
    plain, added = state.shift
    length = norm(state.step)
    noise = 10 * float(jnp.finfo(value.dtype).eps) * jnp.abs(state.value)
    wanted = 2 / 3 * plain * length * length
    lower = value <= state.value - wanted
    level = (wanted <= noise) & (value <= state.value + noise)
    small = norm(grad) <= 2 * added * length
    concave = added > plain
    return (lower & (small | concave)) | (level & small)


def _adapt(state, ok, value, grad):
    """The constant that this step would have needed, within bounds."""
    added = state.shift[1]
    length = norm(state.step)
    length = jnp.where(length > 0, length, 1)
    # As H s = -g - shift s, this is the change of the gradient less H s.
    surprise = norm(grad + added * state.step)
    seen = surprise / length / length
    seen = jnp.where(jnp.isfinite(value) & jnp.isfinite(seen), seen, jnp.inf)
    m = state.constant
    larger = jnp.clip(seen, 2 * m, 1e4 * m)
    smaller = jnp.clip(seen, m / 16, m / 2)
    tiny, huge = (float(x) for x in (jnp.finfo(m.dtype).tiny, jnp.finfo(m.dtype).max))
    return jnp.clip(jnp.where(ok, smaller, larger), tiny, huge**0.5)
