"""What users of other libraries suffered from, one test a thread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxsolve
from jaxsolve import core, smooth
from jaxsolve.core import Status
from tests.core.solvers import iteration


def rosenbrock(x, scale):
    return jnp.sum(scale * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def square(x, data):
    return jnp.sum((x - data) ** 2)


# ------------------------------------------------------------------------ A. migration


def test_optax_1201_any_transformation_has_a_run_with_an_implicit_derivative(x64):
    import optax

    solver = jaxsolve.from_optax(square, optax.sgd(0.1, momentum=0.5))
    run = lambda d: jaxsolve.run(solver, jnp.zeros(2), 2 * d, tol=1e-10).params
    np.testing.assert_allclose(jax.jacobian(run)(jnp.ones(2)), 2 * np.eye(2), atol=1e-7)


def test_catalyst_499_gradient_descent_has_a_loop():
    out = jaxsolve.run(smooth.gradient_descent(square, 0.3), jnp.zeros(2), jnp.ones(2))
    assert bool(out.converged)


def test_blackjax_704_history_of_pairs_is_public_and_not_a_step_late(x64):
    solver = smooth.lbfgs(rosenbrock, 5)
    params, path = jnp.array([-1.2, 1.0]), []
    state = solver.init(params)
    while len(path) < 4:
        params, state = solver.update(params, state, 100.0)
        if state.search.trials == 0:
            path.append((np.asarray(params), np.asarray(state.grad)))
    s, y, rho = state.memory.ordered()
    (before, old), (now, new) = path[-2:]
    np.testing.assert_allclose(s[-1], now - before, rtol=1e-12)
    np.testing.assert_allclose(y[-1], new - old, rtol=1e-12)
    np.testing.assert_allclose(rho[-1], 1 / ((now - before) @ (new - old)), rtol=1e-12)
    assert state.memory.gamma.shape == ()


def test_nemos_346_tolerance_means_the_sup_norm_of_the_gradient():
    for scale in (1.0, 100.0):
        fun = lambda x, d, s=scale: s * square(x, d)
        out = core.run(smooth.lbfgs(fun), jnp.zeros(3), jnp.ones(3), tol=1e-2)
        gradient = jax.grad(fun)(out.params, jnp.ones(3))
        np.testing.assert_allclose(out.state.error, jnp.max(jnp.abs(gradient)), 1e-4)
        assert out.state.error <= 1e-2


# -------------------------------------------------------------------------- B. L-BFGS


@pytest.mark.parametrize("n", [2, 8])
def test_jaxopt_275_as_good_as_scipy_on_rosenbrock(n, x64):
    start = np.tile([-1.2, 1.0], n // 2)
    reference = scipy.optimize.minimize(
        scipy.optimize.rosen,
        start,
        jac=scipy.optimize.rosen_der,
        method="L-BFGS-B",
        options=dict(gtol=1e-6, ftol=0),
    )
    out = core.run(smooth.lbfgs(rosenbrock), start, 100.0, tol=1e-6)
    assert bool(out.converged) and out.state.value <= reference.fun + 1e-10
    assert int(out.state.count) <= 1.5 * reference.nfev


def test_jaxopt_326_one_value_and_gradient_for_each_trial():
    calls = []

    def fun(x, scale):
        jax.debug.callback(lambda: calls.append(1))
        return rosenbrock(x, scale)

    out = core.run(smooth.lbfgs(fun), jnp.array([-1.2, 1.0]), 100.0)
    jax.effects_barrier()
    assert len(calls) == out.state.count


def test_jaxopt_323_failed_search_stops_and_is_reported():
    # The gradient lies: no step along it ever decreases the objective.
    @jax.custom_jvp
    def lie(x):
        return jnp.sum(x**2)

    lie.defjvp(lambda p, t: (lie(*p), -jnp.sum(2 * p[0] * t[0])))
    for factory in (smooth.lbfgs, smooth.gradient_descent):
        out = core.run(factory(lambda x, data: lie(x)), jnp.ones(2), max_steps=5000)
        assert out.status == Status.STALLED and out.state.count < 1500
        np.testing.assert_allclose(out.params, 1, rtol=1e-4)


def test_jaxopt_608_single_precision_reaches_its_floor_near_the_optimum():
    fun = lambda x, d: jnp.sum(jnp.cosh(x - d)) + 100.0
    out = core.run(smooth.lbfgs(fun), jnp.zeros(3), jnp.ones(3), tol=1e-5)
    assert out.state.error <= 1e-5 and bool(out.converged)


def test_jax_36793_every_problem_of_a_small_suite_is_solved(x64):
    problems = {
        "beale": (
            lambda x, d: (
                (1.5 - x[0] + x[0] * x[1]) ** 2
                + (2.25 - x[0] + x[0] * x[1] ** 2) ** 2
                + (2.625 - x[0] + x[0] * x[1] ** 3) ** 2
            ),
            [1.0, 1.0],
        ),
        "powell badly scaled": (
            lambda x, d: (
                (1e4 * x[0] * x[1] - 1) ** 2
                + (jnp.exp(-x[0]) + jnp.exp(-x[1]) - 1.0001) ** 2
            ),
            [0.0, 1.0],
        ),
        "brown badly scaled": (
            lambda x, d: (
                (x[0] - 1e6) ** 2 + (x[1] - 2e-6) ** 2 + (x[0] * x[1] - 2) ** 2
            ),
            [1.0, 1.0],
        ),
        "powell singular": (
            lambda x, d: (
                (x[0] + 10 * x[1]) ** 2
                + 5 * (x[2] - x[3]) ** 2
                + (x[1] - 2 * x[2]) ** 4
                + 10 * (x[0] - x[3]) ** 4
            ),
            [3.0, -1.0, 0.0, 1.0],
        ),
        "helical": (
            lambda x, d: (
                100
                * (
                    (x[2] - 10 * jnp.arctan2(x[1], x[0]) / (2 * jnp.pi)) ** 2
                    + (jnp.sqrt(x[0] ** 2 + x[1] ** 2) - 1) ** 2
                )
                + x[2] ** 2
            ),
            [-1.0, 0.1, 0.0],
        ),
    }
    values = {}
    for name, (fun, start) in problems.items():
        out = core.run(smooth.lbfgs(fun), jnp.array(start), tol=1e-6, max_steps=3000)
        values[name] = float(out.state.value)
    assert max(values.values()) < 1e-6, values


def test_jax_15486_a_stall_is_neither_convergence_nor_failure_to_move():
    fun = lambda x, d: jnp.sum((x - d) ** 2) * 1e4 + 1e8
    out = core.run(smooth.lbfgs(fun), jnp.zeros(2), jnp.ones(2), tol=0.0)
    assert out.status in (Status.STALLED, Status.CONVERGED) and out.state.count < 200


def test_optax_1210_flag_for_double_precision_does_not_break_single(x64):
    params, data = jnp.zeros(2, jnp.float32), jnp.ones(2, jnp.float32)
    link = jaxsolve.to_optax(smooth.lbfgs(square), data)

    def body(carry, _):
        params, state = carry
        change, state = link.update(params, state, params)
        return (params + change, state), None

    (params, _), _ = jax.lax.scan(body, (params, link.init(params)), length=20)
    assert params.dtype == jnp.float32
    np.testing.assert_allclose(params, 1, atol=1e-3)


def test_tfp_1391_negative_objectives_do_not_stop_early():
    fun = lambda x, d: square(x, d) - 1e3
    out = core.run(smooth.lbfgs(fun), jnp.zeros(2), jnp.full(2, 3.0))
    np.testing.assert_allclose(out.params, 3, atol=1e-2)


# ----------------------------------------------------------------------- C. compiling


def test_jaxopt_514_objective_is_traced_twice_at_most():
    calls = []

    def fun(x, d):
        calls.append(1)
        return square(x, d)

    solver = smooth.lbfgs(fun)
    jax.jit(jax.grad(lambda d: core.run(solver, jnp.zeros(2), d).params.sum()))(
        jnp.ones(2)
    )
    assert len(calls) <= 2


def test_jaxopt_563_new_solver_of_the_same_function_does_not_recompile():
    calls = []

    def fun(x, d):
        calls.append(1)
        return square(x, d)

    for k in range(4):
        core.run(smooth.lbfgs(fun, memory=4), jnp.zeros(2), jnp.full(2, float(k)))
        core.run(smooth.lbfgs(fun, 4), jnp.zeros(2), jnp.full(2, float(k)), tol=0.1)
    assert len(calls) <= 2


def test_optimistix_89_state_is_arrays_so_that_programs_compile_ahead_of_time():
    solver = smooth.lbfgs(square)
    state = solver.init(jnp.zeros(2), None)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    ahead = jax.jit(solver.update).lower(jnp.zeros(2), state, jnp.ones(2)).compile()
    params, _ = ahead(jnp.zeros(2), state, jnp.ones(2))
    assert params.shape == (2,)


# ---------------------------------------------------------------------- D. many lanes


def test_optimistix_144_users_drive_the_step_by_themselves():
    solver = smooth.lbfgs(square)
    starts, data = jnp.zeros((3, 2)), jnp.arange(6.0).reshape(3, 2)
    states = jax.vmap(solver.init)(starts, data)
    step = jax.jit(jax.vmap(solver.update))
    for _ in range(10):
        starts, states = step(starts, states, data)
    np.testing.assert_allclose(starts, data, atol=1e-3)


def test_openscvx_514_finished_lanes_are_frozen():
    solve = jax.jit(
        jax.vmap(lambda s: core.run(smooth.lbfgs(rosenbrock), jnp.zeros(2), s))
    )
    alone = solve(jnp.array([1.0]))
    together = solve(jnp.array([1.0, 1000.0]))
    assert together.state.count[1] > together.state.count[0] == alone.state.count[0]
    np.testing.assert_allclose(together.params[0], alone.params[0], rtol=1e-5)


def test_eht_imaging_304_state_takes_two_m_plus_a_few_vectors():
    n, m = 1000, 7
    state = smooth.lbfgs(square, m).init(jnp.zeros(n), None)
    floats = sum(leaf.size for leaf in jax.tree.leaves(state))
    assert floats <= (2 * m + 3) * n + 3 * m * m + 100


# ------------------------------------------------------------------------- E. dtypes


def test_jaxopt_547_dtype_follows_the_inputs_never_the_flag(x64):
    for dtype in (jnp.float32, jnp.float64):
        out = core.run(smooth.lbfgs(square), jnp.zeros(2, dtype), jnp.ones(2, dtype))
        floats = [x.dtype for x in jax.tree.leaves(out) if x.dtype != jnp.int32]
        assert set(floats) == {np.dtype(dtype)} and bool(out.converged)


def test_ott_375_status_is_exact_at_return():
    solver = iteration(lambda x, d: 0.5 * x + d)
    for every in (1, 7):
        out = core.run(solver, 0.0, 1.0, tol=1e-2, check_every=every, max_steps=9)
        assert bool(out.converged) == bool(out.state.error <= 1e-2)


# -------------------------------------------------------------- F. implicit derivatives


def test_vmex_367_an_unconverged_inner_solve_is_refused(x64):
    solver = smooth.lbfgs(rosenbrock)
    start = jnp.array([-1.2, 1.0, 0.5])
    inner = lambda a: core.run(solver, start, a, max_steps=4)
    assert inner(100.0).status == Status.MAX_STEPS
    assert not np.all(np.isfinite(jax.jacfwd(lambda a: inner(a).params)(100.0)))
    assert not np.isfinite(jax.grad(lambda a: inner(a).params[0])(100.0))


def test_jaxopt_474_hessian_of_a_solution_exists(x64):
    fun = lambda x, a: jnp.sum(jnp.cosh(x) - x * jnp.sin(a))
    run = lambda a: core.run(smooth.lbfgs(fun), jnp.zeros(2), a, tol=1e-11).params.sum()
    a = jnp.array([0.3, 0.5])
    hessian = jax.hessian(run)(a)
    expected = jax.hessian(lambda a: jnp.sum(jnp.arcsinh(jnp.sin(a))))(a)
    np.testing.assert_allclose(hessian, expected, atol=1e-7)


def test_jaxopt_31_values_closed_over_have_right_gradients(x64):
    def run(a):
        fun = lambda x, data: jnp.sum((x - a * data) ** 2)
        return core.run(smooth.lbfgs(fun), jnp.zeros(2), jnp.array([1.0, 3.0])).params

    np.testing.assert_allclose(jax.jacrev(run)(2.0), [1, 3], rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(run))(2.0), [1, 3], rtol=1e-6)


def test_jaxopt_232_shapes_of_the_adjoint_system_follow_the_solution(x64):
    def fun(params, data):
        inner = jnp.tanh(data["x"] @ params["w"]) @ params["v"] + params["b"]
        decay = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
        return jnp.mean((inner - data["y"]) ** 2) + 0.1 * data["decay"] * decay

    rng = np.random.default_rng(0)
    start = {"w": rng.normal(size=(2, 3)), "v": rng.normal(size=3), "b": np.zeros(())}
    data = {"x": rng.normal(size=(6, 2)), "y": rng.normal(size=6), "decay": 1.0}
    solver = smooth.lbfgs(fun)

    def loss(decay):
        d = {**data, "decay": decay}
        out = core.run(solver, start, d, tol=1e-10)
        return fun(out.params, {**d, "decay": 0.0})

    with jax.numpy_rank_promotion("allow"):
        slope = jax.jit(jax.value_and_grad(loss))
        (high, _), (low, _) = slope(1 + 1e-4), slope(1 - 1e-4)
        np.testing.assert_allclose(slope(1.0)[1], (high - low) / 2e-4, rtol=1e-5)


def test_optimistix_54_gradient_in_the_start_is_zero_unless_unrolled():
    solver = smooth.gradient_descent(square, 0.1)
    end = lambda x, **options: (
        core.run(solver, x, 1.0, max_steps=5, tol=0.0, **options).params
    )
    assert jax.grad(end)(0.0) == 0
    slope = jax.grad(lambda x: end(x, derivative=core.unrolled()))(0.0)
    np.testing.assert_allclose(slope, 0.8**5, rtol=1e-5)


def test_jaxopt_206_danskins_theorem_has_a_name(x64):
    solver = smooth.lbfgs(square)

    def value(d):
        out = core.run(solver, jnp.zeros(2), d, derivative=core.envelope())
        return square(out.params, d) + jnp.sum(d**3)

    d = jnp.array([1.0, 2.0])
    np.testing.assert_allclose(jax.grad(value)(d), 3 * d**2, rtol=1e-6)


# ---------------------------------------------------------------------- H. termination


def test_optimistix_213_failed_solve_does_not_go_on_to_max_steps():
    out = core.run(
        smooth.lbfgs(lambda x, d: jnp.sum(jnp.log(x))),
        -jnp.ones(2),
        max_steps=10_000,
    )
    assert out.status == Status.DIVERGED and out.state.count <= 100


def test_optimistix_214_users_may_add_a_criterion():
    solver = smooth.gradient_descent(square, 0.1)
    near = lambda params, state: jnp.all(params > 0.5)
    out = core.run(solver, jnp.zeros(2), jnp.ones(2), stop=near, tol=0.0)
    assert bool(out.converged) and float(out.params[0]) < 0.6


def test_jaxopt_503_diagnostics_work_under_jit(capfd):
    solver = smooth.gradient_descent(square, 0.1)
    run = lambda d: core.run(solver, jnp.zeros(2), d, progress=True).params
    jax.block_until_ready(jax.jit(run)(jnp.ones(2)))
    jax.effects_barrier()
    assert "updates, error" in capfd.readouterr().err


def test_mpax_14_every_iteration_can_be_recorded():
    solver = smooth.gradient_descent(square, 0.1)
    out = core.run(
        solver, 0.0, 1.0, max_steps=50, record=lambda p, s: {"x": p, "e": s.error}
    )
    taken = int(out.state.count)
    errors = np.asarray(out.history["e"])
    assert np.all(np.diff(errors[:taken]) < 0) and np.all(np.isnan(errors[taken:]))
