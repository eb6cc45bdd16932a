"""Huber, logarithmic barrier and entropy: known answers and extreme numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxsolve import prox

X = np.linspace(-30, 30, 121)
EXTREMES = np.array([-1e30, -1e5, -3.0, 0.0, 1e-30, 2.0, 1e5, 1e30, 3e38], np.float32)


def test_huber_is_quadratic_near_zero_and_a_shift_far_away():
    out = prox.huber(2.0, 0.5)(jnp.array([0.9, -1.5, 1.6, -4.0]))
    np.testing.assert_allclose(out, [0.3, -0.5, 0.6, -3.0], rtol=1e-6)


@pytest.mark.parametrize("weight", [0.05, 1.0, 20.0])
def test_entropy_is_lambert_s_function(weight, x64):
    inside = np.exp(X / weight - 1 - np.log(weight))
    known = np.isfinite(inside)
    expected = weight * special.lambertw(inside[known]).real
    out = prox.entropy(weight)(X[known])
    np.testing.assert_allclose(out, expected, rtol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 1e-20, 1e-3, 1.0, 1e5, 1e20])
@pytest.mark.parametrize("factory", [prox.entropy, prox.log_barrier])
def test_single_precision_is_right_at_extremes(factory, weight):
    weight = np.float32(weight)
    operator = jax.jit(lambda x, w: factory(w)(x))
    out = operator(EXTREMES, weight)
    with jax.enable_x64(True):
        exact = factory(np.float64(weight))(EXTREMES.astype(np.float64))
    np.testing.assert_allclose(out, exact, rtol=1e-5, atol=1e-37)
    by_x, by_w = jax.vmap(jax.grad(operator, argnums=(0, 1)), (0, None))(
        EXTREMES, weight
    )
    assert np.all((by_x >= 0) & (by_x <= 1))
    assert np.all(np.isfinite(by_w))


def test_log_barrier_of_no_weight_is_the_orthant():
    x = jnp.array([-2.0, 0.0, 3.0])
    np.testing.assert_array_equal(prox.log_barrier(0.0)(x), [0, 0, 3])


def test_log_barrier_does_not_cancel_far_outside():
    out = prox.log_barrier(1.0)(jnp.array([-1e6]))
    np.testing.assert_allclose(out, 1e-6, rtol=1e-6)


@pytest.mark.parametrize("factory", [prox.huber, prox.log_barrier, prox.entropy])
def test_negative_weights_are_refused(factory):
    with pytest.raises(ValueError, match="weight must be at least zero"):
        factory(-1.0)
    with pytest.raises(ValueError, match=r"weight must broadcast"):
        factory(np.ones(2))(jnp.ones(3))
