"""Proximal operators of norms: known answers, their edges, what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxsolve import prox

X = np.array([3.0, -0.5, 0.2, -2.0, 1.0], np.float32)


def test_l1_thresholds_softly():
    expected = np.where(np.abs(X) > 0.5, X - 0.5 * np.sign(X), 0)
    np.testing.assert_allclose(prox.l1(1.0)(X, 0.5), expected, atol=1e-6)


def test_elastic_net_is_the_minimiser_that_scipy_finds():
    out = prox.elastic_net(0.7, 0.4)(X, 1.5)
    for x, y in zip(X, out, strict=True):
        objective = lambda y, x=x: 0.7 * abs(y) + 0.2 * y**2 + (y - x) ** 2 / (2 * 1.5)
        best = optimize.minimize_scalar(objective, bounds=(-4, 4), method="bounded").x
        np.testing.assert_allclose(y, best, atol=1e-4)


def test_group_lasso_shortens_each_row():
    rows = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], np.float32)
    weight = jnp.array([[1.0], [1.0], [0.0]])
    out = prox.group_lasso(weight, axis=1)(rows)
    np.testing.assert_allclose(out, [[2.4, 3.2], [0, 0], [0, 0]], atol=1e-6)


def test_group_lasso_takes_several_axes_as_one_group():
    blocks = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    out = prox.group_lasso(1.0, axis=(0, 2))(blocks)
    norm = np.sqrt(np.sum(blocks**2, axis=(0, 2), keepdims=True))
    np.testing.assert_allclose(out, np.maximum(1 - 1 / norm, 0) * blocks, atol=1e-6)
    cut, alone = jax.jit(prox.linf(1.0, axis=(0, 2)))(blocks), jax.jit(prox.linf(1.0))
    for i in range(3):
        np.testing.assert_allclose(cut[:, i], alone(blocks[:, i]), atol=1e-6)


def test_linf_clips_at_the_level_that_removes_the_weight():
    level = optimize.brentq(lambda c: np.maximum(np.abs(X) - c, 0).sum() - 1.5, 0, 3)
    np.testing.assert_allclose(
        prox.linf(3.0)(X, 0.5), np.clip(X, -level, level), atol=1e-6
    )
    np.testing.assert_array_equal(prox.linf(10.0)(X), np.zeros(5))


@pytest.mark.parametrize(
    "factory", [prox.l1, prox.squared_l2, prox.group_lasso, prox.linf]
)
def test_zero_weight_is_the_identity_to_first_order(factory):
    operator = jax.jit(factory(0.0))
    for x in (jnp.asarray(X), jnp.zeros(5)):
        np.testing.assert_array_equal(operator(x), x)
    jacobian = jax.jit(jax.jacrev(operator))(jnp.zeros(5))
    np.testing.assert_array_equal(jacobian, np.eye(5))


@pytest.mark.parametrize("factory", [prox.l1, prox.group_lasso])
def test_infinite_weight_gives_zero_with_zero_derivatives(factory):
    operator = lambda x, w: factory(w)(x)
    np.testing.assert_array_equal(operator(X, jnp.inf), np.zeros(5))
    by_x, by_w = jax.jacrev(operator, argnums=(0, 1))(jnp.asarray(X), jnp.inf)
    assert not by_x.any() and not by_w.any()


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_group_lasso_neither_overflows_nor_underflows(size):
    x, operator = jnp.array([3.0, 4.0]) * size, prox.group_lasso(2.5 * size)
    np.testing.assert_allclose(operator(x) / size, [1.5, 2.0], rtol=1e-5)
    expected = [[0.68, 0.24], [0.24, 0.82]]
    np.testing.assert_allclose(jax.jit(jax.jacrev(operator))(x), expected, rtol=1e-5)


def test_group_lasso_works_up_to_the_largest_number():
    x = jnp.array([3.0, -2.0, 1e-37]) * 1e38
    norm = np.sqrt(13.0)
    for weight in (1.0, 2.5):
        out = np.asarray(prox.group_lasso(weight * 1e38)(x), np.float64)
        expected = (1 - weight / norm) * np.array([3.0, -2.0, 1e-37])
        np.testing.assert_allclose(out / 1e38, expected, rtol=1e-5)


def test_numbers_may_be_arrays_or_trees():
    params = {"a": jnp.ones((2, 3)), "b": (jnp.ones(3),)}
    weight = {"a": np.array([[0.1], [0.2]]), "b": (0.3,)}
    stepsize = {"a": 1.0, "b": (jnp.array([1, 2, 4]),)}
    out = prox.l1(weight)(params, stepsize)
    np.testing.assert_allclose(out["a"], [[0.9] * 3, [0.8] * 3], atol=1e-6)
    np.testing.assert_allclose(out["b"][0], [0.7, 0.4, 0.0], atol=1e-6)
    out = prox.l1(jnp.array([0.1, 0.2, 0.3]))(params)
    np.testing.assert_allclose(out["a"][1], [0.9, 0.8, 0.7], atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bfloat16, jnp.float32])
def test_a_traced_stepsize_of_any_dtype_is_cast(dtype):
    out = jax.jit(prox.l1(0.5))(jnp.asarray(X), jnp.asarray(2, dtype))
    np.testing.assert_allclose(out, prox.l1(1.0)(X))


def test_python_scalars_and_empty_trees_pass():
    assert prox.l1(0.25)({"b": 0.5})["b"] == 0.25
    for operator in (prox.l1(1.0), prox.group_lasso(1.0), prox.linf(1.0)):
        assert operator({}) == {}
        assert operator(jnp.zeros((0,))).shape == (0,)


@pytest.mark.parametrize(
    "make",
    [
        lambda: prox.l1(-0.1),
        lambda: prox.squared_l2(np.array([1.0, -1.0])),
        lambda: prox.elastic_net(1.0, {"a": jnp.array(-1.0)}),
        lambda: prox.group_lasso(-1, axis=0),
        lambda: prox.linf(-1.0),
    ],
)
def test_negative_weight_is_refused_when_the_operator_is_made(make):
    with pytest.raises(ValueError, match="weight must be at least zero.*change its"):
        make()


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"weight must broadcast.*\(2,\).*\(5,\)"):
        prox.l1(np.ones(2))(X)
    with pytest.raises(ValueError, match="weight must be a scalar, an array, or a"):
        prox.l1({"a": 1.0})({"b": X})
    with pytest.raises(ValueError, match=r"weight must be a scalar where axis is None"):
        prox.group_lasso(np.ones(5))(X)
    with pytest.raises(ValueError, match=r"stepsize must hold one number for each"):
        prox.group_lasso(1.0, axis=0)(X, np.ones(5))
    with pytest.raises(ValueError, match=r"axis must lie within every leaf.*1.*\(5,\)"):
        prox.group_lasso(1.0, axis=1)(X)


def test_complex_params_are_refused():
    with pytest.raises(ValueError, match=r"params\['a'\] is complex64"):
        prox.l1(1.0)({"a": jnp.ones(2, jnp.complex64)})
