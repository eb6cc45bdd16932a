"""Gradient-normalised Newton as a transformation: its steps, the solvers, gamma."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import smooth, transforms

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(6, 6))
MATRIX = MATRIX @ MATRIX.T / 4
ROWS = RNG.normal(size=(5, 6))


def shown(vector):
    return {"w": jnp.asarray(vector[:4]).reshape(2, 2), "b": jnp.asarray(vector[4:])}


def flat(tree):
    return np.concatenate([np.ravel(tree["w"]), np.ravel(tree["b"])])


def product(tree):
    return shown(jnp.asarray(MATRIX) @ jnp.concatenate([tree["w"].ravel(), tree["b"]]))


def given(matrix):
    """The extra arguments of three kinds, and the matrices that they stand for."""
    samples = jax.tree.map(lambda *x: jnp.stack(x), *map(shown, ROWS))
    return (
        (
            transforms.scale_by_gradient_normalized_newton,
            dict(hvp=product),
            matrix,
        ),
        (
            transforms.scale_by_gradient_normalized_diagonal,
            dict(diagonal=shown(np.diag(matrix) - 0.5)),
            np.diag(np.maximum(np.diag(matrix) - 0.5, 0)),
        ),
        (
            transforms.scale_by_gradient_normalized_fisher,
            dict(sample_grads=samples),
            ROWS.T @ ROWS / 5,
        ),
    )


def test_steps_are_those_of_a_plain_transcription(x64):
    gammas = lambda count: 0.7 / jnp.asarray(count + 1, float)
    for make, extra, matrix in given(MATRIX):
        transform = make(gammas)
        state = transform.init(shown(np.zeros(6)))
        for i in range(3):
            g = RNG.normal(size=6) * 10.0**-i
            step, state = transform.update(shown(g), state, **extra)
            shift = np.linalg.norm(g) / (float(gammas(i)) + 1e-8)
            expected = np.linalg.solve(matrix + shift * np.eye(6), g)
            np.testing.assert_allclose(flat(step), expected, rtol=1e-10)
            assert np.isclose(state.shift, shift, rtol=1e-12)
            assert np.linalg.norm(flat(step)) <= gammas(i)


def test_steps_on_all_data_are_those_of_the_solver(x64):
    fun = lambda x, data: jnp.sum(jnp.cosh(MATRIX @ x - data)) + jnp.sum(x**2)
    data, x = jnp.asarray(RNG.normal(size=6)), jnp.ones(6)
    solver = smooth.gradient_normalized_newton(fun, gamma=0.4, adaptive=False)
    params, state = solver.update(x, solver.init(x, data), data)
    transform = transforms.gradient_normalized_newton(gamma=0.4)
    inner = transform.init(x)
    gradient = jax.grad(lambda x: fun(x, data))
    for _ in range(6):
        params, state = solver.update(params, state, data)
        hvp = lambda v, x=x: jax.jvp(gradient, (x,), (v,))[1]
        step, inner = transform.update(gradient(x), inner, x, hvp=hvp)
        x = optax.apply_updates(x, step)
        np.testing.assert_allclose(x, params, rtol=1e-7)


def test_negative_curvature_gives_the_longest_step_along_the_gradient():
    transform = transforms.scale_by_gradient_normalized_newton(0.5)
    x = jnp.array([3.0, 4.0])
    step, _ = transform.update(x, transform.init(x), hvp=lambda v: -1e3 * v)
    np.testing.assert_allclose(step, 0.5 * x / 5, rtol=1e-6)
    bent = lambda v: jnp.array([1.0, -2.0]) * v  # good along one axis alone
    step, _ = transform.update(x, transform.init(x), hvp=bent)
    assert jnp.linalg.norm(step) <= 0.5 * (1 + 1e-6) and step @ x > 0


def test_gamma_follows_the_values(x64):
    transform = transforms.scale_by_gradient_normalized_newton(1.0, adaptive=True)
    g, state = jnp.array([3.0, 4.0]), transform.init(jnp.zeros(2))
    values, gammas = [10.0, 9.0, 8.99, 9.5, jnp.nan, 5.0], []
    for value in values:
        _, state = transform.update(g, state, hvp=lambda v: v, value=value)
        gammas.append(float(state.gamma))
    # Wanted are 25 / (8 * 5 / gamma): 0.625, 1.25, ...
    np.testing.assert_allclose(gammas, [1, 2, 1, 0.5, 0.5, 1])
    assert state.count == 6


@pytest.mark.parametrize("kind", ["newton", "fisher"])
def test_separable_logistic_regression_is_learnt_in_few_updates(kind):
    """A Fisher matrix and Hessian products of the same full batch."""
    features = np.random.default_rng(5).normal(size=(60, 4))
    rows = features * np.sign(features @ np.array([1.0, -2.0, 0.5, 1.0]))[:, None]
    rows = jnp.asarray(rows, jnp.float32)
    each = lambda w, row: jnp.logaddexp(0.0, -row @ w)
    loss = lambda w: jnp.mean(jax.vmap(each, (None, 0))(w, rows))
    scale = getattr(transforms, f"scale_by_gradient_normalized_{kind}")
    chain = optax.chain(scale(1.0, adaptive=True), optax.scale(-1.0))

    @jax.jit
    def step(w, state):
        value, grad = jax.value_and_grad(loss)(w)
        hvp = lambda v: jax.jvp(jax.grad(loss), (w,), (v,))[1]
        samples = jax.vmap(jax.grad(each), (None, 0))(w, rows)
        extra = dict(value=value, hvp=hvp, sample_grads=samples)
        updates, state = chain.update(grad, state, w, **extra)
        return optax.apply_updates(w, updates), state, value

    w, state = jnp.zeros(4), chain.init(jnp.zeros(4))
    for _ in range(20):
        w, state, value = step(w, state)
    assert value < 0.05


def test_wrong_options_are_refused():
    for make in (
        transforms.scale_by_gradient_normalized_newton,
        transforms.scale_by_gradient_normalized_diagonal,
        transforms.scale_by_gradient_normalized_fisher,
    ):
        for gamma in (0.0, -1.0, np.inf, np.nan):
            with pytest.raises(ValueError, match="gamma must be"):
                make(gamma)
        with pytest.raises(ValueError, match="both be a schedule and adapt"):
            make(lambda count: 1.0, adaptive=True)
    with pytest.raises(ValueError, match="max_products must be at least 1"):
        transforms.scale_by_gradient_normalized_newton(max_products=0)
