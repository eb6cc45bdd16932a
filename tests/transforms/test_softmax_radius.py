"""The radius of softmax: theory, and controllers that survive spikes of the rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import datasets

from jaxsolve import transforms

RNG = np.random.default_rng(0)
CENTERS = RNG.normal(size=(5, 10))
LABELS = np.arange(300) % 5
POINTS = CENTERS[LABELS] + 0.7 * RNG.normal(size=(300, 10))


def affine(params, points=POINTS):
    return jnp.asarray(points, params["w"].dtype) @ params["w"] + params["b"][None]


def zeros():
    return {"w": jnp.zeros((10, 5)), "b": jnp.zeros(5)}


def cross_entropy(logits, labels=LABELS):
    return jnp.mean(
        optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    )


@pytest.mark.parametrize(
    "delta, slope, exact", [(0, 1, 3.14), (2, 1, 3.72), (5, 2, 2.95)]
)
def test_the_binary_radius_is_that_of_the_taylor_series(delta, slope, exact):
    circle = 0.8 * exact * np.exp(2j * np.pi * np.arange(4096) / 4096)
    values = 1 / (1 + np.exp(-(delta + slope * circle)))
    n = np.arange(30, 41)
    coefficients = np.abs(np.fft.fft(values)[n] / 4096) / (0.8 * exact) ** n
    radius = transforms.binary_radius(float(delta), float(slope))
    np.testing.assert_allclose(radius, exact, atol=5e-3)
    np.testing.assert_allclose(1 / np.max(coefficients ** (1 / n)), radius, rtol=0.05)
    whole = transforms.binary_radius(jnp.asarray(delta), jnp.asarray(slope))
    np.testing.assert_allclose(whole, radius, rtol=1e-6)
    bound = transforms.softmax_radius(jnp.array([float(slope), 0.0]))
    assert bound <= radius * (1 + 1e-6)


def papers(p, slopes, target, quantile, window, fixed):
    """Sao (2026): the controller's five lines, on a list of updates and slopes."""
    deltas, scaled = [], []
    for u, direction_slopes in zip(p, slopes, strict=True):
        tau = np.linalg.norm(u)
        a = direction_slopes(u / tau)
        spread = np.max(a, axis=-1) - np.min(a, axis=-1)
        deltas.append(np.quantile(spread, quantile))
        rho = np.pi / (max(deltas[-window:]) + 1e-12)
        scaled.append(u * (target * rho / tau if fixed else min(1, target * rho / tau)))
    return scaled


@pytest.mark.parametrize(
    "target, quantile, window, fixed",
    [(0.5, 1.0, 1, False), (1.0, 0.9, 3, False), (0.5, 1.0, 2, True)],
)
def test_first_updates_are_the_papers(x64, target, quantile, window, fixed):
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(4, 7, 3, 6))  # of batches of seven, three classes
    logits = lambda k: lambda x: jnp.tanh(jnp.asarray(mixing[k]) @ x)
    make = (
        transforms.scale_to_softmax_radius
        if fixed
        else transforms.clip_by_softmax_radius
    )
    transform = make(target, quantile=quantile, window=window)
    x, updates = jnp.asarray(rng.normal(size=6)), rng.normal(size=(4, 6)) * 3
    updates[1] /= 1000
    bent = lambda k: 1 - np.tanh(mixing[k] @ np.asarray(x)) ** 2
    slopes = [lambda v, k=k: bent(k) * (mixing[k] @ v) for k in range(4)]
    state = transform.init(x)
    for k, expected in enumerate(
        papers(updates, slopes, target, quantile, window, fixed)
    ):
        step, state = transform.update(
            jnp.asarray(updates[k]), state, x, logits_fn=logits(k)
        )
        np.testing.assert_allclose(step, expected, rtol=1e-10)


def train(transform, logits_fn, params, labels, steps):
    """Losses of full-batch training, before each step."""

    def step(carry, _):
        params, state = carry
        loss = lambda p: cross_entropy(logits_fn(p), labels)
        value, grad = jax.value_and_grad(loss)(params)
        with jax.numpy_dtype_promotion("standard"):  # optax itself promotes
            updates, state = transform.update(grad, state, params, logits_fn=logits_fn)
        return (optax.apply_updates(params, updates), state), value

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps))
    (params, state), values = run((params, transform.init(params)))
    return params, state, np.asarray(values)


def spiked(rate, factor, begin, end):
    return lambda count: jnp.where((begin <= count) & (count < end), factor, 1) * rate


def test_a_spike_of_ten_thousand_times_the_rate_is_survived():
    adam = optax.adam(spiked(1e-2, 1e4, 50, 100))
    _, _, wild = train(
        optax.with_extra_args_support(adam), affine, zeros(), LABELS, 150
    )
    safe = optax.chain(adam, transforms.clip_by_softmax_radius(1.0))
    _, _, tame = train(safe, affine, zeros(), LABELS, 150)
    assert np.max(wild[50:]) > 4 * wild[50]
    assert np.max(tame[50:]) <= tame[50]


def test_a_network_on_digits_keeps_what_it_learnt_through_a_spike():
    digits = datasets.load_digits()
    points, labels = digits.data[:600] / 16, digits.target[:600]
    keys = jax.random.split(jax.random.key(0))
    params = [
        jax.random.normal(keys[0], (64, 128)) / 8,
        jax.random.normal(keys[1], (128, 10)) / 11,
    ]
    network = lambda p: jax.nn.relu(jnp.asarray(points, jnp.float32) @ p[0]) @ p[1]
    accuracy = lambda p: np.mean(np.argmax(network(p), axis=-1) == labels)
    adam = optax.adam(spiked(1e-3, 1e3, 50, 60))
    steps = 70  # ten after the spike
    wild, _, _ = train(
        optax.with_extra_args_support(adam), network, params, labels, steps
    )
    safe = optax.chain(adam, transforms.clip_by_softmax_radius(0.5))
    tame, _, _ = train(safe, network, params, labels, steps)
    assert accuracy(wild) < 0.5 < 0.95 < accuracy(tame)


def test_steps_are_within_the_target_and_as_they_were_without_one():
    rng = np.random.default_rng(0)
    p = {
        "w": jnp.asarray(rng.normal(size=(10, 5)), jnp.float32),
        "b": jnp.asarray(rng.normal(size=5), jnp.float32),
    }
    for target in (0.5, 1.0, jnp.inf):
        clip = transforms.clip_by_softmax_radius(target)
        step, state = clip.update(p, clip.init(p), zeros(), logits_fn=affine)
        v = optax.tree.scale(1 / optax.tree.norm(p), p)
        rho = transforms.softmax_radius(affine(v))
        assert optax.tree.norm(step) <= target * rho * (1 + 1e-5)
        np.testing.assert_allclose(state.ratio, optax.tree.norm(p) / rho, rtol=1e-5)
        if target == jnp.inf:
            jax.tree.map(np.testing.assert_array_equal, step, p)


def test_a_difference_quotient_stands_for_the_product(x64):
    x, p = jnp.array([0.3, -0.2]), jnp.array([30.0, 10.0])
    logits_fn = lambda x: jnp.stack([jnp.sin(x), jnp.exp(x), x**2], axis=-1)
    exact = transforms.clip_by_softmax_radius()
    near = transforms.clip_by_softmax_radius(difference=1e-6)
    one, _ = exact.update(p, exact.init(x), x, logits_fn=logits_fn)
    other, _ = near.update(p, near.init(x), x, logits_fn=logits_fn)
    np.testing.assert_allclose(one, other, rtol=1e-5)


def test_the_least_radius_of_a_window_counts_and_is_forgotten():
    clip, x = transforms.clip_by_softmax_radius(1.0, window=2), jnp.zeros(1)
    state, steps = clip.init(x), []
    for slope in (4.0, 1.0, 1.0):
        logits_fn = lambda x, slope=slope: jnp.stack([slope * x, 0 * x], axis=-1)
        step, state = clip.update(x + 100, state, x, logits_fn=logits_fn)
        steps.append(step[0])
    np.testing.assert_allclose(steps, np.pi / np.array([4, 4, 1]), rtol=1e-5)


def test_tokens_are_samples_too():
    slopes = np.random.default_rng(0).normal(size=(4, 7, 5))
    flat = transforms.softmax_radius(jnp.asarray(slopes.reshape(28, 5)), 0.9)
    np.testing.assert_allclose(
        transforms.softmax_radius(jnp.asarray(slopes), 0.9), flat, rtol=1e-6
    )


def test_directions_that_move_no_logits_and_updates_of_zero_are_harmless():
    x = jnp.ones(2)
    same = lambda x: jnp.stack([jnp.sum(x), jnp.sum(x)], axis=-1)
    clip = transforms.clip_by_softmax_radius()
    step, _ = clip.update(1e3 * x, clip.init(x), x, logits_fn=same)
    np.testing.assert_array_equal(step, 1e3 * x)
    scale = transforms.scale_to_softmax_radius(max_norm=2.0)
    step, _ = scale.update(x, scale.init(x), x, logits_fn=same)
    np.testing.assert_allclose(jnp.linalg.norm(step), 2.0, rtol=1e-6)
    for transform in (clip, scale):
        step, state = transform.update(0 * x, transform.init(x), x, logits_fn=same)
        assert np.all(step == 0) and state.ratio == 0


def test_the_cheap_factor_is_of_the_mean_spread_of_samples():
    x = jnp.ones(2)
    logits_fn = lambda x: jnp.array([[8.0, 0.0], [16.0, 4.0], [0.0, 1.0]])
    scale = transforms.scale_by_logit_spread()
    step, _ = scale.update(x, scale.init(x), x, logits_fn=logits_fn)
    np.testing.assert_allclose(step, np.pi / 7, rtol=1e-6)


def test_logits_of_one_class_are_refused():
    x = jnp.ones(2)
    for make in (
        transforms.clip_by_softmax_radius,
        lambda: transforms.scale_to_softmax_radius(difference=0.1),
        transforms.scale_by_logit_spread,
    ):
        for logits_fn in (lambda x: x[:, None], jnp.sum):
            with pytest.raises(ValueError, match="two classes"):
                make().update(x, make().init(x), x, logits_fn=logits_fn)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_difference_counts_for_as_much_as_params_can_be_changed(dtype):
    logits_fn = lambda x: jnp.stack([x, -x], axis=-1)
    x, p = jnp.array([5.0], dtype), jnp.array([100.0], dtype)
    eps = float(jnp.finfo(dtype).eps)
    for h in (7 * eps, 1000 * eps):
        clip = transforms.clip_by_softmax_radius(1.0, difference=h)
        update = jax.jit(lambda p, s, x, clip=clip: clip.update(p, s, x, **extra))
        extra = dict(logits_fn=logits_fn)
        step, _ = update(p, clip.init(x), x)
        np.testing.assert_allclose(step.astype(float), np.pi / 2, rtol=4 * eps)
        step, _ = update(0 * p, clip.init(x), x)
        assert step == 0
    clip = transforms.clip_by_softmax_radius(1.0, difference=eps / 10)
    for update in (clip.update, jax.jit(clip.update, static_argnames="logits_fn")):
        step, _ = update(p, clip.init(x), x, logits_fn=logits_fn)
        assert np.isnan(step[0].astype(float))  # nothing moved, nothing is known


def test_logits_that_are_not_a_number_are_no_license_and_not_remembered():
    x = jnp.ones(2)
    bad = lambda x: jnp.nan * jnp.stack([x, -x], axis=-1)
    for make in (transforms.clip_by_softmax_radius, transforms.scale_to_softmax_radius):
        transform = make(window=2)
        step, state = transform.update(x, transform.init(x), x, logits_fn=bad)
        assert np.all(np.isnan(step)) and np.all(np.isfinite(state.spreads))


def test_the_cheap_factor_is_of_the_spread_of_the_logits():
    x = jnp.ones(2)
    for spread, factor in ((1.0, 1.0), (10.0, np.pi / 10), (1e4, 0.01)):
        scale = transforms.scale_by_logit_spread()
        logits_fn = lambda x, spread=spread: jnp.stack([spread * x, 0 * x], axis=-1)
        step, _ = scale.update(x, scale.init(x), x, logits_fn=logits_fn)
        np.testing.assert_allclose(step, factor, rtol=1e-6)


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: transforms.clip_by_softmax_radius(0.0), "target"),
        (lambda: transforms.clip_by_softmax_radius(quantile=1.5), "quantile"),
        (lambda: transforms.clip_by_softmax_radius(window=0), "window"),
        (lambda: transforms.clip_by_softmax_radius(difference=0.0), "difference"),
        (lambda: transforms.scale_to_softmax_radius(max_norm=0.0), "max_norm"),
        (lambda: transforms.scale_by_logit_spread(-1.0), "floor"),
        (lambda: transforms.scale_by_logit_spread(0.5, 0.1), "cap"),
    ],
)
def test_wrong_options_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_params_are_asked_for():
    for make in (transforms.clip_by_softmax_radius, transforms.scale_by_logit_spread):
        transform, x = make(), jnp.ones(2)
        with pytest.raises(ValueError, match="params"):
            transform.update(x, transform.init(x), logits_fn=lambda x: x)
