"""Projections onto transport polytopes: other ways to them, edges, derivatives."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

from jaxsolve import prox
from tests.prox.test_polyhedron import enumerated

RNG = np.random.default_rng(0)
on_transport = jax.jit(lambda s, a, b: prox.transport(a, b)(s))
on_kl = jax.jit(lambda s, a, b: prox.kl_transport(a, b)(s))
both = pytest.mark.parametrize("project", [on_transport, on_kl], ids=["l2", "kl"])


def drawn(seed, m, n, scale=1.0):
    rng = np.random.default_rng(seed)
    a, b = rng.exponential(size=m), rng.exponential(size=n)
    return scale * rng.normal(size=(m, n)), a / a.sum(), b / b.sum()


def sums_of(m, n):
    """The matrix of row and column sums."""
    return np.concatenate([np.kron(np.eye(m), np.ones(n)), np.tile(np.eye(n), m)])


def sinkhorn(s, a, b, sweeps=20_000):
    """Cuturi (2013), in NumPy: u = a / (K v), v = b / (K' u)."""
    kernel, v = np.exp(s), np.ones(len(b))
    for _ in range(sweeps):
        u = a / (kernel @ v)
        v = b / (kernel.T @ u)
    return u[:, None] * kernel * v


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_projection_of_every_active_set_tried(seed, x64):
    s, a, b = drawn(seed, 2, 3)
    rows = sums_of(2, 3), np.concatenate([a, b]), -np.eye(6), np.zeros(6)
    expected = enumerated(s.ravel(), *rows).reshape(2, 3)
    np.testing.assert_allclose(on_transport(s, a, b), expected, atol=1e-13)
    flat = prox.polyhedron(*rows)(s.ravel()).reshape(2, 3)
    np.testing.assert_allclose(flat, expected, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_kl_is_what_sinkhorns_iteration_tends_to(scale, x64):
    s, a, b = drawn(0, 4, 6, scale)
    np.testing.assert_allclose(on_kl(s, a, b), sinkhorn(s, a, b), rtol=1e-9)


@both
@hypothesis.settings(deadline=None, max_examples=25, derandomize=True)
@hypothesis.given(strategies.integers(0, 10**6), strategies.floats(0.01, 100))
def test_sums_are_met_whatever_the_scale(project, seed, scale):
    s, a, b = drawn(seed, 4, 6, scale)
    with jax.enable_x64(True):
        plan = np.asarray(project(s, a, b))
    assert np.all(plan >= 0)
    np.testing.assert_allclose(plan.sum(1), a, atol=1e-12)
    np.testing.assert_allclose(plan.sum(0), b, atol=1e-12)


@both
def test_sums_are_met_in_single_precision(project):
    s, a, b = (np.float32(v) for v in drawn(1, 12, 9))
    plan = np.asarray(project(s, a, b), np.float64)
    np.testing.assert_allclose(plan.sum(1), a, atol=1e-6)
    np.testing.assert_allclose(plan.sum(0), b, atol=1e-6)


def test_potentials_certify_a_large_sparse_projection(x64):
    s, a, b = drawn(2, 30, 20)
    plan = np.asarray(on_transport(s, a, b))
    rows, columns = np.nonzero(plan)
    # P - S is f + g on the support, and not less than f + g elsewhere.
    edges = np.eye(30)[rows], np.eye(20)[columns]
    values = (plan - s)[rows, columns]
    potentials, *_ = np.linalg.lstsq(np.concatenate(edges, 1), values, rcond=None)
    sums = potentials[:30, None] + potentials[None, 30:]
    np.testing.assert_allclose(sums[rows, columns], values, atol=1e-11)
    assert len(rows) < 100 and np.max(sums + s - plan) < 1e-11


def test_a_permutation_is_found_and_kept(x64):
    permutation = np.eye(5)[[2, 0, 1, 4, 3]]
    for factory in (prox.birkhoff, prox.kl_birkhoff):
        out = jax.jit(factory())(1000 * permutation)
        np.testing.assert_allclose(out, permutation, atol=1e-12)
    np.testing.assert_allclose(jax.jit(prox.birkhoff())(permutation), permutation)
    # Every entry of the support is a part by itself: nothing can move.
    slope = jax.jit(jax.jacrev(prox.birkhoff()))(1000 * permutation)
    np.testing.assert_allclose(slope, 0, atol=1e-12)


@both
def test_rows_and_columns_without_mass_are_zero(project, x64):
    s, a, b = drawn(3, 4, 6)
    a[1], b[2] = 0.0, 0.0
    a, b = a / a.sum(), b / b.sum()
    plan = project(s, a, b)
    assert np.all(plan[1] == 0) and np.all(plan[:, 2] == 0)
    small = [np.delete(np.delete(s, 1, 0), 2, 1), np.delete(a, 1), np.delete(b, 2)]
    rest = np.delete(np.delete(plan, 1, 0), 2, 1)
    np.testing.assert_allclose(rest, project(*small), atol=1e-12)
    slope = jax.jacrev(project)(s, a, b)
    assert np.all(np.isfinite(slope)) and np.all(slope[1] == 0)


@both
def test_forbidden_entries_remain_zero(project, x64):
    s, a, b = drawn(4, 4, 6)
    s[0, 1] = s[2, 3] = -np.inf
    plan = project(s, a, b)
    assert plan[0, 1] == plan[2, 3] == 0
    np.testing.assert_allclose(plan.sum(1), a, atol=1e-12)
    assert np.all(np.isfinite(jax.jacrev(project)(s, a, b)))


@both
def test_derivatives_are_those_of_differences(project, x64):
    s, a, b = drawn(5, 4, 6)
    rng = np.random.default_rng(6)
    tangents = rng.normal(size=s.shape), rng.normal(size=4), rng.normal(size=6)
    tangents[2][:] -= (tangents[2].sum() - tangents[1].sum()) / 6
    move = lambda t: [v + t * d for v, d in zip((s, a, b), tangents, strict=True)]
    slope = (project(*move(1e-6)) - project(*move(-1e-6))) / 2e-6
    _, forward = jax.jit(functools.partial(jax.jvp, project))((s, a, b), tangents)
    np.testing.assert_allclose(forward, slope, atol=1e-7)
    back = jax.jit(lambda *p: jax.vjp(project, *p)[1](tangents[0]))(s, a, b)
    inner = sum(np.vdot(u, v) for u, v in zip(back, tangents, strict=True))
    np.testing.assert_allclose(inner, np.vdot(tangents[0], forward), rtol=1e-10)


def test_derivative_where_the_support_falls_into_parts(x64):
    # Two blocks that exchange nothing: the scores of each move its own plan alone.
    block = np.array([[0.5, 0.2], [0.1, 0.4]])
    s = np.block([[block, np.full((2, 2), -9.0)], [np.full((2, 2), -9.0), block]])
    jacobian = jax.jit(jax.jacrev(prox.birkhoff()))(s)
    alone = jax.jit(jax.jacrev(prox.birkhoff()))(block)
    np.testing.assert_allclose(jacobian[:2, :2, :2, :2], alone, atol=1e-13)
    np.testing.assert_allclose(jacobian[:2, :2, 2:, :], 0, atol=1e-13)


@both
def test_leading_axes_are_matrices_by_themselves(project, x64):
    s, a, b = drawn(7, 4, 6)
    scales = np.array([0.01, 1.0, 30.0]).reshape(3, 1, 1)
    out = project(scales * s, a, b)
    for plan, scale in zip(out, scales, strict=True):
        np.testing.assert_allclose(plan, project(scale * s, a, b), atol=1e-13)


def test_a_lane_of_nan_or_of_unequal_totals_is_nan_alone(x64):
    s, a, b = drawn(8, 4, 6)
    scores = np.stack([s, s, np.full_like(s, np.nan)])
    masses = np.stack([a, 1.01 * a, a])
    for project in (on_transport, on_kl):
        out = jax.vmap(project, (0, 0, None))(scores, masses, b)
        np.testing.assert_allclose(out[0], project(s, a, b), atol=1e-13)
        assert np.all(np.isnan(out[1:]))


@pytest.mark.parametrize("factory", [prox.transport, prox.kl_transport])
def test_marginals_that_no_matrix_has_are_refused(factory):
    half = np.full(2, 0.5)
    with pytest.raises(ValueError, match="a must be at least zero"):
        factory(np.array([1.5, -0.5]), half)
    with pytest.raises(ValueError, match="must have mass"):
        factory(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match=r"same total.*1\.0 and 1\.5.*scale"):
        factory(half, np.full(3, 0.5))
    with pytest.raises(ValueError, match="must be vectors"):
        factory(1.0, 1.0)
    with pytest.raises(ValueError, match=r"one entry for each row.*\(2, 3\)"):
        factory(half, half)(jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="params must be matrices"):
        factory(half, half)(jnp.zeros(4))


def test_birkhoff_refuses_what_is_not_square():
    with pytest.raises(ValueError, match=r"of shape \(..., n, n\)"):
        prox.birkhoff()(jnp.zeros((2, 3)))


@both
def test_sums_are_met_or_all_is_nan_and_mass_has_any_unit(project):
    s, a, b = (jnp.asarray(v, jnp.float32) for v in drawn(0, 3, 4))
    plan = project(s, a, b)
    for size in (1e2, 1e6):
        large = np.asarray(project(size * s, a, b))
        met = np.abs(large.sum(1) - a).max() <= 4e-4 and np.all(large >= 0)
        assert met or np.all(np.isnan(large))
    assert np.all(np.isnan(project(1e8 * s, a, b)))
    unit = 2.0**-34
    scores = s * unit if project is on_transport else s
    np.testing.assert_array_equal(project(scores, a * unit, b * unit), plan * unit)
