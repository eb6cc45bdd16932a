"""Huge and tiny numbers, narrow and mixed dtypes, traced numbers, donated buffers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import prox, transforms


def two_classes(x):
    return jnp.stack([x.astype(jnp.float32), -x.astype(jnp.float32)], axis=-1)


NUMBERS = {  # of one traced number: what takes a learning rate, or a decay
    "m_fac": lambda r: transforms.m_fac(r, memory=2, weight_decay=r),
    "lion_k": lambda r: transforms.lion_k(r, weight_decay=r),
    "implicit lion_k": lambda r: transforms.lion_k(r, weight_decay=r, implicit=True),
    "adagrad_norm": lambda r: transforms.adagrad_norm(r, weight_decay=r),
    "normalized_logistic": lambda r: transforms.normalized_logistic(r, r),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_traced_rates_and_decays_keep_the_dtype_of_updates(name):
    x = jnp.array([0.5, 1.0], jnp.bfloat16)

    def step(rate):
        transform = NUMBERS[name](rate)
        return transform.update(x, transform.init(x), x, margins=jnp.ones(3))[0]

    for rate in (jnp.float32(0.1), np.float32(0.1)):
        traced = jax.jit(step)(jnp.asarray(rate))
        assert traced.dtype == jnp.bfloat16
        np.testing.assert_array_equal(traced, step(rate))


DONATED = {
    "mirror": (transforms.mirror(prox.euclidean_map()), {}),
    "target_surrogate": (
        transforms.target_surrogate(optax.sgd(0.1), steps=2),
        dict(target_fn=lambda x: x, target_grad=jnp.ones(2)),
    ),
    "m_fac": (transforms.m_fac(0.1, memory=3), {}),
}


@pytest.mark.parametrize("name", DONATED)
def test_params_and_state_may_be_donated_together(name):
    transform, extra = DONATED[name]

    def step(x, state):
        updates, state = transform.update(-x, state, x, **extra)
        return x + updates, state

    for init in (transform.init, jax.jit(transform.init)):
        x, kept = jnp.array([0.5, 0.25]), jnp.array([0.5, 0.25])
        state, other = init(x), init(kept)
        donating = jax.jit(step, donate_argnums=(0, 1))
        for _ in range(2):
            x, state = donating(x, state)
            kept, other = step(kept, other)
        np.testing.assert_allclose(x, kept, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-37, 1e-30, 1e30, 1e38, 3e38])
def test_updates_of_any_size_are_given_the_wanted_length(scale):
    x, p = jnp.array([0.5, 0.5]), scale * jnp.array([1.0, -0.5])
    along = np.array([2.0, -1.0]) / 5**0.5
    for target in (1e-3, 1.0):
        length = target * np.pi / (4 / 5**0.5)
        scaled = transforms.scale_to_softmax_radius(target)
        step, state = scaled.update(p, scaled.init(x), x, logits_fn=two_classes)
        np.testing.assert_allclose(step, length * along, rtol=1e-5)
        clip = transforms.clip_by_softmax_radius(target)
        step, state = clip.update(p, clip.init(x), x, logits_fn=two_classes)
        expected = p if scale < 1 else length * along
        np.testing.assert_allclose(step, expected, rtol=1e-5)
        assert np.isfinite(state.ratio) and state.ratio > 0


def test_tiny_updates_that_move_no_logits_stay_finite():
    x, same = jnp.ones(1), lambda x: jnp.stack([0 * x, 0 * x], axis=-1)
    scaled = transforms.scale_to_softmax_radius()
    step, _ = scaled.update(1e-27 * x, scaled.init(x), x, logits_fn=same)
    assert jnp.all(jnp.isfinite(step))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_factors_beyond_a_narrow_dtype_do_not_overflow(dtype):
    rtol = 8 * float(jnp.finfo(dtype).eps)
    close = lambda a, b: np.testing.assert_allclose(a.astype(float), b, rtol=rtol)
    x, p = jnp.array([0.5], dtype), jnp.array([1e-5], dtype)
    scaled = transforms.scale_to_softmax_radius(1.0)
    step, _ = scaled.update(p, scaled.init(x), x, logits_fn=two_classes)
    close(step, np.pi / 2)
    clip = transforms.clip_by_softmax_radius(1e-4)
    step, _ = clip.update(0 * p + 200, clip.init(x), x, logits_fn=two_classes)
    close(step, 1e-4 * np.pi / 2)
    margin = 12.0  # beyond the largest float16 is 1 / p
    logistic, g = transforms.scale_by_normalized_logistic(), p
    step, _ = logistic.update(g, logistic.init(x), margins=jnp.full(3, margin))
    close(step, float(g[0]) * (1 + np.exp(margin)))
    spread = transforms.scale_by_logit_spread(0.0, 1e6)
    near = lambda x: two_classes(1e-5 * x.astype(jnp.float32))
    step, _ = spread.update(p, spread.init(x), x, logits_fn=near)
    close(step, float(p[0]) * np.pi / (2e-5 * float(x[0])))


@pytest.mark.parametrize("scale", [1e-37, 1e-25, 1e-20, 1e20, 1e37])
@pytest.mark.parametrize("per_leaf", [True, False])
def test_gradients_and_params_of_any_size_are_projected(scale, per_leaf):
    transform = transforms.perp_grad(per_leaf=per_leaf)
    w, g = jnp.array([1.0, 1.0]), jnp.array([4.0, 3.0])
    expected = 5 * np.array([1, -1]) / 2**0.5
    step, _ = transform.update(g, transform.init(w), scale * w)
    np.testing.assert_allclose(step, expected, rtol=1e-5)
    step, _ = transform.update(4 * scale * g, transform.init(w), w)
    np.testing.assert_allclose(step / (4 * scale), expected, rtol=1e-5)


def test_one_huge_gradient_does_not_overflow_adagrads_sum():
    transform, x = transforms.scale_by_adagrad_norm(), jnp.ones(2)
    state = transform.init(x)
    for g, expected in (
        (1e20, 0.5**0.5),
        (1e20, 0.5),
        (1.0, 0.5e-20),
        (1.7e38, 0.5**0.5),
    ):
        step, state = transform.update(g * x, state)
        np.testing.assert_allclose(step, expected, rtol=1e-5)


def test_a_huge_gradient_does_not_stay_in_the_window_of_m_fac():
    transform, x = transforms.scale_by_m_fac(memory=4), jnp.array([1.0, 2.0])
    state = transform.init(x)
    for g in (1.0, 1e20, jnp.nan, 0.5):
        step, state = transform.update(g * x, state)
        assert np.all(np.isfinite(step)) == (g <= 1)
    without = transform.update(x, transform.init(x))[1]
    expected, _ = transform.update(0.5 * x, without)
    np.testing.assert_array_equal(step, expected)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_heights_of_the_graph_may_be_large_beside_their_differences(offset):
    fun = lambda x: jnp.sum(x**2) / 2
    moved = lambda x: fun(x) + jnp.round(offset)
    ball = transforms.rolling_ball(0.1, 0.1, projection_stepsize=0.05)
    x = jnp.array([64.0, 128.0])  # where heights are whole, and shifts exact
    step = lambda f: ball.update(x, ball.init(x), x, value=f(x), grad=x, value_fn=f)[0]
    np.testing.assert_allclose(step(moved), step(fun), rtol=1e-4)


def test_leaves_may_differ_in_dtype(x64):
    x = {"w": jnp.array([0.5, 1.0], jnp.float32), "b": jnp.array(0.25, jnp.float64)}
    fun = lambda x: jnp.sum((x["w"].astype(float) - 2) ** 2) + x["b"] ** 2
    g = jax.grad(fun)(x)
    extra = dict(value=fun(x), grad=g, value_fn=fun, target_grad=g)
    for transform in (
        transforms.rolling_ball(0.1, steps=3),
        transforms.target_surrogate(optax.sgd(0.1), steps=3),
        transforms.perp_grad(per_leaf=False),
    ):
        step, _ = transform.update(
            g, transform.init(x), x, target_fn=lambda x: x, **extra
        )
        assert step["w"].dtype == jnp.float32 and step["b"].dtype == jnp.float64
        assert np.all(np.isfinite(step["w"])) and np.any(step["w"] != 0)
