"""M-FAC: the paper's updates, dense inverses, the window, hard logistic regression."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxsolve import transforms

RNG = np.random.default_rng(0)


def lu_without_pivots(matrix):
    upper = matrix.copy()
    for i in range(len(upper)):
        for k in range(i + 1, len(upper)):
            upper[k] -= upper[k, i] / upper[i, i] * upper[i]
    return upper


def papers(gradients, damping, m):
    """The dynamic algorithm of Frantar et al. (2021), of coefficients of gradients."""
    window, products, last = np.zeros((m, gradients.shape[1])), np.zeros((m, m)), 0
    for g in gradients:
        window[last] = g
        row = window @ g
        products[last] = products[:, last] = row
        last = (last + 1) % m
        shifted = lu_without_pivots(products / damping + m * np.eye(m))
        d = np.triu(shifted) - m * np.eye(m)
        q = m + np.diag(d)
        b = np.eye(m) / damping
        for i in range(1, m):
            b[i, :i] = -(d[:i, i] / q[:i]) @ b[:i, :i]
        s = row / damping
        for i in range(m - 1):
            s[i + 1 :] -= d[i, i + 1 :] * s[i] / q[i]
        yield g / damping - window.T @ (b.T @ (s / q))


def taken(transform, gradients, params):
    state, steps = transform.init(params), []
    for g in gradients:
        step, state = transform.update(jnp.asarray(g), state, params)
        steps.append(step)
    return steps, state


def test_first_steps_are_the_papers(x64):
    gradients, m, damping = RNG.normal(size=(13, 20)), 8, 1e-2
    transform = transforms.scale_by_m_fac(damping, memory=m)
    steps, _ = taken(transform, gradients, jnp.zeros(20))
    for step, expected in zip(steps, papers(gradients, damping, m), strict=True):
        np.testing.assert_allclose(step, expected, rtol=1e-10, atol=1e-10)


def test_steps_with_momentum_and_decay_are_the_authors(x64):
    gradients, m, damping, decay = RNG.normal(size=(7, 5)), 3, 0.1, 0.2
    transform = transforms.m_fac(
        0.5, damping, memory=m, momentum=0.9, weight_decay=decay
    )
    x = RNG.normal(size=5)
    steps, _ = taken(transform, gradients, jnp.asarray(x))
    buffer, window = np.zeros(5), np.zeros((m, 5))
    for k, (step, g) in enumerate(zip(steps, gradients, strict=True)):
        window[k % m] = g + decay * x
        fisher = damping * np.eye(5) + window.T @ window / m
        buffer = 0.9 * buffer + 0.1 * np.linalg.solve(fisher, g + decay * x)
        np.testing.assert_allclose(step, -0.5 * buffer, rtol=1e-10, atol=1e-12)


def test_a_window_that_went_round_holds_the_last_gradients(x64):
    gradients, m = RNG.normal(size=(13, 20)), 8
    transform = transforms.scale_by_m_fac(1e-3, memory=m)
    steps, state = taken(transform, gradients, jnp.zeros(20))
    fresh_steps, fresh = taken(transform, gradients[-m:], jnp.zeros(20))
    np.testing.assert_allclose(steps[-1], fresh_steps[-1], rtol=1e-10, atol=1e-10)
    order = np.roll(np.arange(m), -int(state.position))
    np.testing.assert_array_equal(state.window[order], fresh.window)
    products = state.window @ state.window.T
    np.testing.assert_allclose(state.products, products, rtol=1e-12, atol=1e-12)


def test_leaves_of_a_tree_are_one_vector(x64):
    gradients = RNG.normal(size=(5, 7))
    split = lambda g: {"a": g[:6].reshape(2, 3), "b": g[6]}
    transform = transforms.scale_by_m_fac(0.1, memory=3)
    steps, _ = taken(transform, gradients, jnp.zeros(7))
    state = transform.init(split(jnp.zeros(7)))
    for g, step in zip(gradients, steps, strict=True):
        parts, state = transform.update(split(jnp.asarray(g)), state)
        np.testing.assert_allclose(parts["a"].ravel(), step[:6], rtol=1e-10)
        np.testing.assert_allclose(parts["b"], step[6], rtol=1e-10)


def logistic(x, batch):
    rows, labels = batch
    return jnp.mean(jnp.logaddexp(0, -labels * (rows @ x)))


def test_it_beats_gradient_descent_on_an_ill_conditioned_logistic_regression(x64):
    rows = RNG.normal(size=(500, 30)) * np.logspace(0, 2, 30)
    labels = np.sign(rows @ (RNG.normal(size=30) / np.logspace(0, 2, 30)))
    picks = jnp.asarray(RNG.integers(0, 500, (400, 50)))
    data = jnp.asarray(rows), jnp.asarray(labels)

    def final(transform):
        def step(carry, pick):
            x, state = carry
            grad = jax.grad(logistic)(x, jax.tree.map(lambda leaf: leaf[pick], data))
            update, state = transform.update(grad, state, x)
            return (x + update, state), None

        start = jnp.zeros(30), transform.init(jnp.zeros(30))
        return logistic(jax.lax.scan(step, start, picks)[0][0], data)

    ours = jax.jit(lambda: final(transforms.m_fac(1e-2, 1e-4, memory=64)))()
    rates = jnp.array([1e-5, 1e-4, 1e-3, 1e-2])
    sgd = jax.jit(jax.vmap(lambda rate: final(optax.sgd(rate))))(rates)
    assert ours < 0.12 and jnp.min(sgd) > 2 * ours


def test_like_gradients_and_little_damping_give_finite_steps_in_float32():
    # Without a ridge at rounding, a Cholesky factor of their products does not exist.
    g = 100 * jnp.asarray(RNG.normal(size=50), jnp.float32)
    transform = transforms.scale_by_m_fac(1e-6, memory=16)
    steps, _ = taken(transform, [g * (1 + 1e-7 * k) for k in range(40)], g)
    step, along = steps[-1], g / jnp.linalg.norm(g)
    np.testing.assert_allclose(step @ along, 1 / jnp.linalg.norm(g), rtol=0.05)
    assert step @ along > 0.95 * jnp.linalg.norm(step)


def test_steps_of_gradients_that_are_not_finite_are_not_finite():
    g = jnp.array([1.0, 2.0])
    transform = transforms.scale_by_m_fac(memory=2)
    for bad in (jnp.nan, jnp.inf, 1e25):
        _, state = transform.update(g, transform.init(g))
        step, after = transform.update(g.at[0].set(bad), state)
        assert not jnp.any(jnp.isfinite(step))
        jax.tree.map(np.testing.assert_array_equal, state, after)


def test_the_window_is_sharded_as_params_are():
    mesh = jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    x = jax.device_put(jnp.ones((16, 2)), NamedSharding(mesh, PartitionSpec("i")))
    transform = transforms.scale_by_m_fac(memory=3)
    state = transform.init(x)
    _, after = jax.jit(transform.update)(x, state)
    for window in (state.window, after.window):
        spread = NamedSharding(mesh, PartitionSpec(None, "i"))
        assert window.sharding.is_equivalent_to(spread, 3)


@pytest.mark.parametrize(
    "options",
    [
        dict(damping=0.0),
        dict(damping=np.inf),
        dict(damping=np.ones(2)),
        dict(memory=0),
        dict(memory=True),
        dict(momentum=1.0),
    ],
    ids=str,
)
def test_static_mistakes_are_value_errors(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        transforms.m_fac(0.1, **options)
