"""BFGS: a plain transcription in the usual form, hard functions, bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxsolve import core, linesearch, smooth
from jaxsolve.core import Status
from tests.linesearch.transcription import search_backtracking, search_wolfe


def rosenbrock(x, scale):
    return jnp.sum(scale * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def wavy(x, data):
    """Not convex: a search by decrease alone meets pairs of negative curvature."""
    return jnp.sum(jnp.cos(2 * x) + data * x**2) + jnp.sum(x) ** 2 / 20


def plain_bfgs(fun, grad, x, steps, search, damped):
    """Nocedal and Wright, Algorithm 6.1 with (6.17) and (6.20), one iterate a search.

    The matrix is inverted where Powell's damping, Procedure 18.2, asks for B s.
    """
    n, h, fresh, first_t = x.size, None, True, 1.0
    iterates, calls, skipped, damps = [x], 1, 0, 0
    f, g = fun(x), grad(x)
    for _ in range(steps):
        if h is None:
            h, fresh = np.eye(n) * min(1, 1 / np.linalg.norm(g)), True
        d = -h @ g
        phi = lambda t, x=x, d=d: (fun(x + t * d), grad(x + t * d) @ d)
        tried = search(phi, f, g @ d, first_t)
        calls += len(tried)
        t = tried[-1]
        s, new_g = t * d, grad(x + t * d)
        y = new_g - g
        bs = np.linalg.solve(h, s)
        least = 0.1 * (s @ bs) / max(t, 1)
        if damped and not fresh and s @ y < least:
            theta = (s @ bs - least) / (s @ bs - s @ y)
            y, damps = theta * y + (1 - theta) * bs, damps + 1
        first_t = 1.0
        if s @ y <= 0:
            skipped += 1
            h = None if fresh else h
        else:
            h = np.eye(n) * (s @ y) / (y @ y) if fresh else h
            v = np.eye(n) - np.outer(y, s) / (s @ y)
            h = v.T @ h @ v + np.outer(s, s) / (s @ y)
            if not fresh and new_g @ d < 0.5 * (g @ d):
                first_t = 2.0
            fresh = False
        x, f, g = x + s, fun(x + s), new_g
        iterates.append(x)
    return np.stack(iterates), calls, skipped, damps


def accepted(solver, params, data, steps):
    """The states after each accepted step, the first of them at the start."""
    update = jax.jit(solver.update)
    state, states = solver.init(params, data), []
    while len(states) < steps:
        before = state.search.trials
        params, state = update(params, state, data)
        if state.search.trials <= before:
            states.append(state)
    return states


@pytest.mark.parametrize(
    "fun, data, start, search, plain, damped",
    [
        (rosenbrock, 100.0, [-1.2, 1, -1.2, 1], "wolfe", search_wolfe, True),
        (
            wavy,
            0.1,
            [3.31, -1.39, 2.03, 3.6],
            "backtracking",
            search_backtracking,
            True,
        ),
        (
            wavy,
            0.1,
            [3.31, -1.39, 2.03, 3.6],
            "backtracking",
            search_backtracking,
            False,
        ),
    ],
    ids=["wolfe", "damped", "left out"],
)
def test_iterates_are_those_of_the_textbook(
    fun, data, start, search, plain, damped, x64
):
    solver = smooth.bfgs(fun, search=getattr(linesearch, search)(), damped=damped)
    start = np.array(start, float)
    value = jax.jit(lambda x: fun(x, data))
    grad = jax.jit(jax.grad(lambda x: fun(x, data)))
    numbers = lambda f: lambda x: np.asarray(f(x))
    expected, calls, skipped, damps = plain_bfgs(
        numbers(value), numbers(grad), start, 11, plain, damped
    )
    states = accepted(solver, jnp.asarray(start), data, 12)
    points = np.stack([state.point for state in states])
    np.testing.assert_allclose(points, expected, rtol=1e-6, atol=1e-8)
    assert states[-1].count == calls
    assert (damps > 0) is (search == "backtracking" and damped)
    assert (skipped > 0) is (not damped)


def test_matrix_obeys_the_secant_equation_and_is_positive_definite(x64):
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 5))
    matrix = root @ root.T + np.eye(5)
    solver = smooth.bfgs(lambda x, m: x @ (m @ x) / 2)
    states = accepted(solver, jnp.asarray(rng.normal(size=5)), matrix, 14)
    for before, state in zip(states, states[1:], strict=False):
        if state.pairs > 0:
            step, change = state.point - before.point, state.grad - before.grad
            np.testing.assert_allclose(
                state.inverse_hessian @ change, step, rtol=1e-6, atol=1e-14
            )
            np.testing.assert_allclose(state.root.T @ state.grad, state.reduced)
            assert np.linalg.eigvalsh(state.inverse_hessian)[0] > 0


def powell_badly_scaled(x):
    return (1e4 * x[0] * x[1] - 1) ** 2 + (
        jnp.exp(-x[0]) + jnp.exp(-x[1]) - 1.0001
    ) ** 2


def brown_badly_scaled(x):
    return (x[0] - 1e6) ** 2 + (x[1] - 2e-6) ** 2 + (x[0] * x[1] - 2) ** 2


def biggs(x):
    t = jnp.arange(1, 14, dtype=x.dtype) / 10
    y = jnp.exp(-t) - 5 * jnp.exp(-10 * t) + 3 * jnp.exp(-4 * t)
    model = (
        x[2] * jnp.exp(-t * x[0])
        - x[3] * jnp.exp(-t * x[1])
        + x[5] * jnp.exp(-t * x[4])
    )
    return jnp.sum((model - y) ** 2)


@pytest.mark.parametrize(
    "fun, start, value",
    [
        (powell_badly_scaled, [0.0, 1.0], 0.0),
        (brown_badly_scaled, [1.0, 1.0], 0.0),
        (biggs, [1.0, 2.0, 1.0, 1.0, 1.0, 1.0], 5.65565e-3),
    ],
)
def test_classics_are_solved_in_about_as_many_calls_as_scipys(fun, start, value, x64):
    out = core.run(
        smooth.bfgs(lambda x, d: fun(x)), jnp.array(start), tol=1e-6, max_steps=1000
    )
    assert bool(out.converged), out
    np.testing.assert_allclose(out.state.value, value, rtol=1e-4, atol=1e-10)
    call = jax.jit(jax.value_and_grad(fun))
    reference = scipy.optimize.minimize(
        lambda x: tuple(map(np.asarray, call(x))),
        start,
        jac=True,
        method="BFGS",
        options=dict(gtol=1e-6),
    )
    assert int(out.state.count) <= 1.2 * reference.nfev + 5


def test_collapsed_matrix_is_reset_before_a_stall(x64):
    # From far out the valley's floor is reached with a matrix of 1e-9: its steps along
    # the valley are lost in the rounding of the value.
    solver = smooth.bfgs(rosenbrock)
    out = core.run(solver, jnp.array([-1e6, 1e6]), 100.0, max_steps=300)
    assert out.status == Status.MAX_STEPS, out
    assert out.state.value < 0.8e6  # 1.002e6 is where it would have stalled


@functools.cache
def hard():
    barrier = lambda x, c: c @ x - 0.1 * jnp.sum(jnp.log(x) + jnp.log(1 - x))
    return {
        "linear": smooth.bfgs(lambda x, d: jnp.sum(x) * d),
        "cubic": smooth.bfgs(lambda x, d: -jnp.sum(x**3) * d),
        "barrier": smooth.bfgs(barrier),  # NaN outside of the unit box
        "root": smooth.bfgs(lambda x, d: jnp.sum(jnp.sqrt(x))),
    }


@pytest.mark.parametrize("name", ["linear", "cubic"])
def test_unbounded_objective_ends_as_diverged_with_finite_params(name):
    out = core.run(hard()[name], jnp.full(3, 0.1), jnp.float32(1))
    assert out.status == Status.DIVERGED, out
    assert bool(jnp.all(jnp.isfinite(out.params))) and out.state.count < 500


def test_objective_that_is_nan_outside_a_region_steps_back():
    c = jnp.array([1.0, -3.0])
    out = core.run(hard()["barrier"], jnp.array([0.99, 0.01]), c)
    assert bool(out.converged), out
    b = 1 + 0.2 / np.asarray(c)  # c = 0.1 (1/x - 1/(1-x)): a quadratic equation
    expected = (b - np.sign(c) * np.sqrt(b**2 - 4 * 0.1 / np.asarray(c))) / 2
    np.testing.assert_allclose(out.params, expected, atol=1e-3)


def test_gradients_whose_squares_overflow_are_followed():
    huge = lambda x, d: 1e18 * jnp.sum(d * (x - 3) ** 2)
    out = core.run(
        smooth.bfgs(huge), jnp.array([100.0, -50.0]), jnp.array([10.0, 1.0]), tol=1e13
    )
    assert bool(out.converged), out
    np.testing.assert_allclose(out.params, 3, atol=1e-4)


def test_nan_at_the_start_ends_as_diverged_at_the_start():
    out = core.run(hard()["root"], jnp.array([-1.0, 2.0]))
    assert out.status == Status.DIVERGED
    np.testing.assert_array_equal(out.params, [-1.0, 2.0])


def test_lane_beside_a_failing_one_goes_on_as_alone():
    solver = hard()["barrier"]
    starts = jnp.array([[0.3, 0.6], [jnp.nan, 0.5]])
    c = jnp.array([1.0, -3.0])
    both = jax.vmap(lambda x: core.run(solver, x, c))(starts)
    alone = core.run(solver, starts[0], c)
    assert both.status.tolist() == [Status.CONVERGED, Status.DIVERGED]
    assert both.state.count[0] == alone.state.count
    np.testing.assert_allclose(both.params[0], alone.params, rtol=1e-5)


def test_params_changed_between_updates_are_gone_on_from():
    solver = smooth.bfgs(rosenbrock)
    update = jax.jit(solver.update)
    params = jnp.array([-1.2, 1.0])
    state = solver.init(params, 100.0)
    for i in range(120):
        params, state = update(params, state, 100.0)
        if i == 20:
            params, before = jnp.array([3.0, 2.0]), state
            params, state = update(params, state, 100.0)
            np.testing.assert_array_equal(params, [3.0, 2.0])
            # What was no step along the direction teaches the matrix nothing.
            np.testing.assert_array_equal(state.root, before.root)
    np.testing.assert_allclose(params, 1, atol=1e-3)


def test_too_many_unknowns_are_refused_with_the_size_of_the_matrix():
    solver = smooth.bfgs(lambda x, d: jnp.sum(x**2))
    with pytest.raises(ValueError, match=r"1,764,168,004 bytes.*smooth\.lbfgs"):
        jax.eval_shape(solver.init, jax.ShapeDtypeStruct((21_001,), jnp.float32))
