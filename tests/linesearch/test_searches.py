"""Line searches alone: their conditions, their limits, and a plain transcription."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import linesearch
from tests.linesearch.transcription import search_backtracking, search_wolfe

EXACT = {"wolfe": linesearch.wolfe, "backtracking": linesearch.backtracking}
PLAIN = {"wolfe": search_wolfe, "backtracking": search_backtracking}
F64 = np.float64


@functools.cache
def compiled(search):
    return jax.jit(search.update)


def drive(search, phi, stepsize, dtype=np.float32, start=None):
    """Searches along phi(t) -> (value, slope) in NumPy; returns the stepsizes tried."""
    value, slope = phi(dtype(0)) if start is None else start
    state = search.init(jnp.asarray(value, dtype), jnp.asarray(slope, dtype), stepsize)
    tried = []
    while not state.done:
        t = dtype(state.stepsize)
        tried.append(float(t))
        value, slope = phi(t)
        state = compiled(search)(state, dtype(value), dtype(slope))
        assert len(tried) <= 100, "the search does not end"
    return tried, jax.device_get(state)


def wiggle(coefficients):
    """A smooth function that goes down from zero, and up in the end."""
    a, b, c, d, w = coefficients

    def phi(t):
        value = a * (t - b) ** 2 + c * np.sin(w * t + d)
        return value, 2 * a * (t - b) + c * w * np.cos(w * t + d)

    return phi


wiggles = st.tuples(
    st.floats(0.01, 10), st.floats(0.1, 50), st.floats(0, 3), st.floats(0, 6),
    st.floats(0.1, 3),
).map(wiggle)  # fmt: skip
stepsizes = st.floats(1e-3, 1e3)
quietly = hypothesis.settings(max_examples=60, deadline=None, derandomize=True)


@quietly
@hypothesis.given(
    phi=wiggles, stepsize=stepsizes, curvature=st.sampled_from([0.1, 0.9])
)
def test_accepted_stepsize_satisfies_the_strong_wolfe_conditions(
    phi, stepsize, curvature
):
    value, slope = phi(0.0)
    hypothesis.assume(slope < -1e-3)
    with jax.enable_x64(True):
        search = linesearch.wolfe(curvature=curvature)
        tried, state = drive(search, phi, stepsize, F64)
    assert bool(state.done) and not bool(state.failed)
    t = tried[-1]
    new_value, new_slope = phi(t)
    rounding = 1e-14 * (1 + abs(value))
    assert new_value <= value + 1e-4 * t * slope + rounding
    assert abs(new_slope) <= -curvature * slope * (1 + 1e-12)
    assert state.stepsize == t and state.trials == len(tried) <= 40


@quietly
@hypothesis.given(phi=wiggles, stepsize=stepsizes)
def test_accepted_stepsize_decreases_sufficiently(phi, stepsize):
    value, slope = phi(0.0)
    hypothesis.assume(slope < -1e-3)
    with jax.enable_x64(True):
        tried, state = drive(linesearch.backtracking(), phi, stepsize, F64)
    assert bool(state.done) and not bool(state.failed)
    t = tried[-1]
    assert phi(t)[0] <= value + 1e-4 * t * slope + 1e-14 * (1 + abs(value))
    assert sorted(tried, reverse=True) == tried and tried[0] == stepsize


@pytest.mark.parametrize("name", EXACT)
@quietly
@hypothesis.given(phi=wiggles, stepsize=stepsizes)
def test_trials_are_those_of_a_plain_loop(name, phi, stepsize):
    value, slope = phi(0.0)
    hypothesis.assume(slope < -1e-3)
    with jax.enable_x64(True):
        tried, state = drive(EXACT[name](), phi, stepsize, F64)
    expected = PLAIN[name](phi, value, slope, stepsize)
    np.testing.assert_allclose(tried, expected, rtol=1e-9)


@pytest.mark.parametrize("curvature", [0.1, 0.9])
def test_wolfe_expands_a_thousandfold(curvature):
    phi = lambda t: ((t - 1000) ** 2, 2 * (t - 1000))
    tried, state = drive(linesearch.wolfe(curvature=curvature), phi, 1.0)
    assert not bool(state.failed)
    assert abs(2 * (tried[-1] - 1000)) <= curvature * 2000
    assert len(tried) <= 8


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("outside", [np.nan, np.inf, -np.inf])
def test_search_steps_back_from_a_region_without_values(name, outside):
    def barrier(t):
        if t >= 0.01:
            return outside, outside
        return -t - 1e-3 * np.log(0.01 - t), -1 + 1e-3 / (0.01 - t)

    tried, state = drive(EXACT[name](), barrier, 1e6)
    assert not bool(state.failed)
    assert 0 < tried[-1] < 0.01
    assert len(tried) <= 20


@pytest.mark.parametrize("name", EXACT)
def test_search_works_in_single_precision_on_a_value_of_a_million(name):
    # Seen from 1e-3 away, values within 1e-6 of each other: below the last digit.
    phi = lambda t: (np.float32((t - 1) ** 2 * 1e-6 + 1e6), 2e-6 * (t - 1))
    tried, state = drive(EXACT[name](), phi, 0.9)
    assert not bool(state.failed)
    assert tried == pytest.approx([0.9])


@pytest.mark.parametrize("name", EXACT)
def test_without_the_approximate_condition_rounding_makes_the_search_fail(name):
    rng = np.random.default_rng(0)
    noise = {}

    def phi(t):
        noise.setdefault(float(t), 0.0 if t == 0 else 0.125 + rng.random())
        return np.float32(1e6 + noise[float(t)]), -1e-3

    tried, state = drive(EXACT[name](approximate=False, max_trials=20), phi, 1.0)
    assert bool(state.failed) and len(tried) <= 20


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("max_trials", [1, 2, 7])
def test_never_more_than_max_trials_and_one_more_to_confirm_the_best(name, max_trials):
    up = lambda t: (t, -1.0 if t == 0 else 1.0)
    tried, state = drive(EXACT[name](max_trials=max_trials), up, 1.0)
    assert bool(state.failed) and state.trials == len(tried) == max_trials
    # A minimum that is too narrow to be found: the best point is proposed again.
    kink = lambda t: (abs(t - 1 / 3), -1.0 if t < 1 / 3 else 1.0)
    tried, state = drive(EXACT[name](max_trials=max_trials), kink, 0.1)
    assert bool(state.done) and len(tried) <= max_trials + 1
    assert not bool(state.failed)
    assert tried[-1] == min(tried, key=lambda t: kink(t)[0])


@pytest.mark.parametrize("name", EXACT)
def test_search_fails_where_nothing_is_finite(name):
    tried, state = drive(EXACT[name](), lambda t: (np.nan, np.nan), 1.0, start=(1, -1))
    assert bool(state.failed) and not bool(state.unbounded)
    assert len(tried) <= 40


@pytest.mark.parametrize("name", EXACT)
def test_search_that_starts_at_infinity_accepts_the_first_finite_value(name):
    for value, failed in ((3.0, False), (np.nan, True), (np.inf, True)):
        search = EXACT[name]()
        state = search.init(jnp.float32(np.inf), jnp.float32(0), jnp.float32(0))
        state = compiled(search)(state, np.float32(value), np.float32(0))
        assert bool(state.done) and bool(state.failed) is failed
        assert state.stepsize == 0


def test_endless_descent_is_flagged_as_unbounded():
    for phi in (lambda t: (-t, -1.0), lambda t: (-(t**2), -1 - 2 * t)):
        tried, state = drive(linesearch.wolfe(max_stepsize=1e6), phi, 1.0)
        assert bool(state.unbounded) and bool(state.done) and not bool(state.failed)
        assert tried[-1] == 1e6 and len(tried) <= 8


def test_minimum_is_not_mistaken_for_endless_descent():
    phi = lambda t: (-t if t < 1e5 else t - 2e5, -1.0 if t < 1e5 else 1.0)
    _, state = drive(linesearch.wolfe(max_stepsize=1e6), phi, 1.0)
    assert not bool(state.unbounded)


@pytest.mark.parametrize("name", EXACT)
def test_lanes_of_a_vmapped_search_are_searches_by_themselves(name):
    centers = np.array([0.01, 1, 30, 4000], np.float32)
    phi = lambda t, c: ((t - c) ** 2, 2 * (t - c))
    search = EXACT[name]()

    def whole(center):
        value, slope = phi(jnp.float32(0), center)
        state = search.init(value, slope, jnp.float32(1))
        advance = lambda s: search.update(s, *phi(s.stepsize, center))
        return jax.lax.while_loop(lambda s: ~s.done, advance, state)

    lanes = jax.jit(jax.vmap(whole))(centers)
    for i, center in enumerate(centers):
        tried, state = drive(search, lambda t, c=center: phi(t, c), 1.0)
        assert lanes.trials[i] == state.trials
        np.testing.assert_allclose(lanes.stepsize[i], tried[-1], rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", EXACT)
def test_state_keeps_its_form(name, dtype, x64):
    search = EXACT[name]()
    state = search.init(jnp.asarray(1, dtype), jnp.asarray(-1, dtype), 1.0)
    after = jax.eval_shape(search.update, state, jnp.asarray(1, dtype), state.slope)
    form = lambda tree: [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(tree)]
    assert form(after) == form(state)
    allowed = {np.dtype(d) for d in (dtype, np.int32, np.bool_)}
    assert {x.dtype for x in jax.tree.leaves(state)} <= allowed


@pytest.mark.parametrize("decrease", [0.0, 0.5, -1.0, float("nan")])
def test_decrease_out_of_range_is_refused(decrease):
    for factory in EXACT.values():
        with pytest.raises(ValueError, match="0 < decrease"):
            factory(decrease=decrease)


def test_curvature_out_of_range_is_refused():
    for decrease, curvature in ((0.3, 0.2), (1e-4, 1.0), (1e-4, float("nan"))):
        with pytest.raises(ValueError, match="curvature"):
            linesearch.wolfe(decrease, curvature)
