"""Picard's iteration: its iterates, its rate, derivatives, honest ends."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsolve
from jaxsolve import core, fixed_point
from jaxsolve.core import Status

MATRIX = np.array([[0.3, -0.4, 0.1], [0.2, 0.1, 0.3], [-0.1, 0.5, 0.2]])
SHIFT = np.array([1.0, -2.0, 0.5])


def affine(x, data):
    matrix, shift = data
    return matrix @ x + shift


def bent(x, theta):
    return jnp.tanh(jnp.asarray(MATRIX) @ x * theta[0] + theta[1])


def data64():
    return jnp.asarray(MATRIX), jnp.asarray(SHIFT)


@pytest.mark.parametrize("damping", [1.0, 0.6])
def test_iterates_are_those_of_the_formula(x64, damping):
    solver = fixed_point.picard(affine, damping)
    x, params = np.ones(3), jnp.ones(3)
    state = solver.init(params, data64())
    for _ in range(5):
        image = MATRIX @ x + SHIFT
        params, state = solver.update(params, state, data64())
        np.testing.assert_allclose(state.error, np.max(np.abs(image - x)), rtol=1e-12)
        x = (1 - damping) * x + damping * image
        np.testing.assert_allclose(params, x, rtol=1e-12)


def test_a_schedule_gives_the_damping():
    solver = fixed_point.picard(lambda x, _: 0 * x, lambda count: 1 / (count + 2))
    params, state = jnp.ones(()), solver.init(jnp.ones(()))
    for expected in (1 / 2, 1 / 3, 1 / 4):
        params, state = solver.update(params, state, None)
        np.testing.assert_allclose(params, expected, rtol=1e-6)


def test_errors_fall_at_the_rate_of_the_contraction(x64):
    solver = fixed_point.picard(affine)
    factor = np.linalg.norm(MATRIX, np.inf)
    out = core.run(
        solver, jnp.zeros(3), data64(), record=lambda x, s: s.error, tol=1e-10
    )
    errors = np.asarray(out.history)[: int(out.state.count)]
    assert factor < 1 and np.all(errors[1:] <= factor * errors[:-1] + 1e-15)
    expected = np.linalg.solve(np.eye(3) - MATRIX, SHIFT)
    np.testing.assert_allclose(out.params, expected, atol=1e-9)


def test_damping_makes_a_rotation_converge():
    rotate = lambda x, _: jnp.stack([-x[1], x[0]])
    run = lambda damping: core.run(
        fixed_point.picard(rotate, damping), jnp.ones(2), max_steps=200
    )
    assert run(1.0).status == Status.MAX_STEPS
    assert run(0.5).converged


def test_derivatives_agree_with_central_differences(x64):
    solver = fixed_point.picard(bent)
    solve = lambda theta: core.run(solver, jnp.zeros(3), theta, tol=1e-13).params
    value = lambda theta: jnp.sum(solve(theta) ** 3)
    theta, v, h = jnp.array([0.7, 0.4]), jnp.array([0.6, -0.8]), 1e-4

    @jax.jit
    def everything(theta):
        x, move = jax.jvp(solve, (theta,), (v,))
        grad, curve = jax.jvp(jax.grad(value), (theta,), (v,))
        return x, grad, move, curve

    _, grad, move, curve = everything(theta)
    (x1, g1, _, _), (x0, g0, _, _) = map(everything, (theta + h * v, theta - h * v))
    slope = (jnp.sum(x1**3) - jnp.sum(x0**3)) / (2 * h)
    np.testing.assert_allclose(grad @ v, slope, rtol=1e-6)
    np.testing.assert_allclose(move, (x1 - x0) / (2 * h), rtol=1e-6)
    np.testing.assert_allclose(curve, (g1 - g0) / (2 * h), rtol=1e-5)


def test_one_step_differentiates_the_last_update_alone(x64):
    solver = fixed_point.picard(affine)
    solve = lambda shift: (
        core.run(
            solver,
            jnp.zeros(3),
            (jnp.asarray(MATRIX), shift),
            derivative=core.one_step(),
        ).params
    )
    np.testing.assert_allclose(jax.jacobian(solve)(jnp.asarray(SHIFT)), np.eye(3))


def test_nan_data_return_the_start_as_diverged():
    solver = fixed_point.picard(lambda x, a: a * x)
    out = core.run(solver, jnp.ones(2), jnp.nan)
    assert out.status == Status.DIVERGED and out.state.error == jnp.inf
    np.testing.assert_array_equal(out.params, np.ones(2))


def test_an_expansive_map_ends_at_its_last_finite_iterate():
    out = core.run(fixed_point.picard(lambda x, _: x**2 + 2), jnp.ones(2))
    assert out.status == Status.DIVERGED
    assert core.all_finite(out.params) and out.params[0] > 1e9


def test_a_map_without_fixed_point_does_not_converge():
    out = core.run(fixed_point.picard(lambda x, _: x + 1), jnp.ones(2), max_steps=50)
    assert out.status == Status.MAX_STEPS and out.state.error == 1


def test_a_floor_above_the_tolerance_is_a_stall():
    ulp = 2.0**-7
    flip = lambda x, _: jnp.where(x == 1e5, x + ulp, 1e5)
    out = core.run(fixed_point.picard(flip), jnp.full(2, 2e4))
    assert out.status == Status.STALLED


def test_trees_and_low_precision_are_kept():
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones((), jnp.float32)}
    fun = lambda tree, _: jax.tree.map(jnp.cos, tree)
    out = core.run(fixed_point.picard(fun, 0.5), params, tol=1e-2)
    assert out.converged
    assert (
        out.params["a"].dtype == jnp.bfloat16 and out.state.point.dtype == jnp.float32
    )
    np.testing.assert_allclose(
        np.asarray(out.params["a"], np.float32), 0.739, atol=0.01
    )


def test_a_link_of_a_chain_starts_from_what_others_made_of_params():
    solver = fixed_point.picard(lambda x, a: jnp.cos(a * x))
    transform = optax.chain(core.to_optax(solver, 1.0), optax.scale(0.5))
    x = jnp.ones(())
    state = transform.init(x)
    for _ in range(30):
        change, state = transform.update(x, state, x)
        x = optax.apply_updates(x, change)
    np.testing.assert_allclose(x, 0.739085, atol=1e-5)
    damped = core.run(
        fixed_point.picard(lambda x, a: jnp.cos(a * x), 0.5),
        1.0,
        1.0,
        max_steps=30,
        tol=0.0,
    )
    np.testing.assert_allclose(x, damped.params, atol=1e-6)


def test_the_map_is_traced_twice_at_most():
    traces = []

    def fun(x, a):
        traces.append(1)
        return jnp.cos(a * x)

    solver = fixed_point.picard(fun)
    solve = lambda a: core.run(solver, 1.0, a).params
    jax.grad(solve)(1.0)
    solve(0.9)
    assert len(traces) <= 2


@pytest.mark.parametrize("make", [fixed_point.picard, fixed_point.anderson])
def test_static_mistakes_are_value_errors(make):
    with pytest.raises(ValueError, match="damping must be one real number"):
        make(affine, damping=0.0)
    with pytest.raises(ValueError, match="tree like params"):
        core.run(make(lambda x, _: (x, x)), jnp.ones(2))
    with pytest.raises(ValueError, match="tree like params"):
        core.run(make(lambda x, _: jnp.sum(x)), jnp.ones(2))
    with pytest.raises(ValueError, match="real floats"):
        core.run(make(lambda x, _: jnp.zeros(2, jnp.int32)), jnp.ones(2))
    with pytest.raises(ValueError, match="float"):
        core.run(make(lambda x, _: x), jnp.ones(2, jnp.int32))


def test_steps_in_the_open_are_those_of_a_run():
    solver = fixed_point.picard(lambda x, a: jnp.cos(a * x))
    *_, (x, state) = jaxsolve.iterate(solver, 1.0, 1.0)
    out = core.run(solver, 1.0, 1.0)
    assert x == out.params and state.count == out.state.count
    assert fixed_point.picard(bent) is fixed_point.picard(bent)
