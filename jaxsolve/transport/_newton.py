"""Newton's method on the semi-dual of entropic transport."""

import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.transport import _continuation
from jaxsolve.transport._continuation import DEFAULT, Continuation
from jaxsolve.transport._derivative import potential_of, potential_rule, residual
from jaxsolve.transport._infeasible import certified
from jaxsolve.transport._newton_anchor import Plan, renewed
from jaxsolve.transport._newton_state import Krylov, NewtonTransportState
from jaxsolve.transport._newton_step import (
    best_columns,
    conjugate,
    judged,
    tried_of,
    value_of,
)
from jaxsolve.transport._problem import is_stored, status_of_problem
from jaxsolve.transport._products import StoredKernel, bounded_exp
from jaxsolve.transport._states import owned


@core.memoise
def newton_transport(
    *,
    continuation: Continuation | None = DEFAULT,
    forcing: float = 0.1,
    max_products: int = 300,
    radius: float = 30.0,
    patience: int = 10,
) -> core.Solver:
    r"""Solves entropic transport by Newton's method: few steps at any temperature.

    Solves the `TransportProblem` that is the data; params are the potential :math:`f`,
    (n,), from zero if nothing better is known. With the best :math:`g` eliminated the
    dual is concave in :math:`f` alone, with the gradient :math:`a - P 1` and the
    Hessian

    .. math::

        -\tfrac1\epsilon (\mathrm{diag}(P 1) - P \, \mathrm{diag}(P^\top 1)^{-1} P^\top)

    (unbalanced, with the terms of :math:`\tau` and :math:`\rho`). Each update takes one
    pair of products with a kept kernel :math:`\exp((\bar f_i + \bar g_j - C_{ij}) /
    \epsilon)`: either one step of preconditioned conjugate gradients on Newton's
    equation, or one trial of a backtracking search along its solution. No step leads
    farther than `radius` temperatures from the anchor of the kernel; half as far, a new
    anchor is taken, and so at each new temperature. A search that fails is followed by
    a step of Sinkhorn's. Quadratic at the end: linear solves are as inexact as the
    error.

    The temperature falls by a `Continuation` that solves each stage to a tenth only. A
    state given another problem begins there anew from its potential. The default for
    transport.

    Args:
        continuation: a schedule of the temperature; None begins at the problem's.
        forcing: a linear solve ends when its residual has shrunk by this, or by the
            root of the error where that is smaller.
        max_products: or after so many products.
        radius: in temperatures, how far from its anchor a kernel is used.
        patience: accepted steps without a smaller error after which the run has
            stalled.

    Returns:
        A solver. Its error is :math:`\|P 1 - a\|_1` (:math:`a e^{-f / \rho_a}` in
        place of a, if unbalanced) over the mass of b at params and the best g, at the
        problem's temperature; infinite before. It is no less than what the rounding of
        potentials makes of it, about their size over the temperature times the machine
        epsilon. Its residual is that of `sinkhorn`.

    Raises:
        ValueError: if a number is out of its range.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import transport
        >>> line = jnp.linspace(0.0, 1.0, 20)[:, None]
        >>> problem = transport.TransportProblem(
        ...     transport.PointCloud(line, line**2), epsilon=1e-3)
        >>> out = jaxsolve.run(transport.newton_transport(), jnp.zeros(20), problem)
        >>> print(out.converged, f"{problem.cost(out.params):.4f}")
        True 0.0319

    References:
        Brauer, Clason, Lorenz and Wirth, `A Sinkhorn-Newton method for entropic optimal
        transport <https://arxiv.org/abs/1710.06635>`_, 2017. Tang, Shavlovsky,
        Rahmanian, Tardini, Thekumparampil, Xiao and Ying, `Accelerating Sinkhorn
        Algorithm with Sparse Newton Iterations <https://arxiv.org/abs/2401.12253>`_,
        2024: see `sinkhorn_newton_sparse`. Schmitzer, `Stabilized Sparse Scaling
        Algorithms <https://arxiv.org/abs/1610.06519>`_, 2019, for kernel and schedule.
    """
    numbers = 0 < forcing < 1 and max_products >= 1 and radius > 0 and patience >= 1
    if not numbers:
        raise ValueError(
            "newton_transport needs 0 < forcing < 1, max_products >= 1, radius > 0 and "
            f"patience >= 1, got {forcing}, {max_products}, {radius} and {patience}."
        )
    _continuation.check(continuation)
    power = _continuation.power(continuation)

    def init(params, data):
        f, _ = potential_of(params, data)
        f = jnp.where(jnp.isfinite(f), f, 0)
        row, column = jnp.zeros_like(f), jnp.zeros(data.shape[1], f.dtype)
        zero, inf = jnp.zeros((), f.dtype), jnp.full((), jnp.inf, f.dtype)
        count, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        epsilon = _continuation.first(continuation, data)
        state = NewtonTransportState(
            count=count,
            error=inf,
            status=as_status(Status.RUNNING),
            epsilon=epsilon,
            point=f,
            value=-inf,
            level=inf,
            rows=row,
            share=column,
            krylov=Krylov(row, row, row, zero, zero, count),
            solving=no,
            direction=row,
            slope=zero,
            stepsize=jnp.ones_like(zero),
            best=inf,
            best_point=f,
            idle=count,
            mark=data.mark,
            anchored=no,
            anchor_f=row,
            anchor_g=column,
            # Of the right form only: the first update computes one.
            kernel=jnp.zeros(data.shape, f.dtype) if is_stored(data) else None,
        )
        return owned(state)

    def update(params, state, data):
        x, unravel = potential_of(params, data, state.point)
        data, _ = data.normalised()
        # Elsewhere, or on another problem, all is computed anew.
        stale = data.mark != state.mark
        moved = jnp.any(x != state.point) | stale
        f = jnp.where(jnp.isfinite(x), x, state.point)
        matrix = state.kernel
        state = _forgotten(state, data, stale, continuation)._replace(kernel=None)
        epsilon, solving = state.epsilon, state.solving
        if matrix is None:
            kernel = data.geometry.kernel(state.anchor_f, state.anchor_g, epsilon)
        else:
            kernel = StoredKernel(matrix)
        trial = f + state.stepsize * state.direction
        at = jnp.where(solving, f, trial)
        u = bounded_exp((at - state.anchor_f) / epsilon)

        # One pair of products: of a step of conjugate gradients, or of a trial.
        p = jnp.where(solving, state.krylov.direction, 1)
        column = kernel.transposed(data.a * u * p)
        g, v, share = best_columns(data, state, column)
        row = kernel.times(jnp.where(solving, state.share * column, data.b * v))
        product = data.a * u * row
        solved = conjugate(data, state, product, max_products, radius)
        value = value_of(data, trial, g, jnp.sum(data.b * v * column), epsilon)
        tried = tried_of(state, data, trial, g, value, product, share)
        moved_on = judged(data, state, tried, continuation, forcing, radius, patience)
        new = core.where(solving, solved, moved_on)
        # Was a trial accepted, the plan is that of u, the kernel and v.
        plan = Plan(f, g, u, v, row, column, ~solving & new.solving & ~moved)
        new = new._replace(point=jnp.where(moved, f, new.point))
        new, matrix = renewed(data, new, epsilon, moved, plan, matrix, power, radius)
        status = certified(data, new.point, new.error, new.status)
        new = _at_best(new, data)
        status = status_of_problem(data, status)
        new = new._replace(count=state.count + 1, kernel=matrix, status=status)
        return unravel(new.point), new

    return core.Solver(init, update, residual, potential_rule())


def _at_best(state, data):
    """The state; of a run that has stalled, at the best that it has seen."""
    ends = (state.status == Status.STALLED) & (state.epsilon <= data.epsilon)
    ends = ends & jnp.isfinite(state.best)
    return state._replace(
        error=jnp.where(ends, state.best, state.error),
        point=jnp.where(ends, state.best_point, state.point),
        anchored=state.anchored & ~ends,
    )


def _forgotten(state, data, stale, continuation):
    """The state, on another problem without what it knew of the last."""
    none = lambda new, old: jnp.where(stale, new, old).astype(old.dtype)
    epsilon = _continuation.resumed(continuation, data, state.epsilon)
    return state._replace(
        status=none(as_status(Status.RUNNING), state.status),
        epsilon=none(epsilon, state.epsilon),
        solving=state.solving & ~stale,
        direction=none(0, state.direction),
        best=none(jnp.inf, state.best),
        idle=none(0, state.idle),
        mark=data.mark,
    )
