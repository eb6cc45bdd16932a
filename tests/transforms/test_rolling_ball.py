"""The Rolling Ball Optimizer: the authors' iterates, and what the card derives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import transforms


def run(fun, transform, x, steps):
    """Iterates of a transformation that is given what it needs."""

    def step(carry, _):
        x, state = carry
        value, grad = jax.value_and_grad(fun)(x)
        extra = dict(value=value, grad=grad, value_fn=fun)
        updates, state = transform.update(grad, state, x, **extra)
        return (x + updates, state), (x + updates, state.residual)

    scan = jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps)[1])
    return jax.device_get(scan((x, transform.init(x))))


def authors(steps, eta, rho, gamma, k, normalize, scale):
    """Belgoumri et al. (2025), their code's form, on a small test function."""
    f = lambda x: scale * (np.sum(x**4) / 4 + x[0] * x[1])
    df = lambda x: scale * (x**3 + x[::-1])
    theta, iterates = np.array([1.0, -0.5]), []
    for _ in range(steps):
        g, height = df(theta), f(theta)
        s = np.sqrt(1 + g @ g)
        tau = np.append(g, g @ g)
        tau = tau / np.linalg.norm(tau) if normalize else tau
        center = np.append(theta - rho * g / s, height + rho / s) - eta * tau
        z = theta
        for _ in range(k):
            z = z - gamma * ((z - center[:2]) + (f(z) - center[2]) * df(z))
        theta = z
        iterates.append(theta)
    return iterates


@pytest.mark.parametrize(
    "eta, rho, gamma, k, normalize, scale",
    [
        (0.1, 0.5, 0.1, 10, False, 1.0),
        (0.3, 0.0, 0.05, 4, False, 1.0),
        (0.1, 1.0, 0.1, 3, True, 1.0),
        (0.2, 0.5, 0.1, 1, False, 0.5),
        (0.2, 0.5, 0.1, 4, False, 0.5),
    ],
)
def test_first_iterates_are_the_authors(x64, eta, rho, gamma, k, normalize, scale):
    transform = transforms.rolling_ball(
        eta,
        rho,
        steps=k,
        projection_stepsize=gamma,
        normalize=normalize,
        loss_scale=scale,
    )
    fun = lambda x: jnp.sum(x**4) / 4 + x[0] * x[1]
    xs, _ = run(fun, transform, jnp.array([1.0, -0.5]), 6)
    expected = authors(6, eta, rho, gamma, k, normalize, scale)
    np.testing.assert_allclose(xs, expected, rtol=1e-10, atol=1e-12)


def test_on_a_plane_it_is_gradient_descent_whatever_the_radius(x64):
    slope = jnp.array([1.0, -2.0])
    transform = transforms.rolling_ball(0.1, 5.0, steps=400)
    xs, residuals = run(lambda x: slope @ x, transform, jnp.zeros(2), 12)
    expected = -0.1 * np.arange(1, 13)[:, None] * np.asarray(slope)
    np.testing.assert_allclose(xs, expected, atol=1e-12)
    assert np.max(residuals) < 1e-12  # the ball rests on the graph


@pytest.mark.parametrize("rho, factor", [(0.0, 0.95), (0.5, 0.9), (0.8, 0.75)])
def test_near_a_minimum_errors_shrink_by_the_derived_factor(x64, rho, factor):
    # The projection itself contracts by 1 - 0.5 (1 - rho) a step.
    transform = transforms.rolling_ball(0.05, rho, steps=400, projection_stepsize=0.5)
    xs, _ = run(lambda x: x**2 / 2, transform, jnp.array(1e-4), 20)
    np.testing.assert_allclose(xs[1:] / xs[:-1], factor, rtol=1e-6)


def test_a_moderate_ball_rolls_over_wrinkles_where_descent_stops(x64):
    wrinkled = lambda x: x**2 / 2 + 0.02 * jnp.sin(50 * x)
    ends = {}
    for rho in (0.0, 0.05):
        transform = transforms.rolling_ball(
            0.05, rho, steps=400, projection_stepsize=0.02
        )
        xs, _ = run(wrinkled, transform, jnp.array(2.0), 300)
        ends[rho] = xs[-1]
    np.testing.assert_allclose(ends[0.0], 0.71, atol=5e-3)
    np.testing.assert_allclose(ends[0.05], 0.13, atol=5e-3)
    assert wrinkled(ends[0.05]) < 0.011 < 0.23 < wrinkled(ends[0.0])


def test_minima_more_curved_than_the_ball_are_never_touched(x64):
    transform = transforms.rolling_ball(0.05, 3.0, steps=400, projection_stepsize=0.05)
    xs, _ = run(lambda x: x**2 / 2, transform, jnp.array(3.0), 400)
    touchable = (3.0 ** (2 / 3) - 1) ** 0.5  # where the parabola's radius is the ball's
    assert touchable > 1 and np.all(np.abs(xs) >= touchable)
    # It rolls there, and from there across to the other side.
    assert np.all(np.diff(xs[:5]) < 0) and np.min(np.abs(xs)) < 1.25 * touchable


def test_radius_and_rate_may_be_schedules(x64):
    fun = lambda x: jnp.sum(x**2)
    halved = lambda count: jnp.where(count == 0, 0.2, 0.1)
    transform = transforms.rolling_ball(halved, halved)
    xs, _ = run(fun, transform, jnp.array([1.0, 2.0]), 2)
    first, _ = run(fun, transforms.rolling_ball(0.2, 0.2), jnp.array([1.0, 2.0]), 1)
    second, _ = run(fun, transforms.rolling_ball(0.1, 0.1), jnp.asarray(first[0]), 1)
    np.testing.assert_allclose(xs, [first[0], second[0]], rtol=1e-12)


def test_it_rolls_along_what_the_chain_before_it_made_of_the_gradient(x64):
    slope, along = jnp.array([1.0, -2.0]), jnp.array([1.0, 0.0])
    fun = lambda x: slope @ x
    transform = transforms.rolling_ball(0.1, 2.0, steps=400)
    x = jnp.zeros(2)
    extra = dict(value=fun(x), grad=slope, value_fn=fun)
    step, _ = transform.update(along, transform.init(x), x, **extra)
    np.testing.assert_allclose(step, -0.1 * along, atol=1e-12)


def test_it_takes_one_gradient_less_than_the_projection_has_steps():
    calls = []

    def fun(x):
        jax.debug.callback(lambda: calls.append(1))
        return jnp.sum(x**2)

    transform, x = transforms.rolling_ball(0.1, steps=7), jnp.ones(2)
    extra = dict(value=jnp.array(2.0), grad=2 * x, value_fn=fun)
    transform.update(2 * x, transform.init(x), x, **extra)
    jax.effects_barrier()
    assert len(calls) == 6


@pytest.mark.parametrize(
    "options, match",
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": 0.1, "radius": -1.0}, "radius"),
        ({"learning_rate": 0.1, "steps": 0}, "steps"),
        ({"learning_rate": 0.1, "projection_stepsize": 0.0}, "projection_stepsize"),
        ({"learning_rate": 0.1, "loss_scale": -1.0}, "loss_scale"),
    ],
)
def test_wrong_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        transforms.rolling_ball(**options)


def test_params_are_asked_for():
    transform, x = transforms.rolling_ball(0.1), jnp.ones(2)
    extra = dict(value=1.0, grad=x, value_fn=jnp.sum)
    with pytest.raises(ValueError, match="params"):
        transform.update(x, transform.init(x), **extra)
