"""Projected gradient: what it is made of, known answers, sets that depend on data."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from jaxsolve import composite, core, prox

RNG = np.random.default_rng(0)
A = RNG.normal(size=(30, 10))
B = RNG.normal(size=30)


def least_squares(x, data):
    return 0.5 * jnp.mean((A.astype(x.dtype) @ x - data) ** 2)


def test_non_negative_least_squares_agrees_with_scipy(x64):
    solver = composite.projected_gradient(least_squares, optax.tree.zeros_like)
    assert solver.residual is not None
    solver = composite.projected_gradient(
        least_squares, optax.projections.projection_non_negative
    )
    out = core.run(solver, jnp.zeros(10), jnp.asarray(B), tol=1e-10)
    assert bool(out.converged)
    np.testing.assert_allclose(out.params, scipy.optimize.nnls(A, B)[0], atol=1e-8)


@pytest.mark.parametrize("stepsize", [None, 0.3])
def test_its_iterates_are_those_of_proximal_gradient(x64, stepsize):
    ours = composite.projected_gradient(least_squares, prox.simplex(), stepsize)
    other = composite.proximal_gradient(least_squares, prox.simplex(), stepsize)
    options = dict(max_steps=12, tol=0.0)
    run = lambda solver: core.run(solver, jnp.ones(10), jnp.asarray(B), **options)
    left, right = run(ours), run(other)
    np.testing.assert_allclose(left.params, right.params, rtol=1e-12)
    assert left.state.count == right.state.count == 12
    np.testing.assert_allclose(jnp.sum(left.params), 1.0)


def test_a_radius_in_the_data_is_differentiated(x64):
    ball = prox.of_data(lambda data: prox.l2_ball(data["radius"]))
    fun = lambda x, data: jnp.sum((x - data["center"]) ** 2)
    solver = composite.projected_gradient(fun, ball, 0.4)

    def solve(radius):
        data = {"radius": radius, "center": jnp.array([3.0, 4.0])}
        return core.run(solver, jnp.zeros(2), data, tol=1e-12).params

    np.testing.assert_allclose(solve(2.0), [1.2, 1.6], atol=1e-10)
    np.testing.assert_allclose(jax.jacobian(solve)(2.0), [0.6, 0.8], atol=1e-8)


def test_a_multiclass_support_vector_machine_meets_its_conditions(x64):
    # Rows of the dual variables lie on simplices.
    labels = np.eye(3)[RNG.integers(0, 3, 12)]
    rows = A[:12, :4]

    def dual(beta, data):
        primal = data[0].T @ (data[1] - beta)
        return 0.5 * jnp.vdot(primal, primal) + jnp.vdot(beta, data[1] - 1)

    data = jnp.asarray(rows), jnp.asarray(labels)
    solver = composite.projected_gradient(dual, prox.simplex(axis=1))
    out = core.run(solver, jnp.full((12, 3), 1 / 3), data, tol=1e-9, max_steps=5000)
    assert bool(out.converged)
    slope = np.asarray(jax.grad(dual)(out.params, data))
    least = np.min(slope, axis=1, keepdims=True)
    assert np.max(np.abs((slope - least) * out.params)) < 1e-8


def test_static_mistakes_are_those_of_proximal_gradient():
    with pytest.raises(ValueError, match="stepsize must be"):
        composite.projected_gradient(least_squares, prox.simplex(), -1.0)
    with pytest.raises(ValueError, match="max_trials must be"):
        composite.projected_gradient(least_squares, prox.simplex(), max_trials=0)


def test_equal_arguments_give_one_solver():
    make = lambda: composite.projected_gradient(least_squares, prox.simplex())
    assert make() is make()


def test_empty_set_is_divergence():
    empty = lambda x: jnp.full_like(x, jnp.nan)  # as `prox.polyhedron` has of one
    fun = lambda x, data: 0.5 * jnp.sum((x - 3) ** 2)
    out = core.run(composite.projected_gradient(fun, empty), jnp.zeros(3))
    assert out.status == core.Status.DIVERGED and np.all(np.isfinite(out.params))
