"""Estimators of losses: their expectations by enumeration, their floors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import online

RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(9, 3))
FEATURES /= np.linalg.norm(FEATURES, axis=1, keepdims=True)
P = RNG.dirichlet(np.full(9, 0.3))
LOSSES = RNG.uniform(0, 1, 9)


def enumerate_actions(estimate):
    """The estimates of all actions, and their mean under P."""
    actions = jnp.arange(9)
    table = jax.vmap(lambda a: estimate(jnp.asarray(LOSSES)[a], a))(actions)
    return table, P @ table


def test_importance_weights_are_unbiased(x64):
    table, mean = enumerate_actions(
        lambda loss, a: online.importance_weighted(loss, a, jnp.asarray(P))
    )
    np.testing.assert_allclose(mean, LOSSES, rtol=1e-12)
    assert np.count_nonzero(table) == 9
    empty = online.importance_weighted(1.0, 1, jnp.array([0.0, 1.0]))
    np.testing.assert_array_equal(empty, [0.0, 1.0])


def test_reduced_estimates_have_the_same_mean_and_a_higher_floor(x64):
    features, p, ridge, most = jnp.asarray(FEATURES), jnp.asarray(P), 0.02, 2.0
    inverse = online.inverse_covariance(features, p, ridge=ridge)
    covariance = np.einsum("a,ai,aj->ij", P, FEATURES, FEATURES)
    exact = np.linalg.inv(ridge * np.eye(3) + covariance)
    np.testing.assert_allclose(inverse, exact, rtol=1e-10)
    plain, mean = enumerate_actions(
        lambda loss, a: online.linear_estimate(loss, a, features, inverse)
    )
    reduced, same = enumerate_actions(
        lambda loss, a: online.magnitude_reduced(
            loss, a, features, inverse, p, most=most
        )
    )
    # The card's formulas, action by action.
    gram = FEATURES @ exact @ FEATURES.T
    m = most * np.minimum(gram, 0) @ P
    for a in range(9):
        w = gram[:, a]
        np.testing.assert_allclose(plain[a], w * LOSSES[a], rtol=1e-10)
        expected = w * LOSSES[a] - most * np.minimum(w, 0) + m
        np.testing.assert_allclose(reduced[a], expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(same, mean, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(mean, gram @ (P * LOSSES), rtol=1e-10)
    floor = -most * np.sqrt(np.diag(gram))
    assert np.all(np.asarray(reduced) >= m - 1e-12) and np.all(m >= floor)
    assert np.min(plain) < 2 * np.min(reduced)


def test_estimates_are_unbiased_for_linear_losses_without_a_ridge(x64):
    features, p = jnp.asarray(FEATURES), jnp.asarray(P)
    inverse = online.inverse_covariance(features, p, ridge=1e-12)
    linear = FEATURES @ np.array([0.2, -0.5, 0.1])
    table = jax.vmap(
        lambda a: online.linear_estimate(jnp.asarray(linear)[a], a, features, inverse)
    )(jnp.arange(9))
    np.testing.assert_allclose(P @ table, linear, rtol=1e-8)


def test_samples_stand_for_the_exact_expectation(x64):
    features, p = jnp.asarray(FEATURES), jnp.asarray(P)
    draws = jnp.asarray(RNG.choice(9, 40_000, p=P))
    inverse = online.inverse_covariance(features[draws], ridge=0.02)
    exact = online.inverse_covariance(features, p, ridge=0.02)
    np.testing.assert_allclose(inverse, exact, rtol=0.1, atol=0.3)
    args = (0.4, 3, features, exact, p)
    sampled = online.magnitude_reduced(*args, samples=draws)
    np.testing.assert_allclose(sampled, online.magnitude_reduced(*args), atol=0.05)
    one = online.magnitude_reduced(*args, samples=jnp.array([2]))
    gram = FEATURES @ np.asarray(exact) @ FEATURES.T
    expected = gram[:, 3] * 0.4 - np.minimum(gram[:, 3], 0) + np.minimum(gram[:, 2], 0)
    np.testing.assert_allclose(one, expected, rtol=1e-10)


def test_bonuses_are_dilated_from_the_last_stage_to_the_first(x64):
    stages, states, actions = 3, 2, 2
    bonus = RNG.uniform(size=(stages, states, actions))
    move = RNG.dirichlet(np.ones(states), (stages, states, actions))
    policy = RNG.dirichlet(np.ones(actions), (stages, states))
    expected = np.zeros_like(bonus)
    ahead = np.zeros(states)
    for h in reversed(range(stages)):
        expected[h] = bonus[h] + (1 + 1 / stages) * move[h] @ ahead
        ahead = np.sum(policy[h] * expected[h], 1)
    ours = online.dilated_bonus(*map(jnp.asarray, (bonus, move, policy)))
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_bonus_is_that_of_the_card(x64):
    inverse = np.linalg.inv(0.1 * np.eye(3) + FEATURES.T @ FEATURES)
    norms = np.einsum("ai,ij,aj->a", FEATURES, inverse, FEATURES)
    args = map(jnp.asarray, (FEATURES, inverse, P))
    ours = online.exploration_bonus(*args, 0.7)
    np.testing.assert_allclose(ours, 0.7 * (norms + P @ norms), rtol=1e-12)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="ridge"):
        online.inverse_covariance(jnp.eye(2), ridge=0.0)
    with pytest.raises(ValueError, match="transitions"):
        online.dilated_bonus(jnp.ones((2, 3, 1)), jnp.ones((2, 3, 1)), jnp.ones(3))
