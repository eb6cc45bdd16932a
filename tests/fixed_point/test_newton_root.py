"""Newton for equations, and the chord: iterates, rate, boxes, honest ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import core, fixed_point
from jaxsolve.core import Status
from tests.fixed_point.equations import (
    freudenstein,
    powell,
    rootless,
    rosenbrock,
    tridiagonal,
)

N = 8


def jacobian(x):
    """Of the tridiagonal function, in NumPy."""
    off = np.ones(x.size - 1)
    return np.diag(3 - 4 * x) - np.diag(off, -1) - 2 * np.diag(off, 1)


def iterates(solver, start, steps, data=None):
    params, state = jnp.asarray(start), solver.init(jnp.asarray(start), data)
    for _ in range(steps):
        params, state = solver.update(params, state, data)
        yield np.asarray(params), state


def test_first_iterates_are_newtons(x64):
    x = -np.ones(N)
    solver = fixed_point.newton_root(tridiagonal)
    for params, state in iterates(solver, x, 5):
        np.testing.assert_allclose(params, x, rtol=1e-10)
        np.testing.assert_allclose(state.error, np.max(np.abs(tridiagonal(x))))
        x = x - np.linalg.solve(jacobian(x), tridiagonal(x))


def paper_search(fun, slope, x, steps):
    """Dennis and Schnabel's A6.3.1 on |F|, a trial a row: the iterate it leaves."""
    trials, out, t, p = 0, [x], 1.0, -np.linalg.solve(slope(x), fun(x))
    while len(out) < steps:
        size, new = np.linalg.norm(fun(x)), np.linalg.norm(fun(x + t * p))
        trials += 1
        if new <= (1 - 1e-4 * t) * size:
            x, t = x + t * p, 1.0
            p = -np.linalg.solve(slope(x), fun(x))
        else:
            t = np.clip(0.5 * size * t * t / (new - size + t * size), 0.1 * t, 0.5 * t)
        out.append(x)
    return out


def bow(x, data=None):
    """Newton's steps are too long from 1.39 on."""
    return np.arctan(x) if isinstance(x, np.ndarray) else jnp.arctan(x)


@pytest.mark.parametrize(
    "fun, slope, start",
    [
        (
            rosenbrock,
            lambda x: np.array([[-20 * x[0], 10.0], [-1.0, 0.0]]),
            [-1.2, 1.0],
        ),
        (bow, lambda x: np.diag(1 / (1 + x**2)), [3.0]),
    ],
    ids=["rosenbrock", "bow"],
)
def test_the_search_backtracks_on_the_norm(x64, fun, slope, start):
    start = np.array(start)
    expected = paper_search(fun, slope, start, 8)
    solver = fixed_point.newton_root(fun)
    for (params, _), x in zip(iterates(solver, start, 8), expected, strict=True):
        np.testing.assert_allclose(params, x, rtol=1e-9, atol=1e-12)


def test_full_steps_take_newtons_way_through_larger_norms(x64):
    solver = fixed_point.newton_root(rosenbrock, backtrack=False)
    out = core.run(solver, jnp.array([-1.2, 1.0]))
    assert out.converged and out.state.count == 3


def test_errors_are_squared_near_a_regular_root(x64):
    solver = fixed_point.newton_root(tridiagonal)
    errors = np.array([state.error for _, state in iterates(solver, -np.ones(N), 5)])
    order = np.log(errors[4] / errors[3]) / np.log(errors[3] / errors[2])
    assert order > 1.8


def test_a_singular_root_is_found_linearly(x64):
    out = core.run(fixed_point.newton_root(powell), jnp.array([3.0, -1.0, 0.0, 1.0]))
    assert out.converged and out.state.count < 30
    np.testing.assert_allclose(out.params, 0, atol=1e-2)


def test_a_singular_jacobian_at_the_start_is_left():
    # x y = 1 and x = y: singular at zero, where F is not.
    fun = lambda x, a: jnp.stack([x[0] * x[1] - a, x[0] ** 2 - x[1] ** 2])
    out = core.run(fixed_point.newton_root(fun), jnp.array([1.0, 0.0]), 1.0)
    assert out.converged
    np.testing.assert_allclose(np.abs(out.params), 1, atol=1e-3)
    same = lambda x, a: jnp.stack([x[0] + x[1], x[0] + x[1]]) - a
    out = core.run(fixed_point.newton_root(same), jnp.zeros(2), 1.0)
    assert out.converged  # of all its roots the nearest
    np.testing.assert_allclose(out.params, 0.5, atol=1e-3)


@pytest.mark.parametrize("make", [fixed_point.newton_root, fixed_point.chord])
def test_a_minimum_of_the_norm_that_is_no_root_is_a_stall(make):
    out = core.run(make(rootless), jnp.array([3.0, 1.0]))
    assert out.status == Status.STALLED
    np.testing.assert_allclose(out.params, 0, atol=2e-2)
    np.testing.assert_allclose(out.state.error, 1, atol=1e-3)


def test_a_box_is_never_left_and_chooses_the_root(x64):
    lower, upper = jnp.array([-20.0, -5.0]), jnp.array([12.0, 5.0])
    # Outside the box this function is not a number, and one NaN would be seen.
    fenced = lambda x, _: jnp.where(
        jnp.all((x >= lower) & (x <= upper)), freudenstein(x), jnp.nan
    )
    solver = fixed_point.newton_root(fenced, bounds=(lower, upper))
    for params, state in iterates(solver, [15.0, 3.0], 25):
        assert np.all((params >= lower) & (params <= upper))
        assert np.isfinite(state.error)
    np.testing.assert_allclose(params, [5, 4], atol=1e-6)
    square = fixed_point.newton_root(lambda x, _: x**2 - 4, bounds=(lambda a: (a, 9.0)))
    out = core.run(square, jnp.full(2, 0.5), 0.1)
    np.testing.assert_allclose(out.params, 2, atol=1e-6)


def test_a_root_outside_the_box_is_a_stall_at_its_corner():
    solver = fixed_point.newton_root(lambda x, _: x**2 - 4, bounds=(-1.0, 1.5))
    out = core.run(solver, jnp.array([0.5, 0.7]))
    assert out.status == Status.STALLED
    np.testing.assert_allclose(np.abs(out.params), 1.5, atol=1e-6)


def test_bounds_that_cross_at_run_time_are_infeasible():
    solver = fixed_point.newton_root(lambda x, a: x, bounds=lambda a: (a, 0.0))
    out = core.run(solver, jnp.ones(2), 1.0)
    assert out.status == Status.PRIMAL_INFEASIBLE and core.all_finite(out.params)


@pytest.mark.parametrize("make", [fixed_point.newton_root, fixed_point.chord])
def test_a_region_without_values_is_stepped_back_from(make):
    out = core.run(make(lambda x, a: jnp.log(x) - a), jnp.array([20.0]), 0.5)
    assert out.converged
    np.testing.assert_allclose(out.params, np.exp(0.5), rtol=1e-3)


@pytest.mark.parametrize("make", [fixed_point.newton_root, fixed_point.chord])
def test_nan_lanes_end_as_diverged_and_spare_the_others(make):
    solver = make(lambda x, a: x**3 - a)
    solve = lambda a: core.run(solver, jnp.ones(2), a)
    data = jnp.array([[1.0, 8.0], [jnp.nan, 8.0], [27.0, 1.0]])
    out = jax.vmap(solve)(data)
    np.testing.assert_array_equal(out.status, [1, Status.DIVERGED, 1])
    np.testing.assert_allclose(out.params, [[1, 2], [1, 1], [3, 1]], rtol=1e-3)


def test_params_that_were_changed_are_evaluated_and_gone_on_from():
    solver = fixed_point.newton_root(tridiagonal)
    params, state = -jnp.ones(N), solver.init(-jnp.ones(N))
    params, state = solver.update(params, state, None)
    params, state = solver.update(params + 0.25, state, None)
    np.testing.assert_allclose(params, -0.75)
    np.testing.assert_allclose(state.error, np.max(np.abs(tridiagonal(params))))


def test_the_chord_keeps_one_jacobian_near_a_root(x64):
    x, inverse = -np.ones(N), np.linalg.inv(jacobian(-np.ones(N)))
    solver = fixed_point.chord(tridiagonal)
    for params, state in iterates(solver, x, 6):
        np.testing.assert_allclose(params, x, rtol=1e-9)
        x = x - inverse @ tridiagonal(x)
        assert state.jacobians == 1


def test_a_chord_that_is_always_renewed_is_newtons(x64):
    chord = iterates(fixed_point.chord(tridiagonal, 0.0), -np.ones(N), 5)
    newton = iterates(fixed_point.newton_root(tridiagonal), -np.ones(N), 5)
    for (a, state), (b, _) in zip(chord, newton, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
        assert state.jacobians == state.count


def test_a_slow_chord_renews_its_jacobian(x64):
    out = core.run(fixed_point.chord(lambda x, _: jnp.arctan(x)), jnp.array([3.0]))
    assert out.converged and 1 < out.state.jacobians < out.state.count


MAKES = (
    fixed_point.newton_root,
    fixed_point.chord,
    fixed_point.newton_krylov,
    fixed_point.broyden,
    lambda fun: fixed_point.itp(fun, 0.0, 1.0),
)


@pytest.mark.parametrize("make", MAKES)
def test_what_is_no_square_real_system_is_a_value_error(make):
    with pytest.raises(ValueError, match="least squares"):
        core.run(make(lambda x, _: x[:1]), jnp.ones(2))
    with pytest.raises(ValueError, match="real"):
        core.run(make(lambda x, _: jax.lax.complex(x, x)), jnp.ones(2))
    with pytest.raises(ValueError, match="float"):
        core.run(make(lambda x, _: x), jnp.ones(2, jnp.int32))
    with pytest.raises(ValueError, match="real"):
        core.run(make(lambda x, _: x), jnp.ones(2, jnp.complex64))


def test_options_that_make_no_sense_are_value_errors():
    with pytest.raises(ValueError, match="slow"):
        fixed_point.chord(tridiagonal, 1.5)
    with pytest.raises(ValueError, match="cross"):
        solver = fixed_point.newton_root(tridiagonal, bounds=(1.0, 0.0))
        core.run(solver, jnp.ones(2))
    for make in (fixed_point.newton_root, fixed_point.chord):
        with pytest.raises(ValueError, match="GiB"):
            jax.eval_shape(make(tridiagonal).init, jnp.zeros(100_000))


@pytest.mark.parametrize("bounds", [None, (-5.0, 5.0)])
def test_columns_whose_squares_overflow_are_no_stall(bounds):
    fun = lambda x, root: 1e25 * (x - root)
    root = jnp.array([1.0, 2.0, 3.0])
    out = core.run(fixed_point.newton_root(fun, bounds=bounds), jnp.zeros(3), root)
    assert bool(out.converged)
    np.testing.assert_array_equal(out.params, root)
