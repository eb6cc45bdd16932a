"""Operators made of operators: identities between them, and what they refuse."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import prox

X = np.array([3.0, -0.5, 0.2, -2.0, 1.0], np.float32)
close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)


class Model(NamedTuple):
    weights: dict
    bias: jax.Array


MODEL = Model({"in": jnp.ones((2, 3)), "out": jnp.ones(3)}, jnp.ones(()))


def shrink(params, stepsize):
    """A user's own prox, of half the squared norm, without a default stepsize."""
    return jax.tree.map(lambda x: x / (1 + jnp.asarray(stepsize, x.dtype)), params)


def test_half_the_squared_norm_is_its_own_conjugate():
    close(prox.conjugate(shrink)(X, 0.7), shrink(X, 0.7))


def test_conjugate_of_a_bfloat16_operator_rounds_once():
    x = jnp.asarray(X, jnp.bfloat16)
    out = prox.conjugate(prox.l2_ball(0.3))(x, 3.0)
    expected = prox.group_lasso(0.3)(x, 3.0)
    np.testing.assert_array_equal(out.astype(jnp.float32), expected.astype(jnp.float32))


def test_elastic_net_is_l1_plus_a_quadratic():
    both = prox.add_quadratic(prox.l1(0.7), 0.4)
    close(both(X, 1.5), prox.elastic_net(0.7, 0.4)(X, 1.5))


def test_translating_and_stretching_the_l2_ball_moves_and_shrinks_it():
    moved = prox.translate(prox.scale_argument(prox.l2_ball(1.0), 2.0), 1.0)
    away = X - 1
    close(moved(X), 1 + 0.5 * away / np.linalg.norm(away))


def test_scale_weighs_entries_and_leaves():
    weight = np.array([0.0, 1, 2, 3, 4])
    close(prox.scale(prox.l1(0.1), weight)(X), prox.l1(0.1 * weight)(X))
    params = {"a": jnp.asarray(X), "b": jnp.asarray(X)}
    out = prox.scale(prox.l1(0.1), {"a": 1.0, "b": 2.0})(params, 0.5)
    close(out["b"], prox.l1(0.1)(X))


def test_separable_sum_takes_a_prefix_of_params():
    proxes = Model(weights=prox.group_lasso(1.0), bias=prox.identity())
    out = prox.separable_sum(proxes)(MODEL, 1.5)
    close(out.weights["in"], np.full((2, 3), 0.5))
    assert out.bias == 1 and isinstance(out, Model)


def test_separable_sum_takes_a_stepsize_for_each_part():
    operator = prox.separable_sum(Model(prox.l1(1.0), prox.l1(1.0)))
    out = jax.jit(operator)(MODEL, Model(jnp.float32(0.25), jnp.float32(0.5)))
    close(out.weights["out"], np.full(3, 0.75))
    close(out.bias, 0.5)


def test_separable_sum_is_differentiable_in_numbers_of_its_parts():
    def total(w):
        operator = prox.separable_sum(Model(prox.l1(w), prox.squared_l2(w)))
        return sum(jnp.sum(x) for x in jax.tree.leaves(operator(MODEL)))

    close(jax.grad(total)(0.5), -9 - 1 / 1.5**2)


def test_separable_sum_refuses_parts_that_do_not_match():
    with pytest.raises(ValueError, match="params must have one part for each"):
        prox.separable_sum({"a": prox.l1(1.0)})({"b": X})
    with pytest.raises(ValueError, match=r"one part.*prox\.identity\(\)"):
        prox.separable_sum({"a": prox.l1(1.0), "b": None})({"a": X, "b": X})
    with pytest.raises(ValueError, match="stepsize must have one part for each"):
        prox.separable_sum({"a": prox.l1(1.0)})({"a": X}, {"b": 1.0})
    with pytest.raises(ValueError, match="must be a pytree of proximal operators"):
        prox.separable_sum({"a": 1.0})


@pytest.mark.parametrize("combinator", [prox.scale, prox.add_quadratic])
def test_negative_weight_is_refused(combinator):
    with pytest.raises(ValueError, match="weight must be at least zero"):
        combinator(prox.l1(1.0), -1.0)


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"shift must broadcast.*\(2,\).*\(5,\)"):
        prox.translate(prox.l1(1.0), np.ones(2))(X)
    with pytest.raises(ValueError, match=r"weight must broadcast.*\(2,\).*\(5,\)"):
        prox.scale(prox.l1(1.0), np.ones(2))(X)
    with pytest.raises(ValueError, match="factor must be a scalar other than zero"):
        prox.scale_argument(prox.l1(1.0), 0.0)
    with pytest.raises(ValueError, match="factor must be a scalar other than zero"):
        prox.scale_argument(prox.l1(1.0), np.ones(5))
