"""TOPO: the card's search in NumPy, its known results, other scores, bad input."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxsolve import bilevel, composite, core, prox
from jaxsolve.bilevel._topo_search import candidates
from jaxsolve.core import Status
from tests.bilevel.cases_topo import masked
from tests.bilevel.dags import distance, draw

SIZES = dict(size_small=4, size_large=11)
WALKS = {
    "logdet": lambda A: np.linalg.inv(np.eye(len(A)) - A).T,
    "exp": lambda A: scipy.linalg.expm(A).T,
    "polynomial": lambda A: (
        np.linalg.matrix_power(np.eye(len(A)) + A / len(A), len(A) - 1).T
    ),
}
MEASURES = {
    "logdet": bilevel.logdet_acyclicity,
    "exp": bilevel.exp_acyclicity,
    "polynomial": bilevel.polynomial_acyclicity,
}


def problem():
    """Seven nodes, and where to start."""
    _, _, moments, _ = draw(seed=3, nodes=7, edges=13, examples=200)
    return moments, np.array([4, 0, 6, 2, 5, 1, 3])


def fit(moments, order):
    """The card's inner solve: every node on those before it."""
    place = np.argsort(order)
    columns = [masked(moments, j, place < place[j]) for j in range(len(order))]
    values, weights = zip(*columns, strict=True)
    return np.array(values), np.stack(weights, axis=1)


def swap(order, j, i):
    """The order with two nodes swapped, and the interval of places in between."""
    p, q = (int(np.where(order == node)[0][0]) for node in (j, i))
    swapped = order.copy()
    swapped[[p, q]] = swapped[[q, p]]
    return swapped, set(range(p, q + 1))


def card(moments, order, walks, updates, size_small, size_large, first=False, xi=0.0):
    """The card's outer iterations: (score, order, weights) after every update."""
    values, weights = fit(moments, order)
    large, searches, out = False, 0, [(np.sum(values), order, weights)]
    while len(out) < updates:
        place = np.argsort(order)
        forbidden = place[None, :] < place[:, None]  # i -> j with j before i
        closed = walks(np.abs(weights))
        pairs = sorted(np.argwhere(forbidden), key=lambda ij: closed[tuple(ij)])
        pairs = pairs[size_small:size_large] if large else pairs[:size_small]
        slope = moments @ weights - moments
        trials = []
        for i, j in pairs:
            if np.abs(slope[i, j]) <= xi:
                continue
            swapped, interval = swap(order, j, i)
            score = np.sum(fit(moments, swapped)[0])
            if score < np.sum(values) - 1e-12:
                trials.append((score, (j, i), interval))
        searches += large
        large = not trials and not large and searches < 1
        trials = trials[:1] if first else sorted(trials, key=lambda trial: trial[0])
        taken = set()
        for _, (j, i), interval in trials:
            if not taken & interval:
                order, _ = swap(order, j, i)
                taken |= interval
        values, weights = fit(moments, order)
        out.append((np.sum(values), order, weights))
    return out


@pytest.mark.parametrize(
    ("measure", "xi", "first"),
    [("logdet", 0.0, False), ("exp", 0.5, False), ("polynomial", 0.0, True)],
)
def test_first_iterates_are_the_cards(x64, measure, xi, first):
    moments, order = problem()
    options = dict(acyclicity=MEASURES[measure], first=first, **SIZES)
    solver = bilevel.topo(bilevel.linear_scores(), xi, **options)
    params = bilevel.complete_dag(order)
    state = solver.init(params, moments)
    searched = []
    for expected in card(
        moments, order, WALKS[measure], 15, first=first, xi=xi, **SIZES
    ):
        searched.append(bool(state.large))
        params, state = solver.update(params, state, moments)
        np.testing.assert_allclose(state.score, expected[0], rtol=1e-12)
        np.testing.assert_array_equal(state.order, expected[1])
        np.testing.assert_allclose(params, expected[2], atol=1e-10)
    assert any(searched) and state.status == Status.CONVERGED and state.error == 0


def runs(nodes, edges, **sizes):
    """One vmapped run over ten random problems: scores, true scores, distances."""
    drawn = [draw(seed, nodes, edges) for seed in range(10)]
    truths, orders, moments, starts = map(np.stack, zip(*drawn, strict=True))
    scores = bilevel.linear_scores()
    solver = bilevel.topo(scores, **sizes)

    @jax.jit
    @jax.vmap
    def solve(start, order, moments):
        true_values, _ = scores.fit(moments, order)
        return core.run(solver, start, moments, tol=0.0), jnp.sum(true_values)

    out, true_scores = solve(starts, orders, moments)
    assert np.all(out.status == Status.CONVERGED)
    distances = list(map(distance, np.asarray(out.params), truths))
    return out.state.score, true_scores, distances


def test_ten_graphs_of_ten_nodes_are_all_recovered(x64):
    scores, true_scores, distances = runs(10, 20, size_small=30, size_large=45)
    assert distances == [0] * 10
    # One ends in a local minimum, in which no single swap of all 45 improves.
    assert np.sum(scores <= true_scores + 1e-12) >= 9
    assert np.all(scores <= true_scores + 1e-4)


def test_nine_graphs_of_twenty_nodes_in_ten_are_recovered(x64):
    scores, true_scores, distances = runs(20, 40, size_small=60, size_large=190)
    assert np.all(scores <= true_scores + 1e-12)
    assert distances.count(0) >= 9 and max(distances) <= 1


def test_scores_fall_and_every_iterate_is_acyclic(x64):
    moments, order = problem()
    solver = bilevel.topo(bilevel.linear_scores(), **SIZES)
    params = bilevel.complete_dag(order)
    state, before = solver.init(params, moments), np.inf
    while state.status == Status.RUNNING:
        last = np.asarray(params)
        params, state = solver.update(params, state, moments)
        assert state.score < before or np.array_equal(params, last)
        before, order = state.score, np.asarray(state.order)
        ordered = np.asarray(params)[np.ix_(order, order)]
        np.testing.assert_array_equal(ordered, np.triu(ordered, 1))
    assert state.status == Status.CONVERGED
    for measure in MEASURES.values():
        np.testing.assert_allclose(jax.jit(measure)(abs(params)), 0, atol=1e-12)


def test_a_walk_too_heavy_for_the_dtype_is_searched_last(x64):
    scores, order = bilevel.linear_scores(), np.array([2, 0, 3, 1])
    params = 1e150 * bilevel.complete_dag(order)  # three edges in a row overflow
    state = bilevel.topo(scores).init(params)
    measure = bilevel.logdet_acyclicity
    swaps = candidates(scores, measure, 0.0, (5, 6), state, jnp.eye(4))
    assert (swaps.early[1, 0], swaps.late[1, 0]) == (0, 3)
    tries = zip(np.asarray(swaps.early)[0], np.asarray(swaps.late)[0], strict=True)
    assert sorted(tries) == [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]


def test_with_all_pairs_no_swap_is_left_that_improves(x64):
    moments, order = problem()
    solver = bilevel.topo(bilevel.linear_scores())
    out = core.run(solver, bilevel.complete_dag(order), moments, tol=0.0)
    for j, i in itertools.combinations(np.asarray(out.state.order), 2):
        swapped, _ = swap(np.asarray(out.state.order), j, i)
        assert np.sum(fit(moments, swapped)[0]) >= out.state.score - 1e-12


def test_large_searches_are_counted_and_may_be_none(x64):
    moments, order = problem()

    def solve(large_searches):
        solver = bilevel.topo(
            bilevel.linear_scores(),
            size_small=1,
            size_large=21,
            large_searches=large_searches,
        )
        return core.run(solver, bilevel.complete_dag(order), moments, tol=0.0).state

    none, many = solve(0), solve(50)
    assert none.searches == 0 and many.searches > 1
    assert none.score > many.score


def test_linear_scores_are_masked_regressions_with_their_slope(x64):
    moments, order = problem()
    ridge, eye = 0.3, np.eye(7)
    scores = bilevel.linear_scores(ridge)
    values, weights = jax.jit(scores.fit)(moments, order)
    expected = fit(moments + ridge * eye, order)
    np.testing.assert_allclose(weights, expected[1], atol=1e-12)
    np.testing.assert_allclose(values, expected[0] - ridge / 2, atol=1e-12)

    def objective(weights):
        left = eye - weights
        return (jnp.trace(left.T @ moments @ left) + ridge * jnp.sum(weights**2)) / 2

    value, slope = jax.jit(jax.value_and_grad(objective))(weights)
    np.testing.assert_allclose(np.sum(values), value, rtol=1e-12)
    found = jax.jit(scores.slope)(moments, weights)
    np.testing.assert_allclose(found, slope, atol=1e-12)


def test_collinear_data_break_down_without_a_ridge_and_not_with_one(x64):
    data = np.random.default_rng(0).normal(size=(3, 5))  # fewer examples than nodes
    moments, start = data.T @ data / 3, bilevel.complete_dag(np.arange(5))

    @jax.jit
    def solve(ridge):
        solver = bilevel.topo(bilevel.linear_scores(ridge))
        return core.run(solver, start, moments)

    assert solve(1e-8).converged
    out = solve(0.0)
    assert out.status == Status.DIVERGED and core.all_finite(out.params)


@pytest.mark.parametrize("size", [5, 60])
def test_collinear_data_are_judged_alike_in_single_precision(size):
    data = np.random.default_rng(0).normal(size=(4 * size, size))
    data[:, -1] = data[:, :-1].sum(1)
    moments = (data.T @ data / len(data)).astype(np.float32)
    order = jnp.arange(size)
    values, _ = bilevel.linear_scores().fit(moments, order)
    assert np.isnan(values[-1])
    ridge = 1e-4 * np.max(np.diagonal(moments))
    values, weights = bilevel.linear_scores(ridge).fit(moments, order)
    assert core.all_finite(values)
    np.testing.assert_allclose(weights[:-1, -1], 1, atol=0.05)


def quadratic(w, problem):
    moments, node, mask = problem
    w = jnp.where(mask, w, 0)
    return w @ moments @ w / 2 - moments[node] @ w + moments[node, node] / 2


def lasso(weight, stepsize):
    """Scores by an inner solver: proximal gradient on the lasso of a node."""
    solver = composite.proximal_gradient(quadratic, prox.l1(weight), stepsize)
    penalty = lambda w: weight * jnp.sum(jnp.abs(w))
    return bilevel.solver_scores(quadratic, solver, penalty, max_steps=3000, tol=1e-12)


def test_lasso_by_an_inner_solver_ends_at_a_point_of_karush_kuhn_tucker(x64):
    _, _, moments, _ = draw(seed=4, nodes=5, edges=6)
    scores = lasso(0.2, 1 / np.linalg.norm(moments, 2))
    solver = bilevel.topo(scores, min_slope=0.2, first=True)
    out = core.run(solver, bilevel.complete_dag(np.arange(5)[::-1]), moments)
    assert out.converged
    weights, order = np.asarray(out.params), np.asarray(out.state.order)
    place = np.argsort(order)
    slope = moments @ weights - moments
    found = jax.jit(scores.slope)(moments, weights)
    others = ~np.eye(5, dtype=bool)
    np.testing.assert_allclose(found[others], slope[others], atol=1e-10)
    allowed = place[:, None] < place[None, :]
    bent = np.where(weights != 0, slope + 0.2 * np.sign(weights), 0)
    np.testing.assert_allclose(np.where(allowed, bent, 0), 0, atol=1e-9)
    assert np.max(np.abs(np.where(allowed, slope, 0))) <= 0.2 + 1e-9
    # A forbidden edge that would close no cycle does not pay either.
    free = ~allowed & others & (WALKS["logdet"](np.abs(weights)) == 0)
    assert np.max(np.abs(np.where(free, slope, 0)), initial=0) <= 0.2 + 1e-9


def test_an_inner_run_that_is_cut_off_has_no_score():
    _, _, moments, _ = draw(seed=4, nodes=5, edges=6)
    stepsize = 1 / np.linalg.norm(moments, 2)
    start, penalty = jnp.zeros((5, 5)), prox.l1(0.2)
    inner = composite.proximal_gradient(quadratic, penalty, stepsize)
    for max_steps, status in ((1, Status.DIVERGED), (3000, Status.CONVERGED)):
        scores = bilevel.solver_scores(quadratic, inner, max_steps=max_steps)
        out = core.run(bilevel.topo(scores), start, moments)
        assert out.status == status


def additive(data, node, mask):
    """A node as a sum of a parabola in each of those before it."""
    features = jnp.concatenate(
        [data, data**2 - jnp.mean(data**2, axis=0, keepdims=True)], axis=1
    )
    features = jnp.where(jnp.tile(mask, 2)[None, :], features, 0)
    gram = features.T @ features + 1e-6 * jnp.eye(features.shape[1])
    coefficients = jnp.linalg.solve(gram, features.T @ data[:, node])
    misfit = data[:, node] - features @ coefficients
    weights = jnp.sqrt(jnp.sum(coefficients.reshape(2, -1) ** 2, axis=0))
    return jnp.mean(misfit**2) / 2, weights


def test_a_model_of_ones_own_recovers_a_graph_that_is_not_linear(x64):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(500, 4))
    data = noise.copy()
    data[:, 2] += data[:, 0] ** 2 - 1
    data[:, 1] += data[:, 2] - data[:, 0]
    data[:, 3] += 0.5 * data[:, 1] ** 2 - 0.5 * np.mean(data[:, 1] ** 2)
    solver = bilevel.topo(bilevel.node_scores(additive), size_small=3, size_large=6)
    out = core.run(solver, bilevel.complete_dag(np.arange(4)[::-1]), data)
    edges = {tuple(edge) for edge in np.argwhere(out.params > 0.3).tolist()}
    assert out.converged and edges == {(0, 2), (2, 1), (0, 1), (1, 3)}


def test_topological_order_is_one_of_every_graph_without_cycles():
    list_nodes = jax.jit(bilevel.topological_order)
    for seed in range(5):
        weights, _, _, _ = draw(seed, nodes=12, edges=25, examples=13)
        place = np.argsort(list_nodes(weights.astype(np.float32)))
        early, late = np.nonzero(weights)
        assert np.all(place[early] < place[late])


def test_topological_order_is_a_permutation_whatever_the_weights():
    for value in (np.inf, np.finfo(np.float32).max, np.nan):
        weights = np.full((4, 4), value, np.float32)
        order = bilevel.topological_order(weights)
        np.testing.assert_array_equal(np.sort(order), np.arange(4))
    path = np.inf * bilevel.complete_dag(np.array([2, 0, 1]))
    path = np.nan_to_num(path, nan=0.0, posinf=np.inf)
    np.testing.assert_array_equal(bilevel.topological_order(path), [2, 0, 1])


def test_the_order_of_an_almost_acyclic_start_is_kept():
    order = np.array([2, 0, 3, 1])
    weights = bilevel.complete_dag(order) + 0.01
    np.testing.assert_array_equal(bilevel.topological_order(weights), order)
    solver = bilevel.topo(bilevel.linear_scores())
    np.testing.assert_array_equal(solver.init(weights, None).order, order)


@pytest.mark.parametrize(
    "options",
    [
        dict(size_small=0),
        dict(size_small=2.0),
        dict(size_small=50, size_large=40),
        dict(large_searches=-1),
        dict(min_slope=-0.1),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match=next(reversed(options))):
        bilevel.topo(bilevel.linear_scores(), **options)


def test_wrong_scores_and_shapes_are_refused():
    scores, start = bilevel.linear_scores(), bilevel.complete_dag(np.arange(3))
    with pytest.raises(ValueError, match="Scores"):
        bilevel.topo(additive)
    with pytest.raises(ValueError, match="min_slope"):
        bilevel.topo(bilevel.node_scores(additive), 0.1)
    with pytest.raises(ValueError, match="ridge"):
        bilevel.linear_scores(-1.0)
    with pytest.raises(ValueError, match=r"X.T @ X"):
        core.run(bilevel.topo(scores), start, np.ones((10, 3)))
    for params in (jnp.zeros(3), jnp.zeros((2, 3)), jnp.zeros((1, 1))):
        with pytest.raises(ValueError, match="weights"):
            core.run(bilevel.topo(scores), params, np.eye(3))
    flat = bilevel.node_scores(lambda data, node, mask: (jnp.zeros(()), jnp.zeros(2)))
    with pytest.raises(ValueError, match="shapes"):
        core.run(bilevel.topo(flat), start)
    with pytest.raises(ValueError, match="derivative"):
        jax.grad(lambda data: core.run(bilevel.topo(scores), start, data).params.sum())(
            jnp.eye(3)
        )
