"""SLOPE, k-support, sparse simplex, spheres and box sections: independent answers."""

import itertools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies
from hypothesis.extra import numpy as arrays
from scipy import optimize

from jaxsolve import prox

RNG = np.random.default_rng(0)
X = np.array([3.0, -0.5, 0.2, -2.0, 1.0], np.float32)

entries = strategies.integers(-20, 20) | strategies.floats(-50, 50, width=32)
vectors = arrays.arrays(np.float32, 6, elements=entries)
on_section = jax.jit(
    lambda x, a, b: prox.box_section(jnp.array([-1.0, 0, 0, -3, 1, 0]), 2.0, a, b)(x)
)


@hypothesis.settings(deadline=None, max_examples=80, derandomize=True)
@hypothesis.given(vectors, vectors, strategies.floats(0, 1))
def test_box_section_agrees_with_a_root_finder(x, a, share):
    low, up = np.array([-1.0, 0, 0, -3, 1, 0]), 2.0
    a = np.where(np.abs(a) < 0.1, 1, a).astype(np.float32)
    near, far = (
        np.sum(np.minimum(a * low, a * up)),
        np.sum(np.maximum(a * low, a * up)),
    )
    b = np.float32(near + share * (far - near))
    wide = lambda tau: np.clip(x.astype(float) - tau * a, low, up)
    out = np.asarray(on_section(x, a, b), np.float64)
    scale = 1e-6 * (np.abs(x).max() + 10)
    assert np.all((out >= low) & (out <= up))
    assert abs(a @ out - b) < scale * np.abs(a).sum()
    gap = lambda tau: a @ wide(tau) - b
    ends = [-1e4, 1e4]
    if gap(ends[0]) * gap(ends[1]) < 0:
        expected = wide(optimize.brentq(gap, *ends, xtol=1e-13))
        slack = 20 * scale * np.abs(a).max() / np.abs(a).min()
        np.testing.assert_allclose(out, expected, atol=slack)


def test_box_section_without_bounds_is_a_hyperplane():
    a = np.array([1.0, -2.0, 0.0, 3.0, 1.0], np.float32)
    out = jax.jit(prox.box_section(-np.inf, np.inf, a, 2.0))(X)
    np.testing.assert_allclose(out, prox.hyperplane(a, 2.0)(X), atol=1e-6)


def test_box_section_is_the_simplex_and_its_derivative():
    section, simplex = jax.jit(prox.box_section(0.0, np.inf)), prox.simplex()
    np.testing.assert_allclose(section(X), simplex(X), atol=1e-6)
    x = jnp.asarray(X) / 4
    slopes = (jax.jit(jax.jacrev(p))(x) for p in (section, simplex))
    np.testing.assert_allclose(*slopes, atol=1e-6)


def test_sections_of_rows_share_one_offset():
    rows = np.stack([X, 100 * X, X[::-1] - 50]).astype(np.float32)
    out = jax.jit(prox.box_section(-1.0, 2.0, axis=1))(rows)
    for row, new in zip(rows, out, strict=True):
        gap = lambda tau, row=row: np.clip(row - tau, -1, 2).sum() - 1
        tau = optimize.brentq(gap, -400, 400, xtol=1e-12)
        np.testing.assert_allclose(new, np.clip(row - tau, -1, 2), atol=1e-4)


def test_a_section_out_of_reach_gives_the_closest_corner():
    section = jax.jit(lambda low, up: prox.box_section(low, up)(X))
    np.testing.assert_array_equal(section(0.0, 0.125), np.full(5, 0.125))
    np.testing.assert_array_equal(section(1.0, 2.0), np.ones(5))
    with pytest.raises(ValueError, match="lower must not exceed upper"):
        prox.box_section(1.0, 0.0)


def test_sorted_l1_of_equal_weights_is_l1():
    out = jax.jit(prox.sorted_l1(np.full(5, 0.7)))(X, 0.5)
    np.testing.assert_allclose(out, prox.l1(0.7)(X, 0.5), atol=1e-6)


def test_sorted_l1_of_one_weight_is_linf():
    out = jax.jit(prox.sorted_l1(np.array([0, 1.5, 0, 0, 0])))(X)
    np.testing.assert_allclose(out, prox.linf(1.5)(X), atol=1e-6)


def test_k_support_lies_between_the_squared_1_norm_and_the_2_norm():
    np.testing.assert_allclose(jax.jit(prox.k_support(5))(X), X / 2, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(prox.k_support(9))(X), X / 2, rtol=1e-6)
    level = optimize.brentq(lambda c: np.maximum(np.abs(X) - c, 0).sum() - c, 0, 3)
    expected = np.sign(X) * np.maximum(np.abs(X) - level, 0)
    np.testing.assert_allclose(jax.jit(prox.k_support(1))(X), expected, atol=1e-6)
    few = jnp.array([3.0, 0.0, 0.0, -1.0])
    np.testing.assert_allclose(jax.jit(prox.k_support(2))(few), few / 2, rtol=1e-6)
    np.testing.assert_array_equal(prox.k_support(2, 0.0)(X), X)


def test_sparse_simplex_is_the_best_of_all_supports():
    for _ in range(5):
        x = RNG.normal(size=5).astype(np.float32)
        out = prox.sparse_simplex(2, 1.5)(x)
        best = np.inf
        for support in itertools.combinations(range(5), 2):
            point = np.zeros(5, np.float32)
            point[list(support)] = prox.simplex(1.5)(x[list(support)])
            best = min(best, np.sum((x - point) ** 2))
        assert np.sum(np.asarray(out) != 0) <= 2
        np.testing.assert_allclose(np.sum((x - out) ** 2), best, rtol=1e-5)


def test_spheres_have_a_nearest_point_to_zero():
    np.testing.assert_allclose(prox.l2_sphere(2.0)(jnp.zeros(4)), np.ones(4))
    np.testing.assert_allclose(prox.l1_sphere(2.0)(jnp.zeros(4)), np.full(4, 0.5))


def test_l1_sphere_is_the_nearest_of_all_orthants():
    x = np.array([0.2, -0.1, 0.0], np.float32)
    out = prox.l1_sphere(1.0)(x)
    signs = [np.array(s, np.float32) for s in itertools.product([-1, 1], repeat=3)]
    points = [s * prox.simplex(1.0)(s * x) for s in signs]
    best = min(np.sum((x - p) ** 2) for p in points)
    np.testing.assert_allclose(np.sum((x - out) ** 2), best, rtol=1e-5)


@pytest.mark.parametrize("factory", [prox.k_support, prox.sparse_simplex])
@pytest.mark.parametrize("k", [0, 1.5, True])
def test_a_count_that_is_none_is_refused(factory, k):
    with pytest.raises(ValueError, match="k must be a positive integer"):
        factory(k)


def test_weights_of_the_wrong_size_are_refused():
    with pytest.raises(ValueError, match="it has 2 and a group has 5"):
        prox.sorted_l1(np.ones(2))(X)
    with pytest.raises(ValueError, match="weights must be at least zero"):
        prox.sorted_l1(np.array([1.0, -1.0]))
