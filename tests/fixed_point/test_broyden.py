"""Broyden's method: his matrices, a plain transcription, his rate, honest ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import core, fixed_point
from jaxsolve.core import Status
from jaxsolve.fixed_point import _secants
from tests.fixed_point.equations import (
    freudenstein,
    rootless,
    rosenbrock,
    tridiagonal,
)

N = 10


def test_the_product_is_the_inverse_of_broydens_matrices(x64):
    rng, gamma, memory = np.random.default_rng(0), 0.7, 3
    secants = _secants.empty(memory, jnp.zeros(5), jnp.asarray(gamma))
    push = jax.jit(_secants.push, static_argnums=4)
    matrix = np.eye(5) / gamma
    for count in range(5):
        s, y, v = rng.normal(size=(3, 5))
        secants = push(
            secants, jnp.asarray(s), jnp.asarray(y), jnp.ones((), bool), True
        )
        if count == memory:
            matrix = np.eye(5) / gamma
        foreseen = matrix @ s
        factor = s @ np.linalg.solve(matrix, y) / (s @ s)
        if abs(factor) < 0.1:
            theta = (1 - np.copysign(0.1, factor)) / (1 - factor)
            y = theta * y + (1 - theta) * foreseen
        matrix += np.outer(y - foreseen, s) / (s @ s)
        applied = _secants.apply(secants, jnp.asarray(v))
        np.testing.assert_allclose(applied, np.linalg.solve(matrix, v), rtol=1e-8)


def transcription(fun, x, steps, memory, growth=10.0, decrease=1e-4):
    """The method with Broyden's matrix as a matrix: params after every trial."""
    value = fun(x)
    size = np.linalg.norm(value)
    gamma = min(1, 0.1 * max(np.linalg.norm(x), 1) / size)
    matrix = np.eye(x.size) / gamma
    taken, k, t, trials, out = 0, 0, 1.0, 0, [x]
    p = -gamma * value
    while len(out) < steps:
        new = fun(x + t * p)
        eta = growth / (k + 1) ** 1.5
        ok = np.linalg.norm(new) <= (1 - decrease * t**2 + eta) * np.linalg.norm(value)
        given_up = not ok and trials == 3
        if ok or given_up:
            s, y = t * p, new - value
            if taken % memory == 0:
                gamma = np.copysign(np.linalg.norm(s) / np.linalg.norm(y), s @ y)
                matrix = np.eye(x.size) / gamma
            factor = s @ np.linalg.solve(matrix, y) / (s @ s)
            if abs(factor) < 0.1:
                theta = (1 - np.copysign(0.1, factor)) / (1 - factor)
                y = theta * y + (1 - theta) * (matrix @ s)
            matrix = matrix + np.outer(y - matrix @ s, s) / (s @ s)
            taken, t_next = taken + 1, 1.0
        else:
            ratio = (np.linalg.norm(new) / np.linalg.norm(value)) ** 2
            t_next = t * np.clip(t / max(ratio + 2 * t - 1, 2 * t), 0.1, 0.5)
        if ok:
            x, value, k = x + t * p, new, k + 1
        trials = 0 if ok or given_up else trials + 1
        t = t_next
        if ok or given_up:
            p = -np.linalg.solve(matrix, value)
        out.append(x)
    return out


@pytest.mark.parametrize(
    "fun, start, memory, steps",
    [
        (tridiagonal, -np.ones(N), 20, 12),
        (tridiagonal, -np.ones(N), 2, 12),
        (rosenbrock, np.array([-1.2, 1.0]), 3, 40),  # it backtracks, and gives up
    ],
)
def test_iterates_are_those_of_the_matrices(x64, fun, start, memory, steps):
    expected = transcription(fun, start, steps, memory)
    solver = fixed_point.broyden(fun, memory)
    params, state = jnp.asarray(start), solver.init(jnp.asarray(start))
    for x in expected:
        params, state = solver.update(params, state, None)
        np.testing.assert_allclose(params, x, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(state.error, np.max(np.abs(fun(np.asarray(params)))))


def test_it_is_superlinear_with_the_whole_history(x64):
    solver = fixed_point.broyden(tridiagonal, 40)
    errors = []
    params, state = -jnp.ones(4), solver.init(-jnp.ones(4))
    for _ in range(14):
        params, state = solver.update(params, state, None)
        errors.append(float(state.error))
    factors = np.divide(errors[1:], errors[:-1])
    assert np.all(factors[-3:] < 0.01) and np.all(factors[:4] > 0.2)


def test_broydens_own_function_of_a_thousand_unknowns_takes_few_steps(x64):
    out = core.run(fixed_point.broyden(tridiagonal), -jnp.ones(1000), tol=1e-8)
    assert out.converged and out.state.count < 26  # as many evaluations
    assert np.max(np.abs(tridiagonal(np.asarray(out.params)))) < 1e-8


@pytest.mark.parametrize("sign", [1, -1])
def test_the_sign_of_the_equations_does_not_matter(x64, sign):
    out = core.run(
        fixed_point.broyden(lambda x, _: sign * tridiagonal(x)), -jnp.ones(N)
    )
    assert out.converged and out.state.count < 25


def test_an_affine_equation_takes_twice_as_many_steps_as_unknowns(x64):
    # Gay (1979): 2n steps at most, with full steps and the whole history.
    rng = np.random.default_rng(0)
    matrix = jnp.asarray(rng.normal(size=(4, 4)) + 3 * np.eye(4))
    solver = fixed_point.broyden(lambda x, a: matrix @ x - a, growth=1e3)
    out = core.run(solver, jnp.zeros(4), 1.0, tol=1e-9)
    assert out.converged and out.state.count <= 2 * 4 + 2


def test_hard_equations_are_solved_by_the_search(x64):
    for fun, start in (
        (freudenstein, [0.5, -2.0]),
        (lambda x, _: jnp.log(x), [50.0]),  # not a number below zero
        (lambda x, _: jnp.stack([-x[1], x[0]]), [1.0, 2.0]),  # the norm never descends
    ):
        out = core.run(fixed_point.broyden(fun), jnp.array(start), tol=1e-7)
        assert out.converged, out


def test_equations_without_derivatives_are_solved():
    kinked = lambda x, _: jnp.abs(x) + 2 * x - 1 + 0.1 * jnp.round(1e3 * x) / 1e3
    out = core.run(fixed_point.broyden(kinked), jnp.array([-2.0]), tol=1e-3)
    assert out.converged


def test_jaxopts_own_problems_are_solved():
    decay = lambda x, _: jnp.array([0.9, 0.99, 0.999]) * x - x
    out = core.run(fixed_point.broyden(decay), jnp.array([1.0, 0.4, -0.2]), tol=1e-6)
    assert out.converged and out.state.count < 15
    pair = lambda x, _: (jnp.sin(x[0]) * x[0] ** 2 - x[0], x[1] ** 3 - x[1])
    start = jnp.array([0.6, 0.0, -0.1]), jnp.array([[0.7], [0.5]])
    assert core.run(fixed_point.broyden(pair), start, tol=1e-6).converged


def test_no_root_is_no_convergence():
    out = core.run(fixed_point.broyden(rootless), jnp.array([3.0, 1.0]), max_steps=200)
    assert out.status in (Status.STALLED, Status.MAX_STEPS)
    assert core.all_finite(out.params) and out.state.error > 0.9


def test_nan_lanes_end_as_diverged_and_spare_the_others():
    solver = fixed_point.broyden(lambda x, a: x**3 - a)
    data = jnp.array([[1.0, 8.0], [jnp.nan, 8.0], [27.0, 1.0]])
    out = jax.vmap(lambda a: core.run(solver, jnp.full(2, 1.5), a))(data)
    np.testing.assert_array_equal(out.status, [1, Status.DIVERGED, 1])
    np.testing.assert_allclose(out.params, [[1, 2], [1.5, 1.5], [3, 1]], rtol=1e-3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"memory": 0}, "memory"),
        ({"scale": 0.0}, "scale"),
        ({"decrease": 1.0}, "decrease"),
        ({"growth": -1.0}, "growth"),
    ],
)
def test_options_that_make_no_sense_are_value_errors(options, message):
    with pytest.raises(ValueError, match=message):
        fixed_point.broyden(tridiagonal, **options)
