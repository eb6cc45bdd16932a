"""Huge and tiny numbers, narrow and mixed dtypes, traced numbers, donated buffers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import prox, transforms
from tests.transforms.link import all_links


def two_classes(x):
    return jnp.stack([x.astype(jnp.float32), -x.astype(jnp.float32)], axis=-1)


NUMBERS = {  # of one traced number: what takes a learning rate, or a decay
    "m_fac": lambda r: transforms.m_fac(r, memory=2, weight_decay=r),
    "lion_k": lambda r: transforms.lion_k(r, weight_decay=r),
    "implicit lion_k": lambda r: transforms.lion_k(r, weight_decay=r, implicit=True),
    "adagrad_norm": lambda r: transforms.adagrad_norm(r, weight_decay=r),
    "normalized_logistic": lambda r: transforms.normalized_logistic(r, r),
    "gradient_normalized_newton": lambda r: transforms.gradient_normalized_newton(
        r, weight_decay=r
    ),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_traced_rates_and_decays_keep_the_dtype_of_updates(name):
    x = jnp.array([0.5, 1.0], jnp.bfloat16)

    def step(rate):
        transform = NUMBERS[name](rate)
        return transform.update(
            x, transform.init(x), x, margins=jnp.ones(3), hvp=lambda v: v
        )[0]

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


@pytest.mark.parametrize("link", all_links(), ids=str)
def test_no_two_leaves_of_a_first_state_share_a_buffer(link):
    params = {"w": jnp.array([[0.5, -2.0]]), "b": jnp.array(0.5, jnp.float32)}
    state = link.make().init(params)
    plain = lambda x: (
        jax.random.key_data(x)
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        else x
    )
    leaves = [plain(x) for x in jax.tree.leaves((params, state)) if x.size]
    pointers = [x.unsafe_buffer_pointer() for x in leaves]
    assert len(set(pointers)) == len(pointers)


def test_a_curvature_beyond_all_squares_is_passed_over():
    transform, x = transforms.scale_by_adahessian(), jnp.array([1.0, 2.0])
    state = transform.init(x)
    steps = []
    for k in (1.0, 1e20, 1.0):
        step, state = transform.update(k * x, state, x, hvp=lambda v, k=k: k * v)
        steps.append(step)
    np.testing.assert_allclose(steps[0], x, rtol=1e-3)
    np.testing.assert_array_equal(steps[1], 0)
    np.testing.assert_allclose(steps[2], x, rtol=1e-3)


@pytest.mark.parametrize("gamma", [-1.0, jnp.inf, jnp.nan])
def test_a_length_that_is_none_gives_no_step(gamma):
    x = jnp.array([3.0, 4.0])
    make = transforms.scale_by_gradient_normalized_newton
    transform = make(lambda count: jnp.asarray(gamma))
    step, _ = transform.update(x, transform.init(x), x, hvp=lambda v: v)
    assert jnp.all(jnp.isnan(step))
    with pytest.raises(ValueError, match="gamma must be"):
        make(jnp.asarray(gamma))


@pytest.mark.parametrize("scale", [1e-23, 1.0, 1e20])
def test_norms_are_recorded_whatever_their_squares_are(scale):
    record = transforms.record_gradient_norms(1)
    x = scale * jnp.array([3.0, 4.0])
    _, state = record.update(x, record.init(x))
    np.testing.assert_allclose(state.norms, 5 * scale, rtol=1e-6)


@pytest.mark.parametrize(
    "transform",
    [
        transforms.scale_by_adagrad_norm(),
        transforms.record_gradient_norms(1),
        transforms.perp_grad(),
        transforms.scale_by_gradient_normalized_newton(),
    ],
)
def test_complex_gradients_are_refused_where_they_would_be_cut(transform):
    x = jnp.array([3 + 4j, 1j], jnp.complex64)
    with pytest.raises(ValueError, match="real params and gradients only"):
        transform.update(x, transform.init(x), x, hvp=lambda v: v)


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -3.0], [1.0, np.nan]])
def test_weights_of_the_last_iterate_are_no_less_than_zero(weights):
    with pytest.raises(ValueError, match="weights must be at least zero"):
        transforms.last_iterate(optax.sgd(0.1), 2, weights=np.array(weights))


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


@pytest.mark.parametrize("scale", [1e-23, 1e20, 1e30])
def test_gradients_whose_squares_are_no_numbers_are_stepped_along(scale):
    x, g = jnp.ones(2), jnp.array([3.0, 4.0])
    big = scale * g
    step, _ = transforms.scale_by_sps(max_stepsize=jnp.inf).update(
        big, transforms.scale_by_sps(max_stepsize=jnp.inf).init(x), value=scale
    )
    np.testing.assert_allclose(step, g / 25, rtol=1e-5)
    rayleigh = transforms.scale_by_rayleigh()
    step, _ = rayleigh.update(big, rayleigh.init(x), hvp=lambda v: 2 * v)
    np.testing.assert_allclose(step / scale, g / 2, rtol=1e-5)
    for make, given in (
        (transforms.scale_by_gradient_normalized_newton, dict(hvp=lambda v: 0 * v)),
        (transforms.scale_by_gradient_normalized_diagonal, dict(diagonal=0 * x)),
    ):
        step, _ = make(0.5).update(big, make(0.5).init(x), **given)
        np.testing.assert_allclose(step, g / 10, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-23, 1.0, 1e20])
def test_a_line_search_goes_down_slopes_whose_squares_are_no_numbers(scale):
    search, x, g = transforms.armijo_sgd(), jnp.ones(2), jnp.array([3.0, 4.0])
    fun = lambda x: scale * jnp.sum(g * x / 2)
    grad = scale * g / 2
    extra = dict(value=fun(x), grad=grad, value_fn=fun)
    step, _ = search.update(grad, search.init(x), x, **extra)
    np.testing.assert_allclose(step, -grad, rtol=1e-6)
