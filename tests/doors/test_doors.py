"""The doors: what they choose, what they refuse, what a second call costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

import jaxsolve
from jaxsolve import Status

START = np.array([-1.2, 1.0, -1.2, 1.0])


def rosenbrock(x, steepness):
    return jnp.sum(steepness * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def test_minimize_finds_the_bottom_of_the_valley(x64):
    solution = jaxsolve.minimize(rosenbrock, jnp.asarray(START), 100.0)
    assert solution.converged
    np.testing.assert_allclose(solution.params, np.ones(4), atol=1e-7)


@pytest.mark.parametrize("bounds", [(-2.0, 0.5), (None, 0.9), (1.1, np.inf)])
def test_minimize_with_bounds_agrees_with_scipy(x64, bounds):
    solution = jaxsolve.minimize(rosenbrock, jnp.asarray(START), 100.0, bounds=bounds)
    value = jax.jit(jax.value_and_grad(rosenbrock))
    reference = optimize.minimize(
        lambda x: [np.asarray(v, float) for v in value(jnp.asarray(x), 100.0)],
        START,
        jac=True,
        method="L-BFGS-B",
        bounds=[bounds] * 4,
        options={"ftol": 1e-15, "gtol": 1e-9},
    )
    assert solution.converged
    np.testing.assert_allclose(solution.params, reference.x, atol=1e-6)


def test_a_second_call_with_new_numbers_is_not_traced_again():
    calls = []

    def fun(x, data):
        calls.append(1)
        return jnp.sum((x - data) ** 2)

    for shift in (0.0, 1.0, 2.0):
        jaxsolve.minimize(fun, jnp.zeros(3) + shift, shift, tol=1e-3 + shift / 1e3)
    assert len(calls) == 2
    for low in (0.0, 0.1, 0.2):
        jaxsolve.minimize(fun, jnp.zeros(3), low, bounds=(low, jnp.full(3, low + 1)))
    assert len(calls) <= 6  # another solver, and bounds of the same form after all


def test_minimize_is_differentiable_in_data_and_bounds(x64):
    def total(center, upper):
        fun = lambda x, c: jnp.sum((x - c) ** 2)
        bounds = (None, upper)
        return jaxsolve.minimize(fun, jnp.zeros(2), center, bounds=bounds).params.sum()

    center, upper = jnp.array([0.5, 3.0]), jnp.array([1.0, 1.0])
    by_center, by_upper = jax.grad(total, argnums=(0, 1))(center, upper)
    np.testing.assert_allclose(by_center, [1.0, 0.0], atol=1e-9)
    np.testing.assert_allclose(by_upper, [0.0, 1.0], atol=1e-9)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ((1.0, 0.0), "at most its upper"),
        ((np.zeros(3), None), "broadcast"),
        (({"a": 0.0}, None), "tree like params"),
        (0.5, "pair"),
        ((np.nan, 1.0), "NaN"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(bounds, message):
    with pytest.raises(ValueError, match=message):
        jaxsolve.minimize(rosenbrock, jnp.zeros(4), 1.0, bounds=bounds)


def test_bounds_that_cross_at_run_time_end_as_infeasible():
    def solve(upper):
        return jaxsolve.minimize(rosenbrock, jnp.zeros(2), 1.0, bounds=(0.0, upper))

    statuses = jax.vmap(lambda upper: solve(upper).status)(jnp.array([1.0, -1.0]))
    assert list(statuses) == [Status.CONVERGED, Status.PRIMAL_INFEASIBLE]


def test_minimize_refuses_what_it_does_not_know():
    with pytest.raises(TypeError):
        jaxsolve.minimize(rosenbrock, jnp.zeros(2), 1.0, constraints=())
    with pytest.raises(ValueError, match="float"):
        jaxsolve.minimize(rosenbrock, jnp.zeros(2, int), 1.0)
    with pytest.raises(ValueError, match="scalar"):
        jaxsolve.minimize(lambda x, data: x, jnp.zeros(2))


def test_solve_fixed_point_is_differentiable(x64):
    solve = lambda a: (
        jaxsolve.solve_fixed_point(
            lambda x, a: jnp.cos(a * x), 1.0, a, tol=1e-12
        ).params
    )
    step = 1e-5
    slope = (solve(1 + step) - solve(1 - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(solve)(1.0), slope, rtol=1e-8)
