"""Sinkhorn's algorithm: first iterates, rates of the literature, what it cannot do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.special import logsumexp

import jaxsolve
from jaxsolve import fixed_point, transport
from jaxsolve.core import Status


def points(n=60, epsilon=0.01, seed=0):
    """Uniform points of the unit square with squared distances."""
    rng = np.random.default_rng(seed)
    cloud = transport.PointCloud(rng.uniform(size=(n, 2)), rng.uniform(size=(n, 2)))
    return transport.TransportProblem(cloud, epsilon=epsilon)


def small(tau_a=1.0, tau_b=1.0, epsilon=0.2):
    rng = np.random.default_rng(1)
    a, b = rng.uniform(0.5, 1, 4), rng.uniform(0.5, 1, 6)
    a[1] = 0
    cost = rng.uniform(size=(4, 6))
    cost[0, 2] = np.inf
    return transport.TransportProblem(
        cost, a / a.sum(), b / b.sum(), epsilon=epsilon, tau_a=tau_a, tau_b=tau_b
    )


def transcribed(problem, steps, omega=1.0):
    """The card's formulas: potentials f after every sweep."""
    cost, a, b = map(np.asarray, (problem.geometry.cost, problem.a, problem.b))
    eps = float(problem.epsilon)
    rho_a, rho_b = problem.rho_a, problem.rho_b
    tau = lambda rho: 1.0 if rho is None else float(rho / (rho + eps))
    f, g, seen = np.zeros(a.size), None, []
    for _ in range(steps):
        new = -tau(rho_b) * eps * logsumexp((f[:, None] - cost) / eps, 0, b=a[:, None])
        g = new if g is None else g + omega * (new - g)
        new = -tau(rho_a) * eps * logsumexp((g[None] - cost) / eps, 1, b=b[None])
        f = f + omega * (new - f)
        if rho_a is not None and rho_b is not None:
            lse = lambda w, h, rho: logsumexp(-h / float(rho), b=w)
            s = float(rho_a * rho_b / (rho_a + rho_b))
            s = s * (lse(a, f, rho_a) - lse(b, g, rho_b))
            f, g = f + s, g - s
        if rho_a is None and rho_b is None:
            f, g = f - a @ f / a.sum(), g + a @ f / a.sum()
        seen.append(f)
    return np.stack(seen)


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize(
    ("taus", "omega"),
    [((1, 1), 1.0), ((1, 1), 1.4), ((0.9, 0.7), 1.0), ((1, 0.7), 1.0)],
)
def test_first_iterates_are_those_of_the_formulas(kernel, taus, omega, x64):
    problem = small(*taus)
    solver = transport.sinkhorn(kernel=kernel, relaxation=omega)
    run = jaxsolve.run(
        solver, jnp.zeros(4), problem, tol=0, max_steps=6, record=lambda f, state: f
    )
    expected = transcribed(problem, 6, omega)
    np.testing.assert_allclose(run.history, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({}, (78, 371)),
        ({"relaxation": 1.5}, (30, 121)),
        ({"relaxation": "adaptive", "start": 50}, (62, 107)),
    ],
)
def test_sweeps_are_as_many_as_the_card_counted(options, counts, x64):
    solver = transport.sinkhorn(**options)
    for epsilon, expected in zip((0.05, 0.01), counts, strict=True):
        problem = points(epsilon=epsilon)
        out = jaxsolve.run(solver, jnp.zeros(60), problem, tol=1e-9, max_steps=500)
        assert out.converged and abs(int(out.count) - expected) <= 0.1 * expected


def test_errors_contract_and_the_dual_value_never_falls(x64):
    problem = points(20, 0.05)
    run = jaxsolve.run(
        transport.sinkhorn(),
        jnp.zeros(20),
        problem,
        tol=1e-12,
        max_steps=60,
        record=lambda f, state: (f, state.error),
    )
    fs, errors = jax.tree.map(lambda x: x[: int(run.count)], run.history)
    values = jax.vmap(problem.dual_value)(fs)
    assert np.all(np.diff(values) >= -1e-14) and np.all(np.diff(errors) <= 1e-14)
    span = np.ptp(np.asarray(problem.geometry.cost))
    rate = np.tanh(span / (2 * 0.05)) ** 2
    assert errors[-1] <= errors[0] * rate ** (len(errors) - 1)


def test_a_plan_of_one_pair_and_of_two_are_those_found_by_hand(x64):
    one = transport.solve(jnp.array([[3.0]]), epsilon=0.1)
    np.testing.assert_allclose(one.plan(), [[1.0]], rtol=1e-12)
    cost, eps = jnp.array([[0.0, 1.0], [1.0, 0.0]]), 0.5
    two = transport.solve(cost, epsilon=eps, tol=1e-12)
    stay = 1 / (1 + np.exp(-1 / eps)) / 2
    np.testing.assert_allclose(two.plan(), [[stay, 0.5 - stay], [0.5 - stay, stay]])


def test_cost_is_above_that_of_the_linear_program_by_the_entropy_at_most(x64):
    rng = np.random.default_rng(2)
    cost, n = rng.uniform(size=(6, 6)), 6
    sums = np.concatenate([np.kron(np.eye(n), np.ones(n)), np.tile(np.eye(n), n)])
    least = linprog(cost.ravel(), A_eq=sums, b_eq=np.full(2 * n, 1 / n)).fun
    for epsilon in (0.1, 0.01):
        gap = transport.solve(cost, epsilon=epsilon, tol=1e-10).cost - least
        assert -1e-9 <= gap <= epsilon * np.log(n)


def test_a_common_translation_changes_no_plan(x64):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(5, 2)), rng.normal(size=(7, 2))
    plan = lambda s: transport.solve(
        transport.PointCloud(x, y + s), epsilon=0.3, tol=1e-11
    ).plan()
    np.testing.assert_allclose(plan(0.0), plan(2.0), rtol=1e-7)


@pytest.mark.parametrize("solver", [transport.sinkhorn(), transport.newton_transport()])
def test_unbalanced_values_of_primal_and_dual_meet(solver, x64):
    problem = small(0.9, 0.7)
    out = jaxsolve.run(solver, jnp.zeros(4), problem, tol=1e-12)
    assert out.converged
    plan = np.asarray(problem.plan(out.params))
    a, b, eps = np.asarray(problem.a), np.asarray(problem.b), float(problem.epsilon)

    def divergence(p, q):
        there = q > 0
        p, q = p[there], q[there]
        return np.sum(p * np.log(np.where(p > 0, p, 1) / q) - p + q)

    legal = np.isfinite(np.asarray(problem.geometry.cost))
    entropy = divergence(plan[legal], np.outer(a, b)[legal])
    entropy += np.sum(np.outer(a, b)[~legal])
    primal = np.sum(plan * np.where(legal, problem.geometry.cost, 0))
    primal += eps * entropy + float(problem.rho_a) * divergence(plan.sum(1), a)
    primal += float(problem.rho_b) * divergence(plan.sum(0), b)
    np.testing.assert_allclose(problem.dual_value(out.params), primal, rtol=1e-10)
    rows = plan.sum(1)
    np.testing.assert_allclose(rows, problem.wanted_rows(out.params), rtol=1e-9)


def test_the_shift_makes_high_prices_cheap(x64):
    rng = np.random.default_rng(4)
    cloud = transport.PointCloud(rng.uniform(size=(20, 2)), rng.uniform(size=(15, 2)))
    problem = transport.TransportProblem(cloud, epsilon=0.2, tau_a=0.98, tau_b=0.98)
    count = lambda **options: (
        jaxsolve.run(
            transport.sinkhorn(**options),
            jnp.zeros(20),
            problem,
            tol=1e-9,
            max_steps=900,
        ).count
    )
    assert 10 * count() < count(recentre=False)


def test_tau_near_one_is_balanced_and_near_zero_a_kernel(x64):
    cost = np.array([[0.0, 1.0], [0.7, 0.2]])
    near = transport.solve(cost, epsilon=0.3, tau_a=1 - 1e-9, tau_b=1 - 1e-9, tol=1e-9)
    plan = transport.solve(cost, epsilon=0.3, tol=1e-9).plan()
    np.testing.assert_allclose(near.plan(), plan, rtol=1e-6)
    free = transport.solve(cost, epsilon=0.3, tau_a=1e-9, tau_b=1e-9, tol=1e-9).plan()
    np.testing.assert_allclose(free, np.exp(-cost / 0.3) / 4, rtol=1e-6)


def test_a_small_temperature_needs_no_larger_range_on_a_kernel():
    problem = jax.tree.map(lambda x: x.astype(jnp.float32), points(30, 2e-3))
    out = jaxsolve.run(
        transport.sinkhorn(continuation=transport.Continuation()),
        jnp.zeros(30),
        problem,
        tol=1e-3,
        max_steps=5000,
    )
    assert out.converged and bool(jnp.all(jnp.isfinite(out.params)))


def test_a_temperature_below_the_precision_stalls_instead_of_running_on():
    problem = jax.tree.map(lambda x: x.astype(jnp.float32), points(30, 1e-7))
    for solver in (transport.sinkhorn(), transport.newton_transport()):
        out = jaxsolve.run(solver, jnp.zeros(30), problem, max_steps=20_000)
        assert out.status in (Status.STALLED, Status.CONVERGED)
        assert out.count < 20_000 and bool(jnp.all(jnp.isfinite(out.params)))


def test_forbidden_pairs_that_leave_a_row_without_partner_are_infeasible():
    cost = jnp.array([[jnp.inf, jnp.inf], [0.0, 1.0]])
    problem = transport.TransportProblem(cost, epsilon=0.5)
    for solver in (
        transport.sinkhorn(),
        transport.sinkhorn(kernel=False),
        transport.newton_transport(),
        transport.sinkhorn_newton_sparse(),
    ):
        out = jaxsolve.run(solver, jnp.zeros(2), problem)
        assert out.status == Status.PRIMAL_INFEASIBLE
        assert bool(jnp.all(jnp.isfinite(out.params)))


def test_forbidden_pairs_that_leave_too_little_room_never_converge():
    # Rows 0 and 1 must share column 0, which has room for one of them.
    cost = jnp.array(
        [[0.0, jnp.inf, jnp.inf], [0.0, jnp.inf, jnp.inf], [0.0, 1.0, 1.0]]
    )
    problem = transport.TransportProblem(cost, epsilon=0.5)
    for solver in (transport.sinkhorn(), transport.newton_transport()):
        out = jaxsolve.run(solver, jnp.zeros(3), problem, max_steps=3000)
        assert not out.converged and bool(jnp.all(jnp.isfinite(out.params)))


def test_a_kernel_of_another_problem_is_not_used_again(x64):
    solver = transport.sinkhorn()
    problem = points(10, 0.1)
    params, state = jnp.zeros(10), solver.init(jnp.zeros(10), problem)
    params, state = solver.update(params, state, problem)
    other = points(10, 0.1, seed=5)
    fresh = jaxsolve.run(solver, params, other, tol=1e-9)
    assert fresh.converged
    error = jnp.abs(other.plan(fresh.params).sum(1) - other.a).sum()
    assert error < 1e-8


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"relaxation": 2.0}, "relaxation"),
        ({"start": 1}, "start"),
        ({"radius": 0.0}, "radius"),
        ({"continuation": 0.5}, "continuation"),
        ({"continuation": transport.Continuation(decay=1.0)}, "decay"),
    ],
)
def test_options_out_of_range_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        transport.sinkhorn(**options)


def test_known_weights_and_traced_prices_may_meet_inside_of_jit():
    cost, a, b = jnp.ones((4, 4)), jnp.ones(4) / 4, jnp.ones(4) / 2

    @jax.jit
    def made(epsilon, tau):
        problem = transport.TransportProblem(cost, a, a, epsilon=epsilon, tau_a=tau)
        return problem.best(problem.other(jnp.zeros(4)))

    np.testing.assert_allclose(made(0.1, 1.0), jnp.zeros(4), atol=1e-6)
    with pytest.raises(ValueError, match="masses differ"):
        jax.jit(lambda e: transport.TransportProblem(cost, a, b, epsilon=e).a)(0.1)


def test_anderson_takes_no_more_sweeps_than_the_card(x64):
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.uniform(size=(60, 2))) for _ in range(2))
    fast = fixed_point.accelerate(transport.sinkhorn())
    for epsilon, sweeps in ((0.05, 24), (0.01, 81)):  # plain: 78 and 370
        problem = transport.TransportProblem(
            transport.PointCloud(x, y), epsilon=epsilon
        )
        out = jaxsolve.run(fast, jnp.zeros(60), problem, tol=1e-9)
        assert out.converged and out.count <= sweeps
