"""Assignment: the best one, soft in training, straight through, exact in inference."""

import re
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxsolve import transport

RNG = np.random.default_rng(0)
hard = jax.jit(transport.hard_assignment)


@pytest.mark.parametrize("shape", [(4, 5, 5), (2, 3, 4), (2, 4, 3)])
def test_the_assignment_is_scipys(shape):
    scores = RNG.normal(size=shape).astype(np.float32)
    for found, one in zip(np.asarray(hard(scores)), scores, strict=True):
        expected = np.zeros(shape[1:])
        expected[linear_sum_assignment(one, maximize=True)] = 1
        np.testing.assert_array_equal(found, expected)


def test_forbidden_pairs_are_left_out_and_bad_scores_are_told():
    scores = RNG.normal(size=(4, 5, 5)).astype(np.float32) - 3
    forbidden = RNG.uniform(size=scores.shape) < 0.3
    forbidden[:, range(5), [1, 2, 3, 4, 0]] = False  # so that there is a matching
    scores[forbidden] = -np.inf
    scores[3, 0] = -np.inf  # and here there is not: all but one row
    for found, one in zip(np.asarray(hard(scores)), scores, strict=True):
        rows = np.any(one > -np.inf, 1)
        expected = np.zeros((5, 5))
        row, column = linear_sum_assignment(one[rows], maximize=True)
        expected[np.flatnonzero(rows)[row], column] = 1
        np.testing.assert_array_equal(found, expected)
    bad = np.stack([scores[0], np.full((5, 5), np.nan)]).astype(np.float32)
    found = hard(bad)
    np.testing.assert_array_equal(found[0], hard(scores)[0])
    assert np.all(np.isnan(found[1]))


def test_a_layer_is_soft_in_training_and_one_to_one_in_inference():
    scores = jnp.asarray(RNG.normal(size=(3, 4, 4)), jnp.bfloat16)
    matching = transport.SinkhornLayer(epsilon=0.3)
    layer = transport.AssignmentLayer(matching)
    program = lambda layer: re.sub(
        "0x[0-9a-f]+", "", str(jax.make_jaxpr(layer)(scores))
    )
    assert program(layer) == program(matching)
    used = eqx.nn.inference_mode(eqx.nn.Sequential([layer]))
    np.testing.assert_array_equal(used(scores), hard(scores))
    assert jax.eval_shape(layer, scores).dtype == used(scores).dtype == jnp.float32


def test_straight_through_is_hard_with_the_derivative_of_the_matching():
    scores = jnp.asarray(RNG.normal(size=(4, 4)), jnp.float32)
    matching = transport.SinkhornLayer(epsilon=0.5, trained=True)
    layer = transport.AssignmentLayer(matching, straight_through=True)
    probe = jnp.asarray(RNG.normal(size=(4, 4)), jnp.float32)

    @eqx.filter_jit
    @partial(eqx.filter_value_and_grad, has_aux=True)
    def loss(both):
        found = both[0](both[1])
        return jnp.sum(probe * found), found

    (_, found), (grads, slopes) = loss((layer, scores))
    np.testing.assert_array_equal(found, hard(scores))
    (_, soft), (soft_grads, soft_slopes) = loss((matching, scores))
    assert 0.1 < jnp.max(jnp.abs(soft - found)) < 0.9
    np.testing.assert_allclose(slopes, soft_slopes, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        grads.matching.log_epsilon, soft_grads.log_epsilon, rtol=1e-5
    )
    still = jax.grad(lambda s: jnp.sum(probe * transport.hard_assignment(s)))(scores)
    np.testing.assert_array_equal(still, 0)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: transport.hard_assignment(jnp.ones(3)), "scores"),
        (lambda: transport.hard_assignment(jnp.ones((3, 3), int)), "real"),
        (lambda: transport.AssignmentLayer()(jnp.ones((2, 3))), "n, n"),
    ],
)
def test_what_makes_no_sense_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
