"""Projection onto a polyhedron: enumeration, degenerate rows, empty sets, solvers."""

import functools
import itertools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies
from scipy import optimize

import jaxsolve
from jaxsolve import composite, prox
from jaxsolve.core import Status

project = jax.jit(lambda x, *rows: prox.polyhedron(*rows)(x))
below = jax.jit(lambda x, G, h: prox.polyhedron(G=G, h=h)(x))


def enumerated(x, A, b, G, h):
    """The projection by trial of every active set: the nearest feasible candidate."""
    best, least = None, np.inf
    for size in range(min(len(h), len(x)) + 1):
        for active in itertools.combinations(range(len(h)), size):
            rows = np.concatenate([A, G[list(active)]])
            values = np.concatenate([b, h[list(active)]])
            y = x - np.linalg.pinv(rows) @ (rows @ x - values)
            feasible = np.all(G @ y <= h + 1e-9) and np.allclose(rows @ y, values)
            if feasible and np.sum((y - x) ** 2) < least:
                best, least = y, np.sum((y - x) ** 2)
    return best


def drawn(seed, n, p, q, tight=0.5):
    """A polyhedron with a point in it at which a part of the rows is tight."""
    rng = np.random.default_rng(seed)
    A, G, x = rng.normal(size=(p, n)), rng.normal(size=(q, n)), rng.normal(size=n)
    room = rng.exponential(size=q) * (rng.random(q) > tight)
    return 4 * rng.normal(size=n), A, A @ x, G, G @ x + room


@pytest.mark.parametrize("seed", range(6))
def test_every_active_set_tried_gives_the_same_point(seed, x64):
    problem = drawn(seed, 4, 1, 5)
    np.testing.assert_allclose(project(*problem), enumerated(*problem), atol=1e-12)


@hypothesis.settings(deadline=None, max_examples=40, derandomize=True)
@hypothesis.given(strategies.integers(0, 10**6), strategies.floats(0, 1))
def test_multipliers_certify_the_projection_onto_many_rows(seed, tight):
    x, _, _, G, h = drawn(seed, 5, 0, 12, tight)
    with jax.enable_x64(True):
        y = np.asarray(below(x, G, h))
    assert np.max(G @ y - h) < 1e-12 * (1 + np.abs(x).max())
    # x - y is a non-negative combination of the rows that are tight.
    active = G[G @ y - h > -1e-9]
    gap = optimize.nnls(active.T, x - y)[1] if len(active) else np.max(np.abs(x - y))
    assert gap < 1e-10 * (1 + np.abs(x).max())


def test_a_thin_set_is_not_taken_for_an_empty_one(x64):
    x, _, _, G, h = drawn(16544, 5, 0, 12)
    y = np.asarray(below(x, G, h))
    assert np.max(G @ y - h) < 1e-10


@pytest.mark.parametrize("seed", range(3))
def test_single_precision_agrees_with_double(seed):
    problem = drawn(seed, 4, 1, 5)
    out = project(*(np.float32(v) for v in problem))
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, enumerated(*problem), atol=5e-5)


def test_the_unit_cube_and_simplex_are_those_of_the_room(x64):
    x = np.array([2.0, 0.3, -1.0, 0.8])
    G, h = np.concatenate([np.eye(4), -np.eye(4)]), np.repeat([1.0, 0.0], 4)
    np.testing.assert_allclose(below(x, G, h), np.clip(x, 0, 1), atol=1e-14)
    total = np.ones((1, 4)), np.ones(1)
    out = project(x, *total, -np.eye(4), np.zeros(4))
    np.testing.assert_allclose(out, prox.simplex()(x), atol=1e-14)


def test_without_inequalities_it_is_the_affine_set(x64):
    x, A, b, _, _ = drawn(3, 6, 2, 1)
    out = prox.polyhedron(A, b)(x)
    np.testing.assert_allclose(out, prox.affine_set(A, b)(x), atol=1e-12)


def test_repeated_dependent_zero_and_idle_rows_change_nothing(x64):
    x, A, b, G, h = drawn(1, 4, 1, 5)
    more = np.concatenate([G, G, G[:1] + G[1:2], np.zeros((1, 4)), np.ones((1, 4))])
    also = np.concatenate([h, h, h[:1] + h[1:2], [0.0], [np.inf]])
    twice = np.concatenate([A, -2 * A]), np.concatenate([b, -2 * b])
    jacobian = jax.jit(jax.jacrev(lambda x, *rows: prox.polyhedron(*rows)(x)))
    plain, other = (x, A, b, G, h), (x, *twice, more, also)
    np.testing.assert_allclose(project(*other), project(*plain), atol=1e-12)
    np.testing.assert_allclose(jacobian(*other), jacobian(*plain), atol=1e-9)


def test_repeated_rows_share_the_derivative_in_their_bounds(x64):
    G, h, x = np.array([[1.0, 0.0], [1.0, 0.0]]), np.ones(2), np.array([3.0, 2.0])
    slope = jax.jacfwd(below, argnums=2)(x, G, h)
    np.testing.assert_allclose(slope, [[0.5, 0.5], [0, 0]], atol=1e-12)


def test_a_row_that_is_tight_without_a_multiplier_is_as_if_absent(x64):
    x = np.array([1.0, 0.5])
    jacobian = jax.jacfwd(below)(x, np.array([[1.0, 0.0]]), np.ones(1))
    np.testing.assert_allclose(jacobian, np.eye(2), atol=1e-12)


def test_derivatives_in_point_and_rows_are_those_of_differences(x64):
    primals = drawn(2, 4, 1, 5)
    rng = np.random.default_rng(9)
    tangents = tuple(rng.normal(size=v.shape) for v in primals)
    move = lambda s: [v + s * d for v, d in zip(primals, tangents, strict=True)]
    slope = (project(*move(1e-6)) - project(*move(-1e-6))) / 2e-6
    _, forward = jax.jit(functools.partial(jax.jvp, project))(primals, tangents)
    np.testing.assert_allclose(forward, slope, atol=1e-7)
    back = jax.jit(lambda *p: jax.vjp(project, *p)[1](tangents[0]))(*primals)
    inner = sum(np.vdot(u, v) for u, v in zip(back, tangents, strict=True))
    np.testing.assert_allclose(inner, tangents[0] @ forward, rtol=1e-10)


def test_an_empty_set_gives_nan_in_its_lane_alone(x64):
    G = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    bounds = np.array([[1.0, 0.0, 1.0], [0.0, -1e-6, 1.0], [1.0, -1.0, 1.0]])
    out = jax.vmap(below, (None, None, 0))(np.array([2.0, 3.0]), G, bounds)
    np.testing.assert_allclose(out[::2], [[1, 1], [1, 1]], atol=1e-12)
    assert np.all(np.isnan(out[1]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_impossible_equations_and_bounds_give_nan(dtype, x64):
    x = np.ones(3, dtype)
    row = np.ones((1, 3), dtype)
    one, two = np.ones(1, dtype), np.full(1, 2, dtype)
    assert np.all(np.isnan(project(x, row, two, row, one)))
    both = np.concatenate([row, row])
    assert np.all(np.isnan(prox.polyhedron(both, np.concatenate([one, two]))(x)))
    assert np.all(np.isnan(below(x, 0 * row, -one)))


def test_a_solver_around_an_empty_set_ends_as_diverged():
    G, h = jnp.array([[1.0, 0.0], [-1.0, 0.0]]), jnp.array([0.0, -1.0])
    fun = lambda x, data: jnp.sum((x - 1) ** 2)
    solver = composite.proximal_gradient(fun, prox.polyhedron(G=G, h=h), 0.1)
    out = jaxsolve.run(solver, jnp.zeros(2))
    assert out.status == Status.DIVERGED and np.all(np.isfinite(out.params))


def test_scale_changes_nothing_but_the_scale(x64):
    x, A, b, G, h = drawn(4, 4, 1, 5)
    exact = project(x, A, b, G, h)
    for size in (1e-8, 1e8):
        out = project(size * x, A, size * b, G * size, h * size**2)
        np.testing.assert_allclose(out / size, exact, atol=1e-12)


def test_lanes_are_their_single_projections(x64):
    x, A, b, G, h = drawn(5, 4, 1, 5)
    points = x * np.array([[0.01], [1.0], [100.0]])
    out = jax.vmap(project, (0, None, None, None, None))(points, A, b, G, h)
    for y, point in zip(out, points, strict=True):
        np.testing.assert_allclose(y, project(point, A, b, G, h), atol=1e-11)


def test_arguments_that_do_not_fit_are_refused():
    G, h = np.ones((2, 3)), np.ones(2)
    with pytest.raises(ValueError, match="neither: use prox.identity"):
        prox.polyhedron()
    with pytest.raises(ValueError, match="G and h must be given together"):
        prox.polyhedron(G=G)
    with pytest.raises(ValueError, match=r"A and b must have the shapes \(m, n\)"):
        prox.polyhedron(G, np.ones(3))
    with pytest.raises(ValueError, match="one column for each entry.* 4 and 3"):
        prox.polyhedron(np.ones((1, 4)), np.ones(1), G, h)
    with pytest.raises(ValueError, match="have 5 and these have 3"):
        prox.polyhedron(G=G, h=h)(jnp.ones(5))


def test_whole_numbers_are_taken():
    out = prox.polyhedron(G=np.array([[1, 1]]), h=np.array([2]))(jnp.array([2.0, 2.0]))
    np.testing.assert_allclose(out, 1, atol=1e-6)


def test_rows_and_points_of_any_size_count():
    x, one = jnp.array([3.0, 0.5, -1.0]), jnp.ones(1)
    for size in (1e-20, 1.0, 1e25):
        y = project(x, size * jnp.ones((1, 3)), size * one)
        np.testing.assert_allclose(y, [2.5, 0, -1.5], atol=2e-6)
    for size in (1e-25, 1e25):
        y = project(size * x, jnp.ones((1, 3)), size * one) / size
        np.testing.assert_allclose(y, [2.5, 0, -1.5], atol=2e-6)
    derivative = jax.jacobian(project)(1e25 * x, jnp.ones((1, 3)), 1e25 * one)
    np.testing.assert_allclose(derivative, np.eye(3) - 1 / 3, atol=1e-6)


def test_bounds_that_no_point_meets_give_nan_or_are_refused():
    x, row = jnp.array([3.0, 0.5, -1.0]), jnp.ones((1, 3))
    for bound in (-jnp.inf, jnp.nan):
        assert np.all(np.isnan(below(x, row, jnp.full(1, bound))))
        with pytest.raises(ValueError, match="h must be finite or infinity"):
            prox.polyhedron(G=row, h=jnp.full(1, bound))
    assert np.all(np.isnan(project(x, row, jnp.full(1, jnp.inf))))
    with pytest.raises(ValueError, match="b must be finite"):
        prox.polyhedron(row, jnp.full(1, jnp.inf))
