"""Traces and diagonals from samples: the card's formulas, exactness, error bars."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from jaxsolve import linear

RNG = np.random.default_rng(0)
M = RNG.normal(size=(7, 7))
A = M @ M.T + np.diag(np.arange(7.0))
KEY = jax.random.key(3)
TREE = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(())}


def tree_product(matrix):
    """The product with a matrix (7, 7) on trees of a matrix and a scalar."""

    def product(v):
        flat = jnp.concatenate([v["b"][None], v["w"].ravel()])
        image = jnp.asarray(matrix, flat.dtype) @ flat
        return {"b": image[0], "w": image[1:].reshape(2, 3)}

    return product


def flat(tree):
    return np.concatenate([np.asarray(tree["b"])[None], np.asarray(tree["w"]).ravel()])


def draws(sampler, samples, like):
    keys = jax.random.split(KEY, samples)
    return [sampler(key, like) for key in keys]


@pytest.mark.parametrize("sampler", [linear.rademacher, linear.gaussian])
@pytest.mark.parametrize("chunk", [1, 3, 20])
def test_estimates_are_the_means_of_their_samples(x64, sampler, chunk):
    like = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(())}
    options = dict(key=KEY, samples=10, sampler=sampler, chunk=chunk)
    z = np.stack([flat(z) for z in draws(sampler, 10, like)])
    x, y = z * (z @ A), z * z
    trace = linear.hutchinson_trace(tree_product(A), like, **options)
    np.testing.assert_allclose(trace.value, x.sum(1).mean(), rtol=1e-10)
    error = x.sum(1).std(ddof=1) / 10**0.5
    np.testing.assert_allclose(trace.error, error, rtol=1e-10)
    diagonal = linear.hutchinson_diagonal(tree_product(A), like, **options)
    value = x.sum(0) / y.sum(0)
    np.testing.assert_allclose(flat(diagonal.value), value, rtol=1e-10)
    off = x - value * y
    error = np.sqrt((off**2).sum(0) / 9 / 10) / y.mean(0)
    np.testing.assert_allclose(flat(diagonal.error), error, rtol=1e-9)


def test_hutch_plus_plus_is_the_papers(x64):
    first, second = jax.random.split(KEY)
    like = jnp.zeros(7)
    s = np.stack([linear.gaussian(k, like) for k in jax.random.split(first, 3)], 1)
    z = np.stack([linear.gaussian(k, like) for k in jax.random.split(second, 5)], 1)
    q = np.linalg.qr(A @ s)[0]
    z = z - q @ (q.T @ z)
    expected = np.trace(q.T @ A @ q) + np.mean(np.sum(z * (A @ z), 0))
    options = dict(key=KEY, samples=11, sampler=linear.gaussian, chunk=2)
    for operator in (A, lx.MatrixLinearOperator(jnp.asarray(A))):
        found = linear.hutch_plus_plus(operator, **options)
        np.testing.assert_allclose(found.value, expected, rtol=1e-10)
    tree = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(())}
    found = linear.hutch_plus_plus(tree_product(A), tree, key=KEY, samples=21)
    np.testing.assert_allclose(found.value, np.trace(A), rtol=1e-10)  # whole range


def test_signs_are_exact_on_diagonal_matrices():
    scales = {"w": jnp.arange(6.0).reshape(2, 3), "b": jnp.array(7.0)}
    product = lambda v: jax.tree.map(jnp.multiply, v, scales)
    for samples in (1, 5):
        options = dict(key=KEY, samples=samples)
        found = linear.hutchinson_diagonal(product, scales, **options)
        jax.tree.map(np.testing.assert_array_equal, found.value, scales)
        trace = linear.hutchinson_trace(product, scales, **options)
        assert trace.value == 22.0
        for error in (trace.error, found.error["b"]):
            assert error == (np.inf if samples == 1 else 0)


def test_the_variance_of_a_sample_on_ones_is_what_is_proved():
    n, samples = 20, 10_000
    options = dict(key=KEY, samples=samples, chunk=1000)
    trace = linear.hutchinson_trace(jnp.ones((n, n)), **options)
    variance = trace.error**2 * samples
    np.testing.assert_allclose(variance, 2 * (n**2 - n), rtol=0.1)
    assert abs(trace.value - n) < 3 * trace.error
    diagonal = linear.hutchinson_diagonal(jnp.ones((n, n)), **options)
    np.testing.assert_allclose(diagonal.error**2 * samples, n - 1, rtol=0.1)
    assert np.sum(abs(diagonal.value - 1) < 3 * diagonal.error) >= n - 1


def test_leaves_have_keys_of_their_own():
    like = {"a": jnp.zeros(50), "b": jnp.zeros(50)}
    for sampler in (linear.rademacher, linear.gaussian):
        z = sampler(KEY, like)
        assert np.any(z["a"] != z["b"])


def test_hutch_plus_plus_is_better_on_spectra_that_decay(x64):
    q = np.linalg.qr(RNG.normal(size=(100, 100)))[0]
    matrix = (q * 1.0 / np.arange(1, 101) ** 2) @ q.T
    off = lambda estimate: abs(float(estimate.value) - np.trace(matrix))
    for seed in range(3):
        options = dict(key=jax.random.key(seed), samples=60)
        plus = linear.hutch_plus_plus(matrix, **options)
        plain = linear.hutchinson_trace(matrix, **options)
        assert off(plus) < 0.02 < 5 * off(plain)
        assert plus.error < 0.2 * plain.error


def test_estimates_are_differentiable_through_their_samples(x64):
    def trace(scale):
        operator = lambda v: scale**2 * (jnp.asarray(A) @ v)
        options = dict(key=KEY, samples=4)
        return linear.hutchinson_trace(operator, jnp.zeros(7), **options).value

    np.testing.assert_allclose(jax.grad(trace)(3.0), 6 * trace(1.0), rtol=1e-10)


def test_derivatives_of_hutch_plus_plus_are_unbiased(x64):
    """Exact where the sketch finds everything, or what is left is diagonal."""
    change, plus = jnp.asarray(A), linear.hutch_plus_plus

    def slope(matrix, change, **options):
        along = lambda t: plus(matrix + t * change, **options).value
        return jax.grad(along)(0.0)

    ones = jnp.ones((8, 8))  # of rank one, whose sketch has no QR derivative
    found = slope(ones, ones, key=KEY, samples=6)
    np.testing.assert_allclose(found, 8, rtol=1e-10)
    whole = slope(jnp.eye(7), change, key=KEY, samples=30)
    np.testing.assert_allclose(whole, np.trace(A), rtol=1e-10)
    sharp = jnp.diag(jnp.asarray([50.0, 20, 5, 1, 0.5, 0.2, 0.1]))
    keys = jax.random.split(KEY, 2000)
    each = jax.lax.map(
        lambda k: slope(sharp, change, key=k, samples=6), keys, batch_size=200
    )
    error = jnp.std(each) / len(keys) ** 0.5
    assert abs(jnp.mean(each) - np.trace(A)) < 3 * error < 0.05 * np.trace(A)


def test_errors_of_huge_and_tiny_traces_are_in_range():
    matrix = np.ones((4, 4), np.float32)
    plain = linear.hutchinson_trace(matrix, key=KEY, samples=8)
    for size in (1e-30, 1e30):
        scaled = linear.hutchinson_trace(size * matrix, key=KEY, samples=8)
        found = jnp.stack(scaled) / size
        np.testing.assert_allclose(found, jnp.stack(plain), rtol=1e-5)


def test_narrow_leaves_are_summed_in_wide_ones():
    like = jnp.zeros(4096, jnp.bfloat16)
    found = linear.hutchinson_trace(lambda v: 1 * v, like, key=KEY)
    assert found.value.dtype == jnp.float32 and found.value == 4096
    diagonal = linear.hutchinson_diagonal(lambda v: 3 * v, like, key=KEY, samples=2)
    assert diagonal.value.dtype == jnp.float32 and np.all(diagonal.value == 3)


def test_numbers_that_are_not_finite_are_seen():
    bad = jnp.ones((3, 3)).at[0, 0].set(jnp.nan)
    for probe in (linear.hutchinson_trace, linear.hutch_plus_plus):
        assert jnp.isnan(probe(bad, key=KEY, samples=4).value)
    assert jnp.isnan(linear.hutchinson_diagonal(bad, key=KEY, samples=4).value[0])


def test_empty_trees_have_the_trace_zero():
    assert linear.hutchinson_trace(lambda v: v, {}, key=KEY, samples=2).value == 0
    assert linear.hutchinson_diagonal(lambda v: v, {}, key=KEY, samples=2).value == {}
    holes = {"a": None, "b": jnp.ones(1)}
    found = linear.hutchinson_diagonal(lambda v: v, holes, key=KEY, samples=2).value
    assert found["a"] is None and found["b"] == 1


@pytest.mark.parametrize(
    "operator, options, message",
    [
        (lambda v: v, {}, "like is missing"),
        (lambda v: v, {"like": jnp.zeros(2, int)}, "real and floating"),
        (lambda v: v[:1], {"like": jnp.zeros(2)}, "of the form"),
        (jnp.ones((2, 3)), {}, "square"),
        (jnp.ones((2, 2)), {"samples": 0}, "samples"),
        (jnp.ones((2, 2)), {"samples": 4.5}, "samples"),
        (jnp.ones((2, 2)), {"samples": 5, "chunk": 0}, "chunk"),
    ],
)
def test_wrong_arguments_are_refused(operator, options, message):
    for probe in (
        linear.hutchinson_trace,
        linear.hutchinson_diagonal,
        linear.hutch_plus_plus,
    ):
        with pytest.raises(ValueError, match=message):
            probe(operator, key=KEY, **options)
