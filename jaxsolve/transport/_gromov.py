"""Gromov-Wasserstein transport by linear problems, one after the other."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.transport import _derivative
from jaxsolve.transport._gromov_problem import GromovProblem
from jaxsolve.transport._matrices import rounded
from jaxsolve.transport._newton import newton_transport
from jaxsolve.transport._states import anew, owned


class GromovState(NamedTuple):
    """State of Gromov-Wasserstein transport."""

    count: chex.Array  # (), int32: updates taken, one of the linear solver's each.
    error: chex.Array  # (), real: relative L1 change by a linear problem, undamped.
    status: chex.Array  # (), int32: running, stalled, diverged or infeasible.
    point: chex.Array  # (n, m), real: params in full precision.
    value: chex.Array  # (), real: the objective there, entropy included.
    cost: chex.Array  # (n, m), real: of the linear problem.
    proximal: chex.Array  # (), real: lambda.
    goal: chex.Array  # (), real: the error at which the linear problem is solved.
    solved: chex.Array  # (), bool: whether it is.
    f: chex.Array  # (n,), real: its potential.
    potential: chex.Array  # (n,), real: of the linear problem whose plan is params.
    inner: Any  # the linear solver's state.
    best: chex.Array  # (), real: the least error so far.
    idle: chex.Array  # (), int32: linear problems since value or error last improved.
    mark: chex.Array  # (), real: of the problem that this is a state of.


@core.memoise
def gromov(
    solver: core.Solver | None = None,
    *,
    proximal: chex.Numeric = 0.0,
    forcing: float = 0.01,
    patience: int = 30,
) -> core.Solver:
    r"""Solves Gromov-Wasserstein transport by linearising it.

    Solves the `GromovProblem` that is the data, whose objective without entropy is
    :math:`E`. Params are the plan, (n, m), which is rounded to the right marginals
    first: zeros become the product of the weights. From P, with :math:`\lambda` the
    `proximal` weight, solves

    .. math::

        P^+ = \arg\min_{P'} \langle \nabla E(P), P' \rangle
        + \epsilon \, \mathrm{KL}(P' | a b^\top) + \lambda \, \mathrm{KL}(P' | P)

    over plans, which is a problem of entropic transport at the temperature
    :math:`\epsilon + \lambda`, with :math:`\nabla E(P) - \lambda \log(P / a b^\top)`
    for the cost. One update is one of the solver of such problems; when that has come
    down to `forcing` times the last change of the plan, the next update begins by
    linearising E anew. With :math:`\lambda = 0` this is the algorithm of Peyré, Cuturi
    and Solomon, who leave out the factor 2 of :math:`\nabla E`: their temperature is
    half of this one. With :math:`\epsilon = 0` it is that of Xu and others.

    A plan is accepted if it has lowered the objective, as far as marginals that are not
    quite right can tell; if not, :math:`\lambda` is doubled and P kept. (None is
    refused where X and Y are squared Euclidean distances: E is concave then.) The
    problem is not convex: what is found is a stationary point.
    The product of the weights may be one, in spaces that look the same from all of
    their points; then start elsewhere. A state given another problem begins there anew
    from its plan.

    Args:
        solver: of linear problems, whose params are the potential f; by default
            ``newton_transport()``, for any temperature. At high ones `sinkhorn`, or
            ``newton_transport(continuation=None)``, takes fewer updates.
        proximal: :math:`\lambda \ge 0`, in units of the cost.
        forcing: in (0, 1).
        patience: linear problems without progress after which the run has stalled.

    Returns:
        A solver. Its error is :math:`\|P^+ - P\|_1` over the mass, times :math:`1 +
        \lambda / (\epsilon + \max |\nabla E(P)|)`, by which a proximal step is shorter
        than one without, plus the error of the marginals of :math:`P^+`, at the last
        linear problem that was accepted; infinite before. Its residual is a pair,
        :math:`P - P^+` and that of the potential; so derivatives are implicit, with
        (n + 1) m unknowns at least: for small problems. Values have one by Danskin: see
        `gromov_wasserstein`. They need :math:`\epsilon > 0`.

    Raises:
        ValueError: if a number is out of its range, or `solver` is no solver.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import transport
        >>> x = jnp.array([[0.0], [1.0], [3.0], [7.0]])
        >>> X, Y = transport.PointCloud(x), transport.PointCloud(5 - x[::-1])
        >>> problem = transport.GromovProblem(X, Y, epsilon=1.0)
        >>> out = jaxsolve.run(transport.gromov(), jnp.zeros((4, 4)), problem)
        >>> print(out.params.argmax(1))
        [3 2 1 0]

    References:
        Peyré, Cuturi and Solomon, `Gromov-Wasserstein Averaging of Kernel and Distance
        Matrices <https://proceedings.mlr.press/v48/peyre16.html>`_, 2016. Vayer,
        Chapel, Flamary, Tavenard and Courty, `Optimal Transport for structured data
        with application on graphs <https://arxiv.org/abs/1805.09114>`_, 2019. Xu, Luo,
        Zha and Carin, `Gromov-Wasserstein Learning for Graph Matching and Node
        Embedding <https://arxiv.org/abs/1901.06003>`_, 2019, for the proximal step.
    """
    solver = newton_transport() if solver is None else solver
    if not isinstance(solver, core.Solver):
        raise ValueError(
            "gromov takes a solver of linear problems, such as transport.sinkhorn(), "
            f"got {core.describe(solver)}."
        )
    good = not core.is_concrete(proximal) or proximal >= 0
    if not (good and 0 < forcing < 1 and patience >= 1):
        raise ValueError(
            "gromov needs proximal >= 0, 0 < forcing < 1 and patience >= 1, got "
            f"{proximal}, {forcing} and {patience}."
        )

    def init(params, data):
        point, _ = _plan_of(params, data)
        point = _feasible(point, data)
        dtype = point.dtype
        inf, zero = jnp.full((), jnp.inf, dtype), jnp.zeros((), dtype)
        count, f = jnp.zeros((), jnp.int32), jnp.zeros(point.shape[0], dtype)
        weight = jnp.asarray(proximal, dtype)
        cost = jnp.zeros_like(point)
        state = GromovState(
            count=count,
            error=inf,
            status=as_status(Status.RUNNING),
            point=point,
            value=inf,
            cost=cost,
            proximal=weight,
            goal=zero,
            solved=jnp.ones((), bool),
            f=f,
            potential=f,
            inner=solver.init(f, data.linear(cost, jnp.ones((), dtype))),
            best=inf,
            idle=count,
            mark=data.mark,
        )
        return owned(state)

    def update(params, state, data):
        given, unravel = _plan_of(params, data, state.point)
        # On another problem all but the potential is begun anew.
        stale = data.mark != state.mark
        state = state._replace(
            status=anew(stale, as_status(Status.RUNNING), state.status),
            proximal=anew(
                stale, jnp.asarray(proximal, state.proximal.dtype), state.proximal
            ),
            best=anew(stale, jnp.inf, state.best),
            mark=data.mark,
        )
        fresh = jnp.any(given != state.point) | (state.count == 0) | stale
        due = state.solved | fresh

        def linearise():
            start = core.where(fresh, _feasible(given, data), state.point)
            old = state._replace(point=start)
            new = _judged(solver, data, old, fresh, forcing, patience)
            return core.where(due, new, state)

        state = jax.lax.cond(core.any_lane(due), linearise, lambda: state)
        problem = data.linear(state.cost, data.epsilon + state.proximal)
        f, inner = solver.update(state.f, state.inner, problem)
        own = getattr(inner, "status", as_status(Status.RUNNING))
        ended = own != Status.RUNNING
        failed = ended & (own != Status.STALLED) & (own != Status.CONVERGED)
        failed = failed & (state.status == Status.RUNNING)
        return unravel(state.point), state._replace(
            count=state.count + 1,
            status=jnp.where(failed, own, state.status),
            solved=(inner.error <= state.goal) | ended,
            f=f,
            inner=inner,
        )

    rule = core.implicit(further=lambda state: state.potential)
    return core.Solver(init, update, _residual, rule)


def _residual(unknowns, data):
    """What is zero at a plan and the potential of its linear problem."""
    params, f = unknowns
    plan, unravel = _plan_of(params, data)
    problem = data.linear(data.linearised(plan)[1], data.epsilon)
    return unravel(plan - problem.plan(f)), _derivative.residual(f, problem)


def _judged(solver, data, state, fresh, forcing, patience):
    """Linearises at the plan of a linear problem, or goes back to where that began."""
    temperature = data.epsilon + state.proximal
    found = data.linear(state.cost, temperature).plan(state.f)
    trial = jnp.where(fresh, state.point, _feasible(found, data))
    value, gradient = data.linearised(trial)
    value = value + data.epsilon * data.entropy(trial)

    dtype = value.dtype
    eps, mass = float(jnp.finfo(dtype).eps), jnp.sum(data.a)
    ratio = data.log_ratio
    before = state.cost + state.proximal * ratio(state.point)
    largest = lambda z: jnp.max(jnp.where(jnp.isfinite(z), jnp.abs(z), 0))
    size, slope = largest(state.cost), data.epsilon + largest(before)
    left = jnp.where(fresh, 0, state.inner.error)
    change = jnp.sum(jnp.abs(trial - state.point)) / mass
    damping = 1 + state.proximal / jnp.where(slope > 0, slope, 1)
    # Of marginals that are not yet right, a value tells no more than this.
    noise = mass * size * (left + 100 * eps)
    enough = 0.01 * temperature * mass * change**2 / 2
    numbers = jnp.where(jnp.isfinite(gradient) | (gradient == jnp.inf), 0, jnp.nan)
    finite = jnp.isfinite(value) & core.all_finite((trial, numbers))
    accepted = finite & (fresh | (value <= state.value - enough + noise))

    raised = jnp.maximum(2 * state.proximal, temperature)
    proximal = jnp.where(accepted | fresh, state.proximal, raised)
    point = jnp.where(accepted, trial, state.point)
    cost = jnp.where(accepted, gradient, before) - proximal * ratio(point)
    measured = accepted & ~fresh
    error = jnp.where(measured, damping * change + left, state.error)
    error = jnp.where(fresh, jnp.inf, error)
    floor = 10 * eps * (1 + size / temperature)
    goal = jnp.where(jnp.isfinite(error), error / damping, 1)
    goal = jnp.maximum(forcing * jnp.minimum(goal, 1), floor)

    better = (error < state.best) | (value < state.value - noise)
    idle = jnp.where(fresh | (accepted & better), 0, state.idle + 1)
    lost = fresh & ~finite
    status = jnp.where(idle >= patience, as_status(Status.STALLED), state.status)
    status = jnp.where(lost, as_status(Status.DIVERGED), status)
    cost = jnp.where(lost, 0, cost)
    problem = data.linear(cost, data.epsilon + proximal)
    return state._replace(
        error=error,
        status=status,
        point=point,
        value=jnp.where(accepted, value, state.value),
        potential=jnp.where(accepted & ~fresh, state.f, state.potential),
        cost=cost,
        proximal=proximal,
        goal=goal,
        inner=solver.init(state.f, problem),
        best=jnp.minimum(error, state.best),
        idle=idle,
    )


def _plan_of(params, data, point=None):
    """The plan that params are, checked, in the working dtype; and how to go back."""
    if not isinstance(data, GromovProblem):
        raise ValueError(
            "the data of gromov are a transport.GromovProblem, got "
            f"{core.describe(data)}."
        )
    if jnp.shape(params) != data.shape:
        raise ValueError(
            f"params are a plan {data.shape}, such as zeros, got shape "
            f"{jnp.shape(params)}."
        )
    if point is None:
        x, unravel = core.ravel(params)
    else:
        x, unravel = core.ravel_fine(params, jnp.ravel(point))
    plan = x.astype(data.geometry_x.dtype).reshape(data.shape)
    return plan, lambda plan: unravel(jnp.ravel(plan))


def _feasible(plan, data):
    """A plan with the right marginals, near one that need not have them."""
    plan = jnp.where(jnp.isfinite(plan) & (plan > 0), plan, 0)
    out = rounded(plan, data.a, data.b)
    return jnp.where(jnp.isfinite(out), out, 0)
