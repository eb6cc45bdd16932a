"""Nonlinear conjugate gradients: a transcription, its rules, restarts, bad input."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import core, linesearch, smooth
from jaxsolve.core import Status
from tests.linesearch.transcription import search_wolfe


def rosenbrock(x, scale):
    return jnp.sum(scale * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def plain_beta(name, new, old, d):
    """Hager and Zhang's survey of 2006, Table 1.1."""
    y = new - old
    if name == "hager_zhang":
        beta = (y - 2 * d * (y @ y) / (d @ y)) @ new / (d @ y)
        return max(beta, 0.4 * (d @ old) / (d @ d))
    if name == "polak_ribiere":
        return max(0.0, new @ y / (old @ old))
    if name == "hestenes_stiefel":
        return max(0.0, new @ y / (d @ y))
    return (new @ new) / (d @ y)


def plain_cg(fun, grad, x, steps, name, nu):
    """Iterates, the oracle calls, and how often it restarted."""
    f, g = fun(x), grad(x)
    d, t = -g, min(1.0, 1 / np.linalg.norm(g))
    iterates, calls, restarts = [x], 1, 0
    for _ in range(steps):
        phi = lambda t, x=x, d=d: (fun(x + t * d), grad(x + t * d) @ d)
        tried = search_wolfe(phi, f, g @ d, t, c2=0.4)
        calls += len(tried)
        x = x + tried[-1] * d
        new = grad(x)
        turned = plain_beta(name, new, g, d) * d - new
        if new @ turned >= 0 or abs(new @ g) >= nu * (new @ new):
            turned, restarts = -new, restarts + 1
        t = tried[-1] * np.linalg.norm(d) / np.linalg.norm(turned)
        f, g, d = fun(x), new, turned
        iterates.append(x)
    return np.stack(iterates), calls, restarts


def accepted(solver, params, data, steps):
    """The states after each accepted step, the first of them at the start."""
    update = jax.jit(solver.update)
    state, states = solver.init(params, data), []
    while len(states) < steps:
        params, state = update(params, state, data)
        if state.search.trials == 0:
            states.append(state)
    return states


@pytest.mark.parametrize(
    "name, nu",
    [
        ("hager_zhang", 1.0),
        ("polak_ribiere", 0.2),
        ("hestenes_stiefel", math.inf),
        ("dai_yuan", 1.0),
    ],
)
def test_first_iterates_are_those_of_a_plain_transcription(name, nu, x64):
    start = np.array([-1.2, 1.0, 0.5, 2.0])
    value = jax.jit(lambda x: rosenbrock(x, 100.0))
    grad = jax.jit(jax.grad(lambda x: rosenbrock(x, 100.0)))
    numbers = lambda f: lambda x: np.asarray(f(x))
    expected, calls, restarts = plain_cg(
        numbers(value), numbers(grad), start, 14, name, nu
    )
    solver = smooth.nonlinear_cg(rosenbrock, getattr(smooth, name), restart=nu)
    states = accepted(solver, jnp.asarray(start), 100.0, 15)
    points = np.stack([state.point for state in states])
    np.testing.assert_allclose(points, expected, rtol=1e-6, atol=1e-8)
    assert states[-1].count == calls
    assert sum(int(state.steepest) for state in states[1:]) == restarts
    assert (restarts > 0) is (nu < math.inf)


@pytest.mark.parametrize(
    "beta",
    [
        smooth.hager_zhang,
        smooth.polak_ribiere,
        smooth.hestenes_stiefel,
        smooth.dai_yuan,
    ],
)
def test_every_rule_is_fletchers_after_an_exact_search(beta, x64):
    new, old, d = (
        jnp.array([3.0, 0, 0]),
        jnp.array([0, 1.0, 2]),
        jnp.array([0, -1.0, -2]),
    )
    np.testing.assert_allclose(beta(new, old, d), (new @ new) / (old @ old))


def test_hager_zhang_is_truncated_from_below(x64):
    # y = (-1.5, 1) and d'y = 1.5: untruncated it is -1/1.5 - 2 * 3.25 * -0.5 / 2.25...
    new, old, d = jnp.array([0.5, 9.0]), jnp.array([2.0, 8.0]), jnp.array([-1.0, 0.0])
    y, dy = np.array([-1.5, 1.0]), 1.5
    raw = (y @ new - 2 * (y @ y) * (d @ new) / dy) / dy
    assert raw > 0
    np.testing.assert_allclose(smooth.hager_zhang(new, old, d), raw)
    flipped = jnp.array([0.5, -9.0])
    np.testing.assert_allclose(
        smooth.hager_zhang(flipped, jnp.array([2.0, -10.0]), d), -0.8
    )


def test_nearly_exact_searches_end_a_quadratic_in_as_many_steps_as_eigenvalues(x64):
    scales = jnp.array([1.0, 1.0, 30.0, 30.0, 400.0, 400.0])
    fun = lambda x, c: jnp.sum(scales * (x - c) ** 2) / 2
    search = linesearch.wolfe(curvature=1e-3)
    solver = smooth.nonlinear_cg(fun, search=search)
    center = jnp.array([1.0, -2.0, 3.0, 0.5, 1.0, -1.0])
    states = accepted(solver, jnp.zeros(6), center, 5)
    errors = [float(state.error) for state in states]
    assert errors[3] < 1e-3 * errors[0] and errors[4] < 1e-6 * errors[0]


def test_rule_of_the_user_is_followed_and_nan_restarts():
    fun = lambda x, d: jnp.sum(jnp.array([1.0, 2.0, 3.0]) * (x - 1) ** 2)
    calls = []

    def beta(new_grad, grad, direction):
        calls.append(new_grad.shape)
        return jnp.full((), jnp.nan)

    states = accepted(smooth.nonlinear_cg(fun, beta), jnp.zeros(3), None, 5)
    assert calls == [(3,)] and all(bool(state.steepest) for state in states)
    np.testing.assert_allclose(states[-1].direction, -states[-1].grad)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_unbounded_or_nan_objective_ends_as_diverged_with_finite_params(sign):
    solver = smooth.nonlinear_cg(lambda x, d: -jnp.sum(jnp.sqrt(x) ** 6) * d)
    out = core.run(solver, sign * jnp.full(3, 0.1), jnp.float32(1))
    assert out.status == Status.DIVERGED, out
    assert bool(jnp.all(jnp.isfinite(out.params)))


def test_lane_beside_a_failing_one_goes_on_as_alone():
    solver = smooth.nonlinear_cg(lambda x, d: jnp.sum(x - jnp.log(x)))
    starts = jnp.array([[0.1, 3.0], [jnp.nan, 0.5]])
    both = jax.vmap(lambda x: core.run(solver, x))(starts)
    alone = core.run(solver, starts[0])
    assert both.status.tolist() == [Status.CONVERGED, Status.DIVERGED]
    assert both.state.count[0] == alone.state.count
    np.testing.assert_allclose(both.params[0], 1, atol=1e-3)


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="beta must be a function"):
        smooth.nonlinear_cg(rosenbrock, "hager-zhang")
    with pytest.raises(ValueError, match="restart must be positive"):
        smooth.nonlinear_cg(rosenbrock, restart=0.0)


def test_gradients_whose_squares_overflow_are_no_stall():
    fun = lambda x, data: 1e30 * jnp.sum((x - 1) ** 2)
    out = core.run(smooth.nonlinear_cg(fun), jnp.zeros(3))
    np.testing.assert_allclose(out.params, 1, rtol=1e-6)
