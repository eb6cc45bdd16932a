"""Low-rank Sinkhorn: transport by plans of a given rank, in linear time."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.transport._factor_projection import gap, mirror_step, product, project
from jaxsolve.transport._geometry import DenseCost
from jaxsolve.transport._low_rank_plan import LowRankPlan, feasible, plan_of
from jaxsolve.transport._low_rank_value import evaluate
from jaxsolve.transport._problem import status_of_problem
from jaxsolve.transport._states import anew, owned

_TINY = 1e-8  # a stepsize below which a search has failed


class LowRankSinkhornState(NamedTuple):
    """State of low-rank Sinkhorn."""

    count: chex.Array  # (), int32: updates taken, r products with the cost each way.
    error: chex.Array  # (), real: the gap at params over the mass and the spread.
    status: chex.Array  # (), int32: running, stalled, diverged or infeasible.
    point: LowRankPlan  # params, in full precision.
    value: chex.Array  # (), real: the objective there; infinite before the first.
    gradient: LowRankPlan  # there.
    trial: LowRankPlan  # where the next update evaluates.
    slope: chex.Array  # (), real: what a linear objective would have lost by it.
    stepsize: chex.Array  # (), real: the stepsize that led there, over the spread.
    multipliers: chex.Array  # (2, r), real: of the sums of the factors' columns.
    best: chex.Array  # (), real: the least error so far.
    idle: chex.Array  # (), int32: accepted steps since value or error last improved.
    mark: chex.Array  # (), real: of the problem that this is a state of.


@core.memoise
def low_rank_sinkhorn(
    *,
    epsilon: chex.Numeric = 0.0,
    stepsize: float = 1.0,
    growth: float = 1.2,
    largest: float = 1e6,
    least: float = 1e-10,
    patience: int = 50,
) -> core.Solver:
    r"""Solves transport among the plans of low rank, by mirror descent.

    The data are a balanced `TransportProblem`, whose own temperature plays no part;
    params are a `LowRankPlan`, from `LowRankPlan.start`, whose rank they keep. Solves

    .. math::

        \min_{Q, R, g} \langle C, Q \, \mathrm{diag}(1 / g) \, R^\top \rangle
        - \epsilon H(Q, R, g) \quad \text{where} \quad
        Q 1 = a, \; R 1 = b, \; Q^\top 1 = R^\top 1 = g \ge \alpha

    with :math:`H = -\sum p (\log p - 1)` over all entries. One update evaluates the
    objective and its gradient :math:`\nabla` at a trial :math:`\xi = (Q, R, g)`,

    .. math::

        \nabla = \bigl(C R \, \mathrm{diag}(1 / g), \; C^\top Q \, \mathrm{diag}(1 / g),
        \; -\mathrm{diag}(Q^\top C R) / g^2\bigr) + \epsilon \log \xi,

    accepts it if the objective has fallen, and proposes, with :math:`\omega` the
    largest spread of the gradient in a row or in g, plus :math:`\epsilon`,

    .. math::

        \xi^+ = \arg\min_{\xi'} \mathrm{KL}\bigl(\xi' | \xi \odot
        e^{-\gamma \nabla / (\omega + \gamma \epsilon)}\bigr)
        \quad \text{where} \ \xi' \ \text{is feasible}

    which is a mirror step that linearises the cost and takes the entropy as it is. The
    stepsize :math:`\gamma` grows after each step that was accepted, up to
    `largest`, and is halved where one was not. Small steps lead to good plans from far
    away, long ones to their limits in few updates. Geometries are multiplied by, r
    times each way, and never asked for their matrix: time and memory are linear in
    n + m for a `LowRankCost`, and memory is for an online `PointCloud`. Costs must be
    finite.

    The problem is not convex: what is found is a stationary point, and depends on the
    start. At full rank and :math:`\epsilon = 0` it may be the linear program's.

    The projection needs no product with the cost, and is done within the update, by at
    most 40 evaluations of a dual function of 2 r variables; three as a rule, as it
    starts from the last one's multipliers. Lanes of a batch wait for one another there
    only. A state given another problem begins there anew from its plan.

    Args:
        epsilon: :math:`\epsilon \ge 0`, in units of the cost.
        stepsize: :math:`\gamma` at the first update.
        growth: by what it is multiplied, at least 1. Less growth takes more updates,
            and may find a better plan.
        largest: at most. With both at 10 this is the stepsize of the papers, but for
            the norm.
        least: :math:`\alpha`, as a share of the mass, less than 1 / r.
        patience: accepted steps without progress after which the run has stalled.

    Returns:
        A solver. Its error is the gap :math:`\max \langle \nabla, \xi - \xi' \rangle`
        over feasible :math:`\xi'`, as bounded by the multipliers of the projection, at
        params, over the mass and :math:`\omega`; infinite before. Zero at stationary
        points and nowhere else. Params are feasible always. The solver has no residual,
        as factors are not unique: for derivatives of the value run it with
        ``derivative=core.envelope()``, and take `low_rank_value`.

    Raises:
        ValueError: if a number is out of its range; from the solver, if `least` is.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import transport
        >>> x = jnp.linspace(0.0, 1.0, 40)[:, None]
        >>> cost = transport.low_rank(transport.PointCloud(x, x**2))
        >>> problem = transport.TransportProblem(cost)
        >>> start = transport.LowRankPlan.start(problem, 10)
        >>> out = jaxsolve.run(transport.low_rank_sinkhorn(), start, problem)
        >>> print(out.converged, f"{out.params.cost(cost):.3f}")
        True 0.035

    References:
        Scetbon, Cuturi and Peyré, `Low-Rank Sinkhorn Factorization
        <https://arxiv.org/abs/2103.04737>`_, 2021. Scetbon and Cuturi, `Low-rank
        Optimal Transport: Approximation, Statistics and Debiasing
        <https://arxiv.org/abs/2205.12365>`_, 2022, for stepsize and start. What differs
        here: the papers project by Dykstra's algorithm from scratch, and divide by
        the square of the largest entry of the gradient, which depends on the units of
        the cost; they linearise the entropy too, so that nothing is added to
        :math:`\omega`; and they accept every step.
    """
    good = not core.is_concrete(epsilon) or epsilon >= 0
    good = good and 0 < stepsize <= largest and growth >= 1
    good = good and 0 < least < 1 and patience >= 1
    if not good:
        raise ValueError(
            "low_rank_sinkhorn needs epsilon >= 0, 0 < stepsize <= largest, growth >= "
            f"1, 0 < least < 1 and patience >= 1, got {epsilon}, {stepsize}, {largest},"
            f" {growth}, {least} and {patience}."
        )

    def plan_within(params, data, point=None):
        plan, unravel = plan_of(params, data, point)
        if least * plan.g.size >= 1:
            raise ValueError(
                f"least must be less than 1 / r, for rank {plan.g.size} less than "
                f"{1 / plan.g.size:.3g}, got {least}."
            )
        return plan, unravel

    def init(params, data):
        point, _ = plan_within(params, data)
        point = feasible(point, data, least)
        dtype = point.g.dtype
        inf, zero = jnp.full((), jnp.inf, dtype), jnp.zeros((), dtype)
        count = jnp.zeros((), jnp.int32)
        state = LowRankSinkhornState(
            count=count,
            error=inf,
            status=as_status(Status.RUNNING),
            point=point,
            value=inf,
            gradient=jax.tree.map(jnp.zeros_like, point),
            trial=point,
            slope=zero,
            stepsize=jnp.asarray(stepsize, dtype),
            multipliers=jnp.zeros((2, point.g.size), dtype),
            best=inf,
            idle=count,
            mark=data.mark,
        )
        return owned(state)

    def update(params, state, data):
        given, unravel = plan_within(params, data, state.point)
        stale = data.mark != state.mark
        moved = (_differ(given, state.point) & (state.count > 0)) | stale
        state = _forgotten(state, data, stale)
        given = feasible(given, data, least)
        trial = core.where(moved, given, state.trial)
        value, gradient, size = evaluate(trial, data, epsilon)

        eps = float(jnp.finfo(value.dtype).eps)
        noise = 10 * eps * jnp.where(jnp.isfinite(size), size, 0)
        first = moved | ~jnp.isfinite(state.value)
        lower = value <= state.value + 1e-4 * jnp.minimum(state.slope, 0) + noise
        finite = jnp.isfinite(value) & core.all_finite(gradient)
        accepted = finite & (first | lower)
        point, gradient, value, known = core.where(
            accepted,
            (trial, gradient, value, jnp.ones((), bool)),
            (state.point, state.gradient, state.value, ~first),
        )
        grown = jnp.where(
            first, stepsize, jnp.minimum(growth * state.stepsize, largest)
        )
        step = jnp.where(accepted, grown, state.stepsize / 2).astype(value.dtype)

        mass = jnp.sum(data.a)
        bound = least * mass
        heat = jnp.asarray(epsilon, value.dtype)
        spread = _spread(gradient, data) + heat
        # Entropies enter the step as they are, not by their gradient.
        scale = step / (spread + heat * step)
        logs = mirror_step(point, gradient, state.multipliers, scale)
        new_trial, shifts = project(logs, data.a, data.b, bound)
        multipliers = state.multipliers + shifts / scale
        usable = known & core.all_finite((new_trial, multipliers))
        new_trial, multipliers = core.where(
            usable, (new_trial, multipliers), (point, state.multipliers)
        )
        left = gap(point, gradient, multipliers, data.a, data.b, bound)
        error = jnp.where(usable, left / (mass * spread), jnp.inf)

        lower = value < state.value - noise
        better = error < 0.9 * state.best
        idle = jnp.where(first | lower | better, 0, state.idle + 1)
        stuck = (idle >= patience) | (step < _TINY)
        lost = ~known | ~core.all_finite(data.a) | _forbids(data)
        status = jnp.where(stuck, as_status(Status.STALLED), state.status)
        status = jnp.where(lost, as_status(Status.DIVERGED), status)
        move = jax.tree.map(jnp.subtract, new_trial, point)
        return unravel(point), LowRankSinkhornState(
            count=state.count + 1,
            error=error,
            status=status_of_problem(data, status),
            point=point,
            value=value,
            gradient=gradient,
            trial=new_trial,
            slope=product(gradient, move),
            stepsize=step,
            multipliers=multipliers,
            best=jnp.minimum(error, state.best),
            idle=idle,
            mark=state.mark,
        )

    return core.Solver(init, update)


def _forgotten(state, data, stale):
    """The state, on another problem without what it knew of the last."""
    return state._replace(
        status=anew(stale, as_status(Status.RUNNING), state.status),
        multipliers=anew(stale, 0, state.multipliers),
        best=anew(stale, jnp.inf, state.best),
        mark=data.mark,
    )


def _differ(one, other):
    return jnp.any(core.ravel(one)[0] != core.ravel(other)[0])


def _spread(gradient, data):
    """The largest difference within a row that counts, or within g: (), real."""
    within = lambda z: jnp.max(z, -1) - jnp.min(z, -1)
    rows = [
        jnp.max(jnp.where(w > 0, within(d), 0))
        for w, d in ((data.a, gradient.q), (data.b, gradient.r))
    ]
    largest = jnp.maximum(jnp.maximum(*rows), within(gradient.g))
    # Below rounding there is none: then any number will do.
    noise = 100 * float(jnp.finfo(largest.dtype).eps) * core.sup_norm(gradient)
    largest = jnp.maximum(largest, noise)
    return jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)


def _forbids(data):
    """Whether pairs are forbidden, which products would count as free: (), bool."""
    if not isinstance(data.geometry, DenseCost):
        return jnp.zeros((), bool)
    return jnp.any(data.geometry.cost == jnp.inf)
