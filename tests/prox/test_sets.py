"""Projections: independent answers, edges of the sets, what they refuse."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies
from hypothesis.extra import numpy as arrays
from scipy import optimize

from jaxsolve import prox

X = np.array([3.0, -0.5, 0.2, -2.0, 1.0], np.float32)
RNG = np.random.default_rng(0)

# Whole and fractional numbers of many sizes: ties, zeros and negatives among them.
entries = strategies.integers(-50, 50) | strategies.floats(-100, 100, width=32)
vectors = arrays.arrays(np.float32, 6, elements=entries)
radii = strategies.floats(0.125, 200, width=32)

on_simplex = jax.jit(lambda x, r: prox.simplex(r)(x))
on_l1_ball = jax.jit(lambda x, r: prox.l1_ball(r)(x))


def level(x, radius):
    """Where the positive parts of x - level sum to the radius, by Brent's method."""
    excess = lambda tau: np.maximum(x - tau, 0).sum() - radius
    return optimize.brentq(excess, x.min() - radius - 1, x.max(), xtol=1e-13)


@hypothesis.settings(deadline=None, max_examples=60, derandomize=True)
@hypothesis.given(vectors, radii)
def test_simplex_agrees_with_a_root_finder(x, radius):
    expected = np.maximum(x - level(x.astype(float), radius), 0)
    scale = 1e-6 * (np.abs(x).max() + radius)
    np.testing.assert_allclose(on_simplex(x, radius), expected, atol=scale)


@hypothesis.settings(deadline=None, max_examples=60, derandomize=True)
@hypothesis.given(vectors, radii)
def test_l1_ball_agrees_with_a_root_finder(x, radius):
    size = np.abs(x.astype(float))
    tau = level(size, radius) if size.sum() > radius else 0.0
    expected = np.sign(x) * np.maximum(size - tau, 0)
    scale = 1e-6 * (size.max() + radius)
    np.testing.assert_allclose(on_l1_ball(x, radius), expected, atol=scale)


@pytest.mark.parametrize("factory", [prox.simplex, prox.l1_ball, prox.l2_ball])
@pytest.mark.parametrize("axis", [0, -1, (1, 2)])
def test_axis_projects_every_slice_by_itself(factory, axis):
    x = RNG.normal(size=(2, 3, 4)).astype(np.float32)
    out = jax.jit(factory(0.8, axis=axis))(x)
    by_itself = jax.jit(factory(0.8))
    group = (axis,) if isinstance(axis, int) else axis
    rows = np.moveaxis(x, group, range(-len(group), 0))
    new = np.moveaxis(out, group, range(-len(group), 0))
    for index in np.ndindex(rows.shape[: 3 - len(group)]):
        np.testing.assert_allclose(new[index], by_itself(rows[index]), atol=1e-6)


def test_simplex_takes_one_radius_for_each_row():
    radius = jnp.array([[1.0], [2.0]])
    out = prox.simplex(radius, axis=1)(
        jnp.asarray(RNG.normal(size=(2, 4)), jnp.float32)
    )
    np.testing.assert_allclose(out.sum(1), [1, 2], rtol=1e-6)


def test_simplex_does_not_see_a_common_shift():
    out = prox.simplex()(jnp.array([0.0, 0.5, -3.0]) + 2.0**20)
    np.testing.assert_array_equal(out, [0.25, 0.75, 0])


def test_simplex_leaves_out_entries_of_minus_infinity():
    operator = jax.jit(prox.simplex())
    x = jnp.array([0.0, -jnp.inf, 0.5])
    np.testing.assert_array_equal(operator(x), [0.25, 0, 0.75])
    expected = [[0.5, 0, -0.5], [0, 0, 0], [-0.5, 0, 0.5]]
    np.testing.assert_array_equal(jax.jit(jax.jacrev(operator))(x), expected)
    np.testing.assert_array_equal(jax.jit(jax.jacfwd(operator))(x), expected)


def test_simplex_of_many_bfloat16_entries_sums_to_its_radius():
    x = jnp.asarray(RNG.normal(size=2000), jnp.bfloat16)
    out = np.asarray(prox.simplex(5.0)(x), np.float64)
    np.testing.assert_allclose(out.sum(), 5.0, rtol=2.0**-9)


@pytest.mark.parametrize(
    "factory", [prox.simplex, prox.l1_ball, prox.l2_ball, prox.linf_ball]
)
def test_zero_radius_gives_zero_with_zero_derivative(factory):
    for x in (jnp.asarray(X), jnp.zeros(5)):
        np.testing.assert_array_equal(factory(0.0)(x), np.zeros(5))
        assert not jax.jacrev(factory(0.0))(x).any()


@pytest.mark.parametrize("factory", [prox.l1_ball, prox.l2_ball, prox.linf_ball])
def test_infinite_radius_is_the_identity_with_its_derivative(factory):
    operator = lambda x, r: factory(r)(x)
    np.testing.assert_array_equal(operator(X, jnp.inf), X)
    by_x, by_r = jax.jacrev(operator, argnums=(0, 1))(jnp.asarray(X), jnp.inf)
    np.testing.assert_array_equal(by_x, np.eye(5))
    assert not by_r.any()


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_l2_ball_neither_overflows_nor_underflows(size):
    x, operator = jnp.array([3.0, -4.0]) * size, prox.l2_ball(2.5 * size)
    np.testing.assert_allclose(operator(x) / size, [1.5, -2.0], rtol=1e-6)
    expected = [[0.32, 0.24], [0.24, 0.18]]
    np.testing.assert_allclose(jax.jit(jax.jacrev(operator))(x), expected, rtol=1e-5)


@pytest.mark.parametrize("radius", [1e-20, 1.0, 2e38, 3.3e38])
def test_l2_ball_works_up_to_the_largest_number(radius):
    x, operator = np.array([3e38, -2e38, 0.0], np.float32), prox.l2_ball(radius)
    expected = radius / np.sqrt(13) * np.array([3, -2, 0])
    np.testing.assert_allclose(operator(x), expected, rtol=1e-5)
    slope = jax.jacrev(prox.l2_ball(1e38))(jnp.asarray(x))
    np.testing.assert_allclose(slope[2, 2], 1 / np.sqrt(13), rtol=1e-5)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e38])
def test_planes_of_any_normal_at_any_point(size):
    x = np.array([3.0, -2.0, 1.0]) * size
    plane = jax.jit(lambda x, a: prox.hyperplane(a, 0.0)(x))
    half = jax.jit(lambda x, a: prox.halfspace(jnp.stack([a, 0 * a, 0 * a]), 0.0)(x))
    for normal in (1e-30, 1.0, 3e38):
        args = x.astype(np.float32), np.float32(normal)
        out = np.asarray(plane(*args), np.float64)
        np.testing.assert_allclose(out / size, [7 / 3, -8 / 3, 1 / 3], rtol=1e-5)
        out = np.asarray(half(*args), np.float64)
        np.testing.assert_allclose(out / size, [0, -2, 1], atol=1e-5)


def test_box_keeps_infinite_bounds_and_nan():
    lower = jnp.array([-jnp.inf, 0.0, jnp.nan, 0.0])
    out = prox.box(lower, np.inf)(jnp.array([-9.0, -9.0, -9.0, jnp.nan]))
    np.testing.assert_array_equal(out, [-9, 0, np.nan, np.nan])


def test_box_with_equal_bounds_fixes_an_entry_to_first_order():
    operator = lambda x, fixed: prox.box(fixed, fixed)(x)
    by_x, by_fixed = jax.jacrev(operator, argnums=(0, 1))(X[:1], X[:1])
    assert by_x == 0 and by_fixed == 1


def test_known_bounds_that_cross_are_refused_and_traced_ones_give_the_upper():
    with pytest.raises(ValueError, match=r"lower must not exceed upper.*exchange"):
        prox.box(1.0, jnp.array([2.0, 0.0]))
    with pytest.raises(ValueError, match=r"lower must not exceed upper"):
        prox.box({"a": 0.0, "b": 2.0}, 1)
    out = jax.jit(lambda lo, up: prox.box(lo, up)(X))(1.0, -1.0)
    np.testing.assert_array_equal(out, -np.ones(5))


def test_bounds_of_the_wrong_form_are_refused():
    with pytest.raises(ValueError, match=r"lower must broadcast.*\(3,\).*\(5,\)"):
        prox.box(np.zeros(3), 1.0)(X)
    with pytest.raises(ValueError, match="lower and upper must be scalars"):
        prox.box({"a": 0.0}, {"b": 1.0})
    with pytest.raises(ValueError, match="lower and upper must broadcast"):
        prox.box(np.zeros(3), np.ones(2))
    with pytest.raises(ValueError, match="upper must be a scalar, an array, or a"):
        prox.box(0.0, {"a": 1.0})(X)


@pytest.mark.parametrize(
    "factory", [prox.simplex, prox.l1_ball, prox.l2_ball, prox.linf_ball]
)
def test_negative_radius_is_refused(factory):
    with pytest.raises(ValueError, match="radius must be at least zero, but it is -1"):
        factory(-1)


def test_sets_that_hold_nothing_are_refused():
    with pytest.raises(ValueError, match="radius must be finite"):
        prox.simplex(jnp.inf)
    with pytest.raises(ValueError, match="at least one entry"):
        prox.simplex(axis=1)(jnp.zeros((2, 0)))
    assert prox.l1_ball(axis=1)(jnp.zeros((2, 0))).shape == (2, 0)


def test_affine_set_agrees_with_least_squares():
    matrix, offset, x = RNG.normal(size=(3, 8)), RNG.normal(size=3), RNG.normal(size=8)
    step = np.linalg.lstsq(matrix, matrix @ x - offset, rcond=None)[0]
    with jax.enable_x64(True):
        out = prox.affine_set(matrix, offset)(x)
        np.testing.assert_allclose(out, x - step, atol=1e-12)


def test_affine_set_allows_dependent_and_empty_rows():
    matrix = RNG.normal(size=(2, 5)).astype(np.float32)
    offset = np.array([1.0, -2.0], np.float32)
    more = np.concatenate([matrix, matrix[:1] / 3, np.zeros((1, 5))], dtype=np.float32)
    also = np.concatenate([offset, offset[:1] / 3, [0]], dtype=np.float32)
    plain, redundant = prox.affine_set(matrix, offset), prox.affine_set(more, also)
    np.testing.assert_allclose(redundant(X), plain(X), atol=1e-5)
    jacobians = [jax.jacrev(p)(jnp.asarray(X)) for p in (redundant, plain)]
    np.testing.assert_allclose(*jacobians, atol=1e-5)


def test_affine_set_meets_contradictions_in_the_least_squares_sense():
    twice = prox.affine_set(jnp.ones((2, 2)), jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(twice(jnp.zeros(2)), [1, 1], atol=1e-6)


def test_affine_set_stays_accurate_in_float32_where_rows_are_nearly_dependent():
    left, right = (np.linalg.qr(RNG.normal(size=(n, n)))[0] for n in (4, 9))
    matrix = ((left * np.geomspace(1, 1e-2, 4)) @ right[:4]).astype(np.float32)
    x = RNG.normal(size=9).astype(np.float32)
    out = np.asarray(prox.affine_set(matrix, np.ones(4, np.float32))(x), np.float64)
    size = np.abs(out).max()
    assert np.abs(matrix.astype(float) @ out - 1).max() < 1e-6 * size


def test_affine_set_takes_whole_numbers_and_a_tree():
    project = prox.affine_set(np.array([[1, 1, 0, 0]]), np.array([2]))
    out = project({"a": jnp.zeros(1), "b": jnp.ones((3, 1), jnp.bfloat16)})
    np.testing.assert_allclose(out["a"], [0.5], atol=1e-6)
    np.testing.assert_array_equal(out["b"].astype(jnp.float32), [[1.5], [1], [1]])


def test_affine_set_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(m, n\) and \(m,\).*\(2, 5\) and \(5,\)"):
        prox.affine_set(np.ones((2, 5)), np.ones(5))
    with pytest.raises(ValueError, match="one entry for each column.*5 and it has 4"):
        prox.affine_set(np.ones((2, 4)), np.ones(2))(X)


@pytest.mark.parametrize("factory", [prox.hyperplane, prox.halfspace])
def test_hyperplane_and_halfspace_refuse_a_zero_normal_and_many_offsets(factory):
    with pytest.raises(ValueError, match="normal must not be zero"):
        factory(np.zeros(5), 1.0)
    with pytest.raises(ValueError, match="offset must be a scalar.*affine_set"):
        factory(1.0, np.ones(5))


def test_hyperplane_is_the_affine_set_of_one_equation():
    normal = RNG.normal(size=5).astype(np.float32)
    one = prox.affine_set(normal[None], np.array([0.7], np.float32))
    np.testing.assert_allclose(prox.hyperplane(normal, 0.7)(X), one(X), atol=1e-6)
    beyond = X - prox.hyperplane(normal, 0.7)(X)
    expected = one(X) if beyond @ normal > 0 else X
    np.testing.assert_allclose(prox.halfspace(normal, 0.7)(X), expected, atol=1e-6)


def test_simplex_holds_the_largest_entry_of_a_product_that_a_compiler_fuses():
    project = jax.jit(lambda s, z: prox.simplex()(z * s))
    for size in (1e15, 1e25):
        out = project(size, jnp.array([3.0, 0.5, -1.0, 2.0]))
        np.testing.assert_array_equal(out, [1, 0, 0, 0])
    out = project(1e25, jnp.array([3.0, 0.5, 3.0, 2.0]))
    np.testing.assert_array_equal(out, [0.5, 0, 0.5, 0])
    derivative = jax.jacobian(prox.simplex())(jnp.array([0.5, 0.4, -3.0]))
    expected = [[0.5, -0.5, 0], [-0.5, 0.5, 0], [0, 0, 0]]
    np.testing.assert_allclose(derivative, expected, atol=1e-6)
