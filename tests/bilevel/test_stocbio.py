"""stocBiO: the card's updates, and its bias."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import bilevel, core
from jaxsolve.bilevel import Levels
from tests.bilevel import quadratic
from tests.bilevel.rounds import START, Rounds, assert_same_updates, stream

ALPHA, ETA, BETA = 0.3, 0.4, 0.2


def card(batches, rounds, inner_steps, terms):
    """The card's update, in NumPy."""
    run = Rounds(batches)
    for _ in range(rounds):
        for _ in range(inner_steps):
            run.lower(ALPHA)
        run.evaluate()
        p, s = run.f_y, run.f_y
        for _ in range(terms - 1):
            hessian = run.next()[0]
            p = p - ETA * hessian @ p
            s = s + p
            run.w = ETA * s
            run.record()
        run.w = ETA * s
        run.upper(lambda gradient: (None, -BETA * gradient))
    return run.after


@pytest.mark.parametrize(("inner_steps", "terms"), [(3, 4), (1, 1)])
def test_every_update_is_the_cards_on_a_batch_of_its_own(x64, inner_steps, terms):
    batches = stream(4 * (inner_steps + terms))
    solver = bilevel.stocbio(
        quadratic.PROBLEM,
        optax.sgd(BETA),
        ALPHA,
        inner_steps=inner_steps,
        terms=terms,
        eta=ETA,
    )
    keep = lambda params, state: (*params, state.adjoint, state.error)
    out = core.scan(solver, Levels(*START), batches, record=keep)
    assert_same_updates(out.history, card(batches, 4, inner_steps, terms))
    assert out.state.outer == 4


def test_schedules_count_the_upper_steps(x64):
    decay = lambda k: 0.3 / (1.0 + jnp.asarray(k, float))
    solver = bilevel.stocbio(
        quadratic.PROBLEM, optax.sgd(0.0), decay, inner_steps=2, terms=1, eta=decay
    )
    data = quadratic.draw(dx=2, dy=3, top=2.0)
    start = Levels(*START)
    y, (target, (hessian, cross, linear)) = START[1], data
    for k, (params, state) in enumerate(core.iterate(solver, start, data, max_steps=9)):
        if k % 3 < 2:
            slope = hessian @ y - cross @ START[0] - linear
            y = y - decay(k // 3) * slope
        else:
            np.testing.assert_allclose(state.adjoint, decay(k // 3) * (y - target))
        np.testing.assert_allclose(params.lower, y, rtol=1e-12)


@pytest.mark.parametrize(
    ("products", "expected"), [(3, 1.304), (10, 0.3669), (30, 3.31e-2), (100, 2.0e-5)]
)
def test_bias_of_the_series_is_that_of_the_card(x64, products, expected):
    data = quadratic.draw()
    solver = bilevel.stocbio(
        quadratic.PROBLEM,
        optax.sgd(0.2),
        0.1,
        inner_steps=10,
        terms=products + 1,
        eta=0.1,
    )
    start = Levels(np.zeros(5), np.zeros(10))
    out = core.run(solver, start, data, max_steps=500 * (11 + products), tol=0.0)
    gradient = quadratic.hypergradient(np.asarray(out.params.upper), data)
    assert np.linalg.norm(gradient) == pytest.approx(expected, rel=5e-3)
    # The run knows its bias: w is short by (1 - eta H)^(Q + 1) of itself.
    hessian = data[1].hessian
    power = np.linalg.matrix_power(np.eye(10) - 0.1 * hessian, products + 1)
    gap = np.abs(power @ (out.params.lower - data[0])).max()
    assert out.state.error == pytest.approx(gap, rel=1e-6)
