"""perpGrad: the authors' gradients, right angles, norms, and guards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import transforms

RNG = np.random.default_rng(0)
W = {"a": RNG.normal(size=(4, 3)), "b": RNG.normal(size=5)}
GRAD = {"a": RNG.normal(size=(4, 3)), "b": RNG.normal(size=5)}


def authors(w, g, keep_norm=True):
    rest = g - np.sum(w * g) / (np.sum(w * w) + 1e-30) * w
    scale = np.linalg.norm(g) / (np.linalg.norm(rest) + 1e-30)
    return rest * scale if keep_norm else rest


def projected(params, grad, **options):
    transform = transforms.perp_grad(**options)
    as_arrays = lambda tree: jax.tree.map(jnp.asarray, tree)
    params = as_arrays(params)
    return transform.update(as_arrays(grad), transform.init(params), params)[0]


@pytest.mark.parametrize("keep_norm", [True, False])
def test_gradients_are_the_authors(x64, keep_norm):
    ours = projected(W, GRAD, keep_norm=keep_norm)
    for key in W:
        expected = authors(W[key], GRAD[key], keep_norm)
        np.testing.assert_allclose(ours[key], expected, rtol=1e-12, atol=1e-14)


def test_all_leaves_may_be_one_vector(x64):
    flat = lambda tree: np.concatenate([tree["a"].ravel(), tree["b"]])
    ours = flat(projected(W, GRAD, per_leaf=False))
    expected = authors(flat(W), flat(GRAD))
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-14)


def test_it_keeps_right_angles_and_norms_even_of_gradients_almost_parallel():
    w = jnp.asarray(RNG.normal(size=1000), jnp.float32)
    for tilt in (1.0, 1e-3, 1e-5):
        g = 1e-3 * (w + tilt * jnp.asarray(RNG.normal(size=1000), jnp.float32))
        out = np.asarray(projected(w, g), np.float64)
        assert abs(out @ np.asarray(w)) < 1e-5 * np.linalg.norm(out) * np.linalg.norm(w)
        np.testing.assert_allclose(np.linalg.norm(out), np.linalg.norm(g), rtol=1e-5)


def test_gradient_steps_grow_the_norm_by_that_of_the_step(x64):
    out = projected(W["b"], GRAD["b"])
    grown = np.sum((W["b"] - 0.1 * np.asarray(out)) ** 2)
    expected = np.sum(W["b"] ** 2) + 0.01 * np.sum(GRAD["b"] ** 2)
    np.testing.assert_allclose(grown, expected, rtol=1e-12)


@pytest.mark.parametrize("dtype, ulps", [("bfloat16", 0), ("float32", 4)])
def test_what_is_parallel_up_to_rounding_gives_zero(dtype, ulps):
    w = RNG.normal(size=1000)
    for factor in (1.0, -0.3):
        noise = 1 + ulps * float(jnp.finfo(dtype).eps) * RNG.uniform(-1, 1, 1000)
        g = jnp.asarray(factor * noise * w, dtype)
        np.testing.assert_array_equal(projected(jnp.asarray(w, dtype), g), 0)


def test_leaves_without_a_perpendicular_direction_pass():
    one = jnp.array([3.0])
    np.testing.assert_array_equal(projected(one, -2 * one), -2 * one)
    np.testing.assert_array_equal(projected(jnp.array(3.0), jnp.array(2.0)), 2.0)


def test_params_of_zero_leave_gradients_as_they_are():
    g = jnp.array([1.0, 2.0])
    np.testing.assert_array_equal(projected(0 * g, g), g)
    np.testing.assert_array_equal(projected(g, 0 * g), 0)


def test_nan_is_handed_on_and_only_to_its_leaf():
    bad = {**GRAD, "b": np.full(5, np.nan)}
    out = projected(W, bad)
    assert np.all(np.isnan(out["b"])) and np.all(np.isfinite(out["a"]))


def test_alignment_is_the_cosine_of_descent_and_params(x64):
    g, w = np.concatenate([GRAD["a"].ravel(), GRAD["b"]]), W
    flat = np.concatenate([w["a"].ravel(), w["b"]])
    cosine = -g @ flat / np.linalg.norm(g) / np.linalg.norm(flat)
    as_arrays = lambda tree: jax.tree.map(jnp.asarray, tree)
    ours = transforms.scale_alignment(as_arrays(GRAD), as_arrays(w))
    np.testing.assert_allclose(ours, cosine, rtol=1e-12)
    one = jnp.ones(3, jnp.float32)
    along = transforms.scale_alignment(-1e-25 * one, 1e25 * one)
    np.testing.assert_allclose(along, 1, rtol=1e-6)
    assert transforms.scale_alignment(0 * one, one) == 0


def test_it_is_differentiable(x64):
    w, g = jnp.asarray(W["b"]), jnp.asarray(GRAD["b"])
    total = lambda g: jnp.sum(projected(w, g) ** 2)  # the squared norm, kept
    np.testing.assert_allclose(jax.grad(total)(g), 2 * g, rtol=1e-10)
    assert np.all(np.isfinite(jax.grad(total)(w)))


def test_without_params_it_says_so():
    transform = transforms.perp_grad()
    g = jnp.ones(2)
    with pytest.raises(ValueError, match="params"):
        transform.update(g, transform.init(g))
