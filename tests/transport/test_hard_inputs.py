"""Extreme numbers, wrong inputs, states of other problems, and second calls."""

import contextlib

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import smooth, transport
from jaxsolve.core import Status

RNG = np.random.default_rng(0)
COST = RNG.random((4, 4)).astype(np.float32)
OTHER = RNG.random((4, 4)).astype(np.float32)
A, B = (RNG.uniform(0.5, 1.5, 4) for _ in range(2))
A, B = (np.asarray(w / w.sum(), np.float32) for w in (A, B))
EPSILON = np.float32(0.1)


def outcome(cost, a, b, epsilon):
    out = transport.solve(cost, a, b, epsilon=epsilon)
    return out.cost, (out.status, out.plan())


# One program for most of what is asked here: the cost, its slopes, status and plan.
asked = jax.jit(jax.value_and_grad(outcome, (0, 3), has_aux=True))


@contextlib.contextmanager
def compilations():
    """Counts what is compiled while it is open."""
    found = []

    def listen(name, seconds, **_):
        found.extend([name] * name.endswith("backend_compile_duration"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


# ------------------------------------------------------------------------ second calls


def solve_eagerly(cost):
    potential = lambda cost: transport.solve(cost, epsilon=0.1).f
    return potential(cost), jax.grad(lambda cost: potential(cost)[0])(cost)


def rank_eagerly(cost):
    return transport.soft_rank(cost, epsilon=0.1)


def sum_online(cost):
    cloud = transport.PointCloud(cost, block=2)
    problem = transport.TransportProblem(cloud)
    return cloud.spread(), problem.plan(jnp.zeros(4)), problem.apply(jnp.zeros(4), cost)


@pytest.mark.parametrize("called", [solve_eagerly, rank_eagerly, sum_online])
def test_second_eager_call_compiles_nothing(called):
    called(jnp.asarray(COST))
    with compilations() as found:
        called(jnp.asarray(OTHER))
    assert not found


# ------------------------------------------------------------ states of other problems

WAYS = {
    "sns": (
        transport.sinkhorn_newton_sparse(sweeps=2),
        lambda cost: transport.TransportProblem(cost, A, B, epsilon=0.2),
        lambda problem: jnp.zeros(4),
        lambda problem, f: problem.plan(f),
    ),
    "low rank": (
        transport.low_rank_sinkhorn(),
        lambda cost: transport.TransportProblem(cost, A, B, epsilon=0.2),
        lambda problem: transport.LowRankPlan.start(problem, 2),
        lambda problem, plan: plan.cost(problem.geometry),
    ),
    "sparse": (
        transport.sparse_transport(smooth.lbfgs),
        lambda cost: transport.SparseTransportProblem(cost, A, B, gamma=2.0),
        lambda problem: jnp.zeros(4),
        lambda problem, alpha: problem.plan(alpha),
    ),
    "barycenter": (
        transport.barycenter(),
        lambda cost: transport.BarycenterProblem(cost, np.stack([A, B]), epsilon=0.2),
        lambda problem: problem.start(),
        lambda problem, params: problem.barycenter(params),
    ),
    "debiased": (
        transport.barycenter(debiased=True, relaxation="adaptive"),
        lambda cost: transport.BarycenterProblem(
            cost + cost.T, np.stack([A, B]), epsilon=1.0
        ),
        lambda problem: problem.start(True),
        lambda problem, params: problem.barycenter(params),
    ),
    "gromov": (
        transport.gromov(),
        lambda cost: transport.GromovProblem(
            cost + cost.T, np.ones((4, 4), np.float32) - np.eye(4, dtype=np.float32),
            A, B, epsilon=1.0,
        ),
        lambda problem: jnp.zeros((4, 4)),
        lambda problem, plan: plan,
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_state_on_another_problem_is_begun_anew(way):
    solver, make, start, answer = WAYS[way]
    solve = jax.jit(
        lambda params, problem, state: jaxsolve.run(
            solver, params, problem, state=state, max_steps=3000
        )[:3]
    )
    old, new = make(COST), make(OTHER)
    fresh = start(old)
    params, state, status = solve(fresh, old, solver.init(fresh, old))
    assert status == Status.CONVERGED
    alone, _, _ = solve(params, new, solver.init(params, new))
    params, _, status = solve(params, new, state)
    assert status == Status.CONVERGED
    expected = answer(new, alone)
    np.testing.assert_allclose(answer(new, params), expected, rtol=0.02, atol=2e-3)


# ------------------------------------------------------------------- costs and weights


@pytest.mark.parametrize("wrong", [-np.inf, np.nan])
def test_traced_costs_that_make_no_sense_end_as_diverged(wrong):
    cost = COST.copy()
    cost[1, 2] = wrong
    _, (status, plan) = asked(cost, A, B, EPSILON)[0]
    assert status == Status.DIVERGED
    with pytest.raises(ValueError, match="costs must be numbers"):
        transport.solve(cost)  # not that epsilon is wrong


def test_a_lane_of_a_wrong_cost_leaves_others_alone():
    costs = np.stack([COST, COST])
    costs[0, 1, 2] = -np.inf
    lanes = jax.jit(jax.vmap(asked, (0, None, None, None)))
    (value, (status, _)), (slope, _) = lanes(costs, A, B, EPSILON)
    (alone, _), (slope_alone, _) = asked(COST, A, B, EPSILON)
    assert list(status) == [Status.DIVERGED, Status.CONVERGED]
    np.testing.assert_allclose(value[1], alone, rtol=1e-4)
    np.testing.assert_allclose(slope[1], slope_alone, atol=1e-3)


@pytest.mark.parametrize("scale", [1e-25, 1e-18, 1e-9, 1.0, 1e9, 1e18])
def test_costs_and_their_slopes_are_right_in_any_unit(scale):
    scale = np.float32(scale)
    (value, (status, plan)), slopes = asked(scale * COST, A, B, scale * EPSILON)
    (_, _), expected = asked(COST, A, B, EPSILON)
    assert status == Status.CONVERGED
    np.testing.assert_allclose(value / scale, np.sum(plan * COST), rtol=1e-4)
    for slope, one in zip(slopes, expected, strict=True):
        np.testing.assert_allclose(slope, one, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("mass", [1e-30, 1e-20, 1e20])
def test_plans_of_extreme_masses_are_plans(mass):
    mass = np.float32(mass)
    (value, (status, plan)), slopes = asked(COST, mass * A, mass * B, EPSILON)
    (_, (_, one)), expected = asked(COST, A, B, EPSILON)
    assert status == Status.CONVERGED
    np.testing.assert_allclose(plan / mass, one, atol=1e-3)
    np.testing.assert_allclose(slopes[0] / mass, expected[0], atol=2e-3)


def test_unbalanced_masses_too_small_for_the_precision_are_refused():
    make = lambda a: transport.TransportProblem(COST, a, a, epsilon=0.1, tau_a=0.9)
    with pytest.raises(ValueError, match="scale the weights"):
        make(1e-20 * A)
    solver = transport.newton_transport(continuation=None)

    @jax.jit
    def status(a):
        problem = make(a)
        _, state = solver.update(
            jnp.zeros(4), solver.init(jnp.zeros(4), problem), problem
        )
        return state.status

    assert status(1e-20 * A) == Status.DIVERGED
    assert status(A) == Status.RUNNING


def test_forbidden_pairs_that_leave_no_plan_are_found():
    cost = COST.copy()
    cost[:2, 1:] = np.inf  # two rows reach one column only, of a quarter of the mass
    even = np.full(4, 0.25, np.float32)
    _, (status, _) = asked(cost, even, even, EPSILON)[0]
    assert status == Status.PRIMAL_INFEASIBLE
    first = np.array([0.5, 0.25, 0.125, 0.125], np.float32)
    assert asked(cost, even, first, EPSILON)[0][1][0] != Status.PRIMAL_INFEASIBLE


def test_distances_have_values_in_any_unit():
    x, y = np.array([3.0, 0.0]), np.array([0.0, 4.0])
    for scale in (1e-25, 1e-10, 1e25):
        far = np.float32(scale)
        points = np.float32(x) * far, np.float32(y) * far
        costs = transport.euclidean, transport.p_norm(1.0)
        found = [cost(*points) / far for cost in costs]
        np.testing.assert_allclose(found, [5, 7], rtol=1e-5)
        slope = jax.grad(transport.euclidean)(*points)
        np.testing.assert_allclose(slope, [0.6, -0.8], rtol=1e-5)
    assert np.all(jax.grad(transport.euclidean)(points[0], points[0]) == 0)


# ------------------------------------------------------------------------ soft layers

SOFT = jax.jit(lambda x, e: transport.soft_rank(x, epsilon=e))
X = np.array([0.3, -1.0, 2.0, 0.7], np.float32)


def test_ranks_do_not_depend_on_the_unit():
    expected = SOFT(X, 0.01)
    for scale in (1e-30, 1e-20, 1e20, 1e30):
        np.testing.assert_allclose(SOFT(np.float32(scale) * X, 0.01), expected, 1e-3)


def test_layers_are_nan_where_there_is_no_plan():
    slope = jax.jit(jax.grad(lambda x, e: SOFT(x, e)[0]))
    assert np.all(np.isfinite(SOFT(X, 1e-3))) and np.all(np.isfinite(slope(X, 1e-2)))
    for x, epsilon in ((X, 1e-12), (np.float32([np.inf, 0, 1, 2]), 1e-2)):
        assert np.all(np.isnan(SOFT(x, epsilon)))
        assert np.all(np.isnan(slope(x, epsilon)))
    layer = jax.jit(lambda s, e: transport.sinkhorn_layer(s, epsilon=e))
    assert np.all(np.isfinite(layer(COST, 0.1)))
    assert np.all(np.isnan(layer(COST, 1e-12)))


def test_layers_and_divergences_take_the_wider_dtype(x64):
    layer = lambda scores, a: transport.sinkhorn_layer(scores, a=a)
    out = jax.eval_shape(layer, COST, np.ones(4))
    assert out.dtype == np.float64
    divergence = lambda x, y: transport.sinkhorn_divergence(x, y, epsilon=0.5).value
    out = jax.eval_shape(divergence, COST, np.ones((3, 4)))
    assert out.dtype == np.float64


# ---------------------------------------------------------------- messages, and states


def test_messages_say_what_to_write_instead():
    with pytest.raises(ValueError, match="`epsilon=`"):
        transport.solve(COST, 1e-2)
    with pytest.raises(ValueError, match=r"transport.gromov\(proximal=...\)"):
        transport.gromov_wasserstein(COST + COST.T, COST + COST.T, epsilon=0.0)
    with pytest.raises(ValueError, match=r"got an array of shape \(4, 4\)"):
        solver = transport.sinkhorn()
        jax.eval_shape(solver.init, jnp.zeros(4), jax.ShapeDtypeStruct((4, 4), float))


@pytest.mark.parametrize("way", ["newton", "sinkhorn", *WAYS])
def test_states_may_be_donated(way):
    made = {
        "newton": transport.newton_transport(continuation=None),
        "sinkhorn": transport.sinkhorn(),
    }
    solver, make, start, _ = WAYS["sns" if way in made else way]
    solver = made.get(way, solver)
    problem = make(COST)
    params = jax.tree.map(lambda x: jnp.array(x, copy=True), start(problem))
    state = solver.init(params, problem)
    buffers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((params, state))]
    assert len(set(buffers)) == len(buffers)
    kept = {
        x.unsafe_buffer_pointer() for x in map(jnp.asarray, jax.tree.leaves(problem))
    }
    assert not kept & set(buffers)


def test_solutions_of_all_doors_have_their_plan_as_a_method():
    door = lambda x, y: transport.gromov_wasserstein(x, y, epsilon=2.0).plan()
    assert jax.eval_shape(door, COST, OTHER).shape == (4, 4)
    for solution in (transport.TransportSolution, transport.BarycenterSolution):
        assert callable(solution.plan)
