"""Sliced, max-sliced and distributional sliced Wasserstein: the sources' claims."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import ive
from scipy.stats import kstest

from jaxsolve import Status, core, transport

RNG = np.random.default_rng(0)
SHIFT = np.array([1.0, 2.0, -0.5])
X = RNG.normal(size=(30, 3)).astype(np.float32)
Y = (RNG.normal(size=(30, 3)) @ np.diag([1.0, 2.0, 0.5]) + SHIFT).astype(np.float32)
MOVED = (X + SHIFT).astype(np.float32)
KEY = jax.random.key(0)


def cost(theta, x=X, y=Y, p=2):
    """W_p^p along a direction, and its gradient, in NumPy; equal weights."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    gap = x[np.argsort(x @ theta)] - y[np.argsort(y @ theta)]
    along = gap @ theta
    slope = p * np.abs(along) ** (p - 1) * np.sign(along)
    return np.mean(np.abs(along) ** p), gap.T @ slope / len(x)


# ---------------------------------------------------------------- sliced Wasserstein


@pytest.mark.parametrize("p", [1, 2])
def test_sliced_distance_is_the_mean_over_projections(p):
    directions = RNG.normal(size=(5, 3))
    expected = np.mean([cost(theta, p=p)[0] for theta in directions])
    value = transport.projected_wasserstein(X, Y, directions, p=p)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    one = transport.projected_wasserstein(X, Y, directions[0], p=p)
    np.testing.assert_allclose(one, cost(directions[0], p=p)[0], rtol=1e-5)


def test_sliced_distance_of_a_translation_and_of_a_scaling():
    sliced = lambda x, y: transport.sliced_wasserstein(x, y, key=KEY, slices=20_000)
    expected = SHIFT @ SHIFT / 3
    np.testing.assert_allclose(sliced(X, MOVED), expected, rtol=0.02)
    expected = 0.5**2 * np.trace(X.T @ X / 30) / 3
    np.testing.assert_allclose(sliced(X, 1.5 * X), expected, rtol=0.02)


def test_sliced_distance_is_a_metric_with_shared_directions():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        clouds = [rng.normal(size=(9, 3)) * rng.uniform(0.2, 2) for _ in range(3)]
        root = lambda i, j: np.sqrt(
            transport.sliced_wasserstein(clouds[i], clouds[j], key=KEY, slices=10)  # noqa: B023
        )
        assert root(0, 2) <= root(0, 1) + root(1, 2)
        np.testing.assert_allclose(root(0, 1), root(1, 0), rtol=1e-6)
        assert root(0, 0) == 0 < root(0, 1)


def test_weight_of_two_is_a_point_twice_and_rubbish_without_weight_is_nothing():
    twice = np.concatenate([X[:4], X[:1]])
    padded = np.concatenate([X[:4], np.full((1, 3), np.nan, np.float32)])
    weights = np.array([2.0, 1.0, 1.0, 1.0, 0.0])
    for value in (
        lambda x, a: transport.sliced_wasserstein(x, Y, a, key=KEY, slices=3),
        lambda x, a: transport.max_sliced_wasserstein(x, Y, a, key=KEY, steps=20),
    ):
        repeated, slopes = jax.value_and_grad(value)(twice, np.ones(5))
        weighted, other = jax.value_and_grad(value)(padded, weights)
        np.testing.assert_allclose(weighted, repeated, rtol=1e-4)
        folded = np.concatenate([slopes[:1] + slopes[4:], slopes[1:4], 0 * slopes[:1]])
        np.testing.assert_allclose(other, folded, atol=1e-3)


# ------------------------------------------------------------ von Mises and Fisher


@pytest.mark.parametrize("size", [2, 3, 6])
@pytest.mark.parametrize("kappa", [0.0, 1e-4, 1.0, 30.0, 1e3, np.inf])
def test_draws_have_the_cosines_of_von_mises_and_fisher(size, kappa):
    loc = RNG.normal(size=size).astype(np.float32)
    loc /= np.linalg.norm(loc)
    draws = np.asarray(transport.von_mises_fisher(KEY, 3 * loc, kappa, 4000))
    np.testing.assert_allclose(np.linalg.norm(draws, axis=1), 1, atol=1e-5)
    cosine = np.clip(draws @ loc, -1, 1)
    if np.isinf(kappa):
        np.testing.assert_allclose(cosine, 1, atol=1e-6)
        return
    # Its density is (1 - w^2)^((d - 3) / 2) e^(kappa w); with w = cos(angle), smooth.
    angle = np.linspace(0, np.pi, 400_001)
    density = np.sin(angle) ** (size - 2) * np.exp(kappa * (np.cos(angle) - 1))
    below = np.cumsum(density) / np.sum(density)
    assert kstest(np.arccos(cosine), lambda t: np.interp(t, angle, below)).pvalue > 1e-3
    if kappa:
        ratio = ive(size / 2, kappa) / ive(size / 2 - 1, kappa)
        spread = np.std(cosine) / np.sqrt(4000)
        assert abs(np.mean(cosine) - ratio) < 4 * spread + 1e-6
        across = np.std(draws - cosine[:, None] * loc) / np.sqrt(4000)
        assert np.all(np.abs(np.mean(draws, 0) - ratio * loc) < 5 * (across + spread))


def test_draws_are_turned_with_their_mean_and_their_derivatives_are_bounded(x64):
    draw = jax.jit(lambda loc: transport.von_mises_fisher(KEY, loc, 5.0, 8))
    jacobian = jax.jit(jax.jacfwd(draw))
    for loc in (
        np.eye(3)[0],
        -np.eye(3)[0],
        np.array([1, 1e-9, 0]),
        np.ones(3) / 3**0.5,
    ):
        np.testing.assert_allclose(draw(loc) @ loc, draw(np.eye(3)[1])[:, 1], atol=1e-8)
        slope = jacobian(loc)
        assert np.max(np.abs(slope)) < 3
        step = 1e-6 * np.array([0.3, -0.5, 0.8])
        change = (draw(loc + step) - draw(loc - step)) / 2
        np.testing.assert_allclose(slope @ step, change, atol=1e-12)


# ------------------------------------------------------------- max-sliced Wasserstein


@pytest.mark.parametrize("p", [2, 1.5])
def test_first_iterates_of_max_sliced_are_the_sources(p):
    solver = transport.max_sliced(optax.sgd(0.03), p=p)
    theta = np.array([1.0, 0.2, 0.5])
    pair = transport.PointPair(X, Y)
    params = jnp.asarray(theta, jnp.float32)
    state = solver.init(params, pair)
    theta /= np.linalg.norm(theta)
    for _ in range(5):
        params, state = solver.update(params, state, pair)
        value, grad = cost(theta, p=p)
        np.testing.assert_allclose(params, theta, atol=1e-5)  # values rise throughout
        np.testing.assert_allclose(state.value, value, rtol=1e-5)
        riemannian = grad - (grad @ theta) * theta
        np.testing.assert_allclose(state.error, np.abs(riemannian).max(), rtol=1e-3)
        # The source's step along the whole gradient is ours, shortened.
        eta = 0.03 / (1 - 0.03 * p * value)
        theta = (theta + eta * grad) / np.linalg.norm(theta + eta * grad)


@pytest.mark.parametrize("transform", [None, optax.sgd(0.5), optax.adam(0.05)])
def test_max_sliced_of_a_scaled_cloud_is_its_principal_axis(transform):
    cloud = (X - X.mean(0)) @ np.diag([1.0, 1.5, 0.7]).astype(np.float32)
    values, axes = np.linalg.eigh(cloud.T @ cloud / 30)
    pair = transport.PointPair(cloud, -0.5 * cloud[::-1] * -1)
    solver = transport.max_sliced(transform)
    out = core.run(solver, jnp.array([1.0, 0.3, -0.4]), pair, tol=1e-3)
    assert bool(out.converged), out
    np.testing.assert_allclose(out.state.value, 0.25 * values[-1], rtol=1e-5)
    np.testing.assert_allclose(abs(out.params @ axes[:, -1]), 1, atol=5e-5)


def test_coordinatewise_steps_along_the_whole_gradient_would_end_elsewhere():
    """Why the radial part is left out: the source's ascent, by Adam, in NumPy."""
    theta, m, v = SHIFT / np.linalg.norm(SHIFT), 0.0, 0.0
    best = theta
    for k in range(1, 501):
        grad = 2 * (theta @ SHIFT) * SHIFT  # of a translation
        m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
        step = (m / (1 - 0.9**k)) / np.sqrt(v / (1 - 0.999**k))
        theta = theta + 0.05 * step
        theta /= np.linalg.norm(theta)
    assert abs(theta @ best) < 0.9  # it began at the maximum, and left it
    solver = transport.max_sliced(optax.adam(0.05))
    pair = transport.PointPair(X, MOVED)
    out = core.run(solver, jnp.asarray(best, jnp.float32), pair, tol=1e-4)
    np.testing.assert_allclose(out.params, best, atol=1e-4)


def test_value_never_falls_and_is_the_translations():
    pair = transport.PointPair(X, MOVED)
    out = core.run(
        transport.max_sliced(optax.sgd(0.3)),
        jnp.ones(3),
        pair,
        max_steps=30,
        tol=0.0,
        record=lambda params, state: state.value,
    )
    values = np.asarray(out.history)[: int(out.state.count)]
    assert np.all(np.diff(values) >= -1e-6 * values[:-1])
    few, many = (
        transport.max_sliced_wasserstein(X, MOVED, key=KEY, steps=steps)
        for steps in (2, 50)
    )
    assert few < many
    np.testing.assert_allclose(many, SHIFT @ SHIFT, rtol=1e-5)


def test_maximum_on_a_ridge_is_found_and_ends_as_stalled():
    x, y = np.array([[-1.0, 0.0], [1.0, 0.0]]), np.array([[0.0, -0.5], [0.0, 0.5]])
    pair = transport.PointPair(x, y)  # (|cos t| - |sin t| / 2)^2
    out = core.run(transport.max_sliced(), jnp.array([0.8, 0.5]), pair)
    assert out.status == Status.STALLED
    np.testing.assert_allclose(np.abs(out.params), [1.0, 0.0], atol=1e-5)
    np.testing.assert_allclose(out.state.value, 1.0, rtol=1e-5)


def test_equal_clouds_are_at_no_distance():
    pair = transport.PointPair(X, X[::-1])
    for solver in (
        transport.max_sliced(),
        transport.distributional_sliced(1.0, key=KEY, slices=3),
    ):
        out = core.run(solver, jnp.ones(3), pair)
        assert bool(out.converged) and out.state.value == 0 and out.state.count == 1
        assert bool(core.all_finite(out.params))


def test_derivative_of_the_maximum_is_danskins(x64):
    x, y = X[:6].astype(np.float64), Y[:5].astype(np.float64) * 3
    fun = lambda x: transport.max_sliced_wasserstein(x, y, key=KEY, steps=500)
    way = RNG.normal(size=x.shape)
    slope = (fun(x + 1e-5 * way) - fun(x - 1e-5 * way)) / 2e-5
    np.testing.assert_allclose(np.sum(jax.grad(fun)(x) * way), slope, rtol=1e-6)


# ------------------------------------------------ distributional sliced Wasserstein


@pytest.mark.parametrize("resample", [False, True])
def test_first_iterates_of_distributional_sliced_are_the_sources(resample, x64):
    x, y = X.astype(np.float64), Y.astype(np.float64)
    solver = transport.distributional_sliced(
        4.0, optax.sgd(0.1), key=KEY, slices=4, resample=resample
    )
    pair, loc, key = transport.PointPair(x, y), np.array([-0.8, 0.6, 0.0]), KEY
    params = jnp.asarray(loc)
    state = solver.init(params, pair)

    def mean(loc, draw):
        draws = np.asarray(transport.von_mises_fisher(draw, loc, 4.0, 4))
        return np.mean([cost(theta, x, y)[0] for theta in draws])

    for _ in range(4):
        params, state = solver.update(params, state, pair)
        key, draw = jax.random.split(key) if resample else (key, key)
        sides = [(loc + h, loc - h) for h in 1e-6 * np.eye(3)]
        grad = np.array([mean(u, draw) - mean(v, draw) for u, v in sides]) / 2e-6
        np.testing.assert_allclose(state.value, mean(loc, draw), rtol=1e-9)
        np.testing.assert_allclose(state.error, np.abs(grad).max(), rtol=1e-5)
        loc = (loc + 0.1 * grad) / np.linalg.norm(loc + 0.1 * grad)
        np.testing.assert_allclose(params, loc, atol=1e-7)


def test_ascent_finds_the_direction_of_a_translation():
    # The claim of the prototype: 100 steps of 0.1 with 50 slices, within 0.02.
    solver = transport.distributional_sliced(10.0, optax.sgd(0.1), key=KEY, slices=50)
    pair = transport.PointPair(X, MOVED)
    start = jnp.array([0.9, -0.3, 0.3])
    out = core.run(solver, start, pair, max_steps=100, tol=0.0)
    best = SHIFT / np.linalg.norm(SHIFT)
    sign = np.sign(out.params @ best)
    np.testing.assert_allclose(sign * out.params, best, atol=2e-2)
    assert out.status == Status.MAX_STEPS


def test_distributional_value_of_a_translation_is_the_closed_form():
    value = jax.vmap(
        lambda kappa: transport.distributional_sliced_wasserstein(
            X[:4], MOVED[:4], key=KEY, kappa=kappa, slices=4000, steps=60
        )
    )
    kappas = np.array([1e-3, 1.0, 10.0, 100.0, 1e6])
    expected = 1 - 2 * (1 / np.tanh(kappas) - 1 / kappas) / kappas
    found = value(kappas.astype(np.float32)) / (SHIFT @ SHIFT)
    assert np.all(np.abs(found / expected - 1) < [0.03, 0.02, 0.01, 2e-3, 1e-4])
    # From the sliced distance to the max-sliced one.
    np.testing.assert_allclose(expected[[0, -1]], [1 / 3, 1], rtol=1e-5)
    most = transport.max_sliced_wasserstein(X, MOVED, key=KEY) / (SHIFT @ SHIFT)
    assert np.all(np.diff(found) > 0) and found[-1] <= 1.0001 * most


def test_distributional_distance_lies_between_the_others_and_is_symmetric():
    sliced = transport.sliced_wasserstein(X, Y, key=KEY, slices=4000)
    most = transport.max_sliced_wasserstein(X, Y, key=KEY)
    both = jax.vmap(
        lambda x, y: transport.distributional_sliced_wasserstein(
            x, y, key=KEY, kappa=5.0, slices=300
        )
    )
    there, back = both(np.stack([X, Y]), np.stack([Y, X]))
    assert sliced < there < most
    np.testing.assert_allclose(there, back, rtol=1e-4)


def test_slices_in_ten_dimensions_find_the_translation():
    shift = RNG.normal(size=10).astype(np.float32)
    x = RNG.normal(size=(12, 10)).astype(np.float32)
    pair = transport.PointPair(x, x + shift)
    solver = transport.distributional_sliced(50.0, key=KEY, slices=20)
    out = core.run(solver, jnp.ones(10), pair, max_steps=60, tol=0.0)
    assert abs(out.params @ shift) > 0.98 * np.linalg.norm(shift)


def test_saved_run_with_new_slices_goes_on_bit_for_bit():
    solver = transport.distributional_sliced(3.0, key=KEY, slices=3)
    pair = transport.PointPair(X, Y)
    run = lambda params, steps, state: core.run(
        solver, params, pair, max_steps=steps, tol=0.0, state=state
    )
    whole = run(jnp.ones(3), 6, None)
    half = run(jnp.ones(3), 3, None)
    rest = run(half.params, 3, half.state)
    np.testing.assert_array_equal(rest.params, whole.params)
    assert rest.state.key == whole.state.key != half.state.key


# -------------------------------------------------------------------------- bad input


def test_bad_data_spare_the_other_lanes_and_leave_directions_finite():
    solver = transport.distributional_sliced(3.0, key=KEY, slices=3)
    clouds = np.stack([X, np.full_like(X, np.nan), X])
    solve = lambda x: core.run(
        solver, jnp.ones(3), transport.PointPair(x, Y), max_steps=5, tol=0.0
    )
    out = jax.vmap(solve)(clouds)
    assert list(out.status) == [Status.MAX_STEPS, Status.DIVERGED, Status.MAX_STEPS]
    assert bool(core.all_finite(out.params))
    np.testing.assert_array_equal(out.params[0], out.params[2])


def test_stepsize_that_is_not_finite_ends_as_diverged():
    pair = transport.PointPair(X, Y)
    out = core.run(transport.max_sliced(optax.sgd(np.nan)), jnp.ones(3), pair)
    assert out.status == Status.DIVERGED and bool(core.all_finite(out.params))


def test_mistakes_that_are_known_are_refused():
    pair, solver = transport.PointPair(X, Y), transport.max_sliced()
    mistakes = [
        ("optax", lambda: transport.max_sliced(0.1)),
        ("p must", lambda: transport.max_sliced(p=0)),
        ("kappa", lambda: transport.distributional_sliced(-1.0, key=KEY)),
        ("slices", lambda: transport.distributional_sliced(1.0, key=KEY, slices=0)),
        ("slices", lambda: transport.sliced_wasserstein(X, Y, key=KEY, slices=1.5)),
        ("steps", lambda: transport.max_sliced_wasserstein(X, Y, key=KEY, steps=0)),
        ("one space", lambda: transport.sliced_wasserstein(X, Y[:, :2], key=KEY)),
        ("weights", lambda: transport.sliced_wasserstein(X, Y, -Y[:, 0], key=KEY)),
        ("directions", lambda: transport.projected_wasserstein(X, Y, np.ones(2))),
        ("loc", lambda: transport.von_mises_fisher(KEY, np.ones(1), 1.0, 3)),
        ("PointPair", lambda: core.run(solver, jnp.ones(3), (X, Y))),
        ("direction", lambda: core.run(solver, jnp.ones(2), pair)),
    ]
    for what, mistake in mistakes:
        with pytest.raises(ValueError, match=what):
            mistake()
