"""Frank-Wolfe: the papers' iterates, sublinear and linear rates, the active set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxsolve import composite, core, prox
from jaxsolve.composite import _active_set
from jaxsolve.core import Status

RNG = np.random.default_rng(1)
A = RNG.normal(size=(15, 6))
# On the simplex the least squares have zeros at the last two entries.
B = A @ np.array([0.4, 0.3, 0.2, 0.1, -0.3, -0.3]) + 0.3 * RNG.normal(size=15)
VARIANTS = (composite.pairwise_frank_wolfe, composite.away_frank_wolfe)


def squares(x, data):
    matrix, target = data
    return 0.5 * jnp.sum((matrix @ x.reshape(-1) - target) ** 2)


def bowl(x, center):
    return jnp.sum((x - center) ** 2) / 2


def gap_of(x):
    """The Frank-Wolfe gap on the unit simplex."""
    grad = A.T @ (A @ np.asarray(x) - B)
    return grad @ np.asarray(x) - grad.min()


def test_given_steps_give_the_iterates_of_the_paper(x64):
    """Jaggi (2013), Algorithm 1."""
    solver = composite.frank_wolfe(
        squares, prox.simplex_vertex(), lambda count: 2 / (count + 2)
    )
    params = expected = jnp.zeros(6)
    state = solver.init(params)
    for k in range(20):
        gap = gap_of(expected)
        grad = A.T @ (A @ expected - B)
        s = np.eye(6)[np.argmin(grad)]
        expected = expected + 2 / (k + 2) * (s - expected)
        params, state = solver.update(params, state, (A, B))
        np.testing.assert_allclose(params, expected, atol=1e-12)
        assert k == 0 or np.isclose(state.error, gap)


@pytest.mark.parametrize("numbered", [True, False])
@pytest.mark.parametrize("variant", ["plain", "pairwise", "away"])
def test_directions_and_lengths_are_those_of_the_papers(x64, variant, numbered):
    """Lacoste-Julien and Jaggi (2015), Algorithms 1 and 2; steps of Pedregosa (2020).

    Each trial is found again from the iterate, the weights and the stepsize before it.
    """
    oracle = prox.simplex_vertex()
    oracle = oracle if numbered else oracle._replace(corners=None)
    make = dict(
        plain=composite.frank_wolfe,
        pairwise=composite.pairwise_frank_wolfe,
        away=composite.away_frank_wolfe,
    )[variant]
    solver = make(squares, oracle)
    # The first vertex is one that must be left again.
    params = jnp.zeros(6).at[5].set(-100.0)
    state, kinds = solver.init(params), set()
    for count in range(40):
        params, state = solver.update(params, state, (A, B))
        if count == 0:
            continue
        x, eta = np.asarray(params), float(state.search.stepsize.eta)
        grad = A.T @ (A @ x - B)
        s = np.eye(6)[np.argmin(grad)]
        a = np.eye(6)[np.argmax(np.where(x > 0, grad, -np.inf))]
        share = x @ a
        d, limit, kind = s - x, 1.0, "forward"
        if variant == "pairwise":
            d, limit, kind = s - a, share, "pair"
        elif variant == "away" and grad @ (x - a) < grad @ (s - x):
            d, limit, kind = x - a, share / (1 - share), "away"
        gamma = min(max(-eta * (grad @ d) / max(d @ d, 1e-300), 0), limit)
        np.testing.assert_allclose(state.search.trial, x + gamma * d, atol=1e-12)
        kinds.add(kind)
    expected = {"plain": {"forward"}, "pairwise": {"pair"}, "away": {"forward", "away"}}
    assert kinds == expected[variant]


def test_a_step_away_goes_as_far_as_its_weight_allows_and_drops_the_vertex(x64):
    weights, scores = jnp.array([0.3, 0.0, 0.7]), jnp.array([9.0, 20.0, 0.0])
    by = _active_set.exchange(weights, scores, 2, pairwise=False)
    np.testing.assert_allclose(by.change, weights - np.eye(3)[0])
    np.testing.assert_allclose(by.limit, 0.3 / 0.7)
    np.testing.assert_array_equal(_active_set.move(weights, by, by.limit), [0, 0, 1])
    half = _active_set.move(weights, by, by.limit / 2)
    np.testing.assert_allclose(half, [0.15, 0, 0.85])
    both = _active_set.exchange(weights, scores, 1, pairwise=True)
    np.testing.assert_array_equal(both.change, [-1, 1, 0])
    dropped = _active_set.move(weights, both, both.limit)
    np.testing.assert_array_equal(dropped, [0, 0.3, 0.7])


def test_every_accepted_step_passes_the_test(x64):
    solver = composite.pairwise_frank_wolfe(squares, prox.simplex_vertex())
    params = jnp.zeros(6)
    state = solver.init(params)
    for _ in range(40):
        before = state.search
        new_params, state = solver.update(params, state, (A, B))
        step = np.asarray(new_params - params)
        if before.phase == 2 and np.any(step) and gap_of(params) > 1e-6:
            grad = A.T @ (A @ params - B)
            model = squares(params, (A, B)) + grad @ step
            model += step @ step / (2 * before.stepsize.eta)
            assert squares(new_params, (A, B)) <= model + 1e-13
        params = new_params


def test_away_and_pairwise_steps_are_linear_where_plain_ones_are_not(x64):
    heavy = np.vstack([A, 1e5 * np.ones(6)])
    expected = optimize.nnls(heavy, np.append(B, 1e5))[0]
    np.testing.assert_array_equal(expected > 1e-9, np.arange(6) < 4)
    # The first vertex lies off the face, and plain steps never get rid of it.
    start = jnp.zeros(6).at[5].set(-100.0)
    gaps = {}
    for make in (composite.frank_wolfe, *VARIANTS):
        solver = make(squares, prox.simplex_vertex())
        out = core.run(solver, start, (A, B), max_steps=300, tol=1e-12)
        gaps[make] = gap_of(out.params)
        if make is not composite.frank_wolfe:
            assert out.converged
            np.testing.assert_allclose(out.params, expected, atol=1e-6)
            assert np.all((np.asarray(out.params) > 0) == (expected > 1e-9))
    assert gaps[composite.frank_wolfe] > 1e-3
    assert all(gaps[make] < 1e-11 for make in VARIANTS)


def test_plain_steps_keep_the_proved_rate(x64):
    lipschitz = np.linalg.norm(A, 2) ** 2
    best = core.run(
        composite.pairwise_frank_wolfe(squares, prox.simplex_vertex()),
        jnp.zeros(6), (A, B), max_steps=300, tol=1e-13,
    ).params  # fmt: skip
    solver = composite.frank_wolfe(
        squares, prox.simplex_vertex(), lambda count: 2 / (count + 2)
    )
    value = lambda x, state: squares(x, (A, B)) - squares(best, (A, B))
    out = core.run(solver, jnp.zeros(6), (A, B), max_steps=200, tol=0.0, record=value)
    # Jaggi (2013), Theorem 1: 2 C / (k + 2), C at most L times the squared diameter.
    bounds = 2 * lipschitz * 2 / (np.arange(1, 201) + 2)
    assert np.all(np.asarray(out.history) <= bounds)


@pytest.mark.parametrize("make", VARIANTS)
def test_a_full_active_set_merges_and_still_converges_in_the_set(x64, make):
    oracle = prox.box_vertex(0.0, 1.0)
    center = jnp.array([0.3, 0.6, 0.2, 0.9, 1.5])
    solver = make(bowl, oracle, capacity=3)
    seen = []
    params, state = jnp.full(5, 9.0), None
    state = solver.init(params)
    step = solver.update
    for _ in range(400):
        params, state = step(params, state, center)
        seen.append(params)
    points = np.asarray(seen[1:])
    assert np.all((points >= -1e-15) & (points <= 1 + 1e-15))
    weights = state.search.plan.active.weights
    assert weights.shape == (3,) and np.isclose(jnp.sum(weights), 1)
    np.testing.assert_allclose(params, [0.3, 0.6, 0.2, 0.9, 1.0], atol=1e-2)


def test_a_matrix_of_low_rank_is_completed():
    truth = np.outer(RNG.normal(size=6), RNG.normal(size=5)).astype(np.float32)
    truth = truth / np.linalg.norm(truth, "nuc")
    mask = (RNG.uniform(size=(6, 5)) < 0.8).astype(np.float32)
    fun = lambda x, target: jnp.sum((mask * (x - target)) ** 2) / 2
    solver = composite.frank_wolfe(fun, prox.nuclear_ball_vertex())
    out = core.run(solver, jnp.zeros((6, 5)), truth, max_steps=500, tol=1e-4)
    assert out.converged
    np.testing.assert_allclose(mask * out.params, mask * truth, atol=2e-2)
    assert np.linalg.norm(out.params, "nuc") <= 1 + 1e-4
    with pytest.raises(ValueError, match="no residual"):
        jax.grad(lambda t: jnp.sum(core.run(solver, jnp.zeros((6, 5)), t).params))(
            truth
        )


def test_derivative_is_that_of_the_projection(x64):
    solver = composite.pairwise_frank_wolfe(bowl, prox.l1_ball_vertex())
    solve = lambda c: core.run(solver, jnp.zeros(3), c, tol=1e-14).params
    center = jnp.array([0.9, -0.6, 0.1])
    np.testing.assert_allclose(solve(center), prox.l1_ball(1.0)(center), atol=1e-7)
    expected = jax.jacrev(prox.l1_ball(1.0))(center)
    np.testing.assert_allclose(jax.jacrev(solve)(center), expected, atol=1e-9)


def test_a_function_may_be_the_oracle_and_params_a_tree():
    def vertex(grad):
        return jax.tree.map(lambda g: -jnp.sign(g), grad)

    fun = lambda x, _: (x["a"] - 0.5) ** 2 + jnp.sum((x["b"] - 3.0) ** 2)
    params = {"a": jnp.zeros(()), "b": jnp.zeros(2)}
    for make in VARIANTS:
        out = core.run(make(fun, vertex, capacity=10), params, max_steps=500)
        assert out.converged
        np.testing.assert_allclose(out.params["a"], 0.5, atol=2e-2)
        np.testing.assert_allclose(out.params["b"], 1.0, atol=1e-5)


@pytest.mark.parametrize("make", [composite.frank_wolfe, *VARIANTS])
def test_bad_lanes_end_as_diverged_with_finite_params_and_spare_others(make):
    solver = make(bowl, prox.simplex_vertex())
    centers = jnp.array([[0.5, 0.4, 0.3], [0.5, jnp.nan, 0.3]])
    out = jax.vmap(lambda c: core.run(solver, jnp.zeros(3), c, max_steps=500))(centers)
    assert out.status[0] in (Status.CONVERGED, Status.MAX_STEPS)
    assert out.status[1] == Status.DIVERGED
    np.testing.assert_array_equal(out.params[1], np.zeros(3))
    np.testing.assert_allclose(out.params[0], np.array([13, 10, 7]) / 30, atol=2e-2)


def test_the_search_steps_back_from_where_the_objective_is_not_finite(x64):
    """The vertex that is gone to first is feasible; most of the others are not."""
    fun = lambda x, c: jnp.sum((x - c) ** 2) - 0.01 * jnp.log(0.9 - x[1])
    solver = composite.pairwise_frank_wolfe(fun, prox.simplex_vertex())
    out = core.run(solver, jnp.zeros(3), jnp.array([0.5, 0.4, 0.3]), tol=1e-6)
    assert out.converged and out.params[1] < 0.9


def test_static_mistakes_are_value_errors():
    with pytest.raises(ValueError, match="oracle must be"):
        composite.frank_wolfe(bowl, 3.0)
    with pytest.raises(ValueError, match="stepsize"):
        composite.frank_wolfe(bowl, prox.simplex_vertex(), -1.0)
    for make in VARIANTS:
        with pytest.raises(ValueError, match="capacity"):
            make(bowl, prox.simplex_vertex(), capacity=1)
        with pytest.raises(ValueError, match="max_trials"):
            make(bowl, prox.simplex_vertex(), max_trials=0)
    solver = composite.frank_wolfe(bowl, lambda grad: grad[:1])
    with pytest.raises(ValueError, match="the vertex that the oracle"):
        core.run(solver, jnp.zeros(3), jnp.zeros(3))
    # A step beyond the vertex would leave the set.
    solver = composite.frank_wolfe(bowl, prox.simplex_vertex(), lambda count: 1.5)
    assert core.run(solver, jnp.zeros(3), jnp.zeros(3)).status == Status.DIVERGED
