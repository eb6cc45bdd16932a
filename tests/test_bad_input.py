"""Bad input gets a clear error while tracing, or a status: never a silent answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import Status, composite, core, prox, smooth

INF, NAN = np.inf, np.nan


def square(x, data):
    return jnp.sum((x - data) ** 2)


BOWL = smooth.lbfgs(square)
ZEROS = np.zeros(2, np.float32)


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("tol", {"tol": INF}),
        ("tol", {"tol": -1.0}),
        ("tol", {"tol": "a"}),
        ("tol", {"tol": 1j}),
        ("tol", {"tol": np.ones(2)}),
        ("max_steps", {"max_steps": INF}),
        ("max_steps", {"max_steps": 2**31}),
        ("max_steps", {"max_steps": None}),
        ("max_steps", {"max_steps": 1.5}),
        ("max_steps", {"max_steps": 0, "record": lambda params, state: params}),
        ("check_every", {"check_every": 0}),
        ("derivative", {"derivative": core.implicit}),
        ("state", {"state": 3}),
    ],
)
def test_options_of_a_run_that_make_no_sense_are_refused(what, options):
    with pytest.raises(ValueError, match=what):
        core.run(BOWL, ZEROS, 1.0, **options)


def test_batch_that_would_never_look_at_the_error_is_refused():
    with pytest.raises(ValueError, match="check_every"):
        core.solve_batch(BOWL, np.zeros((2, 2)), np.zeros(2), check_every=0)


@pytest.mark.parametrize("stepsize", [0.0, -1.0, NAN, INF])
def test_stepsize_that_is_not_positive_and_finite_is_refused(stepsize):
    for factory in (
        lambda: smooth.gradient_descent(square, stepsize),
        lambda: composite.proximal_gradient(square, prox.box(0.0, 1.0), stepsize),
    ):
        with pytest.raises(ValueError, match="stepsize"):
            factory()


def test_stepsize_that_turns_out_wrong_at_run_time_does_not_converge():
    def solve(eta):
        solver = composite.proximal_gradient(square, prox.box(0.0, 1.0), eta)
        return core.run(solver, ZEROS, 0.3)

    out = jax.vmap(solve)(jnp.array([-1.0, 0.0, 0.1, INF]))
    bad = [Status.DIVERGED] * 2
    assert list(out.status) == [*bad, Status.CONVERGED, Status.DIVERGED]
    long = core.run(
        composite.proximal_gradient(square, prox.box(0.0, 1.0), 1e10), ZEROS, 0.3
    )
    assert not long.converged


@pytest.mark.parametrize("start", [NAN, INF])
def test_start_that_is_not_finite_ends_as_diverged_with_finite_params(start):
    starts = jnp.array([1.0, start], jnp.float32)
    for out in (
        jax.vmap(lambda x: core.run(BOWL, x, 3.0))(starts),
        core.solve_batch(BOWL, starts, jnp.full(2, 3.0)),
    ):
        assert list(out.status) == [Status.CONVERGED, Status.DIVERGED]
        assert np.all(np.isfinite(out.params))

    def masked(a):
        out = jax.vmap(lambda x: core.run(BOWL, x, a))(starts)
        return jnp.sum(jnp.where(out.converged, out.params**2, 0.0))

    np.testing.assert_allclose(jax.grad(masked)(3.0), 6.0, rtol=1e-5)


def test_masked_lane_that_did_not_converge_leaves_second_derivatives_alone():
    fun = lambda x, d: jnp.sum((x - d) ** 2) + jnp.sum((x * d) ** 4)
    solver = smooth.lbfgs(fun)

    def loss(t, limits):
        solve = lambda limit: core.run(solver, ZEROS, t, max_steps=limit)
        out = jax.vmap(solve)(limits)
        return jnp.sum(jnp.where(out.converged, out.params.sum(-1), 0.0))

    both = jax.hessian(loss)(1.0, jnp.array([50, 2]))
    alone = jax.hessian(loss)(1.0, jnp.array([50]))
    np.testing.assert_allclose(both, alone, rtol=1e-5)


@pytest.mark.parametrize("factory", [smooth.lbfgs, smooth.gradient_descent])
def test_half_precision_params_never_overflow(factory):
    fun = lambda x, _: -1e9 * jnp.sum(jnp.tanh(x.astype(jnp.float32) / 1e5))
    out = core.run(factory(fun), jnp.ones(2, jnp.float16))
    assert not out.converged and np.all(np.isfinite(out.params))


def test_gradient_lost_in_the_rounding_of_params_is_not_convergence():
    far = np.full(2, 1e6, np.float32)
    line = lambda x, _: 0.01 * jnp.sum(x)
    out = jaxsolve.minimize(line, far, bounds=(0.0, None))
    np.testing.assert_allclose(out.params, 0.0, atol=1e-6)
    out = core.run(smooth.lbfgsb(line, (None, None)), far)
    assert out.status == Status.DIVERGED


@pytest.mark.parametrize(
    "bounds", [(INF, INF), (-INF, -INF), (NAN, 1.0), (np.float64(1e300), None)]
)
def test_bounds_that_leave_nothing_are_refused(bounds):
    with pytest.raises(ValueError, match="bound"):
        jaxsolve.minimize(square, ZEROS, 0.0, bounds=bounds)


def test_bounds_that_turn_out_nan_leave_params_finite():
    def solve(low, high):
        return jaxsolve.minimize(square, ZEROS, 0.3, bounds=(low, high))

    low, high = jnp.array([0.0, NAN, 0.0]), jnp.array([1.0, 1.0, NAN])
    out = jax.vmap(solve)(low, high)
    bad = [Status.PRIMAL_INFEASIBLE] * 2
    assert list(out.status) == [Status.CONVERGED, *bad]
    assert np.all(np.isfinite(out.params))


@pytest.mark.parametrize(
    "wrong", [lambda x: x[:1], jnp.sum, lambda x: x.astype(complex), lambda x: (x, x)]
)
def test_prox_that_returns_something_else_is_refused(wrong):
    solver = composite.proximal_gradient(square, lambda x, t: wrong(x))
    with pytest.raises(ValueError, match="prox must return"):
        core.run(solver, ZEROS, 0.3)


def test_singular_system_refuses_though_its_right_hand_side_is_consistent(x64):
    """Wide least squares: the solution is one of many, so its derivative is none."""
    matrix = np.random.default_rng(0).normal(size=(3, 30))
    fun = lambda x, b: 0.5 * jnp.sum((matrix @ x - b) ** 2)
    solve = lambda b: core.run(smooth.lbfgs(fun), jnp.zeros(30), b, tol=1e-10).params
    assert solve(jnp.ones(3)).shape == (30,)
    assert np.all(np.isnan(jax.jacfwd(solve)(jnp.ones(3))))


def test_units_of_params_do_not_look_singular(x64):
    scale = jnp.array([1.0, 1e-10, 1e8])
    solve = core.implicit_function(lambda x, b: scale * x - b)(lambda x, b: b / scale)
    jacobian = jax.jacrev(lambda b: solve(b, b))(jnp.ones(3))
    np.testing.assert_allclose(jacobian, np.diag(1 / scale), rtol=1e-12)


def test_momentum_that_leaves_a_stationary_point_has_not_converged():
    import optax

    fun = lambda x, _: 0.5 * jnp.sum(x**2)
    solver = core.from_optax(fun, optax.sgd(1.0, momentum=0.9))
    out = core.run(solver, jnp.ones(1), max_steps=2)
    assert not out.converged
    out = core.run(solver, jnp.ones(1))
    assert out.converged
    np.testing.assert_allclose(out.params, 0.0, atol=1e-3)


def test_narrow_box_does_not_converge_at_its_start():
    fun = lambda x, _: (x * 1e4 - 0.5) ** 2
    out = jaxsolve.minimize(fun, np.float32(0.0), bounds=(0.0, 1e-4))
    np.testing.assert_allclose(out.params, 5e-5, rtol=1e-2)


def test_bfloat16_params_stay_in_the_box_of_their_dtype():
    upper = jnp.bfloat16(0.1)
    out = jaxsolve.minimize(square, jnp.zeros(2, jnp.bfloat16), 1.0, bounds=(None, 0.1))
    assert np.all(out.params <= upper)


def test_complex_data_are_refused_where_they_would_be_differentiated():
    fun = lambda x, z: jnp.sum(jnp.abs(x.astype(jnp.complex64) - z) ** 2)
    solve = lambda z: core.run(smooth.lbfgs(fun), ZEROS, z).params.sum()
    with pytest.raises(ValueError, match="complex"):
        jax.jvp(solve, (jnp.ones(2, jnp.complex64),), (jnp.ones(2, jnp.complex64),))


def test_unrolled_wolfe_search_has_a_reverse_mode(x64):
    fun = lambda x, a: jnp.sum((x - a) ** 4 + (x - a) ** 2)
    solver = smooth.lbfgs(fun)

    def value(a):
        rule = core.unrolled()
        out = core.run(solver, jnp.zeros(2), a, max_steps=5, tol=0.0, derivative=rule)
        return out.params.sum()

    a, step = jnp.array([1.0, 2.0]), 1e-6
    slopes = [
        (value(a + step * e) - value(a - step * e)) / (2 * step) for e in np.eye(2)
    ]
    np.testing.assert_allclose(jax.grad(value)(a), slopes, rtol=1e-6)
    np.testing.assert_allclose(jax.jacfwd(value)(a), slopes, rtol=1e-6)


def test_hessian_exists_where_data_enter_linearly():
    solver = smooth.lbfgs(lambda x, d: jnp.sum((x - d) ** 2))
    solve = lambda a: core.run(solver, ZEROS, a).params.sum()
    assert jax.hessian(solve)(1.0) == 0.0
