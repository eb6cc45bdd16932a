"""The estimators: exact on exact samples, STORM where all blocks are sampled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve.bilevel import msvr, storm

RNG = np.random.default_rng(0)
PATH = RNG.normal(size=(50, 6, 3))


def follow(estimator, noise=0.0):
    """Estimates along a path, all blocks sampled, now and before with one noise."""
    estimate = estimator.init(jnp.asarray(PATH[0]))
    for k in range(1, len(PATH)):
        shift = noise * RNG.normal(size=PATH.shape[1:])
        estimate = estimator.update(estimate, PATH[k] + shift, PATH[k - 1] + shift, k)
        yield np.asarray(estimate)


def test_storm_is_the_cards(x64):
    estimator = storm(0.3)
    e, now, previous = jnp.asarray(2.0), jnp.asarray(5.0), jnp.asarray(4.0)
    assert estimator.update(e, now, previous) == 0.7 * (2 - 4) + 5


def test_msvr_is_the_cards_with_the_gamma_of_the_theory(x64):
    m, index, alpha = 7, np.array([4, 1]), 0.2
    estimate, now, previous = RNG.normal(size=(3, m, 3))
    rows = msvr(alpha).update(
        {"a": jnp.asarray(estimate[index])},
        {"a": jnp.asarray(now[index])},
        {"a": jnp.asarray(previous[index])},
        blocks=m,
    )["a"]
    gamma = (m - 2) / (2 * (1 - alpha)) + (1 - alpha)
    expected = (1 - alpha) * estimate + alpha * now + gamma * (now - previous)
    np.testing.assert_allclose(rows, expected[index], rtol=1e-12)


def test_msvr_of_all_blocks_is_storm(x64):
    for own, all_of_m, other in zip(
        follow(msvr(0.3, 0.7)), follow(msvr(0.3)), follow(storm(0.3)), strict=True
    ):
        np.testing.assert_allclose(own, other, rtol=1e-12)
        np.testing.assert_allclose(all_of_m, other, rtol=1e-12)


@pytest.mark.parametrize("estimator", [storm(0.1), msvr(0.1)], ids=["storm", "msvr"])
def test_exact_samples_are_followed_exactly(x64, estimator):
    for k, estimate in enumerate(follow(estimator), 1):
        np.testing.assert_allclose(estimate, PATH[k], atol=1e-13)


def test_noise_is_averaged(x64):
    errors = [e - PATH[k] for k, e in enumerate(follow(storm(0.1), 1.0), 1)]
    # Stationary variance beta / (2 - beta) of the samples'.
    assert np.std(errors[20:]) == pytest.approx(np.sqrt(0.1 / 1.9), rel=0.15)


def test_weights_may_be_schedules_and_dtypes_are_kept():
    halves = lambda count: 1.0 / (2.0 + jnp.asarray(count, jnp.float32))
    one = jnp.ones(2, jnp.bfloat16)
    for estimator in (storm(halves), msvr(halves), msvr(halves, halves)):
        out = estimator.update(one, one, one, jnp.int32(3))
        assert out.dtype == jnp.bfloat16
        mapped = jax.vmap(estimator.update, (0, None, None))(one[None], one, one)
        np.testing.assert_array_equal(mapped, np.ones((1, 2)))


def test_static_mistakes_are_errors():
    for make in (storm, msvr):
        for wrong in (0.0, 1.5, -1.0):
            with pytest.raises(ValueError, match=r"\(0, 1\]"):
                make(wrong)
    one = jnp.ones((1, 2))
    with pytest.raises(ValueError, match="alpha = 1"):
        msvr(1.0).update(one, one, one, blocks=3)
