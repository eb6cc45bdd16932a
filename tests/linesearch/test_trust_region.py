"""Trust regions alone: the rule for the radius, and the steps inside."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxsolve import linesearch

F32, F64 = np.float32, np.float64
INF, NAN = np.inf, np.nan
EPS32 = float(np.finfo(F32).eps)


@functools.cache
def rule(**options):
    return linesearch.trust_region(**options)


@functools.cache
def compiled(**options):
    return jax.jit(rule(**options).update)


def judged(
    value, trial, predicted, length, radius=1.0, scale=0.0, dtype=F32, **options
):
    region = rule(**options).init(jnp.asarray(radius, dtype))
    numbers = [dtype(x) for x in (value, trial, predicted, length, scale)]
    return jax.device_get(compiled(**options)(region, *numbers))


@pytest.mark.parametrize(
    ("value", "trial", "predicted", "length", "accepted", "radius"),
    [
        (5.0, 4.0, 1.0, 1.0, True, 2.0),  # very good, on the boundary
        (5.0, 4.0, 1.0, 0.5, True, 1.0),  # very good, inside
        (5.0, 4.5, 1.0, 1.0, True, 1.0),  # good
        (5.0, 4.9, 1.0, 1.0, True, 0.25),  # poor, but better than before
        (5.0, 5.1, 1.0, 1.0, False, 0.25),
        (5.0, 5.1, 1.0, 0.4, False, 0.1),  # the radius had no part in it
        (5.0, 5.0, 1.0, 1.0, False, 0.25),
        (5.0, 3.0, 1.0, 1.0, True, 2.0),  # better than predicted
        (5.0, INF, 1.0, 1.0, False, 0.1),
        (5.0, NAN, 1.0, 1.0, False, 0.1),
        (5.0, -INF, 1.0, 1.0, False, 0.1),
        (5.0, 4.0, NAN, 1.0, False, 0.1),
        (5.0, 4.0, 1.0, NAN, False, 0.1),
        (5.0, 4.0, -1.0, 1.0, False, 0.25),  # a model that predicts an increase
        (5.0, 4.0, 0.0, 1.0, False, 0.25),
        (INF, 4.0, 0.0, 0.0, True, 1.0),  # the starting point itself
    ],
)
def test_step_is_judged_by_the_gain_ratio(
    value, trial, predicted, length, accepted, radius
):
    region = judged(value, trial, predicted, length)
    assert region.accepted == accepted and not region.failed
    np.testing.assert_allclose(region.radius, radius, rtol=1e-6)
    assert region.trials == (not accepted)


@pytest.mark.parametrize("value", [1e6, -1e6])
def test_level_trial_counts_where_values_cannot_tell(value):
    noise = 10 * EPS32 * 1e6
    for change in (0.0, -0.06, 0.06, 0.9 * noise):
        region = judged(value, value + change, 0.5 * noise, 1.0)
        assert region.accepted and region.ratio == 1 and region.radius == 2.0
    worse = judged(value, value + 2 * noise, 0.5 * noise, 1.0)
    assert not worse.accepted
    promised = judged(value, value, 20 * noise, 1.0)  # the values would have told
    assert not promised.accepted


def test_start_without_a_value_fails_at_once():
    for value in (NAN, INF, -INF):
        region = judged(INF, value, 0.0, 0.0)
        assert region.failed and not region.accepted


def test_region_fails_where_it_can_no_longer_change_the_point():
    init, update = rule()
    region, steps = init(jnp.float32(1.0)), 0
    while not region.failed:
        region = compiled()(region, 1.0, 2.0, 0.5, region.radius, jnp.float32(100))
        steps += 1
        assert steps < 20 and not region.accepted
    assert region.radius <= 100 * EPS32 < 4 * region.radius + 1e-12
    region, steps = init(jnp.float32(INF)), 0
    while not region.failed:  # of nothing but NaN
        region = compiled()(region, 1.0, NAN, NAN, NAN, 0.0)
        steps += 1
        assert steps <= 100 and np.isfinite(region.radius)


def test_radius_grows_to_its_limit_and_a_good_step_there_is_unbounded():
    region, steps = rule().init(jnp.float32(1.0)), 0
    while not region.unbounded:
        length = region.radius
        region = compiled()(region, 0.0, -length, length, length)
        steps += 1
        assert region.accepted and steps < 60
    assert steps > 45 and np.isclose(region.radius, 1e15)


def test_infinite_radius_shrinks_from_the_step():
    region = judged(5.0, 6.0, 1.0, 8.0, radius=INF)
    assert region.radius == 2.0 and not region.failed
    assert judged(5.0, 4.0, 1.0, 8.0, radius=INF).radius == INF


def test_neighbours_in_a_batch_do_not_change_one_another():
    init, update = rule()
    trials = jnp.array([4.0, NAN, 6.0])
    lanes = jax.vmap(lambda t: update(init(jnp.float32(1)), 5.0, t, 1.0, 1.0))(trials)
    for i, trial in enumerate(trials):
        single = judged(5.0, trial, 1.0, 1.0)
        assert jax.tree.all(jax.tree.map(lambda x, y, i=i: x[i] == y, lanes, single))


@pytest.mark.parametrize(
    "options",
    [{"accept": 0.3}, {"accept": -0.1}, {"good": 0.1}, {"shrink": 1.0}, {"grow": 0.5}],
)
def test_rule_that_makes_no_sense_is_refused(options):
    with pytest.raises(ValueError, match="trust_region needs"):
        linesearch.trust_region(**options)


exact = jax.jit(linesearch.exact_step)
dogleg = jax.jit(linesearch.dogleg_step)


def model(step, hessian, grad):
    return -(grad @ step + step @ hessian @ step / 2)


def rotated(values, coordinates, seed=0):
    """A problem with these eigenvalues, and the gradient's coordinates in them."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(len(values), len(values))))
    return q @ np.diag(values) @ q.T, q @ np.asarray(coordinates, float)


def assert_optimal(hessian, grad, radius, tolerance):
    """The conditions that are necessary and sufficient, whatever the curvature."""
    step, predicted, mu = jax.device_get(exact(hessian, grad, radius))
    n = len(grad)
    size = np.linalg.norm(hessian, 2) + mu
    length = np.linalg.norm(step)
    assert mu >= 0 and np.all(np.isfinite(step))
    assert length <= radius * (1 + tolerance)
    assert np.linalg.eigvalsh(hessian + mu * np.eye(n))[0] >= -tolerance * size
    gap = (hessian + mu * np.eye(n)) @ step + grad
    bound = tolerance * (size * length + np.linalg.norm(grad))
    np.testing.assert_allclose(gap, 0, atol=bound)
    if mu > tolerance * size:
        np.testing.assert_allclose(length, radius, rtol=tolerance)
    expected = model(step, hessian, grad)
    atol = tolerance * (size * length**2 + np.linalg.norm(grad) * length)
    np.testing.assert_allclose(predicted, expected, atol=atol)
    assert predicted >= 0
    return step, mu


PROBLEMS = {
    "definite": ([1.0, 2.0, 5.0], [1.0, -2.0, 3.0]),
    "ill": ([1e-6, 1.0, 1e6], [1e-6, 1.0, 1.0]),
    "indefinite": ([-2.0, 1.0, 3.0], [1.0, 1.0, 1.0]),
    "negative": ([-3.0, -2.0, -1.0], [1.0, 1.0, 1.0]),
    "hard": ([-1.0, 2.0, 3.0], [0.0, 0.5, 0.5]),
    "hard twice": ([-1.0, -1.0, 3.0], [0.0, 0.0, 0.5]),
    "nearly hard": ([-1.0, 2.0, 3.0], [1e-14, 0.5, 0.5]),
    "saddle": ([-1.0, 2.0, 3.0], [0.0, 0.0, 0.0]),
    "singular": ([0.0, 2.0, 3.0], [0.0, 0.5, 0.5]),
    "flat with slope": ([0.0, 2.0, 3.0], [1.0, 0.5, 0.5]),
    "linear": ([0.0, 0.0, 0.0], [1.0, 0.5, 0.5]),
    "nothing": ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_exact_step_is_optimal_in_every_ball(name, x64):
    values, coordinates = PROBLEMS[name]
    for plain in (np.diag(values), np.array(coordinates)), rotated(values, coordinates):
        for radius in (1e-8, 0.1, 1.0, 100.0, 1e8):
            assert_optimal(*plain, radius, 1e-9)


@pytest.mark.parametrize("name", PROBLEMS)
def test_exact_step_is_optimal_in_single_precision(name):
    values, coordinates = PROBLEMS[name]
    hessian, grad = (x.astype(F32) for x in rotated(values, coordinates))
    wide = hessian.astype(F64), grad.astype(F64)
    for radius in (0.1, 10.0):
        step, _, mu = exact(hessian, grad, radius)
        assert step.dtype == mu.dtype == F32
        assert np.linalg.norm(step) <= radius * (1 + 1e-5)
        size = np.linalg.norm(hessian) * radius**2 + np.linalg.norm(grad) * radius
        floor = exact_value(*wide, radius) - 4 * EPS32 * size
        assert model(np.asarray(step, F64), *wide) >= floor


def exact_value(hessian, grad, radius):
    with jax.enable_x64(True):
        return float(exact(hessian, grad, radius)[1])


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(
    values=st.tuples(*[st.floats(-10, 10)] * 4),
    coordinates=st.tuples(*[st.floats(-10, 10)] * 4),
    logradius=st.floats(-4, 4),
    seed=st.integers(0, 9),
)
def test_exact_step_is_optimal_on_any_problem(values, coordinates, logradius, seed):
    with jax.enable_x64(True):
        hessian, grad = rotated(values, coordinates, seed)
        hessian = (hessian + hessian.T) / 2
        assert_optimal(hessian, grad, 10.0**logradius, 1e-7)


def test_hard_case_reaches_the_ball_along_the_lowest_eigenvector(x64):
    step, mu = assert_optimal(np.diag([-1.0, 2.0]), np.array([0.0, 3.0]), 2.0, 1e-12)
    np.testing.assert_allclose(np.abs(step), [np.sqrt(3.0), 1.0])
    np.testing.assert_allclose(mu, 1.0)


def test_exact_step_in_an_infinite_ball_is_that_of_newton(x64):
    hessian, grad = rotated([1.0, 2.0, 5.0], [1.0, -2.0, 3.0])
    step, predicted, mu = exact(hessian, grad, INF)
    newton = -scipy.linalg.solve(hessian, grad)
    np.testing.assert_allclose(step, newton, rtol=1e-12)
    np.testing.assert_allclose(predicted, -grad @ newton / 2)
    assert mu == 0
    hessian, grad = rotated([0.0, 2.0, 5.0], [0.0, -2.0, 3.0])
    step, _, _ = exact(hessian, grad, INF)  # the shortest of many
    np.testing.assert_allclose(step, -np.linalg.pinv(hessian) @ grad, atol=1e-12)
    step, predicted, _ = exact(np.diag([-1.0, 1.0]), np.ones(2), INF)
    assert np.all(np.isfinite(step)) and np.linalg.norm(step) > 1e100
    assert np.isfinite(predicted)


def test_exact_step_of_what_is_not_finite_is_none():
    for hessian, grad in (
        (np.full((2, 2), NAN, F32), np.ones(2, F32)),
        (np.eye(2, dtype=F32), np.array([1, INF], F32)),
    ):
        for out in exact(hessian, grad, 1.0):
            np.testing.assert_array_equal(out, 0)


def test_exact_steps_of_a_batch_are_those_of_its_lanes():
    problems = [rotated(*PROBLEMS[name]) for name in ("definite", "hard", "indefinite")]
    hessians = jnp.asarray(np.stack([h for h, _ in problems]), F32)
    grads = jnp.asarray(np.stack([g for _, g in problems]), F32)
    hessians = hessians.at[0].set(NAN)
    lanes = jax.vmap(linesearch.exact_step, (0, 0, None))(hessians, grads, 1.0)
    for i in range(3):
        single = exact(hessians[i], grads[i], 1.0)
        for one, all_ in zip(single, lanes, strict=True):
            np.testing.assert_allclose(all_[i], one, rtol=1e-4, atol=1e-6)


def plain_dogleg(hessian, grad, radius):
    """Nocedal and Wright, (4.16), by bisection on the path's parameter."""
    newton = -np.linalg.solve(hessian, grad)
    cauchy = -(grad @ grad) / (grad @ hessian @ grad) * grad
    path = lambda t: t * cauchy if t <= 1 else cauchy + (t - 1) * (newton - cauchy)
    low, high = 0.0, 2.0
    if np.linalg.norm(newton) <= radius:
        return newton
    for _ in range(80):
        middle = (low + high) / 2
        inside = np.linalg.norm(path(middle)) <= radius
        low, high = (middle, high) if inside else (low, middle)
    return path(low)


@pytest.mark.parametrize("radius", [1e-3, 0.3, 0.8, 1.2, 2.0, 1e3, INF])
def test_dogleg_is_the_last_point_of_the_path_in_the_ball(radius, x64):
    hessian, grad = rotated([0.5, 2.0, 5.0], [1.0, -2.0, 3.0])
    newton = -np.linalg.solve(hessian, grad)
    step, predicted = dogleg(newton, grad, grad @ hessian @ grad, radius)
    np.testing.assert_allclose(step, plain_dogleg(hessian, grad, radius), rtol=1e-9)
    np.testing.assert_allclose(predicted, model(step, hessian, grad), rtol=1e-9)


@pytest.mark.parametrize("bad", [[NAN, 1.0], [INF, 0.0], [1.0, 1.0]])
def test_dogleg_ends_at_the_cauchy_point_where_newton_leads_nowhere(bad, x64):
    grad = np.array([1.0, 2.0])
    step, predicted = dogleg(np.array(bad), grad, 10.0, 100.0)
    np.testing.assert_allclose(step, -0.5 * grad)
    np.testing.assert_allclose(predicted, 0.5 * 5 - 0.125 * 10)


@pytest.mark.parametrize("curvature", [0.0, -3.0])
def test_dogleg_follows_negative_curvature_to_the_ball(curvature, x64):
    grad = np.array([3.0, 4.0])
    step, predicted = dogleg(np.ones(2), grad, curvature, 2.0)
    np.testing.assert_allclose(step, -0.4 * grad)
    np.testing.assert_allclose(predicted, 0.4 * 25 - 0.08 * curvature)


def test_dogleg_without_a_slope_stays():
    step, predicted = dogleg(np.ones(2, F32), np.zeros(2, F32), 0.0, 1.0)
    np.testing.assert_array_equal(step, 0)
    assert predicted == 0
