"""Derivatives of potentials, plans and costs: against differences and unrolling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import core, transport

RNG = np.random.default_rng(0)
COST = RNG.uniform(size=(5, 6))
A, B = (w / w.sum() for w in (RNG.uniform(0.5, 1, 5), RNG.uniform(0.5, 1, 6)))
PROBE = RNG.normal(size=5)


def theta(zero=False):
    a = np.where(np.arange(5) == 2, 0, A) if zero else A
    return tuple(map(jnp.asarray, (COST, a / a.sum(), B, 0.3)))


def toward(zero=False):
    """A direction that keeps the masses equal, and weights that are zero at zero."""
    centre = lambda v: v - v.mean()
    da = RNG.normal(size=5) * (np.arange(5) != 2 if zero else 1)
    da = da - da.sum() * (np.arange(5) == 0)
    parts = RNG.normal(size=COST.shape), da, centre(RNG.normal(size=6)), 0.5
    return tuple(map(jnp.asarray, parts))


def measured(theta, solver, taus):
    """A number that depends on the potential, the plan and the cost."""
    cost, a, b, epsilon = theta
    problem = transport.TransportProblem(
        cost, a, b, epsilon=epsilon, tau_a=taus[0], tau_b=taus[1]
    )
    out = jaxsolve.run(solver, jnp.zeros(5), problem, tol=1e-13, max_steps=2000)
    plan = jnp.sum(jnp.sin(20 * problem.plan(out.params)))
    return jnp.sum(PROBE * out.params) + plan + problem.cost(out.params)


def assert_like_differences(fun, at, along, rtol):
    step = 1e-5
    move = lambda t: jax.tree.map(lambda x, d: x + t * d, at, along)
    expected = (fun(move(step)) - fun(move(-step))) / (2 * step)
    value, pushed = jax.jvp(fun, (at,), (along,))
    pulled = jax.grad(fun)(at)
    terms = jnp.concatenate(
        [jnp.ravel(g * d) for g, d in zip(pulled, along, strict=True)]
    )
    pulled, scale = jnp.sum(terms), jnp.sum(jnp.abs(terms))  # these may cancel
    np.testing.assert_allclose(pushed, expected, rtol=rtol, atol=rtol * scale)
    np.testing.assert_allclose(pulled, pushed, rtol=1e-8)


SOLVERS = {
    "sinkhorn": transport.sinkhorn(),
    "newton": transport.newton_transport(),
    "sparse": transport.sinkhorn_newton_sparse(),
}
CASES = [(name, (1.0, 1.0)) for name in SOLVERS]
CASES += [("newton", taus) for taus in ((0.9, 0.8), (1.0, 0.8), (0.8, 1.0))]


@pytest.mark.parametrize(("name", "taus"), CASES)
def test_all_derivatives_are_those_of_differences(name, taus, x64):
    fun = jax.jit(lambda theta: measured(theta, SOLVERS[name], taus))
    assert_like_differences(fun, theta(), toward(), 1e-6)


@pytest.mark.parametrize("name", ["sinkhorn", "newton"])
def test_rows_without_weight_have_the_derivatives_of_what_they_would_pay(name, x64):
    fun = jax.jit(lambda theta: measured(theta, SOLVERS[name], (1.0, 1.0)))
    assert_like_differences(fun, theta(zero=True), toward(zero=True), 1e-6)


def test_derivatives_are_those_of_many_unrolled_sweeps(x64):
    def potential(cost, rule):
        problem = transport.TransportProblem(cost, A, B, epsilon=0.3)
        solver = transport.sinkhorn(kernel=False)
        out = jaxsolve.run(
            solver, jnp.zeros(5), problem, tol=1e-14, max_steps=200, derivative=rule
        )
        return jnp.sum(PROBE * out.params)

    implicit = jax.grad(potential)(jnp.asarray(COST), None)
    unrolled = jax.grad(potential)(jnp.asarray(COST), core.unrolled())
    np.testing.assert_allclose(implicit, unrolled, atol=1e-11)


def test_the_value_has_the_plan_for_its_derivative_without_a_solve(x64):
    solve = lambda cost: transport.solve(cost, A, B, epsilon=0.2, tol=1e-12)
    gradient = jax.grad(lambda cost: solve(cost).dual_value)(jnp.asarray(COST))
    np.testing.assert_allclose(gradient, solve(jnp.asarray(COST)).plan(), atol=1e-10)


def test_second_derivatives_of_the_value_are_first_ones_of_the_plan(x64):
    along = jnp.asarray(RNG.normal(size=COST.shape))

    def value(t):
        cost = jnp.asarray(COST) + t * along
        problem = transport.TransportProblem(cost, A, B, epsilon=0.2)
        out = jaxsolve.run(transport.sinkhorn(), jnp.zeros(5), problem, tol=1e-13)
        return problem.dual_value(out.params)

    def slope(t):
        cost = jnp.asarray(COST) + t * along
        plan = transport.solve(cost, A, B, epsilon=0.2, tol=1e-13).plan()
        return jnp.sum(plan * along)

    step = 1e-4
    expected = (slope(step) - slope(-step)) / (2 * step)
    np.testing.assert_allclose(jax.hessian(value)(0.0), expected, rtol=1e-6)


def test_points_of_an_online_cloud_are_differentiated_through_blocks(x64):
    x, y = RNG.normal(size=(5, 2)), jnp.asarray(RNG.normal(size=(6, 2)))

    def total(x, block):
        cloud = transport.PointCloud(x, y, block=block)
        out = transport.solve(cloud, A, B, epsilon=0.4, tol=1e-12)
        return jnp.sum(PROBE * out.f) + jnp.sum(jnp.sin(out.push(y)))

    stored, online = (jax.grad(total)(jnp.asarray(x), block) for block in (None, 2))
    np.testing.assert_allclose(online, stored, atol=1e-9)


def test_large_problems_are_differentiated_without_a_matrix_of_the_rows(x64):
    """Above the limit conjugate gradients solve: the same number as below."""
    from jaxsolve.transport import _derivative

    cost = RNG.uniform(size=(_derivative.DENSE_LIMIT + 1, 3))
    probe = jnp.asarray(RNG.normal(size=cost.shape[0]))

    def total(cost):
        return jnp.sum(probe * transport.solve(cost, epsilon=0.3, tol=1e-13).f)

    along, step = jnp.asarray(RNG.normal(size=cost.shape)), 1e-5
    _, pushed = jax.jvp(total, (jnp.asarray(cost),), (along,))
    expected = (total(cost + step * along) - total(cost - step * along)) / (2 * step)
    np.testing.assert_allclose(pushed, expected, rtol=1e-6)


def test_a_run_that_has_not_converged_refuses():
    def total(cost):
        out = transport.solve(cost, epsilon=0.01, max_steps=3)
        return jnp.sum(out.f * jnp.arange(5.0)), out.dual_value

    for k in range(2):
        gradient = jax.grad(lambda cost, k=k: total(cost)[k])(jnp.asarray(COST))
        assert not bool(jnp.any(jnp.isfinite(gradient)))


def test_second_derivatives_of_the_value_are_those_of_differences(x64):
    rng = np.random.default_rng(2)
    x, y = (jnp.asarray(rng.uniform(size=(k, 2))) for k in (4, 5))

    def value(t, which):
        move = lambda z, k: z + (t if which == k else 0) * jnp.cos(3 * z)
        cloud = transport.PointCloud(move(x, 0), move(y, 1))
        epsilon = 0.1 * (1 + t) if which == 2 else 0.1
        return transport.solve(cloud, epsilon=epsilon, tol=1e-12).dual_value

    for which in range(3):
        slope = jax.jit(jax.grad(value), static_argnums=1)
        expected = (slope(1e-4, which) - slope(-1e-4, which)) / 2e-4
        found = jax.jit(jax.hessian(value), static_argnums=1)(0.0, which)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
