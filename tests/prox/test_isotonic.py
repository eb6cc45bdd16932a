"""Isotonic regression: scikit-learn's answers, blocks' derivatives, soft ranks."""

import itertools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies
from hypothesis.extra import numpy as arrays
from scipy import optimize, special
from sklearn import isotonic

from jaxsolve import prox

RNG = np.random.default_rng(0)
TREND = RNG.normal(size=200) + np.linspace(0, 3, 200)

entries = strategies.integers(-50, 50) | strategies.floats(-100, 100, width=32)
vectors = arrays.arrays(np.float32, 8, elements=entries)
weights = arrays.arrays(np.float32, 8, elements=strategies.floats(0.125, 8, width=32))
regress = jax.jit(lambda x, w: prox.isotonic(w)(x))


@hypothesis.settings(deadline=None, max_examples=80, derandomize=True)
@hypothesis.given(vectors, weights)
def test_isotonic_agrees_with_scikit_learn(x, w):
    expected = isotonic.isotonic_regression(x.astype(float), sample_weight=w)
    np.testing.assert_allclose(regress(x, w), expected, atol=2e-5)


def test_a_long_sequence_agrees_with_scikit_learn_to_rounding(x64):
    for sign in (1, -1):
        x = sign * TREND
        expected = isotonic.isotonic_regression(x, y_min=0.2, y_max=2.0)
        out = jax.jit(prox.isotonic(lower=0.2, upper=2.0))(x)
        np.testing.assert_allclose(out, expected, atol=1e-13)
        falling = isotonic.isotonic_regression(x, increasing=False)
        out = jax.jit(prox.isotonic(increasing=False))(x)
        np.testing.assert_allclose(out, falling, atol=1e-13)


@pytest.mark.parametrize("x", [np.arange(9.0), -np.arange(9.0), np.ones(9)])
def test_sorted_reversed_and_constant_sequences(x):
    x = x.astype(np.float32)
    expected = isotonic.isotonic_regression(x)
    np.testing.assert_array_equal(regress(x, np.ones(9, np.float32)), expected)


def test_single_precision_does_not_lose_a_common_offset():
    x = (TREND + 1e4).astype(np.float32)
    expected = isotonic.isotonic_regression(x.astype(np.float64))
    np.testing.assert_allclose(jax.jit(prox.isotonic())(x), expected, atol=1.1e-3)


def test_lanes_of_a_batch_equal_single_runs():
    rows = RNG.normal(size=(5, 9)).astype(np.float32)
    batch = jax.jit(prox.isotonic(axis=1))(rows)
    for row, out in zip(rows, batch, strict=True):
        single = regress(row, np.ones(9, np.float32))
        np.testing.assert_allclose(single, out, atol=1e-6)


def test_the_derivative_is_the_mean_over_blocks():
    x, w = jnp.array([3.0, 1.0, 1.2, 5.0, 4.0]), jnp.array([1.0, 2.0, 1.0, 1.0, 3.0])
    by_x = jax.jit(jax.jacrev(regress))(x, w)
    expected = np.zeros((5, 5))
    expected[:3, :3] = np.array([1, 2, 1]) / 4
    expected[3:, 3:] = np.array([1, 3]) / 4
    np.testing.assert_allclose(by_x, expected, atol=1e-6)


def test_isotonic_kl_is_the_minimiser_that_scipy_finds(x64):
    x, w = RNG.normal(size=(2, 6))
    for increasing in (True, False):
        sign = 1 if increasing else -1

        def loss(z, sign=sign):
            y = z[0] + sign * np.concatenate([[0], np.cumsum(z[1:])])
            return np.sum(np.exp(x - y) + np.exp(w) * y)

        bounds = [(None, None)] + [(0, None)] * 5
        options = dict(ftol=1e-15, gtol=1e-10)
        best = optimize.minimize(loss, np.zeros(6), bounds=bounds, options=options)
        out = jax.jit(prox.isotonic_kl(w, increasing=increasing))(x)
        z = np.concatenate([out[:1], sign * np.diff(out)])
        assert np.all(z[1:] >= -1e-12)
        assert loss(z) <= best.fun + 1e-9


def test_isotonic_kl_neither_overflows_nor_underflows():
    x = jnp.array([800.0, -800.0, 300.0, 900.0])
    operator = jax.jit(lambda x, w: prox.isotonic_kl(w)(x))
    out = operator(x, jnp.array([0.0, 900.0, 0.0, 0.0]))
    block = special.logsumexp(x[:2]) - special.logsumexp([0, 900])
    np.testing.assert_allclose(out, [block, block, 300, 900], rtol=1e-6)
    slope = jax.jit(jax.jacrev(operator))(x, jnp.zeros(4))
    assert np.all(np.isfinite(slope))
    np.testing.assert_allclose(slope.sum(1), 1, rtol=1e-5)


def test_permutahedron_is_the_nearest_mean_of_permutations(x64):
    w, x = np.array([2.0, 1.0, -1.0, 0.5]), np.array([1.5, 0.2, 1.0, 3.0])
    corners = np.array(list(itertools.permutations(w))).T
    stacked = np.vstack([corners, 1e4 * np.ones(24)])
    shares, _ = optimize.nnls(stacked, np.append(x, 1e4))
    out = jax.jit(prox.permutahedron(w))(x)
    np.testing.assert_allclose(out, corners @ shares, atol=1e-6)


def test_soft_ranks_become_ranks():
    x = jnp.array([0.3, -1.0, 2.0, 0.5])
    rank = jax.jit(prox.permutahedron(jnp.arange(1.0, 5.0)))
    np.testing.assert_allclose(rank(x / 0.01), [2, 1, 4, 3], atol=1e-5)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="weights must be positive.*leave entries"):
        prox.isotonic(np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="lower must not exceed upper"):
        prox.isotonic(lower=1.0, upper=0.0)
    with pytest.raises(ValueError, match="upper must be a scalar"):
        prox.isotonic(upper=np.ones(3))
    with pytest.raises(ValueError, match="weights must be a vector"):
        prox.permutahedron(1.0)
    with pytest.raises(ValueError, match="weights must have one entry for each place"):
        prox.permutahedron(np.ones(3))(jnp.ones(4))
    assert prox.isotonic()(jnp.zeros(0)).shape == (0,)


def test_permutahedron_stays_in_the_hull_however_large_the_point():
    project = jax.jit(prox.permutahedron(jnp.arange(1.0, 6.0)))
    x = jnp.array([0.3, 0.1, 0.1, 0.9, 0.5])
    for size in (1e3, 1e9, 1e30):
        np.testing.assert_allclose(project(size * x), [3, 1.5, 1.5, 5, 4], rtol=1e-6)


def test_sequences_up_to_the_largest_number_and_no_further():
    ones = jnp.ones(5)
    x = np.array([1, 3, 2, -3, 3.4], np.float32)
    expected = isotonic.isotonic_regression(x)
    out = np.asarray(regress(x * 1e38, ones), np.float64) / 1e38
    np.testing.assert_allclose(out, expected, rtol=3e-6)
    for wrong in (jnp.nan, jnp.inf, -jnp.inf):
        rows = jnp.stack([ones.at[1].set(wrong), ones])
        out = prox.isotonic(axis=1)(rows)
        assert np.all(np.isnan(out[0])) and np.all(out[1] == 1)
