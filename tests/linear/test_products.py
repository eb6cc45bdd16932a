"""Products of second-order methods: dense matrices, identities, labels drawn."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
import pytest

from jaxsolve import linear

RNG = np.random.default_rng(2)
X = RNG.normal(size=(5, 3))
LABELS = np.array([0, 1, 1, 0, 1])
KEY = jax.random.key(0)


@pytest.fixture
def net(x64):
    """A network, its params, and the columns of whatever a product is of."""
    params = {"a": jnp.asarray(RNG.normal(size=(3, 2))), "b": jnp.ones(2)}
    model = lambda p: jnp.tanh(jnp.asarray(X) @ p["a"]) * p["b"][None, :]
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    vector = lambda tree: jax.flatten_util.ravel_pytree(tree)[0]

    def dense(product):
        columns = jax.vmap(lambda v: vector(product(unravel(v))))(jnp.eye(flat.size))
        return np.asarray(columns)

    jacobian = jax.jacobian(lambda v: model(unravel(v)).ravel())(flat)
    return params, model, dense, np.asarray(jacobian), flat, unravel


def cross_entropy(outputs):
    losses = optax.losses.softmax_cross_entropy_with_integer_labels
    return jnp.mean(losses(outputs, jnp.asarray(LABELS)))


def softmax_hessian(outputs):
    """The block-diagonal Hessian of the mean cross-entropy, by the textbook."""
    p = np.exp(outputs) / np.sum(np.exp(outputs), 1, keepdims=True)
    blocks = np.zeros((p.size, p.size))
    for i, row in enumerate(p):
        block = (np.diag(row) - np.outer(row, row)) / len(p)
        blocks[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = block
    return blocks


def test_products_equal_dense_matrices(net):
    params, model, dense, J, flat, unravel = net
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    fun = lambda p: cross_entropy(model(p))
    hessian = jax.hessian(lambda v: fun(unravel(v)))(flat)
    close(dense(linear.hessian_product(fun, params)), hessian)
    H = softmax_hessian(np.asarray(model(params)))
    gauss_newton = dense(linear.gauss_newton_product(model, cross_entropy, params))
    close(gauss_newton, J.T @ H @ J)
    assert np.linalg.eigvalsh(gauss_newton).min() > -1e-15
    mean = lambda z, w: jnp.mean(
        optax.losses.softmax_cross_entropy(w, jax.nn.softmax(z))
    )
    close(dense(linear.fisher_product(model, mean, params)), gauss_newton)


def test_the_fisher_matrix_of_other_outputs_is_not_the_gauss_newton_matrix(x64):
    # A Gaussian that is named by the logarithm of its deviation: the information is 2.
    log_deviation = lambda p: p
    kl = lambda z, w: jnp.sum(w - z + jnp.exp(2 * (z - w)) / 2 - 0.5)
    product = linear.fisher_product(log_deviation, kl, jnp.array([0.3]))
    np.testing.assert_allclose(product(jnp.ones(1)), [2], rtol=1e-10)


def test_the_empirical_fisher_matrix_is_the_mean_of_squares(net):
    params, model, dense, _, flat, unravel = net
    each = optax.losses.softmax_cross_entropy_with_integer_labels
    losses = lambda p: each(model(p), jnp.asarray(LABELS))
    gradients = np.asarray(jax.jacobian(lambda v: losses(unravel(v)))(flat))
    product = linear.empirical_fisher_product(losses, params)
    expected = gradients.T @ gradients / 5
    np.testing.assert_allclose(dense(product), expected, rtol=1e-10, atol=1e-14)


def test_labels_drawn_from_the_model_give_the_fisher_matrix_in_the_mean(net):
    params, model, dense, J, *_ = net
    product = linear.monte_carlo_fisher_product(
        model,
        optax.losses.softmax_cross_entropy_with_integer_labels,
        jax.random.categorical,
        params,
        key=KEY,
        samples=4000,
    )
    exact = J.T @ softmax_hessian(np.asarray(model(params))) @ J
    assert np.abs(dense(product) - exact).max() < 0.05 * np.abs(exact).max()


def test_it_is_the_hessian_where_outputs_are_linear_or_fit_exactly(x64):
    matrix, x = jnp.asarray(X), jnp.asarray(RNG.normal(size=3))
    v = jnp.asarray(RNG.normal(size=3))
    half_square = lambda z: jnp.sum(z**4) + jnp.sum(z**2) / 2
    straight = linear.gauss_newton_product(lambda x: matrix @ x, half_square, x)
    exact = linear.hessian_product(lambda x: half_square(matrix @ x), x)
    np.testing.assert_allclose(straight(v), exact(v), rtol=1e-10)
    residual = lambda y: jnp.sin(matrix @ y) - jnp.sin(matrix @ x)
    square = lambda z: jnp.sum(z**2) / 2
    bent = linear.gauss_newton_product(residual, square, x)
    exact = linear.hessian_product(lambda y: square(residual(y)), x)
    np.testing.assert_allclose(bent(v), exact(v), rtol=1e-10)


def test_products_are_linearised_once_and_solved_with_by_lineax(net):
    params, model, dense, *_ = net
    calls = []

    def counted(p):
        calls.append(None)
        return model(p)

    product = linear.gauss_newton_product(counted, cross_entropy, params)
    damped = lambda v: jax.tree.map(lambda a, b: a + 0.1 * b, product(v), v)
    operator = lx.FunctionLinearOperator(
        damped, jax.eval_shape(lambda: params), lx.positive_semidefinite_tag
    )
    solution = lx.linear_solve(operator, params, lx.CG(1e-12, 1e-12)).value
    back = damped(solution)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), back, params)
    assert len(calls) == 1
