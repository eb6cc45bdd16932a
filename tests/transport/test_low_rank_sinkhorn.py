"""Low-rank Sinkhorn: the papers' iterates, linear programs, what is promised of it."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, linprog

import jaxsolve
from jaxsolve import core, transport
from jaxsolve.core import Status
from jaxsolve.transport._factor_projection import project

N, M = 8, 6


def data(seed=0, epsilon=1.0):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(size=(N, 2)), rng.uniform(size=(M, 2))
    a, b = rng.uniform(0.5, 1.5, N), rng.uniform(0.5, 1.5, M)
    cloud = transport.PointCloud(x, y)
    return transport.TransportProblem(cloud, a / a.sum(), b / b.sum(), epsilon=epsilon)


def dykstra(k1, k2, k3, a, b, alpha, sweeps=4000):
    """Algorithm 2 of Scetbon, Cuturi and Peyré (2021), with its corrections."""
    v1, v2, q1, q2, q3a, q3b = (np.ones(k3.size) for _ in range(6))
    g = k3
    for _ in range(sweeps):
        u1, u2 = a / (k1 @ v1), b / (k2 @ v2)
        bounded = np.maximum(alpha, g * q3a)
        q3a, g = g * q3a / bounded, bounded
        one, two = k1.T @ u1, k2.T @ u2
        new = (g * q3b * (v1 * q1 * one) * (v2 * q2 * two)) ** (1 / 3)
        w1, w2 = new / one, new / two
        q1, q2, q3b = v1 * q1 / w1, v2 * q2 / w2, g * q3b / new
        v1, v2, g = w1, w2, new
    return u1[:, None] * k1 * v1, u2[:, None] * k2 * v2, g


def papers(problem, plan, steps, gamma, eps):
    """Mirror descent with Dykstra's projection.

    The norm of the stepsize is ours, and so is the implicit step in the entropy.
    """
    cost, a, b = (np.asarray(z) for z in (problem.geometry.cost, problem.a, problem.b))
    q, r, g = (np.asarray(z) for z in plan)
    seen = []
    for _ in range(steps):
        seen.append((q, r, g))
        plain = cost @ r / g, cost.T @ q / g, -np.diag(q.T @ cost @ r) / g**2
        full = [d + eps * np.log(z) for d, z in zip(plain, (q, r, g), strict=True)]
        step = gamma / (max(np.max(np.ptp(d, -1)) for d in full) + eps)
        kernels = [
            np.exp((np.log(z) - step * d) / (1 + step * eps))
            for d, z in zip(plain, (q, r, g), strict=True)
        ]
        q, r, g = dykstra(*kernels, a, b, 1e-10)
    return seen


@pytest.mark.parametrize("eps", [0.0, 0.05])
def test_first_iterates_are_the_papers(eps, x64):
    problem = data()
    start = transport.LowRankPlan.start(problem, 3, key=jax.random.key(0))
    solver = transport.low_rank_sinkhorn(epsilon=eps, stepsize=2.0, largest=2.0)
    run = jaxsolve.run(
        solver, start, problem, tol=0, max_steps=4, record=lambda plan, state: plan
    )
    for k, expected in enumerate(papers(problem, start, 4, 2.0, eps)):
        for got, wanted in zip(run.history, expected, strict=True):
            np.testing.assert_allclose(got[k], wanted, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("least", [1e-10, 0.2])
def test_projection_is_dykstras_also_where_the_bound_is_active(least, x64):
    rng = np.random.default_rng(1)
    logs = transport.LowRankPlan(
        *(2 * rng.normal(size=s) for s in ((N, 4), (M, 4), (4,)))
    )
    problem = data()
    a, b = np.asarray(problem.a), np.asarray(problem.b)
    got, _ = jax.jit(project)(logs, problem.a, problem.b, jnp.asarray(least))
    expected = dykstra(*(np.exp(z) for z in logs), a, b, least)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)
    assert (np.min(got.g) < 0.2 + 1e-9) == (least == 0.2 or np.min(got.g) < 0.2)


def test_ranks_bound_the_linear_program_from_above_and_full_rank_reaches_it(x64):
    problem = data()
    cost = np.asarray(problem.geometry.cost)
    sums = np.concatenate([np.kron(np.eye(N), np.ones(M)), np.tile(np.eye(M), N)])
    wanted = np.concatenate([problem.a, problem.b])
    least = linprog(cost.ravel(), A_eq=sums, b_eq=wanted).fun
    costs = []
    for rank in (1, 3, 6):
        start = transport.LowRankPlan.start(problem, rank, key=jax.random.key(3))
        out = jaxsolve.run(transport.low_rank_sinkhorn(), start, problem)
        assert out.converged
        costs.append(float(out.params.cost(problem.geometry)))
    np.testing.assert_allclose(costs[0], problem.a @ cost @ problem.b, rtol=1e-12)
    assert np.all(np.diff(costs) < 0) and costs[-1] >= least - 1e-12
    np.testing.assert_allclose(costs[-1], least, rtol=1e-6)


def test_every_iterate_is_feasible_and_none_costs_more_than_the_last(x64):
    problem = data(1)
    start = transport.LowRankPlan.start(problem, 3)
    keep = lambda plan, state: (plan, state.value)
    solver = transport.low_rank_sinkhorn()
    run = jaxsolve.run(solver, start, problem, tol=0, max_steps=40, record=keep)
    (q, r, g), values = run.history
    assert min(np.min(z) for z in (q, r, g)) >= 0
    for sums, wanted in (
        (q.sum(2), problem.a[None]),
        (r.sum(2), problem.b[None]),
        (q.sum(1), g),
        (r.sum(1), g),
    ):
        np.testing.assert_allclose(sums, np.broadcast_to(wanted, sums.shape), 1e-13)
    assert np.all(np.diff(values) <= 1e-14)
    plan = run.params
    np.testing.assert_allclose(plan.matrix().sum(1), problem.a, rtol=1e-12)
    np.testing.assert_allclose(plan.apply(jnp.eye(M)), plan.matrix(), rtol=1e-12)
    np.testing.assert_allclose(plan.apply(jnp.ones(N), 0), problem.b, rtol=1e-12)


def test_low_rank_converges_at_a_cost_that_is_a_number_and_positive():
    """Threads ott#83 and ott#428."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 40, 3)).astype(np.float32)
    cloud = transport.PointCloud(x, y + 2)
    square = np.asarray(cloud.matrix())
    least = square[linear_sum_assignment(square)].mean()
    problem = transport.TransportProblem(transport.low_rank(cloud), epsilon=1.0)
    start = transport.LowRankPlan.start(problem, 5)
    out = jaxsolve.run(transport.low_rank_sinkhorn(), start, problem)
    assert out.converged and least < out.params.cost(cloud) < 1.2 * least


@pytest.mark.parametrize("online", [False, True])
def test_no_array_is_of_the_size_of_the_cost(online):
    """Thread ott PR#70: memory is linear."""
    x, y = np.ones((40, 2), np.float32), np.ones((30, 2), np.float32)
    cloud = transport.PointCloud(x, y, block=8)
    geometry = cloud if online else transport.low_rank(cloud)
    problem = transport.TransportProblem(geometry, epsilon=1.0)
    solver = transport.low_rank_sinkhorn()
    start = transport.LowRankPlan.start(problem, 5)
    state = solver.init(start, problem)
    jaxpr = jax.make_jaxpr(solver.update)(start, state, problem)
    assert max(_sizes(jaxpr.jaxpr)) < 40 * 30


def _sizes(jaxpr):
    """The sizes of all that is computed."""
    for eqn in jaxpr.eqns:
        yield from (v.aval.size for v in eqn.outvars)
        for sub in jax.extend.core.jaxprs_in_params(eqn.params):
            yield from _sizes(sub)


@pytest.mark.parametrize("eps", [0.0, 0.02])
def test_value_has_the_derivative_of_central_differences(eps, x64):
    problem, rng = data(), np.random.default_rng(4)
    cost, a, b = problem.geometry.cost, problem.a, problem.b
    start = transport.LowRankPlan.start(problem, 3, key=jax.random.key(0))
    way = rng.normal(size=cost.shape)
    da, db = (w * (z - w @ z) for w, z in ((a, way[:, 0]), (b, way[0])))
    solver = transport.low_rank_sinkhorn(epsilon=eps)

    def value(t, max_steps=1000):
        moved = transport.TransportProblem(
            cost + t[0] * way, a + t[1] * da, b + t[2] * db, epsilon=1.0
        )
        rule = core.envelope()
        out = jaxsolve.run(
            solver, start, moved, tol=1e-11, max_steps=max_steps, derivative=rule
        )
        return transport.low_rank_value(out.params, moved, epsilon=eps)

    both = jax.jit(jax.vmap(jax.value_and_grad(value)))
    shifts = 1e-4 * np.concatenate([np.zeros((1, 3)), np.eye(3), -np.eye(3)])
    values, slopes = both(jnp.asarray(shifts))
    expected = (values[1:4] - values[4:]) / 2e-4
    np.testing.assert_allclose(slopes[0], expected, rtol=1e-5, atol=1e-7)
    starved = jax.grad(lambda t: value(t, 2))(jnp.zeros(3))
    assert not np.any(np.isfinite(starved))


def test_bad_arguments_are_refused():
    problem = data()
    for rank in (0, M + 1, 2.0):
        with pytest.raises(ValueError, match="rank"):
            transport.LowRankPlan.start(problem, rank)
    solver = transport.low_rank_sinkhorn()
    with pytest.raises(ValueError, match="LowRankPlan"):
        jaxsolve.run(solver, jnp.zeros(N), problem)
    wide = transport.LowRankPlan(jnp.ones((N, 7)), jnp.ones((M, 7)), jnp.ones(7))
    with pytest.raises(ValueError, match="rank"):
        jaxsolve.run(solver, wide, problem)
    start = transport.LowRankPlan.start(problem, 2)
    loose = transport.TransportProblem(problem.geometry, epsilon=1.0, tau_a=0.5)
    with pytest.raises(ValueError, match="balanced"):
        jaxsolve.run(solver, start, loose)
    for options in ({"epsilon": -1.0}, {"stepsize": 0.0}, {"least": 1.0}):
        with pytest.raises(ValueError, match="low_rank_sinkhorn needs"):
            transport.low_rank_sinkhorn(**options)
    third = transport.LowRankPlan.start(problem, 3)
    high, state = transport.low_rank_sinkhorn(least=0.5), solver.init(third, problem)
    for refused in (high.init, lambda *args: high.update(third, state, problem)):
        with pytest.raises(ValueError, match="less than 1 / r"):
            refused(third, problem)


def test_errors_are_not_negative_where_the_bound_is_active(x64):
    problem = data()
    start = transport.LowRankPlan.start(problem, 3)._replace(g=jnp.array([1.0, 0, 0]))
    run = jaxsolve.run(
        transport.low_rank_sinkhorn(least=0.33),
        start,
        problem,
        tol=0,
        max_steps=20,
        record=lambda plan, state: state.error,
    )
    assert np.all(run.history[: int(run.count)] >= 0)


def test_what_makes_no_sense_ends_with_a_status_and_zero_weights_are_fine():
    solver = transport.low_rank_sinkhorn()
    cost = jnp.asarray(data().geometry.cost)
    forbidden = transport.TransportProblem(cost.at[0, 0].set(jnp.inf), epsilon=1.0)
    start = transport.LowRankPlan.start(forbidden, 2)
    assert jaxsolve.run(solver, start, forbidden).status == Status.DIVERGED
    flat = transport.TransportProblem(jnp.full((N, M), 0.3), epsilon=1.0)
    assert jaxsolve.run(solver, start, flat).converged
    weights = jnp.full(N, 1 / (N - 1)).at[2].set(0.0)
    sparse = transport.TransportProblem(cost, weights, epsilon=1.0)
    out = jaxsolve.run(solver, transport.LowRankPlan.start(sparse, 2), sparse)
    assert out.converged and not np.any(out.params.q[2])
    nonsense = start._replace(q=-start.q, g=jnp.zeros(2))
    out = jaxsolve.run(solver, nonsense, sparse)
    np.testing.assert_allclose(out.params.matrix().sum(1), weights, atol=1e-6)
