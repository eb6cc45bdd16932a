"""Newton's methods: against Sinkhorn's, their own rates, and the card's counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import transport
from jaxsolve.core import Status


def assignment(n=60, inverse=480.0, seed=0):
    cost = np.random.default_rng(seed).uniform(size=(n, n))
    return transport.TransportProblem(cost, epsilon=1 / inverse)


def cloud(n, m, epsilon, seed=0, **options):
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0.5, 1, n), rng.uniform(0.5, 1, m)
    points = transport.PointCloud(rng.uniform(size=(n, 2)), rng.uniform(size=(m, 2)))
    return transport.TransportProblem(
        points, a / a.sum(), b / b.sum(), epsilon=epsilon, **options
    )


@pytest.mark.parametrize(
    "solver", [transport.newton_transport(), transport.sinkhorn_newton_sparse()]
)
def test_plan_is_sinkhorns(solver, x64):
    problem = cloud(7, 9, 0.05)
    ours = jaxsolve.run(solver, jnp.zeros(7), problem, tol=1e-11)
    plain = jaxsolve.run(
        transport.sinkhorn(kernel=False), jnp.zeros(7), problem, tol=1e-11
    )
    assert ours.converged and plain.converged
    np.testing.assert_allclose(
        problem.plan(ours.params), problem.plan(plain.params), atol=1e-9
    )
    np.testing.assert_allclose(ours.params, plain.params, atol=1e-8)


def test_newtons_step_is_that_of_the_dense_hessian(x64):
    """The first search direction, against the formulas in NumPy."""
    problem = cloud(5, 6, 0.2)
    solver = transport.newton_transport(continuation=None, forcing=1e-10)
    params, state = jnp.zeros(5), solver.init(jnp.zeros(5), problem)
    update = jax.jit(solver.update)
    while not (jnp.any(state.direction != 0) and not state.solving):
        params, state = update(params, state, problem)
    swept = problem.best(problem.other(jnp.zeros(5)))  # a step of Sinkhorn's is first
    plan = np.asarray(problem.plan(swept))
    a, eps = np.asarray(problem.a), 0.2
    hessian = (np.diag(plan.sum(1)) - plan / plan.sum(0) @ plan.T) / eps
    newton = np.linalg.solve(hessian + np.outer(a, a), a - plan.sum(1))
    np.testing.assert_allclose(state.direction, newton - a @ newton, rtol=1e-6)


def test_error_is_squared_at_the_end(x64):
    problem = cloud(12, 10, 0.05)
    solver = transport.newton_transport(continuation=None)
    record = lambda f, state: state.error
    run = jaxsolve.run(
        solver, jnp.zeros(12), problem, tol=1e-14, max_steps=200, record=record
    )
    seen = np.unique(np.asarray(run.history)[: int(run.count)])[::-1]
    seen = seen[np.isfinite(seen) & (seen < 1e-2) & (seen > 1e-14)]
    assert len(seen) >= 2
    assert np.all(seen[1:] <= 30 * seen[:-1] ** 1.5)


@pytest.mark.parametrize("epsilon", [1e-2, 1e-3, 1e-4])
def test_newton_takes_few_products_at_every_temperature(epsilon, x64):
    problem = cloud(40, 50, epsilon, seed=3)
    out = jaxsolve.run(
        transport.newton_transport(), jnp.zeros(40), problem, tol=1e-10, max_steps=4000
    )
    assert out.converged
    plan = problem.plan(out.params)
    np.testing.assert_allclose(plan.sum(1), problem.a, atol=1e-9)
    np.testing.assert_allclose(plan.sum(0), problem.b, atol=1e-9)


@pytest.mark.parametrize("taus", [(0.9, 0.8), (1.0, 0.8), (0.8, 1.0)])
def test_newton_solves_unbalanced_problems_too(taus, x64):
    problem = cloud(6, 8, 0.02, tau_a=taus[0], tau_b=taus[1])
    out = jaxsolve.run(transport.newton_transport(), jnp.zeros(6), problem, tol=1e-11)
    plain = jaxsolve.run(
        transport.sinkhorn(), jnp.zeros(6), problem, tol=1e-11, max_steps=5000
    )
    assert out.converged and plain.converged
    np.testing.assert_allclose(out.params, plain.params, atol=1e-8)


def test_sparse_newton_counts_are_the_cards(x64):
    problem = assignment(200, 480.0)
    out = jaxsolve.run(
        transport.sinkhorn_newton_sparse(), jnp.zeros(200), problem, tol=1e-12
    )
    assert out.converged and out.state.newton_steps <= 15
    plain = jaxsolve.run(
        transport.sinkhorn(), jnp.zeros(200), problem, tol=1e-10, max_steps=4000
    )
    assert plain.converged
    assert plain.count >= 30 * (20 + out.state.newton_steps)


def test_sparse_newton_never_lowers_the_dual_value(x64):
    problem = assignment(20, 30.0)
    keep = lambda f, s: (s.value, s.point, s.g, s.phase)
    run = jaxsolve.run(
        transport.sinkhorn_newton_sparse(sweeps=5, sparsity=3.0),
        jnp.zeros(20),
        problem,
        tol=1e-9,
        max_steps=400,
        record=keep,
    )
    assert run.converged
    values = np.asarray(run.history[0])[: int(run.count)]
    values = values[np.isfinite(values)]
    assert np.all(np.diff(values) >= -1e-13)


def test_sparse_newton_keeps_the_full_sums_on_its_diagonal(x64):
    """With one entry a row kept the steps are shorter, but still lead there."""
    problem = assignment(15, 20.0)
    out = jaxsolve.run(
        transport.sinkhorn_newton_sparse(sparsity=1.0, patience=100),
        jnp.zeros(15),
        problem,
        tol=1e-9,
        max_steps=4000,
    )
    assert out.converged


def test_sparse_newton_refuses_what_it_cannot_do():
    rows = jnp.ones((4, 2))
    cloud = transport.PointCloud(rows, block=2)
    online = transport.TransportProblem(cloud, epsilon=0.1)
    with pytest.raises(ValueError, match="stored"):
        jaxsolve.run(transport.sinkhorn_newton_sparse(), jnp.zeros(4), online)
    loose = transport.TransportProblem(jnp.eye(4), epsilon=0.1, tau_a=0.9)
    with pytest.raises(ValueError, match="balanced"):
        jaxsolve.run(transport.sinkhorn_newton_sparse(), jnp.zeros(4), loose)


def test_online_geometries_take_the_same_steps(x64):
    rng = np.random.default_rng(5)
    x, y = rng.uniform(size=(9, 2)), rng.uniform(size=(11, 2))

    def found(block):
        cloud = transport.PointCloud(x, y, block=block)
        problem = transport.TransportProblem(cloud, epsilon=0.01)
        return jaxsolve.run(
            transport.newton_transport(), jnp.zeros(9), problem, tol=1e-9
        )

    stored, online = found(None), found(4)
    assert online.converged and online.count == stored.count
    np.testing.assert_allclose(online.params, stored.params, atol=1e-9)


def test_params_changed_from_outside_are_gone_on_from(x64):
    problem = cloud(6, 5, 0.05)
    for solver in (transport.newton_transport(), transport.sinkhorn_newton_sparse()):
        params, state = jnp.zeros(6), solver.init(jnp.zeros(6), problem)
        update = jax.jit(solver.update)
        for k in range(200):
            params, state = update(params, state, problem)
            if k == 7:
                params = params + 0.3 * jnp.arange(6.0)
            if state.error <= 1e-10:
                break
        assert state.error <= 1e-10
        plan = problem.plan(params)
        np.testing.assert_allclose(plan.sum(1), problem.a, atol=1e-9)


def test_identical_points_and_one_point_are_solved():
    same = transport.solve(transport.PointCloud(jnp.ones((4, 2))), epsilon=0.1)
    np.testing.assert_allclose(same.plan(), jnp.full((4, 4), 1 / 16), rtol=1e-5)
    one = transport.solve(transport.PointCloud(jnp.ones((1, 2))), epsilon=0.1)
    assert one.converged
    np.testing.assert_allclose(one.plan(), [[1.0]], rtol=1e-6)


@pytest.mark.parametrize("factory", ["newton_transport", "sinkhorn_newton_sparse"])
def test_options_out_of_range_are_refused(factory):
    for options in ({"forcing": 1.0}, {"max_products": 0}, {"patience": 0}):
        with pytest.raises(ValueError, match="needs"):
            getattr(transport, factory)(**options)


def test_nan_costs_end_as_diverged_and_spare_the_neighbours():
    costs = jnp.stack([jnp.eye(3), jnp.full((3, 3), jnp.nan), 1 - jnp.eye(3)])

    def run(cost):
        problem = transport.TransportProblem(cost, epsilon=0.3)
        return jaxsolve.run(transport.newton_transport(), jnp.zeros(3), problem)

    out = jax.vmap(run)(costs)
    expected = [Status.CONVERGED, Status.DIVERGED, Status.CONVERGED]
    assert list(out.status) == expected
    assert bool(jnp.all(jnp.isfinite(out.params)))


@pytest.mark.parametrize(
    "solver",
    [transport.newton_transport(), transport.sinkhorn()],
    ids=["newton", "sinkhorn"],
)
def test_a_state_given_another_problem_finds_its_solution(x64, solver):
    rng = np.random.default_rng(3)
    cost, other = rng.uniform(size=(2, 9, 7))
    one = transport.TransportProblem(jnp.asarray(cost), epsilon=0.05)
    saved = jaxsolve.run(solver, jnp.zeros(9), one, max_steps=3000)
    for epsilon in (0.05, 0.2, 0.02):  # as hot, hotter, colder
        two = transport.TransportProblem(jnp.asarray(other), epsilon=epsilon)
        out = jaxsolve.run(
            solver, saved.params, two, state=saved.state, max_steps=3000, tol=1e-9
        )
        fresh = jaxsolve.run(solver, jnp.zeros(9), two, max_steps=3000, tol=1e-9)
        assert out.converged
        np.testing.assert_allclose(out.params, fresh.params, atol=1e-8)
