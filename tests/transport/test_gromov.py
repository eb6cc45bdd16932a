"""Gromov-Wasserstein: the papers' iterates, isometries, derivatives, failures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

import jaxsolve
from jaxsolve import transport
from jaxsolve.core import Status

RNG = np.random.default_rng(0)
X, Y, Z = (
    RNG.normal(size=(7, 2)) * [1, 2],
    RNG.normal(size=(5, 3)),
    RNG.uniform(size=(7, 5)),
)
A, B = (w / w.sum() for w in (RNG.uniform(0.5, 1.5, 7), RNG.uniform(0.5, 1.5, 5)))
TURN = np.array([[0.6, -0.8], [0.8, 0.6]])


def distances(points):
    return np.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))


def small(epsilon=0.3, cross=Z, alpha=0.5):
    return transport.GromovProblem(
        distances(X), distances(Y), A, B, epsilon=epsilon, cross=cross, alpha=alpha
    )


def papers(problem, steps, proximal):
    """Peyré and others, (6) and (9), and Xu and others, (7), with Sinkhorn in logs."""
    x, y, cross = (
        np.asarray(g.cost)
        for g in (problem.geometry_x, problem.geometry_y, problem.cross)
    )
    alpha, eps = float(problem.alpha), float(problem.epsilon)
    plan, temperature, seen = np.outer(A, B), eps + proximal, []
    for _ in range(steps):
        seen.append(plan)
        tensor = sum(
            plan[k, j] * (x[:, k][:, None] - y[:, j][None]) ** 2
            for k in range(7)
            for j in range(5)
        )
        cost = (1 - alpha) * cross + 2 * alpha * tensor
        cost = cost - proximal * np.log(plan / np.outer(A, B))
        f = np.zeros(7)
        for _ in range(3000):
            g = -temperature * logsumexp(
                (f[:, None] - cost) / temperature, 0, b=A[:, None]
            )
            f = -temperature * logsumexp((g[None] - cost) / temperature, 1, b=B[None])
        plan = np.outer(A, B) * np.exp((f[:, None] + g[None] - cost) / temperature)
    return seen


@pytest.mark.parametrize("proximal", [0.0, 0.2])
def test_first_plans_are_the_papers(proximal, x64):
    solver = transport.gromov(transport.sinkhorn(), proximal=proximal, forcing=1e-9)
    run = jaxsolve.run(
        solver,
        jnp.zeros((7, 5)),
        small(),
        tol=0,
        max_steps=400,
        record=lambda plan, state: plan,
    )
    changed = np.any(np.diff(run.history, axis=0) != 0, axis=(1, 2))
    plans = [run.history[0], *run.history[1:][changed]]
    for got, expected in zip(plans, papers(small(), 4, proximal), strict=False):
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-12)
    assert len(plans) >= 4


@pytest.mark.parametrize("squared", [True, False])
def test_an_isometric_copy_in_another_order_is_recognised(squared, x64):
    order = RNG.permutation(7)
    copy = (X @ TURN)[order] + 5
    power = 2 if squared else 1
    problem = transport.GromovProblem(
        distances(X) ** power, distances(copy) ** power, epsilon=0.05
    )
    out = transport.gromov_wasserstein(problem)
    assert out.converged and abs(float(out.cost)) < 1e-3
    np.testing.assert_array_equal(out.plan().argmax(0), order)


def test_proximal_steps_alone_reach_the_unregularised_optimum(x64):
    problem = transport.GromovProblem(distances(X), distances(X @ TURN), epsilon=0.0)
    solver = transport.gromov(proximal=0.1)
    out = jaxsolve.run(solver, jnp.zeros((7, 7)), problem, max_steps=3000)
    assert out.converged and abs(float(problem.cost(out.params))) < 1e-6


def test_costs_do_not_change_when_a_space_is_moved(x64):
    cloud = lambda x: transport.PointCloud(x)
    cost = lambda x: (
        transport.gromov_wasserstein(
            transport.GromovProblem(cloud(x), cloud(jnp.asarray(Y)), A, B, epsilon=2.0)
        ).cost
    )
    np.testing.assert_allclose(cost(X), cost(X @ TURN - 3), rtol=1e-7)


def test_fused_without_weight_on_the_spaces_is_linear_transport(x64):
    out = transport.gromov_wasserstein(small(0.1, alpha=0.0), tol=1e-9)
    linear = transport.solve(Z, A, B, epsilon=0.1, tol=1e-10)
    np.testing.assert_allclose(out.plan(), linear.plan(), atol=1e-9)
    np.testing.assert_allclose(out.value, linear.dual_value, rtol=1e-9)


def test_costs_of_low_rank_give_the_same_linearisation(x64):
    clouds = transport.PointCloud(X), transport.PointCloud(Y)
    make = lambda x, y: transport.GromovProblem(x, y, A, B, epsilon=1.0)
    dense, thin = make(*clouds), make(*(transport.low_rank(c) for c in clouds))
    plan = np.outer(A, B) * (1 + 0.1 * np.outer(np.arange(7), [1, 0, 0, 0, -1.0]))
    for one, other in zip(dense.linearised(plan), thin.linearised(plan), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10)
    value, gradient = dense.linearised(plan)
    np.testing.assert_allclose(jax.grad(dense.cost)(jnp.asarray(plan)), gradient)
    full = (distances(X) ** 2)[:, None, :, None] - (distances(Y) ** 2)[None, :, None]
    np.testing.assert_allclose(np.einsum("ijkl,ij,kl", full**2, plan, plan), value)


@pytest.mark.parametrize("mass", [1.0, 5.0])
def test_unnormalised_marginals_converge_to_plans_that_have_them(mass, x64):
    """Threads ott#519 and moscot#691."""
    problem = transport.GromovProblem(
        distances(X), distances(Y), mass * A, mass * B, epsilon=0.5, cross=Z
    )
    out = transport.gromov_wasserstein(problem, tol=1e-7)
    assert out.converged and np.isfinite(out.cost)
    np.testing.assert_allclose(out.plan().sum(1), mass * A, rtol=1e-12)
    np.testing.assert_allclose(out.plan().sum(0), mass * B, rtol=1e-12)
    with pytest.raises(ValueError, match="masses differ"):
        transport.GromovProblem(distances(X), distances(Y), mass * A, 2 * mass * B)


def test_a_convex_cost_needs_proximal_steps_and_finds_them(x64):
    gram = X @ X.T
    problem = transport.GromovProblem(gram, -3 * (Y @ Y.T), A, B, epsilon=0.1)
    run = jaxsolve.run(
        transport.gromov(),
        jnp.zeros((7, 5)),
        problem,
        max_steps=4000,
        tol=1e-6,
        record=lambda plan, state: state.value,
    )
    values = run.history[: int(run.count)]
    assert run.converged and run.state.proximal > 0
    # Early linear problems are solved to a percent only, and values tell no more.
    late = values[len(values) // 2 :]
    assert np.all(np.diff(late) <= 1e-8 * np.abs(late[0]))
    assert values[-1] < values[0]


def test_damped_steps_are_not_taken_for_a_stationary_plan():
    solver, start = transport.gromov(proximal=1e4), jnp.zeros((7, 5))
    out = jaxsolve.run(solver, start, small(), max_steps=40)
    assert not out.converged and 5e-3 < out.state.error < np.inf
    assert np.abs(out.params - np.outer(A, B)).sum() < 1e-3
    still = transport.GromovProblem(jnp.ones((7, 7)), jnp.ones((5, 5)), A, B)
    assert jaxsolve.run(solver, start, still).converged


@pytest.mark.parametrize("size", [1, 4])
def test_spaces_that_cost_nothing_have_a_temperature_too(size):
    cloud = transport.PointCloud(jnp.full((size, 2), 3.7))
    for spaces in ((cloud, cloud), (jnp.full((size, size), 0.7),) * 2):
        out = transport.gromov_wasserstein(*spaces)
        assert out.converged and out.problem.epsilon == 1
        np.testing.assert_allclose(out.plan(), np.full((size, size), size**-2.0), 1e-6)
        np.testing.assert_allclose([out.cost, out.value], 0, atol=1e-6)


@pytest.mark.parametrize("max_steps", [1, 5000])
def test_value_is_the_objective_at_the_plan_converged_or_not(max_steps, x64):
    problem = transport.GromovProblem(
        distances(X), distances(Y), 5 * A, 5 * B, epsilon=0.5, cross=Z, alpha=0.6
    )
    out = transport.gromov_wasserstein(problem, max_steps=max_steps)
    assert out.converged == (max_steps > 1)
    plan, pairs = np.asarray(out.plan()), 25 * np.outer(A, B)
    gaps = distances(X)[:, None, :, None] - distances(Y)[None, :, None]
    cost = 0.4 * np.sum(Z * plan)
    cost = cost + 0.6 * np.einsum("ijkl,ij,kl", gaps**2, plan, plan)
    entropy = np.sum(plan * np.log(plan / pairs) - plan + pairs)
    np.testing.assert_allclose(out.value, cost + 0.5 * entropy, rtol=1e-9)


def test_derivatives_agree_with_central_differences(x64):
    rng = np.random.default_rng(1)
    ways = [rng.normal(size=z.shape) for z in (X[:4], Y[:3], Z[:4, :3])]
    weights = [w[:k] / w[:k].sum() for w, k in ((A, 4), (B, 3))]
    pairs = zip(weights, (ways[0][:, 0], ways[1][:, 0]), strict=True)
    turns = [w * (z - w @ z) for w, z in pairs]
    mark = rng.normal(size=(4, 3))

    @jax.jit
    @jax.vmap
    def slopes(t):
        def solved(t):
            spaces = (
                transport.PointCloud(jnp.asarray(z) + t * way)
                for z, way in zip((X[:4], Y[:3]), ways[:2], strict=True)
            )
            problem = transport.GromovProblem(
                *spaces,
                *(w + t * turn for w, turn in zip(weights, turns, strict=True)),
                epsilon=0.5 + 0.1 * t,
                cross=jnp.asarray(Z[:4, :3]) + t * ways[2],
                alpha=0.6 + 0.1 * t,
            )
            out = transport.gromov_wasserstein(problem, tol=1e-12)
            return jnp.stack([jnp.sum(mark * out.plan()), out.cost, out.value])

        return solved(t), jax.jacrev(solved)(t)

    values, reverse = slopes(jnp.array([0.0, 1e-4, -1e-4]))
    expected = (values[1] - values[2]) / 2e-4
    np.testing.assert_allclose(reverse[0], expected, rtol=1e-5, atol=1e-7)


def test_bad_arguments_are_refused():
    x, y = distances(X), distances(Y)
    wrong = (
        ((x[:, :5], y), {}, "geometry_x is the cost of a space"),
        ((np.triu(x), y), {}, "symmetric"),
        ((x, np.where(y == y.max(), np.nan, y)), {}, "finite"),
        ((x, y), {"cross": Z.T}, "cross"),
        ((x, y), {"cross": np.where(Z == Z.max(), np.inf, Z)}, "cross must be finite"),
        ((x, y), {"alpha": 0.5}, "alpha weighs"),
        ((x, y), {"cross": Z, "alpha": 1.5}, "alpha is in"),
        ((x, y), {"epsilon": -1.0}, "epsilon"),
        ((x, y, -A), {}, "weights"),
    )
    for args, options, match in wrong:
        with pytest.raises(ValueError, match=match):
            transport.GromovProblem(*args, **options)
    with pytest.raises(ValueError, match="params are a plan"):
        jaxsolve.run(transport.gromov(), jnp.zeros((5, 7)), small())
    for options in ({"proximal": -1.0}, {"forcing": 1.0}, {"patience": 0}):
        with pytest.raises(ValueError, match="gromov needs"):
            transport.gromov(**options)
    with pytest.raises(ValueError, match="solver of linear problems"):
        transport.gromov(3)
    with pytest.raises(ValueError, match="both spaces"):
        transport.gromov_wasserstein(x)


def test_without_temperature_or_proximal_weight_the_run_diverges_with_a_plan():
    out = jaxsolve.run(transport.gromov(), jnp.zeros((7, 5)), small(epsilon=0.0))
    assert out.status == Status.DIVERGED
    np.testing.assert_allclose(out.params, np.outer(A, B), atol=1e-6)
