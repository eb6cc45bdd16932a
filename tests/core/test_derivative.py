"""Derivative rules against closed forms and theory; what they refuse."""

import gc

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.optimize

from jaxsolve import core, smooth
from jaxsolve.core import Status
from tests.core.solvers import iteration

MATRIX = np.array([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 4.0]])
SKEW = np.array([[2.0, 1.0, 0.0], [-1.0, 2.0, 0.5], [0.3, 0.0, 3.0]])


def linear(matrix):
    """Richardson's iteration for matrix @ x = d: its solution is the inverse's."""
    return iteration(lambda x, d: x - 0.2 * (jnp.asarray(matrix) @ x - jnp.sin(d)))


def solve(solver, data, **options):
    start = jnp.zeros(jnp.shape(data))
    return core.run(solver, start, data, tol=1e-13, max_steps=2000, **options).params


# ------------------------------------------------------------------ the implicit rule


@pytest.mark.parametrize("matrix", [MATRIX, SKEW], ids=["symmetric", "skew"])
def test_every_composition_of_derivatives_equals_the_closed_form(matrix, x64):
    solver, d = linear(matrix), jnp.array([0.3, -1.0, 2.0])
    run = lambda d: solve(solver, d)
    inverse = np.linalg.inv(matrix)
    first = inverse @ np.diag(np.cos(d))
    second = -np.einsum("ik,k,kl->ikl", inverse, np.sin(d), np.eye(3))
    assert_close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)

    @jax.jit
    def all_of_them(d):
        return (
            jax.jacfwd(run)(d),
            jax.jacrev(run)(d),
            jax.jacfwd(jax.jacrev(run))(d),
            jax.jacrev(jax.jacfwd(run))(d),
            jax.jacrev(jax.jacrev(run))(d),
            jax.vmap(jax.hessian(lambda d: run(d).sum()))(jnp.stack([d, d + 1])),
        )

    forward, reverse, fr, rf, rr, hessians = all_of_them(d)
    for jacobian in (forward, reverse):
        assert_close(jacobian, first)
    for hessian in (fr, rf, rr):
        assert_close(hessian, second)
    weights = inverse.sum(axis=0)
    for shift, hessian in enumerate(hessians):
        assert_close(hessian, np.diag(-weights * np.sin(np.asarray(d) + shift)))


def test_third_derivative_of_a_scalar_solution(x64):
    solver = iteration(lambda x, a: x - (x**3 - a) / 12)
    root = lambda a: core.run(solver, 2.0, a, tol=1e-14).params
    third = jax.jit(jax.grad(jax.grad(jax.grad(root))))
    np.testing.assert_allclose(third(8.0), (10 / 27) * 8.0 ** (-8 / 3), rtol=1e-8)


def test_closed_over_tracers_are_differentiated_in_every_mode(x64):
    d = jnp.array([0.3, -1.0, 2.0])
    by_data = lambda d: solve(linear(MATRIX), d)

    def by_closure(d):
        step = lambda x, _: x - 0.2 * (jnp.asarray(MATRIX) @ x - jnp.sin(d))
        return core.run(
            iteration(step), jnp.zeros(3), None, tol=1e-13, max_steps=2000
        ).params

    def derivatives(run):
        total = lambda d: jnp.sum(jnp.sin(run(d)))
        return jax.jit(
            lambda d: (
                run(d),
                jax.grad(total)(d),
                jax.jvp(total, (d,), (jnp.cos(d),))[1],
                jax.hessian(total)(d),
                jax.vmap(jax.grad(total))(jnp.stack([d, 2 * d])),
            )
        )(d)

    with jax.checking_leaks():
        closed = derivatives(by_closure)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11),
        closed,
        derivatives(by_data),
    )


def test_lbfgs_may_close_over_what_is_differentiated_eagerly_too(x64):
    def run(c):
        fun = lambda x, data: jnp.sum((x - c) ** 2 + data * (x - c) ** 4)
        return core.run(smooth.lbfgs(fun), jnp.zeros(2), 0.5, tol=1e-10).params

    np.testing.assert_allclose(jax.jacobian(run)(jnp.ones(2)), np.eye(2), atol=1e-8)


def conjugate_gradients(matvec, b):
    return jax.scipy.sparse.linalg.cg(matvec, b, tol=1e-12)[0]


@pytest.mark.parametrize(
    "rule",
    [
        core.implicit(lx.CG(1e-12, 1e-12), psd=True),
        core.implicit(lx.GMRES(1e-12, 1e-12)),
        core.implicit(lx.BiCGStab(1e-12, 1e-12)),
        core.implicit(lx.LU()),
        core.implicit(conjugate_gradients),
        core.implicit(jacobian=lambda x, d: lx.MatrixLinearOperator(0.2 * MATRIX)),
        core.implicit(
            lx.Cholesky(),
            jacobian=lambda x, d: lx.MatrixLinearOperator(
                jnp.asarray(0.2 * MATRIX), lx.positive_semidefinite_tag
            ),
        ),
        core.implicit(symmetric=True),
        core.implicit(psd=True),
    ],
    ids=[
        "cg",
        "gmres",
        "bicgstab",
        "lu",
        "callable",
        "matrix",
        "cholesky",
        "sym",
        "psd",
    ],
)
def test_linear_solver_may_be_chosen_and_the_jacobian_given(rule, x64):
    d = jnp.array([0.3, -1.0, 2.0])
    total = lambda d: jnp.sum(jnp.sin(solve(linear(MATRIX), d, derivative=rule)))
    (slope, curve) = jax.jit(lambda d: jax.jvp(jax.grad(total), (d,), (jnp.ones(3),)))(
        d
    )
    inverse = np.linalg.inv(MATRIX)
    x = inverse @ np.sin(d)
    expected = np.cos(d) * (inverse @ np.cos(x))
    np.testing.assert_allclose(slope, expected, rtol=1e-7)
    dx = inverse @ np.cos(d)
    expected = -np.sin(d) * (inverse @ np.cos(x))
    expected -= np.cos(d) * (inverse @ (np.sin(x) * dx))
    np.testing.assert_allclose(curve, expected, rtol=1e-7)


@pytest.mark.parametrize("psd", [True, False])
def test_beyond_two_thousand_unknowns_no_matrix_is_formed(psd, x64):
    n = 2100
    scale = jnp.linspace(1.0, 2.0, n)
    solver = iteration(lambda x, d: x - 0.5 * (scale * x - d), core.implicit(psd=psd))
    gradient = jax.jit(jax.grad(lambda d: jnp.sum(solve(solver, d) ** 2)))
    program = str(gradient.trace(jnp.ones(n)).jaxpr)
    assert f"f64[{n},{n}]" not in program
    np.testing.assert_allclose(gradient(jnp.ones(n)), 2 / scale**2, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_singular_jacobian_refuses_instead_of_answering(dtype, x64):
    # Two equal rows, and a right-hand side that only one of them sees.
    rows = jnp.asarray([[1.0, 1.0], [1.0, 1.0]], dtype)
    solver = iteration(lambda x, d: x - 0.5 * (rows @ x - d))
    d = jnp.asarray([2.0, 2.0], dtype)
    run = lambda d: core.run(solver, jnp.zeros(2, dtype), d)
    assert bool(run(d).converged)
    out, forward = jax.jvp(lambda d: run(d).params, (d,), (jnp.asarray([1, 0], dtype),))
    assert not np.any(np.isfinite(forward))
    gradient = jax.grad(lambda d: run(d).params[0])(d)
    assert not np.any(np.isfinite(gradient))


def test_derivative_in_the_start_is_zero_and_states_have_none(x64):
    solver = linear(MATRIX)
    start = jnp.zeros(3)
    out = lambda x: core.run(solver, x, jnp.ones(3))
    np.testing.assert_array_equal(jax.grad(lambda x: out(x).params.sum())(start), 0)
    state = lambda d: core.run(solver, start, d).state.error
    np.testing.assert_array_equal(jax.grad(state)(jnp.ones(3)), 0)


def test_integers_booleans_and_keys_in_data_are_passed_through(x64):
    def step(x, data):
        a, n, flag, key = data
        noise = jax.random.normal(key, ()) * 0
        return x - 0.5 * (x - jnp.where(flag, a * n.astype(a.dtype), 0)) + noise

    solver = iteration(step)
    rest = (jnp.int32(3), jnp.bool_(True), jax.random.key(0))
    run = lambda a: core.run(solver, 0.0, (a, *rest), tol=1e-12).params
    np.testing.assert_allclose(jax.jit(jax.grad(run))(2.0), 3.0, rtol=1e-9)
    np.testing.assert_allclose(jax.jvp(run, (2.0,), (1.0,))[1], 3.0, rtol=1e-9)


# --------------------------------------------------------------------------- refusal


@pytest.mark.parametrize("rule", [None, core.envelope()])
def test_unconverged_run_refuses_but_maps_zero_to_zero(rule, x64):
    d = jnp.ones(3)
    short = lambda d: (
        core.run(linear(MATRIX), jnp.zeros(3), d, max_steps=3, derivative=rule).params
    )
    _, forward = jax.jvp(short, (d,), (jnp.ones(3),))
    _, zero = jax.jvp(short, (d,), (jnp.zeros(3),))
    assert not np.any(np.isfinite(forward)) and np.all(zero == 0)
    _, pull = jax.vjp(short, d)
    assert not np.any(np.isfinite(pull(jnp.ones(3))[0]))
    np.testing.assert_array_equal(pull(jnp.zeros(3))[0], 0)


def test_inexact_stop_and_approximate_rules_never_refuse(x64):
    def slope(rule):
        run = lambda d: core.run(
            linear(MATRIX), jnp.zeros(3), d, max_steps=3, derivative=rule
        ).params.sum()
        return jax.grad(run)(jnp.ones(3))

    expected = np.linalg.inv(MATRIX).sum(axis=0) * np.cos(1.0)
    np.testing.assert_allclose(slope(core.implicit(inexact=True)), expected)
    for rule in (core.one_step(), core.truncated(2), core.unrolled()):
        assert np.all(np.isfinite(slope(rule))) and np.any(slope(rule) != 0)
    np.testing.assert_array_equal(slope(core.stop()), 0)


def test_nan_in_the_data_of_a_masked_lane_does_not_reach_what_lanes_share(x64):
    step = lambda x, data: x - 0.2 * (jnp.asarray(MATRIX) @ x - data[0] * data[1])
    solver = iteration(step)

    def loss(weights, d):
        out = core.run(solver, jnp.zeros(3), (weights, d))
        return jnp.where(out.converged, jnp.sum(out.params), 0)

    total = lambda w, d: jnp.sum(jax.vmap(loss, (None, 0))(w, d))
    w, ones = jnp.array([1.0, 0.5, 2.0]), jnp.ones(3)
    slope = jax.jit(jax.grad(total))
    dirty = slope(w, jnp.stack([ones, jnp.nan * ones, -2 * ones]))
    np.testing.assert_allclose(dirty, -np.linalg.inv(MATRIX).sum(axis=0))


# ----------------------------------------------------------------- approximate rules


def test_error_of_truncation_decays_with_the_contraction_factor(x64):
    factor = 0.5
    solver = iteration(lambda x, d: factor * x + jnp.sin(d))
    exact = np.cos(0.3) / (1 - factor)

    def slope(rule, mode):
        run = lambda d: core.run(solver, 0.0, d, tol=1e-13, derivative=rule).params
        if mode == "reverse":
            return jax.grad(run)(0.3)
        return jax.jvp(run, (0.3,), (1.0,))[1]

    for k in (1, 2, 5, 9):
        rule = core.one_step() if k == 1 else core.truncated(k)
        for mode in ("forward", "reverse"):
            gap = 1 - slope(rule, mode) / exact
            np.testing.assert_allclose(gap, factor**k, rtol=1e-9)


def test_unrolled_is_the_derivative_of_the_iterate_that_was_computed(x64):
    solver = iteration(lambda x, d: 0.5 * x + jnp.sin(d) * x**0)
    for steps in (1, 2, 7, 16):
        run = lambda d, n=steps: core.run(
            solver, 1.0, d, tol=0.0, max_steps=n, derivative=core.unrolled()
        )
        expected = np.cos(0.3) * 2 * (1 - 0.5**steps)
        np.testing.assert_allclose(jax.grad(lambda d: run(d).params)(0.3), expected)
        np.testing.assert_allclose(
            jax.jvp(lambda d: run(d).params, (0.3,), (1.0,))[1], expected
        )
        assert run(0.3).state.count == steps and run(0.3).status == Status.MAX_STEPS
    start = jax.grad(
        lambda x: (
            core.run(
                solver, x, 0.3, tol=0.0, max_steps=4, derivative=core.unrolled()
            ).params
        )
    )(1.0)
    np.testing.assert_allclose(start, 0.5**4)


def test_unrolled_stops_where_the_run_stops_and_records(x64):
    solver = iteration(lambda x, d: 0.5 * x + d)
    keep = lambda params, state: state.error
    options = dict(tol=1e-2, max_steps=20, record=keep)
    plain = core.run(solver, 0.0, 1.0, **options)
    rolled = core.run(solver, 0.0, 1.0, derivative=core.unrolled(), **options)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(rolled), strict=True):
        np.testing.assert_array_equal(a, b)


def test_truncated_keeps_max_steps_and_status():
    solver = iteration(lambda x, d: 0.5 * x + d)
    for limit, status in ((10, Status.MAX_STEPS), (100, Status.CONVERGED)):
        out = core.run(
            solver, 0.0, 1.0, max_steps=limit, tol=1e-4, derivative=core.truncated(4)
        )
        assert out.status == status and out.state.count <= limit + 4
    short = core.run(
        solver, 0.0, 1.0, max_steps=2, tol=1e-4, derivative=core.truncated(4)
    )
    assert short.state.count == 2  # max_steps counts the updates of this call


def test_envelope_is_right_for_the_optimal_value_only(x64):
    fun = lambda x, a: jnp.sum((x - a) ** 2) + a @ a
    solver = smooth.lbfgs(fun)

    def value(a):
        out = core.run(solver, jnp.zeros(2), a, derivative=core.envelope())
        return fun(out.params, a)

    a = jnp.array([1.0, -2.0])
    np.testing.assert_allclose(jax.grad(value)(a), 2 * a, rtol=1e-6)
    rule = core.envelope()
    run = lambda a: core.run(solver, jnp.zeros(2), a, derivative=rule).params.sum()
    np.testing.assert_array_equal(jax.grad(run)(a), 0)


def test_solver_without_residual_has_no_derivative_until_a_rule_is_chosen(x64):
    solver = iteration(lambda x, d: 0.5 * x + d, residual=False)
    run = lambda d, **options: core.run(solver, 0.0, d, tol=1e-12, **options).params
    np.testing.assert_allclose(run(1.0), 2.0)
    for differentiate in (jax.grad, jax.jacfwd):
        with pytest.raises(ValueError, match="derivative="):
            differentiate(run)(1.0)
    with pytest.raises(ValueError, match="residual"):
        run(1.0, derivative=core.implicit())
    slope = jax.grad(lambda d: run(d, derivative=core.unrolled(), max_steps=60))(1.0)
    np.testing.assert_allclose(slope, 2.0)
    by_hand = solver._replace(residual=lambda x, d: x - (0.5 * x + d))
    slope = jax.grad(lambda d: core.run(by_hand, 0.0, d, tol=1e-12).params)(1.0)
    np.testing.assert_allclose(slope, 2.0)


def test_residual_of_another_size_is_refused():
    solver = iteration(lambda x, d: 0.5 * x + d)
    wrong = solver._replace(residual=lambda x, d: (x, x))
    with pytest.raises(ValueError, match="as many entries as params, 1, got 2"):
        jax.grad(lambda d: core.run(wrong, 0.0, d).params)(1.0)


@pytest.mark.parametrize("steps", [0, -1, 2.0, None])
def test_truncation_to_what_is_no_count_is_refused(steps):
    with pytest.raises(ValueError, match="positive Python integer"):
        core.truncated(steps)


# ------------------------------------------------------------ foreign solves, adjoints


def root_of(matrix, d):
    """SciPy, on values."""
    found = scipy.optimize.root(lambda x: matrix @ x + x**3 - d, np.zeros(len(d)))
    return jnp.asarray(found.x)


def foreign(x, data):
    matrix, d = data
    return matrix @ x + x**3 - d


def test_scipys_solution_is_differentiated_by_its_residual(x64):
    @core.implicit_function(foreign)
    def find(params, data):
        """Finds it."""
        return root_of(*map(np.asarray, data))

    assert find.__name__ == "find" and find.__doc__ == "Finds it."
    data = (jnp.asarray(MATRIX), jnp.array([1.0, 2.0, 3.0]))
    x = find(None, data)
    expected = np.linalg.inv(MATRIX + np.diag(3 * np.asarray(x) ** 2))
    slope = jax.jacobian(lambda d: find(None, (data[0], d)))(data[1])
    np.testing.assert_allclose(slope, expected, rtol=1e-7)
    by_matrix = jax.grad(lambda m: find(None, (m, data[1])).sum())(data[0])
    np.testing.assert_allclose(by_matrix, -np.outer(expected.sum(0), x), rtol=1e-7)


def test_inaccurate_foreign_solution_is_refused_by_its_tol(x64):
    rough = lambda params, data: root_of(*map(np.asarray, data)) + 1e-3
    data = (jnp.asarray(MATRIX), jnp.array([1.0, 2.0, 3.0]))
    total = lambda tol: jax.grad(
        lambda d: core.implicit_function(foreign, tol=tol)(rough)(
            None, (data[0], d)
        ).sum()
    )(data[1])
    assert not np.any(np.isfinite(total(1e-6)))
    assert np.all(np.isfinite(total(1.0))) and np.all(np.isfinite(total(None)))


def test_foreign_solve_has_no_updates_to_differentiate():
    for rule in (core.unrolled(), core.one_step()):
        with pytest.raises(ValueError, match="no updates to differentiate"):
            core.implicit_function(foreign, rule)


def test_adjoint_shows_its_residual_and_starts_warm(x64):
    data = (jnp.asarray(MATRIX), jnp.array([1.0, 2.0, 3.0]))
    x, v = root_of(MATRIX, np.array([1.0, 2.0, 3.0])), jnp.array([1.0, 0.0, 2.0])
    out = core.adjoint(foreign, x, data, v)
    assert out.residual <= 1e-12
    jacobian = MATRIX + np.diag(3 * np.asarray(x) ** 2)
    np.testing.assert_allclose(out.solution, np.linalg.solve(jacobian.T, v))
    np.testing.assert_allclose(out.cotangent[1], out.solution)
    np.testing.assert_allclose(out.cotangent[0], -np.outer(out.solution, x))
    # One Richardson step as the linear solver: rough when cold, exact when warm.
    rough = core.implicit(lambda matvec, b: b / 5)
    cold = core.adjoint(foreign, x, data, v, derivative=rough)
    warm = core.adjoint(foreign, x, data, v, derivative=rough, start=out.solution)
    assert cold.residual > 0.1 and warm.residual <= 1e-12
    with pytest.raises(ValueError, match="implicit"):
        core.adjoint(foreign, x, data, v, derivative=core.envelope())


def test_adjoint_of_data_with_integers_gives_zeros_for_them(x64):
    residual = lambda x, data: x - data["a"] * data["n"].astype(x.dtype)
    data = {"a": jnp.ones(2), "n": jnp.int32(3)}
    out = core.adjoint(residual, 3 * jnp.ones(2), data, jnp.ones(2))
    np.testing.assert_allclose(out.cotangent["a"], 3)
    assert out.cotangent["n"].dtype == jnp.int32 and out.cotangent["n"] == 0


def test_memory_of_the_implicit_rule_does_not_grow_with_the_steps():
    solver = linear(MATRIX)

    def program(steps, rule):
        run = lambda d: core.run(
            solver, jnp.zeros(3), d, max_steps=steps, derivative=rule
        ).params.sum()
        return str(jax.make_jaxpr(jax.grad(run))(jnp.ones(3)))

    gc.collect()
    assert program(10, None).count("f32[") == program(10_000, None).count("f32[")
    assert "f32[100" in program(10_000, core.unrolled())
