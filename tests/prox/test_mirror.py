"""Mirror maps and linear oracles: optimality, edges of the sets, what they refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import jaxsolve
from jaxsolve import composite, prox

RNG = np.random.default_rng(0)
Z = RNG.dirichlet(np.ones(6)) * 2.5
G = RNG.normal(size=6) * 3
ETA = 0.7
# Each map, and the derivative of its function.
MAPS = {
    "entropy": (prox.entropy_map, np.log),
    "tsallis": (functools.partial(prox.tsallis_map, 0.3), lambda x: -(x**-0.7) / 0.7),
    "log_barrier": (prox.log_barrier_map, lambda x: -1 / x),
}
every_map = pytest.mark.parametrize("name", MAPS)


@every_map
def test_step_on_the_simplex_satisfies_its_optimality_conditions(x64, name):
    make, slope = MAPS[name]
    x = np.asarray(make(2.5).step(Z, G, ETA))
    np.testing.assert_allclose(x.sum(), 2.5, rtol=1e-14)
    multipliers = ETA * G + slope(x) - slope(Z)
    np.testing.assert_allclose(multipliers, multipliers[0], rtol=1e-11)
    np.testing.assert_allclose(make(2.5).step(Z, 0 * G, 1.0), Z, rtol=1e-13)


@every_map
def test_step_on_the_orthant_satisfies_its_optimality_conditions(x64, name):
    make, slope = MAPS[name]
    g = np.abs(G)
    x = np.asarray(make(None).step(Z, g, ETA))
    np.testing.assert_allclose(slope(x), slope(Z) - ETA * g, rtol=1e-12)


@pytest.mark.parametrize("name", ["tsallis", "log_barrier"])
def test_step_on_the_orthant_is_infinite_where_no_minimiser_exists(name):
    x = MAPS[name][0](None).step(jnp.ones(2), jnp.array([-9.0, 1.0]), 1.0)
    assert x[0] == jnp.inf and 0 < x[1] < 1


@every_map
def test_derivatives_of_the_step_are_exact_to_second_order(x64, name):
    mirror = MAPS[name][0]()
    way = (jnp.asarray(RNG.normal(size=6)), jnp.asarray(RNG.normal(size=6)), 0.3)

    def along(t):
        z, g, eta = (p + t * d for p, d in zip((Z, G, ETA), way, strict=True))
        return mirror.step(z, g, eta)

    first = jax.jacfwd(along)
    second = jax.jit(lambda t: (along(t), first(t), jax.jacfwd(first)(t)))
    h = 1e-6
    (low, slope_low, _), (_, slope, bend), (high, slope_high, _) = map(
        second, (-h, 0.0, h)
    )
    np.testing.assert_allclose(slope, (high - low) / (2 * h), rtol=1e-6, atol=3e-7)
    np.testing.assert_allclose(
        bend, (slope_high - slope_low) / (2 * h), rtol=1e-6, atol=3e-7
    )


@every_map
def test_zeros_stay_zero_and_nothing_else_becomes_zero(name):
    step = jax.jit(MAPS[name][0]().step)
    x = step(jnp.array([0.0, 0.5, 0.5]), jnp.array([-1e30, 1e30, 0.0]), 1.0)
    assert x[0] == 0 and x[1] > 0
    np.testing.assert_allclose(x[2], 1, rtol=1e-6)
    np.testing.assert_allclose(step(jnp.zeros(3), jnp.zeros(3), 1.0), 1 / 3, rtol=1e-6)
    assert np.all(np.isnan(step(jnp.array([jnp.nan, 1.0]), jnp.zeros(2), 1.0)))


@pytest.mark.parametrize("spread", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("name", ["tsallis", "log_barrier"])
def test_normaliser_is_found_for_many_entries_of_any_spread(name, spread):
    g = jnp.asarray(RNG.exponential(size=2000), jnp.float32) * spread
    x = np.asarray(MAPS[name][0]().step(jnp.ones(2000), g, 1.0), np.float64)
    np.testing.assert_allclose(x.sum(), 1, rtol=1e-4)
    slope = MAPS[name][1]
    multipliers = np.asarray(g, np.float64) + slope(x)
    # Gradients of this size are rounded by as much.
    slack = 1e-5 * np.abs(multipliers[0]) + 4e-7 * float(jnp.max(g))
    np.testing.assert_allclose(multipliers, multipliers[0], atol=slack)


def test_divergences_are_the_known_ones(x64):
    x, z = RNG.dirichlet(np.ones(6), 2)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12)
    close(prox.entropy_map().divergence(x, z), special.kl_div(x, z).sum())
    r = x / z
    close(prox.log_barrier_map().divergence(x, z), np.sum(r - np.log(r) - 1))
    h = lambda x: np.sum(x**0.3) / (0.3 * -0.7)
    expected = h(x) - h(z) - np.sum(z**-0.7 * (x - z)) / -0.7
    close(prox.tsallis_map(0.3).divergence(x, z), expected)
    close(prox.euclidean_map().divergence(x, z), np.sum((x - z) ** 2) / 2)


@every_map
def test_divergence_of_near_points_keeps_its_digits(name):
    z = np.asarray(Z, np.float32)
    x = z * np.float32(1 + 2.0**-14)
    exponent = {"entropy": 1.0, "tsallis": 0.3, "log_barrier": 0.0}[name]
    expected = (
        np.sum(z.astype(float) ** (exponent - 2) * (x.astype(float) - z) ** 2) / 2
    )
    actual = MAPS[name][0]().divergence(jnp.asarray(x), jnp.asarray(z))
    np.testing.assert_allclose(actual, expected, rtol=1e-3)


@pytest.mark.parametrize("q", [0.01, 0.5, 0.9, 0.99])
def test_tsallis_divergence_keeps_its_digits_at_any_distance(q):
    d = np.logspace(-4, 0, 41)
    x = np.concatenate([1 + d, 1 - d]).astype(np.float32)
    one = jnp.ones(1, jnp.float32)
    divergence = jax.jit(jax.vmap(prox.tsallis_map(q, None).divergence, (0, None)))
    wide = x.astype(np.float64)
    expected = (wide**q - 1 - q * (wide - 1)) / (q * (q - 1))
    actual = np.asarray(divergence(jnp.asarray(x)[:, None], one))
    assert np.all(actual >= 0)
    np.testing.assert_allclose(actual, expected, rtol=3e-5)


@every_map
def test_divergence_of_zeros(name):
    divergence = MAPS[name][0]().divergence
    inside = divergence(jnp.array([0.0, 1.0]), jnp.array([0.5, 0.5]))
    assert np.isfinite(inside) == (name != "log_barrier")
    assert divergence(jnp.array([0.5, 0.5]), jnp.array([0.0, 1.0])) == jnp.inf
    assert divergence(jnp.array([0.0, 1.0]), jnp.array([0.0, 1.0])) == 0


@pytest.mark.parametrize("radius", [2.0, None])
def test_violation_is_zero_at_minimisers_and_there_only(x64, radius):
    violation = jax.jit(prox.entropy_map(radius).violation)
    g = jnp.array([1.0, 0.5, 0.5, 3.0]) - (0.0 if radius else 0.5)
    at = lambda *x: np.max(np.abs(violation(jnp.array(x), g)))
    assert at(0.0, 1.5, 0.5, 0.0) == 0
    np.testing.assert_allclose(at(0.1, 1.9, 0.0, 0.0), 0.1)
    np.testing.assert_allclose(at(1.0, 1.0, 0.0, 0.0), 0.5)
    assert at(-0.1, 1.5, 0.6, 0.0) > 0.05 and np.isnan(at(np.nan, 1.0, 1.0, 0.0))
    if radius:
        np.testing.assert_allclose(at(0.0, 1.0, 0.0, 0.0), 1.0)


def test_tsallis_lies_between_the_barrier_and_the_entropy(x64):
    near_one, near_zero = prox.tsallis_map(1 - 1e-7), prox.tsallis_map(1e-9)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5)
    close(near_one.step(Z, G, 1.0), prox.entropy_map().step(Z, G, 1.0))
    close(near_zero.step(Z, G, 1.0), prox.log_barrier_map().step(Z, G, 1.0))


@every_map
def test_rows_trees_and_low_precision(name):
    make = MAPS[name][0]
    z = jnp.asarray(RNG.dirichlet(np.ones(3), 2), jnp.float32)
    g = jnp.asarray(RNG.normal(size=(2, 3)), jnp.float32)
    rows = make(axis=1).step(z, g, ETA)
    for row, zi, gi in zip(rows, z, g, strict=True):
        np.testing.assert_allclose(row, make().step(zi, gi, ETA), rtol=1e-5)
    tree = lambda v: {"a": v[0], "b": v[1].astype(jnp.bfloat16)}
    out = make(2.0).step(tree(z), tree(g), ETA)
    assert out["b"].dtype == jnp.bfloat16
    total = jnp.sum(out["a"]) + jnp.sum(out["b"].astype(jnp.float32))
    np.testing.assert_allclose(total, 2.0, rtol=1e-2)
    assert make().divergence(tree(z), tree(z)).dtype == jnp.float32


def test_maps_made_alike_are_the_same():
    assert prox.tsallis_map(0.5, axis=1) is prox.tsallis_map(0.5, axis=1)
    assert prox.simplex_vertex(2.0) is prox.simplex_vertex(2.0)


def test_numbers_that_make_no_sense_are_refused():
    for q in (0, 1, -0.5, np.nan):
        with pytest.raises(ValueError, match="q must be"):
            prox.tsallis_map(q)
    for radius in (0, -1.0, np.inf, np.nan, np.ones(2)):
        for make in (prox.entropy_map, prox.simplex_vertex, prox.nuclear_ball_vertex):
            with pytest.raises(ValueError, match="radius"):
                make(radius)
    with pytest.raises(ValueError, match="upper must be finite"):
        prox.box_vertex(0.0, np.inf)
    with pytest.raises(ValueError, match="matrices"):
        prox.nuclear_ball_vertex().vertex(jnp.ones(3))
    with pytest.raises(ValueError, match="stepsize must be one number"):
        prox.entropy_map().step(jnp.ones(2), jnp.ones(2), jnp.ones(2))


def test_small_gradients_count_at_large_points():
    mirror = prox.entropy_map(None)
    violation = mirror.violation(jnp.full(2, 1e9), jnp.full(2, -1.0))
    np.testing.assert_array_equal(violation, [-1, -1])
    solver = composite.mirror_descent(lambda x, b: -jnp.sum(x), mirror)
    assert not jaxsolve.run(solver, jnp.full(2, 1e9), None, max_steps=3).converged


def test_an_empty_group_has_no_violation():
    empty = jnp.zeros(0)
    with pytest.raises(ValueError, match="at least one entry to lie in a simplex"):
        prox.entropy_map().violation(empty, empty)


# ------------------------------------------------------------------------------ oracles

ORACLES = {
    "simplex": prox.simplex_vertex(1.5),
    "simplex of rows": prox.simplex_vertex(axis=1),
    "l1 ball": prox.l1_ball_vertex(1.5),
    "l1 balls of columns": prox.l1_ball_vertex(axis=0),
    "l2 ball": prox.l2_ball_vertex(1.5),
    "l2 balls of rows": prox.l2_ball_vertex(axis=-1),
    "box": prox.box_vertex(np.array([-1.0, 0.0, -np.pi]), 2.0),
}


@pytest.mark.parametrize("name", ORACLES)
def test_vertex_lies_in_the_set_and_no_point_is_better(x64, name):
    oracle = ORACLES[name]

    @jax.jit
    def answer(gradients, points):
        vertices = jax.vmap(oracle.vertex)(gradients)
        again = jax.vmap(oracle.projection)(vertices)
        return vertices, again, jax.vmap(oracle.projection)(points)

    g, points = RNG.normal(size=(3, 4, 3)), 3 * RNG.normal(size=(50, 4, 3))
    vertices, again, points = map(np.asarray, answer(g, points))
    np.testing.assert_allclose(again, vertices, atol=1e-12)
    values = np.einsum("gij,pij->gp", g, points)
    assert np.all(np.sum(g * vertices, axis=(1, 2)) <= values.min(axis=1) + 1e-12)


def test_vertex_of_the_nuclear_ball_is_the_leading_pair(x64):
    g = RNG.normal(size=(4, 3))
    vertex = prox.nuclear_ball_vertex(2.0).vertex(jnp.asarray(g))
    np.testing.assert_allclose(
        np.sum(g * np.asarray(vertex)), -2 * np.linalg.norm(g, 2)
    )
    singular = np.linalg.svd(vertex, compute_uv=False)
    np.testing.assert_allclose(singular, [2, 0, 0], atol=1e-12)


@pytest.mark.parametrize("name", ["simplex", "l1 ball"])
def test_numbered_corners_are_the_vertices(x64, name):
    oracle = ORACLES[name]
    g = jnp.asarray(RNG.normal(size=5))
    count = oracle.corners.count(5)
    vertices = jax.vmap(oracle.corners.combine)(jnp.eye(count))
    np.testing.assert_allclose(oracle.corners.scores(g), vertices @ g, atol=1e-14)
    best = vertices[jnp.argmin(vertices @ g)]
    np.testing.assert_array_equal(oracle.vertex(g), best)


def test_vertices_of_zero_and_extreme_gradients_are_finite():
    for name in ("simplex", "l1 ball", "l2 ball"):
        for size in (0.0, 1e-30, 1e30):
            vertex = ORACLES[name].vertex(jnp.full(3, size))
            assert np.all(np.isfinite(vertex))
