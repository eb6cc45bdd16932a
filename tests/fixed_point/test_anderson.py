"""Anderson acceleration: least squares by NumPy, Krylov counts, safety, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import core, fixed_point
from jaxsolve.core import Status

RNG = np.random.default_rng(0)
N = 8
MATRIX = RNG.normal(size=(N, N))
MATRIX *= 0.9 / np.linalg.norm(MATRIX, 2)
SHIFT = RNG.normal(size=N)


def affine(x, data):
    matrix, shift = data
    return matrix @ x + shift


def bent(x, data):
    return jnp.tanh(affine(x, data))


def data64():
    return jnp.asarray(MATRIX), jnp.asarray(SHIFT)


def paper(fun, x, steps, memory, damping):
    """Walker and Ni (2011), Algorithm AA and (2.2), by NumPy's least squares."""
    points, residuals, gammas = [], [], []
    for _ in range(steps):
        points.append(x)
        residuals.append(fun(x) - x)
        f = residuals[-1]
        x = x + damping * f
        if len(points) > 1:
            s = np.diff(np.stack(points[-memory - 1 :], 1))
            y = np.diff(np.stack(residuals[-memory - 1 :], 1))
            gamma = np.linalg.lstsq(y, f)[0]
            x = x - (s + damping * y) @ gamma
            gammas.append(gamma)
    return np.stack(points)


@pytest.mark.parametrize("memory, damping", [(1, 1.0), (3, 1.0), (3, 0.5)])
def test_first_iterates_are_the_papers(x64, memory, damping):
    solver = fixed_point.anderson(bent, memory, damping=damping)
    expected = paper(
        lambda x: np.tanh(MATRIX @ x + SHIFT), np.zeros(N), 9, memory, damping
    )
    params = jnp.zeros(N)
    state = solver.init(params, data64())
    for x in expected:
        params, state = solver.update(params, state, data64())
        np.testing.assert_allclose(params, x, rtol=1e-6, atol=1e-9)


def test_error_and_params_belong_together(x64):
    solver = fixed_point.anderson(bent)
    out = core.run(solver, jnp.zeros(N), data64(), max_steps=4, tol=0.0)
    residual = bent(out.params, data64()) - out.params
    np.testing.assert_allclose(out.state.residual, residual, atol=1e-14)
    np.testing.assert_allclose(out.state.error, jnp.max(jnp.abs(residual)))


def test_an_affine_map_takes_as_many_steps_as_unknowns(x64):
    solver = fixed_point.anderson(affine, memory=N)
    out = core.run(solver, jnp.zeros(N), data64(), tol=1e-9)
    assert out.converged and out.state.count <= N + 3
    expected = np.linalg.solve(np.eye(N) - MATRIX, SHIFT)
    np.testing.assert_allclose(out.params, expected, atol=1e-8)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_ridge_is_free_of_units(x64, scale):
    # A problem in other units takes the same steps.
    solver = fixed_point.anderson(affine, memory=4)
    matrix, shift = data64()
    run = lambda scale: core.run(
        solver, jnp.zeros(N), (matrix, scale * shift), tol=0.0, max_steps=10
    )
    np.testing.assert_allclose(run(scale).params / scale, run(1.0).params, rtol=1e-5)


def test_it_solves_what_the_plain_iteration_cannot():
    out = core.run(fixed_point.anderson(lambda x, a: a - 3 * x, growth=1e3), 1.0, 8.0)
    assert out.converged
    np.testing.assert_allclose(out.params, 2.0, atol=1e-4)


def descent(x, data):
    """A gradient step of a logistic regression."""
    matrix, labels = data
    loss = lambda x: (
        jnp.mean(jnp.logaddexp(jnp.zeros((), x.dtype), -labels * (matrix @ x)))
        + 0.005 * jnp.sum(x**2)
    )
    return x - jax.grad(loss)(x)


@pytest.mark.parametrize("dtype, tol", [(np.float64, 1e-8), (np.float32, 1e-5)])
def test_a_logistic_regression_takes_a_fifth_of_the_plain_steps(x64, dtype, tol):
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(100, 10)).astype(dtype)
    labels = np.sign(matrix @ np.ones(10) + rng.normal(size=100)).astype(dtype)
    data, start = (jnp.asarray(matrix), jnp.asarray(labels)), jnp.zeros(10, dtype)
    plain, fast = (
        core.run(make(descent), start, data, tol=tol, max_steps=2000)
        for make in (fixed_point.picard, fixed_point.anderson)
    )
    assert plain.converged and fast.converged
    assert fast.state.count * 5 <= plain.state.count


def test_single_precision_reaches_its_floor():
    solver = fixed_point.anderson(affine)
    data = jnp.asarray(MATRIX, jnp.float32), jnp.asarray(SHIFT, jnp.float32)
    out = core.run(solver, jnp.zeros(N), data, tol=2e-6)
    assert out.converged
    expected = np.linalg.solve(np.eye(N) - MATRIX, SHIFT)
    np.testing.assert_allclose(out.params, expected, atol=5e-5)


# ------------------------------------------------------------------------------ safety


def kinked(x, _):
    """A contraction of factor 0.95 whose slope changes abruptly."""
    return jnp.where(x > 1, 0.95 * x, -0.95 * x + 1.9)


def test_a_residual_that_grows_empties_the_memory():
    trap = lambda x, _: jnp.where(jnp.abs(x) < 50, 0.5 * x + 1, 1e4 * x)
    solver = fixed_point.anderson(trap)
    # A false secant throws the trial into the trap: two points of another slope.
    params = jnp.asarray(49.0)
    state = solver.init(params)
    for _ in range(2):
        params, state = solver.update(params, state, None)
    assert state.mixing.count == 1
    state = state._replace(trial=jnp.asarray(60.0), plain=jnp.zeros((), bool))
    kept, state = solver.update(params, state, None)
    assert kept == params and state.mixing.count == 0 and state.plain
    assert state.trial == trap(params, None)
    out = core.run(solver, params, state=state)
    assert out.converged
    np.testing.assert_allclose(out.params, 2.0, atol=1e-3)


def test_a_trial_outside_the_domain_is_stepped_back_from():
    root = lambda x, _: jnp.sqrt(x - 1.5) + 1.5
    solver = fixed_point.anderson(root)
    params = jnp.asarray(10.0)
    state = solver.init(params)
    for _ in range(2):
        params, state = solver.update(params, state, None)
    outside = state._replace(trial=jnp.asarray(1.0), plain=jnp.zeros((), bool))
    kept, state = solver.update(params, outside, None)
    assert kept == params and state.status == Status.RUNNING
    assert core.run(solver, kept, state=state).converged


@pytest.mark.parametrize("memory", [1, 5])
def test_a_map_with_a_kink_is_solved(memory):
    out = core.run(fixed_point.anderson(kinked, memory), jnp.array([3.0, -4.0, 0.9]))
    assert out.converged
    np.testing.assert_allclose(kinked(out.params, None), out.params, atol=1e-3)


def test_nan_data_return_the_start_as_diverged():
    out = core.run(fixed_point.anderson(lambda x, a: a * x), jnp.ones(2), jnp.nan)
    assert out.status == Status.DIVERGED and out.state.error == jnp.inf
    np.testing.assert_array_equal(out.params, np.ones(2))


def test_a_map_without_fixed_point_does_not_converge():
    for fun in (lambda x, _: x + 1, lambda x, _: x**2 + 2):
        out = core.run(fixed_point.anderson(fun), jnp.ones(2), max_steps=200)
        assert out.status in (Status.MAX_STEPS, Status.DIVERGED)
        assert core.all_finite(out.params)


def test_a_fixed_point_at_the_start_is_seen():
    out = core.run(fixed_point.anderson(lambda x, _: x), jnp.ones(2))
    assert out.converged and out.state.count == 1


def test_without_a_ridge_equal_changes_do_no_harm():
    solver = fixed_point.anderson(lambda x, a: 0.5 * x + a, memory=3, ridge=0.0)
    out = core.run(solver, jnp.zeros(2), 1.0, tol=1e-6)
    assert out.converged
    np.testing.assert_allclose(out.params, 2.0, atol=1e-5)


# ---------------------------------------------------------------- form and derivatives


def test_derivatives_agree_with_central_differences(x64):
    solver = fixed_point.anderson(
        lambda x, theta: jnp.tanh(jnp.asarray(MATRIX) @ x * theta[0] + theta[1])
    )
    solve = lambda theta: core.run(solver, jnp.zeros(N), theta, tol=1e-13).params
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
    np.testing.assert_allclose(move, (x1 - x0) / (2 * h), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(curve, (g1 - g0) / (2 * h), rtol=1e-5)


def test_trees_and_low_precision_are_kept():
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones((), jnp.float32)}
    fun = lambda tree, _: jax.tree.map(jnp.cos, tree)
    out = core.run(fixed_point.anderson(fun), params, tol=1e-2)
    assert out.converged and out.params["a"].dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.asarray(out.params["a"], np.float32), 0.739, atol=0.01
    )


def test_a_link_of_a_chain_goes_on_from_what_others_made_of_params():
    solver = fixed_point.anderson(affine)
    data = jnp.asarray(MATRIX, jnp.float32), jnp.asarray(SHIFT, jnp.float32)
    expected = np.linalg.solve(np.eye(N) - MATRIX, SHIFT)
    for factor, steps in ((1.0, 40), (0.5, 200)):
        transform = optax.chain(core.to_optax(solver, data), optax.scale(factor))

        def body(carry, _):
            x, state = carry
            change, state = transform.update(x, state, x)
            return (optax.apply_updates(x, change), state), None

        carry = jnp.zeros(N), transform.init(jnp.zeros(N))
        (x, _), _ = jax.lax.scan(body, carry, length=steps)
        np.testing.assert_allclose(x, expected, atol=1e-3)


def test_lanes_of_a_batch_equal_their_single_runs():
    solver = fixed_point.anderson(lambda x, a: jnp.cos(a * x))
    scales = jnp.array([1.0, jnp.nan, 0.3])
    solve = lambda a: core.run(solver, jnp.ones(2), a)
    batch = jax.vmap(solve)(scales)
    np.testing.assert_array_equal(batch.status, [1, Status.DIVERGED, 1])
    for lane in (0, 2):
        np.testing.assert_allclose(batch.params[lane], solve(scales[lane]).params)


def test_the_map_is_traced_twice_at_most():
    traces = []

    def fun(x, a):
        traces.append(1)
        return jnp.cos(a * x)

    solver = fixed_point.anderson(fun)
    solve = lambda a: core.run(solver, 1.0, a).params
    jax.grad(solve)(1.0)
    solve(0.9)
    assert len(traces) <= 2


@pytest.mark.parametrize(
    "options, message",
    [
        ({"memory": 0}, "memory must be"),
        ({"memory": 2.0}, "memory must be"),
        ({"damping": -1.0}, "damping must be"),
        ({"ridge": -1e-3}, "ridge must not"),
        ({"growth": 1.0}, "growth must be"),
    ],
)
def test_numbers_out_of_range_are_value_errors(options, message):
    with pytest.raises(ValueError, match=message):
        fixed_point.anderson(affine, **options)
