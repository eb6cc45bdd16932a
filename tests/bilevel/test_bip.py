"""BiP: the card's iterates and numbers, masks, trees, batches and bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import bilevel, core
from jaxsolve.bilevel import Levels
from jaxsolve.core import Status

RNG = np.random.default_rng(0)
MATRIX, TARGET = RNG.normal(size=(2, 20, 8)), RNG.normal(size=(2, 20))
DATA = (MATRIX[0], TARGET[0]), (MATRIX[1], TARGET[1])
START = Levels(RNG.uniform(0.2, 0.8, 8), RNG.normal(size=8))


def squares(weights, data):
    """Mean squared errors of a linear model."""
    matrix, target = data
    return jnp.mean((matrix @ weights - target) ** 2) / 2


def slope(weights, data):
    """Its gradient."""
    matrix, target = data
    return matrix.T @ (matrix @ weights - target) / len(target)


def best(scores, k):
    """The mask of the k largest scores."""
    return np.isin(np.arange(len(scores)), np.argsort(-scores, kind="stable")[:k])


def onto_capped(scores, k):
    """The card's projection onto {s in [0, 1]^n, 1's <= k}: bisection on nu."""
    low, high = 0.0, np.max(scores)
    for _ in range(200):
        nu = (low + high) / 2
        if np.sum(np.clip(scores - nu, 0, 1)) > k:
            low = nu
        else:
            high = nu
    full = np.sum(np.clip(scores, 0, 1)) <= k
    return np.clip(scores - (0.0 if full else high), 0, 1)


def card(rounds, k, lower_steps, capped):
    """The card's rounds, with momentum on both levels, in NumPy."""
    project = (lambda s: onto_capped(s, k)) if capped else (lambda s: np.clip(s, 0, 1))
    scores, weights = (np.array(part) for part in START)
    mask, fast, slow = best(scores, k), np.zeros(8), np.zeros(8)
    for _ in range(rounds):
        for _ in range(lower_steps):
            gradient = mask * slope(mask * weights, DATA[1]) + 0.05 * weights
            fast = 0.9 * fast + gradient
            weights = weights - 0.1 * fast
            yield scores, weights, mask
        gradient = slope(mask * weights, DATA[0])
        slow = 0.9 * slow + (weights - 0.3 * mask * gradient) * gradient
        scores = project(scores - 0.2 * slow)
        mask = best(scores, k)
        yield scores, weights, mask


@pytest.mark.parametrize("capped", [False, True], ids=["clipped", "capped"])
@pytest.mark.parametrize("lower_steps", [1, 3])
def test_first_iterates_are_those_of_the_card(x64, lower_steps, capped):
    solver = bilevel.bip(
        squares,
        optax.sgd(0.2, momentum=0.9),
        optax.sgd(0.1, momentum=0.9),
        bilevel.top_k(3, capped=capped),
        ridge=0.05,
        coefficient=0.3,
        lower_steps=lower_steps,
    )
    expected = list(card(8, 3, lower_steps, capped))
    masks = []
    for (params, state), (scores, weights, mask) in zip(
        core.iterate(solver, START, DATA, tol=0.0), expected, strict=False
    ):
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
        close(params.upper, scores)
        close(params.lower, weights)
        np.testing.assert_array_equal(state.mask, mask)
        masks.append(tuple(mask))
    assert len(set(masks)) > 1  # the test sees masks change


def test_error_is_measured_once_a_round_and_infinite_after_a_new_mask(x64):
    solver = bilevel.bip(squares, optax.sgd(0.2), optax.sgd(0.1), 3, 0.05, 0.3)
    params, state = START, solver.init(START)
    for _ in range(60):
        params, state = solver.update(params, state, DATA)
        old_params, old_state = params, state
        params, state = solver.update(params, state, DATA)
        gradient = slope(old_state.mask * params.lower, DATA[0])
        h = (params.lower - 0.3 * old_state.mask * gradient) * gradient
        moved = old_params.upper - np.clip(old_params.upper - h, 0, 1)
        expected = max(np.max(np.abs(moved)), float(old_state.gap))
        assert int(state.flips) == np.sum(np.array(state.mask != old_state.mask))
        expected = expected if int(state.flips) == 0 else np.inf
        np.testing.assert_allclose(state.error, expected, rtol=1e-12)


def quadratic(weights, data):
    center, tilt, curvature = data
    return curvature / 2 * jnp.sum((weights - center) ** 2) + tilt @ weights


@pytest.mark.parametrize(
    ("curvature", "low", "high"),
    [(0.0, 0, 1e-9), (0.1, 0.02, 0.15), (1.0, 0.3, 0.9)],
    ids=["0", "0.1", "1"],
)
def test_hypergradient_is_exact_without_curvature_and_drifts_with_it(
    x64, curvature, low, high
):
    rng = np.random.default_rng(0)
    center, tilt = rng.normal(size=(2, 6))
    mask = rng.uniform(0.2, 1.0, 6)  # relaxed: the scores themselves
    data = center, tilt, curvature

    def answer(m):  # the lower solution, ridge 1, entry by entry
        return m * (curvature * center - tilt) / (curvature * m**2 + 1)

    # A first round with the weights at their solution: only the scores move.
    relaxed = bilevel.Selection(lambda scores: scores, lambda scores: scores)
    solver = bilevel.bip(quadratic, optax.sgd(1.0), optax.sgd(0.1), relaxed, 1.0, 1.0)
    start = Levels(mask, answer(mask))
    out = core.run(solver, start, (data, data), max_steps=2, tol=0.0)
    ours = mask - np.asarray(out.params.upper)

    value = lambda m: quadratic(m * answer(m), data)
    steps = 1e-6 * np.eye(6)
    true = np.array([(value(mask + e) - value(mask - e)) / 2e-6 for e in steps])
    g = curvature * (mask * answer(mask) - center) + tilt
    theta = answer(mask)
    formula = theta * g - (g + curvature * mask * theta) * (mask * g) / (
        1 + curvature * mask**2
    )
    size = np.linalg.norm(true)
    assert low <= np.linalg.norm(ours - true) / size <= high
    assert np.linalg.norm(formula - true) / size < 1e-9


def sparse_regressions(seeds=20, n=40, d=60, k=8):
    """The card's toy: correlated columns, eight of them used, little noise."""
    apart = np.abs(np.subtract.outer(np.arange(d), np.arange(d)))
    root = np.linalg.cholesky(0.5**apart)
    problems = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        matrix = rng.normal(size=(n, d)) @ root.T
        support = rng.choice(d, k, replace=False)
        truth = np.zeros(d)
        truth[support] = rng.choice([-1, 1], k) * rng.uniform(1, 2, k)
        target = matrix @ truth + 0.05 * rng.normal(size=n)
        problems.append((matrix, target, truth))
    return [np.stack(part) for part in zip(*problems, strict=True)]


def refit(matrix, target, truth, mask):
    """The error of the model refitted on a mask, and how much of the truth it has."""
    weights = np.zeros(len(mask))
    weights[mask] = np.linalg.lstsq(matrix[:, mask], target, rcond=None)[0]
    return np.sum((weights - truth) ** 2), np.sum(mask & (truth != 0))


def test_sparse_regression_is_pruned_better_than_once_by_magnitude(x64):
    matrices, targets, truths = sparse_regressions()
    ridge = lambda m, t: np.linalg.solve(m.T @ m / 40 + np.eye(60) / 100, m.T @ t / 40)
    dense = np.stack([ridge(m, t) for m, t in zip(matrices, targets, strict=True)])

    def prune(keep):
        solver = bilevel.bip(
            squares, optax.sgd(0.02), optax.sgd(0.05), keep, 0.01, 0.01, lower_steps=5
        )

        @jax.jit
        @jax.vmap
        def masks(weights, matrix, target):
            data = (matrix, target), (matrix, target)
            start = bilevel.prunable(weights)
            out = core.run(solver, start, data, max_steps=3000, tol=0.0)
            return bilevel.pruned(out.params, keep) != 0

        return np.asarray(masks(dense, matrices, targets))

    def score(masks):
        cases = zip(matrices, targets, truths, masks, strict=True)
        return np.mean([refit(*case) for case in cases], axis=0)

    once = score([best(np.abs(weights), 8) for weights in dense])
    clipped, capped = prune(8), prune(bilevel.top_k(8, capped=True))
    assert np.all(np.sum(clipped, axis=1) == 8) and np.all(np.sum(capped, axis=1) == 8)
    # Measured: errors 2.29, 0.50, 0.27; of eight in the support, 6.95, 7.75, 7.85.
    assert score(clipped)[0] < once[0] / 4 and score(capped)[0] < once[0] / 8
    assert once[1] < 7 and score(clipped)[1] > 7.7 and score(capped)[1] > 7.8


def test_exactly_k_are_kept_also_among_equals():
    scores = {"a": jnp.ones((2, 3)), "b": jnp.array([1.0, 0.5])}
    for k in range(1, 9):
        mask = bilevel.top_k(k).mask(scores)
        assert int(sum(jnp.sum(leaf) for leaf in jax.tree.leaves(mask))) == k
    kept = bilevel.pruned(Levels(scores, jax.tree.map(lambda s: 2 * s, scores)), 4)
    np.testing.assert_array_equal(kept["a"], [[2, 2, 2], [2, 0, 0]])
    np.testing.assert_array_equal(kept["b"], [0, 0])


def test_capped_projection_is_the_nearest_point(x64):
    project = bilevel.top_k(3, capped=True).project
    for scale in (0.3, 1.0, 4.0):
        scores = scale * RNG.normal(size=12) + scale / 2
        expected = onto_capped(scores, 3)
        np.testing.assert_allclose(project(jnp.asarray(scores)), expected, atol=1e-12)


def test_groups_are_kept_by_their_norms_leaf_by_leaf():
    first = np.array([[0.1, 0.9, 0.2, 0.0], [0.8, 0.1, 0.2, 0.0]])
    scores = {"first": first, "bias": np.zeros(4), "last": np.array([[0.1], [0.2]])}
    keep = bilevel.top_groups({"first": 2, "bias": None, "last": 1})
    mask = keep.mask(jax.tree.map(jnp.asarray, scores))
    np.testing.assert_array_equal(mask["first"], [[1, 1, 0, 0]] * 2)
    np.testing.assert_array_equal(mask["bias"], np.ones(4))
    np.testing.assert_array_equal(mask["last"], np.ones((2, 1)))
    rows = bilevel.top_groups(1, axis=0).mask(jnp.asarray(first))
    np.testing.assert_array_equal(rows, [[1, 1, 1, 1], [0, 0, 0, 0]])


def test_structured_pruning_finds_the_features_that_count(x64):
    # A matrix of weights; of 6 features, one row each, 2 tell the answers.
    rng = np.random.default_rng(1)
    features = rng.normal(size=(200, 6))
    truth = np.zeros((6, 3))
    truth[[1, 4]] = rng.choice([-1, 1], (2, 3))
    answers = features @ truth
    data = features, answers

    def fun(weights, data):
        features, answers = data
        return jnp.mean((features @ weights - answers) ** 2)

    keep = bilevel.top_groups(2, axis=0, capped=True)
    solver = bilevel.bip(fun, optax.sgd(0.2), optax.adam(0.01), keep)
    solver = core.minibatch(solver, (40, 20), key=jax.random.key(0))
    # The others begin with larger weights.
    weights = np.where(truth == 0, rng.uniform(0.4, 0.6, (6, 3)), 0.3 * truth)
    start = bilevel.prunable(weights)
    first = np.any(np.asarray(bilevel.pruned(start, keep)) != 0, axis=1)
    assert not first[1] and not first[4]
    data = data, data
    out = core.run(solver, start, data, max_steps=1000, tol=0.0)
    kept = np.asarray(bilevel.pruned(out.params, keep))
    assert list(np.flatnonzero(np.any(kept != 0, axis=1))) == [1, 4]
    assert int(out.state.inner.flips) == 0
    assert fun(kept, data[0]) < 1e-3


def test_groups_may_reach_over_leaves():
    def mask(scores):
        alive = bilevel.top_groups(1).mask(scores["matrix"])[0]
        return {"matrix": jnp.broadcast_to(alive, (3, 2)), "bias": alive}

    def fun(weights, target):
        return jnp.sum((weights["matrix"].sum(0) + weights["bias"] - target) ** 2)

    keep = bilevel.Selection(mask)
    start = {"matrix": np.full((3, 2), 0.5), "bias": np.full(2, 0.1)}
    solver = bilevel.bip(fun, optax.sgd(0.1), optax.sgd(0.02), keep)
    target = np.array([0.0, 4.0])
    out = core.run(solver, bilevel.prunable(start), (target, target), max_steps=200)
    kept = bilevel.pruned(out.params, keep)
    assert bool(jnp.all((kept["bias"] == 0) == jnp.all(kept["matrix"] == 0, axis=0)))


def test_scores_of_magnitudes_are_largest_at_one():
    scores, weights = bilevel.prunable({"a": jnp.array([1.0, -4.0]), "b": jnp.zeros(1)})
    np.testing.assert_array_equal(scores["a"], [0.25, 1.0])
    assert weights["b"].shape == (1,)
    zeros = bilevel.prunable(jnp.zeros(2)).upper
    np.testing.assert_array_equal(zeros, [0, 0])


def test_derivative_is_that_of_the_weights_under_the_mask_found(x64):
    solver = bilevel.bip(squares, optax.sgd(0.05), optax.sgd(0.3), 3, 0.05, 0.01)

    def weights(target):
        data = (MATRIX[0], target), (MATRIX[0], target)
        out = core.run(solver, START, data, max_steps=20_000, tol=1e-11)
        return bilevel.pruned(out.params, 3), out.status

    kept, status = weights(TARGET[0])
    assert status == Status.CONVERGED
    alive = np.flatnonzero(kept)
    matrix = MATRIX[0][:, alive]
    normal = matrix.T @ matrix / 20 + 0.05 * np.eye(3)
    jacobian = jax.jacrev(lambda target: weights(target)[0])(TARGET[0])
    expected = np.linalg.solve(normal, matrix.T / 20)
    np.testing.assert_allclose(jacobian[alive], expected, atol=1e-8)
    np.testing.assert_allclose(np.delete(jacobian, alive, 0), 0, atol=1e-8)


def test_only_the_batch_of_the_phase_is_evaluated():
    def fun(weights, data):
        jax.debug.callback(seen.append, data["level"])
        return jnp.sum((weights - data["target"]) ** 2)

    seen = []
    data = tuple({"level": level, "target": np.ones(3)} for level in range(2))
    solver = bilevel.bip(
        fun, optax.sgd(0.1), optax.sgd(0.1), keep=2, ridge=0.1, lower_steps=2
    )
    start = bilevel.prunable(np.arange(3.0))
    core.run(solver, start, data, max_steps=6, tol=0.0)
    jax.effects_barrier()
    assert [int(level) for level in seen] == [1, 1, 0, 1, 1, 0]


def test_nan_lane_leaves_the_others_alone():
    solver = bilevel.bip(squares, optax.sgd(0.1), optax.sgd(0.1), 3)
    single = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), DATA)
    lanes = jax.tree.map(lambda x: jnp.stack([x, jnp.full_like(x, jnp.nan)]), single)
    start = bilevel.prunable(jnp.asarray(START.lower, jnp.float32))
    run = lambda data: core.run(solver, start, data, max_steps=30, tol=0.0)
    out = jax.vmap(run)(lanes)
    assert list(out.status) == [Status.MAX_STEPS, Status.DIVERGED]
    np.testing.assert_allclose(out.params.lower[0], run(single).params.lower, rtol=1e-5)
    np.testing.assert_array_equal(out.params.lower[1], start.lower)


def test_optimizers_whose_states_begin_infinite_are_no_divergence():
    patient = optax.contrib.reduce_on_plateau(accumulation_size=20)
    slow, fast = (optax.chain(optax.sgd(rate), patient) for rate in (0.05, 0.1))
    plain = optax.sgd(0.1)
    for pair in ((slow, plain), (plain, fast)):
        out = core.run(bilevel.bip(squares, *pair, 3), START, DATA, tol=0.0)
        assert out.status == Status.MAX_STEPS
        kept = bilevel.pruned(out.params, 3)
        assert squares(kept, DATA[1]) < squares(bilevel.pruned(START, 3), DATA[1])


def test_weights_may_be_of_sixteen_bits():
    wide = lambda weights, data: squares(weights.astype(jnp.float32), data)
    data = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), DATA)
    start = bilevel.prunable(jnp.asarray(START.lower, jnp.bfloat16))
    solver = bilevel.bip(wide, optax.sgd(0.1), optax.sgd(0.1), 3)
    out = core.run(solver, start, data, max_steps=40, tol=0.0)
    kept = bilevel.pruned(out.params, 3)
    assert kept.dtype == jnp.bfloat16 and int(jnp.sum(kept != 0)) == 3
    loss = lambda weights: squares(weights.astype(jnp.float32), data[0])
    assert loss(kept) < loss(bilevel.pruned(start, 3)) / 2


def test_wrong_options_and_data_are_refused():
    make = functools.partial(bilevel.bip, squares, optax.sgd(0.1), optax.sgd(0.1))
    run = lambda solver, data=DATA: core.run(solver, START, data, max_steps=3)
    for options, message in (
        (dict(keep=0), "k must be"),
        (dict(keep="half"), "keep must be"),
        (dict(keep=3, ridge=-1.0), "ridge"),
        (dict(keep=3, coefficient=np.inf), "coefficient"),
        (dict(keep=3, lower_steps=0), "lower_steps"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**options)
    with pytest.raises(ValueError, match="optax"):
        bilevel.bip(squares, 0.1, optax.sgd(0.1), 3)
    with pytest.raises(ValueError, match="at most the number of weights, 8"):
        run(make(9))
    with pytest.raises(ValueError, match="at most the number of groups"):
        run(make(bilevel.top_groups(9)))
    with pytest.raises(ValueError, match="no axis"):
        run(make(bilevel.top_groups(1, axis=1)))
    with pytest.raises(ValueError, match="kept"):
        bilevel.top_groups({"a": -1})
    with pytest.raises(ValueError, match="pair"):
        run(make(3), DATA[0] + DATA[1])
    with pytest.raises(ValueError, match="empty"):
        run(make(3), ((np.zeros((0, 8)), np.zeros(0)), DATA[1]))
    with pytest.raises(ValueError, match="Levels"):
        core.run(make(3), tuple(START), DATA)
