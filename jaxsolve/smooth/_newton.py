"""Newton's method in a trust region, with the Hessian in full."""

from typing import NamedTuple

import chex
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.linesearch import Region, TrustRegion, spectral_step, trust_region
from jaxsolve.smooth import _hessian
from jaxsolve.smooth._hessian import Spectrum
from jaxsolve.smooth._progress import (
    Progress,
    judge,
    second_order,
    settle,
)


class NewtonState(NamedTuple):
    """State of Newton's method."""

    count: chex.Array  # (), int32: updates taken, one oracle call each.
    error: chex.Array  # (), real: sup-norm of the gradient at params.
    status: chex.Array  # (), int32: running, stalled or diverged.
    value: chex.Array  # (), real: the objective at params.
    point: chex.Array  # (n,), real: params, raveled, in full precision.
    grad: chex.Array  # (n,), real: the gradient there.
    spectrum: Spectrum  # of the Hessian there.
    scale: chex.Array | None  # (n,), real: the units of the trust region, if scaled.
    step: chex.Array  # (n,), real: to try next.
    predicted: chex.Array  # (), real: the reduction of the model by it.
    region: Region  # the trust region.
    progress: Progress  # what tells a stall.


@core.memoise
def newton(
    fun: core.Objective,
    *,
    region: TrustRegion | None = None,
    radius: float = 1.0,
    scaled: bool = False,
    patience: int = 20,
) -> core.Solver:
    r"""Minimises a smooth function of few unknowns by Newton's method.

    Solves :math:`\min_x f(x)`, convex or not. Each update evaluates :math:`f` at one
    trial point :math:`x + p`, where p minimises the model of second order in a trust
    region, exactly:

    .. math::

        (H + \mu I) p = -g, \quad \|p\| \le \Delta, \quad
        \mu \ge \max(0, -\lambda_1(H)), \quad \mu (\Delta - \|p\|) = 0

    by an eigendecomposition of the Hessian :math:`H`. Where the gain ratio is good, x
    becomes :math:`x + p`; the radius :math:`\Delta` follows it. Converges quadratically
    near a minimum with a regular Hessian, and leaves saddle points unless it starts on
    one exactly.

    One update costs value and gradient; if its trial is accepted also n products with
    the Hessian, from the same linearisation, and an eigendecomposition: :math:`O(n^3)`.
    Under vmap all lanes take the products when any lane does. For more than some
    hundred unknowns use `newton_cg`.

    Args:
        fun: :math:`f`, as ``fun(params, data) -> scalar``, twice differentiable.
            Infinite or NaN values outside a region make the step shrink; a Hessian that
            is not finite where value and gradient are counts as the identity.
        region: a trust region; ``linesearch.trust_region()`` by default.
        radius: its first radius, positive.
        scaled: whether the region is a ball in the units of the start, :math:`|x_0|`,
            or one where that is zero: steps are then relative, as pays in fits whose
            unknowns differ by orders of magnitude.
        patience: accepted steps without progress in value or error beyond rounding
            after which the run has stalled.

    Returns:
        A solver. Its error is :math:`\|\nabla f(x)\|_\infty` at params, its residual
        :math:`\nabla f(x)`.

    Raises:
        ValueError: if the radius is not positive; while tracing, if the Hessian would
            take more than 2 GiB, or the objective is not a real scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> camel = lambda x, a: (a - 2.1 * x[0]**2 + x[0]**4 / 3) * x[0]**2 + (
        ...     x[0] * x[1] - 4 * x[1]**2 + 4 * x[1]**4)
        >>> solver = jaxsolve.smooth.newton(camel)
        >>> solution = jaxsolve.run(solver, jnp.array([0.1, -0.1]), 4.0)
        >>> print(solution.converged, f"{solution.state.value:.4f}")
        True -1.0316

    References:
        Moré and Sorensen, `Computing a Trust Region Step
        <https://doi.org/10.1137/0904038>`_, 1983. Conn, Gould and Toint, `Trust-Region
        Methods <https://doi.org/10.1137/1.9780898719857>`_, 2000, Chapter 7.
    """
    core.check_number("radius", radius, closed="]")
    region = trust_region() if region is None else region
    oracle, gradient = second_order(fun), core.value_and_grad(fun)

    def init(params, data=None):
        del data
        x, _ = core.ravel(params)
        inf = jnp.full((), jnp.inf, x.dtype)
        return NewtonState(
            count=jnp.zeros((), jnp.int32),
            error=inf,
            status=as_status(Status.RUNNING),
            value=inf,
            point=x,
            grad=jnp.zeros_like(x),
            spectrum=_hessian.start(x, "newton"),
            scale=jnp.where(x != 0, jnp.abs(x), 1) if scaled else None,
            step=jnp.zeros_like(x),  # the first trial is the start
            predicted=jnp.zeros((), x.dtype),
            region=region.init(jnp.asarray(radius, x.dtype)),
            progress=Progress.start(inf, region=True),
        )

    def update(params, state, data=None):
        x, unravel = core.ravel_fine(params, state.point)
        moved = jnp.any(x != state.point)
        scale = state.scale if scaled else jnp.ones_like(x)
        trial = jnp.where(moved, x, x + state.step)
        value, grad, product = oracle(unravel(trial), data)
        judged = region.update(
            state.region,
            state.value,
            value,
            state.predicted,
            jnp.linalg.norm(state.step / scale),
            jnp.linalg.norm(state.point / scale),
        )
        judged = settle(core.where(moved, state.region, judged), moved, value)

        ok = judged.accepted
        new_x = jnp.where(ok, trial, state.point)
        new_value = jnp.where(ok, value, state.value)
        new_grad = jnp.where(ok, grad, state.grad)
        spectrum = _hessian.refresh(product, ok, state.spectrum, state.scale)
        step, predicted, _ = spectral_step(*spectrum, scale * new_grad, judged.radius)
        ended = judge(state, judged, new_x, new_value, new_grad, ~moved, patience)
        same = state.error, state.status, state.progress
        error, status, progress = core.where(ok | judged.failed, ended, same)
        return unravel(new_x), NewtonState(
            state.count + 1,
            error,
            status,
            new_value,
            new_x,
            new_grad,
            spectrum,
            state.scale,
            scale * step,
            predicted,
            judged,
            progress,
        )

    def residual(params, data=None):
        return gradient(params, data)[1]

    return core.Solver(init, update, residual, core.implicit(psd=True))
