"""Where plans are sharp, weights uneven, and precision is single."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

import jaxsolve
from jaxsolve import transport
from jaxsolve.core import Status


def row_error(cost, a, b, f, epsilon):
    """The L1 error of the rows at f and the best g, in NumPy and float64."""
    cost, a, b, f = (np.asarray(z, np.float64) for z in (cost, a, b, f))
    z = (f[:, None] - cost) / epsilon + np.log(a)[:, None]
    g = -epsilon * logsumexp(z, axis=0)
    return np.abs(np.exp(z + g / epsilon).dot(b) - a).sum()


@pytest.mark.parametrize("way", ["door", "cold"])
def test_what_converged_in_single_precision_is_a_plan(way):
    # Weights from 1e-30 to 1: kernels lose entries that matter later on.
    rng = np.random.default_rng(0)
    cold = transport.newton_transport(continuation=None)

    @jax.jit
    def solved(cost, a, b, epsilon):
        if way == "door":
            out = transport.solve(cost, a, b, epsilon=epsilon)
            return out.f, out.status
        problem = transport.TransportProblem(cost, a, b, epsilon=epsilon)
        out = jaxsolve.run(cold, jnp.zeros(8), problem, max_steps=2000)
        return out.params, out.status

    found = 0
    for k in range(100):
        cost = rng.random((8, 8)).astype(np.float32)
        power = (2, 6, 15)[k // 4 % 3]
        a = rng.random(8) ** power + (1e-30 if k % 3 == 0 else 1e-6)
        b = rng.random(8) ** power + 1e-6
        a, b = (np.asarray(w / w.sum(), np.float32) for w in (a, b))
        for epsilon in (1e-2, 1e-3):
            f, status = solved(cost, a, b, np.float32(epsilon))
            assert status in (Status.CONVERGED, Status.STALLED)
            if status == Status.CONVERGED:
                found += 1
                assert row_error(cost, a, b, f, epsilon) <= 1e-2
    assert found >= (195 if way == "door" else 100)


def test_layers_are_plans_with_derivatives_at_every_temperature():
    rng = np.random.default_rng(0)
    scores = jnp.asarray(rng.normal(size=(30, 4, 4)), jnp.float32)
    probe = jnp.asarray(rng.normal(size=(4, 4)), jnp.float32)

    @jax.jit
    def layer(scores, epsilon):
        one = lambda s: transport.sinkhorn_layer(s, epsilon=epsilon)
        slope = jax.grad(lambda s: jnp.sum(probe * one(s)))
        return jax.vmap(one)(scores), jax.vmap(slope)(scores)

    for epsilon in (0.1, 0.03, 0.01, 0.003, 0.001):
        plans, slopes = layer(scores, epsilon)
        np.testing.assert_allclose(plans.sum(1), 1, atol=1e-2)
        np.testing.assert_allclose(plans.sum(2), 1, atol=1e-2)
        assert np.all(np.isfinite(slopes))


def test_sharp_plans_have_derivatives(x64):
    # Near a permutation the parts of a plan hardly know of one another.
    cost = jax.jit(lambda cost, e: transport.solve(cost, epsilon=e, tol=3e-12).cost)
    slope = jax.jit(jax.grad(cost))
    rng = np.random.default_rng(0)
    for epsilon in (1e-2, 3e-3, 1e-3, 1e-4):
        matrix, step = (jnp.asarray(rng.random((5, 5))) for _ in range(2))
        ends = [cost(matrix + h * step, epsilon) for h in (1e-6, -1e-6)]
        found = jnp.sum(slope(matrix, epsilon) * step)
        np.testing.assert_allclose(found, (ends[0] - ends[1]) / 2e-6, rtol=1e-5)


@pytest.mark.parametrize("what", ["dual_value", "cost"])
def test_weights_of_zero_have_one_sided_derivatives(x64, what):
    cost = jnp.asarray(np.random.default_rng(3).random((4, 3)))
    b = jnp.array([0.5, 0.3, 0.2])

    @jax.jit
    def value(a):
        return getattr(transport.solve(cost, a, b, epsilon=0.2, tol=1e-12), what)

    a, step = jnp.array([0.4, 0.0, 0.3, 0.3]), 1e-6 * jnp.array([-1.0, 1, 0, 0])
    ahead = (4 * value(a + step) - 3 * value(a) - value(a + 2 * step)) / 2e-6
    slope = jax.jit(jax.grad(value))(a)
    np.testing.assert_allclose(slope[1] - slope[0], ahead, rtol=1e-5)


def test_second_derivatives_are_finite_with_weights_of_zero(x64):
    cost = jnp.asarray(np.random.default_rng(3).random((4, 3)))
    a = jnp.array([0.4, 0.0, 0.3, 0.3])
    value = lambda c: transport.solve(c, a, epsilon=0.2, tol=1e-12).cost
    assert np.all(np.isfinite(jax.jit(jax.jacfwd(jax.grad(value)))(cost)))


def test_much_mass_may_be_created_at_a_high_price(x64):
    cost = jnp.asarray(np.random.default_rng(3).random((4, 3)))
    a, b, tau = jnp.full(4, 0.25), jnp.full(3, 2 / 3), 1 - 1e-6
    for prices in ({"tau_a": tau, "tau_b": tau}, {"tau_a": tau}, {"tau_b": tau}):
        out = transport.solve(cost, a, b, epsilon=0.1, **prices)
        assert out.converged and out.count < 100


def test_marks_of_problems_tell_them_apart():
    w, v = jnp.array([0.3, 0.7]), jnp.array([0.6, 0.4])
    cost = jnp.array([[0.0, 1.0], [1.0, 0.0]])
    make = lambda *data, epsilon=0.1: transport.TransportProblem(*data, epsilon=epsilon)
    marks = [
        make(cost, w, v),
        make(1 - cost, w, v),
        make(cost, v, w),
        make(cost, w, v, epsilon=0.2),
        make(cost.at[0, 0].set(1e-7), w, v),
    ]
    assert len({float(p.mark) for p in marks}) == len(marks)


def test_a_batch_of_solutions_says_how_to_ask_it(x64):
    costs = jnp.asarray(np.random.default_rng(0).random((4, 4, 4)))
    batch = jax.vmap(lambda c: transport.solve(c, epsilon=0.1))(costs)
    for what in ("cost", "dual_value", "g", "marginal_error"):
        with pytest.raises(ValueError, match="vmap"):
            getattr(batch, what)
    found = jax.vmap(lambda s: s.cost)(batch)
    np.testing.assert_allclose(found[2], transport.solve(costs[2], epsilon=0.1).cost)


def test_a_start_near_the_solution_saves_the_schedule(x64):
    cost = jnp.asarray(np.random.default_rng(0).random((20, 20)))
    cold = transport.solve(cost, epsilon=1e-3)
    warm = transport.solve(cost + 1e-5, epsilon=1e-3, start=cold.f)
    assert warm.converged and warm.count <= 5 < cold.count


def test_quantiles_at_the_ends_are_the_least_and_the_largest():
    x = jnp.array([3.0, 1.0, 2.0, 9.0, 4.0])
    found = jax.jit(lambda q: transport.soft_quantile(x, q, epsilon=1e-3))
    np.testing.assert_allclose(found(0.0), 1, atol=0.05)
    np.testing.assert_allclose(found(1.0), 9, atol=0.05)
    with pytest.raises(ValueError, match="level"):
        transport.soft_quantile(x, 1.5)
    with pytest.raises(ValueError, match="width"):
        transport.soft_quantile(x, 0.5, width=2.0)


def test_the_value_of_gromov_is_its_cost_and_entropy(x64):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 2)), rng.normal(size=(5, 2))
    clouds = transport.PointCloud(x), transport.PointCloud(y)
    out = transport.gromov_wasserstein(*clouds, epsilon=0.5, tol=1e-11)
    plan = out.plan()
    entropy = jnp.sum(plan * jnp.log(plan * 20) - plan + 1 / 20)
    assert out.converged
    np.testing.assert_allclose(out.value, out.cost + 0.5 * entropy, rtol=1e-8)


def test_a_problem_is_solved_as_it_is_or_not_at_all():
    problem = transport.TransportProblem(jnp.eye(3), epsilon=0.1)
    assert transport.solve(problem).converged
    for options in ({"epsilon": 0.2}, {"tau_a": 0.5}, {"b": jnp.ones(3) / 3}):
        with pytest.raises(ValueError, match="of its own"):
            transport.solve(problem, **options)
