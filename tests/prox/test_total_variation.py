"""Total variation: the dual certificate, a transcription, derivatives of pieces."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies
from hypothesis.extra import numpy as arrays
from scipy import optimize

from jaxsolve import prox

RNG = np.random.default_rng(0)
STEPS = np.repeat([1.0, 4.0, -2.0, 3.0], 30) + RNG.normal(size=120)

entries = strategies.integers(-8, 8) | strategies.floats(-10, 10, width=32)
vectors = arrays.arrays(np.float32, 9, elements=entries)
flatten = jax.jit(lambda x, w: prox.total_variation(w)(x))


def violation(x, y, weight):
    """How far the pair misses the optimality conditions, the dual in [-w, w]."""
    dual = np.cumsum(np.asarray(x, np.float64) - y)
    jumps = np.diff(y)
    bend = np.where(np.abs(jumps) > 1e-6, dual[:-1] + weight * np.sign(jumps), 0)
    return max(abs(dual[-1]), np.abs(dual).max() - weight, np.abs(bend).max())


@hypothesis.settings(deadline=None, max_examples=80, derandomize=True)
@hypothesis.given(vectors, strategies.floats(0, 20, width=32))
def test_the_dual_certifies_the_answer(x, weight):
    y = np.asarray(flatten(x, np.float32(weight)), np.float64)
    assert violation(x, y, weight) < 1e-4


@pytest.mark.parametrize("weight", [0.01, 0.5, 5.0, 200.0])
def test_a_long_signal_is_exact_to_rounding(weight, x64):
    y = np.asarray(flatten(STEPS, weight))
    assert violation(STEPS, y, weight) < 1e-11


def test_it_agrees_with_bounded_least_squares_of_the_dual(x64):
    x, weight = STEPS[25:40], 0.7
    slope = np.diff(np.eye(15), axis=0).T
    dual = optimize.lsq_linear(slope, x, (-weight, weight), tol=1e-14, max_iter=500).x
    out = flatten(x, weight)
    np.testing.assert_allclose(out, x - slope @ dual, atol=1e-7)


def test_exponential_growth_needs_many_rounds_and_ends(x64):
    x = 1.5 ** np.arange(60.0)
    y = np.asarray(flatten(x, 0.3))
    assert violation(x / x.max(), y / x.max(), 0.3 / x.max()) < 1e-12


def test_extreme_weights_give_the_signal_and_its_mean():
    x = jnp.asarray(STEPS, jnp.float32)
    np.testing.assert_allclose(flatten(x, 0.0), x, atol=1e-6)
    slope = jax.jit(jax.jacrev(flatten))(x[:6], 0.0)
    np.testing.assert_allclose(slope, np.eye(6), atol=1e-6)
    np.testing.assert_allclose(flatten(x, 1e6), np.full(120, STEPS.mean()), rtol=1e-5)


def test_the_derivative_is_the_mean_over_pieces():
    x = jnp.array([0.5, 1.0, 6.0, 5.0, 5.5, 1.0])
    by_x, by_w = jax.jit(jax.jacrev(flatten, argnums=(0, 1)))(x, 0.7)
    expected = np.zeros((6, 6))
    for piece in (slice(0, 2), slice(2, 5), slice(5, 6)):
        size = len(range(6)[piece])
        expected[piece, piece] = 1 / size
    np.testing.assert_allclose(by_x, expected, atol=1e-6)
    np.testing.assert_allclose(by_w, [0.5, 0.5, *[-2 / 3] * 3, 1], atol=1e-6)


def test_each_signal_of_a_batch_is_by_itself():
    rows = RNG.normal(size=(4, 30)).astype(np.float32)
    rows[2] = np.nan
    weight = np.array([[0.1], [1.0], [1.0], [9.0]], np.float32)
    out = jax.jit(prox.total_variation(weight, axis=1))(rows)
    for i in (0, 1, 3):
        np.testing.assert_allclose(out[i], flatten(rows[i], weight[i, 0]), atol=1e-5)
    assert np.all(np.isnan(out[2]))


def test_bad_weights_are_refused():
    with pytest.raises(ValueError, match="weight must be at least zero"):
        prox.total_variation(-1.0)
    with pytest.raises(ValueError, match="weight must be a scalar where axis is None"):
        prox.total_variation(np.ones(3))(jnp.ones(3))


IMAGE = RNG.normal(size=(5, 6)) + np.pad(np.full((3, 3), 4.0), ((1, 1), (2, 1)))
smooth = jax.jit(lambda x, w: prox.image_variation(w)(x))


def slopes(shape):
    """The differences of an image along both axes, as one matrix."""
    units = np.eye(shape[0] * shape[1]).reshape(-1, *shape)
    parts = [np.diff(units, axis=axis).reshape(len(units), -1) for axis in (1, 2)]
    return np.concatenate(parts, axis=1)


def test_images_agree_with_bounded_least_squares_of_the_dual(x64):
    matrix, weight = slopes(IMAGE.shape), 0.6
    dual = optimize.lsq_linear(
        matrix, IMAGE.ravel(), (-weight, weight), tol=1e-14, max_iter=500
    ).x
    out = smooth(IMAGE, weight)
    np.testing.assert_allclose(np.ravel(out), IMAGE.ravel() - matrix @ dual, atol=1e-4)
    values = lambda x: (
        np.sum((x - IMAGE) ** 2) / 2 + weight * np.abs(matrix.T @ x.ravel()).sum()
    )
    best = values(np.asarray(out))
    bound = (np.sum(IMAGE**2) - np.sum((IMAGE.ravel() - matrix @ dual) ** 2)) / 2
    assert best <= bound + 1e-3
    for step in RNG.normal(size=(50, *IMAGE.shape)) * 1e-3:
        assert values(np.asarray(out) + step) >= best


def test_images_have_the_derivative_of_their_pieces(x64):
    step, h = RNG.normal(size=IMAGE.shape), 1e-5
    push = jax.jit(lambda x, w: jax.jvp(smooth, (x, w), (step, 1.0))[1])
    expected = smooth(IMAGE + h * step, 0.6 + h) - smooth(IMAGE - h * step, 0.6 - h)
    np.testing.assert_allclose(push(IMAGE, 0.6), expected / (2 * h), atol=1e-7)


def test_images_of_a_stack_are_by_themselves_and_keep_their_dtype():
    stack = np.stack([IMAGE, IMAGE[::-1], IMAGE]).astype(np.float32)
    stack[1, 0, 0] = np.nan
    out = jax.jit(prox.image_variation(0.6))(jnp.asarray(stack))
    assert out.dtype == np.float32
    with jax.enable_x64(True):
        expected = smooth(stack[0].astype(np.float64), 0.6)
    np.testing.assert_allclose(out[0], expected, atol=1e-4)
    np.testing.assert_array_equal(out[2], out[0])
    assert np.isnan(out[1, 0, 0])


def test_an_image_that_did_not_converge_is_nan_and_others_are_not():
    stack = np.stack([IMAGE, np.full(IMAGE.shape, 1000.1)]).astype(np.float32)
    out = jax.jit(prox.image_variation(0.6, max_steps=2))(jnp.asarray(stack))
    assert np.all(np.isnan(out[0]))
    np.testing.assert_allclose(out[1], stack[1], rtol=1e-6)


def test_images_far_from_zero_converge_as_others_do():
    near = np.asarray(smooth(IMAGE.astype(np.float32), np.float32(0.6)))
    far = smooth((IMAGE + 1e4).astype(np.float32), np.float32(0.6))
    np.testing.assert_allclose(far, near + np.float32(1e4), atol=4e-3)


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match="matrices in the last two axes"):
        prox.image_variation(1.0)(jnp.ones(3))


def test_an_empty_signal_is_itself():
    assert prox.total_variation(1.0)(jnp.zeros(0)).shape == (0,)
    assert prox.total_variation(1.0, axis=1)(jnp.zeros((2, 0))).shape == (2, 0)
