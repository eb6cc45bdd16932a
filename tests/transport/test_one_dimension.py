"""Exact transport on the line: against SciPy, linear programming, closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.stats import wasserstein_distance

from jaxsolve import transport

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=6), RNG.normal(size=4) + 0.5
A, B = RNG.uniform(0.2, 1, size=6), RNG.uniform(0.2, 1, size=4)
A0 = np.where(np.arange(6) == 2, 0, A)


def by_linear_programming(x, y, a, b, p):
    """The cost of an optimal plan, found as a linear program."""
    n, m = x.size, y.size
    cost = np.abs(x[:, None] - y[None]) ** p
    sums = [np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))]
    marginals = np.concatenate([a / a.sum(), b / b.sum()])
    return linprog(cost.ravel(), A_eq=np.concatenate(sums), b_eq=marginals).fun


@pytest.mark.parametrize(
    ("a", "b"), [(None, None), (A, None), (None, B), (A0, B), (3 * A, 0.1 * B)]
)
def test_cost_of_power_one_is_scipys(a, b, x64):
    expected = wasserstein_distance(X, Y, a, b)
    value = transport.wasserstein_1d(X, Y, a, b, p=1)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(transport.wasserstein_1d(X, X, a, a, p=1), 0, atol=1e-15)


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
@pytest.mark.parametrize(("a", "b"), [(np.ones(6), np.ones(4)), (A0, B)])
def test_cost_is_that_of_the_linear_program(p, a, b, x64):
    expected = by_linear_programming(X, Y, a, b, p)
    value = transport.wasserstein_1d(X, Y, a, b, p=p)
    np.testing.assert_allclose(value, expected, rtol=1e-9)
    if a is not A0:
        plain = transport.wasserstein_1d(X, Y, p=p)
        np.testing.assert_allclose(plain, expected, rtol=1e-9)


def test_plan_has_the_marginals_and_the_cost(x64):
    for a, b in [(A0, B), (None, None), (None, B)]:
        plan = transport.coupling_1d(X, Y, a, b)
        matrix = np.zeros((6, 4))
        np.add.at(matrix, (plan.rows, plan.columns), plan.mass)
        rows = np.ones(6) if a is None else a
        columns = np.ones(4) if b is None else b
        np.testing.assert_allclose(matrix.sum(1), rows / rows.sum(), atol=1e-15)
        np.testing.assert_allclose(matrix.sum(0), columns / columns.sum(), atol=1e-15)
        assert np.all(matrix >= 0) and np.sum(matrix > 0) <= 6 + 4 - 1
        cost = np.sum(matrix * (X[:, None] - Y[None]) ** 2)
        value = transport.wasserstein_1d(X, Y, a, b)
        np.testing.assert_allclose(value, cost, rtol=1e-12)


def test_equal_numbers_of_points_are_assigned_in_order():
    plan = transport.coupling_1d(np.array([3.0, 1.0, 2.0]), np.array([0.1, 0.3, 0.2]))
    assert set(zip(plan.rows.tolist(), plan.columns.tolist(), strict=True)) == {
        (1, 0), (2, 2), (0, 1)
    }  # fmt: skip


def test_affine_image_of_a_gaussian_costs_what_its_moments_say(x64):
    # Of Gaussians: (m - m')^2 + (s - s')^2, and so of a sample's own moments.
    x = RNG.normal(size=50)
    value = transport.wasserstein_1d(x, 2.5 * x[::-1] + 3)
    mean, std = x.mean(), x.std()
    expected = (1.5 * mean + 3) ** 2 + (1.5 * std) ** 2
    np.testing.assert_allclose(value, expected, rtol=1e-12)


@pytest.mark.parametrize("p", [1, 1.5, 2])
def test_derivatives_in_points_and_weights_are_central_differences(p, x64):
    fun = lambda *args: transport.wasserstein_1d(*args, p=p)
    grads = jax.grad(fun, argnums=(0, 1, 2, 3))(X, Y, A, B)
    for i, (point, grad) in enumerate(zip((X, Y, A, B), grads, strict=True)):
        for j in range(point.size):
            step = 1e-6 * np.eye(point.size)[j]
            ends = [(X, Y, A, B)[:i] + (z,) + (X, Y, A, B)[i + 1 :] for z in
                    (point + step, point - step)]  # fmt: skip
            slope = (fun(*ends[0]) - fun(*ends[1])) / 2e-6
            np.testing.assert_allclose(grad[j], slope, rtol=1e-6, atol=1e-8)


def test_point_without_weight_knows_what_its_first_weight_would_cost(x64):
    fun = lambda a: transport.wasserstein_1d(X, Y, a, B)
    slope = (fun(A0 + 1e-7 * np.eye(6)[2]) - fun(A0)) / 1e-7
    np.testing.assert_allclose(jax.grad(fun)(A0)[2], slope, rtol=1e-5)


@pytest.mark.parametrize("rubbish", [np.nan, np.inf, 1e30, 1e6])
def test_points_without_weight_do_not_matter(rubbish):
    # Also where the levels of the many others are rounded.
    n = 3000
    x, y = RNG.normal(size=n), RNG.normal(size=n)
    a, b = RNG.uniform(size=n), RNG.uniform(size=n)
    fill = np.full(500, rubbish)
    mix = RNG.permutation(n + 500)
    more_x = np.r_[x, fill][mix]
    more_a = np.r_[a, np.zeros(500)][mix]
    both = jax.value_and_grad(transport.wasserstein_1d, argnums=(0, 2))
    value, (slope, weights) = both(more_x, y, more_a, b)
    expected, (expected_slope, _) = both(x, y, a, b)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    np.testing.assert_allclose(slope[mix < n], expected_slope[mix[mix < n]], atol=1e-6)
    assert np.all(slope[mix >= n] == 0) and np.all(np.isfinite(weights))


def test_identical_points_have_finite_first_and_second_derivatives(x64):
    for p in (1, 1.5, 2):
        fun = lambda x: transport.wasserstein_1d(x, X, p=p)  # noqa: B023
        np.testing.assert_array_equal(jax.grad(fun)(X), 0)
        assert np.all(np.isfinite(jax.hessian(fun)(X)))


def test_one_point_and_dtypes():
    one = transport.wasserstein_1d(np.ones(1), np.zeros(1))
    assert one == 1 and one.dtype == jnp.float32
    half = jnp.ones(2, jnp.bfloat16)
    assert transport.wasserstein_1d(half, half).dtype == jnp.float32


@pytest.mark.parametrize(
    ("what", "args", "options"),
    [
        ("x are points", (np.ones((2, 2)), Y), {}),
        ("y are points", (X, np.ones(0)), {}),
        ("one weight for each", (X, Y, B), {}),
        ("finite weights", (X, Y, -A), {}),
        ("finite weights", (X, Y, 0 * A), {}),
        ("finite weights", (X, Y, None, np.nan * B), {}),
        ("p must be", (X, Y), {"p": 0.5}),
        ("p must be", (X, Y), {"p": np.inf}),
    ],
)
def test_bad_input_is_refused(what, args, options):
    with pytest.raises(ValueError, match=what):
        transport.wasserstein_1d(*args, **options)


def test_weights_that_turn_out_to_be_none_are_nan_and_spare_the_other_lanes():
    lanes = np.stack([A, -A, 0 * A, np.nan * A, A])
    values = jax.vmap(lambda a: transport.wasserstein_1d(X, Y, a, B))(lanes)
    np.testing.assert_array_equal(np.isnan(values), [False, True, True, True, False])
    assert values[0] == values[4]
