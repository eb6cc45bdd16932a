"""The logarithmic barrier: the layer, its derivatives, the certificate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import core, online, prox

RNG = np.random.default_rng(0)
layer = online.log_barrier_simplex


def test_probabilities_fulfil_their_conditions_of_optimality(x64):
    for count, eta in ((2, 0.01), (5, 1.0), (40, 30.0), (1000, 0.1)):
        losses = jnp.asarray(10 * RNG.normal(size=(20, count)))
        p = layer(losses, eta)
        np.testing.assert_allclose(jnp.sum(p, -1), 1.0, rtol=1e-13)
        multiplier = eta * losses - 1 / p
        spread = jnp.max(multiplier, -1) - jnp.min(multiplier, -1)
        assert np.all(spread <= 1e-12 * jnp.max(1 / p, -1))


@pytest.mark.parametrize("count", [1, 2, 3, 10**6])
def test_equal_losses_give_equal_probabilities(count):
    p = layer(jnp.full(count, -3e7))
    np.testing.assert_allclose(p, 1 / count, rtol=1e-5)


def test_one_good_arm_among_very_many_is_found_in_single_precision():
    losses = jnp.zeros(10**6).at[7].set(-1e9)
    p = layer(losses, 1.0)
    np.testing.assert_allclose(p[7], 0.999, rtol=1e-4)
    np.testing.assert_allclose(p[0], 1e-9, rtol=1e-4)


def test_common_shift_is_not_seen_in_single_precision():
    losses = jnp.asarray(RNG.integers(0, 64, (7, 5)) / 8, jnp.float32)
    np.testing.assert_allclose(layer(losses + 2.0**16), layer(losses), rtol=1e-6)


def test_derivative_is_the_cards(x64):
    losses, way = jnp.asarray(RNG.normal(size=(2, 6)))
    eta = 1.7
    p, dp = jax.jvp(lambda x: layer(x, eta), (losses,), (way,))
    dmu = -jnp.sum(p**2 * way) / jnp.sum(p**2)
    np.testing.assert_allclose(dp, -eta * p**2 * (way + dmu), rtol=1e-12)
    back = jax.jacrev(lambda x: layer(x, eta))(losses)
    np.testing.assert_allclose(back @ way, dp, rtol=1e-12)


def test_derivatives_agree_with_central_differences(x64):
    losses, way = jnp.asarray(RNG.normal(size=(2, 6)))
    value = lambda t: jnp.sum(layer(losses + t * way, jnp.exp(t)) ** 3)
    step = 1e-4
    for fun in (value, jax.grad(value), jax.grad(jax.grad(value))):
        slope = (fun(step) - fun(-step)) / (2 * step)
        np.testing.assert_allclose(jax.grad(fun)(0.0), slope, rtol=1e-6)


def test_axis_and_infinite_losses():
    losses = jnp.array([[1.0, jnp.inf], [jnp.inf, 2.0], [1.0, 2.0]])
    p = layer(losses, axis=0)
    np.testing.assert_allclose(p, [[0.5, 0.0], [0.0, 0.5], [0.5, 0.5]], atol=1e-6)
    assert np.all(np.isfinite(jax.jacrev(lambda x: layer(x, axis=0))(losses)))
    assert layer(losses.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_bad_input_of_the_layer():
    for bad in (jnp.arange(3), jnp.zeros((2, 0)), jnp.zeros(())):
        with pytest.raises(ValueError, match="losses"):
            layer(bad)
    with pytest.raises(ValueError, match="stepsize"):
        layer(jnp.zeros(2), -1.0)
    for bad in ([0.0, np.nan], [0.0, -np.inf], [np.inf, np.inf]):
        assert np.all(np.isnan(layer(jnp.array(bad))))
    assert np.all(np.isnan(jax.jit(layer)(jnp.zeros(2), -1.0)))


def test_learner_plays_the_layer_of_the_sum(x64):
    losses = jnp.asarray(50 * RNG.normal(size=(10, 4)))
    learner = online.log_barrier_ftrl(online.linear_loss, 0.3)
    keep = lambda params, state: params
    out = core.scan(learner, jnp.full(4, 0.25), losses, record=keep)
    expected = layer(jnp.cumsum(losses, 0), 0.3)
    np.testing.assert_allclose(out.history, expected, rtol=1e-10)


def test_certificate_holds_for_losses_of_any_size_and_sign(x64):
    """200 random streams, entries up to a hundred, stepsizes from 0.01 to 10."""
    scales = 10 ** RNG.uniform(-1, 2, (200, 1, 1))
    losses = jnp.asarray(scales * RNG.uniform(-1, 1, (200, 30, 6)))
    etas = jnp.asarray(10 ** RNG.uniform(-2, 1, 200))

    def play(eta, losses):
        learner = online.ftrl(
            online.linear_loss, prox.log_barrier_map(), eta, optimistic=False
        )
        keep = lambda params, state: params
        start = jnp.full(6, 1 / 6)
        plays = core.scan(learner, start, losses, record=keep).history
        return jnp.concatenate([start[None], plays[:-1]])

    p = jax.jit(jax.vmap(play))(etas, losses)
    best = jax.nn.one_hot(jnp.argmin(losses.sum(1), -1), 6)
    y = 0.99 * best + 0.01 / 6
    regret = jnp.sum((p - y[:, None]) * losses, (1, 2))
    barrier = -jnp.sum(jnp.log(6 * y), 1)
    bound = barrier / etas + etas * jnp.sum(p * losses**2, (1, 2))
    assert np.all(regret <= bound)


def test_certificate_survives_many_small_losses_and_one_that_takes_all_back(x64):
    small = np.tile([98 / 400, 0.0], (400, 1))
    losses = jnp.asarray(np.concatenate([small, [[-98.0, 0.0]]]))
    learner = online.log_barrier_ftrl(online.linear_loss, 1.0)
    keep = lambda params, state: params
    plays = core.scan(learner, jnp.ones(2) / 2, losses, record=keep).history
    p = jnp.concatenate([jnp.ones((1, 2)) / 2, plays[:-1]])
    regret = jnp.sum((p - 0.5) * losses)  # the barrier of (1/2, 1/2) is zero
    np.testing.assert_allclose(regret, 3.28, atol=0.005)
    # With p squared it holds where eta p c is at least -1/2 only.
    np.testing.assert_allclose(jnp.sum((p * losses) ** 2), 1.135, atol=0.005)
    assert jnp.min(p * losses) < -0.5 and regret <= jnp.sum(p * losses**2)


def test_losses_whose_squares_overflow_are_played():
    learner = online.log_barrier_ftrl(online.linear_loss, 0.5)
    losses = jnp.tile(jnp.array([0.0, 1e20, -1e20]), (3, 1))
    out = core.scan(learner, jnp.ones(3) / 3, losses)
    assert out.state.skipped == 0 and jnp.isfinite(out.state.variation)
    np.testing.assert_allclose(out.params, layer(losses.sum(0), 0.5), rtol=1e-5)


def test_bandit_learner_finds_the_best_arm():
    means = jnp.array([0.5, 0.3, 0.6, 0.7])

    def estimate(p, key):
        arm_key, loss_key = jax.random.split(key)
        arm = jax.random.categorical(arm_key, jnp.log(p))
        loss = jax.random.bernoulli(loss_key, means[arm]).astype(p.dtype)
        return online.importance_weighted(loss, arm, p)

    fun = lambda p, key: online.linear_loss(p, jax.lax.stop_gradient(estimate(p, key)))
    keys = jax.random.split(jax.random.key(0), 3000)
    learner = online.log_barrier_ftrl(fun, np.sqrt(4 * np.log(3000) / 3000))
    out = core.scan(learner, jnp.full(4, 0.25), keys)
    assert jnp.argmax(out.params) == 1 and out.params[1] > 0.6
