"""The inverse Fisher matrix and pruning by it: dense inverses, exact removals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import core, smooth, transforms

RNG = np.random.default_rng(0)
G = RNG.normal(size=(8, 20))
DAMPING = 1e-2


def fisher(gradients, damping=DAMPING):
    d = gradients.shape[1]
    return damping * np.eye(d) + gradients.T @ gradients / len(gradients)


def papers(gradients, damping):
    """The static algorithm of Frantar et al. (2021): rows v and their q."""
    m, v, q = len(gradients), [], []
    for g in gradients:
        row = g / damping - sum(
            (a * (a @ g) / b for a, b in zip(v, q, strict=True)), 0 * g
        )
        v.append(row)
        q.append(m + g @ row)
    return np.stack(v), np.stack(q)


def test_rows_are_the_papers_up_to_their_lengths(x64):
    v, q = papers(G, DAMPING)
    ours = transforms.inverse_fisher(jnp.asarray(G), DAMPING).whitened[0]
    expected = v * np.sqrt(DAMPING / q)[:, None]
    np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-10)


def test_products_diagonal_and_entries_are_those_of_the_dense_inverse(x64):
    dense = np.linalg.inv(fisher(G))
    inverse = transforms.inverse_fisher(jnp.asarray(G), DAMPING)
    x = RNG.normal(size=20)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
    close(inverse.product(jnp.asarray(x)), dense @ x)
    close(inverse.diagonal(), np.diag(dense))
    rows, columns = np.arange(20)[:, None], np.arange(20)[None]
    close(inverse.entries(rows, columns), dense)
    close(inverse.entries(3, 3), dense[3, 3])


def test_entries_count_from_the_end_and_do_not_exist_beyond_it():
    inverse = transforms.inverse_fisher(jnp.asarray(G, jnp.float32), 0.1, block_size=6)
    assert inverse.entries(-1, -3) == inverse.entries(19, 17)
    for out in (20, -21, np.array([0, 23])):
        with pytest.raises(ValueError, match="rows must lie"):
            inverse.entries(out, 0)
        with pytest.raises(ValueError, match="columns must lie"):
            inverse.entries(0, out)
    with pytest.raises(ValueError, match="rows must be integers"):
        inverse.entries(0.0, 0)
    traced = jax.jit(jax.vmap(inverse.entries))(jnp.array([20, 3]), jnp.array([20, 3]))
    assert np.isnan(traced[0]) and traced[1] == inverse.entries(3, 3)


def test_blocks_are_inverted_each_by_itself(x64):
    inverse = transforms.inverse_fisher(jnp.asarray(G), DAMPING, block_size=6)
    dense = np.zeros((20, 20))
    for i in range(0, 20, 6):
        dense[i : i + 6, i : i + 6] = np.linalg.inv(fisher(G[:, i : i + 6]))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
    close(inverse.product(jnp.ones(20)), dense.sum(1))
    close(inverse.diagonal(), np.diag(dense))
    close(inverse.entries(np.arange(20)[:, None], np.arange(20)[None]), dense)


def test_it_equals_the_dynamic_algorithm(x64):
    transform = transforms.scale_by_m_fac(DAMPING, memory=8)
    state = transform.init(jnp.zeros(20))
    for g in jnp.asarray(G):
        step, state = transform.update(g, state)
    inverse = transforms.inverse_fisher(jnp.asarray(G), DAMPING)
    np.testing.assert_allclose(inverse.product(jnp.asarray(G[-1])), step, rtol=1e-9)


def test_trees_are_vectors_and_keep_their_dtypes():
    split = lambda g: {"a": g[..., :18].reshape(*g.shape[:-1], 6, 3), "b": g[..., 18:]}
    wide = split(jnp.asarray(G, jnp.float32))
    inverse = transforms.inverse_fisher(wide, 0.1, block_size=7)
    flat = transforms.inverse_fisher(jnp.asarray(G, jnp.float32), 0.1, block_size=7)
    x = jnp.linspace(-1.0, 1.0, 20)
    product = inverse.product(split(x))
    np.testing.assert_allclose(core.ravel(product)[0], flat.product(x), rtol=1e-6)
    np.testing.assert_array_equal(inverse.product(x), flat.product(x))
    narrow = inverse.product(jax.tree.map(lambda x: x.astype(jnp.bfloat16), split(x)))
    assert {x.dtype.name for x in jax.tree.leaves(narrow)} == {"bfloat16"}
    assert inverse.diagonal()["a"].shape == (6, 3)


def test_in_float32_the_diagonal_is_right_up_to_a_condition_number():
    wide = fisher(G, 1e-4)  # 1e5 and below
    inverse = transforms.inverse_fisher(jnp.asarray(G, jnp.float32), 1e-4)
    exact = np.diag(np.linalg.inv(wide))
    np.testing.assert_allclose(inverse.diagonal(), exact, rtol=1e-2)
    beyond = transforms.inverse_fisher(1e3 * jnp.eye(4, dtype=jnp.float32), 1e-5)
    capped = beyond.diagonal() * 1e-5 / (64 * jnp.finfo(jnp.float32).eps)
    assert jnp.all(capped > 0) and jnp.all(capped < 1.5)


def test_it_solves_for_implicit_derivatives(x64):
    matrix, b = jnp.asarray(fisher(G)), jnp.asarray(RNG.normal(size=20))
    fun = lambda x, b: 0.5 * x @ matrix @ x - b @ x
    inverse = transforms.inverse_fisher(jnp.asarray(G), DAMPING)
    rule = core.implicit(lambda mv, rhs: inverse.product(rhs), psd=True)
    solver = smooth.lbfgs(fun)

    def outer(b):
        run = jaxsolve.run(solver, jnp.zeros(20), b, tol=1e-8, derivative=rule)
        return jnp.sum(run.params**2)

    solution = np.linalg.solve(matrix, b)
    expected = 2 * np.linalg.solve(matrix, solution)
    np.testing.assert_allclose(jax.grad(outer)(b), expected, rtol=1e-4)


def test_a_removed_weight_is_zero_and_costs_its_score(x64):
    w = RNG.normal(size=20)
    inverse = transforms.inverse_fisher(jnp.asarray(G), DAMPING)
    scores = transforms.obs_scores(jnp.asarray(w), inverse)
    dense = np.linalg.inv(fisher(G))
    np.testing.assert_allclose(scores, w**2 / (2 * np.diag(dense)), rtol=1e-10)
    for k in (0, 7):
        removed = jnp.arange(20) == k
        new = transforms.obs_remove(jnp.asarray(w), inverse, removed)
        change = np.asarray(new) - w
        np.testing.assert_allclose(change, -dense[:, k] * w[k] / dense[k, k], rtol=1e-9)
        assert new[k] == 0
        np.testing.assert_allclose(change @ fisher(G) @ change / 2, scores[k])


A = RNG.normal(size=(64, 30)) @ (np.eye(30) + 0.5 * RNG.normal(size=(30, 30)))
TRUTH = RNG.normal(size=30)


def misfit(w):
    return np.mean((A @ (np.asarray(w) - TRUTH)) ** 2)


def some_gradients(w):
    rows = jnp.asarray(A, w.dtype)
    noise = jnp.asarray(np.resize([1.0, -1.0], 64), w.dtype)
    return rows * (rows @ (w - jnp.asarray(TRUTH, w.dtype)) + noise)[:, None]


def test_pruning_is_exact_in_number_and_better_than_by_magnitude(x64):
    w = jnp.asarray(TRUTH)
    new, mask = transforms.obs_prune(some_gradients, w, 0.5, 1e-3, steps=5)
    assert jnp.sum(mask) == 15 and jnp.all((new == 0) == ~mask)
    order = np.argsort(np.abs(TRUTH))
    by_magnitude = np.where(np.isin(np.arange(30), order[:15]), 0, TRUTH)
    assert misfit(new) < 0.5 * misfit(by_magnitude)


def test_each_step_of_pruning_is_a_removal_with_a_new_inverse(x64):
    w, kept = jnp.asarray(TRUTH), np.ones(30, bool)
    for count in (21, 15):  # 30 (1/2)^(1/2) = 21.2
        gradients = np.asarray(some_gradients(w)) * kept
        dense = np.linalg.inv(fisher(gradients, 1e-3))
        scores = np.where(kept, np.asarray(w) ** 2 / (2 * np.diag(dense)), -1)
        kept = np.isin(np.arange(30), np.argsort(scores)[30 - count :])
        u = np.where(kept, 0, np.asarray(w) / np.diag(dense))
        w = jnp.asarray(np.where(kept, np.asarray(w) - dense @ u, 0))
    new, mask = transforms.obs_prune(
        some_gradients, jnp.asarray(TRUTH), 0.5, 1e-3, steps=2
    )
    np.testing.assert_array_equal(mask, kept)
    np.testing.assert_allclose(new, w, rtol=1e-8, atol=1e-8)


def test_pruning_goes_on_from_a_mask_and_compiles():
    w = {"a": jnp.asarray(TRUTH[:20], jnp.float32), "b": jnp.asarray(TRUTH[20:])}
    split = lambda g: {"a": g[:, :20], "b": g[:, 20:]}
    gradients = lambda w: split(some_gradients(jnp.concatenate([w["a"], w["b"]])))
    prune = lambda w, mask, s: transforms.obs_prune(
        gradients, w, s, 1e-2, steps=2, block_size=8, mask=mask
    )
    half, mask = jax.jit(lambda w: prune(w, None, 0.5))(w)
    less, after = jax.jit(lambda w, mask: prune(w, mask, 0.8))(half, mask)
    assert sum(jnp.sum(m) for m in after.values()) == 6
    for key in w:
        assert jnp.all(mask[key] | ~after[key]) and jnp.all(
            (less[key] == 0) == ~after[key]
        )
        assert less[key].dtype == w[key].dtype
    same, unchanged = prune(half, mask, 0.1)  # what is gone does not come back
    assert all(jnp.all(mask[key] == unchanged[key]) for key in mask)
    np.testing.assert_allclose(same["a"], half["a"])


def test_bad_input_is_refused():
    inverse = transforms.inverse_fisher(jnp.ones((2, 3)), 1.0)
    with pytest.raises(ValueError, match="damping must be"):
        transforms.inverse_fisher(jnp.ones((2, 3)), 0.0)
    with pytest.raises(ValueError, match="block_size must be"):
        transforms.inverse_fisher(jnp.ones((2, 3)), block_size=0)
    for wrong in ({}, jnp.ones(()), jnp.ones((0, 3)), [jnp.ones((2, 1)), jnp.ones(3)]):
        with pytest.raises(ValueError, match="gradients must be"):
            transforms.inverse_fisher(wrong)
    with pytest.raises(ValueError, match="3 entries"):
        inverse.product(jnp.ones(4))
    with pytest.raises(ValueError, match="params must have"):
        transforms.obs_scores(jnp.ones((3, 1)), inverse)
    with pytest.raises(ValueError, match="sparsity must be"):
        transforms.obs_prune(some_gradients, jnp.ones(30), 1.0)
    with pytest.raises(ValueError, match="steps must be"):
        transforms.obs_prune(some_gradients, jnp.ones(30), 0.5, steps=0)
    with pytest.raises(ValueError, match="steps must be"):
        transforms.obs_prune(some_gradients, jnp.ones(30), 0.5, steps=True)
    with pytest.raises(ValueError, match="block_size must be"):
        transforms.inverse_fisher(jnp.ones((2, 3)), block_size=True)
