"""Proximal, projection and mirror links: the methods they make of a chain."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import prox, transforms

RNG = np.random.default_rng(0)
A = RNG.normal(size=(12, 5))
B = RNG.normal(size=12)


def gradient(x):
    return jnp.asarray(A.T) @ (jnp.asarray(A) @ x - jnp.asarray(B))


def iterates(transform, x, steps, gradient=gradient, **extra):
    state = transform.init(x)
    for _ in range(steps):
        updates, state = transform.update(gradient(x), state, x, **extra)
        x = optax.apply_updates(x, updates)
        yield x


def test_after_gradient_steps_it_is_the_proximal_gradient_method(x64):
    link = transforms.proximal(prox.l1(1.5), 0.02)
    x = np.zeros(5)
    for ours in iterates(optax.chain(optax.sgd(0.02), link), jnp.zeros(5), 10):
        v = x - 0.02 * A.T @ (A @ x - B)
        x = np.sign(v) * np.maximum(np.abs(v) - 0.02 * 1.5, 0)
        np.testing.assert_allclose(ours, x, rtol=1e-10, atol=1e-14)
        np.testing.assert_array_equal(ours == 0, x == 0)


def test_after_adam_it_is_a_decoupled_penalty(x64):
    decay = 0.5
    link = transforms.proximal(prox.squared_l2(decay), 0.1)
    chain = optax.chain(optax.scale_by_adam(), optax.scale(-0.1), link)
    plain = optax.adam(0.1)
    x = jnp.ones(5)
    with jax.numpy_dtype_promotion("standard"):  # optax itself promotes
        (ours,) = iterates(chain, x, 1)
        (moved,) = iterates(plain, x, 1)
    np.testing.assert_allclose(ours, moved / (1 + 0.1 * decay), rtol=1e-12)


def test_the_learning_rate_may_be_a_schedule(x64):
    link = transforms.proximal(
        prox.l1(1.0), lambda count: jnp.where(count == 0, 0.1, 0.05)
    )
    xs = list(iterates(link, jnp.array([1.0]), 2, lambda x: 0 * x))
    np.testing.assert_allclose(jnp.stack(xs)[:, 0], [0.9, 0.85], rtol=1e-12)


def test_operators_may_depend_on_data():
    link = transforms.proximal(prox.of_data(lambda data: prox.l1(data["weight"])), 0.5)
    x, still = jnp.array([3.0, -0.5]), lambda x: 0 * x
    (new,) = iterates(link, x, 1, still, data={"weight": 2.0})
    np.testing.assert_allclose(new, [2.0, 0.0])
    with pytest.raises(ValueError, match="data=data"):
        link.update(x, link.init(x), x)


def test_projections_keep_params_in_a_set(x64):
    theirs = lambda x: optax.projections.projection_hypercube(x, 0.3)
    for project in (theirs, prox.box(0.0, 0.3)):
        transform = optax.chain(optax.sgd(0.05), transforms.projected(project))
        x = np.full(5, 0.2)
        for ours in iterates(transform, jnp.asarray(x), 10):
            x = np.clip(x - 0.05 * A.T @ (A @ x - B), 0, 0.3)
            np.testing.assert_allclose(ours, x, rtol=1e-10, atol=1e-12)
    boxes = prox.of_data(lambda top: prox.box(0.0, top))
    (top,) = iterates(
        transforms.projected(boxes), jnp.ones(2), 1, jnp.ones_like, data=1.5
    )
    np.testing.assert_allclose(top, 1.5)


def test_after_gradient_steps_mirror_steps_are_multiplicative_weights(x64):
    transform = optax.chain(optax.sgd(0.3), transforms.mirror(prox.entropy_map()))
    x = np.full(5, 0.2)
    for ours in iterates(transform, jnp.asarray(x), 10):
        x = x * np.exp(-0.3 * A.T @ (A @ x - B))
        x = x / x.sum()
        np.testing.assert_allclose(ours, x, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_mirror_steps_go_on_from_entries_that_params_cannot_hold(dtype):
    transform = transforms.mirror(prox.entropy_map())
    x = jnp.array([0.9, 0.1], dtype)
    state, losses = transform.init(x), jnp.array([-5.0, 5.0], dtype)
    # It falls far below the rounding of the other entry, and comes back.
    for sign in (1, 1, 1, 1, -1, -1, -1, -1):
        steps, state = transform.update(sign * losses, state, x)
        x = optax.apply_updates(x, steps)
        assert jnp.all(x >= 0)
    np.testing.assert_allclose(x.astype(jnp.float32), [0.9, 0.1], rtol=0.02)


def test_mirror_steps_start_from_params_that_were_changed(x64):
    transform = transforms.mirror(prox.entropy_map())
    x, zero = jnp.array([0.9, 0.1]), jnp.zeros(2)
    _, state = transform.update(zero, transform.init(x), x)
    steps, _ = transform.update(zero, state, jnp.array([0.5, 0.5]))
    np.testing.assert_allclose(steps, 0, atol=1e-15)


def test_steps_that_are_not_finite_are_handed_on():
    x = jnp.ones(2)
    for link in (
        transforms.proximal(prox.box(0.0, 2.0), 1.0),
        transforms.projected(lambda x: jnp.clip(x, 0, 2)),
        transforms.mirror(prox.euclidean_map(prox.box(0.0, 2.0))),
    ):
        for bad in (jnp.inf, jnp.nan):
            steps, state = link.update(x.at[0].set(bad), link.init(x), x)
            assert not jnp.isfinite(steps[0])
            steps, _ = link.update(x / 2, state, x)
            np.testing.assert_allclose(steps, 0.5)


def test_they_are_differentiable_in_their_numbers(x64):
    def shrunk(weight):
        link = transforms.proximal(prox.l1(weight), 0.5)
        x = jnp.array([2.0, 0.1])
        return jnp.sum(x + link.update(0 * x, link.init(x), x)[0])

    np.testing.assert_allclose(jax.grad(shrunk)(1.0), -0.5)


def test_bad_input_is_refused():
    x = jnp.ones(2)
    with pytest.raises(ValueError, match="call it first"):
        transforms.proximal(prox.l1, 0.1)
    with pytest.raises(ValueError, match="proximal operator is a function"):
        transforms.proximal(0.1, 0.1)
    with pytest.raises(ValueError, match="projection must be a function"):
        transforms.projected(None)
    with pytest.raises(ValueError, match="mirror_map must be"):
        transforms.mirror(prox.simplex(1.0))
    for link in (
        transforms.proximal(prox.l1(1.0), 0.1),
        transforms.mirror(prox.entropy_map()),
    ):
        with pytest.raises(ValueError, match="moves the params"):
            link.update(x, link.init(x))
