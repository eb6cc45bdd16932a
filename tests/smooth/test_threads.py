"""What users of other libraries suffered from: line searches, boxes, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import jaxsolve
from jaxsolve import smooth
from jaxsolve.core import Status


def rosenbrock(x, scale):
    return jnp.sum(scale * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def square(x, data):
    return jnp.sum((x - data) ** 2)


both = pytest.mark.parametrize(
    "factory",
    [smooth.lbfgs, lambda fun: smooth.lbfgsb(fun, (-1e3, 1e3))],
    ids=["lbfgs", "lbfgsb"],
)

# ------------------------------------------------------------------ B. line searches

# Bounded problems of Hock and Schittkowski: objective, start, bounds, least value.
HOCK_SCHITTKOWSKI = {
    "1": (
        lambda x, d: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2,
        [-2.0, 1.0],
        ([-np.inf, -1.5], np.inf),
        0.0,
    ),
    "2": (
        lambda x, d: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2,
        [-2.0, 1.0],
        ([-np.inf, 1.5], np.inf),
        0.0504261879,
    ),
    "3": (
        lambda x, d: x[1] + 1e-5 * (x[1] - x[0]) ** 2,
        [10.0, 1.0],
        ([-np.inf, 0.0], np.inf),
        0.0,
    ),
    "4": (
        lambda x, d: (x[0] + 1) ** 3 / 3 + x[1],
        [1.125, 0.125],
        ([1.0, 0.0], np.inf),
        8 / 3,
    ),
    "5": (
        lambda x, d: (
            jnp.sin(x[0] + x[1]) + (x[0] - x[1]) ** 2 - 1.5 * x[0] + 2.5 * x[1] + 1
        ),
        [0.0, 0.0],
        ([-1.5, -3.0], [4.0, 3.0]),
        -np.sqrt(3) / 2 - np.pi / 3,
    ),
    "45": (
        lambda x, d: 2 - jnp.prod(x) / 120,
        [2.0, 2.0, 2.0, 2.0, 2.0],
        (0.0, [1.0, 2.0, 3.0, 4.0, 5.0]),
        1.0,
    ),
}


@pytest.mark.parametrize("name", HOCK_SCHITTKOWSKI)
def test_optimistix_176_bounded_problems_are_solved(name, x64):
    fun, start, bounds, best = HOCK_SCHITTKOWSKI[name]
    bounds = tuple(np.broadcast_to(np.asarray(v), len(start)) for v in bounds)
    # The second problem has another local minimum, at 4.94; SciPy's run tells which.
    reference = scipy.optimize.minimize(
        lambda x: float(fun(jnp.asarray(x), None)),
        start,
        jac=lambda x: np.asarray(jax.grad(fun)(jnp.asarray(x), None)),
        bounds=list(zip(*bounds, strict=True)),
        method="L-BFGS-B",
    )
    solver = smooth.lbfgsb(fun, bounds)
    out = jaxsolve.run(solver, jnp.array(start), tol=1e-7, max_steps=2000)
    assert bool(out.converged)
    assert out.state.value <= max(best, reference.fun) + 1e-6
    assert np.all(out.params >= bounds[0]) and np.all(out.params <= bounds[1])


def test_jaxopt_620_a_box_does_not_stop_it_before_scipy(x64):
    n = 10
    start = np.tile([-1.2, 1.0], n // 2)
    reference = scipy.optimize.minimize(
        scipy.optimize.rosen,
        start,
        jac=scipy.optimize.rosen_der,
        bounds=[(-1.5, 0.8)] * n,
        method="L-BFGS-B",
        options=dict(gtol=1e-8, ftol=0),
    )
    out = jaxsolve.run(smooth.lbfgsb(rosenbrock, (-1.5, 0.8)), start, 100.0, tol=1e-7)
    assert bool(out.converged)
    np.testing.assert_allclose(out.state.value, reference.fun, rtol=1e-9)


@both
def test_jaxopt_409_values_that_overflow_are_no_nan(factory):
    fun = lambda x, d: jnp.sum(jnp.exp(x**2)) + jnp.sum(jnp.log1p(x**2))
    out = jaxsolve.run(factory(fun), jnp.full(2, 9.0), max_steps=2000)
    assert np.all(np.isfinite(out.params)) and bool(out.converged)
    np.testing.assert_allclose(out.params, 0, atol=1e-3)


@both
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_jax_4594_the_scale_of_the_objective_does_not_matter(factory, scale, x64):
    fun = lambda x, d: scale * rosenbrock(x, d)
    start = jnp.array([-1.2, 1.0])
    out = jaxsolve.run(factory(fun), start, 100.0, tol=1e-9 * scale)
    assert bool(out.converged) and out.state.count < 150
    np.testing.assert_allclose(out.params, 1, atol=1e-6)


def test_jaxopt_323_a_failed_search_in_a_box_stops_and_is_reported():
    @jax.custom_jvp
    def lie(x):
        return jnp.sum(x**2)

    lie.defjvp(lambda p, t: (lie(*p), -jnp.sum(2 * p[0] * t[0])))
    solver = smooth.lbfgsb(lambda x, data: lie(x), (-9.0, 9.0))
    out = jaxsolve.run(solver, jnp.ones(2), max_steps=5000)
    assert out.status == Status.STALLED and out.state.count < 1500


def test_tfp_1391_negative_objectives_do_not_stop_a_box_early():
    solver = smooth.lbfgsb(lambda x, d: square(x, d) - 1e3, (-9.0, 9.0))
    out = jaxsolve.run(solver, jnp.zeros(2), jnp.full(2, 3.0))
    np.testing.assert_allclose(out.params, 3, atol=1e-2)


def test_gpjax_444_bounds_need_no_other_package(x64):
    box = (jnp.zeros(3), jnp.array([0.5, 2.0, 2.0]))
    out = jaxsolve.minimize(
        square, jnp.ones(3), jnp.array([1.0, 1.5, -1.0]), bounds=box
    )
    np.testing.assert_allclose(out.params, [0.5, 1.5, 0], atol=1e-7)


def test_pyhf_2678_bounds_are_never_dropped_in_silence():
    with pytest.raises(ValueError, match="bounds"):
        jaxsolve.minimize(square, jnp.zeros(2), jnp.ones(2), bounds=(0.0, 1.0, 2.0))
    with pytest.raises(TypeError, match="bounds"):
        smooth.lbfgs(square, bounds=(0.0, 0.5))


# ----------------------------------------------------------------------- C. compiling


def test_jaxopt_563_a_new_solver_of_the_same_box_does_not_recompile():
    calls = []

    def fun(x, d):
        calls.append(1)
        return square(x, d)

    for k in range(4):
        solver = smooth.lbfgsb(fun, (0.0, 1.0))
        jaxsolve.run(solver, jnp.zeros(2), jnp.full(2, float(k)))
    assert len(calls) <= 2


# -------------------------------------------------------------------------- D. memory


@pytest.mark.parametrize(
    "make",
    [smooth.gradient_descent, smooth.lbfgs, lambda f: smooth.lbfgsb(f, (0.0, 1.0))],
    ids=["gradient_descent", "lbfgs", "lbfgsb"],
)
def test_optimistix_93_six_million_unknowns_need_no_matrix(make):
    params = jax.ShapeDtypeStruct((6_000_000,), jnp.float32)
    state = jax.eval_shape(make(square).init, params, params)
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert size < 30 * 6_000_000 * 4


# ------------------------------------------------------------------------- E. dtypes


@both
def test_optax_1203_low_precision_holds_no_infinity(factory):
    fun = lambda x, d: square(x.astype(jnp.float32), d) * 1e30
    start, data = jnp.zeros(3, jnp.bfloat16), jnp.full(3, 2.0)
    out = jaxsolve.run(factory(fun), start, data, max_steps=50)
    assert out.params.dtype == jnp.bfloat16 and np.all(np.isfinite(out.params))
    np.testing.assert_allclose(out.params.astype(jnp.float32), 2, rtol=1e-2)


def test_optimistix_207_single_precision_in_a_box_under_the_flag_of_double(x64):
    start, data = jnp.zeros(2, jnp.float32), jnp.ones(2, jnp.float32)
    out = jaxsolve.run(smooth.lbfgsb(square, (0.0, 0.5)), start, data)
    floats = [x.dtype for x in jax.tree.leaves(out) if x.dtype.kind == "f"]
    assert set(floats) == {np.dtype(np.float32)} and bool(out.converged)


# -------------------------------------------------------------- F. implicit derivatives


def test_vmex_366_four_steps_in_a_box_are_not_differentiated_as_a_solution(x64):
    solver = smooth.lbfgsb(rosenbrock, (-2.0, 2.0))
    start = jnp.array([-1.2, 1.0, 0.5])
    inner = lambda a: jaxsolve.run(solver, start, a, max_steps=4)
    assert inner(100.0).status == Status.MAX_STEPS
    assert not np.isfinite(jax.grad(lambda a: inner(a).params[0])(100.0))


# ---------------------------------------------------------------------- H. termination


def test_jaxopt_571_nothing_is_printed_unless_asked_for(capfd):
    jaxsolve.run(smooth.lbfgs(square), jnp.zeros(2), jnp.ones(2))
    jax.effects_barrier()
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
