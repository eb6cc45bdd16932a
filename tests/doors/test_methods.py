"""Doors choose a method, say which, and go on to the next where one is stuck."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve.core import Status
from jaxsolve.doors import Method


def rosenbrock(x, scale):
    return jnp.sum(scale * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def steep(x, center):
    """Newton's method needs a few steps, L-BFGS hundreds of them."""
    weights = jnp.logspace(0.0, 8.0, 12)
    return jnp.sum(weights * (x - center) ** 2) + jnp.sum((x - center) ** 4)


def gentle(x, center):
    return jnp.sum((x - center) ** 2)


def test_the_first_method_does_alone_where_it_can(x64):
    solution = jaxsolve.minimize(rosenbrock, jnp.zeros(4), 1.0)
    assert solution.converged and solution.method == "lbfgs"
    assert "lbfgs" in repr(solution)
    assert solution.state.calls == solution.count


def test_a_spent_share_hands_over_to_newton(x64):
    solution = jaxsolve.minimize(steep, jnp.zeros(12), 1.0, max_steps=250)
    assert solution.converged and solution.method == "newton"
    np.testing.assert_allclose(solution.params, 1, rtol=1e-7)
    alone = jaxsolve.run(jaxsolve.smooth.lbfgs(steep), jnp.zeros(12), 1.0, max_steps=99)
    assert not alone.converged
    assert solution.nfev > solution.nit  # a Hessian counts as many products


def test_a_door_spends_no_more_calls_than_it_may(x64):
    for most in (1, 7, 50):
        solution = jaxsolve.minimize(rosenbrock, jnp.zeros(9), 1e6, max_steps=most)
        assert solution.status == Status.MAX_STEPS
        assert solution.nfev <= most


def test_the_same_solution_inside_jit_and_vmap(x64):
    def mixed(x, data):
        return jnp.where(data > 0, steep(x, data), gentle(x, data))

    centers = jnp.array([-1.0, 1.0])
    solve = lambda c: jaxsolve.minimize(mixed, jnp.zeros(12), c, max_steps=250)
    many = jax.jit(jax.vmap(solve))(centers)
    for i, center in enumerate(centers):
        one = solve(center)
        assert one.converged and many.converged[i]
        assert one.state.method == many.state.method[i]
        np.testing.assert_allclose(one.params, many.params[i], atol=1e-7)
    assert many.method == "lbfgs, newton"


def test_derivatives_are_those_of_the_method_that_finished(x64):
    def total(center):
        out = jaxsolve.minimize(steep, jnp.zeros(12), center, max_steps=250)
        return jnp.sum(out.params)

    np.testing.assert_allclose(jax.grad(total)(1.0), 12, rtol=1e-6)
    refused = lambda c: jaxsolve.minimize(steep, jnp.zeros(12), c, max_steps=5).params
    assert jnp.isnan(jax.jacfwd(refused)(1.0)).all()


def test_scipys_names_are_readable():
    solution = jaxsolve.minimize(rosenbrock, jnp.zeros(3), 1.0)
    assert solution.x is solution.params and solution.success
    assert solution.fun == solution.value and solution.nfev >= solution.nit > 0
    assert solution.message == "The error fell below the tolerance."
    assert solution.jac.shape == (3,)
    with pytest.raises(AttributeError, match="no jac"):
        _ = jaxsolve.root(lambda x, a: x - a, 0.0, 1.0).jac
    plain = jaxsolve.run(jaxsolve.smooth.lbfgs(rosenbrock), jnp.zeros(3), 1.0)
    assert plain.jac.shape == (3,) and plain.method is None


def test_a_saved_state_is_refused_by_doors():
    with pytest.raises(ValueError, match="belongs to one solver"):
        jaxsolve.minimize(rosenbrock, jnp.zeros(3), 1.0, state=())


def test_record_keeps_the_first_method_alone():
    solution = jaxsolve.minimize(
        rosenbrock, jnp.zeros(2), 1e4, max_steps=20, record=lambda x, s: s.value
    )
    assert solution.history.shape == (20,) and solution.method == "lbfgs"


def test_a_root_is_found_where_newton_is_stuck(x64):
    def powell(x, data):
        return jnp.stack(
            [data * x[0] * x[1] - 1, jnp.exp(-x[0]) + jnp.exp(-x[1]) - 1.0001]
        )

    solution = jaxsolve.root(powell, jnp.array([0.0, 1.0]), 1e4)
    assert solution.converged and solution.value <= 1e-8


def test_a_least_sum_of_squares_that_is_no_root_has_stalled(x64):
    solution = jaxsolve.root(lambda x, a: x**2 + a, jnp.ones(2), 1.0)
    assert solution.status in (Status.STALLED, Status.MAX_STEPS)
    assert jnp.isfinite(solution.params).all() and solution.value >= 1


def test_a_root_in_a_bracket_is_differentiable(x64):
    solve = lambda a: jaxsolve.root(lambda x, a: x**3 - a, 1.0, a, bracket=(0.0, 9.0))
    solution = solve(8.0)
    assert solution.converged and solution.method == "brent"
    np.testing.assert_allclose(solution.params, 2, rtol=1e-7)
    np.testing.assert_allclose(jax.grad(lambda a: solve(a).params)(8.0), 1 / 12)
    with pytest.raises(ValueError, match="not both"):
        jaxsolve.root(rosenbrock, 1.0, bracket=(0, 1), bounds=(0, 1))


def test_least_squares_takes_bounds_and_losses(x64):
    t = jnp.linspace(0.0, 1.0, 12)
    model = lambda x, y: x["size"] * jnp.exp(-x["rate"] * t) - y
    y = (3 * jnp.exp(-2 * t)).at[4].add(10.0)
    start = {"rate": 1.0, "size": 1.0}
    plain = jaxsolve.least_squares(model, start, y)
    robust = jaxsolve.least_squares(
        model, start, y, loss=jaxsolve.smooth.cauchy_loss(0.05)
    )
    assert abs(robust.params["rate"] - 2) < 0.05 < abs(plain.params["rate"] - 2)
    low = jaxsolve.least_squares(
        model, start, y, bounds=(None, {"rate": 0.5, "size": 9.0})
    )
    assert low.converged and low.params["rate"] <= 0.5


def test_methods_have_names():
    assert {m.name.lower() for m in Method} >= {"lbfgs", "newton", "brent"}


def test_no_budget_makes_a_root_of_what_is_none(x64):
    for most in (1, 2, 3, 5, 100):
        out = jaxsolve.root(lambda x, a: x**2 + a, 0.0, 1.0, max_steps=most)
        assert not out.converged and out.nfev <= most
        assert most == 1 or out.value == 1
    pair = jaxsolve.root(lambda x, a: x**2 + a, jnp.zeros(2), 1.0, max_steps=50)
    assert pair.value == pair.error == 1  # the sup-norm


def test_a_worse_point_never_replaces_a_better_one(x64):
    """From the start, Newton's method finds the higher of two minima."""

    def wells(x, data):
        return jnp.sum(0.1 * x**4 - x**2 + data * x)

    def slowly(x, data):  # what L-BFGS does not finish in its share
        return wells(x[:1], data) + steep(x[1:], 1.0)

    out = jaxsolve.minimize(slowly, jnp.zeros(13), 0.3, max_steps=250)
    lbfgs = jaxsolve.smooth.lbfgs(slowly)
    first = jaxsolve.run(lbfgs, jnp.zeros(13), 0.3, max_steps=100)
    assert out.value <= first.value


def test_small_budgets_are_the_first_methods_alone(x64):
    start = jnp.array([-1.2, 1.0, 1.0])
    for most in (3, 30):
        door = jaxsolve.minimize(rosenbrock, start, 100.0, max_steps=most)
        lbfgs = jaxsolve.smooth.lbfgs(rosenbrock)
        alone = jaxsolve.run(lbfgs, start, 100.0, max_steps=most)
        np.testing.assert_array_equal(door.params, alone.params)


def test_what_scipys_users_type_first_is_answered():
    square = lambda x, data: jnp.sum(x**2)
    for name, hint in dict(maxiter="max_steps", args="data", method="chooses").items():
        with pytest.raises(TypeError, match=hint):
            jaxsolve.minimize(square, jnp.ones(2), **{name: 1})
    with pytest.raises(ValueError, match="lambda x, data"):
        jaxsolve.minimize(lambda x: jnp.sum(x**2), jnp.ones(2))
    with pytest.raises(ValueError, match="huber_loss"):
        jaxsolve.least_squares(square, jnp.ones(2), loss="soft_l1")
