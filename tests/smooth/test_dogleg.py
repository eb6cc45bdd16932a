"""The dogleg: Powell's iterates, SciPy's minima, singular systems, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import Status, core, smooth


def rosenbrock(x, scale):
    return jnp.stack([scale * (x[1] - x[0] ** 2), 1 - x[0]])


def plain(x, steps):
    """Powell's method in NumPy, one trial an update, in the scaled variables."""
    residuals = lambda x: np.array([10 * (x[1] - x[0] ** 2), 1 - x[0]])
    jacobian = lambda x: np.array([[-20 * x[0], 10.0], [-1.0, 0.0]])
    r, jac = residuals(x), jacobian(x)
    scale = np.linalg.norm(jac, axis=0)
    radius, points = np.linalg.norm(scale * x), [x]
    while len(points) < steps:
        unit = jac / scale
        h = unit.T @ r
        cauchy = -(h @ h) / np.sum((unit @ h) ** 2) * h
        newton = -np.linalg.solve(unit, r)
        if np.linalg.norm(newton) <= radius:
            z = newton
        elif np.linalg.norm(cauchy) >= radius:
            z = -radius / np.linalg.norm(h) * h
        else:
            d = newton - cauchy
            roots = np.roots([d @ d, 2 * cauchy @ d, cauchy @ cauchy - radius**2])
            z = cauchy + np.max(roots) * d
        new_r = residuals(x + z / scale)
        gain = (r @ r - np.sum((r + unit @ z) ** 2)) / 2
        rho, length = (r @ r - new_r @ new_r) / 2 / gain, np.linalg.norm(z)
        if rho < 0.25:
            radius = 0.25 * min(length, radius)
        elif rho >= 0.75 and length >= 0.9 * radius:
            radius = 2 * radius
        if rho > 1e-4:
            x, r, jac = x + z / scale, new_r, jacobian(x + z / scale)
            scale = np.maximum(scale, np.linalg.norm(jac, axis=0))
        points.append(x)
    return np.stack(points)


def test_first_iterates_are_powells(x64):
    points = plain(np.array([-1.2, 1.0]), 9)
    assert np.any(np.all(np.diff(points, axis=0) == 0, axis=1))  # some are rejected
    params, solver = jnp.array([-1.2, 1.0]), smooth.dogleg(rosenbrock)
    state = solver.init(params)
    for point in points:
        params, state = solver.update(params, state, 10.0)
        np.testing.assert_allclose(params, point, rtol=1e-7)


def test_double_root_and_underdetermined_systems_are_solved(x64):
    plane = lambda x, data: x @ jnp.arange(1.0, 5.0) - data
    out = core.run(smooth.dogleg(plane), jnp.zeros(4), 3.0)
    assert out.converged and out.value < 1e-15, out
    double = lambda x, data: jnp.stack([x[0] ** 2, x[0] * x[1], x[1] ** 2])
    out = core.run(smooth.dogleg(double), jnp.array([1.0, 2.0]), None)
    assert out.converged and out.value < 1e-12, out


def test_robust_fit_finds_the_minimum_of_levenberg_marquardt(x64):
    times = np.linspace(0.0, 4.0, 12)
    decay = lambda x, curve: x[0] * jnp.exp(-x[1] * times) - curve
    curve = jnp.asarray(2.0 * np.exp(-0.7 * times)).at[3].set(9.0)
    ends = [
        core.run(factory(decay, loss=smooth.cauchy_loss(0.1)), np.ones(2), curve)
        for factory in (smooth.dogleg, smooth.levenberg_marquardt)
    ]
    assert all(end.converged for end in ends), ends
    np.testing.assert_allclose(ends[0].params, ends[1].params, rtol=1e-6)


def test_lane_that_starts_outside_the_domain_ends_alone():
    log = lambda x, data: jnp.log(x) - data
    solver = smooth.dogleg(log)
    starts = jnp.array([[20.0], [-1.0], [0.01]])
    out = jax.vmap(lambda x: core.run(solver, x, 1.0))(starts)
    assert list(out.status) == [Status.CONVERGED, Status.DIVERGED, Status.CONVERGED]
    np.testing.assert_allclose(out.params[::2, 0], np.e, rtol=1e-3)


@pytest.mark.parametrize("radius", [0.0, -1.0, np.inf])
def test_radius_that_is_not_positive_and_finite_is_refused(radius):
    with pytest.raises(ValueError, match="radius"):
        smooth.dogleg(rosenbrock, radius=radius)


@pytest.mark.parametrize("start", [0.0, 1.0])
def test_a_far_solution_is_reached(start):
    out = core.run(smooth.dogleg(lambda x, data: x - 1e15), jnp.full(3, start))
    assert bool(out.converged)
    np.testing.assert_allclose(out.params, 1e15, rtol=1e-6)
