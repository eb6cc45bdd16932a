"""Ensembles of learners: the card's plays, and comparators that move."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import core, online, prox

BALL = prox.euclidean_map(prox.l2_ball(1.0))
ETAS = np.array([0.02, 0.1, 0.5])
RNG = np.random.default_rng(0)


def bowl(x, target):
    return jnp.sum((x - target) ** 2) / 2


def onto_ball(x):
    return x / np.maximum(1, np.linalg.norm(x, axis=-1, keepdims=True))


def card(targets, diameter, smoothness):
    """The dynamic-regret variant of the card, in its order."""
    n, d = len(ETAS), targets.shape[1]
    x_hat, before, hint = np.zeros((n, d)), np.zeros((n, d)), np.zeros(d)
    lost, surprise, played = np.zeros(n), 0.0, []
    c = 2 * smoothness
    for z in targets:
        x = onto_ball(x_hat - ETAS[:, None] * hint)
        moves = c * np.sum((x - before) ** 2, 1)
        rate = min(
            1 / (8 * diameter**2 * smoothness),
            np.sqrt(np.log(n) / (diameter**2 * (1 + surprise))),
        )
        p = np.exp(-rate * (lost + x @ hint + moves))
        p /= p.sum()
        played.append(p @ x)
        g = played[-1] - z
        lost = lost + x @ g + moves
        x_hat = onto_ball(x_hat - ETAS[:, None] * g)
        surprise += np.sum((g - hint) ** 2)
        hint, before = g, x
    return np.stack(played)


@pytest.mark.parametrize(("diameter", "smoothness"), [(2.0, 1.0), (0.5, 0.01)])
def test_plays_are_the_cards(diameter, smoothness, x64):
    targets = 2 * RNG.normal(size=(12, 3))
    expected = card(targets, diameter, smoothness)
    learner = online.ensemble(bowl, BALL, ETAS, diameter, smoothness)
    keep = lambda params, state: (params, state.weights)
    out = core.scan(learner, jnp.zeros(3), jnp.asarray(targets), record=keep)
    plays, weights = out.history
    np.testing.assert_allclose(plays[:-1], expected[1:], atol=1e-12)
    np.testing.assert_allclose(jnp.sum(weights, 1), 1.0, rtol=1e-14)


def test_grid_of_stepsizes_is_the_cards(x64):
    grid = online.ensemble_stepsizes(0.5, 2.0, 3.0, 5000)
    size = int(np.ceil(0.5 * np.log2(9 * 5000 / (8 * 0.25 * 4)))) + 1
    expected = [min(1 / 4, np.sqrt(4 / (8 * 9 * 5000)) * 2**i) for i in range(size)]
    np.testing.assert_allclose(grid, expected, rtol=1e-14)
    assert len(online.ensemble_stepsizes(100.0, 2.0, 1.0, 3)) == 1


def test_comparators_that_move_are_followed_better_than_by_short_steps(x64):
    rounds = 2000
    turns = np.where(np.arange(rounds) // 100 % 2, 0.9, -0.9)
    targets = jnp.asarray(turns[:, None] + RNG.normal(size=(rounds, 2)) / 10)
    grid = online.ensemble_stepsizes(1.0, 2.0, 2.0, rounds)

    def lost(learner):
        keep = lambda params, state: state.value
        return core.scan(learner, jnp.zeros(2), targets, record=keep).history.sum()

    single = [
        lost(online.mirror_descent(bowl, BALL, float(eta)))
        for eta in (grid[0], grid[-1])
    ]
    mixed = lost(online.ensemble(bowl, BALL, grid, 2.0, 1.0))
    assert single[1] < mixed < 0.7 * single[0]


def test_one_learner_alone_plays_as_mirror_descent(x64):
    targets = jnp.asarray(RNG.normal(size=(8, 3)))
    alone = online.ensemble(bowl, BALL, np.array([0.1]), 2.0, 1.0)
    single = online.mirror_descent(bowl, BALL, 0.1)
    out = [
        core.scan(learner, jnp.zeros(3), targets).params for learner in (alone, single)
    ]
    np.testing.assert_allclose(*out, atol=1e-14)


def test_no_loss_is_lost_over_many_rounds_in_single_precision():
    """Of sums near 2e7, neighbours in float32 are two apart."""
    rounds, grad = 20_000, np.float32(-1000.3)
    learner = online.ensemble(online.linear_loss, BALL, ETAS, 2.0, 1.0)
    out = core.scan(learner, jnp.zeros(1), jnp.full((rounds, 1), grad))
    # From the second round on, all play one; the way there costs 2 L.
    expected = (rounds - 1) * float(grad) + 2
    np.testing.assert_allclose(out.state.losses, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "etas", [np.zeros((0,)), 0.1, np.array([0.1, -0.1]), np.array([0.1, np.inf])]
)
def test_stepsizes_that_make_no_sense_are_refused(etas):
    with pytest.raises(ValueError, match="stepsizes"):
        online.ensemble(bowl, BALL, etas, 2.0, 1.0)


def test_numbers_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="diameter"):
        online.ensemble(bowl, BALL, ETAS, 0.0, 1.0)
    with pytest.raises(ValueError, match="rounds"):
        online.ensemble_stepsizes(1.0, 1.0, 1.0, 0)
