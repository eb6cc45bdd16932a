"""The Sinkhorn divergence: its zero, its sign, its limits, its derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import transport

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(6, 2)), RNG.normal(size=(5, 2))


def divergence(x, y, *weights, **options):
    return transport.sinkhorn_divergence(x, y, *weights, tol=1e-11, **options).value


def test_a_cloud_is_at_no_distance_from_itself_and_others_at_some(x64):
    a = RNG.uniform(size=6)
    same = divergence(X, X, a / a.sum(), a / a.sum(), epsilon=0.5)
    np.testing.assert_allclose(same, 0, atol=1e-10)
    assert divergence(X, Y, epsilon=0.5) > 0


@pytest.mark.parametrize("epsilon", [0.05, 1.0])
def test_a_translation_costs_its_square_at_every_temperature(epsilon, x64):
    moved = divergence(X, X + np.array([1.0, 0.5]), epsilon=epsilon)
    np.testing.assert_allclose(moved, 1.25, rtol=1e-7)


def test_at_high_temperatures_it_is_half_a_squared_discrepancy(x64):
    square = lambda x, y: np.mean(np.sum((x[:, None] - y[None]) ** 2, -1))
    expected = square(X, Y) - square(X, X) / 2 - square(Y, Y) / 2
    np.testing.assert_allclose(divergence(X, Y, epsilon=1e5), expected, rtol=1e-3)


def test_derivative_in_points_and_weights_is_that_of_differences(x64):
    a = jnp.asarray(RNG.uniform(0.5, 1, 6))
    fun = jax.jit(lambda x, a: divergence(x, Y, a / jnp.sum(a), epsilon=0.3))
    along = jnp.asarray(RNG.normal(size=X.shape)), jnp.asarray(RNG.normal(size=6))
    x, step = jnp.asarray(X), 1e-5
    at = lambda t: fun(x + t * along[0], a + t * along[1])
    expected = (at(step) - at(-step)) / (2 * step)
    found = jax.grad(fun, (0, 1))(x, a)
    found = sum(jnp.sum(g * d) for g, d in zip(found, along, strict=True))
    np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_unbalanced_divergences_of_equal_clouds_vanish_too(x64):
    options = dict(epsilon=0.3, tau_a=0.9, tau_b=0.9)
    np.testing.assert_allclose(divergence(X, X, **options), 0, atol=1e-10)
    assert divergence(X, Y, **options) > 0
    with pytest.raises(ValueError, match="one price"):
        divergence(X, Y, epsilon=0.3, tau_a=0.9)


def test_a_fixed_second_cloud_leaves_its_term_out(x64):
    whole = transport.sinkhorn_divergence(X, Y, epsilon=0.3, tol=1e-11)
    part = transport.sinkhorn_divergence(
        X, Y, epsilon=0.3, tol=1e-11, static_second=True
    )
    assert bool(whole.converged) and part.second is None
    difference = part.value - whole.value
    np.testing.assert_allclose(difference, whole.second.dual_value / 2, rtol=1e-9)
