"""Online mirror descent and FTRL: the card's plays, its bounds, its growth rates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import Status, core, online, prox

BALL = prox.euclidean_map(prox.l2_ball(1.0))
RNG = np.random.default_rng(0)


def bowl(x, target):
    return jnp.sum((x - target) ** 2) / 2


def onto_ball(x, radius=1.0):
    return x * min(1.0, radius / np.linalg.norm(x)) if np.any(x) else x


def plays(learner, start, data):
    """What is played in every round, and after the last."""
    out = core.scan(learner, start, data, record=lambda params, state: params)
    return np.concatenate([np.asarray(start)[None], out.history])


def card(targets, stepsize, optimistic=True):
    """Steps 1 to 4 of the card, in its order, for quadratics in the unit ball."""
    x_hat, hint, surprise, played = np.zeros(3), np.zeros(3), 0.0, []
    for t, z in enumerate(targets, 1):
        eta = stepsize(t, surprise)
        x = onto_ball(x_hat - eta * hint) if optimistic else x_hat
        played.append(x)
        g = x - z
        x_hat = onto_ball(x_hat - eta * g)
        surprise += np.sum((g - hint) ** 2)
        hint = g
    return np.stack(played)


LAWS = {
    "convex": (
        online.variation_stepsize(2.0, 1.5, 0.5),
        lambda t, v: 2 / np.sqrt(0.5 + 4 * 1.5**2 + v),
    ),
    "strongly convex": (online.strongly_convex_stepsize(0.8), lambda t, v: 2.5 / t),
}


@pytest.mark.parametrize("optimistic", [True, False])
@pytest.mark.parametrize("name", LAWS)
def test_plays_are_the_cards(name, optimistic, x64):
    stepsize, formula = LAWS[name]
    targets = 2 * RNG.normal(size=(9, 3))
    learner = online.mirror_descent(bowl, BALL, stepsize, optimistic=optimistic)
    ours = plays(learner, jnp.zeros(3), jnp.asarray(targets))
    expected = card(targets, formula, optimistic)
    assert np.any(np.linalg.norm(expected, axis=1) > 0.999)
    np.testing.assert_allclose(ours[:-1], expected, atol=1e-12)


@pytest.mark.parametrize("lazy", [False, True])
def test_plays_with_the_entropy_are_the_cards(lazy, x64):
    losses = RNG.normal(size=(9, 4))
    x_hat, hint, total, expected = np.full(4, 0.25), np.zeros(4), np.zeros(4), []
    for c in losses:
        weight = np.exp(-0.3 * (total + hint)) if lazy else x_hat * np.exp(-0.3 * hint)
        expected.append(weight / weight.sum())
        x_hat = x_hat * np.exp(-0.3 * c)
        x_hat, total, hint = x_hat / x_hat.sum(), total + c, c
    make = online.ftrl if lazy else online.mirror_descent
    learner = make(online.linear_loss, prox.entropy_map(), 0.3)
    ours = plays(learner, jnp.full(4, 0.25), jnp.asarray(losses))
    np.testing.assert_allclose(ours[:-1], expected, atol=1e-12)


@pytest.mark.parametrize("optimistic", [True, False])
def test_plays_of_ftrl_are_the_cards(optimistic, x64):
    targets, law = 2 * RNG.normal(size=(9, 3)), LAWS["convex"]
    total, hint, surprise, expected = np.zeros(3), np.zeros(3), 0.0, []
    for t, z in enumerate(targets, 1):
        ahead = total + hint if optimistic else total
        x = onto_ball(-law[1](t, surprise) * ahead)
        expected.append(x)
        g = x - z
        surprise += np.sum((g - hint) ** 2)
        total, hint = total + g, g
    learner = online.ftrl(bowl, BALL, law[0], optimistic=optimistic)
    ours = plays(learner, jnp.zeros(3), jnp.asarray(targets))
    np.testing.assert_allclose(ours[:-1], expected, atol=1e-12)


def streams(rounds):
    """Quadratics whose targets are fixed, drawn, or alternate; a bound on gradients."""
    fixed = RNG.normal(size=10) / 4
    drawn = fixed + RNG.normal(size=(rounds, 10)) / 4
    sign = np.where(np.arange(rounds) % 2, 1.0, -1.0)[:, None]
    targets = np.stack([np.tile(fixed, (rounds, 1)), drawn, sign * fixed])
    return targets, 1 + np.max(np.linalg.norm(targets, axis=-1))


def test_regret_stays_below_its_bound_and_does_not_grow_on_fixed_losses(x64):
    targets, bound = streams(10_000)
    law = online.variation_stepsize(2.0, bound)
    learner = online.ledger(
        online.mirror_descent(bowl, BALL, law), prox.l2_ball_vertex(1.0)
    )
    keep = lambda params, state: (state.regret, law.bound(state.variation))
    play = lambda data: core.scan(learner, jnp.zeros(10), data, record=keep).history
    regret, limit = jax.jit(jax.vmap(play))(jnp.asarray(targets))
    assert np.all(regret <= limit)
    fixed = np.asarray(regret[0])
    assert fixed[99] > 0.1
    np.testing.assert_allclose(fixed[[999, 9_999]], fixed[99], rtol=1e-6)
    assert regret[1, -1] > 2 * regret[0, -1]  # the others do grow


def test_regret_of_strongly_convex_losses_grows_like_the_logarithm(x64):
    noise = np.random.default_rng(1).normal(size=(10, 4000, 5))
    targets = 0.3 + 0.5 * noise
    ball = prox.euclidean_map(prox.l2_ball(2.0))
    learner = online.mirror_descent(bowl, ball, online.strongly_convex_stepsize(1.0))
    keep = lambda params, state: state.value
    play = lambda data: core.scan(learner, jnp.zeros(5), data, record=keep).history
    values = np.cumsum(jax.vmap(play)(jnp.asarray(targets)), 1)

    def regret(rounds):
        z = targets[:, :rounds]
        best = np.sum((z - z.mean(1, keepdims=True)) ** 2, (1, 2)) / 2
        return np.mean(values[:, rounds - 1] - best)

    short, middle, long = map(regret, (250, 1000, 4000))
    assert 5 < short < 20
    assert 1 < middle / short < 1.3 and 1 < long / middle < 1.3


def test_hints_are_gradients_at_what_was_played_though_somebody_changed_it(x64):
    learner = online.mirror_descent(bowl, prox.euclidean_map(), 0.5)
    state = learner.init(jnp.zeros(2), None)
    elsewhere = jnp.array([3.0, -1.0])
    _, state = learner.update(elsewhere, state, jnp.ones(2))
    np.testing.assert_allclose(state.grad, elsewhere - 1)
    np.testing.assert_allclose(state.point, -0.5 * (elsewhere - 1))


def test_round_that_is_not_finite_is_skipped_and_counted():
    learner = online.mirror_descent(bowl, BALL, 0.1)
    targets = jnp.ones((3, 2)) / 2
    bad = jnp.stack([targets[0], jnp.full(2, jnp.nan), *targets[1:]])
    out, good = (core.scan(learner, jnp.zeros(2), z) for z in (bad, targets))
    np.testing.assert_array_equal(out.params, good.params)
    assert out.status == Status.DIVERGED and out.state.skipped == 1
    huge = core.scan(learner, jnp.zeros(2), jnp.full((2, 2), 1e30))
    assert huge.state.skipped == 2 and np.all(huge.params == 0)


def test_bfloat16_plays_lose_no_small_steps():
    learner = online.mirror_descent(
        online.linear_loss, prox.euclidean_map(), 1e-4, optimistic=False
    )
    out = core.scan(learner, jnp.ones(1, jnp.bfloat16), jnp.ones((1000, 1)))
    assert out.params.dtype == jnp.bfloat16 and out.state.point.dtype == jnp.float32
    np.testing.assert_allclose(out.state.point, 0.9, rtol=1e-4)


def test_variation_that_overflows_costs_no_round():
    ways = jnp.tile(jnp.array([[1e19], [-1e19]]), (4, 1))
    learner = online.mirror_descent(online.linear_loss, BALL, 1e-20)
    out = core.scan(learner, jnp.zeros(1), ways)
    assert out.state.skipped == 0 and out.state.status == Status.RUNNING
    assert out.state.variation == jnp.finfo(jnp.float32).max


@pytest.mark.parametrize("learner", [online.ftrl, online.log_barrier_ftrl])
def test_no_loss_is_lost_over_many_rounds_in_single_precision(learner):
    """Of sums near 2e7, neighbours in float32 are two apart."""
    lazy = learner is online.ftrl
    learner = learner(online.linear_loss, *[prox.entropy_map()] * lazy, 1e-4)
    rounds, losses = 20_000, np.array([1000.3, 1000.5], np.float32)
    out = core.scan(learner, jnp.ones(2) / 2, jnp.tile(losses, (rounds, 1)))
    apart = jnp.array([0.0, rounds * np.diff(losses.astype(float))[0]])
    layer = online.log_barrier_simplex
    expected = jax.nn.softmax(-1e-4 * apart) if lazy else layer(apart, 1e-4)
    np.testing.assert_allclose(out.params, expected, rtol=1e-3)


def test_schedule_that_ends_at_zero_stays_where_it_is():
    decay = lambda count: 0.1 * (3 - jnp.float32(count))
    learner = online.mirror_descent(online.linear_loss, prox.euclidean_map(), decay)
    out = core.scan(learner, jnp.zeros(1), jnp.ones((6, 1)))
    assert out.state.skipped == 2 and out.status == Status.DIVERGED
    np.testing.assert_allclose(out.params, -0.6, rtol=1e-5)


def test_stream_is_differentiated_through_its_updates(x64):
    learner = online.ftrl(bowl, BALL, LAWS["convex"][0])
    data = jnp.asarray(RNG.normal(size=(5, 2)))
    final = lambda data: jnp.sum(core.scan(learner, jnp.zeros(2), data).params ** 2)
    way = RNG.normal(size=(5, 2))
    slope = jnp.sum(jax.grad(final)(data) * way)
    step = 1e-6
    expected = (final(data + step * way) - final(data - step * way)) / (2 * step)
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


def test_trees_and_single_entries_are_played_too():
    fun = lambda x, z: bowl(x["a"], z) + bowl(x["b"], 1.0)
    learner = online.mirror_descent(fun, prox.euclidean_map(), 0.3)
    start = {"a": jnp.zeros((2, 1)), "b": jnp.zeros(())}
    out = core.run(learner, start, 0.5)
    assert out.converged
    np.testing.assert_allclose(out.params["b"], 1.0, atol=1e-3)


def test_zero_gradients_move_nothing():
    zeros = jnp.zeros((4, 3))
    for mirror in (BALL, prox.entropy_map(), prox.log_barrier_map()):
        learner = online.mirror_descent(online.linear_loss, mirror, 0.3)
        out = core.scan(learner, jnp.array([0.5, 0.25, 0.25]), zeros)
        np.testing.assert_allclose(out.params, [0.5, 0.25, 0.25], rtol=1e-6)


@pytest.mark.parametrize(
    ("match", "make"),
    [
        ("mirror_map", lambda: online.mirror_descent(bowl, prox.l2_ball(1.0), 0.1)),
        ("mirror_map", lambda: online.ftrl(bowl, "ball", 0.1)),
        ("stepsize", lambda: online.mirror_descent(bowl, BALL, -0.1)),
        ("stepsize", lambda: online.ftrl(bowl, BALL, np.inf)),
        ("diameter", lambda: online.variation_stepsize(0.0, 1.0)),
        ("gradient_bound", lambda: online.variation_stepsize(1.0, np.nan)),
        ("delta", lambda: online.variation_stepsize(1.0, 1.0, -1.0)),
        ("modulus", lambda: online.strongly_convex_stepsize(np.ones(2))),
    ],
)
def test_options_that_make_no_sense_are_refused(match, make):
    with pytest.raises(ValueError, match=match):
        make()
