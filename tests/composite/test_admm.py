"""ADMM: Boyd's iterates, Wohlberg's penalties, known answers, failures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxsolve import composite, core, prox
from jaxsolve.core import Status

RNG = np.random.default_rng(0)
A = RNG.normal(size=(30, 10))
B = RNG.normal(size=30)
D = np.diff(np.eye(10), axis=0)
LAM = 2.0


def soft(v, threshold):
    return np.sign(v) * np.maximum(np.abs(v) - threshold, 0)


def least_squares(x, data):
    matrix, target = data
    return 0.5 * jnp.sum((matrix @ x - target) ** 2)


def differences(x, data):
    return jnp.diff(x)


def data64():
    return jnp.asarray(A), jnp.asarray(B)


def boyd(steps, rho, alpha, balance):
    """Boyd et al. (2011), 3.1.1 and 3.4.3, with Wohlberg's relative residuals."""
    z = D @ np.ones(10)
    v = z
    z, u = soft(v, LAM / rho), v - soft(v, LAM / rho)
    due, iterates = 10, []
    for count in range(1, steps):
        x = np.linalg.solve(A.T @ A + rho * D.T @ D, A.T @ B + rho * D.T @ (z - u))
        v = alpha * D @ x + (1 - alpha) * z + u
        z = soft(v, LAM / rho)
        u = v - z
        r, s = D @ x - z, A.T @ (A @ x - B) + rho * D.T @ u
        iterates.append((x, z, rho * u, max(np.max(np.abs(r)), np.max(np.abs(s)))))
        if balance and count >= due:
            norm = np.linalg.norm
            primal = norm(r) / max(norm(D @ x), norm(z))
            dual = norm(s) / norm(rho * D.T @ u)
            ratio, higher = primal / dual, norm(r) > norm(s)  # also by themselves
            unequal = ratio > 10 if higher else ratio < 0.1
            factor = np.clip(np.sqrt(ratio), 0.01, 100) if unequal else 1
            rho, u, due = rho * factor, u / factor, count + max(10, count // 2)
    return iterates, rho


@pytest.mark.parametrize(
    "rho, alpha, balance", [(1.0, 1.0, False), (30.0, 1.6, False), (0.01, 1.6, True)]
)
def test_first_iterates_are_boyds(x64, rho, alpha, balance):
    solver = composite.admm(
        composite.Quadratic(least_squares),
        prox.l1(LAM),
        differences,
        rho,
        relaxation=alpha,
        balance=balance,
    )
    params = jnp.ones(10)
    state = solver.init(params, data64())
    params, state = solver.update(params, state, data64())
    np.testing.assert_array_equal(params, 1)  # the start is evaluated first
    iterates, last_rho = boyd(45, rho, alpha, balance)
    for x, z, y, error in iterates:
        params, state = solver.update(params, state, data64())
        np.testing.assert_allclose(params, x, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(state.split, z, atol=1e-9)
        np.testing.assert_allclose(state.penalty * state.dual, y, atol=1e-8)
        np.testing.assert_allclose(state.error, error, rtol=1e-6, atol=1e-11)
    np.testing.assert_allclose(state.penalty, last_rho, rtol=1e-6)
    assert (last_rho != rho) == balance


def linearised(steps, rho, alpha, squared_norm, target):
    """The same with the x-update linearised, for f = |x - target|^2 / 2."""
    x = np.ones(10)
    v = D @ x
    z = soft(v, LAM / rho)
    u, iterates = v - z, []
    for _ in range(1, steps):
        tau = 1 / (rho * squared_norm)
        old, w = x, x - tau * rho * D.T @ (D @ x - z + u)
        x = (w + tau * target) / (1 + tau)
        seen = np.sum((D @ (x - old)) ** 2) / np.sum((x - old) ** 2)
        squared_norm = 1.05 * seen if seen > squared_norm else squared_norm
        v = alpha * D @ x + (1 - alpha) * z + u
        z = soft(v, LAM / rho)
        u = v - z
        iterates.append(x)
    return iterates


def test_first_linearised_iterates_are_the_papers(x64):
    target = jnp.asarray(B[:10])
    solver = composite.admm(
        lambda x, t: (x + t * target) / (1 + t),
        prox.l1(LAM),
        differences,
        0.7,
        relaxation=1.3,
        balance=False,
    )
    params = jnp.ones(10)
    state = solver.init(params, None)
    params, state = solver.update(params, state, None)
    norm = np.linalg.norm(D, 2) ** 2
    assert 0.95 * norm <= state.cache <= 1.05 * norm  # by power iterations
    for x in linearised(30, 0.7, 1.3, float(state.cache), B[:10]):
        params, state = solver.update(params, state, None)
        np.testing.assert_allclose(params, x, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("penalty", [0.01, 1.0, 100.0])
def test_the_lasso_is_that_of_proximal_gradient_whatever_the_penalty(x64, penalty):
    solver = composite.admm(
        composite.Quadratic(least_squares), prox.l1(LAM), penalty=jnp.asarray(penalty)
    )
    other = composite.proximal_gradient(least_squares, prox.l1(LAM))
    out = core.run(solver, jnp.zeros(10), data64(), tol=1e-9)
    expected = core.run(other, jnp.zeros(10), data64(), tol=1e-10)
    assert bool(out.converged) and out.state.count < 250
    np.testing.assert_allclose(out.params, expected.params, atol=1e-8)


def test_an_affine_operator_fits_least_absolute_deviations(x64):
    # A linear program: minimise the sum of t where -t <= A x - b <= t.
    solver = composite.admm(
        composite.Quadratic(lambda x, data: 0.0 * jnp.sum(x)),
        prox.l1(1.0),
        lambda x, data: data[0] @ x - data[1],
    )
    out = core.run(solver, jnp.zeros(10), data64(), tol=1e-8, max_steps=5000)
    eye = np.eye(30)
    sides = np.block([[A, -eye], [-A, -eye]])
    expected = scipy.optimize.linprog(
        np.r_[np.zeros(10), np.ones(30)],
        sides,
        np.r_[B, -B],
        bounds=[(None, None)] * 10 + [(0, None)] * 30,
    )
    assert bool(out.converged)
    np.testing.assert_allclose(out.params, expected.x[:10], atol=1e-6)


def test_both_ways_to_denoise_by_total_variation_meet_its_conditions(x64):
    signal = np.repeat([0.0, 3.0, 1.0], 10) + 0.3 * RNG.normal(size=30)
    target = jnp.asarray(signal)
    square = composite.Quadratic(lambda x, data: 0.5 * jnp.sum((x - target) ** 2))
    near = lambda x, t: (x + t * target) / (1 + t)
    for f in (square, near):
        solver = composite.admm(f, prox.l1(1.0), differences)
        out = core.run(solver, jnp.zeros(30), tol=1e-9, max_steps=5000)
        assert bool(out.converged)
        x = np.asarray(out.params)
        taut = np.cumsum(x - signal)  # minus the multipliers of the differences
        assert abs(taut[-1]) < 1e-7 and np.max(np.abs(taut)) < 1 + 1e-7
        jumps = np.abs(np.diff(x)) > 1e-6
        assert 2 <= np.sum(jumps) <= 5
        np.testing.assert_allclose(
            taut[:-1][jumps], np.sign(np.diff(x)[jumps]), atol=1e-6
        )


def test_a_norm_that_power_iterations_miss_is_found_on_the_way(x64):
    # The large direction is orthogonal to where they begin.
    start = np.cos(1.0 + np.arange(3))
    away = np.linalg.svd(start[None])[2][1]
    matrix = jnp.asarray(np.eye(3) + 0.5 * np.outer(away, away))
    target = jnp.asarray(10 * away)
    near = lambda x, t: (x + t * target) / (1 + t)
    solver = composite.admm(near, prox.l1(0.1), lambda x, data: matrix @ x)
    state = solver.init(jnp.zeros(3), None)
    _, state = solver.update(jnp.zeros(3), state, None)
    assert state.cache < 1.1
    out = core.run(solver, jnp.zeros(3), tol=1e-9, max_steps=5000)
    assert bool(out.converged) and out.state.cache >= 2.2
    assert jnp.max(jnp.abs(out.params)) > 1


def test_params_may_be_trees_of_low_precision():
    target = {"a": jnp.array([3.0, 0.2]), "b": jnp.array(-2.0)}

    def fun(x, data):
        gaps = jax.tree.map(lambda x, t: jnp.sum((x - t) ** 2), x, data)
        return sum(jax.tree.leaves(gaps)) / 2

    solver = composite.admm(composite.Quadratic(fun), prox.l1(0.5))
    start = {"a": jnp.zeros(2, jnp.bfloat16), "b": jnp.zeros(())}
    out = core.run(solver, start, target, tol=1e-3)
    assert bool(out.converged)
    assert out.params["a"].dtype == jnp.bfloat16
    np.testing.assert_allclose(out.params["a"].astype(float), [2.5, 0.0], atol=0.02)
    np.testing.assert_allclose(out.params["b"], -1.5, atol=1e-3)


def test_what_has_no_minimiser_in_x_is_a_breakdown():
    concave = composite.Quadratic(lambda x, data: -jnp.sum(x**2))
    out = core.run(composite.admm(concave, prox.l1(1.0)), jnp.ones(2))
    assert out.status == Status.BREAKDOWN
    np.testing.assert_array_equal(out.params, 1)


def test_a_prox_that_turns_to_nan_ends_the_run_at_the_last_iterate():
    bad = lambda x, t: jnp.where(jnp.any(x > 0.3), jnp.nan, x)
    square = composite.Quadratic(lambda x, data: jnp.sum((x - 1) ** 2))
    out = core.run(composite.admm(square, bad), jnp.zeros(2))
    assert out.status == Status.DIVERGED and bool(core.all_finite(out.params))


def test_unrolled_derivatives_agree_with_central_differences(x64):
    f = composite.Quadratic(least_squares)
    solver = composite.admm(f, prox.l1(LAM), differences)
    options = dict(max_steps=9, tol=0.0, derivative=core.unrolled())

    def loss(scale):
        data = data64()[0], scale * data64()[1]
        out = core.run(solver, jnp.zeros(10), data, **options)
        return jnp.sum(jnp.cos(out.params))

    loss = jax.jit(loss)
    slope = (loss(1 + 1e-5) - loss(1 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(loss)(1.0), slope, rtol=1e-6)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(penalty=0.0), "penalty must be one"),
        (dict(penalty=lambda count: 1.0), "penalty must be one"),
        (dict(relaxation=2.0), "relaxation must lie"),
        (dict(f=least_squares(jnp.ones(10), (A, B))), "f must be a prox"),
    ],
    ids=["zero", "schedule", "relaxation", "f"],
)
def test_static_mistakes_are_value_errors(options, message):
    arguments = dict(f=prox.l1(1.0), prox_g=prox.l1(1.0)) | options
    with pytest.raises(ValueError, match=message):
        composite.admm(**arguments)


def test_an_operator_that_returns_no_floats_is_refused():
    solver = composite.admm(prox.l1(1.0), prox.l1(1.0), lambda x, d: jnp.argmax(x))
    with pytest.raises(ValueError, match="operator must return"):
        core.run(solver, jnp.zeros(2))


def test_a_matrix_is_no_operator():
    with pytest.raises(ValueError, match="lambda x, data: matrix @ x"):
        composite.admm(prox.l1(1.0), prox.l1(1.0), operator=jnp.eye(3))
