"""StableMax: the authors' probabilities, and losses that do not saturate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import transforms

RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.normal(size=(6, 4))
LABELS = RNG.integers(0, 4, 6)
DENSE = transforms.stablemax_cross_entropy
SPARSE = transforms.stablemax_cross_entropy_with_integer_labels


def authors(logits):
    s = np.where(logits >= 0, logits + 1, 1 / (1 - np.minimum(logits, 0)))
    return s / np.sum(s, -1, keepdims=True)


def test_probabilities_and_losses_are_the_authors(x64):
    logits = jnp.asarray(LOGITS)
    expected = np.log(authors(LOGITS))
    np.testing.assert_allclose(transforms.log_stablemax(logits), expected, rtol=1e-12)
    picked = -expected[np.arange(6), LABELS]
    sparse = SPARSE(logits, jnp.asarray(LABELS))
    np.testing.assert_allclose(sparse, picked, rtol=1e-12)
    dense = DENSE(logits, jax.nn.one_hot(LABELS, 4, dtype=int))
    np.testing.assert_allclose(dense, picked, rtol=1e-12)


def test_a_softmax_in_float32_saturates_where_it_does_not():
    near, far = jnp.array([30.0, 0.0, 0.0]), jnp.array([3e4, 0.0, 0.0])
    softmax = optax.softmax_cross_entropy_with_integer_labels
    label = jnp.array(0)
    assert jax.nn.softmax(near)[0] == 1 and softmax(near, label) == 0
    assert jax.grad(softmax)(near, label)[0] == 0
    np.testing.assert_allclose(SPARSE(far, label), 6.7e-5, rtol=0.01)
    grad = jax.grad(SPARSE)(far, label)
    assert grad[0] < 0 and jnp.all(grad[1:] > 0)
    one_hot = jnp.array([1.0, 0.0, 0.0])
    np.testing.assert_allclose(DENSE(far, one_hot), 6.7e-5, rtol=0.01)
    assert SPARSE(1e6 * near / 30, label) > 0


@pytest.mark.parametrize("dtype, lead", [("float32", 16.6), ("float16", 7.6)])
def test_collapse_is_the_share_of_samples_whose_softmax_is_one(dtype, lead):
    leads = jnp.array([[lead + 0.5], [lead - 0.5], [40.0], [-40.0]])
    logits = jnp.concatenate([leads, jnp.zeros((4, 1))], axis=1).astype(dtype)
    share = transforms.softmax_collapse(logits, jnp.zeros(4, int))
    assert share == 0.5 and share.dtype == jnp.float32


def test_it_is_smooth_where_its_branches_meet(x64):
    logits = jnp.zeros(2)
    jacobian = jax.jacrev(transforms.log_stablemax)(logits)
    np.testing.assert_allclose(jacobian, [[0.5, -0.5], [-0.5, 0.5]], rtol=1e-12)
    for x in (-1e-9, 1e-9, -2.0, 2.0):
        slope = jax.grad(lambda x: transforms.log_stablemax(jnp.stack([x, 0.0 * x]))[0])
        p = np.exp(transforms.log_stablemax(jnp.array([x, 0.0])))
        np.testing.assert_allclose(slope(x), p[1] / (1 + abs(x)), rtol=1e-12)


def test_axes_and_masks_are_optax_s(x64):
    logits = jnp.asarray(LOGITS).T
    one_hot = jax.nn.one_hot(LABELS, 4, axis=0, dtype=jnp.float32)
    expected = -np.log(authors(LOGITS))[np.arange(6), LABELS]
    np.testing.assert_allclose(DENSE(logits, one_hot, 0), expected, rtol=1e-12)
    np.testing.assert_allclose(SPARSE(logits, jnp.asarray(LABELS), 0), expected)
    where = jnp.array([True, True, False, True])
    shown = jnp.asarray(LOGITS).at[:, 2].set(1e9)
    kept = np.delete(LOGITS, 2, 1)
    ours = transforms.log_stablemax(shown, where=where[None])
    np.testing.assert_allclose(np.delete(ours, 2, 1), np.log(authors(kept)), rtol=1e-12)


def test_narrow_logits_lose_nothing_but_their_rounding():
    logits = jnp.array([3e4, 0.0, 0.0], jnp.bfloat16)
    loss = SPARSE(logits, jnp.array(0))
    assert loss.dtype == jnp.bfloat16 and 6e-5 < loss < 7.5e-5
    assert transforms.log_stablemax(logits).dtype == jnp.bfloat16


def test_logits_must_be_real():
    for wrong in (jnp.arange(3), jnp.ones(3, jnp.complex64)):
        with pytest.raises(ValueError, match="logits must be"):
            transforms.log_stablemax(wrong)
