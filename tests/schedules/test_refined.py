"""Refined schedules: the paper's formula, automatic warm-up, the offline optimum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

import jaxsolve
from jaxsolve import schedules


def table(schedule, steps):
    counts = jnp.arange(steps, dtype=jnp.int32)
    return np.asarray(jax.jit(jax.vmap(schedule))(counts))


def paper(norms, power, tau):
    """Median filter with its paddings, weights and tail sums, in NumPy."""
    total = norms.size
    width = 2 * int(tau * total / 2) + 1
    padded = np.pad(norms, (0, 2 * width), mode="reflect")
    smooth = scipy.ndimage.median_filter(padded, size=width, mode="nearest")[:total]
    w = smooth**-power
    s = np.array([w[t] * w[t + 1 :].sum() / w.sum() for t in range(total)])
    return smooth, w, s


@pytest.mark.parametrize(("power", "tau"), [(2.0, 0.1), (1.0, 0.3), (2.0, 0.0)])
def test_schedule_is_that_of_a_plain_transcription(power, tau, x64):
    norms = np.random.default_rng(0).lognormal(size=83)
    smooth, w, s = paper(norms, power, tau)
    schedule = schedules.refined(norms, 0.3, power=power, smoothing=tau)
    np.testing.assert_allclose(table(schedule, 83), 0.3 * s / s.max(), rtol=1e-10)
    if power == 2.0:
        sized = schedules.refined_stepsize(norms, 0.7, smoothing=tau)
        expected = 0.7 * s / np.sqrt(np.sum(w**2 * smooth**2))
        np.testing.assert_allclose(table(sized, 83), expected, rtol=1e-10)
        bound = schedules.refined_bound(norms, 0.7)
        assert np.isclose(bound, 0.7 / np.sqrt(np.sum(norms**-2.0)), rtol=1e-12)


def test_constant_norms_give_linear_decay():
    for steps in (1, 50):
        schedule = schedules.refined(np.full(steps, 3.0, np.float32))
        expected = 1 - np.arange(1, steps + 1) / steps
        expected = expected / max(expected[0], 1e-9)
        np.testing.assert_allclose(table(schedule, steps), expected, atol=1e-6)


def test_norms_that_fall_at_first_give_a_warmup(x64):
    norms = np.concatenate([np.linspace(10, 1, 100), np.ones(900)])
    shape = table(schedules.refined(norms, smoothing=0.0), 1000)
    assert 90 <= shape.argmax() <= 105 and 0.005 < shape[0] < 0.02
    after = shape[110:]
    np.testing.assert_allclose(np.diff(after), after[1] - after[0], rtol=1e-6)
    smoothed = table(schedules.refined(norms), 1000)
    assert 80 <= smoothed.argmax() <= 120 and smoothed[0] < 0.03 and smoothed[-1] == 0


def test_schedules_are_stretched_to_another_number_of_steps():
    norms = np.linspace(5, 1, 50, dtype=np.float32)
    short = table(schedules.refined(norms), 50)
    long = table(schedules.refined(norms, steps=100), 101)
    np.testing.assert_allclose(long[1:100:2], short, rtol=1e-5, atol=1e-7)
    assert long[100] == 0


def test_norms_that_are_zero_or_not_finite_do_no_harm():
    norms = np.linspace(4, 1, 50, dtype=np.float32)
    plain = table(schedules.refined(norms, smoothing=0.2), 50)
    for bad in (np.nan, np.inf, -np.inf):
        spoilt = norms.copy()
        spoilt[[0, 17, 49]] = bad
        shape = table(schedules.refined(spoilt, smoothing=0.2), 50)
        np.testing.assert_allclose(shape, plain, atol=0.08)
    still = norms.copy()
    still[10:30] = 0
    assert np.all(np.isfinite(table(schedules.refined(still, smoothing=0.2), 50)))
    for constant in (0.0, np.nan):
        shape = table(schedules.refined(np.full(50, constant, np.float32)), 50)
        np.testing.assert_allclose(shape, (49 - np.arange(50)) / 49, atol=1e-6)


def test_any_power_of_a_zero_norm_is_finite():
    norms = np.array([1.0, 0.0, 1.0, 1.0], np.float32)
    for power in (0.5, 2.0, 6.0, 30.0):
        schedule = schedules.refined(norms, power=power, smoothing=0.0)
        shape = table(schedule, 4)
        assert np.all(np.isfinite(shape)) and shape[1] == 1 and shape[3] == 0
    plain = table(schedules.refined(norms[:1].repeat(4), power=30.0, smoothing=0.0), 4)
    np.testing.assert_allclose(plain, [1, 2 / 3, 1 / 3, 0], rtol=1e-6)


def test_bounds_of_tiny_and_huge_norms_are_in_range():
    for size in (1e-20, 1.0, 1e20):
        norms = size * jnp.array([1.0, 2.0, 2.0, 1.0])
        found = schedules.refined_bound(norms, 3.0)
        np.testing.assert_allclose(found, 3 * size / 2.5**0.5, rtol=1e-6)
    assert schedules.refined_bound(jnp.array([0.0, 1.0]), 3.0) == 0
    assert jnp.isnan(schedules.refined_bound(jnp.array([jnp.nan, 1.0]), 3.0))


@pytest.mark.parametrize("given", [1, 7, 50])
def test_the_last_of_any_number_of_steps_is_exactly_zero(given):
    last = lambda steps: schedules.refined(jnp.ones(given), steps=steps)(steps - 1)
    found = jax.jit(jax.vmap(last))(jnp.arange(1, 3000))
    np.testing.assert_array_equal(found, 0)
    assert all(schedules.refined(jnp.ones(given), steps=s)(s - 1) == 0 for s in (3, 98))


def test_norms_may_be_traced_and_batched():
    norms = jnp.asarray(np.random.default_rng(1).lognormal(size=(2, 50)), jnp.float32)
    shape = lambda norms: jax.vmap(schedules.refined(norms))(jnp.arange(50))
    lanes = jax.jit(jax.vmap(shape))(norms)
    single = [table(schedules.refined(np.asarray(n)), 50) for n in norms]
    np.testing.assert_allclose(lanes, single, rtol=1e-5, atol=1e-6)
    assert lanes.dtype == jnp.float32


def test_offline_optimum_has_nearly_the_refined_shape(x64):
    steps = 60
    norms = np.concatenate([np.linspace(6, 1, 12), np.ones(48)])

    def plain(sizes, distance):
        s = lambda k: sizes[k:].sum()
        q = lambda k: np.sum(sizes[k:] ** 2 * norms[k:] ** 2)
        terms = [sizes[k] * q(k) / (s(k + 1) * s(k)) for k in range(steps - 1)]
        return (distance**2 + q(0)) / (2 * s(0)) + sum(terms) / 2

    sizes = np.random.default_rng(2).uniform(0.1, 1, steps)
    bound = schedules.last_iterate_bound(sizes, norms, 1.7)
    assert np.isclose(bound, plain(sizes, 1.7), rtol=1e-12)
    start = jnp.full(steps, 1 / np.sqrt(steps))
    best = jaxsolve.minimize(
        schedules.last_iterate_bound, start, norms, bounds=(1e-8, None), tol=1e-6
    )
    refined = table(schedules.refined_stepsize(norms, 1.0, smoothing=0.0), steps)
    value = plain(np.asarray(best.params), 1.0)
    assert value <= 0.9 * plain(np.asarray(start), 1.0)
    assert value <= plain(np.maximum(refined, 1e-8), 1.0)
    shape, closed = (np.asarray(x) / np.max(x) for x in (best.params, refined))
    inner = slice(0, steps - 3)
    assert np.corrcoef(shape[inner], closed[inner])[0, 1] > 0.95


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: schedules.refined(jnp.ones((2, 2))), "norms must be one axis"),
        (lambda: schedules.refined(jnp.ones(0)), "norms must be one axis"),
        (lambda: schedules.refined(jnp.ones(3), 0.0), "peak_value must be one"),
        (lambda: schedules.refined(jnp.ones(3), power=0.0), "power must be one"),
        (
            lambda: schedules.refined(jnp.ones(3), smoothing=1.0),
            "smoothing must be one",
        ),
        (lambda: schedules.refined(jnp.ones(3), steps=0), "steps must be one"),
        (
            lambda: schedules.refined_stepsize(jnp.ones(3), -1.0),
            "distance must be one",
        ),
        (
            lambda: schedules.refined_bound(jnp.ones(3), 0.0),
            "distance must be one",
        ),
    ],
)
def test_numbers_out_of_range_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_a_record_that_was_not_filled_is_refused():
    with pytest.raises(ValueError, match=r"give norms\[:2\]"):
        schedules.refined(jnp.array([2.0, 1.0, 0.0, 0.0]))
