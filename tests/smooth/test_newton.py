"""Newton in a trust region: a plain transcription, its rate, saddles, and its cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxsolve import core, smooth
from tests.smooth.test_newton_cg import rosenbrock, wavy


def exact(g, h, radius):
    """The exact step by a root finder on the multiplier, and the model's reduction."""
    step = lambda mu: -np.linalg.solve(h + mu * np.eye(g.size), g)
    excess = lambda mu: np.linalg.norm(step(mu)) - radius
    least = np.linalg.eigvalsh(h)[0]
    mu = 0.0
    if least <= 0 or excess(0.0) > 0:
        low, high = max(0.0, -least) + 1e-12, 1e6
        mu = scipy.optimize.brentq(excess, low, high, xtol=1e-14)
    p = step(mu)
    return p, -(g @ p + p @ h @ p / 2)


def plain_newton(fun, grad, hessian, x, steps):
    """Points tried, each with whether it was accepted."""
    radius, rows = 1.0, []
    f, g, h = fun(x), grad(x), hessian(x)
    while len(rows) < steps:
        p, predicted = exact(g, h, radius)
        ratio, length = (f - fun(x + p)) / predicted, np.linalg.norm(p)
        if ratio < 0.25:
            radius = 0.25 * min(length, radius)
        elif ratio >= 0.75 and length >= 0.9 * radius:
            radius = 2 * radius
        rows.append(np.append(x + p, ratio > 1e-4))
        if ratio > 1e-4:
            x = x + p
            f, g, h = fun(x), grad(x), hessian(x)
    return np.stack(rows)


@pytest.mark.parametrize(
    ("fun", "data", "start", "steps"),
    [
        (rosenbrock, 100.0, [-1.2, 1.0, 0.5, 2.0], 12),
        (wavy, 0.1, [1.43, -4.83, -0.02, 2.63], 5),
    ],
)
def test_trials_are_those_of_a_plain_transcription(fun, data, start, steps, x64):
    calls = [jax.jit(f(fun)) for f in (lambda f: f, jax.grad, jax.hessian)]
    plain = [lambda x, c=c: np.asarray(c(x, data)) for c in calls]
    expected = plain_newton(*plain, np.array(start), steps)
    solver, params = smooth.newton(fun), jnp.array(start)
    state, tried = solver.init(params, data), []
    for _ in range(steps + 1):
        trial = state.point + state.step
        params, state = solver.update(params, state, data)
        tried.append(np.append(trial, bool(state.region.accepted)))
    np.testing.assert_allclose(np.stack(tried[1:]), expected, rtol=1e-6, atol=1e-8)
    assert fun is wavy or np.sum(expected[:, -1]) < steps  # some were rejected


def test_convergence_is_quadratic(x64):
    record = lambda params, state: state.error
    start = jnp.array([-1.2, 1.0])
    out = core.run(smooth.newton(rosenbrock), start, 100.0, tol=1e-10, record=record)
    assert bool(out.converged) and out.state.count <= 30
    errors = np.unique(np.asarray(out.history)[: out.state.count])  # from the least
    assert errors[0] < errors[1] ** 1.8 and errors[1] < 1e-4
    np.testing.assert_allclose(out.params, 1.0, rtol=1e-9)


def test_saddle_without_a_slope_along_its_descent_is_left():
    """The hard case: the gradient has nothing to say of y."""
    fun = lambda z, a: z[0] ** 2 / 2 - a * z[1] ** 2 / 2 + z[1] ** 4 / 4
    start = jnp.array([1.0, 0.0])
    out = core.run(smooth.newton(fun), start, 1.0)
    assert bool(out.converged)
    np.testing.assert_allclose(jnp.abs(out.params), [0.0, 1.0], atol=1e-3)
    stuck = core.run(smooth.newton_cg(fun), start, 1.0)  # it never looks that way
    assert bool(stuck.converged) and stuck.params[1] == 0


def decompositions(jaxpr, inside=False):
    """Whether each eigendecomposition in a program stands in a branch."""
    found = []
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "eigh":
            found.append(inside)
        branch = inside or eqn.primitive.name == "cond"
        for sub in jax.tree.leaves(list(eqn.params.values())):
            sub = getattr(sub, "jaxpr", sub)
            found += decompositions(sub, branch) if hasattr(sub, "eqns") else []
    return found


@pytest.mark.parametrize("factory", [smooth.newton, smooth.regularized_newton])
@pytest.mark.parametrize("wrap", [lambda update: update, jax.vmap])
def test_hessian_is_made_in_a_branch_that_rejected_trials_do_not_take(factory, wrap):
    solver, x = factory(rosenbrock), jnp.zeros((2, 3))
    states = jax.vmap(solver.init)(x, x[:, 0])
    args = (x, states, x[:, 0])
    if wrap is not jax.vmap:
        args = jax.tree.map(lambda leaf: leaf[0], args)
    assert decompositions(jax.make_jaxpr(wrap(solver.update))(*args).jaxpr) == [True]


def test_rejected_trial_keeps_the_hessian_of_the_iterate():
    solver, params = smooth.newton(rosenbrock), jnp.array([-1.2, 1.0])
    state, rejected = solver.init(params, 100.0), 0
    for _ in range(12):
        before = state
        params, state = solver.update(params, state, 100.0)
        values, vectors = state.spectrum
        hessian = vectors @ jnp.diag(values) @ vectors.T
        expected = jax.hessian(rosenbrock)(params, 100.0)
        np.testing.assert_allclose(hessian, expected, rtol=1e-3, atol=0.1)
        if not state.region.accepted:
            rejected += 1
            np.testing.assert_array_equal(state.point, before.point)
    assert rejected > 0


def test_lane_that_rejects_is_not_changed_by_one_that_accepts(x64):
    starts = jnp.array([[-1.2, 1.0], [0.9, 0.8], [5.0, -3.0]])
    solver = smooth.newton(rosenbrock)
    solve = lambda x: core.run(solver, x, 100.0, max_steps=9, tol=0.0)
    lanes = jax.vmap(solve)(starts)
    for i, start in enumerate(starts):
        single = solve(start)
        np.testing.assert_allclose(lanes.params[i], single.params, rtol=1e-9)
        assert lanes.state.region.radius[i] == single.state.region.radius


def test_hessian_that_is_not_finite_leaves_params_finite():
    fun = lambda x, a: jnp.sum(jnp.abs(x - a) ** 1.5)
    for factory in (smooth.newton, smooth.newton_cg, smooth.regularized_newton):
        out = core.run(factory(fun), jnp.array([0.0, 2.0]), 0.0, max_steps=60)
        assert np.all(np.isfinite(out.params))
        assert out.state.value < 0.1  # from 2.8


@pytest.mark.parametrize("factory", [smooth.newton, smooth.regularized_newton])
def test_hessian_that_does_not_fit_is_refused_with_its_bytes(factory):
    solver = factory(rosenbrock)
    huge = jax.ShapeDtypeStruct((30_000,), np.float32)
    with pytest.raises(ValueError, match="3,600,000,000 bytes.*newton_cg"):
        jax.eval_shape(solver.init, huge)


def test_a_scaled_region_is_a_ball_in_the_units_of_the_start(x64):
    """The steps of a problem in other units are those of the unscaled one, rescaled."""
    units = np.array([1e-3, 1.0, 1e4])
    start = np.array([2.0, -1.0, 3.0])

    def fun(z, data):
        return jnp.sum((z - data) ** 4) + jnp.sum(z[1:] * z[:-1])

    plain = smooth.newton(lambda z, data: fun(z * np.abs(start), data))
    stretched = smooth.newton(lambda x, data: fun(x / units, data), scaled=True)
    data = jnp.array([1.0, 0.5, -2.0])
    z, x = jnp.asarray(np.sign(start)), jnp.asarray(start * units)
    first, second = plain.init(z, data), stretched.init(x, data)
    for _ in range(8):
        z, first = plain.update(z, first, data)
        x, second = stretched.update(x, second, data)
        np.testing.assert_allclose(x / units, z * np.abs(start), rtol=1e-9)
    assert not np.allclose(z, np.sign(start))


@pytest.mark.parametrize("factory", [smooth.newton, smooth.newton_cg])
def test_region_that_still_doubles_is_no_stall(factory):
    fun = lambda x, data: jnp.sum((x - 1e15) ** 2)
    out = core.run(factory(fun), jnp.zeros(3))
    assert bool(out.converged) and out.state.count < 60


@pytest.mark.parametrize("factory", [smooth.newton, smooth.regularized_newton])
def test_nothing_to_solve_for_is_solved(factory):
    out = core.run(factory(lambda x, data: jnp.sum(x**2)), jnp.zeros(0))
    assert bool(out.converged) and out.params.shape == (0,)
