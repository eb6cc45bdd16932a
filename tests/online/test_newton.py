"""Online Newton steps: the card's plays, and quadratics over sets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxsolve import Status, core, online, prox

RNG = np.random.default_rng(0)
BETA, BOUND = 0.3, 1.5


def square(x, data):
    row, answer = data
    return (row @ x - answer) ** 2 / 2


def onto_ball(y, metric):
    """The projection in the metric onto the unit ball, by a scalar root."""
    if np.linalg.norm(y) <= 1 + 1e-12:
        return y
    at = lambda mu: np.linalg.solve(metric + mu * np.eye(len(y)), metric @ y)
    root = scipy.optimize.brentq(
        lambda mu: np.linalg.norm(at(mu)) - 1, 0, 1e6, xtol=1e-14, rtol=1e-14
    )
    return at(root)


def onto_box(y, metric):
    """That onto a box, as bounded least squares."""
    half = np.linalg.cholesky(metric).T
    out = scipy.optimize.lsq_linear(half, half @ y, (-0.3, 0.4), method="bvls")
    return out.x


SETS = {
    "ball": (online.quadratic_ball(1.0), onto_ball),
    "box": (online.quadratic_set(prox.box(-0.3, 0.4)), onto_box),
}


ATOL = {
    ("ball", np.float32): 1e-4,
    ("box", np.float32): 1e-3,
    ("ball", np.float64): 1e-12,
    ("box", np.float64): 1e-11,
}


def card(rows, answers, onto, optimistic):
    """The card in its order: hints are played, then gradients are booked."""
    n = rows.shape[1]
    metric = (1 + BETA * BOUND**2 / 2) * np.eye(n)
    x_hat, hint, played = np.zeros(n), np.zeros(n), []
    for row, answer in zip(rows, answers, strict=True):
        expected = hint if optimistic else 0 * hint
        x = onto(x_hat - np.linalg.solve(metric, expected), metric)
        played.append(x)
        g = row * (row @ x - answer)
        x_hat = onto(x_hat - np.linalg.solve(metric, g), metric)
        metric, hint = metric + BETA / 2 * np.outer(g, g), g
    return np.stack(played), metric


@pytest.mark.parametrize("optimistic", [True, False])
@pytest.mark.parametrize("name", SETS)
def test_plays_are_the_cards(name, optimistic, x64):
    domain, onto = SETS[name]
    rows, answers = RNG.normal(size=(12, 4)), 3 * RNG.normal(size=12)
    expected, metric = card(rows, answers, onto, optimistic)
    learner = online.online_newton(square, domain, BETA, BOUND, optimistic=optimistic)
    data = (jnp.asarray(rows), jnp.asarray(answers))
    keep = lambda params, state: params
    out = core.scan(learner, jnp.zeros(4), data, record=keep)
    np.testing.assert_allclose(out.history[:-1], expected[1:], atol=1e-10)
    np.testing.assert_allclose(out.state.metric, metric, rtol=1e-10)
    product = out.state.metric @ out.state.inverse
    np.testing.assert_allclose(product, np.eye(4), atol=1e-12)


def hard(rounds):
    """Rows of sizes 10 to 0.3 and noisy answers, whose best point is out of the set."""
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(rounds, 4)) * [10, 3, 1, 0.3]
    return rows, rows @ [0.9, -0.8, 1.5, 2.0] + 5 * rng.normal(size=rounds)


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_plays_are_exact_in_metrics_of_large_condition(name, dtype, x64):
    domain, onto = SETS[name]
    data = jax.tree.map(lambda x: jnp.asarray(x, dtype), hard(300))
    learner = online.online_newton(square, domain, 0.5, 1.0)
    keep = lambda params, state: (params, state.point, state.grad, state.metric)
    out = core.scan(learner, jnp.zeros(4, dtype), data, record=keep)
    assert out.state.skipped == 0 and np.linalg.cond(out.state.metric) > 1000
    atol = ATOL[name, dtype]
    history = (np.asarray(entry, float) for entry in out.history)
    for play, point, grad, metric in zip(*history, strict=True):
        expected = onto(point - np.linalg.solve(metric, grad), metric)
        np.testing.assert_allclose(play, expected, atol=atol)


def test_round_whose_minimiser_is_not_found_is_skipped_and_counted():
    domain = online.quadratic_set(prox.box(-0.3, 0.4), max_steps=2)
    data = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), hard(20))
    out = core.scan(online.online_newton(square, domain, 0.5, 1.0), jnp.zeros(4), data)
    assert 0 < out.state.skipped <= 20 and out.status == Status.DIVERGED
    assert np.all((out.params >= -0.3) & (out.params <= 0.4))


def test_inverse_stays_one_over_many_rounds_in_single_precision():
    data = (RNG.normal(size=(500, 5)), RNG.normal(size=500))
    data = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), data)
    learner = online.online_newton(square, SETS["ball"][0], BETA, BOUND)
    out = core.scan(learner, jnp.zeros(5), data)
    product = out.state.metric @ out.state.inverse
    np.testing.assert_allclose(product, np.eye(5), atol=1e-4)


def test_regret_of_squares_grows_like_the_logarithm(x64):
    rounds, best = 4000, np.array([0.3, -0.2, 0.4])
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(rounds, 3)) / 2
    answers = rows @ best + rng.normal(size=rounds) / 5
    data = (jnp.asarray(rows), jnp.asarray(answers))
    learner = online.online_newton(square, online.quadratic_ball(1.0), 5.0, 0.3)
    keep = lambda params, state: state.value
    values = core.scan(learner, jnp.zeros(3), data, record=keep).history

    def regret(count):
        x, *_ = np.linalg.lstsq(rows[:count], answers[:count])
        least = np.sum((rows[:count] @ x - answers[:count]) ** 2) / 2
        return np.sum(values[:count]) - least

    assert 0 < regret(4000) < 1.6 * regret(1000)  # twice, were it a root


@pytest.mark.parametrize(("name", "size"), [("ball", 3.0), ("box", 0.6)])
def test_quadratics_over_sets_are_differentiated_by_their_optimality(name, size, x64):
    (domain, _), rng = SETS[name], np.random.default_rng(2)
    data = (
        jnp.asarray(rng.normal(size=(4, 3))),
        size * jnp.asarray(rng.normal(size=4)),
    )
    learner = online.online_newton(square, domain, BETA, BOUND)

    @jax.jit
    def final(t):
        return jnp.sum(
            core.scan(learner, jnp.zeros(3), (data[0], t * data[1])).params ** 3
        )

    step = 1e-6
    expected = (final(1 + step) - final(1 - step)) / (2 * step)
    assert abs(expected) > 1e-3
    np.testing.assert_allclose(jax.grad(final)(1.0), expected, rtol=1e-5)


def test_lanes_inside_and_outside_of_the_ball_do_not_touch():
    learner = online.online_newton(square, online.quadratic_ball(1.0), BETA, BOUND)
    rng = np.random.default_rng(0)
    rows = jnp.asarray(rng.normal(size=(6, 2)), jnp.float32)
    run = lambda size: (
        core.scan(learner, jnp.zeros(2), (rows, size * rows[:, 0])).params
    )
    sizes = jnp.array([0.1, 5.0])
    both = jax.vmap(run)(sizes)
    np.testing.assert_allclose(both, [run(s) for s in sizes], rtol=1e-4, atol=1e-6)
    assert np.linalg.norm(both[0]) < 0.5 < 0.99 < np.linalg.norm(both[1])


@pytest.mark.parametrize(
    ("match", "make"),
    [
        ("domain", lambda: online.online_newton(square, prox.l2_ball(), 1.0, 1.0)),
        ("radius", lambda: online.quadratic_ball(-1.0)),
        ("max_steps", lambda: online.quadratic_set(prox.simplex(), max_steps=0)),
        ("prox.l2_ball", lambda: online.quadratic_set(prox.l2_ball)),
        (
            "curvature",
            lambda: online.online_newton(square, SETS["ball"][0], 0.0, 1.0),
        ),
        (
            "gradient_bound",
            lambda: online.online_newton(square, SETS["ball"][0], 1.0, np.inf),
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(match, make):
    with pytest.raises(ValueError, match=match):
        make()
