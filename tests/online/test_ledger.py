"""The ledger of regret: its sums, its best points, what it leaves out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import core, online, prox, smooth

RNG = np.random.default_rng(0)
BALL = prox.euclidean_map(prox.l2_ball(1.5))


def bowl(x, target):
    return jnp.sum((x - target) ** 2) / 2


@pytest.mark.parametrize(
    ("oracle", "least"),
    [
        (prox.l2_ball_vertex(1.5), lambda g: -1.5 * np.linalg.norm(g)),
        (prox.simplex_vertex(), np.min),
        (prox.box_vertex(-1.0, 2.0), lambda g: np.sum(np.minimum(-g, 2 * g))),
    ],
)
def test_books_are_the_sums_of_the_card(oracle, least, x64):
    targets = RNG.normal(size=(15, 3))
    rivals = RNG.normal(size=(4, 3))
    learner = online.mirror_descent(bowl, BALL, 0.2)
    booked = online.ledger(learner, oracle, bowl, rivals)
    keep = lambda params, state: params
    data = jnp.asarray(targets)
    plays = core.scan(learner, jnp.zeros(3), data, record=keep).history
    plays = np.concatenate([np.zeros((1, 3)), plays])
    out = core.scan(booked, jnp.zeros(3), data)
    np.testing.assert_array_equal(out.params, plays[-1])
    x, gradients = plays[:-1], plays[:-1] - targets
    state, linear = out.state, np.sum(gradients * x)
    lost = np.sum(gradients**2) / 2
    others = np.sum((rivals[:, None] - targets) ** 2, (1, 2)) / 2
    surprise = np.diff(gradients, axis=0, prepend=np.zeros((1, 3)))
    np.testing.assert_allclose(state.total, gradients.sum(0), rtol=1e-12)
    np.testing.assert_allclose(state.regret, linear - least(gradients.sum(0)))
    np.testing.assert_allclose(state.loss, lost, rtol=1e-12)
    np.testing.assert_allclose(state.rivals, others, rtol=1e-12)
    np.testing.assert_allclose(state.excess, lost - np.min(others), rtol=1e-12)
    np.testing.assert_allclose(state.variation, np.sum(surprise**2), rtol=1e-12)
    length = np.sum(np.linalg.norm(np.diff(plays, axis=0), axis=1))
    np.testing.assert_allclose(state.path, length, rtol=1e-12)


def test_linearised_regret_bounds_that_of_convex_losses(x64):
    targets = jnp.asarray(RNG.normal(size=(200, 3)) + 0.5)
    best = prox.l2_ball(1.5)(targets.mean(0))
    learner = online.mirror_descent(bowl, BALL, online.variation_stepsize(3.0, 4.0))
    booked = online.ledger(learner, prox.l2_ball_vertex(1.5), bowl, best[None])
    state = core.scan(booked, jnp.zeros(3), targets).state
    assert 0 < state.excess < state.regret


@pytest.mark.parametrize(
    "learner",
    [
        online.ftrl(bowl, BALL, 0.1),
        online.online_newton(bowl, online.quadratic_ball(1.5), 0.1, 1.0),
        online.ensemble(bowl, BALL, np.array([0.1, 0.2]), 3.0, 1.0),
        online.stochastic_mirror_descent(bowl, BALL, 0.1),
    ],
)
def test_every_learner_of_the_room_has_a_ledger(learner):
    booked = online.ledger(learner, prox.l2_ball_vertex(1.5))
    out = core.scan(booked, jnp.zeros(2), jnp.ones((5, 2)))
    assert out.state.regret > 0 and out.state.excess == 0


def test_rounds_that_are_skipped_are_not_booked():
    learner = online.mirror_descent(bowl, BALL, 0.1)
    booked = online.ledger(learner, prox.l2_ball_vertex(1.5), bowl, np.zeros((1, 2)))
    targets = jnp.ones((3, 2))
    bad = jnp.concatenate([targets[:1], jnp.full((1, 2), jnp.nan), targets[1:]])
    one, other = (core.scan(booked, jnp.zeros(2), z).state for z in (targets, bad))
    for name in ("regret", "excess", "loss", "total", "path", "variation"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_small_regret_is_right_after_many_large_losses_in_single_precision():
    rounds, losses = 20_000, np.array([1000.3, 1000.5], np.float32)
    hedge = online.ftrl(online.linear_loss, prox.entropy_map(), 0.01)
    experts = np.eye(2, dtype=np.float32)
    booked = online.ledger(hedge, prox.simplex_vertex(), online.linear_loss, experts)
    data = jnp.tile(losses, (rounds, 1))
    keep = lambda params, state: params
    out = core.scan(booked, jnp.ones(2) / 2, data, record=keep)
    plays = np.concatenate([np.ones((1, 2)) / 2, out.history[:-1]])
    losses = losses.astype(float)
    exact = np.sum(plays[:, 1]) * (losses[1] - losses[0])
    assert 50 < exact < 100  # of losses of two tens of millions
    np.testing.assert_allclose(out.state.regret, exact, rtol=1e-3)
    np.testing.assert_allclose(out.state.excess, exact, rtol=0.01)
    np.testing.assert_allclose(out.state.rivals, rounds * losses, rtol=1e-7)


def test_comparator_that_loses_no_number_does_not_spoil_the_others():
    fun = lambda x, prices: -jnp.sum(jnp.log(x * prices))
    learner = online.mirror_descent(fun, prox.entropy_map(), 0.1)
    rivals = np.array([[0.5, 0.5], [1.5, -0.5], [1.0, 0.0]], np.float32)
    booked = online.ledger(learner, prox.simplex_vertex(), fun, rivals)
    state = core.scan(booked, jnp.array([0.2, 0.8]), jnp.ones((3, 2))).state
    assert list(np.isfinite(state.rivals)) == [True, False, False]
    assert state.excess > 0
    np.testing.assert_allclose(state.excess, state.loss - state.rivals[0], rtol=1e-5)


def test_ledger_of_an_optax_chain_is_kept_inside_jit():
    booked = online.ledger(
        online.ftrl(online.linear_loss, prox.entropy_map(), 0.5), prox.simplex_vertex()
    )
    chain = optax.chain(core.to_optax(booked), optax.scale(1.0))

    @jax.jit
    def step(x, state, grads):
        change, state = chain.update(grads, state, x, data=grads)
        return optax.apply_updates(x, change), state

    x = jnp.full(3, 1 / 3)
    state = chain.init(x)
    for grads in np.eye(3, dtype=np.float32):
        x, state = step(x, state, grads)
    assert state[0].inner.count == 3
    np.testing.assert_allclose(state[0].inner.total, np.ones(3))


def test_bad_input_is_refused():
    learner = online.mirror_descent(bowl, BALL, 0.1)
    oracle = prox.l2_ball_vertex()
    for args, match in (
        ((bowl, oracle), "learner"),
        ((learner, prox.l2_ball()), "oracle"),
        ((learner, oracle, bowl), "both"),
        ((learner, oracle, bowl, np.zeros((0, 2))), "comparators"),
    ):
        with pytest.raises(ValueError, match=match):
            online.ledger(*args)
    foreign = online.ledger(smooth.lbfgs(bowl), oracle)
    with pytest.raises(ValueError, match="has no"):
        foreign.init(jnp.zeros(2), jnp.zeros(2))
