"""The Step Law: its numbers, its recipe, and the recovery of a law from a sweep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import schedules

BOOTSTRAP = schedules.StepLaw(np.exp(0.586), -0.7129, 0.3075, np.exp(-0.5435), 0.5709)


@pytest.mark.parametrize(
    ("parameters", "tokens", "stepsize", "batch"),
    [(1e9, 1e11, 1.63e-3, 1.108e6), (7e9, 1.4e12, 9.17e-4, 5.00e6)],
)
def test_recommendations_are_the_published_ones(parameters, tokens, stepsize, batch):
    found = schedules.step_law(parameters, tokens)
    np.testing.assert_allclose(found, (stepsize, batch), rtol=5e-3)
    whole = schedules.step_law(int(parameters), int(tokens))
    np.testing.assert_allclose(whole, found, rtol=1e-6)
    mean = schedules.step_law(parameters, tokens, BOOTSTRAP)
    np.testing.assert_allclose(mean, found, rtol=0.021)


def test_recommendations_are_near_the_optima_of_the_released_sweep():
    first = schedules.step_law(4.29e8, 8e9)
    np.testing.assert_allclose(first, (1.37e-3, 2.62e5), rtol=0.01)
    assert 0.5 < first.stepsize / 1.95e-3 < 2
    second = schedules.step_law(1.07e9, 5.69e10)
    np.testing.assert_allclose(second.stepsize, 1.31e-3, rtol=0.01)


def test_recommendations_are_differentiable_and_batched():
    sizes = jnp.array([1e8, 1e9])
    law = lambda n: schedules.step_law(n, 1e10).stepsize
    found = jax.jit(jax.vmap(law))(sizes)
    np.testing.assert_allclose(found, law(sizes), rtol=1e-6)
    slope = jax.grad(lambda n: jnp.log(law(jnp.exp(n))))(20.0)
    np.testing.assert_allclose(slope, -0.713, rtol=1e-4)


def test_recipe_warms_up_and_ends_at_a_fixed_rate():
    peak = schedules.step_law(1e9, 1e11).stepsize
    schedule = schedules.step_law_schedule(1e9, 1e11, 10_000)
    counts = jnp.array([0, 1000, 2000, 6000, 10_000, 12_000])
    values = jax.jit(jax.vmap(schedule))(counts)
    middle = (float(peak) + 1e-5) / 2
    expected = [0, float(peak) / 2, peak, middle, 1e-5, 1e-5]
    np.testing.assert_allclose(values, expected, rtol=1e-3)


def sweep(noise, seed=0):
    """Runs around the optimum of the law, whose loss is a bowl in the logarithms."""
    rng, rows = np.random.default_rng(seed), []
    for n in (6e7, 2e8, 4e8, 1e9):
        for d in (2e9, 8e9, 3e10, 1e11):
            stepsize, batch = (float(x) for x in schedules.step_law(n, d))
            for i in range(-2, 3):
                for j in range(-2, 3):
                    loss = 2 + 0.02 * (i**2 + j**2)
                    error = np.exp(noise * rng.normal(size=2))
                    shifts = 2 ** (i / 2) * error[0], 2 ** (j / 2) * error[1]
                    rows.append([n, d, stepsize * shifts[0], batch * shifts[1], loss])
    return np.array(rows)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_law_is_recovered_from_a_sweep(noise, x64):
    runs = sweep(noise)
    fit = schedules.fit_step_law(runs, resamples=200, key=jax.random.key(1))
    expected = schedules.StepLaw()
    tolerance = 0.02 if noise else 1e-6
    for name in ("parameters", "tokens", "batch_tokens"):
        found, wanted = getattr(fit.law, name), getattr(expected, name)
        np.testing.assert_allclose(found, wanted, atol=tolerance)
    again = schedules.step_law(3e8, 1e10, fit.law)
    np.testing.assert_allclose(again, schedules.step_law(3e8, 1e10), rtol=0.05)
    deviations = np.array(fit.deviation)
    assert np.all(deviations > 0.003) if noise else np.all(deviations < 1e-6)
    best = runs[runs[:, 4] <= 2.001]
    logs = np.log(best[:, :4])
    columns = np.stack([np.ones(len(best)), logs[:, 0], logs[:, 1]], axis=1)
    plain = np.linalg.lstsq(columns, logs[:, 2])[0]
    found = np.log(fit.law.factor), fit.law.parameters, fit.law.tokens
    np.testing.assert_allclose(found[1:], plain[1:], atol=5 * max(noise, 1e-6) / 10)


def test_runs_that_diverged_do_not_spoil_their_cell(x64):
    runs = sweep(0.0)
    expected = schedules.fit_step_law(runs, resamples=20)
    for loss in (np.nan, np.inf, -np.inf):
        diverged = runs[::7].copy()
        diverged[:, 2], diverged[:, 4] = 8 * diverged[:, 2], loss
        # Beside them a cell of nothing else, and runs of which something is missing.
        lost = np.array([[5e8, 5e9, 1e-3, 1e5, loss], [np.nan, 2e9, 1e-3, 1e5, 1.0]])
        both = np.concatenate([diverged, runs, lost])
        fit = schedules.fit_step_law(both, resamples=20)
        np.testing.assert_allclose(fit.law, expected.law, rtol=1e-5)
        assert np.all(np.array(fit.deviation) < 1e-6)


def test_fit_in_single_precision_is_that_in_double(x64):
    runs = sweep(0.0)
    double = schedules.fit_step_law(runs, resamples=20)
    single = schedules.fit_step_law(jnp.asarray(runs, jnp.float32), resamples=20)
    np.testing.assert_allclose(single.law, double.law, rtol=2e-3)
    assert single.law.factor.dtype == jnp.float32


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: schedules.step_law(0.0, 1e9), "parameters must be one"),
        (lambda: schedules.step_law(1e9, -1.0), "tokens must be one"),
        (
            lambda: schedules.step_law_schedule(1e9, 1e9, 100),
            "warmup_steps must be one",
        ),
        (lambda: schedules.fit_step_law(np.ones((3, 4))), "five columns"),
        (lambda: schedules.fit_step_law(np.ones((3, 5)), resamples=0), "resamples"),
        (lambda: schedules.fit_step_law(np.ones((3, 5)), tolerance=-1.0), "tolerance"),
        (lambda: schedules.fit_step_law(np.ones((3, 5))), "two values of parameters"),
    ],
)
def test_numbers_out_of_range_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
