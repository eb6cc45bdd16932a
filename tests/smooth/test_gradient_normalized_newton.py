"""Gradient-normalised Newton: Algorithm 1, its counts and rates, approximations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import core, smooth
from jaxsolve.core import Status
from jaxsolve.smooth._curvature import Rows
from jaxsolve.smooth._metric import Modes, flat_part, modes

GNS = smooth.gradient_normalized_newton


def rosenbrock(x, data):
    return (1 - x[0]) ** 2 + data * (x[1] - x[0] ** 2) ** 2


def soft_max(x, data):
    return jax.nn.logsumexp(data[0] @ x - data[1])


def soft_max_rows(x, data):
    """The curvature of the weighted rows alone, without the outer product."""
    weights = jax.nn.softmax(data[0] @ x - data[1])
    return jnp.sqrt(weights)[:, None] * data[0]


def quartic(x, data):
    return jnp.sum((data[0] @ x - data[1]) ** 2) ** 2 / 4


def gram(data):
    return data[0].T @ data[0] + 1e-8 * jnp.eye(data[0].shape[1])


def soft_max_data():
    """A hundred planes whose soft maximum is least at zero."""
    rng = np.random.default_rng(0)
    planes, offsets = rng.uniform(-1, 1, (100, 100)), rng.uniform(-1, 1, 100)
    weights = np.exp(-offsets) / np.exp(-offsets).sum()
    return planes - weights @ planes, offsets


def quartic_data():
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (100, 200)), rng.uniform(-1, 1, 100)


def plain(fun, grad, hessian, metric, x, stop, gamma=1.0):
    """Algorithm 1 with Cholesky factors; iterates, and how many were computed."""
    iterates, solves = [], 0
    f, g, inverse = fun(x), grad(x), np.linalg.inv(metric)
    while f > stop:
        h = hessian(x)
        size = np.sqrt(g @ inverse @ g)
        for _ in range(40):
            solves += 1
            shift = size / (gamma + 1e-8)
            try:
                np.linalg.cholesky(h + shift * metric)
            except np.linalg.LinAlgError:
                gamma /= 2
                continue
            new = x - np.linalg.solve(h + shift * metric, g)
            new_f, new_g = fun(new), grad(new)
            if f - new_f >= new_g @ inverse @ new_g / (8 * shift):
                break
            gamma /= 2
        gamma = max(2 * gamma, 1e-9)
        x, f, g = new, new_f, new_g
        iterates.append(x)
    return np.stack(iterates), solves


def accepted(solver, start, data, steps, stop=-np.inf):
    """The accepted iterates and their states; the start is the first."""
    update = jax.jit(solver.update)
    params, state = update(start, solver.init(start, data), data)
    found = [(params, state)]
    while len(found) <= steps and state.value > stop:
        params, state = update(params, state, data)
        if state.trials == 0:
            found.append((params, state))
    return found


def solves(found):
    """How many systems Algorithm 1 solves: gamma tells how often it was halved."""
    steps = len(found) - 1
    return 2 * steps - round(float(jnp.log2(found[-1][1].gamma)))


def test_iterates_are_those_of_a_plain_transcription(x64):
    calls = [jax.jit(f(rosenbrock)) for f in (lambda f: f, jax.grad, jax.hessian)]
    call = [lambda x, c=c: np.asarray(c(x, 100.0)) for c in calls]
    start = np.array([-2.0, 2.0])
    expected, count = plain(*call, np.eye(2), start, 1e-10)
    found = accepted(GNS(rosenbrock), jnp.array(start), 100.0, 100, stop=1e-10)
    points = np.stack([params for params, _ in found[1:]])
    np.testing.assert_allclose(points, expected, rtol=1e-10)
    assert (len(expected), count) == (len(found) - 1, solves(found)) == (52, 106)


def test_soft_maxima_take_the_steps_of_the_paper(x64):
    """Log-sum-exp: 15 steps and 24 solves exactly, 26 and 46 approximately."""
    data, start = soft_max_data(), jnp.ones(100)
    stop = float(soft_max(jnp.zeros(100), data)) + 1e-8
    exact = accepted(GNS(soft_max, metric=gram), start, data, 60, stop)
    assert (len(exact) - 1, solves(exact)) == (15, 24)
    weighted = GNS(soft_max, smooth.factored_hessian(soft_max_rows), gram)
    approximate = accepted(weighted, start, data, 60, stop)
    assert (len(approximate) - 1, solves(approximate)) == (26, 46)


def test_a_curvature_of_rank_one_is_enough_for_a_power_of_a_norm(x64):
    """About 21 steps and 42 solves, each two products with triangles."""
    rank_one = smooth.rank_one_hessian(lambda value: 1 / (2 * value))
    solver, data = GNS(quartic, rank_one, gram), quartic_data()
    found = accepted(solver, jnp.ones(200), data, 60, stop=1e-10)
    assert 19 <= len(found) - 1 <= 22 and 38 <= solves(found) <= 44


def test_steps_of_a_curvature_of_rank_one_are_those_of_its_matrix(x64):
    matrix, offset = np.split(np.random.default_rng(2).normal(size=(6, 9)), [8], axis=1)
    offset = offset[:, 0]
    metric = matrix.T @ matrix + np.eye(8)

    def hessian(x):
        u = matrix @ x - offset
        slope = (u @ u) * (matrix.T @ u)
        return 2 / (u @ u) ** 2 * np.outer(slope, slope)

    fun = lambda x: np.sum((matrix @ x - offset) ** 2) ** 2 / 4
    grad = lambda x: np.sum((u := matrix @ x - offset) ** 2) * (matrix.T @ u)
    expected, _ = plain(fun, grad, hessian, metric, np.ones(8), 1e-6)
    rank_one = smooth.rank_one_hessian(lambda value: 1 / (2 * value))
    solver = GNS(quartic, rank_one, metric)
    found = accepted(solver, jnp.ones(8), (matrix, offset), len(expected))
    points = np.stack([params for params, _ in found[1:]])
    assert len(points) > 5
    np.testing.assert_allclose(points, expected, rtol=1e-8)


def saddle(x, data):
    """Descends from its saddle at zero until the quartic term turns it around."""
    return x[0] ** 2 / 2 - x[1] ** 2 / 2 + data * x[1] ** 4


@pytest.mark.parametrize(
    ("fun", "start", "data"),
    [
        (rosenbrock, (-2.0, 2.0), 100.0),
        (saddle, (0.18, 0.2401), 1e-8),
        (saddle, (0.5, 1e-3), 0.1),
        (lambda x, data: jnp.sum(jnp.cos(x + data * x[::-1])), (0.3, -0.2), 0.5),
    ],
    ids=["rosenbrock", "steep saddle", "saddle", "cosines"],
)
@pytest.mark.parametrize("metric", [None, np.diag([1.0, 4.0])], ids=["plain", "metric"])
def test_no_step_is_longer_than_gamma_and_every_one_descends_enough(
    fun, start, data, metric, x64
):
    solver = GNS(fun, gamma=0.3, metric=metric)
    update, B = jax.jit(solver.update), np.eye(2) if metric is None else metric
    params, state = update(jnp.array(start), solver.init(jnp.array(start), data), data)
    taken, indefinite = 0, np.min(state.modes.values) < 0
    for _ in range(60):
        before = state
        assert before.step @ B @ before.step <= (before.gamma + 2e-8) ** 2
        new, state = update(params, before, data)
        if state.trials == 0:
            np.testing.assert_array_equal(new, params + before.step)
            square = state.grad @ np.linalg.solve(B, state.grad)
            wanted = float(square / (8 * before.shift))
            if wanted > 1e-14 * abs(before.value):  # what values resolve
                taken += 1
                assert before.value - state.value >= wanted * (1 - 1e-12)
        params = new
    assert taken > 5 and (indefinite or fun is rosenbrock)


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_step_is_longer_than_gamma_where_the_model_is_barely_positive(
    adaptive, dtype, request
):
    if dtype == "float64":
        request.getfixturevalue("x64")
    solver = GNS(saddle, gamma=0.3, adaptive=adaptive)
    data, update = jnp.asarray(1e-8, dtype), jax.jit(solver.update)
    for second in (0.2401, 0.24, 0.239, 1e-3, 1e-9):
        start = jnp.asarray([0.18, second], dtype)
        params, state = update(start, solver.init(start, data), data)
        new, after = update(params, state, data)
        assert jnp.linalg.norm(state.step) <= 0.3 * (1 + 1e-6)
        assert after.trials > 0 or jnp.linalg.norm(new - params) <= 0.3 * (1 + 1e-6)


def test_few_rows_keep_their_curvature_among_many_unknowns():
    """Rows whose squared lengths are far apart, in float32."""
    n, lengths = 300_000, (1000, 100, 10)
    rows = np.zeros((3, n), np.float32)
    rows[0, :1000] = rows[1, 1000:1100] = rows[2, 1100:1110] = 1
    found = modes(Rows(jnp.asarray(rows)), None)
    np.testing.assert_allclose(np.sort(found.values)[::-1], lengths, rtol=1e-5)
    repeated = modes(Rows(jnp.asarray(rows[[0, 1, 1, 2, 0]])), None)
    values = np.sort(repeated.values)[::-1]
    np.testing.assert_allclose(values, [2000, 200, 10, 0, 0], rtol=1e-5)
    seen = repeated.vectors[:, np.asarray(repeated.values) > 0]
    np.testing.assert_allclose(seen.T @ seen, np.eye(3), atol=1e-5)
    step = jnp.asarray(rows[2])
    np.testing.assert_allclose(flat_part(found, step), np.zeros_like(step), atol=1e-5)
    flat = flat_part(Modes(jnp.ones(n).at[3].set(0), None), step + 1)
    assert np.flatnonzero(flat).tolist() == [3]  # of a diagonal too
    fun = lambda x, data: jnp.sum((data @ x - 1) ** 2) / 2
    solver = GNS(fun, smooth.factored_hessian(lambda x, data: data))
    out = core.run(solver, jnp.zeros(n), jnp.asarray(rows), max_steps=60)
    assert bool(out.converged) and int(out.state.count) < 60


@pytest.mark.parametrize("distance", [0.0, -20.0])
def test_separable_logistic_regression_converges_linearly(distance, x64):
    """Its minimum is at infinity; at -20 every row is misclassified by far."""
    rng, truth = np.random.default_rng(3), np.array([1.0, -2.0, 0.5, 1.0])
    features = rng.normal(size=(60, 4))
    rows = features * np.sign(features @ truth)[:, None]
    fun = lambda w, data: jnp.mean(jnp.logaddexp(0.0, -data @ w))
    found = accepted(GNS(fun), jnp.array(distance * truth), rows, 60, stop=1e-9)
    values = np.array([state.value for _, state in found])
    assert values[-1] <= 1e-9
    small = values[values < 1]
    assert np.all(small[1:] <= 0.75 * small[:-1])
    assert len(values) - len(small) <= 7  # steps double while nothing is learned


def test_approximations_agree_with_the_hessian_where_they_should(x64):
    rng = np.random.default_rng(1)
    data = rng.normal(size=(12, 3)), rng.normal(size=12)
    squares = lambda x, d: jnp.sum((d[0] @ x - d[1]) ** 2) / 2
    residuals = lambda x, d: d[0] @ x - d[1]
    half = lambda u, d: jnp.sum(u**2) / 2
    start = jnp.array([2.0, -1.0, 0.5])
    exact = accepted(GNS(squares), start, data, 4)[-1][0]
    for hessian in (
        smooth.gauss_newton_hessian(residuals, half),
        smooth.factored_hessian(jax.jacrev(residuals)),
    ):
        other = accepted(GNS(squares, hessian), start, data, 4)[-1][0]
        np.testing.assert_allclose(other, exact, rtol=1e-9)
    fisher = smooth.fisher_hessian(lambda x, d: residuals(x, d) ** 2 / 2, 0.5)
    state = accepted(GNS(squares, fisher), start, data, 0)[0][1]
    slopes = residuals(start, data)[:, None] * data[0]
    values, vectors = (np.asarray(x) for x in state.modes)
    curvature = vectors * values @ vectors.T
    np.testing.assert_allclose(curvature, slopes.T @ slopes / 2, rtol=1e-9)
    separate = lambda x, d: jnp.sum(jnp.cosh(x - d[1][:3]))
    exact = accepted(GNS(separate), start, data, 4)[-1][0]
    curvature = lambda x, d: jnp.cosh(x - d[1][:3])
    for entries in (None, curvature):
        diagonal = GNS(separate, smooth.diagonal_hessian(entries))
        other = accepted(diagonal, start, data, 4)[-1][0]
        np.testing.assert_allclose(other, exact, rtol=1e-9)


def test_a_metric_is_a_change_of_units(x64):
    units = np.array([2.0, 0.5])
    start, scaled = jnp.array([-2.0, 2.0]), lambda y, d: rosenbrock(y / units, d)
    plain = accepted(GNS(scaled), start * units, 100.0, 20)[-1][0] / units
    for metric in (units**2, np.diag(units**2), lambda data: jnp.diag(units**2)):
        point = accepted(GNS(rosenbrock, metric=metric), start, 100.0, 20)[-1][0]
        np.testing.assert_allclose(point, plain, rtol=1e-8)
    diagonal, entries = smooth.diagonal_hessian(), lambda x, d: 1 + x**2
    bowl = lambda x, d: jnp.sum(x**2 / 2 + x**4 / 12)
    whole = GNS(bowl, smooth.diagonal_hessian(entries), np.diag(units))
    parts = GNS(bowl, diagonal, units)
    points = [accepted(s, start, None, 6)[-1][0] for s in (whole, parts)]
    np.testing.assert_allclose(*points, rtol=1e-8)


def test_with_a_fixed_gamma_every_trial_is_taken(x64):
    fun = lambda x, data: jnp.sum(jnp.sqrt(1 + (x - data) ** 2))
    solver = GNS(fun, gamma=0.5, adaptive=False)
    found = accepted(solver, jnp.array([5.0]), 1.0, 30)
    assert int(found[-1][1].count) == 31 and found[-1][1].gamma == 0.5
    lengths = [
        float(abs(b[0] - a[0])[0]) for a, b in zip(found, found[1:], strict=False)
    ]
    assert max(lengths) <= 0.5 and bool(
        core.run(solver, jnp.array([5.0]), 1.0).converged
    )


def test_a_step_into_a_region_without_values_is_shortened():
    fun = lambda x, data: jnp.sum(data * x - jnp.log(x))
    for adaptive in (True, False):
        solver = GNS(fun, gamma=100.0, adaptive=adaptive)
        out = core.run(solver, jnp.array([5.0, 3.0]), jnp.array([1.0, 4.0]))
        assert bool(out.converged) or not adaptive
        assert core.all_finite(out.params)


@pytest.mark.parametrize(
    ("fun", "status"),
    [
        (lambda x, data: jnp.sum(x), Status.DIVERGED),
        (lambda x, data: -jnp.sum(x**3), Status.DIVERGED),
        (lambda x, data: jnp.sum(x) * jnp.nan, Status.DIVERGED),
        (lambda x, data: jnp.sum((x - 1e15) ** 2), Status.CONVERGED),
        (lambda x, data: 1e30 * jnp.sum((x - 1) ** 2), Status.CONVERGED),
    ],
    ids=["linear", "cubic", "nan", "far", "steep"],
)
def test_ends_are_told_as_they_are(fun, status):
    out = core.run(GNS(fun), jnp.ones(2) * 0.7)
    assert out.status == status and core.all_finite(out.params)


def test_wrong_options_are_refused():
    for gamma in (0.0, -1.0, np.inf, np.nan, np.float32(-1), jnp.float32(-1), None):
        with pytest.raises(ValueError, match="gamma must be one real number"):
            GNS(rosenbrock, gamma=gamma)
    with pytest.raises(ValueError, match="scale must be positive"):
        smooth.fisher_hessian(lambda x, data: x, 0.0)
    with pytest.raises(ValueError, match="metric must have the shape"):
        GNS(rosenbrock, metric=np.eye(3)).init(jnp.ones(2), 100.0)
    with pytest.raises(ValueError, match="keeps a Hessian of"):
        jax.eval_shape(GNS(rosenbrock).init, jnp.ones(100_000))


def test_diagonals_and_few_rows_take_no_matrix():
    bowl = lambda x, data: jnp.sum(jnp.sqrt(1 + x**2))
    params = jnp.ones(100_000)
    entries = lambda x, data: (1 + x**2) ** -1.5
    for hessian in (
        smooth.diagonal_hessian(entries),
        smooth.rank_one_hessian(lambda value: 0.0 * value),
    ):
        state = jax.eval_shape(GNS(bowl, hessian).init, params)
        assert max(x.size for x in jax.tree.leaves(state)) <= params.size
    out = core.run(GNS(bowl, smooth.diagonal_hessian(entries)), params)
    assert bool(out.converged)


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("gamma", [-1.0, 0.0, jnp.inf])
def test_a_traced_gamma_that_is_none_takes_no_step(adaptive, gamma):
    def end(gamma):
        solver = GNS(rosenbrock, gamma=gamma, adaptive=adaptive)
        return core.run(solver, jnp.array([-2.0, 2.0]), 100.0, max_steps=5)

    out = jax.jit(end)(gamma)
    np.testing.assert_array_equal(out.params, [-2.0, 2.0])
    assert not out.converged


def test_params_and_the_first_state_share_no_buffer():
    x = jnp.array([-2.0, 2.0])
    for link in (GNS(rosenbrock), core.to_optax(GNS(rosenbrock), 100.0)):
        args = (x, 100.0) if isinstance(link, core.Solver) else (x,)
        leaves = [leaf for leaf in jax.tree.leaves((x, link.init(*args))) if leaf.size]
        assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)
