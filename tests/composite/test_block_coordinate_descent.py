"""Block coordinate descent: textbook sweeps, scikit-learn's answers, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize
from sklearn import linear_model, svm

from jaxsolve import composite, core, prox
from jaxsolve.core import Status

RNG = np.random.default_rng(0)
A = RNG.normal(size=(20, 6))
W = np.array([1.5, 0.0, -1.0, 0.0, 0.0, 0.7])
B = A @ W + 0.1 * RNG.normal(size=20)
DATA = (A, B)
SQUARES = composite.least_squares_model()
GRAM, LINEAR = A.T @ A / 20, A.T @ B / 20
QUADRATIC = composite.QuadraticModel(lambda data: data[0], lambda data: data[1])


def lasso(x, data):
    matrix, target = data
    return jnp.sum((matrix @ x - target) ** 2) / (2 * target.shape[0])


def soft(v, threshold):
    return np.sign(v) * np.maximum(np.abs(v) - threshold, 0)


def sweeps(count, orders, weight=0.1):
    """Textbook coordinate descent for the lasso; an order of None is greedy."""
    x, curvature = np.zeros(6), np.sum(A**2, axis=0) / 20
    for k in range(count):
        for i in range(6) if orders is None else orders[k]:
            steps = (
                soft(x - (A.T @ (A @ x - B) / 20) / curvature, weight / curvature) - x
            )
            if orders is None:
                i = np.argmax(np.sqrt(curvature) * np.abs(steps))
            x = x.copy()
            x[i] += steps[i]
        yield x


def permutations(key, count):
    for _ in range(count):
        key, draw = jax.random.split(key)
        yield np.asarray(jax.random.permutation(draw, 6))


@pytest.mark.parametrize("order", ["cyclic", "random", "greedy"])
@pytest.mark.parametrize("form", ["model", "quadratic", "general"])
def test_sweeps_are_the_textbooks(x64, form, order):
    options, orders = {}, [range(6)] * 4
    if order == "random":
        options = {"key": jax.random.key(3)}
        orders = list(permutations(jax.random.key(3), 4))
    elif order == "greedy":
        options, orders = {"greedy": True}, None
    data = (GRAM, LINEAR) if form == "quadratic" else DATA
    fun = {"model": SQUARES, "quadratic": QUADRATIC, "general": lasso}[form]
    steps = 20 / np.sum(A**2, axis=0) if form == "general" else None
    make = composite.block_coordinate_descent
    solver = make(fun, prox.l1(0.1), steps, **options)
    params = jnp.zeros(6)
    state = solver.init(params)
    for expected in sweeps(4, orders):
        params, state = solver.update(params, state, data)
        np.testing.assert_allclose(params, expected, atol=1e-12)
    gradient = A.T @ (A @ expected - B) / 20
    error = np.abs(expected - soft(expected - gradient, 0.1)).max()
    np.testing.assert_allclose(state.error, error, atol=1e-12)


def solve(fun, operator, params, data, **options):
    solver = composite.block_coordinate_descent(fun, operator, **options)
    out = core.run(solver, params, data, tol=1e-10, max_steps=3000)
    assert out.converged
    return np.asarray(out.params)


def test_lasso_and_elastic_net_are_scikit_learns(x64):
    for ratio in (1.0, 0.5):
        operator = prox.elastic_net(0.1 * ratio, 0.1 * (1 - ratio))
        peer = linear_model.ElasticNet(
            alpha=0.1, l1_ratio=ratio, fit_intercept=False, tol=1e-12
        )
        expected = peer.fit(*DATA).coef_
        actual = solve(SQUARES, operator, jnp.zeros(6), DATA)
        np.testing.assert_allclose(actual, expected, atol=1e-6)
        np.testing.assert_array_equal(actual == 0, expected == 0)


def test_multitask_lasso_is_scikit_learns(x64):
    targets = np.stack([B, -B + 0.3 * RNG.normal(size=20)], axis=1)
    peer = linear_model.MultiTaskLasso(alpha=0.3, fit_intercept=False, tol=1e-12)
    expected = peer.fit(A, targets).coef_.T
    # scikit-learn divides by the number of samples only, as we do.
    params, data = jnp.zeros((6, 2)), (A, targets)
    actual = solve(SQUARES, prox.group_lasso(0.3), params, data)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_non_negative_least_squares_is_scipys(x64):
    actual = solve(SQUARES, prox.non_negative(), jnp.ones(6), DATA)
    np.testing.assert_allclose(actual, optimize.nnls(A, B)[0], atol=1e-8)


@pytest.mark.parametrize("penalised", [True, False])
def test_logistic_regression_is_scikit_learns(x64, penalised):
    labels = (B > 0).astype(float)
    ridge = 0.05 if penalised else 0.2
    operator = prox.l1(ridge) if penalised else prox.squared_l2(ridge)
    peer = linear_model.LogisticRegression(
        C=1 / (20 * ridge), l1_ratio=float(penalised), fit_intercept=False, tol=1e-10,
        solver="saga" if penalised else "lbfgs", max_iter=100_000,
    )  # fmt: skip
    expected = peer.fit(A, labels).coef_[0]
    actual = solve(composite.logistic_model(), operator, jnp.zeros(6), (A, labels))
    np.testing.assert_allclose(actual, expected, atol=2e-5)


def test_softmax_regression_has_a_gradient_that_balances_its_ridge(x64):
    labels = RNG.integers(3, size=20)
    data, fun = (A, labels), composite.softmax_model()
    x = solve(fun, prox.squared_l2(0.1), jnp.zeros((6, 3)), data)
    gradient = jax.grad(fun)(jnp.asarray(x), data)
    np.testing.assert_allclose(gradient, -0.1 * x, atol=1e-9)


def test_dual_of_a_support_vector_machine_is_scikit_learns(x64):
    classes = RNG.integers(3, size=20)
    peer = svm.LinearSVC(
        multi_class="crammer_singer", C=0.5, fit_intercept=False, tol=1e-10,
        max_iter=100_000,
    )  # fmt: skip
    expected = peer.fit(A, classes).coef_
    # Half the squared weights plus C times the losses is lambda = 1 / C here.
    data = (A, np.eye(3)[classes], 2.0)
    solver = composite.block_coordinate_descent(
        composite.svm_dual_model(), prox.simplex()
    )
    out = core.run(solver, jnp.full((20, 3), 1 / 3), data, tol=1e-9, max_steps=3000)
    weights = A.T @ (data[1] - np.asarray(out.params)) / 2.0
    np.testing.assert_allclose(weights.T, expected, atol=1e-5)


@pytest.mark.parametrize("greedy", [False, True])
def test_no_sweep_increases_the_objective(x64, greedy):
    labels = (B > 0).astype(float)
    fun, data = composite.logistic_model(), (A, labels)
    solver = composite.block_coordinate_descent(fun, prox.l1(0.02), greedy=greedy)
    value = lambda x, state: fun(x, data) + 0.02 * jnp.sum(jnp.abs(x))
    out = core.run(solver, jnp.full(6, 3.0), data, max_steps=50, tol=0.0, record=value)
    assert np.all(np.diff(out.history) <= 1e-14)


def test_derivatives_in_targets_and_in_the_weight_agree_with_differences(x64):
    operator = prox.of_data(lambda data: prox.l1(data["weight"]))
    model = SQUARES._replace(
        loss=lambda p, data: SQUARES.loss(p, (A, data["target"])),
        matrix=lambda data: A,
        curvature=lambda data: 1 / 20,
    )
    solver = composite.block_coordinate_descent(model, operator)
    way = RNG.normal(size=20)

    def at(t):
        data = {"weight": 0.1 + t, "target": B + t * way}
        return core.run(solver, jnp.zeros(6), data, tol=1e-13).params

    h = 1e-5
    slope = (at(h) - at(-h)) / (2 * h)
    np.testing.assert_allclose(jax.jacrev(at)(0.0), slope, atol=1e-8)
    assert np.any(slope != 0) and np.any(np.asarray(at(0.0)) == 0)


def test_any_solver_takes_a_model_as_its_objective(x64):
    solver = composite.proximal_gradient(SQUARES, prox.l1(0.1))
    out = core.run(solver, jnp.zeros(6), DATA, tol=1e-10)
    expected = solve(SQUARES, prox.l1(0.1), jnp.zeros(6), DATA)
    np.testing.assert_allclose(out.params, expected, atol=1e-8)
    quadratic = QUADRATIC(jnp.asarray(W), (GRAM, LINEAR)) + np.sum(B**2) / 40
    np.testing.assert_allclose(quadratic, SQUARES(jnp.asarray(W), DATA), rtol=1e-12)


def test_loss_is_traced_once_an_update_and_once_a_residual():
    traces = []

    def loss(predictions, data):
        traces.append(1)
        return jnp.sum((predictions - data[1]) ** 2)

    model = composite.LinearModel(loss, lambda data: data[0], lambda data: 2.0)
    solver = composite.block_coordinate_descent(model, prox.l1(0.1))
    run = lambda b: jnp.sum(core.run(solver, jnp.zeros(6), (A32, b)).params)
    jax.grad(run)(jnp.asarray(B, jnp.float32))
    assert len(traces) <= 2


A32 = jnp.asarray(A, jnp.float32)


def test_columns_of_zeros_and_single_rows_are_no_trouble():
    matrix = A32.at[:, 2].set(0)
    solver = composite.block_coordinate_descent(SQUARES, prox.l1(0.1))
    out = core.run(solver, jnp.ones(6), (matrix, jnp.asarray(B, jnp.float32)))
    assert out.converged and out.params[2] == 0
    one = core.run(solver, jnp.ones(1), (jnp.ones((1, 1)), jnp.ones(1)))
    np.testing.assert_allclose(one.params, 0.9, rtol=1e-6)


def test_bad_lanes_end_as_diverged_with_finite_params_and_spare_others():
    solver = composite.block_coordinate_descent(SQUARES, prox.l1(0.1))
    target = jnp.asarray(B, jnp.float32)
    targets = jnp.stack([target, target.at[3].set(jnp.nan), target.at[3].set(jnp.inf)])
    out = jax.vmap(lambda b: core.run(solver, jnp.ones(6), (A32, b)))(targets)
    np.testing.assert_array_equal(out.status, [1, Status.DIVERGED, Status.DIVERGED])
    np.testing.assert_array_equal(out.params[1:], np.ones((2, 6)))
    expected = core.run(solver, jnp.ones(6), (A32, target)).params
    np.testing.assert_allclose(out.params[0], expected, atol=1e-5)


def test_a_stepsize_that_is_too_long_ends_as_diverged():
    solver = composite.block_coordinate_descent(SQUARES, prox.identity(), 100.0)
    out = core.run(solver, jnp.ones(6), (A32, jnp.asarray(B, jnp.float32)))
    assert out.status == Status.DIVERGED and np.all(np.isfinite(out.params))


def test_mistakes_are_value_errors():
    make = composite.block_coordinate_descent
    with pytest.raises(ValueError, match="give a stepsize"):
        make(lasso, prox.l1(0.1))
    with pytest.raises(ValueError, match="stepsize must be one positive"):
        make(lasso, prox.l1(0.1), 0.0)
    with pytest.raises(ValueError, match="stepsize must be positive"):
        make(lasso, prox.l1(0.1), np.array([1.0, -1.0]))
    with pytest.raises(ValueError, match="greedy"):
        make(SQUARES, prox.l1(0.1), key=jax.random.key(0), greedy=True)
    solver = make(SQUARES, prox.l1(0.1))
    for params in (jnp.ones(()), {"a": jnp.ones(5), "b": jnp.ones((1, 2))}):
        with pytest.raises(ValueError, match="whose rows are the blocks"):
            core.run(solver, params, DATA)
    with pytest.raises(ValueError, match="one column for each block"):
        core.run(solver, jnp.ones(5), DATA)
    with pytest.raises(ValueError, match="one for each block"):
        solver = make(SQUARES, prox.l1(0.1), np.ones(3))
        core.run(solver, jnp.ones(6), (A32, jnp.asarray(B, jnp.float32)))
    with pytest.raises(ValueError, match="matrix and linear"):
        core.run(make(QUADRATIC, prox.l1(0.1)), jnp.ones(5), (GRAM, LINEAR))


def test_equal_arguments_give_one_solver():
    make = lambda: composite.block_coordinate_descent(SQUARES, prox.l1(0.1))
    assert make() is make()
    assert composite.least_squares_model() is SQUARES


def test_params_without_blocks_are_refused():
    solver = composite.block_coordinate_descent(SQUARES, prox.l1(0.1))
    with pytest.raises(ValueError, match="at least one row"):
        core.run(solver, jnp.zeros(0), (jnp.zeros((2, 0)), jnp.ones(2)))
