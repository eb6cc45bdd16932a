"""The bridges to optax, in both directions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsolve
from jaxsolve import core, smooth
from jaxsolve.core import Status

CENTER = jnp.array([1.0, -2.0])


def fun(x, data):
    return jnp.sum((x - data) ** 2 + (x - data) ** 4)


@pytest.mark.parametrize(
    "transform",
    [
        optax.sgd(0.05, momentum=0.5, nesterov=True),
        optax.adam(0.1),
        optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)),
        optax.lbfgs(),
    ],
    ids=["sgd", "adam", "chain", "lbfgs"],
)
def test_iterates_are_those_of_optaxs_own_loop(transform):
    with jax.numpy_dtype_promotion("standard"):  # optax itself promotes
        solver = jaxsolve.from_optax(fun, transform)
        out = core.run(solver, jnp.zeros(2), CENTER, max_steps=7, tol=0.0)
        params, state = jnp.zeros(2), transform.init(jnp.zeros(2))
        value_and_grad = jax.value_and_grad(fun)
        for _ in range(7):
            value, grad = value_and_grad(params, CENTER)
            updates, state = optax.with_extra_args_support(transform).update(
                grad,
                state,
                params,
                value=value,
                grad=grad,
                value_fn=lambda x: fun(x, CENTER),
            )
            params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(out.params, params, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(out.state.value, value, rtol=1e-4, atol=1e-6)
        assert out.state.count == 7 and out.status == Status.MAX_STEPS


def test_adam_works_where_promotion_is_strict():
    solver = jaxsolve.from_optax(fun, optax.adam(0.1))
    out = core.run(solver, jnp.zeros(2), CENTER, tol=1e-2)
    assert bool(out.converged)


def test_solution_of_a_transformation_is_differentiated_implicitly(x64):
    solver = jaxsolve.from_optax(fun, optax.sgd(0.1))
    run = lambda c: core.run(solver, jnp.zeros(2), c, tol=1e-10).params
    np.testing.assert_allclose(jax.jacobian(run)(jnp.ones(2)), np.eye(2), atol=1e-8)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_gradient_that_is_not_finite_is_not_taken(bad):
    solver = jaxsolve.from_optax(lambda x, d: fun(x, d), optax.sgd(0.05, momentum=0.9))
    out = core.run(solver, jnp.zeros(2), jnp.array([1.0, bad]))
    assert out.status == Status.DIVERGED
    np.testing.assert_array_equal(out.params, 0)
    assert bool(core.all_finite(out.state.inner))
    assert out.state.count == 1 and not bool(jnp.isfinite(out.state.error))


def test_divergence_ends_with_the_last_finite_iterate():
    solver = jaxsolve.from_optax(lambda x, d: -jnp.sum(x**4), optax.sgd(1.0))
    out = core.run(solver, jnp.ones(2))
    assert out.status == Status.DIVERGED and bool(core.all_finite(out.params))


@pytest.mark.parametrize("thing", [0.1, None, smooth.lbfgs(fun), optax.sgd])
def test_what_is_no_transformation_is_refused(thing):
    with pytest.raises(ValueError, match="optax transformation is wanted"):
        core.from_optax(fun, thing)


@pytest.mark.parametrize("factory", [smooth.lbfgs, smooth.gradient_descent])
def test_solver_behind_another_link_goes_on_from_what_it_made(factory):
    # Half steps: params are never what the solver itself has proposed.
    link = jaxsolve.to_optax(factory(fun), CENTER)
    transform = optax.chain(link, optax.scale(0.5))
    params, state = jnp.zeros(2), transform.init(jnp.zeros(2))
    update = jax.jit(transform.update)
    for _ in range(150):
        change, state = update(params, state, params)
        params = optax.apply_updates(params, change)
        assert bool(core.all_finite(params))
    np.testing.assert_allclose(params, CENTER, atol=1e-2)


def test_link_takes_the_data_of_each_step():
    link = jaxsolve.to_optax(smooth.gradient_descent(fun, 0.05))
    transform = optax.chain(link, optax.identity())
    params = jnp.zeros(2)
    state = transform.init(params)
    for scale in (1.0, 2.0, 3.0):
        data = scale * CENTER
        change, state = transform.update(None, state, params, data=data)
        np.testing.assert_allclose(
            change, -0.05 * jax.grad(fun)(params, data), rtol=1e-5
        )
        params = optax.apply_updates(params, change)
    assert state[0].inner.count == 3


def test_link_without_params_is_refused():
    link = jaxsolve.to_optax(smooth.lbfgs(fun), CENTER)
    state = link.init(jnp.zeros(2))
    with pytest.raises(ValueError, match="update starts from the params"):
        link.update(jnp.zeros(2), state)


def test_masked_and_partitioned_links_leave_the_other_leaves_alone():
    tree_fun = lambda p, data: jnp.sum((p["a"] - data) ** 2)
    link = jaxsolve.to_optax(smooth.gradient_descent(tree_fun, 0.25), CENTER)
    params = {"a": jnp.zeros(2), "b": jnp.ones(3)}
    transform = optax.masked(link, {"a": True, "b": False})
    state = transform.init(params)
    change, state = transform.update(
        jax.tree.map(jnp.zeros_like, params), state, params
    )
    np.testing.assert_allclose(change["a"], CENTER / 2)
    np.testing.assert_array_equal(change["b"], 0)
