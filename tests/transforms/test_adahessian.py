"""AdaHessian: the card's iterates, blocks, refreshes, and optax's neighbours."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsolve
from jaxsolve import core, linear, transforms

RNG = np.random.default_rng(0)
M = RNG.normal(size=(6, 6))
H = M @ M.T + np.eye(6)
SOLUTION = RNG.normal(size=6)


def signs(steps):
    """What the diagonal draws, step by step, for a vector."""
    key, drawn = jax.random.key(0), []
    for _ in range(steps):
        key, now = jax.random.split(key)
        drawn.append(np.asarray(linear.rademacher(now, jnp.zeros(6))))
    return drawn


def card(steps, lr, b1, b2, eps, k, decay, update_each):
    """Algorithm 1 on a quadratic, in NumPy."""
    x, m, v, iterates, terms = np.zeros(6), np.zeros(6), np.zeros(6), [], 0
    draws = iter(signs(steps))
    for t in range(1, steps + 1):
        g = H @ (x - SOLUTION)
        if (t - 1) % update_each == 0:
            z = next(draws)
            v = b2 * v + (1 - b2) * (z * (H @ z)) ** 2
            terms += 1
        m = b1 * m + (1 - b1) * g
        mean, square = m / (1 - b1**t), v / (1 - b2**terms)
        x = x - lr * (mean / (np.sqrt(square) ** k + eps) + decay * x)
        iterates.append(x)
    return iterates


@pytest.mark.parametrize(
    "lr, b1, b2, eps, k, decay, update_each",
    [
        (0.15, 0.9, 0.999, 1e-4, 1.0, 0.0, 1),
        (0.1, 0.5, 0.98, 1e-2, 0.5, 0.1, 3),
        (0.01, 0.0, 0.9, 0.0, 0.0, 0.0, 2),
    ],
    ids=["defaults", "all of it", "no power"],
)
def test_first_iterates_are_the_papers(x64, lr, b1, b2, eps, k, decay, update_each):
    options = (lr, b1, b2, eps, k, decay)
    transform = transforms.adahessian(*options, update_each=update_each)
    x = jnp.zeros(6)
    state = transform.init(x)
    matrix = jnp.asarray(H)
    update = jax.jit(
        lambda x, s: transform.update(
            matrix @ (x - SOLUTION), s, x, hvp=lambda v: matrix @ v
        )
    )
    for y in card(7, *options, update_each):
        step, state = update(x, state)
        x = optax.apply_updates(x, step)
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-12)


def test_diagonal_quadratics_are_solved_in_one_step(x64):
    scales = jnp.asarray(np.logspace(-2, 3, 50))
    fun = lambda x, data: jnp.sum(scales * (x - data) ** 2) / 2
    target = jnp.asarray(RNG.normal(size=50))
    one = transforms.adahessian(1.0, b1=0.0, eps=0.0)
    solver = jaxsolve.from_optax(fun, one)
    x, _ = solver.update(jnp.zeros(50), solver.init(jnp.zeros(50), target), target)
    assert fun(x, target) < 1e-25
    # And by the default rate, where the best Adam reaches 4.6e-7.
    solver = jaxsolve.from_optax(fun, transforms.adahessian())
    out = core.run(solver, jnp.zeros(50), target, max_steps=200, tol=0.0)
    assert fun(out.params, target) < 1e-7


def test_scaling_the_objective_changes_nothing_without_eps(x64):
    transform = transforms.scale_by_adahessian(eps=0.0)
    g, matrix = jnp.asarray(RNG.normal(size=6)), jnp.asarray(H)
    steps = [
        transform.update(c * g, transform.init(g), hvp=lambda v: c * (matrix @ v))[0]
        for c in (1.0, 1e3)
    ]
    np.testing.assert_allclose(*steps, rtol=1e-12)


def test_the_diagonal_is_that_of_the_hessian_in_the_mean(x64):
    X = jnp.asarray(RNG.normal(size=(10, 3)))
    params = {"a": jnp.asarray(RNG.normal(size=(3, 2))), "b": jnp.ones(2)}
    fun = lambda p: jnp.sum((jnp.tanh(X @ p["a"]) @ p["b"]) ** 2)
    diagonal = transforms.hessian_diagonal(4096, chunk=512)
    found, _ = diagonal.update(params, diagonal.init(params), params, value_fn=fun)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    exact = np.diag(jax.hessian(lambda v: fun(unravel(v)))(flat))
    found = jax.flatten_util.ravel_pytree(found)[0]
    assert np.linalg.norm(found - exact) < 0.05 * np.linalg.norm(exact)


def test_updates_between_refreshes_take_no_product():
    taken = []

    def hvp(v):
        jax.debug.callback(lambda: taken.append(None))
        return 2 * v

    transform = transforms.scale_by_adahessian(update_each=3)
    x = jnp.ones(2)
    state, update = (
        transform.init(x),
        jax.jit(lambda g, s: transform.update(g, s, hvp=hvp)),
    )
    for count in range(1, 8):
        _, state = update(x, state)
        jax.effects_barrier()
        assert len(taken) == -(-count // 3)


def blocks(d, rule):
    return transforms.spatial_average(**rule)(jnp.asarray(d))


def test_kernels_are_averaged_over_their_spatial_axes():
    d = RNG.normal(size=(3, 3, 4, 5))  # HWIO
    mean = np.broadcast_to(np.abs(d).mean((0, 1), keepdims=True), d.shape)
    np.testing.assert_allclose(blocks(d, {}), mean, rtol=1e-6)
    signed = np.broadcast_to(d.mean((0, 1), keepdims=True), d.shape)
    found = blocks(d, dict(abs_before_average=False))
    np.testing.assert_allclose(found, signed, rtol=1e-5, atol=1e-7)
    turned = np.moveaxis(d, (3, 2), (0, 1))  # OIHW
    found = blocks(turned, dict(channels_first=True))
    np.testing.assert_allclose(found, np.moveaxis(mean, (3, 2), (0, 1)), rtol=1e-6)
    line = RNG.normal(size=(4, 5, 7))  # OIW
    mean = np.broadcast_to(np.abs(line).mean(2, keepdims=True), line.shape)
    found = blocks(line, dict(channels_first=True))
    np.testing.assert_allclose(found, mean, rtol=1e-6)


def test_matrices_are_averaged_over_blocks_of_inputs():
    d = RNG.normal(size=(2, 7))  # (out, in)
    for size, bounds in ((3, [0, 3, 6, 7]), (-1, [0, 7]), (9, [0, 7]), (1, range(8))):
        expected = np.abs(d)
        for low, high in zip(bounds[:-1], bounds[1:], strict=True):
            expected[:, low:high] = expected[:, low:high].mean(1, keepdims=True)
        found = blocks(d, dict(row_block=size, channels_first=True))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        found = blocks(d.T, dict(row_block=size))
        np.testing.assert_allclose(found, expected.T, rtol=1e-6)
    for alone in (d, d[0], d[0, 0]):
        np.testing.assert_allclose(blocks(alone, {}), alone, rtol=1e-6)


def test_the_diagonal_serves_optaxs_sophia():
    diagonal = transforms.hessian_diagonal()
    sophia = optax.contrib.sophia(0.1, hessian_diagonal_fn=diagonal, weight_decay=0.0)
    x = jnp.array([1.0, -2.0])
    with jax.numpy_dtype_promotion("standard"):
        state = sophia.init(x)
        for _ in range(2):
            _, state = sophia.update(2 * x, state, x, hvp=lambda v: 2 * v)
    np.testing.assert_allclose(state[0].nu, 0.02, rtol=1e-6)  # two hundredths of two


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(b1=1.0), "b1"),
        (dict(b2=-0.1), "b2"),
        (dict(eps=-1e-8), "eps"),
        (dict(hessian_power=1.5), "hessian_power"),
        (dict(update_each=0), "update_each"),
        (dict(weight_decay=-1.0), "weight_decay"),
    ],
)
def test_wrong_numbers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        transforms.adahessian(**options)


def test_wrong_structure_is_refused():
    with pytest.raises(ValueError, match="samples"):
        transforms.hessian_diagonal(0)
    for size in (0, -2, 1.5):
        with pytest.raises(ValueError, match="row_block"):
            transforms.spatial_average(size)
    transform, x = transforms.scale_by_adahessian(), jnp.ones(2)
    with pytest.raises(ValueError, match="hvp.*value_fn"):
        transform.update(x, transform.init(x), x)
    with pytest.raises(ValueError, match="at the params"):
        transform.update(x, transform.init(x), value_fn=jnp.sum)
    with pytest.raises(ValueError, match="of the form"):
        transform.update(x, transform.init(x), x, hvp=lambda v: v[:1])


def test_curvature_that_is_not_finite_is_passed_on():
    transform, x = transforms.scale_by_adahessian(), jnp.ones(2)
    for bad in (jnp.inf, jnp.nan):
        step, _ = transform.update(
            x, transform.init(x), hvp=lambda v: v * jnp.array([bad, 1.0])
        )
        assert jnp.isnan(step[0]) and jnp.isfinite(step[1])
