"""Levenberg-Marquardt: the papers' iterates, SciPy's minima, boxes, losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxsolve import Status, core, smooth

RNG = np.random.default_rng(0)
TIMES = np.linspace(0.0, 10.0, 30)
CURVE = 0.5 + 2.0 * np.exp(-0.3 * TIMES) + 0.05 * RNG.normal(size=30)
CURVE[::6] += 3.0
START = np.array([1.0, 1.0, 1.0])


def rosenbrock(x, scale):
    return jnp.stack([scale * (x[1] - x[0] ** 2), 1 - x[0]])


def decay(x, curve):
    return x[0] + x[1] * jnp.exp(-x[2] * TIMES) - curve


def plain(residuals, jacobian, x, steps, factor=1e-3, geodesic=None):
    """The trials in NumPy, by normal equations: points and lambdas, one an update.

    `geodesic` is the second derivative of the residuals along a vector.
    """
    r, jac = residuals(x), jacobian(x)
    scale = np.linalg.norm(jac, axis=0)
    growth, points, factors = 2.0, [x], [factor]

    def solve(right):
        matrix = jac.T @ jac + factor * np.diag(scale**2)
        return -np.linalg.solve(matrix, jac.T @ right)

    while len(points) < steps:
        p = v = solve(r)
        gain = -(r @ jac @ v) - (jac @ v) @ (jac @ v) / 2
        bent = True
        if geodesic is not None:
            a = solve(geodesic(x, v))
            bent = 2 * np.linalg.norm(scale * a) <= 0.75 * np.linalg.norm(scale * v)
            p = v + a / 2
            if bent:
                points.append(x), factors.append(factor)  # the probe
        new_r = residuals(x + p)
        rho = (r @ r - new_r @ new_r) / 2 / gain if bent else -1
        if rho > 1e-4:
            x, r, jac = x + p, new_r, jacobian(x + p)
            scale = np.maximum(scale, np.linalg.norm(jac, axis=0))
            factor *= max(1 / 3, 1 - (2 * min(rho, 1) - 1) ** 3)
            growth = 2.0
        else:
            factor, growth = factor * growth, 2 * growth
        points.append(x), factors.append(factor)
    return np.stack(points[:steps]), np.array(factors[:steps])


@pytest.mark.parametrize("geodesic", [False, True])
def test_first_iterates_are_those_of_the_papers(geodesic, x64):
    steps = 14
    second = lambda x, v: np.array([-20 * v[0] ** 2, 0.0])
    points, factors = plain(
        lambda x: np.array([10 * (x[1] - x[0] ** 2), 1 - x[0]]),
        lambda x: np.array([[-20 * x[0], 10.0], [-1.0, 0.0]]),
        np.array([-1.2, 1.0]),
        steps,
        geodesic=second if geodesic else None,
    )
    assert np.any(np.diff(factors) > 0)  # some trials are rejected
    solver = smooth.levenberg_marquardt(rosenbrock, geodesic=geodesic)
    params = jnp.array([-1.2, 1.0])
    state = solver.init(params)
    for point, factor in zip(points, factors, strict=True):
        params, state = solver.update(params, state, 10.0)
        np.testing.assert_allclose(params, point, rtol=1e-8)
        np.testing.assert_allclose(state.damping.factor, factor, rtol=1e-6)


def meyer(x, data):
    """Scaled: the minimum is 87.9458 / 2 at about (2.48, 6.18, 3.45)."""
    t = 0.45 + 0.05 * np.arange(1, 17)
    y = [34.78, 28.61, 23.65, 19.63, 16.37, 13.72, 11.54, 9.744, 8.261, 7.03]
    y = np.array([*y, 6.005, 5.147, 4.427, 3.82, 3.307, 2.872])
    return x[0] * jnp.exp(10 * x[1] / (t + x[2]) - 13) - y


def double_exponential(x, data):
    y = x[2] * jnp.exp(-TIMES / x[0]) + x[3] * jnp.exp(-TIMES / x[1])
    return y - 6 * np.exp(-TIMES / 1.5) - 2 * np.exp(-TIMES / 7)


def enzyme(x, data):
    """Kowalik and Osborne: the minimum is 3.0750561e-4 / 2."""
    y = [0.1957, 0.1947, 0.1735, 0.16, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323]
    y = np.array([*y, 0.0235, 0.0246])
    u = np.array([4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625])
    return x[0] * (u**2 + x[1] * u) / (u**2 + x[2] * u + x[3]) - y


@pytest.mark.parametrize(
    ("fun", "start"),
    [
        (meyer, [8.85, 4.0, 2.5]),
        (double_exponential, [1.0, 4.0, 1.0, 1.0]),
        (enzyme, [0.25, 0.39, 0.415, 0.39]),
    ],
)
def test_classical_fits_reach_the_minimum_of_scipy(fun, start, x64):
    jacobian = jax.jit(jax.jacfwd(fun))
    theirs = optimize.least_squares(
        lambda x: np.asarray(fun(x, None)),
        start,
        jac=lambda x: np.asarray(jacobian(x, None)),
        method="lm",
        xtol=1e-14,
        ftol=1e-14,
        gtol=1e-14,
    )
    out = core.run(smooth.levenberg_marquardt(fun), np.array(start), None)
    assert out.converged, out
    np.testing.assert_allclose(out.value, theirs.cost, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(out.params, theirs.x, rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (smooth.huber_loss(0.3), "huber"),
        (smooth.soft_l1_loss(0.3), "soft_l1"),
        (smooth.cauchy_loss(0.3), "cauchy"),
        (smooth.arctan_loss(0.3), "arctan"),
    ],
)
def test_robust_fits_are_those_of_scipy(loss, name, x64):
    theirs = optimize.least_squares(
        lambda x: np.asarray(decay(x, CURVE)),
        START,
        loss=name,
        f_scale=0.3,
        xtol=1e-12,
        ftol=1e-14,
        gtol=1e-10,
    )
    solver = smooth.levenberg_marquardt(decay, loss=loss)
    out = core.run(solver, START, jnp.asarray(CURVE))
    assert out.converged, out
    np.testing.assert_allclose(out.value, theirs.cost, rtol=1e-10)
    np.testing.assert_allclose(out.params, theirs.x, rtol=1e-4)
    slope = core.sup_norm(solver.residual(out.params, jnp.asarray(CURVE)))
    assert slope < 1e-6  # certified by the gradient of the robust objective


def test_box_is_never_left_and_its_minimum_is_that_of_scipy(x64):
    seen = []

    def watched(x, curve):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), x)
        return decay(x, curve)

    lower, upper = np.array([0.9, 0.0, 0.1]), np.array([5.0, 1.5, 0.9])
    theirs = optimize.least_squares(
        lambda x: np.asarray(decay(x, CURVE)),
        [1.0, 1.0, 0.5],
        bounds=(lower, upper),
        xtol=1e-14,
        ftol=1e-14,
        gtol=1e-12,
    )
    solver = smooth.levenberg_marquardt(watched, bounds=(lower, upper))
    out = core.run(solver, np.array([9.0, -9.0, 9.0]), jnp.asarray(CURVE))
    jax.effects_barrier()
    assert out.converged, out
    np.testing.assert_allclose(out.params, theirs.x, atol=1e-6)
    assert seen and all(np.all((lower <= x) & (x <= upper)) for x in seen)


def test_valley_that_leaves_the_box_is_followed_inside(x64):
    solver = smooth.levenberg_marquardt(rosenbrock, bounds=(None, 0.5))
    out = core.run(solver, np.array([-1.2, 1.0]), 10.0, max_steps=40)
    assert out.converged, out  # 648 updates if what meets its bound were not held
    np.testing.assert_allclose(out.params, [0.5, 0.25], atol=1e-7)


def test_bounds_that_cross_at_run_time_are_infeasible():
    bounds = lambda data: (data, -data)
    solver = smooth.levenberg_marquardt(rosenbrock, bounds=bounds)
    out = jax.vmap(lambda d: core.run(solver, jnp.zeros(2), d))(jnp.array([1.0, -2.0]))
    assert out.status[0] == Status.PRIMAL_INFEASIBLE
    assert out.converged[1]


@pytest.mark.parametrize("scaled", [False, True])
def test_units_of_params_matter_only_if_not_scaled(scaled, x64):
    def stretched(x, unit):
        return rosenbrock(x * jnp.stack([unit, jnp.ones_like(unit)]), 10.0)

    solver = smooth.levenberg_marquardt(stretched, scaled=scaled)

    def path(unit):
        start = jnp.stack([-1.2 / unit, jnp.ones_like(unit)])
        out = core.run(solver, start, unit, max_steps=8)
        return out.params[0] * unit

    first, other = jax.vmap(path)(jnp.array([1.0, 1e4]))
    assert scaled == bool(jnp.isclose(first, other, rtol=1e-6))


def test_underdetermined_and_singular_systems_are_solved():
    plane = lambda x, data: x @ jnp.arange(1.0, 5.0) - data
    out = core.run(smooth.levenberg_marquardt(plane), jnp.zeros(4), 3.0)
    assert out.converged and out.value < 1e-9
    double = lambda x, data: jnp.stack([x[0] ** 2, x[0] * x[1], x[1] ** 2])
    out = core.run(smooth.levenberg_marquardt(double), jnp.array([1.0, 2.0]), None)
    assert out.converged and jnp.sqrt(2 * out.value) < 1e-3
    unused = lambda x, data: jnp.stack([x[0] - data, x[0] + data])
    out = core.run(smooth.levenberg_marquardt(unused), jnp.array([1.0, 2.0]), 1.0)
    assert out.converged and out.params[1] == 2.0


def test_minimum_where_a_column_vanishes_is_convergence(x64):
    lifted = lambda x, data: x**2 + data
    solver = smooth.levenberg_marquardt(lifted)
    for level in (1.0, 0.01):
        out = core.run(solver, jnp.array([1.5]), level)
        assert out.converged and abs(out.params[0]) < 1e-5, out


def test_large_residuals_end_by_their_scaled_gradient(x64):
    """The gradient itself stays at 1e-7: rounding of columns of length 1e4."""
    far = lambda x, data: 1e4 * decay(x, data)
    solver = smooth.levenberg_marquardt(far)
    out = core.run(solver, START, jnp.asarray(CURVE))
    assert out.converged, out


def test_residual_that_is_not_a_number_is_stepped_back_from_alone():
    log = lambda x, data: jnp.log(x) - data
    solver = smooth.levenberg_marquardt(log, damping=1e-6)
    starts = jnp.array([[20.0], [-1.0], [0.01]])
    out = jax.vmap(lambda x: core.run(solver, x, 1.0))(starts)
    assert list(out.status) == [Status.CONVERGED, Status.DIVERGED, Status.CONVERGED]
    np.testing.assert_allclose(out.params[::2, 0], np.e, rtol=1e-3)
    assert out.params[1] == -1.0


def test_wide_systems_are_swept_in_reverse_and_give_the_same_iterates(x64):
    wide = lambda x, data: jnp.stack([x @ x - data, jnp.sum(jnp.sin(x))])
    tall = lambda x, data: jnp.concatenate([wide(x, data), jnp.zeros(40, x.dtype)])
    start = jnp.linspace(-0.2, 1.0, 40)
    ends = [
        core.run(smooth.levenberg_marquardt(fun), start, 3.0) for fun in (wide, tall)
    ]
    assert ends[0].converged and ends[0].count == ends[1].count
    np.testing.assert_allclose(ends[0].params, ends[1].params, rtol=1e-9)


@pytest.mark.parametrize(
    ("fun", "match"),
    [
        (lambda x, data: jnp.zeros(0), "no residuals"),
        (lambda x, data: x.astype(jnp.complex64), "complex"),
        (lambda x, data: (x > 0).astype(jnp.int32), "float"),
    ],
)
def test_residuals_that_are_no_real_numbers_are_refused(fun, match):
    with pytest.raises(ValueError, match=match):
        core.run(smooth.levenberg_marquardt(fun), jnp.ones(2), None)


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="bounds"):
        smooth.levenberg_marquardt(decay, bounds=(0.0, 1.0), geodesic=True)
    with pytest.raises(ValueError, match="damping"):
        smooth.levenberg_marquardt(decay, damping=0.0)
    summed = smooth.levenberg_marquardt(decay, loss=jnp.sum)
    with pytest.raises(ValueError, match="entry by entry"):
        core.run(summed, jnp.ones(3), jnp.asarray(CURVE, jnp.float32))


def test_hypergradient_takes_the_full_hessian(x64):
    """Far residuals: the Gauss-Newton matrix alone would be 30 % off."""
    bent = lambda x, a: jnp.stack([x[0] - a, x[0] ** 2 + 1.0])
    solver = smooth.levenberg_marquardt(bent)
    solve = lambda a: core.run(solver, jnp.array([0.3]), a, tol=1e-12).params[0]
    slope = jax.grad(solve)(0.5)
    x = solve(0.5)  # x - a + 2 x (x^2 + 1) = 0
    np.testing.assert_allclose(slope, 1 / (3 + 6 * x**2), rtol=1e-9)
