"""Barycenters: the papers' iterates, Gaussians, what is known, what cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq

import jaxsolve
from jaxsolve import transport
from jaxsolve.core import Status
from jaxsolve.transport import _shared_kernel

RNG = np.random.default_rng(0)
LINE = np.linspace(0.0, 1.0, 6)
SQUARES = (LINE[:, None] - LINE[None]) ** 2
WEIGHTS = np.array([0.2, 0.5, 0.3])


def drawn(count, size, rng=RNG):
    b = rng.uniform(0.2, 1, (count, size))
    return b / b.sum(1, keepdims=True)


MEASURES = drawn(3, 6)


def small(debiased=False, epsilon=0.05):
    """Three measures; the debiased barycenter stands on the same points."""
    cost = SQUARES if debiased else SQUARES[:5] + 0.1
    return transport.BarycenterProblem(cost, MEASURES, WEIGHTS, epsilon=epsilon)


def transcribed(problem, steps, debiased):
    """Benamou et al., proposition 2, and Janati et al., algorithm 1: barycenters."""
    kernel = np.exp(-np.asarray(problem.geometry.matrix()) / float(problem.epsilon))
    b, weights = np.asarray(problem.measures), np.asarray(problem.weights)
    u, d, seen = np.ones((len(b), len(kernel))), np.ones(len(kernel)), []
    for _ in range(steps):
        v = b / (u @ kernel)
        kv = v @ kernel.T
        alpha = d * np.prod(kv ** weights[:, None], axis=0)
        u = alpha / kv
        if debiased:
            d = np.sqrt(d * alpha / (kernel @ d))
        seen.append(alpha / alpha.sum())
    return np.stack(seen)


def begun(problem, debiased):
    """The params that follow from the papers' first scalings, which are one."""
    one = jnp.ones(problem.shape[0])
    g = problem.geometry.softmin(0 * one, one, problem.epsilon, 0)
    g = jnp.broadcast_to(g, problem.measures.shape)
    return (g, one) if debiased else g


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("debiased", [False, True])
def test_first_iterates_are_the_papers(debiased, kernel, x64):
    problem = small(debiased)
    solver = transport.barycenter(debiased=debiased, kernel=kernel)
    start = begun(problem, debiased)
    run = jaxsolve.run(
        solver, start, problem, tol=0, max_steps=5, record=lambda params, state: params
    )
    first = problem.barycenter(start)[None]
    found = jnp.concatenate([first, jax.vmap(problem.barycenter)(run.history)])
    np.testing.assert_allclose(found, transcribed(problem, 6, debiased), rtol=1e-10)


def test_relaxed_iterates_are_those_of_the_formulas(x64):
    problem, omega = small(), 1.4
    run = jaxsolve.run(
        transport.barycenter(relaxation=omega),
        begun(problem, False),
        problem,
        tol=0,
        max_steps=5,
        record=lambda params, state: params,
    )
    found = jax.vmap(problem.barycenter)(run.history)
    kernel = np.exp(-np.asarray(problem.geometry.cost) / 0.05)
    share = lambda kv: np.exp(WEIGHTS @ np.log(kv)) / np.exp(WEIGHTS @ np.log(kv)).sum()
    v = MEASURES / kernel.sum(0)
    u = share(v @ kernel.T) / (v @ kernel.T)
    v = MEASURES / (u @ kernel)
    for alpha in found:
        np.testing.assert_allclose(alpha, share(v @ kernel.T), rtol=1e-9)
        u = u ** (1 - omega) * (share(v @ kernel.T) / (v @ kernel.T)) ** omega
        v = v ** (1 - omega) * (MEASURES / (u @ kernel)) ** omega


def test_momentum_is_nesterovs_on_the_logarithm_of_d(x64):
    problem = small(debiased=True)
    run = jaxsolve.run(
        transport.barycenter(debiased=True, relaxation="adaptive"),
        begun(problem, True),
        problem,
        tol=0,
        max_steps=8,
        record=lambda params, state: params[1],
    )
    kernel = np.exp(-SQUARES / 0.05)
    u, d, y, t = np.ones_like(MEASURES), np.ones(6), np.ones(6), 1.0
    v = MEASURES / (u @ kernel)
    for found in run.history:
        kv = v @ kernel.T
        alpha = y * np.exp(WEIGHTS @ np.log(kv))
        alpha = alpha / alpha.sum()
        v = MEASURES / (alpha / kv @ kernel)
        new = np.sqrt(y * alpha / (kernel @ y))
        t = 1 if np.sum(alpha * np.log(y / new) * np.log(new / d)) > 0 else t
        new_t = (1 + np.sqrt(1 + 4 * t**2)) / 2
        y = new * (new / d) ** ((t - 1) / new_t)
        d, t = new, new_t
        np.testing.assert_allclose(found, d, rtol=1e-9)


def gaussian(points, mean, variance):
    density = np.exp(-((points - mean) ** 2) / (2 * variance))
    return density / density.sum()


def moments(points, alpha):
    mean = alpha @ points
    return mean, alpha @ (points - mean) ** 2


@pytest.mark.parametrize("debiased", [False, True])
def test_barycenters_of_gaussians_have_the_variances_of_the_closed_forms(debiased, x64):
    """Janati et al., theorems 2 and 3, of the variances t and of 2 sigma^2 = epsilon.

    The plan between variances s and t has the covariance c with s t - c^2 = sigma^2 c.
    """
    points, t, weights = np.linspace(-3, 3, 60), np.array([0.1, 0.2]), [0.4, 0.6]
    eps = 0.1
    blur = eps / 2
    cross = lambda s, t: (np.sqrt(4 * s * t + blur**2) - blur) / 2
    own = lambda s: cross(s, s) + blur if debiased else s
    equation = lambda s: np.dot(weights, cross(s, t) + blur) - own(s)
    measures = np.stack([gaussian(points, -0.5, t[0]), gaussian(points, 0.5, t[1])])
    out = transport.solve_barycenter(
        transport.PointCloud(points[:, None]),
        measures,
        jnp.asarray(weights),
        epsilon=eps,
        debiased=debiased,
        tol=1e-6,
    )
    mean, variance = moments(points, np.asarray(out.barycenter))
    assert out.converged
    np.testing.assert_allclose(mean, 0.1, atol=1e-4)
    np.testing.assert_allclose(variance, brentq(equation, 0.01, 3), rtol=1e-4)


def test_one_measure_or_equal_ones_are_blurred_by_half_the_temperature(x64):
    points, eps = np.linspace(-3, 3, 60), 0.1
    cloud = transport.PointCloud(points[:, None])
    b = gaussian(points, 0.3, 0.15)
    kernel = np.exp(-np.asarray(cloud.matrix()) / eps)
    for count in (1, 3):
        out = transport.solve_barycenter(cloud, np.tile(b, (count, 1)), epsilon=eps)
        expected = kernel @ (b / kernel.sum(0))
        np.testing.assert_allclose(out.barycenter, expected, atol=1e-8)
        variance = moments(points, np.asarray(out.barycenter))[1]
        np.testing.assert_allclose(variance, 0.15 + eps / 2, rtol=1e-6)


def test_the_debiased_barycenter_of_equal_measures_is_that_measure(x64):
    b = np.tile(MEASURES[:1], (3, 1))
    out = transport.solve_barycenter(
        SQUARES, b, jnp.asarray(WEIGHTS), epsilon=0.02, debiased=True, tol=1e-10
    )
    np.testing.assert_allclose(out.barycenter, b[0], atol=1e-8)


def test_the_debiased_barycenter_of_two_translates_is_the_one_between(x64):
    points = np.linspace(0, 1, 21)
    b = np.zeros((2, 21))
    b[0, 3:6] = b[1, 11:14] = [0.5, 0.3, 0.2]
    out = transport.solve_barycenter(
        transport.PointCloud(points[:, None]),
        b,
        epsilon=0.004,
        debiased=True,
        tol=1e-5,
    )
    between = np.zeros(21)
    between[7:10] = [0.5, 0.3, 0.2]
    np.testing.assert_allclose(out.barycenter, between, atol=2e-3)


def test_a_measure_of_weight_zero_moves_nothing_and_is_transported_all_the_same(x64):
    weights = jnp.array([0.4, 0.6, 0.0])
    find = lambda b, weights: transport.solve_barycenter(
        SQUARES[:5], b, weights, epsilon=0.05, tol=1e-11
    )
    out, two = find(MEASURES, weights), find(MEASURES[:2], weights[:2])
    np.testing.assert_allclose(out.barycenter, two.barycenter, atol=1e-10)
    plan = out.plan(2)
    np.testing.assert_allclose(plan.sum(0), MEASURES[2], atol=1e-10)
    np.testing.assert_allclose(plan.sum(1), out.barycenter, atol=1e-10)


def test_points_without_mass_might_as_well_not_be_there(x64):
    b = np.where(np.arange(6) % 2 == 0, MEASURES, 0)
    b = b / b.sum(1, keepdims=True)
    find = lambda cost, b: transport.solve_barycenter(
        cost, b, jnp.asarray(WEIGHTS), epsilon=0.05, tol=1e-11
    )
    out = find(SQUARES, b)
    assert bool(jnp.all(jnp.isfinite(out.params)))
    fewer = find(SQUARES[:, ::2], b[:, ::2])
    np.testing.assert_allclose(out.barycenter, fewer.barycenter, atol=1e-10)


def test_all_masses_may_be_another_than_one(x64):
    problem = small()
    more = transport.BarycenterProblem(
        problem.geometry, 3 * MEASURES, WEIGHTS, epsilon=0.05
    )
    run = lambda problem: jaxsolve.run(
        transport.barycenter(), problem.start(), problem, tol=1e-10
    )
    one, three = run(problem), run(more)
    np.testing.assert_allclose(
        more.barycenter(three.params), 3 * problem.barycenter(one.params), rtol=1e-7
    )


def grids():
    """One cost four ways: two small squares on a square."""
    sides = np.linspace(0, 1, 3)
    square = (sides[:, None] - sides[None]) ** 2
    points = np.stack(np.meshgrid(sides, sides, indexing="ij"), -1).reshape(-1, 2)
    cloud = transport.PointCloud(points)
    return {
        "dense": cloud,
        "online": transport.PointCloud(points, block=4),
        "grid": transport.GridCost([square, square]),
    }


def test_a_grid_of_uneven_sides_gives_the_barycenter_of_its_matrix(x64):
    rng = np.random.default_rng(2)
    grid = transport.GridCost([rng.uniform(size=s) for s in ((2, 3), (4, 5))])
    vectors = {1: rng.uniform(size=(2, 15)), 0: rng.uniform(size=(2, 8))}
    kernel = _shared_kernel.shared_kernel(grid, jnp.asarray(0.1))
    full = np.exp((kernel.least - grid.matrix()) / 0.1)
    for axis, v in vectors.items():
        expected = v @ (full.T if axis == 1 else full)
        found = _shared_kernel.products(kernel, jnp.asarray(v), axis)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    b = drawn(2, 15, np.random.default_rng(1))
    find = lambda cost: transport.solve_barycenter(cost, b, epsilon=0.1, tol=1e-10)
    one, other = find(grid), find(grid.matrix())
    assert one.converged
    np.testing.assert_allclose(one.barycenter, other.barycenter, atol=1e-9)


@pytest.mark.parametrize("debiased", [False, True])
def test_all_geometries_give_one_barycenter(debiased, x64):
    b = drawn(2, 9, np.random.default_rng(1))

    @jax.jit
    def found(geometry):
        problem = transport.BarycenterProblem(geometry, b, epsilon=0.1)
        solver = transport.barycenter(debiased=debiased)
        params, state = problem.start(debiased), None
        state = solver.init(params, problem)
        for _ in range(3):
            params, state = solver.update(params, state, problem)
        return problem.barycenter(params), state.error

    first, *others = map(found, grids().values())
    for other in others:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-9), other, first)


def test_where_the_kernel_underflows_logs_take_over(x64):
    problem = small(epsilon=2e-4)
    run = lambda kernel: jaxsolve.run(
        transport.barycenter(kernel=kernel), problem.start(), problem, max_steps=50
    )
    kept, logs = run(True), run(False)
    assert np.exp(-1 / 2e-4) == 0 and bool(jnp.all(jnp.isfinite(logs.params)))
    np.testing.assert_allclose(kept.params, logs.params, atol=1e-12)


def test_a_kernel_that_loses_digits_says_so(x64):
    cost = transport.DenseCost(jnp.array([[0.0, 0.0], [708.0, 708.0]]))
    kernel = _shared_kernel.shared_kernel(cost, jnp.asarray(1.0))
    weights = jnp.array([[0.5, 1.0]])  # of these the first product is lost
    found, safe = _shared_kernel.softmins(kernel, 0 * weights, weights, 1.0, 1)
    assert not safe and bool(jnp.all(jnp.isfinite(found)))
    _, safe = _shared_kernel.softmins(kernel, 0 * weights, weights, 1.0, 0)
    assert safe


def test_errors_are_those_of_the_plans_that_an_update_began_with(x64):
    problem = small(debiased=True)
    for debiased in (False, True):
        solver, start = (
            transport.barycenter(debiased=debiased),
            begun(problem, debiased),
        )
        _, state = solver.update(start, solver.init(start, problem), problem)
        alpha = problem.barycenter(start)
        sums = jnp.stack([problem.plan(start, k).sum(0) for k in range(3)])
        gaps = jnp.abs(sums - MEASURES).sum(1)
        if debiased:
            own = np.exp(-SQUARES / 0.05).sum(1)  # as d is one
            gaps = jnp.append(gaps, jnp.abs(own - alpha).sum())
        np.testing.assert_allclose(state.error, gaps.max(), rtol=1e-9)


def test_relaxation_takes_fewer_updates_to_the_same_barycenter(x64):
    problem = small(epsilon=0.01)
    run = lambda relaxation: jaxsolve.run(
        transport.barycenter(relaxation=relaxation),
        problem.start(),
        problem,
        tol=1e-10,
        max_steps=2000,
    )
    plain, relaxed = run(1.0), run("adaptive")
    assert plain.converged and relaxed.converged and 2 * relaxed.count < plain.count
    np.testing.assert_allclose(relaxed.params, plain.params, atol=1e-8)


def test_momentum_takes_fewer_updates_to_the_same_debiased_barycenter(x64):
    problem = small(debiased=True)
    run = lambda relaxation: jaxsolve.run(
        transport.barycenter(debiased=True, relaxation=relaxation),
        problem.start(True),
        problem,
        tol=1e-9,
        max_steps=5000,
    )
    plain, pushed = run(1.0), run("adaptive")
    assert plain.converged and pushed.converged and 3 * pushed.count < 2 * plain.count
    np.testing.assert_allclose(
        problem.barycenter(pushed.params), problem.barycenter(plain.params), atol=1e-6
    )


def test_the_dual_value_never_falls_and_plans_agree_at_the_end(x64):
    problem = small()
    run = jaxsolve.run(
        transport.barycenter(),
        problem.start(),
        problem,
        tol=1e-12,
        record=lambda params, state: params,
    )
    assert run.converged

    def value(g):
        f, _ = problem.row_passes(g)
        free = jax.nn.logsumexp(-problem.weights @ f / problem.epsilon)
        gain = jnp.sum(problem.weights[:, None] * problem.measures * g)
        return gain - problem.epsilon * free

    values = jax.vmap(value)(run.history[: int(run.count)])
    assert np.all(np.diff(values) >= -1e-15)
    found = problem.barycenter(run.params)
    for k in range(3):
        plan = problem.plan(run.params, k)
        np.testing.assert_allclose(plan.sum(1), found, atol=1e-11)
        np.testing.assert_allclose(plan.sum(0), MEASURES[k], atol=1e-11)


PROBE = np.cos(1.0 + np.arange(30))


def theta(debiased, zero):
    b = np.where((np.arange(6) == 2) & zero, 0, MEASURES)
    lam = np.array([0.4, 0.6, 0.0]) if zero else WEIGHTS
    cost = SQUARES if debiased else SQUARES[:5]
    b = b / b.sum(1, keepdims=True)
    return tuple(map(jnp.asarray, (cost, b, lam, 0.05)))


def toward(debiased, zero):
    """A direction along which the problem stays one."""
    turn = RNG.normal(size=(6, 6) if debiased else (5, 6))
    turn = turn + turn.T if debiased else turn
    db = RNG.normal(size=(3, 6)) * ((np.arange(6) != 2) | (not zero))
    db = db - db.sum(1, keepdims=True) * (np.arange(6) == 0)
    lam = [0.3, -0.3, 0.0] if zero else [0.3, -0.4, 0.1]
    return tuple(map(jnp.asarray, (0.05 * turn, 0.1 * db, np.array(lam), 0.02)))


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("debiased", [False, True])
def test_all_derivatives_are_those_of_differences(debiased, zero, x64):
    at, along = theta(debiased, zero), toward(debiased, zero)
    solver = transport.barycenter(debiased=debiased)

    def total(theta):
        cost, b, weights, epsilon = theta
        problem = transport.BarycenterProblem(cost, b, weights, epsilon=epsilon)
        start = problem.start(debiased)
        out = jaxsolve.run(solver, start, problem, tol=1e-13, max_steps=3000)
        alpha = problem.barycenter(out.params)
        g = out.params[0] if debiased else out.params
        value = jnp.sum(jnp.sin(20 * alpha) * PROBE[: alpha.size])
        return value + jnp.sum(PROBE[: g.size] * g.reshape(-1))

    @jax.jit
    def both(theta):
        value, push = jax.linearize(total, theta)
        parts = [jnp.zeros_like(x) for x in along]
        alone = [(*parts[:i], along[i], *parts[i + 1 :]) for i in range(4)]
        pull = jax.linear_transpose(push, theta)(jnp.ones_like(value))[0]
        pulled = [jnp.sum(p * d) for p, d in zip(pull, along, strict=True)]
        return value, jnp.stack([push(d) for d in alone]), jnp.stack(pulled)

    _, pushed, pulled = both(at)
    step = 1e-5
    for i in range(4):
        move = lambda t, i=i: (*at[:i], at[i] + t * along[i], *at[i + 1 :])
        expected = (both(move(step))[0] - both(move(-step))[0]) / (2 * step)
        np.testing.assert_allclose(pushed[i], expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(pulled, pushed, rtol=1e-9, atol=1e-12)


def test_runs_below_the_precision_stall():
    problem = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), small(epsilon=0.02))
    for relaxation in (1.0, "adaptive"):
        solver = transport.barycenter(relaxation=relaxation)
        out = jaxsolve.run(solver, problem.start(), problem, tol=0.0, max_steps=9000)
        assert out.status in (Status.STALLED, Status.CONVERGED)
        assert out.state.best < 1e-5 and out.count < 9000


def test_rows_out_of_reach_get_no_mass():
    cost = jnp.where(jnp.arange(5)[:, None] == 1, jnp.inf, jnp.asarray(SQUARES[:5]))
    cost = cost.at[3].set(jnp.where(jnp.arange(6) == 2, cost[3], jnp.inf))
    b = jnp.asarray(MEASURES).at[0, 2].set(0)
    out = transport.solve_barycenter(cost, b / b.sum(1, keepdims=True), epsilon=0.05)
    assert out.converged and bool(jnp.all(jnp.isfinite(out.params)))
    assert out.barycenter[1] == out.barycenter[3] == 0
    np.testing.assert_allclose(out.barycenter.sum(), 1, rtol=1e-6)


@pytest.mark.parametrize("kernel", [True, False])
def test_a_column_that_nothing_reaches_is_infeasible(kernel):
    cost = jnp.asarray(SQUARES).at[:, 2].set(jnp.inf)
    problem = transport.BarycenterProblem(cost, MEASURES, epsilon=0.05)
    solver = transport.barycenter(kernel=kernel)
    out = jaxsolve.run(solver, problem.start(), problem)
    assert out.status == Status.PRIMAL_INFEASIBLE
    assert bool(jnp.all(jnp.isfinite(out.params)))


def test_lanes_that_make_no_sense_say_so_and_spare_the_others():
    good, weights = jnp.asarray(MEASURES, jnp.float32), jnp.asarray(WEIGHTS)
    negative, heavier = good.at[0, 0].set(-0.1), good.at[0].multiply(2.0)
    endless = good.at[0, 0].set(jnp.inf)
    measures = jnp.stack([good, negative, heavier, good, endless])
    lams = jnp.stack([weights, weights, weights, 2 * weights, weights])

    def one(b, lam):
        problem = transport.BarycenterProblem(SQUARES[:5], b, lam, epsilon=0.05)
        return jaxsolve.run(transport.barycenter(), problem.start(), problem)

    out = jax.vmap(one)(measures, lams.astype(jnp.float32))
    expected = [Status.CONVERGED, Status.DIVERGED, Status.PRIMAL_INFEASIBLE]
    assert list(out.status) == [*expected, Status.DIVERGED, Status.DIVERGED]
    assert bool(jnp.all(jnp.isfinite(out.params)))
    alone = one(good, weights.astype(jnp.float32))
    np.testing.assert_allclose(out.params[0], alone.params, atol=1e-6)


def test_a_debiased_cost_that_is_not_symmetric_is_no_problem_to_solve():
    cost = jnp.asarray(SQUARES + np.triu(SQUARES))
    problem = transport.BarycenterProblem(cost, MEASURES, epsilon=0.05)
    out = jaxsolve.run(
        transport.barycenter(debiased=True), problem.start(True), problem
    )
    assert out.status == Status.DIVERGED


def test_a_solution_says_how_it_ended():
    out = transport.solve_barycenter(SQUARES, MEASURES, epsilon=0.05)
    assert "converged after" in repr(out) and "tolerance" in out.message
    few = transport.solve_barycenter(SQUARES, MEASURES, epsilon=0.01, max_steps=2)
    assert not few.converged and few.status == Status.MAX_STEPS
    rest = transport.solve_barycenter(SQUARES, MEASURES, epsilon=0.05, start=out.params)
    assert rest.state.count == 1


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda p: p(SQUARES, MEASURES[:, :5]), "measures"),
        (lambda p: p(SQUARES, MEASURES[0]), "measures"),
        (lambda p: p(SQUARES, MEASURES, jnp.ones(2) / 2), "weights"),
        (lambda p: p(SQUARES, MEASURES, jnp.ones(3)), "sum to one"),
        (lambda p: p(SQUARES, MEASURES, jnp.array([-0.5, 0.5, 1.0])), "negative"),
        (lambda p: p(SQUARES, MEASURES - 0.1), "negative"),
        (lambda p: p(SQUARES, MEASURES * np.array([[1.0], [1], [2]])), "equal masses"),
        (lambda p: p(SQUARES, MEASURES, epsilon=0.0), "positive"),
        (lambda p: p(np.where(SQUARES == 1, np.nan, SQUARES), MEASURES), "costs must"),
        (lambda p: p(np.where(SQUARES == 1, -np.inf, SQUARES), MEASURES), "costs must"),
        (lambda p: p(SQUARES, MEASURES, epsilon=jnp.ones(2)), "one number"),
    ],
)
def test_what_is_no_problem_is_refused(make, match):
    def problem(*args, epsilon=0.05):
        return transport.BarycenterProblem(*args, epsilon=epsilon)

    with pytest.raises(ValueError, match=match):
        make(problem)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"relaxation": 2.0}, "relaxation"),
        ({"relaxation": 1.5, "debiased": True}, "adaptive"),
        ({"start": 1}, "start"),
        ({"patience": 0}, "patience"),
    ],
)
def test_options_out_of_range_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        transport.barycenter(**options)


def test_params_and_data_of_another_form_are_refused():
    problem, solver = small(), transport.barycenter()
    with pytest.raises(ValueError, match="problem.start"):
        solver.init(jnp.zeros(4), problem)
    for index in (3, -4):
        with pytest.raises(ValueError, match="3 measures"):
            problem.plan(problem.start(), index)
    with pytest.raises(ValueError, match="those of the other"):
        solver.init(problem.start(True), problem)
    with pytest.raises(ValueError, match="stands on the points"):
        transport.barycenter(debiased=True).init(problem.start(True), problem)
    with pytest.raises(ValueError, match="BarycenterProblem"):
        solver.init(jnp.zeros(4), jnp.zeros(4))
