"""What the searches accept, on functions where each of their conditions decides."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import linesearch


def flattening(t):
    """Falls at slope -1 first, and hardly at all from t = 1/2 on."""
    return -(1 - np.exp(-10 * t)) / 10, -np.exp(-10 * t)


def accepted(search, phi, stepsize):
    init, update = search
    value, slope = phi(0.0)
    found = init(jnp.asarray(value), jnp.asarray(slope), stepsize)
    while not found.done:
        found = update(found, *map(jnp.asarray, phi(float(found.stepsize))))
    assert not found.failed
    return float(found.stepsize)


@pytest.mark.parametrize("decrease", [0.1, 0.4])
def test_backtracking_decreases_as_much_as_it_says(decrease, x64):
    search = linesearch.backtracking(decrease, approximate=False)
    t = accepted(search, flattening, 5.0)
    assert flattening(t)[0] <= -decrease * t


@pytest.mark.parametrize("decrease", [0.1, 0.4])
def test_wolfe_decreases_as_much_as_it_says(decrease, x64):
    search = linesearch.wolfe(decrease, approximate=False)
    t = accepted(search, flattening, 5.0)
    assert flattening(t)[0] <= -decrease * t


@pytest.mark.parametrize("factory", [linesearch.wolfe, linesearch.backtracking])
def test_rise_above_rounding_is_never_accepted(factory, x64):
    """Up by 200 epsilon at t = 1, level slope there: noise, but not of rounding."""
    rise = 200 * np.finfo(float).eps

    def phi(t):
        if t == 0:
            return 1.0, -1e-13
        return (1 + rise, -1e-15) if t == 1 else (1 - 1e-13 * t, -5e-14)

    assert accepted(factory(), phi, 1.0) != 1.0


@pytest.mark.parametrize("factory", [linesearch.wolfe, linesearch.backtracking])
def test_value_whose_terms_cancel_is_noisier_than_its_own_rounding(factory):
    """Off by thousandfold its unit roundoff: only the slopes still tell the way."""
    rng = np.random.default_rng(1)

    def phi(t):
        noise = rng.uniform(0.5, 1) * 1e-4 if t else 0.0
        return np.float32(1 + (t - 1) ** 2 * 1e-6 + noise), np.float32(2e-6 * (t - 1))

    assert 0.05 < accepted(factory(), phi, 0.6) < 1.1
