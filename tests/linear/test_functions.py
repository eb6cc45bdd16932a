"""Functions of operators: dense answers, derivatives at multiple eigenvalues."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxsolve import linear

RNG = np.random.default_rng(4)
KEY = jax.random.key(0)


def symmetric(values):
    q = np.linalg.qr(RNG.normal(size=(len(values), len(values))))[0]
    return (q * values) @ q.T


B, W = RNG.normal(size=8), RNG.normal(size=8)
# Of three distinct eigenvalues: the eigendecomposition of all has no derivative.
MULTIPLE = symmetric([1.0, 1, 1, 2, 2, 3, 3, 3])
CHANGE = symmetric(RNG.normal(size=8))


def change_of_expm(matrix, change):
    """The Frechet derivative, by SciPy."""
    return scipy.linalg.expm_frechet(matrix, change, compute_expm=False)


@pytest.mark.parametrize("matrix", [MULTIPLE, MULTIPLE + CHANGE], ids=["few", "many"])
def test_products_of_functions_and_their_derivatives_are_exact(x64, matrix):
    def product(theta, b, rate):
        operator = lambda v: jnp.asarray(matrix) @ v + theta * (jnp.asarray(CHANGE) @ v)
        fun = lambda x: jnp.exp(rate * x)
        return jnp.asarray(W) @ linear.matrix_function(fun, operator, b, 8)

    both = jax.jit(jax.value_and_grad(product, (0, 1, 2)))
    value, (theta, b, rate) = both(0.0, jnp.asarray(B), 1.0)
    exact = scipy.linalg.expm(matrix)
    np.testing.assert_allclose(value, W @ exact @ B, rtol=1e-10)
    np.testing.assert_allclose(b, exact @ W, rtol=1e-9)
    np.testing.assert_allclose(theta, W @ change_of_expm(matrix, CHANGE) @ B, rtol=1e-8)
    np.testing.assert_allclose(rate, W @ matrix @ exact @ B, rtol=1e-9)


def test_polynomials_are_exact_in_fewer_steps_and_so_are_their_derivatives(x64):
    matrix, change = symmetric(np.linspace(-1, 2, 8)), CHANGE

    def product(theta):
        operator = lambda v: {
            "x": jnp.asarray(matrix) @ v["x"] + theta * (jnp.asarray(change) @ v["x"])
        }
        b = {"x": jnp.asarray(B)}
        image = linear.matrix_function(lambda x: x**3, operator, b, 4)
        return jnp.asarray(W) @ image["x"]

    value, slope = jax.value_and_grad(product)(0.0)
    cube = np.linalg.matrix_power
    expected = sum(cube(matrix, k) @ change @ cube(matrix, 2 - k) for k in range(3))
    np.testing.assert_allclose(value, W @ cube(matrix, 3) @ B, rtol=1e-10)
    np.testing.assert_allclose(slope, W @ expected @ B, rtol=1e-10)


def test_zero_vectors_and_holes_give_zero():
    image = linear.matrix_function(jnp.log, jnp.eye(3), jnp.zeros(3), 2)
    np.testing.assert_array_equal(image, 0)
    tree = {"a": None, "b": jnp.ones(1)}
    image = linear.matrix_function(jnp.log, lambda v: v, tree, 2)
    assert image["a"] is None and abs(image["b"][0]) < 1e-6


def log_det(theta, chunk=16):
    operator = lambda v: jnp.asarray(MULTIPLE) @ v + theta * (jnp.asarray(CHANGE) @ v)
    options = dict(steps=8, key=KEY, samples=6, chunk=chunk)
    return linear.trace_of_function(jnp.log, operator, jnp.zeros(8), **options)


@pytest.mark.parametrize("chunk", [6, 3])
def test_derivatives_of_traces_are_estimates_by_the_same_vectors_in_both_modes(
    chunk, x64
):
    z = np.stack([linear.rademacher(k, jnp.zeros(8)) for k in jax.random.split(KEY, 6)])

    def sampled(theta):
        logarithm = scipy.linalg.logm(MULTIPLE + theta * CHANGE)
        return np.mean(np.sum(z * (z @ logarithm), 1))

    value = lambda theta: log_det(theta, chunk).value
    np.testing.assert_allclose(value(0.0), sampled(0), rtol=1e-10)
    # In the mean tr (A^-1 dA); it is not the derivative of the samples.
    inverse = np.linalg.inv(MULTIPLE)
    expected = np.mean(np.sum((z @ inverse) * (z @ CHANGE), 1))
    slope = jax.jit(jax.grad(value))
    np.testing.assert_allclose(slope(0.0), expected, rtol=1e-9)
    forward = jax.jvp(value, (0.0,), (1.0,))[1]
    np.testing.assert_allclose(forward, expected, rtol=1e-9)
    with pytest.raises(ValueError, match="differentiable once"):
        jax.grad(slope)(0.0)


def test_traces_are_differentiable_in_the_function(x64):
    def total(power):
        matrix = jnp.asarray(MULTIPLE)
        options = dict(steps=8, key=KEY, samples=3)
        fun = lambda x: x**power
        return linear.trace_of_function(fun, matrix, **options).value

    h = 1e-5
    differences = (total(2 + h) - total(2 - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(total)(2.0), differences, rtol=1e-7)


def test_log_determinants_are_as_near_as_their_errors_say(x64):
    values = np.concatenate([np.linspace(0.01, 1, 195), [5, 8, 10, 15, 20.0]])
    matrix = jnp.asarray(symmetric(values))
    spectrum = linear.lanczos_spectrum(matrix, steps=20, key=KEY, samples=30)
    np.testing.assert_allclose(spectrum.values[:, -1], 20, rtol=1e-5)
    found = linear.spectral_sum(spectrum, jnp.log)
    exact = np.sum(np.log(values))
    assert abs(exact + 175.6) < 0.1 and found.error < 5
    assert abs(found.value - exact) < 3 * found.error
    other = linear.trace_of_function(jnp.log, matrix, steps=20, key=KEY, samples=30)
    np.testing.assert_allclose(found, other, rtol=1e-9)
    size = linear.spectral_sum(spectrum, jnp.ones_like)
    np.testing.assert_allclose(size.value, 200, rtol=1e-10)

    points = jnp.linspace(-2, 23, 5001)
    density = np.asarray(linear.spectral_density(spectrum, points))
    inside = np.asarray(points) < 3
    np.testing.assert_allclose(density.sum() * 25 / 5000, 1, rtol=1e-3)
    np.testing.assert_allclose(density[inside].sum() * 25 / 5000, 0.975, atol=0.01)


@pytest.mark.parametrize("steps", [0, 2.5])
def test_wrong_steps_are_refused(steps):
    with pytest.raises(ValueError, match="steps"):
        linear.matrix_function(jnp.exp, jnp.eye(2), jnp.ones(2), steps)
    for probe in (
        linear.lanczos_spectrum,
        lambda *a, **o: linear.trace_of_function(jnp.exp, *a, **o),
    ):
        with pytest.raises(ValueError, match="steps"):
            probe(jnp.eye(2), steps=steps, key=KEY)
    with pytest.raises(ValueError, match="like"):
        linear.trace_of_function(jnp.exp, lambda v: v, steps=2, key=KEY)
