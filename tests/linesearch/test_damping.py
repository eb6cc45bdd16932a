"""The damping rule: Nielsen's factors, rounding, failure, what cannot be used."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import linesearch

INIT, UPDATE = linesearch.nielsen()


def factors(values, predicted=1.0):
    """The factors and outcomes of a sequence of trial values, from the value 10."""
    damping, value, seen = INIT(jnp.asarray(1.0)), 10.0, []
    for trial in values:
        damping = UPDATE(damping, value, trial, predicted, False, False)
        seen.append((float(damping.factor), bool(damping.accepted)))
        value = trial if damping.accepted else value
    return seen


def test_factors_are_nielsens():
    # Gain ratios 1, 0.5, 0.25; then rejected twice, accepted, rejected.
    seen = factors([9.0, 8.5, 8.25, 9.0, 8.25, 7.25, 8.0])
    expected = [1 / 3, 1 / 3, 1.125 / 3, 0.75, 3.0, 1.0, 2.0]
    np.testing.assert_allclose([factor for factor, _ in seen], expected, rtol=1e-6)
    assert [ok for _, ok in seen] == [True, True, True, False, False, True, False]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_trial_that_cannot_be_used_raises_the_factor_eightfold(bad):
    (factor, accepted), *_ = factors([bad])
    assert not accepted and factor == 8.0


def test_start_is_accepted_as_it_is_if_it_is_finite():
    for trial, accepted in ((3.0, True), (np.nan, False)):
        damping = UPDATE(INIT(jnp.asarray(1.0)), np.inf, trial, 0.0, False, True)
        assert bool(damping.accepted) == accepted
        assert bool(damping.failed) == (not accepted) and damping.factor == 1.0


@pytest.mark.parametrize("closer", [False, True])
def test_within_rounding_the_error_decides(closer):
    value = jnp.asarray(1e6)  # eps times it is 0.1
    damping = UPDATE(INIT(jnp.asarray(1.0)), value, value + 0.5, 1e-3, closer, False)
    assert bool(damping.accepted) == closer
    damping = UPDATE(INIT(jnp.asarray(1.0)), value, value + 50, 1e-3, closer, False)
    assert not damping.accepted


def test_step_lost_in_rounding_is_failure_and_so_are_too_many_rejections():
    damping = UPDATE(INIT(jnp.asarray(1.0)), 1.0, 2.0, 1.0, False, True)
    assert damping.failed
    init, update = linesearch.nielsen(max_trials=3)
    damping = init(jnp.asarray(1.0))
    for failed in (False, False, True):
        damping = update(damping, 1.0, 2.0, 1.0, False, False)
        assert bool(damping.failed) == failed


def test_factors_stay_within_the_precision():
    eps = float(jnp.finfo(jnp.float32).eps)
    seen = factors([100.0] * 30)
    assert np.isclose(seen[-1][0], 1 / eps**2) and np.all(np.isfinite(seen))
    seen = factors(10.0 - np.arange(1.0, 40.0))
    assert np.isclose(seen[-1][0], eps**2)


def test_options_that_make_no_sense_are_refused():
    for options in ({"accept": 0.5}, {"accept": -1.0}, {"shrink": 1.0}):
        with pytest.raises(ValueError, match="nielsen"):
            linesearch.nielsen(**options)
