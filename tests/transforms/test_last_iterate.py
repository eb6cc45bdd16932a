"""The last iterate: the proved inequality path by path, linear decay, the record."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import schedules, transforms

RNG = np.random.default_rng(0)
PLANES = RNG.normal(size=(20, 4))


def max_affine(x, offsets):
    return jnp.max(PLANES @ x + offsets)


def run(transform, gradient, start, steps):
    """The iterates, and the gradients there."""
    x, state, points, slopes = jnp.asarray(start), None, [], []
    state = transform.init(x)
    for _ in range(steps):
        g = gradient(x)
        points.append(x)
        slopes.append(g)
        updates, state = transform.update(g, state, x)
        x = optax.apply_updates(x, updates)
    return np.array(points), np.array(slopes)


@pytest.mark.parametrize("seed", range(8))
def test_regret_bounds_the_last_iterate_on_every_path(seed, x64):
    rng, steps = np.random.default_rng(seed), 12
    weights, offsets = rng.uniform(0.1, 3, steps), rng.normal(size=20)
    moves = 0.3 * rng.normal(size=(steps, 4))  # a base that does as it likes

    def update(updates, count, params=None):
        del updates, params
        return jnp.asarray(moves)[jnp.minimum(count, steps - 1)], count + 1

    base = optax.GradientTransformation(lambda p: jnp.zeros((), jnp.int32), update)
    converted = transforms.last_iterate(base, steps, weights=weights)
    gradient = jax.jit(jax.grad(lambda x: max_affine(x, offsets)))
    start, other = rng.normal(size=4), rng.normal(size=4)
    points, slopes = run(converted, gradient, start, steps)
    virtual = start + np.concatenate([np.zeros((1, 4)), np.cumsum(moves, 0)[:-1]])
    regret = np.sum(weights * np.sum(slopes * (virtual - other), axis=1))
    gap = max_affine(points[-1], offsets) - max_affine(other, offsets)
    assert gap <= regret / weights.sum() + 1e-12
    for t in range(steps - 1):
        factor = weights[t + 1 :].sum() / weights.sum()
        moved = points[t] + factor * moves[t]
        np.testing.assert_allclose(points[t + 1], moved, rtol=1e-10)


def test_equal_weights_give_linear_decay_of_any_transformation(x64):
    steps, start = 20, RNG.normal(size=4)
    gradient = lambda x: 2 * x
    decayed = optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.1, momentum=0.5))
    for base in (optax.rmsprop(0.1), decayed):
        converted = transforms.last_iterate(base, steps)
        decay = lambda count: jnp.maximum(0.95 - jnp.asarray(count, float) / 20, 0)
        linear = optax.chain(base, optax.scale_by_schedule(decay))
        weighted = transforms.last_iterate(base, steps, weights=np.ones(steps))
        points, _ = run(converted, gradient, start, 25)
        for other in (linear, weighted):
            again, _ = run(other, gradient, start, 25)
            np.testing.assert_allclose(points, again, rtol=1e-10, atol=1e-12)
        np.testing.assert_array_equal(points[20:], points[20:][:1].repeat(5, 0))


def test_linear_decay_keeps_its_bound_on_noisy_subgradients():
    steps, distance = 400, 1.0
    size = distance / np.sqrt(2 * steps)  # |sign + noise|^2 is 2 in the mean
    converted = transforms.last_iterate(optax.sgd(size), steps)

    def single(key):
        def step(carry, noise):
            x, state = carry
            updates, state = converted.update(jnp.sign(x) + noise, state, x)
            return (x + updates, state), None

        noises = jax.random.normal(key, (steps - 1,))
        start = jnp.ones(())
        return abs(jax.lax.scan(step, (start, converted.init(start)), noises)[0][0])

    gaps = jax.vmap(single)(jax.random.split(jax.random.key(0), 50))
    assert jnp.mean(gaps) <= distance * np.sqrt(2 / steps)


@pytest.mark.parametrize("order", [1, 2])
def test_norms_are_recorded_over_all_leaves(order, x64):
    grads = RNG.normal(size=(7, 5))
    transform = transforms.record_gradient_norms(5, order=order)
    params = {"a": jnp.zeros((2, 1)), "b": jnp.zeros(3)}
    state = transform.init(params)
    for g in grads:
        tree = {"a": jnp.asarray(g[:2, None]), "b": jnp.asarray(g[2:])}
        same, state = transform.update(tree, state)
        assert same["a"] is tree["a"]
    expected = np.linalg.norm(grads[:5], ord=order, axis=1)
    np.testing.assert_allclose(optax.tree.get(state, "norms"), expected, rtol=1e-12)
    assert state.count == 7


def test_a_recorded_run_refines_the_schedule_of_the_next():
    """A sum of distances, five times as steep far away, where the run begins."""
    steps, start = 200, jnp.full(6, 6.0)
    centres = jnp.asarray(np.random.default_rng(0).normal(size=(100, 6)), jnp.float32)

    def loss(x, centres):
        away = jnp.linalg.norm(x[None] - centres, axis=1)
        return jnp.mean(away + 4 * jnp.maximum(away - 4, 0))

    def train(schedule, key):
        recorder = transforms.record_gradient_norms(steps)
        chain = optax.chain(recorder, optax.sgd(schedule))

        def step(carry, key):
            x, state = carry
            batch = centres[jax.random.randint(key, (4,), 0, 100)]
            grad = jax.grad(loss)(x, batch)
            updates, state = chain.update(grad, state, x)
            return (x + updates, state), None

        keys = jax.random.split(key, steps)
        (x, state), _ = jax.lax.scan(step, (start, chain.init(start)), keys)
        return loss(x, centres), optax.tree.get(state, "norms")

    keys = jax.random.split(jax.random.key(0), 10)
    mean = lambda schedule: jnp.mean(jax.vmap(lambda k: train(schedule, k)[0])(keys))
    norms = jax.jit(lambda: train(schedules.linear_decay(0.2, steps), keys[0])[1])()
    schedule = schedules.refined(norms, 0.2)
    assert schedule(0) < 0.02 and schedule(steps - 1) == 0  # a warm-up, and a decay
    refined, constant = jax.jit(lambda: (mean(schedule), mean(lambda count: 0.05)))()
    least = loss(jnp.zeros(6), centres) - 0.02  # the centres are around zero
    assert refined < constant and refined < least + 0.05


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="must be an optax transformation"):
        transforms.last_iterate(0.1, 4)
    with pytest.raises(ValueError, match="as many weights"):
        transforms.last_iterate(optax.sgd(1.0), 4, weights=jnp.ones(3))
    with pytest.raises(ValueError, match="steps must be one"):
        transforms.last_iterate(optax.sgd(1.0), 0)
    for steps in (0, 2.0):
        with pytest.raises(ValueError, match="positive integer"):
            transforms.record_gradient_norms(steps)
    with pytest.raises(ValueError, match="order must be 1 or 2"):
        transforms.record_gradient_norms(3, order=3)
