"""Gradient descent: plain transcriptions, known answers, what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import core, linesearch, smooth
from jaxsolve.core import Status
from tests.linesearch.transcription import search_backtracking

MATRIX = np.array([[2.0, 0.5], [0.5, 1.0]])
CENTER = np.array([1.0, -1.0])


def quadratic(x, data):
    matrix, center = data
    return (x - center) @ (matrix @ (x - center)) / 2 + jnp.sum((x - center) ** 4)


def value(x):
    return (x - CENTER) @ MATRIX @ (x - CENTER) / 2 + np.sum((x - CENTER) ** 4)


def gradient(x):
    return MATRIX @ (x - CENTER) + 4 * (x - CENTER) ** 3


@pytest.mark.parametrize(
    "stepsize, plain",
    [
        (0.05, lambda k: 0.05),
        (lambda k: 0.1 / (1.0 + k.astype(jnp.float64)), lambda k: 0.1 / (1 + k)),
    ],
)
def test_iterates_with_a_stepsize_are_the_textbooks(stepsize, plain, x64):
    solver = smooth.gradient_descent(quadratic, stepsize)
    params, x = jnp.zeros(2), np.zeros(2)
    state = solver.init(params)
    for k in range(8):
        params, state = solver.update(params, state, (MATRIX, CENTER))
        error = np.max(np.abs(gradient(x)))
        x = x - plain(k) * gradient(x)
        np.testing.assert_allclose(params, x, rtol=1e-12)
        np.testing.assert_allclose(state.error, error, rtol=1e-12)
        assert state.count == k + 1


def test_searched_iterates_are_those_of_a_plain_transcription(x64):
    solver = smooth.gradient_descent(quadratic)
    params, points = jnp.array([5.0, 3.0]), []
    state = solver.init(params)
    while len(points) < 9:
        params, state = solver.update(params, state, (MATRIX, CENTER))
        if state.search.trials == 0:
            points.append(np.asarray(params))
    x, expected, calls = np.array([5.0, 3.0]), [np.array([5.0, 3.0])], 1
    stepsize = min(1, 1 / np.linalg.norm(gradient(x)))
    for _ in range(8):
        g = gradient(x)
        phi = lambda t, x=x, g=g: (value(x - t * g), -gradient(x - t * g) @ g)
        tried = search_backtracking(phi, value(x), -g @ g, stepsize)
        calls += len(tried)
        new_x = x - tried[-1] * g
        s, y = new_x - x, gradient(new_x) - g
        stepsize = s @ y / (y @ y)
        x = new_x
        expected.append(x)
    np.testing.assert_allclose(points, expected, rtol=1e-9)
    assert state.count == calls


def test_gap_decays_by_the_contraction_factor(x64):
    solver = smooth.gradient_descent(lambda x, d: x @ (d * x) / 2, 0.1)
    curvatures = jnp.array([1.0, 4.0, 10.0])
    out = core.run(solver, jnp.ones(3), curvatures, tol=0.0, max_steps=20)
    expected = (1 - 0.1 * np.asarray(curvatures)) ** 20
    np.testing.assert_allclose(out.params, expected, rtol=1e-9, atol=1e-15)


def test_too_large_a_stepsize_ends_as_diverged_with_finite_params():
    solver = smooth.gradient_descent(lambda x, d: jnp.sum(x**2), 1.5)
    out = core.run(solver, jnp.ones(2))
    assert out.status == Status.DIVERGED
    assert bool(jnp.all(jnp.isfinite(out.params)))


@pytest.mark.parametrize(
    "search", [None, linesearch.backtracking(), linesearch.wolfe(curvature=0.5)]
)
def test_searched_run_solves_without_a_stepsize(search):
    scale = jnp.array([1.0, 30.0, 900.0])
    fun = lambda x, c: jnp.sum(scale * (x - c) ** 2)
    solver = smooth.gradient_descent(fun, search=search)
    out = core.run(solver, jnp.zeros(3), jnp.array([1.0, 2.0, 3.0]), max_steps=2000)
    assert int(out.status) in (Status.CONVERGED, Status.STALLED)
    np.testing.assert_allclose(out.params, [1.0, 2.0, 3.0], rtol=1e-3)


def test_stepsize_may_be_traced_and_differentiated(x64):
    def end(stepsize):
        solver = smooth.gradient_descent(lambda x, d: jnp.sum((x - d) ** 2), stepsize)
        rule = core.unrolled()
        out = core.run(
            solver, jnp.zeros(()), 1.0, max_steps=3, tol=0.0, derivative=rule
        )
        return out.params

    np.testing.assert_allclose(end(0.1), 1 - 0.8**3, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(jax.grad(end))(0.1), 6 * 0.8**2, rtol=1e-12)
    lanes = jax.jit(jax.vmap(end))(jnp.array([0.1, 0.2]))
    np.testing.assert_allclose(lanes, [1 - 0.8**3, 1 - 0.6**3], rtol=1e-12)


def test_stepsize_and_search_together_are_refused():
    with pytest.raises(ValueError, match="not both"):
        smooth.gradient_descent(quadratic, 0.1, search=linesearch.wolfe())
