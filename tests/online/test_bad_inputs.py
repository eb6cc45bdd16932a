"""Actions, rewards and shapes that are none, and first states that are donated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import online, prox

FEATURES = jnp.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
SHARES = jnp.full(3, 1 / 3, jnp.float32)
EYE = jnp.eye(2)


@pytest.mark.parametrize("action", [3, -1, jnp.int32(7)])
def test_actions_that_there_are_not_are_refused(action):
    estimates = (
        lambda a: online.importance_weighted(1.0, a, SHARES),
        lambda a: online.linear_estimate(1.0, a, FEATURES, EYE),
        lambda a: online.magnitude_reduced(1.0, a, FEATURES, EYE, SHARES),
        lambda a: online.magnitude_reduced(
            1.0, 0, FEATURES, EYE, SHARES, samples=jnp.stack([jnp.int32(0), a])
        ),
    )
    for estimate in estimates:
        with pytest.raises(ValueError, match="must lie in"):
            estimate(jnp.asarray(action))
        assert jnp.any(jnp.isnan(jax.jit(estimate)(jnp.asarray(action))))
        with pytest.raises(ValueError, match="must be integer"):
            estimate(jnp.float32(0.9)) if estimate is not estimates[-1] else (
                online.magnitude_reduced(
                    1.0, 0, FEATURES, EYE, SHARES, samples=jnp.array([0.5])
                )
            )


def test_shapes_that_do_not_fit_are_refused():
    one = jnp.ones(1)
    with pytest.raises(ValueError, match="probabilities"):
        online.inverse_covariance(FEATURES, one, ridge=0.1)
    with pytest.raises(ValueError, match="probabilities"):
        online.inverse_covariance(jnp.zeros((0, 2)), ridge=0.1)
    with pytest.raises(ValueError, match="probabilities"):
        online.exploration_bonus(FEATURES, EYE, one, 1.0)
    with pytest.raises(ValueError, match="samples"):
        none = jnp.zeros(0, jnp.int32)
        online.magnitude_reduced(1.0, 0, FEATURES, EYE, SHARES, samples=none)
    with pytest.raises(ValueError, match="stages"):
        empty = jnp.zeros((0, 1, 1))
        online.dilated_bonus(empty, jnp.zeros((0, 1, 1, 1)), empty)
    with pytest.raises(ValueError, match="features must be floating"):
        online.inverse_covariance(jnp.eye(2, dtype=jnp.int32), ridge=0.1)
    with pytest.raises(ValueError, match="probabilities must be floating"):
        online.importance_weighted(0.5, 0, jnp.array([1, 0]))


def test_a_ridge_that_is_traced_and_negative_gives_no_inverse():
    inverse = jax.jit(lambda r: online.inverse_covariance(FEATURES, ridge=r))
    assert jnp.all(jnp.isnan(inverse(-0.1)))


def test_elimination_takes_no_reward_that_is_not_a_number():
    found = online.candidate_elimination(EYE, jnp.array([jnp.nan, 0.5]), EYE, 0.1)
    assert found.action == 1 and not found.passed
    for features, rewards, candidates in (
        (EYE, jnp.ones(1), EYE),
        (EYE, jnp.ones(3), EYE),
        (EYE, jnp.ones(2), jnp.zeros((0, 2))),
        (EYE, jnp.ones(2), jnp.ones((2, 3))),
    ):
        with pytest.raises(ValueError, match="rewards"):
            online.candidate_elimination(features, rewards, candidates, 0.1)
    with pytest.raises(ValueError, match="features must be floating"):
        online.candidate_elimination(EYE.astype(int), jnp.ones(2), EYE, 0.1)


BALL = prox.euclidean_map(prox.l2_ball(1.0))
FIXED = online.mirror_descent(online.linear_loss, BALL, 0.1)
LEARNERS = {
    "mirror_descent": FIXED,
    "ftrl": online.ftrl(online.linear_loss, BALL, 0.1),
    "ensemble": online.ensemble(
        online.linear_loss, BALL, np.array([0.1, 0.2]), 2.0, 1.0
    ),
    "ledger": online.ledger(FIXED, prox.l2_ball_vertex(1.0)),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_params_and_a_first_state_may_be_donated(name):
    learner, cost = LEARNERS[name], jnp.array([1.0, -0.5])
    x, kept = jnp.array([0.5, 0.25]), jnp.array([0.5, 0.25])
    state, other = learner.init(x, cost), learner.init(kept, cost)
    donating = jax.jit(learner.update, donate_argnums=(0, 1))
    for _ in range(2):
        x, state = donating(x, state, cost)
        kept, other = learner.update(kept, other, cost)
    np.testing.assert_allclose(x, kept, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: online.ensemble_stepsizes(1.0, 1.0, 1.0, 0.5), "rounds must be"),
        (lambda: online.log_barrier_simplex(jnp.ones(3), axis=3), "along axis 3"),
        (
            lambda: online.mirror_descent(
                online.linear_loss, prox.entropy_map(), stepsize=None
            ),
            "stepsize must be one",
        ),
    ],
)
def test_numbers_that_are_none_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_stepsizes_of_bounds_whose_squares_overflow():
    stepsizes = online.ensemble_stepsizes(1.0, 1e-170, 1e-170, 8)
    np.testing.assert_allclose(stepsizes, jnp.asarray([0.125]), rtol=1e-6)


def test_stepsizes_beyond_the_range_of_floats_are_refused():
    with pytest.raises(ValueError, match="beyond the range of float32"):
        online.ensemble_stepsizes(1e-200, 1e-20, 1e150, 8)
