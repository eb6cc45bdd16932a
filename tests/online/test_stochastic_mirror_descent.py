"""Composite stochastic mirror descent: its steps, and how good the last iterate is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import core, online, prox, schedules

PLANE = prox.euclidean_map()


@functools.partial(jax.jit, static_argnums=0)
def last(solver, start, samples):
    """The last iterates of many runs."""
    return jax.vmap(lambda data: core.scan(solver, start, data).params)(samples)


def test_iterates_are_the_cards(x64):
    rng = np.random.default_rng(0)
    targets, x, expected = rng.normal(size=(8, 3)), np.zeros(3), []
    for t, z in enumerate(targets, 1):
        eta = min(0.3, 0.5 / np.sqrt(t))
        moved = x - eta * (x - z)
        x = np.sign(moved) * np.maximum(np.abs(moved) - eta * 0.2, 0)
        expected.append(x)
    schedule = lambda count: jnp.minimum(0.3, 0.5 / jnp.sqrt(jnp.float64(count) + 1))
    solver = online.stochastic_mirror_descent(
        lambda x, z: jnp.sum((x - z) ** 2) / 2,
        online.composite_map(prox.l1(0.2)),
        schedule,
    )
    keep = lambda params, state: params
    ours = core.scan(solver, jnp.zeros(3), jnp.asarray(targets), record=keep).history
    np.testing.assert_allclose(ours, expected, atol=1e-12)


@pytest.mark.parametrize("rounds", [50, 200, 1000])
def test_last_iterate_stays_below_the_proved_gap(rounds, x64):
    """Zamani and Glineur's bound for convex functions that are not smooth."""
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(60, 30))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    best = rng.normal(size=30)
    offsets = rows @ best
    fun = lambda x, _: jnp.max(jnp.abs(rows @ x - offsets))
    size = np.linalg.norm(best)
    scale = size * (rounds / (rounds + 1)) ** 1.5
    schedule = schedules.nonsmooth_last_iterate(scale, rounds)
    solver = online.stochastic_mirror_descent(fun, PLANE, schedule)
    x = core.scan(solver, jnp.zeros(30), jnp.zeros(rounds)).params
    assert 0 < fun(x, None) <= size / np.sqrt(rounds + 1)


def test_last_iterate_of_a_noisy_magnitude_is_far_better_by_linear_decay(x64):
    fun = lambda x, noise: jnp.abs(x) + noise * x
    errors = {}
    for rounds in (100, 1000):
        noise = np.random.default_rng(3).normal(size=(40, rounds))
        linear = schedules.nonsmooth_last_iterate(1.0, rounds)
        laws = dict(
            linear=linear,
            reversed=lambda count, law=linear, last=rounds - 1: law(last - count),
            constant=schedules.convex_last_iterate(1.0, steps=rounds),
            root=schedules.convex_last_iterate(1.0),
        )
        for name, stepsize in laws.items():
            solver = online.stochastic_mirror_descent(fun, PLANE, stepsize)
            out = last(solver, jnp.asarray(1.0), jnp.asarray(noise))
            errors[name, rounds] = np.mean(np.abs(out))
    assert errors["linear", 1000] < 1e-3
    for name in ("reversed", "constant", "root"):
        assert errors["linear", 1000] < errors[name, 1000] / 10
        assert errors["linear", 100] < errors[name, 100] / 5


def lasso(rng):
    """An l1-regularised strongly convex quadratic, and its least value."""
    basis, _ = np.linalg.qr(rng.normal(size=(20, 20)))
    matrix = basis @ np.diag(np.linspace(0.5, 3.6, 20)) @ basis.T
    shift = matrix @ np.where(np.arange(20) < 5, 1.0, 0.0)
    value = lambda x: (
        0.5 * jnp.einsum("...i,ij,...j", x, matrix, x)
        - x @ shift
        + 0.1 * jnp.sum(jnp.abs(x), -1)
    )
    fun = lambda x, noise: 0.5 * x @ matrix @ x - x @ (shift - noise)
    x = np.zeros(20)
    for _ in range(400):
        moved = x - (matrix @ x - shift) / 3.6
        x = np.sign(moved) * np.maximum(np.abs(moved) - 0.1 / 3.6, 0)
    return fun, lambda points: np.mean(value(points) - value(x))


def test_gap_of_the_last_iterate_falls_at_the_rates_of_the_card(x64):
    rng = np.random.default_rng(4)
    fun, gap = lasso(rng)
    rounds, noise = (250, 1000, 4000), rng.normal(size=(12, 4000, 20))
    laws = {
        "root": lambda T: schedules.convex_last_iterate(0.3, 3.6),
        "linear": lambda T: (
            lambda k: jnp.minimum(1 / 7.2, schedules.nonsmooth_last_iterate(3.0, T)(k))
        ),
        "strong": lambda T: schedules.strongly_convex_last_iterate(0.5, 3.6),
    }
    slopes = {}
    for name, law in laws.items():
        gaps = []
        for T in rounds:
            solver = online.stochastic_mirror_descent(
                fun, online.composite_map(prox.l1(0.1)), law(T)
            )
            gaps.append(gap(last(solver, jnp.zeros(20), jnp.asarray(noise[:, :T]))))
        slopes[name] = np.polyfit(np.log(rounds), np.log(gaps), 1)[0]
    assert -0.7 < slopes["root"] < -0.35
    assert -1.05 < slopes["linear"] < -0.6
    assert -1.3 < slopes["strong"] < -0.85


@pytest.mark.parametrize("tail", [1.2, 1.5, 2.0])
def test_distance_for_heavy_tails_is_uniformly_convex_and_its_step_its_minimiser(
    tail, x64
):
    rng, q = np.random.default_rng(5), tail / (tail - 1)
    mirror = online.power_map(tail, 0.3, lower=-1.0)
    x, z = jnp.asarray(rng.normal(size=(2, 50, 4)))
    distance = jax.vmap(mirror.divergence)(x, z)
    assert np.all(distance >= jnp.sum(jnp.abs(x - z) ** q, -1) / q * (1 - 1e-12))
    far = mirror.divergence(jnp.ones(1), -jnp.ones(1))
    assert far >= 2**q / q  # the worst case, with equality for q = 2
    point, grad, eta = z[0], x[0], 0.7
    new = mirror.step(point, grad, eta)
    moved = lambda u: (
        eta * (grad @ u + 0.3 * jnp.sum(jnp.abs(u))) + mirror.divergence(u, point)
    )
    around = jnp.maximum(
        new[None] + 0.02 * jnp.asarray(rng.normal(size=(200, 4))), -1.0
    )
    assert np.all(jax.vmap(moved)(around) >= moved(new))


def test_step_of_powers_is_the_cards(x64):
    mirror = online.power_map(1.5)  # q = 3: the gradient of psi is 2 x |x|
    new = mirror.step(jnp.array([1.0, -2.0]), jnp.array([6.0, 4.0]), 0.5)
    np.testing.assert_allclose(new, [-np.sqrt(0.5), -np.sqrt(5.0)], rtol=1e-14)
    two = online.power_map(2.0).step(jnp.array([1.0]), jnp.array([4.0]), 0.5)
    np.testing.assert_allclose(two, -1.0)


def test_heavy_tails_are_survived_without_clipping(x64):
    """Student's noise with 1.5 degrees of freedom: its variance is infinite."""
    noise = np.random.default_rng(6).standard_t(1.6, size=(40, 2000, 3))
    fun = lambda x, noise: jnp.sum(jnp.abs(x - 0.5)) + noise @ x
    decay = lambda count: 0.5 / (jnp.asarray(count, float) + 1) ** (1 / 1.5)
    solver = online.stochastic_mirror_descent(fun, online.power_map(1.5), decay)
    out = last(solver, jnp.ones(3), jnp.asarray(noise))
    assert np.mean(np.abs(out - 0.5)) < 0.15


def test_params_changed_by_another_link_of_a_chain_count():
    solver = online.stochastic_mirror_descent(online.linear_loss, PLANE, 0.5)
    state = solver.init(jnp.zeros(2), None)
    new, _ = solver.update(jnp.array([4.0, 0.0]), state, jnp.ones(2))
    np.testing.assert_allclose(new, [3.5, -0.5])


def test_slope_of_a_power_at_zero_is_a_number():
    mirror = online.power_map(1.5)
    step = lambda z: mirror.step(z, jnp.zeros(2), 0.5).sum()
    assert np.all(np.isfinite(jax.grad(step)(jnp.array([0.0, 1.0]))))


@pytest.mark.parametrize(
    ("match", "make"),
    [
        ("tail", lambda: online.power_map(1.0)),
        ("tail", lambda: online.power_map(2.5)),
        ("weight", lambda: online.power_map(1.5, -1.0)),
        ("lower", lambda: online.power_map(1.5, lower=1.0, upper=0.0)),
        ("prox.l1", lambda: online.composite_map(prox.l1)),
        ("proximal operator", lambda: online.composite_map(None)),
    ],
)
def test_maps_that_make_no_sense_are_refused(match, make):
    with pytest.raises(ValueError, match=match):
        make()
