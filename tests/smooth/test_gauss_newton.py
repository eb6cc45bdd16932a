"""Gauss-Newton: the textbook's iterates, rank deficiency, searches, failure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxsolve import Status, core, linesearch, smooth

TIMES = np.linspace(0.0, 4.0, 12)
CURVE = 2.0 * np.exp(-0.7 * TIMES) + 0.1 * np.cos(9 * TIMES)


def decay(x, curve):
    return x[0] * jnp.exp(-x[1] * TIMES) - curve


def rosenbrock(x, scale):
    return jnp.stack([scale * (x[1] - x[0] ** 2), 1 - x[0]])


def plain(x, steps, stepsize, decrease=None):
    """Gauss-Newton in NumPy, one evaluation an update; backtracks by parabolas."""
    residuals = lambda x: x[0] * np.exp(-x[1] * TIMES) - CURVE
    column = lambda x: np.exp(-x[1] * TIMES)
    jacobian = lambda x: np.stack([column(x), -x[0] * TIMES * column(x)], axis=1)
    value, points = lambda x: residuals(x) @ residuals(x) / 2, []
    while len(points) < steps:
        r, jac = residuals(x), jacobian(x)
        p = -np.linalg.lstsq(jac, r, rcond=None)[0]
        t, slope = stepsize, r @ jac @ p
        while decrease and value(x + t * p) > value(x) + decrease * t * slope:
            points.append(x)
            excess = value(x + t * p) - value(x) - t * slope
            t = np.clip(-slope * t**2 / 2 / excess, 0.1 * t, 0.5 * t)
        x = x + t * p
        points.append(x)
    return np.stack(points[:steps])


@pytest.mark.parametrize("stepsize", [1.0, 0.6])
def test_first_iterates_with_a_stepsize_are_those_of_the_textbook(stepsize, x64):
    start = np.array([1.0, 0.3])
    params, solver = jnp.asarray(start), smooth.gauss_newton(decay, stepsize)
    state = solver.init(params)
    for point in plain(start, 6, stepsize):
        params, state = solver.update(params, state, jnp.asarray(CURVE))
        np.testing.assert_allclose(params, point, rtol=1e-9)


def test_first_iterates_with_a_search_are_those_of_the_textbook(x64):
    start = np.array([1.0, 4.0])
    params, solver = jnp.asarray(start), smooth.gauss_newton(decay)
    state = solver.init(params)
    params, state = solver.update(params, state, jnp.asarray(CURVE))  # the start
    points = plain(start, 9, 1.0, decrease=1e-4)
    assert np.any(np.all(np.diff(points, axis=0) == 0, axis=1))  # some are rejected
    for point in points:
        params, state = solver.update(params, state, jnp.asarray(CURVE))
        np.testing.assert_allclose(params, point, rtol=1e-9)


def test_minimum_is_that_of_scipy(x64):
    theirs = optimize.least_squares(
        lambda x: np.asarray(decay(x, CURVE)), [1.0, 4.0], xtol=1e-12, gtol=1e-12
    )
    out = core.run(smooth.gauss_newton(decay), np.array([1.0, 4.0]), jnp.asarray(CURVE))
    assert out.converged, out
    np.testing.assert_allclose(out.params, theirs.x, rtol=1e-6)
    np.testing.assert_allclose(out.value, theirs.cost, rtol=1e-10)


def test_wolfe_search_solves_rosenbrock_too(x64):
    solver = smooth.gauss_newton(rosenbrock, search=linesearch.wolfe())
    out = core.run(solver, np.array([-1.2, 1.0]), 10.0)
    assert out.converged and out.value < 1e-15, out


def test_convergence_to_a_root_is_quadratic(x64):
    root = lambda x, data: jnp.stack([jnp.exp(x[0]) - data, x[1] ** 3 + x[0] - 2])
    solver = smooth.gauss_newton(root, 1.0)
    out = core.run(
        solver,
        np.array([0.5, 1.2]),
        2.0,
        max_steps=8,
        tol=1e-12,
        record=lambda params, state: state.error,
    )
    errors = np.asarray(out.history)
    errors = errors[(errors < 1e-2) & (errors > 1e-14)]
    assert out.converged and np.all(errors[1:] < 100 * errors[:-1] ** 2 + 1e-15)


def test_shortest_step_is_taken_where_it_is_not_unique(x64):
    weights = np.array([[1.0, 2.0, -1.0], [2.0, 4.0, -2.0]])  # of rank one
    plane = lambda x, data: weights @ x - data
    out = core.run(smooth.gauss_newton(plane, 1.0), np.zeros(3), jnp.array([1.0, 2.0]))
    assert out.converged
    # Shortest where columns have length one.
    unit = weights / np.linalg.norm(weights, axis=0)
    z = np.linalg.lstsq(unit, np.array([1.0, 2.0]), rcond=None)[0]
    expected = z / np.linalg.norm(weights, axis=0)
    np.testing.assert_allclose(out.params, expected, rtol=1e-7)


def test_robust_steps_find_the_minimum_of_levenberg_marquardt(x64):
    curve = jnp.asarray(CURVE).at[3].set(9.0)
    ends = [
        core.run(factory(decay, loss=smooth.huber_loss(0.1)), np.ones(2), curve)
        for factory in (smooth.gauss_newton, smooth.levenberg_marquardt)
    ]
    assert all(end.converged for end in ends), ends
    np.testing.assert_allclose(ends[0].params, ends[1].params, rtol=1e-6)


def test_lanes_that_leave_the_domain_end_alone():
    log = lambda x, data: jnp.log(x) - data
    starts = jnp.array([[1.0], [-1.0], [20.0]])
    pure = smooth.gauss_newton(log, 1.0)
    out = jax.vmap(lambda x: core.run(pure, x, 1.0))(starts)
    assert list(out.status) == [Status.CONVERGED, *[Status.DIVERGED] * 2]
    assert bool(core.all_finite(out.params))
    searched = smooth.gauss_newton(log)
    out = jax.vmap(lambda x: core.run(searched, x, 1.0))(starts)
    assert list(out.status) == [Status.CONVERGED, Status.DIVERGED, Status.CONVERGED]


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="not both"):
        smooth.gauss_newton(decay, 1.0, search=linesearch.wolfe())
    with pytest.raises(ValueError, match="stepsize"):
        smooth.gauss_newton(decay, -1.0)
