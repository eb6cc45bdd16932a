"""Fenchel-Young losses of proximal operators: optax's own, definitions, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import prox

RNG = np.random.default_rng(0)
SCORES = RNG.normal(size=(20, 4)) * 2


def l1_norm(x):
    return 0.7 * jnp.sum(jnp.abs(x))


LOSSES = {
    "simplex": (prox.simplex(), None, np.eye(4)[1]),
    "box": (prox.box(0.0, 1.0), None, np.array([1.0, 0.0, 1.0, 0.0])),
    "identity": (prox.identity(), None, np.array([0.3, -1.0, 2.0, 0.0])),
    "l1": (prox.l1(0.7), l1_norm, np.array([0.0, -1.0, 0.5, 0.0])),
}


def test_on_the_simplex_it_is_optaxs_sparsemax_loss(x64):
    loss = jax.jit(jax.vmap(prox.fenchel_young_loss(prox.simplex()), (0, None)))
    labels = jnp.full(20, 1)
    with jax.numpy_dtype_promotion("standard"):  # optax itself promotes
        expected = optax.losses.multiclass_sparsemax_loss(jnp.asarray(SCORES), labels)
    np.testing.assert_allclose(loss(SCORES, np.eye(4)[1]), expected, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_value_is_the_definition_and_gradient_is_choice_less_target(x64, name):
    operator, value, target = LOSSES[name]
    loss = prox.fenchel_young_loss(operator, value)
    g = (lambda x: 0.0) if value is None else value
    omega = lambda x: x @ x / 2 + g(x)
    slopes = jax.jit(jax.vmap(jax.value_and_grad(loss), (0, None)))
    for scores, found, slope in zip(SCORES, *slopes(SCORES, target), strict=True):
        chosen = np.asarray(operator(jnp.asarray(scores)))
        conjugate = scores @ chosen - omega(chosen)
        expected = conjugate + omega(target) - scores @ target
        np.testing.assert_allclose(found, expected, atol=1e-12)
        np.testing.assert_allclose(slope, chosen - target, atol=1e-12)
        assert found >= np.sum((target - chosen) ** 2) / 2 - 1e-12


@pytest.mark.parametrize("name", LOSSES)
def test_derivatives_agree_with_central_differences(x64, name):
    operator, value, target = LOSSES[name]
    loss = jax.jit(prox.fenchel_young_loss(operator, value))
    scores, way, h = jnp.asarray(SCORES[0]), jnp.asarray(SCORES[1]), 1e-5
    gradient, hessian = jax.jit(jax.grad(loss)), jax.jit(jax.hessian(loss))
    ahead, behind = (gradient(scores + s * h * way, target) for s in (1, -1))
    np.testing.assert_allclose(
        hessian(scores, target) @ way, (ahead - behind) / (2 * h), atol=1e-6
    )
    inside = jnp.array([0.1, 0.2, 0.3, 0.4])
    slope = jax.grad(loss, argnums=1)(scores, inside)
    ahead, behind = (loss(scores, inside + s * h * way) for s in (1, -1))
    np.testing.assert_allclose(slope @ way, (ahead - behind) / (2 * h), atol=1e-6)


def test_large_scores_do_not_cancel():
    loss = prox.fenchel_young_loss(prox.simplex())
    scores = jnp.array([1e4, 1e4 + 0.5])
    np.testing.assert_allclose(loss(scores, jnp.array([0.0, 1.0])), 0.0625, rtol=1e-3)


def test_it_is_zero_just_where_the_choice_is_the_target():
    loss = prox.fenchel_young_loss(prox.simplex())
    target = jnp.array([0.0, 1.0, 0.0])
    assert loss(jnp.array([0.0, 2.0, 0.5]), target) == 0
    assert loss(jnp.array([0.0, 2.0, 1.5]), target) > 0


def test_trees_of_low_precision_are_taken():
    loss = prox.fenchel_young_loss(prox.box(0.0, 1.0))
    scores = {"a": jnp.array([2.0, -1.0], jnp.bfloat16), "b": jnp.array(0.5)}
    targets = {"a": jnp.array([1, 0]), "b": jnp.array(0.5)}
    value, slope = jax.value_and_grad(loss)(scores, targets)
    assert value.dtype == jnp.float32 and value == 0
    assert slope["a"].dtype == jnp.bfloat16
