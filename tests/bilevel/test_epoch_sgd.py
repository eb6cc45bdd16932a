"""Epochs of lower steps: what they are good for, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import bilevel, core
from jaxsolve.bilevel import BilevelProblem, Levels

PROBLEM = BilevelProblem(
    lambda levels, data: jnp.sum(levels.lower**2) + jnp.sum(levels.upper**2),
    lambda levels, data: jnp.sum((levels.lower - data) ** 2) / 2,
)


def lower_phase(loop, batches):
    """What y is after the start of BO-REP, from zero, on these batches."""
    solver = bilevel.bo_rep(
        PROBLEM, optax.sgd(0.1), bilevel.epoch_sgd(0.1, 1), 0.1, period=2, start=loop
    )
    start = Levels(np.zeros(4), np.zeros(4))
    keep = lambda params, state: (params.lower, state.phase)
    out = core.scan(solver, start, (None, batches), record=keep)
    y, phase = out.history
    assert list(phase == 0) == [True] * (len(batches) - 1) + [False]
    return np.asarray(y)


def noisy(count, center=1.0):
    rng = np.random.default_rng(0)
    return center + rng.standard_normal((count, 4))


def test_averages_of_ever_shorter_steps_beat_the_last_of_long_ones(x64):
    batches = noisy(4 * (2**7 - 1))
    plain = bilevel.epoch_sgd(0.5, len(batches))
    loop = bilevel.epoch_sgd(0.5, 4, epochs=7, average=True)
    gap = lambda loop: np.linalg.norm(lower_phase(loop, batches)[-1] - 1.0)
    assert gap(loop) < 0.12 < 0.5 < gap(plain)


def test_no_iterate_leaves_the_ball_of_its_epoch(x64):
    """One that is too small for the way: y gets as far as the radii allow."""
    batches = noisy(3 * (2**3 - 1), center=100.0)
    y = lower_phase(bilevel.epoch_sgd(0.5, 3, epochs=3, radius=2.0), batches)
    centers, length = [np.zeros(4), y[2], y[8]], 0.0
    for s, (first, last) in enumerate([(0, 3), (3, 9), (9, 21)]):
        radius = 2.0 * 2 ** (-s / 2)
        length += radius
        away = np.linalg.norm(y[first:last] - centers[s], axis=1)
        assert np.all(away <= radius * (1 + 1e-12))
    assert np.linalg.norm(y[-1]) == pytest.approx(length, rel=1e-3)


def test_traced_numbers_are_taken(x64):
    def end(stepsize, radius):
        loop = bilevel.epoch_sgd(stepsize, 2, radius=radius)
        rule = optax.sgd(0.1)
        solver = bilevel.bo_rep(PROBLEM, rule, loop, 0.1, period=1, start=loop)
        start = Levels(jnp.zeros(4), jnp.zeros(4))
        return core.run(solver, start, (None, 1.0), max_steps=2).params.lower

    for radius, expected in ((0.1, 0.05), (9.0, 0.75)):
        np.testing.assert_allclose(jax.jit(end)(0.5, radius), expected)


@pytest.mark.parametrize(
    ("what", "arguments", "options"),
    [
        ("stepsize", (0.0, 3), {}),
        ("steps", (0.1, 0), {}),
        ("steps", (0.1, True), {}),
        ("epochs", (0.1, 3), {"epochs": 1.5}),
        ("too many", (0.1, 3), {"epochs": 31}),
        ("radius", (0.1, 3), {"radius": 0.0}),
        ("radius", (0.1, 3), {"radius": np.nan}),
    ],
)
def test_numbers_that_make_no_sense_are_refused(what, arguments, options):
    with pytest.raises(ValueError, match=what):
        bilevel.epoch_sgd(*arguments, **options)
