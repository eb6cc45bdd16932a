"""Sinkhorn-Newton-Sparse: scaling first, then Newton steps on a sparse Hessian."""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.transport._derivative import potential_of, potential_rule, residual
from jaxsolve.transport._geometry import DenseCost
from jaxsolve.transport._problem import dot, status_of_problem
from jaxsolve.transport._products import bounded_exp
from jaxsolve.transport._states import anew, owned

SCALING, EVALUATING, SOLVING = 0, 1, 2


class Sparse(NamedTuple):
    """The Hessian's off-diagonal block: its largest entries."""

    values: chex.Array  # (K,), real.
    rows: chex.Array  # (K,), int32.
    columns: chex.Array  # (K,), int32.


class Pair(NamedTuple):
    """A vector over the rows and one over the columns."""

    rows: chex.Array  # (n,), real.
    columns: chex.Array  # (m,), real.


class SparseNewtonState(NamedTuple):
    """State of Sinkhorn-Newton-Sparse."""

    count: chex.Array  # (), int32: updates taken: sweeps, plans, or sparse products.
    error: chex.Array  # (), real: L1 error of both marginals at (params, g).
    status: chex.Array  # (), int32: running, stalled, diverged or infeasible.
    phase: chex.Array  # (), int32: 0 scaling, 1 evaluating a trial, 2 solving.
    sweeps: chex.Array  # (), int32: of scaling, so far.
    newton_steps: chex.Array  # (), int32: accepted so far.
    point: chex.Array  # (n,), real: params, raveled, in full precision.
    g: chex.Array  # (m,), real: the other potential, of masses near one.
    value: chex.Array  # (), real: the dual objective; -inf accepts any trial.
    gradient: Pair  # of the dual objective there.
    sums: Pair  # of the plan's rows and columns there.
    hessian: Sparse  # the plan's largest entries there.
    solution: Pair  # of the linear system, so far.
    residual: Pair  # of the linear system.
    conjugate: Pair  # the direction of conjugate gradients.
    size: chex.Array  # (), real: the residual's square in the preconditioner's norm.
    goal: chex.Array  # (), real: the size at which the linear solve ends.
    products: chex.Array  # (), int32: of this linear solve.
    direction: Pair  # of the search.
    slope: chex.Array  # (), real: of the objective along it.
    stepsize: chex.Array  # (), real: of the next trial.
    best: chex.Array  # (), real: the least error of an accepted step.
    idle: chex.Array  # (), int32: accepted steps since.
    mark: chex.Array  # (), real: of the problem that this is a state of.


@core.memoise
def sinkhorn_newton_sparse(
    *,
    sweeps: int = 20,
    sparsity: float = 5.0,
    max_products: int = 200,
    forcing: float = 1e-2,
    patience: int = 10,
) -> core.Solver:
    r"""Solves balanced entropic transport by few Newton steps on a sparse Hessian.

    Solves the `TransportProblem` that is the data, on a stored cost; params are the
    potential :math:`f`, (n,). First `sweeps` sweeps of Sinkhorn's algorithm in the log
    domain, after which the plan has few large entries. Then Newton's method on the
    concave dual objective of :math:`(f, g)`,

    .. math::

        D &= \langle a, f \rangle + \langle b, g \rangle - \epsilon \sum_{ij} P_{ij} \\
        \nabla D &= (a - P 1, \; b - P^\top 1) \\
        -\nabla^2 D &\approx \tfrac1\epsilon \begin{pmatrix} \mathrm{diag}(P 1) & S \\
            S^\top & \mathrm{diag}(P^\top 1) \end{pmatrix} + \kappa N N^\top

    where S keeps the K largest entries of P, while the diagonal keeps the sums of *all*
    of P (else the matrix may be singular and steps too long), and N = (1, -1) is the
    direction along which D is constant. The system is solved by conjugate gradients,
    preconditioned by the diagonal, one sparse product an update; then a backtracking
    search evaluates D, one plan an update.

    It is made for costs whose transport is nearly a permutation, at small temperatures.
    Where K entries do not connect rows and columns, as for :math:`\epsilon n` below a
    fifth of the spread of a random cost, the linear systems are near singular and it
    stalls; `newton_transport` takes the exact Hessian at the cost of dense products.
    A state given another problem begins there anew from its potential.

    Args:
        sweeps: of scaling, N1 of the paper: 20 for random costs and squared distances,
            700 for distances on a grid. Too few leave a Hessian that is not yet sparse.
        sparsity: K over the larger side: entries kept a row or column on average.
        max_products: of a linear solve.
        forcing: a linear solve ends when its residual has shrunk by this, or by the
            error where that is smaller.
        patience: accepted steps without a smaller error after which the run has
            stalled.

    Returns:
        A solver. Its error is the L1 norm of the gradient of D over the mass,
        :math:`\|P 1 - a\|_1 + \|P^\top 1 - b\|_1`, at (params, g) of the state;
        infinite while scaling. Its residual is that of `sinkhorn`.

    Raises:
        ValueError: if a number is out of its range; while tracing, if the problem is
            unbalanced or its cost is not stored.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import transport
        >>> cost = jax.random.uniform(jax.random.key(0), (50, 50))
        >>> problem = transport.TransportProblem(cost, epsilon=0.01)
        >>> solver = transport.sinkhorn_newton_sparse()
        >>> out = jaxsolve.run(solver, jnp.zeros(50), problem)
        >>> print(out.converged, int(out.state.newton_steps) < 20)
        True True

    References:
        Tang, Shavlovsky, Rahmanian, Tardini, Thekumparampil, Xiao and Ying,
        `Accelerating Sinkhorn Algorithm with Sparse Newton Iterations
        <https://arxiv.org/abs/2401.12253>`_, ICLR 2024. The paper's weight of the
        augmented potential and its settings of conjugate gradients are not known to us:
        here :math:`\kappa = 1 / (\epsilon n m)` in units of the mass.
    """
    whole = isinstance(sweeps, int) and sweeps >= 0 and max_products >= 1
    if not whole or not sparsity > 0 or not 0 < forcing < 1 or patience < 1:
        raise ValueError(
            "sinkhorn_newton_sparse needs integer sweeps >= 0, sparsity > 0, "
            "max_products >= 1, 0 < forcing < 1 and patience >= 1, got "
            f"{sweeps!r}, {sparsity!r}, {max_products!r}, {forcing!r}, {patience!r}."
        )

    def init(params, data):
        f, _ = potential_of(params, data)
        _check(data)
        f = jnp.where(jnp.isfinite(f), f, 0)
        n, m = data.shape
        zero, inf = jnp.zeros((), f.dtype), jnp.full((), jnp.inf, f.dtype)
        count = jnp.zeros((), jnp.int32)
        pair = Pair(jnp.zeros_like(f), jnp.zeros(m, f.dtype))
        kept = _kept(sparsity, n, m)
        where = jnp.zeros(kept, jnp.int32)
        state = SparseNewtonState(
            count=count,
            error=inf,
            status=as_status(Status.RUNNING),
            phase=jnp.asarray(SCALING if sweeps else EVALUATING, jnp.int32),
            sweeps=count,
            newton_steps=count,
            point=f,
            g=pair.columns,
            value=-inf,
            gradient=pair,
            sums=pair,
            hessian=Sparse(jnp.zeros(kept, f.dtype), where, where),
            solution=pair,
            residual=pair,
            conjugate=pair,
            size=zero,
            goal=zero,
            products=count,
            direction=pair,
            slope=zero,
            stepsize=jnp.ones_like(zero),
            best=inf,
            idle=count,
            mark=data.mark,
        )
        return owned(state)

    def update(params, state, data):
        f, unravel = potential_of(params, data, state.point)
        _check(data)
        data, _ = data.normalised()
        stale = data.mark != state.mark
        moved = jnp.any(f != state.point) | stale
        f = jnp.where(jnp.isfinite(f), f, state.point)
        # Changed from outside: scaled once, and gone on from. On another problem all is
        # begun anew.
        phase = jnp.where(moved, SCALING, state.phase)
        state = _forgotten(state, data, stale)._replace(point=f)

        def branch(wanted, advance, state):
            here = phase == wanted
            go = lambda: core.where(here, advance(data, state), state)
            return jax.lax.cond(core.any_lane(here), go, lambda: state)

        def scale(data, state):
            return _scaled(data, state, sweeps)

        def evaluate(data, state):
            return _evaluated(data, state, sparsity, forcing, patience)

        def solve(data, state):
            return _solved(data, state, max_products)

        new = branch(SCALING, scale, state)
        new = branch(EVALUATING, evaluate, new)
        new = branch(SOLVING, solve, new)
        status = status_of_problem(data, new.status)
        new = new._replace(count=state.count + 1, status=status)
        return unravel(new.point), new

    return core.Solver(init, update, residual, potential_rule())


def _check(data):
    if not data.balanced:
        raise ValueError(
            "sinkhorn_newton_sparse takes balanced problems only; newton_transport "
            "takes others."
        )
    if not isinstance(data.geometry, DenseCost):
        raise ValueError(
            "sinkhorn_newton_sparse looks for the largest entries of a plan, so the "
            "cost must be stored; newton_transport takes any geometry."
        )


def _forgotten(state, data, stale):
    """The state, on another problem without what it knew of the last."""
    return state._replace(
        error=anew(stale, jnp.inf, state.error),
        status=anew(stale, as_status(Status.RUNNING), state.status),
        sweeps=anew(stale, 0, state.sweeps),
        best=anew(stale, jnp.inf, state.best),
        idle=anew(stale, 0, state.idle),
        mark=data.mark,
    )


def _kept(sparsity, n, m):
    return min(n * m, math.ceil(sparsity * max(n, m)))


def _scaled(data, state, sweeps):
    """A sweep of Sinkhorn's algorithm in the log domain."""
    g = data.other(state.point)
    f = data.best(g)
    impossible = jnp.any((data.a > 0) & ~jnp.isfinite(f))
    impossible = impossible | jnp.any((data.b > 0) & ~jnp.isfinite(g))
    nan = jnp.any(jnp.isnan(f)) | jnp.any(jnp.isnan(g))
    status = jnp.where(impossible, as_status(Status.PRIMAL_INFEASIBLE), state.status)
    status = jnp.where(nan, as_status(Status.DIVERGED), status)
    f = jnp.where(jnp.isfinite(f), f, state.point)
    centre = data.centre(f)
    done = state.sweeps + 1 >= sweeps
    return state._replace(
        status=status,
        phase=jnp.where(done, EVALUATING, SCALING).astype(jnp.int32),
        sweeps=state.sweeps + 1,
        point=f - centre,
        g=jnp.where(jnp.isfinite(g), g, 0) + centre,
        value=jnp.full_like(state.value, -jnp.inf),
        direction=jax.tree.map(jnp.zeros_like, state.direction),
        stepsize=jnp.ones_like(state.stepsize),
    )


def _evaluated(data, state, sparsity, forcing, patience):
    """Evaluates the plan at a trial; accepts it, and begins a linear solve, or not."""
    a, b, epsilon = data.a, data.b, data.epsilon
    f = state.point + state.stepsize * state.direction.rows
    g = state.g + state.stepsize * state.direction.columns
    forbidden = data.geometry.cost == jnp.inf
    cost = jnp.where(forbidden, 0, data.geometry.cost)
    weight = a[:, None] * b[None, :]
    z = (f[:, None] + g[None, :] - cost) / epsilon
    plan = jnp.where(forbidden | (weight == 0), 0, weight * bounded_exp(z))
    sums = Pair(jnp.sum(plan, 1), jnp.sum(plan, 0))
    gradient = Pair(a - sums.rows, b - sums.columns)
    error = sum(jnp.sum(jnp.abs(x)) for x in gradient) / jnp.sum(b)
    value = dot(a, f) + dot(b, g) - epsilon * jnp.sum(sums.rows)

    eps = float(jnp.finfo(value.dtype).eps)
    size = dot(a, jnp.abs(f)) + dot(b, jnp.abs(g)) + epsilon * jnp.sum(b)
    change = value - state.value
    higher = change >= 1e-4 * state.stepsize * state.slope
    level = (change >= -10 * eps * size) & (error <= 2 * state.error)
    finite = jnp.isfinite(value) & jnp.isfinite(error)
    accepted = finite & (higher | level)

    first = ~jnp.isfinite(state.value)
    better = error < state.best
    idle = jnp.where(better, 0, state.idle + 1)
    scaled = _preconditioned(sums, gradient)
    square = _inner(gradient, scaled)
    share = jnp.minimum(forcing, error)
    values, where = jax.lax.top_k(plan.reshape(-1), state.hessian.values.size)
    m = plan.shape[1]
    hessian = Sparse(
        values, (where // m).astype(jnp.int32), (where % m).astype(jnp.int32)
    )
    stalled = idle >= patience
    go_on = state._replace(
        error=error,
        status=jnp.where(stalled, as_status(Status.STALLED), state.status),
        phase=jnp.full_like(state.phase, SOLVING),
        newton_steps=state.newton_steps + (~first).astype(jnp.int32),
        point=f,
        g=g,
        value=value,
        gradient=gradient,
        sums=sums,
        hessian=hessian,
        solution=jax.tree.map(jnp.zeros_like, gradient),
        residual=gradient,
        conjugate=scaled,
        size=square,
        goal=share**2 * square,
        products=jnp.zeros_like(state.products),
        best=jnp.minimum(error, state.best),
        idle=idle,
    )
    # A search that fails scales once more, which always ascends.
    failed = state.stepsize < 1e-6
    lost = failed & first
    back = state._replace(
        stepsize=0.5 * state.stepsize,
        phase=jnp.where(failed, SCALING, state.phase).astype(jnp.int32),
        status=jnp.where(lost, as_status(Status.STALLED), state.status),
    )
    return core.where(accepted, go_on, back)


def _solved(data, state, max_products):
    """One step of conjugate gradients on Newton's equation."""
    p, epsilon = state.conjugate, data.epsilon
    image = _product(state.sums, state.hessian, p, jnp.sum(data.b))
    curvature = _inner(p, image)
    convex = curvature > 0
    t = jnp.where(convex, state.size / jnp.where(convex, curvature, 1), 0)
    solution = jax.tree.map(lambda x, d: x + t * d, state.solution, p)
    left = jax.tree.map(lambda r, y: r - t * y, state.residual, image)
    scaled = _preconditioned(state.sums, left)
    size = _inner(left, scaled)
    there = state.size > 0
    turn = jnp.where(there, size / jnp.where(there, state.size, 1), 0)
    products = state.products + 1
    done = (size <= state.goal) | (products >= max_products) | ~convex
    step = jax.tree.map(lambda x: epsilon * x, solution)
    centre = data.centre(step.rows)
    step = Pair(step.rows - centre, step.columns + centre)
    return state._replace(
        phase=jnp.where(done, EVALUATING, SOLVING).astype(jnp.int32),
        solution=solution,
        residual=left,
        conjugate=jax.tree.map(lambda z, d: z + turn * d, scaled, p),
        size=size,
        products=products,
        direction=step,
        slope=_inner(state.gradient, step),
        stepsize=jnp.ones_like(state.stepsize),
    )


def _product(sums, hessian, v, mass):
    """The sparse Hessian, in units of the temperature, times a vector."""
    values, rows, columns = hessian
    n, m = sums.rows.size, sums.columns.size
    add = lambda x, at, size: jax.ops.segment_sum(x, at, num_segments=size)
    null = mass * (jnp.sum(v.rows) - jnp.sum(v.columns)) / (n * m)
    return Pair(
        sums.rows * v.rows + add(values * v.columns[columns], rows, n) + null,
        sums.columns * v.columns + add(values * v.rows[rows], columns, m) - null,
    )


def _preconditioned(sums, v):
    invert = lambda d, x: jnp.where(d > 0, x / jnp.where(d > 0, d, 1), 0)
    return jax.tree.map(invert, sums, v)


def _inner(u, v):
    return jnp.sum(u.rows * v.rows) + jnp.sum(u.columns * v.columns)
