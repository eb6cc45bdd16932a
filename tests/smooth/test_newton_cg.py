"""Newton-CG: a plain transcription, known answers, saddles, and hard objectives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxsolve import core, linesearch, smooth
from jaxsolve.core import Status


def rosenbrock(x, scale):
    return jnp.sum(scale * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def wavy(x, data):
    """Not convex: negative curvature on the way."""
    return jnp.sum(jnp.cos(2 * x) + data * x**2) + jnp.sum(x) ** 2 / 20


def quadratic(x, data):
    matrix, center = data
    return (x - center) @ (matrix @ (x - center)) / 2


def edge(p, d, radius):
    """How far along d from p the ball reaches."""
    dd, pd = d @ d, p @ d
    return (-pd + np.sqrt(pd**2 + dd * (radius**2 - p @ p))) / dd


def steihaug(g, hessian, radius):
    """Steihaug's algorithm: the step, the reduction of the model, the products."""
    p, r, d = np.zeros_like(g), g.copy(), -g
    size = np.linalg.norm(g)
    bound = size * max(min(0.5, np.sqrt(size)), 10 * np.finfo(g.dtype).eps)
    products = 0
    while products < 2 * g.size:
        products += 1
        bent = hessian @ d
        curvature = d @ bent
        alpha = (r @ r) / curvature
        if curvature <= 0 or np.linalg.norm(p + alpha * d) >= radius:
            p = p + edge(p, d, radius) * d
            break
        p, new_r = p + alpha * d, r + alpha * bent
        r, d = new_r, -new_r + (new_r @ new_r) / (r @ r) * d
        if np.linalg.norm(r) <= bound:
            break
    return p, -(g @ p + p @ hessian @ p / 2), products


def plain_newton_cg(fun, grad, hessian, x, steps):
    """Points tried, each with its prediction and whether it was accepted; and updates.

    An update a trial and an inner step, but the first of these is taken at the trial.
    """
    radius, rows, updates, accepted = 1.0, [], 1, True
    while len(rows) < steps:
        if accepted:
            f, g, h = fun(x), grad(x), hessian(x)
            p, predicted, products = steihaug(g, h, radius)
            updates += products - 1
        else:
            p = min(1, radius / np.linalg.norm(p)) * p
            predicted = -(g @ p + p @ h @ p / 2)
        ratio = (f - fun(x + p)) / predicted
        length = np.linalg.norm(p)
        if ratio < 0.25:
            radius = 0.25 * min(length, radius)
        elif ratio >= 0.75 and length >= 0.9 * radius:
            radius = 2 * radius
        updates, accepted = updates + 1, ratio > 1e-4
        rows.append([*(x + p), predicted, accepted])
        x = x + p if accepted else x
    return np.stack(rows), updates


@functools.cache
def solver_of(fun):
    return smooth.newton_cg(fun)


@pytest.mark.parametrize(
    ("fun", "data", "start", "steps"),
    [
        (rosenbrock, 100.0, [-1.2, 1.0, 0.5, 2.0], 12),
        (wavy, 0.1, [1.43, -4.83, -0.02, 2.63], 8),
    ],
)
def test_trials_are_those_of_a_plain_transcription(fun, data, start, steps, x64):
    calls = [jax.jit(f(fun)) for f in (lambda f: f, jax.grad, jax.hessian)]
    plain = [lambda x, c=c: np.asarray(c(x, data)) for c in calls]
    expected, updates = plain_newton_cg(*plain, np.array(start), steps)
    solver = solver_of(fun)
    params = jnp.array(start)
    state, tried = solver.init(params, data), []
    while len(tried) <= steps:
        inner, trial = state.inner, state.point + state.inner.step
        params, state = solver.update(params, state, data)
        if inner.done:
            tried.append([*trial, inner.predicted, state.region.accepted])
    np.testing.assert_allclose(tried[1:], expected, rtol=1e-6, atol=1e-8)
    assert fun is wavy or np.sum(expected[:, -1]) < steps  # some were rejected
    assert state.count == updates


def test_quadratic_takes_one_update_a_conjugate_direction(x64):
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    spectrum = np.repeat([1.0, 10.0, 50.0], 4)  # three different eigenvalues
    data = (jnp.asarray(q @ np.diag(spectrum) @ q.T), jnp.asarray(rng.normal(size=12)))
    solver = smooth.newton_cg(quadratic, radius=np.inf)
    out = core.run(solver, jnp.zeros(12), data, tol=1e-9)
    assert bool(out.converged)
    np.testing.assert_allclose(out.params, data[1], atol=1e-9)
    assert out.state.count <= 10


def test_convergence_is_superlinear(x64):
    record = lambda params, state: (state.error, state.inner.products)
    start = jnp.array([-1.2, 1.0])
    out = core.run(solver_of(rosenbrock), start, 100.0, tol=1e-10, record=record)
    assert bool(out.converged)
    errors, products = (np.asarray(x)[: out.state.count] for x in out.history)
    errors = errors[products == 1]  # one an accepted step
    assert errors[-1] < errors[-2] ** 1.4 < 1e-8  # 3/2, by the forcing sequence


@pytest.mark.parametrize(("fun", "n"), [(rosenbrock, 6), (wavy, 5)])
def test_final_value_is_that_of_scipy_or_better(fun, n, x64):
    start, data = np.random.default_rng(1).normal(size=n), 1.5
    calls = [jax.jit(f(fun)) for f in (lambda f: f, jax.grad, jax.hessian)]
    plain = [lambda x, c=c: np.asarray(c(x, data)) for c in calls]
    reference = scipy.optimize.minimize(
        plain[0], start, jac=plain[1], hess=plain[2], method="trust-ncg"
    )
    out = core.run(solver_of(fun), start, data, tol=1e-7)
    assert bool(out.converged)
    assert out.state.value <= reference.fun + 1e-10


def test_no_matrix_is_made():
    solver, x = solver_of(rosenbrock), jax.ShapeDtypeStruct((1000,), np.float32)
    scale = jax.ShapeDtypeStruct((), np.float32)
    state = jax.eval_shape(solver.init, x, scale)
    assert "1000,1000" not in str(jax.make_jaxpr(solver.update)(x, state, scale))


def test_neighbour_of_a_maximum_is_left_along_negative_curvature():
    fun = lambda x, a: jnp.sum(a * x**4 / 4 - x**2 / 2)
    solver, start = smooth.newton_cg(fun, radius=4.0), jnp.array([0.01, -0.02])
    _, state = solver.update(start, solver.init(start, 1.0), 1.0)
    np.testing.assert_allclose(jnp.linalg.norm(state.inner.step), 4.0, rtol=1e-5)
    out = core.run(solver, start, 1.0)
    assert bool(out.converged)
    np.testing.assert_allclose(out.params, [1.0, -1.0], atol=1e-3)


def unbounded(x, d):
    return jnp.sum(x * d[0]) - jnp.sum((x * d[1]) ** 3) - jnp.sum((x * d[2]) ** 2)


FACTORIES = (smooth.newton_cg, smooth.newton, smooth.regularized_newton)


@pytest.mark.parametrize("factory", FACTORIES)
def test_unbounded_objective_ends_as_diverged_with_finite_params(factory):
    solve = lambda d: core.run(factory(unbounded), jnp.full(3, 0.1), d)
    out = jax.vmap(solve)(jnp.eye(3))
    assert list(out.status) == 3 * [Status.DIVERGED], out
    assert bool(jnp.all(jnp.isfinite(out.params)))
    assert np.all(out.state.count < 500)


def barrier(x, c):
    """Its minimum is inside the unit box, and there is nothing outside."""
    inside = jnp.all((x > 0) & (x < 1))
    safe = jnp.where(inside, x, 0.5)
    value = c @ safe - 0.1 * jnp.sum(jnp.log(safe) + jnp.log(1 - safe))
    return jnp.where(inside, value, jnp.nan)


@pytest.mark.parametrize("factory", FACTORIES)
def test_objective_that_is_nan_outside_a_region_steps_back(factory):
    c = jnp.array([1.0, -3.0])
    starts = jnp.array([[0.99, 0.01], [-1.0, 0.5]])  # close to a wall, and outside
    out = jax.vmap(lambda x: core.run(factory(barrier), x, c))(starts)
    assert list(out.status) == [Status.CONVERGED, Status.DIVERGED], out
    b = 1 + 0.2 / np.asarray(c)  # c = 0.1 (1/x - 1/(1-x)): a quadratic equation
    expected = (b - np.sign(c) * np.sqrt(b**2 - 4 * 0.1 / np.asarray(c))) / 2
    np.testing.assert_allclose(out.params[0], expected, atol=1e-3)
    np.testing.assert_array_equal(out.params[1], starts[1])
    assert not bool(jnp.isfinite(out.state.error[1]))


@pytest.mark.parametrize("factory", FACTORIES)
def test_single_precision_reaches_its_floor_on_a_large_constant(factory):
    shifted = lambda x, c: jnp.sum((x - c) ** 2 * jnp.array([1.0, 10.0, 100.0])) + 1e4
    center = jnp.array([1.0, -2.0, 0.5])
    out = core.run(factory(shifted), jnp.zeros(3), center)
    assert int(out.status) in (Status.CONVERGED, Status.STALLED)
    np.testing.assert_allclose(out.params, center, atol=1e-3)


@pytest.mark.parametrize("factory", FACTORIES)
def test_bfloat16_params_converge_to_the_rounded_solution(factory):
    fun = lambda x, c: jnp.sum((x["a"].astype(jnp.float32) - c) ** 2) + x["b"] ** 2
    center = jnp.array([0.1, 7.0])
    params = {"a": jnp.zeros(2, jnp.bfloat16), "b": jnp.ones(())}
    out = core.run(factory(fun), params, center)
    assert out.params["a"].dtype == jnp.bfloat16
    gap = out.params["a"].astype(jnp.float32) - center
    np.testing.assert_allclose(gap, 0, atol=0.02)
    np.testing.assert_allclose(out.params["b"], 0, atol=1e-3)


@pytest.mark.parametrize("factory", FACTORIES)
def test_params_that_another_link_changed_are_evaluated_and_gone_on_from(factory):
    solver = factory(lambda x, a: jnp.sum((x - a) ** 4 + (x - a) ** 2))
    params, data = jnp.zeros(2), jnp.array([1.0, -2.0])
    state = solver.init(params, data)
    for i in range(40):
        params, state = solver.update(params, state, data)
        if i == 2:
            params = params + 3.0
        if i == 3:
            np.testing.assert_allclose(params, state.point)
            assert jnp.all(params > 1.0)  # that is where it was
        if i == 4:
            params = params * jnp.nan
    np.testing.assert_allclose(params, data, atol=1e-3)


@pytest.mark.parametrize("radius", [0.0, -1.0, np.nan])
@pytest.mark.parametrize("factory", [smooth.newton_cg, smooth.newton])
def test_radius_that_is_not_positive_is_refused(factory, radius):
    with pytest.raises(ValueError, match="radius must be one real number"):
        factory(rosenbrock, radius=radius)


@pytest.mark.parametrize("factory", FACTORIES)
@pytest.mark.parametrize("value", [jnp.ones(2), None, (jnp.ones(()), 1)])
def test_objective_that_is_no_real_scalar_is_refused(factory, value):
    with pytest.raises(ValueError, match="real scalar"):
        core.run(factory(lambda x, data: value), jnp.zeros(2))


def test_region_may_be_given():
    region = linesearch.trust_region(grow=1.0)
    solver = smooth.newton_cg(wavy, region=region, radius=0.01)
    out = core.run(solver, jnp.ones(2), 0.1, max_steps=5)
    assert np.all(np.abs(out.params - 1) <= 0.05)
