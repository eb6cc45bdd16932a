"""Newton's method on the semi-dual of entropic transport."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.transport import _continuation
from jaxsolve.transport._continuation import DEFAULT, Continuation
from jaxsolve.transport._derivative import potential_of, potential_rule, residual
from jaxsolve.transport._problem import damped, dot, dual, status_of_problem
from jaxsolve.transport._products import bounded_exp as _exp

_TINY = 1e-3  # a stepsize below which a search has failed


class Krylov(NamedTuple):
    """Conjugate gradients under way, for a step in units of the temperature."""

    solution: chex.Array  # (n,), real.
    residual: chex.Array  # (n,), real.
    direction: chex.Array  # (n,), real.
    size: chex.Array  # (), real: the residual's square in the preconditioner's norm.
    goal: chex.Array  # (), real: the size at which it ends.
    steps: chex.Array  # (), int32.


class NewtonTransportState(NamedTuple):
    """State of Newton's method for transport."""

    count: chex.Array  # (), int32: updates taken, a pair of kernel products each.
    error: chex.Array  # (), real: L1 error of the rows at params, over the mass.
    status: chex.Array  # (), int32: running, stalled, diverged or infeasible.
    epsilon: chex.Array  # (), real: the temperature of the next update.
    point: chex.Array  # (n,), real: params, raveled, in full precision.
    value: chex.Array  # (), real: the dual objective there; -inf accepts any trial.
    level: chex.Array  # (), real: the error there, at this temperature.
    rows: chex.Array  # (n,), real: the sums of the plan's rows there.
    share: chex.Array  # (m,), real: what turns K'(a u p) into b v times a change of g.
    krylov: Krylov  # the linear solve.
    solving: chex.Array  # (), bool: whether that is under way, or else a search.
    direction: chex.Array  # (n,), real: of the search.
    slope: chex.Array  # (), real: of the objective along it.
    stepsize: chex.Array  # (), real: of the next trial.
    best: chex.Array  # (), real: the least error at this temperature.
    idle: chex.Array  # (), int32: accepted steps since.
    anchored: chex.Array  # (), bool: whether the kernel is one of this problem.
    anchor_f: chex.Array  # (n,), real.
    anchor_g: chex.Array  # (m,), real.
    kernel: Any  # exp((f + g - C) / epsilon) at the anchors, by its products.


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
    equation, or one trial of a backtracking search along its solution. No step is
    longer than `radius` temperatures; that far from its anchor the kernel is computed
    anew, and so at each new temperature. A search that fails is followed by a step of
    Sinkhorn's. Quadratic at the end: the linear solves are as inexact as the error.

    The temperature falls by a `Continuation` that solves each stage to a few percent
    only. A state resumes on the same problem only. The default for transport.

    Args:
        continuation: a schedule of the temperature; None begins at the problem's.
        forcing: a linear solve ends when its residual has shrunk by this, or by the
            root of the error where that is smaller.
        max_products: or after so many products.
        radius: in temperatures, the longest step, and how far from its anchor a kernel
            is used.
        patience: accepted steps without a smaller error after which the run has
            stalled.

    Returns:
        A solver. Its error is :math:`\|P 1 - a\|_1` (:math:`a e^{-f / \rho_a}` in
        place of a, if unbalanced) over the mass of b at params and the best g, at the
        problem's temperature; infinite before. Its residual is that of `sinkhorn`.

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

    def init(params, data):
        f, _ = potential_of(params, data)
        f = jnp.where(jnp.isfinite(f), f, 0)
        row, column = jnp.zeros_like(f), jnp.zeros(data.shape[1], f.dtype)
        zero, inf = jnp.zeros((), f.dtype), jnp.full((), jnp.inf, f.dtype)
        count, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        epsilon = _continuation.first(continuation, data)
        # Of the right form only: the first update computes a kernel.
        kernel = jax.eval_shape(data.geometry.kernel, row, column, epsilon)
        kernel = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), kernel)
        return NewtonTransportState(
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
            idle=count,
            anchored=no,
            anchor_f=row,
            anchor_g=column,
            kernel=kernel,
        )

    def update(params, state, data):
        x, unravel = potential_of(params, data, state.point)
        moved = jnp.any(x != state.point)
        f = jnp.where(jnp.isfinite(x), x, state.point)
        kernel, state = state.kernel, state._replace(kernel=None)
        epsilon, solving = state.epsilon, state.solving
        trial = f + state.stepsize * state.direction
        at = jnp.where(solving, f, trial)
        u = data.a * _exp((at - state.anchor_f) / epsilon)

        # One pair of products: of a step of conjugate gradients, or of a trial.
        column = kernel.transposed(u * jnp.where(solving, state.krylov.direction, 1))
        g, v, share = _best_columns(data, state, column)
        row = kernel.times(jnp.where(solving, state.share * column, data.b * v))
        solved = _conjugate(data, state, u * row, max_products, radius)
        value = _value(data, trial, g, jnp.sum(data.b * v * column), epsilon)
        tried = _tried(state, data, trial, value, u * row, share)
        judged = _judged(data, state, tried, continuation, forcing, radius, patience)
        new = core.where(solving, solved, judged)

        far = jnp.where(data.a > 0, jnp.abs(new.point - new.anchor_f), 0)
        cold = new.epsilon != epsilon
        renew = ~new.anchored | moved | cold | (jnp.max(far) > radius * epsilon)
        new = new._replace(point=jnp.where(moved, f, new.point))

        def anew():
            return core.where(renew, _anchored(data, new), (new, kernel))

        new, kernel = jax.lax.cond(core.any_lane(renew), anew, lambda: (new, kernel))
        status = status_of_problem(data, new.status)
        new = new._replace(count=state.count + 1, kernel=kernel, status=status)
        return unravel(new.point), new

    return core.Solver(init, update, residual, potential_rule())


class Tried(NamedTuple):
    """A trial point, and what the products told of it."""

    point: chex.Array  # (n,), real.
    value: chex.Array  # (), real: the dual objective.
    rows: chex.Array  # (n,), real: the sums of the rows.
    gap: chex.Array  # (n,), real: what these ought to be, less what they are.
    error: chex.Array  # (), real: its L1 norm over the mass.
    share: chex.Array  # (m,), real: as in the state.


def _best_columns(data, state, column):
    """The best g, exp of what it is above its anchor, and the share of the columns."""
    there = column > float(jnp.finfo(column.dtype).tiny)
    total = jnp.where(there, column, 1)
    g = state.anchor_g - state.epsilon * jnp.log(total)
    g = damped(g, data.rho_b, state.epsilon)
    g = jnp.where(there, g, jnp.where(data.b > 0, jnp.inf, state.anchor_g))
    v = jnp.where(there, _exp((g - state.anchor_g) / state.epsilon), 0)
    share = damped(data.b * v / total, data.rho_b, state.epsilon)
    return g, v, share


def _value(data, f, g, mass, epsilon):
    """The dual objective, but for a constant."""
    return dual(data.a, f, data.rho_a) + dual(data.b, g, data.rho_b) - epsilon * mass


def _diagonal(data, point, rows, epsilon):
    """The diagonal of the Hessian in units of the temperature, its main part."""
    if data.rho_a is None:
        return rows
    return rows + epsilon / data.rho_a * data.wanted_rows(point)


def _inverse(diagonal):
    return jnp.where(diagonal > 0, 1 / jnp.where(diagonal > 0, diagonal, 1), 0)


def _conjugate(data, state, product, max_products, radius):
    """A step of conjugate gradients; after the last one a search begins."""
    k, p = state.krylov, state.krylov.direction
    diagonal = _diagonal(data, state.point, state.rows, state.epsilon)
    image = diagonal * p - product
    if data.balanced:  # along constants there is nothing to solve but rounding
        image = image + data.a * jnp.sum(data.a * p) / jnp.sum(data.a)
    curvature = jnp.sum(p * image)
    convex = curvature > 0
    t = jnp.where(convex, k.size / jnp.where(convex, curvature, 1), 0)
    solution, left = k.solution + t * p, k.residual - t * image
    scaled = left * _inverse(diagonal)
    size = jnp.sum(left * scaled)
    turn = jnp.where(k.size > 0, size / jnp.where(k.size > 0, k.size, 1), 0)
    steps = k.steps + 1
    krylov = Krylov(solution, left, scaled + turn * p, size, k.goal, steps)
    done = (size <= k.goal) | (steps >= max_products) | ~convex

    newton = state.epsilon * solution
    gap = data.wanted_rows(state.point) - state.rows
    slope = jnp.sum(gap * newton)
    uphill = (slope > 0) & jnp.isfinite(slope)
    step = jnp.where(uphill, newton, _sinkhorn_step(data, state))
    return _search(data, state, step, radius)._replace(
        krylov=krylov,
        solving=~done,
        slope=jnp.where(uphill, slope, 0),
        value=jnp.where(done & ~uphill, -jnp.inf, state.value),
    )


def _sinkhorn_step(data, state):
    """From the accepted point to the best f at its g."""
    there = (state.rows > 0) & (data.a > 0)
    ratio = jnp.where(there, data.a / jnp.where(there, state.rows, 1), 1)
    raw = state.point + state.epsilon * jnp.log(ratio)
    return damped(raw, data.rho_a, state.epsilon) - state.point


def _search(data, state, step, radius):
    """A search along a step, no longer than the radius."""
    step = step - data.centre(step)
    length = jnp.max(jnp.where(data.a > 0, jnp.abs(step), 0))
    limit = radius * state.epsilon / jnp.where(length > 0, length, 1)
    return state._replace(
        direction=step, stepsize=jnp.where(length > 0, jnp.minimum(1, limit), 1)
    )


def _tried(state, data, point, value, rows, share):
    gap = jnp.where(data.a > 0, data.wanted_rows(point) - rows, 0)
    error = jnp.sum(jnp.abs(gap)) / jnp.sum(data.b)
    return Tried(point, value, rows, gap, error, share)


def _judged(data, state, tried, continuation, forcing, radius, patience):
    """Accepts a trial, and begins a linear solve; or steps back."""
    eps = float(jnp.finfo(tried.value.dtype).eps)
    size = jnp.abs(tried.value) + dot(data.a, jnp.abs(tried.point))
    noise = 10 * eps * jnp.where(jnp.isfinite(size), size, 0)
    change = tried.value - state.value
    higher = change >= 1e-4 * state.stepsize * state.slope
    level = (change >= -noise) & (tried.error <= 2 * state.level)
    finite = jnp.isfinite(tried.value) & jnp.isfinite(tried.error)
    accepted = finite & (higher | level)

    error = tried.error
    final = state.epsilon <= data.epsilon
    epsilon, onward = _continuation.following(continuation, data, state.epsilon, error)
    better = error < state.best
    idle = jnp.where(better, 0, state.idle + 1)
    diagonal = _diagonal(data, tried.point, tried.rows, state.epsilon)
    scaled = tried.gap * _inverse(diagonal)
    square = jnp.sum(tried.gap * scaled)
    share = jnp.where(final, jnp.minimum(forcing, jnp.sqrt(error)), forcing)
    stalled = (idle >= patience) & ~onward
    go_on = state._replace(
        error=jnp.where(final, error, jnp.inf),
        status=jnp.where(stalled, as_status(Status.STALLED), state.status),
        epsilon=epsilon,
        point=tried.point,
        value=tried.value,
        level=error,
        rows=tried.rows,
        share=tried.share,
        krylov=Krylov(
            jnp.zeros_like(scaled),
            tried.gap,
            scaled,
            square,
            share**2 * square,
            jnp.zeros_like(state.idle),
        ),
        solving=jnp.ones((), bool),
        direction=jnp.zeros_like(scaled),
        best=jnp.where(onward, jnp.inf, jnp.minimum(error, state.best)),
        idle=jnp.where(onward, 0, idle),
    )
    # A search that failed is followed by a step of Sinkhorn's, which always ascends.
    failed = state.stepsize < _TINY
    sinkhorn = _search(data, state, _sinkhorn_step(data, state), radius)
    sinkhorn = sinkhorn._replace(value=jnp.full_like(state.value, -jnp.inf))
    lost = failed & ~jnp.isfinite(state.value)
    back = core.where(failed, sinkhorn, state._replace(stepsize=0.5 * state.stepsize))
    back = back._replace(
        status=jnp.where(lost, as_status(Status.STALLED), state.status)
    )
    return core.where(accepted, go_on, back)


def _anchored(data, state):
    """The state with anchors at its point, to be evaluated there; and the kernel."""
    f, epsilon = state.point - data.centre(state.point), state.epsilon
    f = jnp.where(jnp.isfinite(f), f, 0)
    g = data.other(f, epsilon)
    finite = lambda h: jnp.where(jnp.isfinite(h), h, 0)
    kernel = data.geometry.kernel(f, finite(g), epsilon)
    rows = kernel.times(data.b)
    # Rows of the kernel that vanish altogether: there a step of Sinkhorn's helps. Rows
    # without weight pay what is best for them, lest their entries overflow.
    lost = jnp.any((data.a > 0) & (rows < float(jnp.finfo(f.dtype).tiny) ** 0.5))

    def again():
        raw = data.geometry.softmin(finite(g), data.b, epsilon, 1)
        best = damped(raw, data.rho_a, epsilon)
        best = jnp.where(jnp.isfinite(best), best, f)
        start = jnp.where(lost | (data.a == 0), best - data.centre(best), f)
        new_g = jnp.where(lost, data.other(start, epsilon), g)
        fresh = data.geometry.kernel(start, finite(new_g), epsilon)
        return start, new_g, fresh, jnp.any((data.a > 0) & (raw == jnp.inf))

    no = jnp.zeros((), bool)
    needed = core.any_lane(lost | jnp.any(data.a == 0))
    start, g, kernel, impossible = jax.lax.cond(
        needed, again, lambda: (f, g, kernel, no)
    )
    impossible = impossible | jnp.any((data.b > 0) & (g == jnp.inf))
    nan = jnp.any(jnp.isnan(rows) & (data.a > 0)) | jnp.any(jnp.isnan(g))
    status = jnp.where(impossible, as_status(Status.PRIMAL_INFEASIBLE), state.status)
    anchored = state._replace(
        error=jnp.where(lost, jnp.inf, state.error),
        status=jnp.where(nan, as_status(Status.DIVERGED), status),
        point=start,
        value=jnp.full_like(state.value, -jnp.inf),
        solving=no,
        direction=jnp.zeros_like(f),
        slope=jnp.zeros_like(state.slope),
        stepsize=jnp.ones_like(state.stepsize),
        anchored=~no,
        anchor_f=start,
        anchor_g=finite(g),
    )
    return anchored, kernel
