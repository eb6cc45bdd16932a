"""Spectral operators: derivatives where values repeat, stacks, sizes, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import prox

RNG = np.random.default_rng(0)
Q = np.linalg.qr(RNG.normal(size=(4, 4)))[0]
P = np.linalg.qr(RNG.normal(size=(3, 3)))[0]


def central(fun, x, direction, h=1e-6):
    return (fun(x + h * direction) - fun(x - h * direction)) / (2 * h)


@pytest.mark.parametrize(
    "values", [(2, 2, 2), (2, 2, 0.5), (0.5, 0.5, 0.5), (2, 0, 0), (3, 2, 0.5)]
)
@pytest.mark.parametrize("shape", ["tall", "wide"])
def test_nuclear_norm_has_its_derivative_at_repeated_values(values, shape, x64):
    x = Q[:, :3] * np.array(values) @ P
    direction = RNG.normal(size=(4, 3))
    if shape == "wide":
        x, direction = x.T, direction.T
    fun = jax.jit(lambda x, w: prox.nuclear_norm(w)(x))
    by_x = jax.jit(lambda x, v: jax.jvp(lambda x: fun(x, 1.0), (x,), (v,))[1])
    expected = central(lambda x: fun(x, 1.0), x, direction)
    np.testing.assert_allclose(by_x(x, direction), expected, atol=1e-7)
    by_w = jax.jit(jax.jacfwd(fun, 1))(x, 1.0)
    np.testing.assert_allclose(by_w, central(lambda w: fun(x, w), 1.0, 1), atol=1e-7)
    other = RNG.normal(size=x.shape)
    back = jax.jit(jax.grad(lambda x: jnp.vdot(fun(x, 1.0), other)))(x)
    np.testing.assert_allclose(np.vdot(back, direction), np.vdot(other, expected))


def test_nuclear_norm_of_no_weight_is_the_identity_to_first_order():
    operator = prox.nuclear_norm(0.0)
    for x in (jnp.zeros((2, 3)), jnp.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])):
        slope = jax.jit(jax.jacfwd(operator))(x).reshape(6, 6)
        np.testing.assert_allclose(slope, np.eye(6), atol=1e-6)


@pytest.mark.parametrize(
    "values", [(2, 2, -1, -1), (1, 1, 1, 1), (-1, -1, -1, -1), (3, 3, 3, -2)]
)
def test_psd_cone_has_its_derivative_at_repeated_values(values, x64):
    x, direction = Q * np.array(values) @ Q.T, RNG.normal(size=(4, 4))
    fun = jax.jit(prox.psd_cone())
    by_x = jax.jit(lambda x, v: jax.jvp(fun, (x,), (v,))[1])(x, direction)
    np.testing.assert_allclose(by_x, central(fun, x, direction), atol=1e-7)


@pytest.mark.parametrize("make", [prox.psd_cone, lambda: prox.nuclear_norm(0.5)])
def test_second_derivatives_are_finite_at_repeated_values(make):
    loss = lambda x: jnp.sum(make()(x) ** 3)
    for x in (jnp.eye(3), jnp.zeros((3, 3)), jnp.diag(jnp.array([1.0, 1.0, -1.0]))):
        assert np.all(np.isfinite(jax.jit(jax.hessian(loss))(x)))


def test_psd_cone_projects_the_symmetric_part_of_every_matrix_of_a_stack():
    stack = RNG.normal(size=(2, 3, 3, 3)).astype(np.float32)
    out = prox.psd_cone()({"a": stack})["a"]
    for index in np.ndindex(2, 3):
        values, vectors = np.linalg.eigh((stack[index] + stack[index].T) / 2)
        expected = vectors * np.maximum(values, 0) @ vectors.T
        np.testing.assert_allclose(out[index], expected, atol=1e-5)


@pytest.mark.parametrize("size", [1e-30, 1e30, 1e38])
def test_second_order_cone_neither_overflows_nor_underflows(size):
    x = jnp.array([1.0, 3.0, -3.0, 2.0]) * size
    norm = np.sqrt(22.0)
    expected = (1 + norm) / 2 * np.array([1, *(np.array([3, -3, 2]) / norm)])
    out = np.asarray(jax.jit(prox.second_order_cone())(x), np.float64)
    np.testing.assert_allclose(out / size, expected, rtol=1e-5)


def test_second_order_cone_has_three_regions():
    project = prox.second_order_cone()
    np.testing.assert_array_equal(project(jnp.array([5.0, 3, 4])), [5, 3, 4])
    np.testing.assert_array_equal(project(jnp.array([-5.0, 3, 4])), [0, 0, 0])
    np.testing.assert_allclose(project(jnp.array([0.0, 3, 4])), [2.5, 1.5, 2])


def test_what_is_no_matrix_is_refused():
    with pytest.raises(ValueError, match=r"matrices in the last two axes.*\(3,\)"):
        prox.nuclear_norm(1.0)(jnp.ones(3))
    with pytest.raises(ValueError, match=r"square matrices.*\(2, 3\)"):
        prox.psd_cone()(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="weight must hold one number for each group"):
        prox.nuclear_norm(np.ones((2, 3)))(jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="weight must be at least zero"):
        prox.nuclear_norm(-1.0)
    with pytest.raises(ValueError, match="height of a cone"):
        prox.second_order_cone(axis=0)(jnp.ones((0, 2)))
