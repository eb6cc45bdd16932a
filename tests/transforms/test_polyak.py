"""Stochastic Polyak stepsizes: the papers' iterates, rates, and optax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsolve
from jaxsolve import core, transforms
from jaxsolve.core import Status

RNG = np.random.default_rng(0)
A = RNG.normal(size=(12, 4))
SOLUTION = RNG.normal(size=4)
B = A @ SOLUTION  # it interpolates: every batch has the value zero there


def batch_loss(x, batch):
    rows, targets = batch
    return jnp.mean((rows @ x - targets) ** 2) / 2


def batches(steps):
    picks = [np.arange(3) + 3 * (k % 4) for k in range(steps)]
    return [(A[p], B[p]) for p in picks]


def papers(steps, bound, top, c, growth, momentum):
    """Loizou et al. (2021), (4), its smoothed variant; Oikonomou and Loizou (2025)."""
    x, old, iterates, last = np.zeros(4), np.zeros(4), [], top
    for rows, targets in batches(steps):
        r = rows @ x - targets
        value, g = np.mean(r**2) / 2, rows.T @ r / 3
        cap = top if growth is None else growth * last
        last = min(max(value - bound, 0) / (c * g @ g), cap)
        x, old = x - (1 - momentum) * last * g + momentum * (x - old), x
        iterates.append(x)
    return iterates


@pytest.mark.parametrize(
    "bound, top, c, growth, momentum",
    [
        (0.0, 0.3, 1.0, None, 0.0),
        (0.01, np.inf, 0.5, None, 0.0),  # SPS+
        (0.0, 0.1, 0.5, 1.2, 0.0),
        (0.0, 0.5, 1.0, None, 0.6),
    ],
    ids=["max", "plus", "smoothed", "momentum"],
)
def test_first_iterates_are_the_papers(x64, bound, top, c, growth, momentum):
    transform = transforms.sps(bound, top, c=c, growth=growth, momentum=momentum)
    solver = jaxsolve.from_optax(batch_loss, transform)
    x = jnp.zeros(4)
    state = solver.init(x, None)
    expected = papers(15, bound, top, c, growth, momentum)
    for batch, y in zip(batches(15), expected, strict=True):
        x, state = solver.update(x, state, jax.tree.map(jnp.asarray, batch))
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12)


def test_it_finds_the_solution_that_interpolates_linearly(x64):
    transform = transforms.sps(c=0.5, max_stepsize=10.0)
    solver = jaxsolve.from_optax(batch_loss, transform)
    x, gaps = jnp.zeros(4), []
    state = solver.init(x, None)
    for batch in batches(120):
        x, state = solver.update(x, state, jax.tree.map(jnp.asarray, batch))
        gaps.append(np.sum((x - SOLUTION) ** 2))
    assert np.all(np.diff(gaps) <= 1e-15)  # Fejer monotone for c = 1/2
    assert gaps[-1] < 1e-8


def test_alone_it_is_what_optax_has():
    value, g = jnp.array(2.0), jnp.array([1.0, -3.0])
    ours = transforms.scale_by_sps(0.5, 0.1)
    theirs = optax.scale_by_polyak(0.5, 0.1)
    step, _ = ours.update(g, ours.init(g), value=value)
    other, _ = theirs.update(g, theirs.init(g), value=value)
    np.testing.assert_allclose(step, other, rtol=1e-6)


def test_each_batch_may_have_a_lower_bound_of_its_own():
    transform = transforms.scale_by_sps(0.0, jnp.inf)
    g = jnp.array([2.0, 0.0])
    state = transform.init(g)
    step = lambda bound: transform.update(g, state, value=3.0, lower_bound=bound)[0]
    np.testing.assert_allclose(step(1.0), [1.0, 0.0])
    np.testing.assert_allclose(step(None), [1.5, 0.0])
    np.testing.assert_array_equal(step(4.0), 0)  # never uphill


def test_a_batch_that_is_fitted_exactly_does_not_stop_a_smoothed_stepsize():
    transform = transforms.scale_by_sps(max_stepsize=0.1, growth=2.0)
    g = jnp.array([1.0])
    _, state = transform.update(g, transform.init(g), value=0.0)
    _, state = transform.update(0 * g, state, value=1.0)
    assert state.stepsize == jnp.float32(0.1)
    step, state = transform.update(g, state, value=1.0)
    np.testing.assert_allclose(step, 0.2)


def test_the_gradient_need_not_be_above_rounding(x64):
    # optax stops where the squared gradient is below machine epsilon.
    fun = lambda x, data: jnp.sum((x - data) ** 2)
    solver = jaxsolve.from_optax(fun, transforms.sps())
    out = core.run(solver, jnp.zeros(2), jnp.ones(2), tol=1e-12)
    assert out.status == Status.CONVERGED


@pytest.mark.parametrize(
    "options",
    [dict(max_stepsize=0.0), dict(c=-1.0), dict(growth=0.5), dict(momentum=1.0)],
    ids=str,
)
def test_static_mistakes_are_value_errors(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        transforms.sps(**options)
