"""BO-REP: the card's updates, its numbers, and what it keeps exactly."""

import functools

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import bilevel, core
from jaxsolve.bilevel import BilevelProblem, Levels
from tests.bilevel import quadratic
from tests.bilevel.rounds import START, Rounds, assert_same_updates, epochs, stream

TAU, NU, ETA, BETA = 0.3, 0.35, 0.05, 0.8
PLAIN = bilevel.epoch_sgd(TAU, 3)
THEORY = bilevel.epoch_sgd(TAU, 3, radius=0.1, average=True)
EPOCHS = bilevel.epoch_sgd(0.5, 2, epochs=3, radius=0.4, average=True)


def card(batches, rounds, period, start, refresh):
    """The card's update, in NumPy."""
    run, m = Rounds(batches), np.zeros(2)
    for k in range(rounds):
        if k == 0 and start is not None:
            epochs(run, start)
        if k > 0 and k % period == 0:
            epochs(run, refresh)
        run.evaluate()
        hessian = run.next()[0]
        run.w = run.w - NU * (hessian @ run.w - run.f_y)
        run.record()

        def move(gradient, m=m):
            m = BETA * m + (1 - BETA) * gradient
            return m, -ETA * m / (np.linalg.norm(m) + 1e-10)

        m = run.upper(move)
    return run.after


@pytest.mark.parametrize(
    ("period", "start", "refresh"),
    [
        pytest.param(2, None, PLAIN, id="practical"),
        pytest.param(1, PLAIN, PLAIN, id="practical, started"),
        pytest.param(3, EPOCHS, THEORY, id="theory"),
        pytest.param(2, EPOCHS, PLAIN, id="refined, then plain"),
        pytest.param(2, PLAIN, THEORY, id="plain, then averaged"),
    ],
)
def test_every_update_is_the_cards_on_a_batch_of_its_own(x64, period, start, refresh):
    batches = stream(60)
    theirs = card(batches, 7, period, start, refresh)
    solver = bilevel.bo_rep(
        quadratic.PROBLEM,
        bilevel.normalized_momentum(ETA, BETA),
        refresh,
        NU,
        period=period,
        start=start,
    )
    keep = lambda params, state: (*params, state.adjoint, state.error)
    out = core.scan(solver, Levels(*START), batches, record=keep)
    assert_same_updates([leaf[: len(theirs)] for leaf in out.history], theirs)
    assert out.state.outer >= 7


def test_steps_of_x_have_one_length_and_y_rests_between_refreshes(x64):
    solver = bilevel.bo_rep(
        quadratic.PROBLEM, bilevel.normalized_momentum(ETA), PLAIN, NU, period=3
    )
    keep = lambda params, state: (params, state.outer)
    data = quadratic.draw(dx=2, dy=3, top=2.0)
    params = Levels(*START)
    out = core.run(solver, params, data, max_steps=90, tol=0.0, record=keep)
    (x, y), outer = (np.asarray(leaf) for leaf in out.history[0]), out.history[1]
    steps = np.linalg.norm(np.diff(x, axis=0, prepend=START[0][None]), axis=1)
    moved = np.diff(outer, prepend=0) == 1
    np.testing.assert_allclose(steps[moved], ETA, rtol=1e-8)  # 1e-10 beside |m|
    assert not np.any(steps[~moved])
    touched = np.any(np.diff(y, axis=0, prepend=START[1][None]) != 0, axis=1)
    # No start; from k = 3 on three lower updates in every third round.
    expected = np.isin(
        np.arange(90), [6 + 9 * i + j for i in range(10) for j in range(3)]
    )
    np.testing.assert_array_equal(touched, expected)


def end(eta, data, batches=None, rounds=5000):
    """The mean of |grad F| over the last 500 of the card's iterations."""
    problem = quadratic.PROBLEM if batches is None else NOISY
    solver = bilevel.bo_rep(
        problem,
        bilevel.normalized_momentum(eta),
        bilevel.epoch_sgd(0.1, 3),
        0.1,
        period=2,
        start=bilevel.epoch_sgd(0.1, 100),
    )
    keep = lambda params, state: (params.upper, state.outer)
    params = Levels(np.zeros(5), np.zeros(10))
    if batches is None:
        out = core.run(solver, params, data, max_steps=LENGTH, tol=0.0, record=keep)
    else:
        out = core.scan(solver, params, batches, record=keep)
    x, outer = (np.asarray(leaf) for leaf in out.history)
    last = x[1:][np.diff(outer) == 1][-500:]
    assert abs(outer[-1] - rounds) <= 1
    norms = [np.linalg.norm(quadratic.hypergradient(x, data)) for x in last]
    return np.mean(norms)


LENGTH = 100 + 5000 * 2 + 2500 * 3
NOISY = BilevelProblem(
    lambda levels, data: (
        quadratic.upper(levels, data[0])
        + levels.upper @ data[1]
        + levels.lower @ data[2]
    ),
    lambda levels, data: quadratic.lower(levels, data[0]) + levels.lower @ data[1],
)


@pytest.mark.parametrize(("eta", "expected"), [(1e-2, 0.361), (1e-3, 3.5e-2)])
def test_it_stays_at_a_distance_in_proportion_to_the_stepsize(x64, eta, expected):
    assert end(eta, quadratic.draw()) == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize(
    ("eta", "low", "high"), [(1e-2, 0.33, 0.45), (1e-3, 0.06, 0.17)]
)
def test_noise_on_every_oracle_costs_what_the_card_says(x64, eta, low, high):
    """The card has 0.40 and 0.064 for one seed; its NumPy code, these for six.

    The noise of a product is moved to the part of the gradient beside it.
    """
    rng = np.random.default_rng(1)
    data = quadratic.draw()
    noise = lambda size, scale: scale * rng.standard_normal((LENGTH, size))
    repeat = lambda leaf: np.broadcast_to(leaf, (LENGTH, *leaf.shape))
    target, numbers = data[0], type(data[1])(*map(repeat, data[1]))
    both = 0.5 * np.sqrt(2)
    batches = (
        (repeat(target), noise(5, both), noise(10, both)),
        (numbers, noise(10, 0.5)),
    )
    assert low < end(eta, data, batches) < high


QUARTIC = BilevelProblem(
    lambda levels, data: levels.lower**4 / 4,
    lambda levels, data: (levels.lower - levels.upper) ** 2 / 2,
)


def test_unbounded_smoothness_is_no_obstacle_and_soba_diverges(x64):
    solver = bilevel.bo_rep(
        QUARTIC,
        bilevel.normalized_momentum(0.05),
        bilevel.epoch_sgd(0.5, 3),
        0.5,
        period=2,
    )
    params = Levels(np.asarray(10.0), np.asarray(0.0))
    x = core.run(solver, params, max_steps=400 * 2 + 199 * 3, tol=0.0).params.upper
    assert abs(x) <= 0.5
    assert all(map(soba_diverges, (0.1, 0.03, 0.01)))


def soba_diverges(gamma, rho=0.5, x=10.0, y=0.0, v=0.0):
    """SOBA's card on F = x^4 / 4, in NumPy."""
    for _ in range(25):
        x, y, v = x + gamma * v, y - rho * (y - x), v - rho * (v + y**3)
        if abs(x) > 1e6:
            return True
    return False


def test_stepsizes_that_decrease_bring_it_to_rest(x64):
    decay = lambda k: 0.5 * 0.95 ** jnp.asarray(k, float)
    rule = bilevel.normalized_momentum(decay, 0.5)
    solver = bilevel.bo_rep(quadratic.PROBLEM, rule, PLAIN, NU, period=2)
    data = quadratic.draw(dx=2, dy=3, top=2.0)
    out = core.run(solver, Levels(*START), data, max_steps=3000, tol=1e-9)
    assert out.converged
    solution = quadratic.solution(data)
    np.testing.assert_allclose(out.params.upper, solution.upper, atol=1e-7)


make = functools.partial(
    bilevel.bo_rep, quadratic.PROBLEM, optax.sgd(0.1), adjoint_stepsize=0.1
)


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("period", {"refresh": PLAIN, "period": 0}),
        ("refresh", {"refresh": 3, "period": 2}),
        ("refresh", {"refresh": None, "period": 2}),
        ("start", {"refresh": PLAIN, "period": 2, "start": 100}),
    ],
)
def test_options_that_make_no_sense_are_refused(what, options):
    with pytest.raises(ValueError, match=what):
        make(**options)
