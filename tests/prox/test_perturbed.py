"""Perturbed maxima: their gradients, a closed form, the estimators of the paper."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import perturbations

from jaxsolve import prox

SCORES = jnp.array([0.3, -0.2, 0.8])
KEY = jax.random.key(0)
WEIGHTS = jnp.array([1.0, -2.0, 3.0])


def one_hot(scores):
    return jax.nn.one_hot(jnp.argmax(scores), 3, dtype=scores.dtype)


def samples_of(key, count, noise):
    """The noise of optax's estimator: a key for each sample, then one for the leaf."""
    draw = lambda key: noise.sample(jax.random.split(key, 1)[0], (3,), jnp.float32)
    return np.asarray(jax.vmap(draw)(jax.random.split(key, count)), np.float64)


@pytest.mark.parametrize(
    "noise", [None, perturbations.Normal()], ids=["gumbel", "normal"]
)
def test_value_and_gradient_are_the_means_of_the_paper(noise):
    smooth = prox.perturbed_max(one_hot, 0.5, samples=200, noise=noise)
    value, slope = jax.value_and_grad(smooth)(SCORES, key=KEY)
    z = samples_of(KEY, 200, noise or perturbations.Gumbel())
    moved = np.asarray(SCORES) + 0.5 * z
    np.testing.assert_allclose(value, np.mean(np.max(moved, 1)), rtol=1e-5)
    chosen = np.eye(3)[np.argmax(moved, 1)]
    np.testing.assert_allclose(slope, np.mean(chosen, 0), atol=1e-6)


def test_the_gradient_is_optaxs_perturbed_argmax_and_so_is_its_own_derivative():
    smooth = prox.perturbed_max(one_hot, 0.5, samples=500)
    choice = perturbations.make_perturbed_fun(one_hot, 500, 0.5)
    gradient = jax.grad(lambda x: smooth(x, key=KEY))
    both = jax.jit(lambda x: (gradient(x), jax.jacfwd(gradient)(x)))
    theirs = jax.jit(lambda x: (choice(KEY, x), jax.jacfwd(choice, 1)(KEY, x)))
    for ours, other in zip(both(SCORES), theirs(SCORES), strict=True):
        np.testing.assert_allclose(ours, other, atol=1e-5)


def test_gumbel_noise_on_the_simplex_gives_softmax_and_logsumexp():
    count, sigma = 100_000, 0.7
    smooth = jax.jit(
        jax.value_and_grad(prox.perturbed_max(one_hot, sigma, samples=count))
    )
    value, slope = smooth(SCORES, key=KEY)
    p = jax.nn.softmax(SCORES / sigma)
    standard = jnp.sqrt(p * (1 - p) / count)
    assert np.all(np.abs(slope - p) <= 4 * standard)
    # The maximum of perturbed scores is a Gumbel variable itself.
    exact = sigma * (jax.nn.logsumexp(SCORES / sigma) + np.euler_gamma)
    assert abs(value - exact) <= 4 * sigma * np.pi / np.sqrt(6 * count)


def test_the_control_variate_lowers_the_variance_of_the_second_derivative():
    scores, sigma = jnp.array([0.1, 0.0, 2.0]), 0.5
    estimates = {}
    for baseline in (False, True):
        choice = perturbations.make_perturbed_fun(
            one_hot, 50, sigma, use_baseline=baseline
        )
        slope = lambda key: jax.grad(lambda x: WEIGHTS @ choice(key, x))(scores)  # noqa: B023
        estimates[baseline] = jax.jit(jax.vmap(slope))(jax.random.split(KEY, 2000))
    smooth = prox.perturbed_max(one_hot, sigma, samples=50)
    ours = lambda key: jax.grad(
        lambda x: WEIGHTS @ jax.grad(lambda y: smooth(y, key=key))(x)
    )(scores)
    ours = jax.jit(jax.vmap(ours))(jax.random.split(KEY, 2000))
    np.testing.assert_allclose(ours, estimates[True], atol=1e-3)  # it is the better one
    spread = {k: np.sum(np.var(v, 0)) for k, v in estimates.items()}
    assert spread[True] < 0.3 * spread[False]
    p = np.asarray(jax.nn.softmax(scores / sigma), np.float64)
    exact = (np.diag(p) - np.outer(p, p)) @ np.asarray(WEIGHTS) / sigma
    standard = np.std(ours, 0) / np.sqrt(2000)
    assert np.all(np.abs(np.mean(ours, 0) - exact) <= 4 * standard + 1e-6)


def test_it_makes_a_fenchel_young_loss_whose_gradient_is_choice_less_target():
    smooth = prox.perturbed_max(one_hot, 0.5, samples=500)
    loss = optax.losses.make_fenchel_young_loss(lambda s: smooth(s, key=KEY))
    target = jnp.array([0.0, 1.0, 0.0])
    slope = jax.grad(loss)(SCORES, target)
    choice = jax.grad(lambda s: smooth(s, key=KEY))(SCORES)
    np.testing.assert_allclose(slope, choice - target, atol=1e-6)


def test_trees_lanes_and_double_precision(x64):
    scores = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(-1.0)}
    corner = lambda s: jax.tree.map(jnp.sign, s)  # of a cube
    smooth = prox.perturbed_max(corner, 0.1, samples=100, noise=perturbations.Normal())
    value, slope = jax.value_and_grad(smooth)(scores, key=KEY)
    assert value.dtype == slope["a"].dtype == jnp.float64
    np.testing.assert_allclose(value, 4.0, atol=0.05)
    np.testing.assert_allclose(slope["b"], -1.0)
    keys = jax.random.split(KEY, 3)
    lanes = jax.vmap(lambda k: smooth(scores, key=k))(keys)
    np.testing.assert_allclose(lanes[2], smooth(scores, key=keys[2]), rtol=1e-12)


@pytest.mark.parametrize("options", [dict(samples=0), dict(sigma=-1.0)], ids=str)
def test_static_mistakes_are_value_errors(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        prox.perturbed_max(one_hot, **{"sigma": 1.0, **options})
