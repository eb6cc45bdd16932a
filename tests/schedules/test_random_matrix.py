"""Batch sizes and spectra: random matrices are measured, rules are limits of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import schedules


def card(eigenvalue, noise, batch, dataset=np.inf):
    """The card's A, in NumPy."""
    s = noise * (1 / batch - 1 / dataset)
    if abs(eigenvalue) > s**0.5:
        return eigenvalue + s / eigenvalue
    return (-1 if eigenvalue < 0 else 1) * 2 * s**0.5


@pytest.mark.parametrize("eigenvalue", [3.0, -3.0, 0.1, -0.1, 0.0])
@pytest.mark.parametrize("batch, dataset", [(1, np.inf), (8, 20.0), (20, 20)])
def test_eigenvalues_of_batches_are_the_cards(x64, eigenvalue, batch, dataset):
    found = schedules.batch_eigenvalue(eigenvalue, 4.0, batch, dataset)
    np.testing.assert_allclose(found, card(eigenvalue, 4.0, batch, dataset), rtol=1e-14)


def test_outliers_of_random_matrices_are_where_they_are_predicted():
    n, rng = 400, np.random.default_rng(0)
    v = rng.normal(size=n)
    signal = 3 * np.outer(v, v) / (v @ v)
    noise = rng.normal(size=(n, n))
    noise = (noise + noise.T) / (2 * n) ** 0.5  # entries of variance 1 / n
    for s in (1.0, 4.0, 16.0):
        largest = np.linalg.eigvalsh(signal + s**0.5 * noise)[-1]
        predicted = schedules.batch_eigenvalue(3.0, s, 1)
        np.testing.assert_allclose(predicted, largest, rtol=0.05)
    np.testing.assert_allclose(schedules.batch_eigenvalue(3.0, 16.0, 1), 8, rtol=1e-6)


def test_rates_grow_with_batches_of_gaussian_features_and_saturate():
    rng, P, sizes = np.random.default_rng(0), 100, np.array([25, 50, 200, 800])
    scale = np.ones(P)
    scale[0] = 6**0.5
    largest = []
    for size in sizes:
        draws = [scale * rng.normal(size=(size, P)) for _ in range(50)]
        top = [np.linalg.eigvalsh(x.T @ x)[-1] / size for x in draws]
        largest.append(np.mean(top))
    measured = 2 / np.array(largest)
    assert np.all(np.diff(measured) > 0) and measured[-1] < 1 / 3
    # Wishart's outlier 6 (1 + P / B / 5) is the prediction for a noise of 36 P / 5.
    predicted = schedules.max_learning_rate(6.0, 36 * P / 5, sizes)
    np.testing.assert_allclose(predicted, measured, rtol=0.1)


def test_rates_are_linear_in_small_batches_and_constant_in_large_ones(x64):
    rates = schedules.max_learning_rate(4.0, 1e6, np.array([1.0, 2.0, 1e9, 2e9]))
    edge = schedules.max_learning_rate(0.0, 1e6, np.array([1.0, 4.0]))
    np.testing.assert_allclose(edge[1] / edge[0], 2, rtol=1e-12)
    np.testing.assert_allclose(rates[2:], 0.5, rtol=1e-4)
    outlier = schedules.max_learning_rate(1e4, 1e7, np.array([1.0, 2.0]), momentum=0.5)
    np.testing.assert_allclose(outlier[0], 3 / (1e4 + 1e3), rtol=1e-12)
    assert schedules.max_learning_rate(-1.0, 0.0, 1) == np.inf


def test_rates_beside_negative_eigenvalues_are_bounded_by_the_noise(x64):
    for eigenvalue in (-3.0, -0.1, 0.0, 1.9):  # below sqrt(4): the edge is 4
        rate = schedules.max_learning_rate(eigenvalue, 4.0, 1)
        np.testing.assert_allclose(rate, 0.5, rtol=1e-14)
    rates = schedules.max_learning_rate(np.array([-3.0, 4.0]), 4.0, 1, momentum=0.5)
    np.testing.assert_allclose(rates, [3 / 4, 3 / 5], rtol=1e-14)


def test_rules_transfer_rates_and_are_capped(x64):
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12)
    close(schedules.linear_scaling(0.1, 256, 64), 0.4)
    close(schedules.linear_scaling(0.1, 256, 64, cap=0.3), 0.3)
    close(schedules.square_root_scaling(0.1, 256, 64), 0.2)
    close(schedules.square_root_scaling(0.1, 256, 64, cap=0.15), 0.15)
    close(schedules.spectral_scaling(0.1, 256, 64, 0.0, 1.0), 0.2)
    ratio = card(3.0, 50.0, 64) / card(3.0, 50.0, 256)
    close(schedules.spectral_scaling(0.1, 256, 64, 3.0, 50.0), 0.1 * ratio)


def test_schedules_stay_schedules_for_optax():
    base = lambda count: jnp.where(count < 5, 0.1, 0.05)
    scaled = schedules.linear_scaling(base, 128, 64)
    for count in (0, 3, 10):
        np.testing.assert_allclose(scaled(count), 2 * base(count), rtol=1e-6)
    grad = jnp.array([2.0])
    transform = optax.sgd(scaled)
    step, _ = transform.update(grad, transform.init(grad))
    np.testing.assert_allclose(step, [-0.4], rtol=1e-6)
    traced = jax.jit(lambda size: schedules.square_root_scaling(0.1, size, 64))
    np.testing.assert_allclose(traced(256), 0.2, rtol=1e-6)


def test_the_heavy_ball_has_polyaks_constants(x64):
    rate, momentum = schedules.heavy_ball(9.0, 1.0)
    np.testing.assert_allclose((rate, momentum), (4 / 16, 4 / 16), rtol=1e-14)
    margin = schedules.stability_margin(rate, momentum, 9.0)
    np.testing.assert_allclose(margin, 0.25 * 9 / 2.5, rtol=1e-14)
    for least in (9.0, 1.0, 1e-3, 1e-9):
        rate, momentum = schedules.heavy_ball(9.0, least, 0.5)
        assert momentum <= 0.5 + 1e-15
        assert schedules.stability_margin(rate, momentum, 9.0) <= 1


def test_numbers_out_of_range_are_refused():
    calls = {
        "least": lambda: schedules.heavy_ball(1.0, 2.0),
        "batch_size": lambda: schedules.max_learning_rate(1.0, 1.0, 0),
        "momentum": lambda: schedules.max_learning_rate(1.0, 1.0, 8, momentum=1.5),
        "noise": lambda: schedules.batch_eigenvalue(1.0, -1.0, 8),
        "reference": lambda: schedules.linear_scaling(0.1, 8, -4),
        "eigenvalue": lambda: schedules.spectral_scaling(0.1, 8, 4, -1.0, 1.0),
        "learning_rate": lambda: schedules.stability_margin(-0.1, 0.5, 1.0),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=name):
            call()
    assert jnp.isnan(schedules.max_learning_rate(jnp.nan, 1.0, 8))
