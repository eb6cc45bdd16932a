"""Lanczos' method: the card's recurrence, exactness, breakdowns, float32."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from jaxsolve import linear

RNG = np.random.default_rng(1)


def symmetric(values):
    q = np.linalg.qr(RNG.normal(size=(len(values), len(values))))[0]
    return (q * values) @ q.T


def card(matrix, start, steps):
    """The reference recurrence, with two passes of orthogonalisation, in NumPy."""
    q = start / np.linalg.norm(start)
    rows, alpha, beta, before = [q], [], [], np.zeros_like(q)
    for j in range(steps):
        w = matrix @ rows[j] - (beta[-1] if beta else 0) * before
        alpha.append(rows[j] @ w)
        w = w - alpha[-1] * rows[j]
        for _ in range(2):
            basis = np.stack(rows)
            w = w - basis.T @ (basis @ w)
        beta.append(np.linalg.norm(w))
        before = rows[j]
        rows.append(w / beta[-1])
    t = np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)
    values, u = np.linalg.eigh(t)
    return np.stack(rows[:-1]), np.array(alpha), np.array(beta), values, u


def test_first_steps_are_the_cards(x64):
    matrix, start = symmetric(RNG.normal(size=9)), RNG.normal(size=9)
    rows, alpha, beta, values, u = card(matrix, start, 5)
    tree = lambda v: {"w": jnp.asarray(v[..., 1:]), "b": jnp.asarray(v[..., 0])}
    join = lambda t: jnp.concatenate([t["b"][..., None], t["w"]], -1)
    product = lambda v: tree(jnp.asarray(matrix) @ join(v))
    krylov = linear.lanczos(product, tree(start), 5)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    close(join(krylov.basis), rows)
    close(krylov.alpha, alpha)
    close(krylov.beta, beta)
    close(krylov.values, values)
    close(krylov.weights, u[0] ** 2)
    close(krylov.residuals, beta[-1] * np.abs(u[-1]))
    close(krylov.norm, np.linalg.norm(start))
    assert krylov.rank == 5 and abs(np.sum(krylov.weights) - 1) < 1e-14
    vectors = np.asarray(join(linear.ritz_vectors(krylov)))
    off = matrix @ vectors.T - vectors.T * np.asarray(krylov.values)
    close(np.linalg.norm(off, axis=0), krylov.residuals)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_as_many_steps_as_distinct_eigenvalues_are_exact(dtype, request):
    if dtype == "float64":
        request.getfixturevalue("x64")
    matrix = jnp.asarray(symmetric(np.repeat([-1.0, 2.0, 5.0, 6.0], 5)), dtype)
    start = jnp.asarray(RNG.normal(size=20), dtype)
    for steps in (4, 25):  # more than that are masked, more than unknowns too
        krylov = linear.lanczos(matrix, start, steps)
        assert krylov.rank == 4 and krylov.values.shape == (steps,)
        tight = 3e-6 if dtype == "float32" else 1e-13
        np.testing.assert_allclose(krylov.values[:4], [-1, 2, 5, 6], rtol=tight)
        np.testing.assert_array_equal(krylov.values[4:], krylov.values[3])
        assert not np.any(krylov.weights[4:]) and not np.any(krylov.residuals[4:])
        assert np.all(krylov.residuals < 1e-4)
        vectors = linear.ritz_vectors(krylov)
        gram = vectors @ vectors.T
        assert np.allclose(gram[:4, :4], np.eye(4), atol=tight) and not gram[4:].any()


def test_the_largest_ritz_value_rises_to_the_largest_eigenvalue(x64):
    values = np.linspace(0, 1, 30)
    matrix, start = symmetric(values), RNG.normal(size=30)
    values = [linear.lanczos(matrix, start, m).values for m in (2, 5, 12)]
    top, low = [v[-1] for v in values], [v[0] for v in values]
    assert np.all(np.diff(top) >= 0) and top[-1] <= 1 + 1e-14
    assert np.all(np.diff(low) <= 0) and low[-1] >= -1e-14
    assert 1 - top[-1] < 0.01


def test_in_float32_there_are_no_ghosts_of_large_eigenvalues():
    values = np.concatenate([np.linspace(0.01, 1, 195), [5, 8, 10, 15, 20.0]])
    matrix = jnp.asarray(symmetric(values), jnp.float32)
    krylov = linear.lanczos(matrix, jnp.asarray(RNG.normal(size=200), jnp.float32), 60)
    np.testing.assert_allclose(krylov.values[-5:], values[-5:], rtol=1e-5)
    assert krylov.values[-6] < 1.01
    gram = krylov.basis @ krylov.basis.T
    np.testing.assert_allclose(gram, np.eye(60), atol=2e-6)


def test_norms_of_any_size_are_in_the_range_of_float32():
    @jax.jit
    def run(size, start):
        operator = lambda v: size * jnp.array([1.0, 2.0, 5.0]) * v
        root = lambda x: jnp.sqrt(x / size)
        image = linear.matrix_function(root, operator, start, 3)
        return linear.lanczos(operator, start, 3), image

    for size in (1e-30, 1e-24, 1.0, 1e20, 1e37):
        for length in (1e-35, 1e-25, 1.0, 1e25, 1e37):
            krylov, image = run(jnp.float32(size), jnp.full(3, length))
            close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5)
            assert krylov.rank == 3
            close(krylov.norm / length, 3**0.5)
            close(krylov.values / size, [1, 2, 5])
            close(krylov.weights, np.full(3, 1 / 3))
            close(image / length, [1, 2**0.5, 5**0.5])


def test_a_norm_beyond_float32_is_seen_and_no_breakdown():
    for bad in (jnp.inf, jnp.nan):
        krylov = linear.lanczos(lambda v, c=bad: c * v, jnp.array([1.0, 2.0]), 2)
        assert not np.any(np.isfinite(krylov.values))
    long = linear.lanczos(jnp.diag(jnp.array([3e38, 3e38])), jnp.ones(2), 2)
    assert long.rank == 1 or not np.any(np.isfinite(long.values))
    endless = linear.lanczos(jnp.eye(8), jnp.full(8, 3e38), 2)
    assert not np.any(np.isfinite(endless.values)) and endless.rank == 2


def test_norms_are_differentiable(x64):
    start = jnp.array([3.0, -4.0, 0.0])
    norm = lambda v: linear.lanczos(jnp.diag(jnp.arange(3.0)), v, 1).norm
    np.testing.assert_allclose(jax.grad(norm)(start), [0.6, -0.8, 0], rtol=1e-12)
    assert np.all(jax.grad(norm)(jnp.zeros(3)) == 0)


def test_operators_come_in_three_forms():
    matrix = jnp.asarray(symmetric(np.arange(1.0, 6)), jnp.float32)
    start = jnp.ones(5)
    plain = linear.lanczos(matrix, start, 3)
    for operator in (
        lx.MatrixLinearOperator(matrix),
        lambda v: jnp.matmul(matrix, v, precision="highest"),
    ):
        other = linear.lanczos(operator, start, 3)
        np.testing.assert_allclose(plain.values, other.values, rtol=1e-6)


def test_lanes_equal_single_runs_and_compiled_runs_eager_ones():
    matrices = jnp.asarray(
        np.stack([symmetric(np.arange(4.0)), np.eye(4)]), jnp.float32
    )
    run = lambda matrix: linear.lanczos(matrix, jnp.ones(4), 3)
    lanes = jax.jit(jax.vmap(run))(matrices)
    for i, matrix in enumerate(matrices):
        single = run(matrix)
        assert single.rank == lanes.rank[i]
        np.testing.assert_allclose(lanes.values[i], single.values, atol=1e-5)
        np.testing.assert_allclose(lanes.weights[i], single.weights, atol=1e-5)


def test_a_start_of_zero_has_no_ritz_pairs():
    krylov = linear.lanczos(jnp.eye(3), jnp.zeros(3), 2)
    assert krylov.rank == 0 and not np.any(krylov.values) and not np.any(krylov.weights)
    assert not np.any(linear.ritz_vectors(krylov))
    for empty in ({}, jnp.zeros(0)):
        assert linear.lanczos(lambda v: v, empty, 2).rank == 0


def test_numbers_that_are_not_finite_are_seen():
    bad = jnp.eye(3).at[1, 1].set(jnp.nan)
    assert jnp.isnan(linear.lanczos(bad, jnp.ones(3), 2).values).all()
    assert jnp.isnan(linear.lanczos(jnp.eye(3), jnp.full(3, jnp.nan), 2).values).all()


def test_narrow_starts_have_wide_bases():
    start = jnp.ones(4, jnp.bfloat16)
    scales = jnp.array([1, 2, 4, 8], jnp.bfloat16)
    krylov = linear.lanczos(lambda v: scales * v, start, 2)
    assert krylov.basis.dtype == krylov.values.dtype == jnp.float32


@pytest.mark.parametrize("steps", [0, -1, 2.0, None])
def test_steps_are_positive_integers(steps):
    with pytest.raises(ValueError, match="steps"):
        linear.lanczos(jnp.eye(2), jnp.ones(2), steps)
