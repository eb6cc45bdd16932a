"""Rates from Ritz values: the recipe on quadratics, bounds, refreshes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import transforms

RNG = np.random.default_rng(0)
OUTLIERS = [5.0, 8.0, 10.0, 15.0, 20.0]
VALUES = np.concatenate([np.linspace(0.05, 1, 195), OUTLIERS])


def runs(transform, scales, x, steps, **options):
    """The iterates on a diagonal quadratic, and the states."""
    scales, x = jnp.asarray(scales), jnp.asarray(x)
    state, found = transform.init(x), []
    update = jax.jit(
        lambda x, s: transform.update(scales * x, s, x, hvp=lambda v: scales * v)
    )
    for _ in range(steps):
        step, state = update(x, state)
        x = optax.apply_updates(x, step)
        found.append((x, state))
    return found


def test_on_a_quadratic_it_is_the_heavy_ball_of_its_extreme_eigenvalues(x64):
    scales, start = np.array([1.0, 4.0, 9.0]), np.array([1.0, -2.0, 0.5])
    transform = transforms.lanczos_momentum(steps=3, refresh=4)
    x, u = start, np.zeros(3)
    for found, state in runs(transform, scales, start, 6):
        u = 0.25 * u + 0.25 * scales * x  # ((3 - 1) / (3 + 1))^2; (2 / (3 + 1))^2
        x = x - u
        np.testing.assert_allclose(found, x, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(state[1].largest, 9, rtol=1e-12)


def test_it_beats_what_is_tuned_by_hand_on_outliers(x64):
    start = RNG.normal(size=200)
    transform = transforms.lanczos_momentum(steps=10, refresh=1000)
    x, state = runs(transform, VALUES, start, 100)[-1]
    rate, momentum = state[1].learning_rate, state[1].momentum
    np.testing.assert_allclose((rate, momentum), (0.176, 0.766), rtol=0.04)
    value = lambda x: float(np.sum(VALUES * np.asarray(x) ** 2) / 2)
    plain = runs(
        optax.with_extra_args_support(optax.sgd(0.01, 0.9)), VALUES, start, 100
    )
    descent = runs(
        optax.chain(
            transforms.scale_by_lanczos_momentum(10, 1000, max_momentum=0.0),
            optax.scale(-1.0),
        ),
        VALUES,
        start,
        100,
    )
    np.testing.assert_allclose(descent[-1][1][0].momentum, 0)
    rate = descent[-1][1][0].learning_rate
    np.testing.assert_allclose(rate, 2 / 20.05, rtol=0.02)
    gaps = [value(y) for y in (x, plain[-1][0], descent[-1][0])]
    assert gaps[0] < 1e-3 * min(gaps[1:])


def test_rates_grow_by_a_factor_at_most(x64):
    x = jnp.ones(2)
    transform = transforms.scale_by_lanczos_momentum(2, 1, growth=1.5, damping=0.5)
    state, rates = transform.init(x), []
    for scale in (4.0, 1.0, 1.0):
        bend = lambda v, c=scale: jnp.array([c, 1e-9]) * v
        _, state = transform.update(x, state, hvp=bend)
        rates.append(float(state.learning_rate))
        np.testing.assert_allclose(state.largest, scale + 0.5, rtol=1e-12)
    free = (2 / (1.5**0.5 + 0.5**0.5)) ** 2
    np.testing.assert_allclose(rates, [0.5, 0.75, free], rtol=1e-6)


def test_condition_and_momentum_are_bounded(x64):
    x, bend = jnp.ones(2), lambda v: jnp.array([4.0, 1e-3]) * v
    for bound, momentum in ((0.9, (9 / 11) ** 2), (0.6, 0.6)):
        transform = transforms.scale_by_lanczos_momentum(
            2, 1, max_condition=100.0, max_momentum=bound
        )
        _, state = transform.update(x, transform.init(x), hvp=bend)
        np.testing.assert_allclose(state.momentum, momentum, rtol=1e-9)
        rate = (1 + momentum**0.5) ** 2 / 4
        np.testing.assert_allclose(state.learning_rate, rate, rtol=1e-9)


def test_without_momentum_it_is_plain_descent_however_zero_is_given():
    x, bend = jnp.ones(2), lambda v: jnp.array([9.0, 1.0]) * v
    make = transforms.scale_by_lanczos_momentum

    def rate(zero):
        transform = make(2, 10, max_momentum=zero)
        _, state = transform.update(x, transform.init(x), hvp=bend)
        return state.learning_rate, state.momentum

    for zero in (0, 0.0, np.float32(0), jnp.zeros(())):
        np.testing.assert_allclose(rate(zero), (2 / 10, 0), rtol=1e-5)
    np.testing.assert_allclose(jax.jit(rate)(0.0), (2 / 10, 0), rtol=1e-5)


def test_a_gradient_of_zero_leaves_ritz_pairs_as_they_are():
    x, bend = jnp.array([1.0, 2.0]), lambda v: jnp.array([3.0, 9.0]) * v
    transform = transforms.scale_by_lanczos(2, 1, 1.0, from_gradient=True)
    _, state = transform.update(x, transform.init(x), hvp=bend)
    np.testing.assert_allclose(state.values, [3, 9], rtol=1e-5)
    step, after = transform.update(0 * x, state, hvp=bend)
    assert not np.any(step)
    np.testing.assert_array_equal(after.values, state.values)
    np.testing.assert_array_equal(after.vectors, state.vectors)


def test_negative_curvature_counts_by_its_size_and_none_waits(x64):
    x = jnp.ones(2)
    transform = transforms.scale_by_lanczos_momentum(2, 10)
    bend = lambda v: jnp.array([-9.0, 1.0]) * v
    _, state = transform.update(x, transform.init(x), hvp=bend)
    np.testing.assert_allclose(state.learning_rate, 4 / 16, rtol=1e-12)
    for bad in (0.0, jnp.nan):
        step, state = transform.update(x, transform.init(x), hvp=lambda v: bad * v)
        assert not np.any(step) and state.learning_rate == 0
        step, state = transform.update(x, state, hvp=bend)  # it looks again
        np.testing.assert_allclose(step, 4 / 16, rtol=1e-12)


def test_ritz_pairs_divide_gradients_as_the_card_says(x64):
    M = RNG.normal(size=(6, 6))
    H, g = (M + M.T) / 2, RNG.normal(size=6)
    values, vectors = np.linalg.eigh(H)
    exact = vectors @ ((vectors.T @ g) / (np.abs(values) + 0.5))
    hvp = lambda v: {"x": jnp.asarray(H) @ v["x"]}
    gradient = {"x": jnp.asarray(g)}
    for from_gradient in (False, True):
        transform = transforms.scale_by_lanczos(6, 2, 0.5, from_gradient=from_gradient)
        step, state = transform.update(gradient, transform.init(gradient), hvp=hvp)
        np.testing.assert_allclose(step["x"], exact, rtol=1e-9)
    transform = transforms.scale_by_lanczos(3, 2, 0.5)
    _, state = transform.update(gradient, transform.init(gradient), hvp=hvp)
    u, ritz = np.asarray(state.vectors["x"]), np.asarray(state.values)
    again, _ = transform.update(gradient, state, hvp=lambda v: v)  # between refreshes
    expected = g / 0.5 + sum(
        (1 / (abs(r) + 0.5) - 1 / 0.5) * (w @ g) * w
        for r, w in zip(ritz, u, strict=True)
    )
    np.testing.assert_allclose(again["x"], expected, rtol=1e-10)


def test_rayleighs_rate_is_the_best_of_one_step_and_is_kept(x64):
    scales, x = np.array([1.0, 5.0]), np.array([2.0, 1.0])
    g = scales * x
    rate = g @ g / (g @ (scales * g))
    transform = transforms.rayleigh_sgd(refresh=2)
    (y, state), (z, other) = runs(transform, scales, x, 2)
    np.testing.assert_allclose(y, x - rate * g, rtol=1e-12)
    np.testing.assert_allclose(z, y - rate * scales * np.asarray(y), rtol=1e-12)
    concave = transforms.scale_by_rayleigh(1, 0.3, growth=2.0)
    state = concave.init(jnp.ones(2))
    _, state = concave.update(jnp.ones(2), state, hvp=lambda v: -v)
    np.testing.assert_allclose(state.learning_rate, 0.3, rtol=1e-12)
    for bad in (jnp.zeros(2), jnp.full(2, jnp.nan)):
        _, after = concave.update(bad, state, hvp=lambda v: v)
        assert after.learning_rate == state.learning_rate


def test_updates_between_refreshes_take_no_product():
    for make in (
        transforms.scale_by_rayleigh,
        lambda refresh: transforms.scale_by_lanczos(2, refresh),
        lambda refresh: transforms.scale_by_lanczos_momentum(2, refresh),
    ):
        taken = []

        def hvp(v):
            jax.debug.callback(lambda: taken.append(None))
            return 2 * v

        transform, x = make(refresh=3), jnp.ones(2)
        state = transform.init(x)
        update = jax.jit(lambda g, s: transform.update(g, s, hvp=hvp))
        for count in range(5):
            before = len(taken)
            _, state = update(x, state)
            jax.effects_barrier()
            assert (len(taken) > before) == (count % 3 == 0)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: transforms.lanczos_momentum(steps=0), "steps"),
        (lambda: transforms.lanczos_momentum(refresh=1.5), "refresh"),
        (lambda: transforms.lanczos_momentum(weight_decay=-1.0), "weight_decay"),
        (lambda: transforms.scale_by_lanczos_momentum(max_momentum=1.0), "momentum"),
        (lambda: transforms.scale_by_lanczos_momentum(growth=0.5), "growth"),
        (lambda: transforms.scale_by_lanczos_momentum(max_condition=0.5), "condition"),
        (lambda: transforms.scale_by_lanczos(damping=0.0), "damping"),
        (lambda: transforms.scale_by_rayleigh(max_learning_rate=0.0), "learning_rate"),
        (lambda: transforms.rayleigh_sgd(refresh=0), "refresh"),
    ],
)
def test_wrong_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_missing_products_are_named():
    x = jnp.ones(2)
    for make in (
        transforms.scale_by_lanczos_momentum,
        transforms.scale_by_lanczos,
        transforms.scale_by_rayleigh,
    ):
        with pytest.raises(ValueError, match="hvp.*value_fn"):
            make().update(x, make().init(x), x)
