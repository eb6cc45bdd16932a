"""AdaGrad-Norm: the paper's iterates and its rate, whatever the learning rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import transforms

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_first_iterates_are_the_papers(x64, decay):
    transform = transforms.adagrad_norm(0.3, 0.04, weight_decay=decay)
    start = RNG.normal(size=6)
    x, v = start.copy(), 0.04
    params = {"a": jnp.asarray(start[:4]).reshape(2, 2), "b": jnp.asarray(start[4:])}
    state = transform.init(params)
    for _ in range(10):
        g = RNG.normal(size=6)
        v += g @ g
        x = x - 0.3 * (g / np.sqrt(v) + decay * x)
        grads = {"a": jnp.asarray(g[:4]).reshape(2, 2), "b": jnp.asarray(g[4:])}
        steps, state = transform.update(grads, state, params)
        params = optax.apply_updates(params, steps)
        flat = np.concatenate([params["a"].ravel(), params["b"]])
        np.testing.assert_allclose(flat, x, rtol=1e-10, atol=1e-12)


def test_with_one_parameter_it_is_adagrad():
    ours, theirs = transforms.scale_by_adagrad_norm(0.1), optax.scale_by_rss(0.1, 0.0)
    g = jnp.array([2.0])
    step, _ = ours.update(g, ours.init(g))
    other, _ = theirs.update(g, theirs.init(g))
    np.testing.assert_allclose(step, other, rtol=1e-6)


@pytest.mark.parametrize("eta", [0.01, 1.0, 100.0])
def test_squared_gradients_fall_as_one_over_the_steps(x64, eta):
    # 1 - exp(-|x|^2 / 2) summed over entries: smooth with L = 1, and not convex. The
    # sum of squared gradients is below B^2, with B = b + f / eta + eta log(B / b).
    fun = lambda x: jnp.sum(1 - jnp.exp(-(x**2) / 2))
    transform, b = transforms.adagrad_norm(eta, 0.01), 0.1
    x = jnp.asarray(RNG.normal(size=10))

    def step(carry, _):
        x, state = carry
        grad = jax.grad(fun)(x)
        update, state = transform.update(grad, state)
        return (x + update, state), jnp.sum(grad**2)

    squares = jax.lax.scan(step, (x, transform.init(x)), length=2000)[1]
    bound = 1.0
    for _ in range(200):
        bound = b + fun(x) / eta + eta * np.log(bound / b)
    steps = np.arange(1, 2001)
    assert np.all(steps * np.minimum.accumulate(squares) <= bound**2)


def test_zero_gradients_and_bad_ones():
    transform = transforms.scale_by_adagrad_norm()
    g = jnp.zeros(2)
    step, state = transform.update(g, transform.init(g))
    np.testing.assert_array_equal(step, 0)
    np.testing.assert_allclose(state.root, 0.1, rtol=1e-6)
    for bad in (jnp.nan, jnp.inf):
        step, after = transform.update(g.at[0].set(bad), state)
        assert not jnp.any(jnp.isfinite(step))
        assert after.root == state.root


@pytest.mark.parametrize("first", [0.0, -1.0, np.inf, np.ones(2)])
def test_static_mistakes_are_value_errors(first):
    with pytest.raises(ValueError, match="initial_accumulator_value must be"):
        transforms.adagrad_norm(0.1, first)
