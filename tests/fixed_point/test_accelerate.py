"""Anderson around any solver: its iterates, its gain, its safeguard."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import composite, core, fixed_point, prox, smooth
from jaxsolve.core import Status

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(20, 8)) * np.logspace(0, -1, 8)
TARGET = RNG.normal(size=20)
STEP = 1 / np.linalg.norm(MATRIX, 2) ** 2


def data32():
    return jnp.asarray(MATRIX, jnp.float32), jnp.asarray(TARGET, jnp.float32)


def squares(x, data):
    return 0.5 * jnp.sum((data[0] @ x - data[1]) ** 2)


def paper(fun, x, steps, memory):
    """Anderson's mixing of T, by NumPy's least squares; the values of T."""
    points, residuals, out = [], [], []
    for _ in range(steps):
        points.append(x)
        residuals.append(fun(x) - x)
        out.append(fun(x))
        f, x = residuals[-1], fun(x)
        if len(points) > 1:
            s = np.diff(np.stack(points[-memory - 1 :], 1))
            y = np.diff(np.stack(residuals[-memory - 1 :], 1))
            x = x - (s + y) @ np.linalg.lstsq(y, f)[0]
    return out


def test_first_iterates_are_the_papers(x64):
    step = lambda x: x - STEP * MATRIX.T @ (MATRIX @ x - TARGET)
    solver = smooth.gradient_descent(squares, STEP)
    fast = fixed_point.accelerate(solver, 3, growth=1e9)
    data = jnp.asarray(MATRIX), jnp.asarray(TARGET)
    params, state = jnp.zeros(8), fast.init(jnp.zeros(8), data)
    for x in paper(step, np.zeros(8), 7, 3):
        params, state = fast.update(params, state, data)
        np.testing.assert_allclose(params, x, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("every", [1, 3])
def test_gradient_descent_takes_a_fraction_of_its_steps(every):
    plain = smooth.gradient_descent(squares, STEP)
    fast = fixed_point.accelerate(plain, every=every)
    runs = [
        core.run(solver, jnp.zeros(8), data32(), tol=1e-4, max_steps=5000)
        for solver in (plain, fast)
    ]
    assert all(out.converged for out in runs)
    assert 4 * runs[1].state.count < runs[0].state.count
    gradient = jax.grad(squares)(runs[1].params, data32())
    assert jnp.max(jnp.abs(gradient)) < 2e-4  # the error is the solver's own


def test_proximal_gradient_stays_in_its_set_and_is_differentiable(x64):
    plain = composite.proximal_gradient(
        squares, prox.non_negative(), STEP, accelerate=False
    )
    fast = fixed_point.accelerate(plain)
    data = jnp.asarray(MATRIX), jnp.asarray(TARGET)
    out, slow = (
        core.run(s, jnp.ones(8), data, tol=1e-9, max_steps=20000) for s in (fast, plain)
    )
    assert out.converged and 3 * out.state.count < slow.state.count
    np.testing.assert_allclose(out.params, slow.params, atol=1e-6)
    seen = core.run(
        fast, jnp.ones(8), data, max_steps=15, tol=0.0, record=lambda x, s: x
    )
    assert np.all(np.asarray(seen.history) >= 0)
    solve = lambda solver, target: jnp.sum(
        core.run(
            solver, jnp.ones(8), (data[0], target), tol=1e-9, max_steps=20000
        ).params
    )
    slopes = [jax.grad(lambda b, s=s: solve(s, b))(data[1]) for s in (fast, plain)]
    np.testing.assert_allclose(*slopes, atol=1e-5)


def test_around_picard_it_is_anderson():
    fun = lambda x, a: jnp.cos(a * x)
    fast = fixed_point.accelerate(fixed_point.picard(fun))
    out = core.run(fast, jnp.ones(2), jnp.array([1.0, 0.5]))
    assert out.converged and out.state.count <= 8
    np.testing.assert_allclose(
        fun(out.params, jnp.array([1.0, 0.5])), out.params, atol=1e-3
    )


def test_a_mixed_point_that_is_worse_is_not_taken():
    # A contraction but for a trap, into which a false secant throws the trial.
    trap = lambda x, _: jnp.where(jnp.abs(x) < 50, 0.5 * x + 1, 1e4 * x)
    fast = fixed_point.accelerate(fixed_point.picard(trap))
    params, state = jnp.asarray(40.0), fast.init(jnp.asarray(40.0))
    for _ in range(2):
        params, state = fast.update(params, state, None)
    for bad in (60.0, jnp.nan):
        thrown = state._replace(trial=jnp.asarray(bad), plain=jnp.zeros((), bool))
        kept, back = fast.update(params, thrown, None)
        assert kept == params and back.plain and back.mixing.count == 0
        assert back.inner.count == state.inner.count and back.error == state.error
        assert back.status == Status.RUNNING
        assert core.run(fast, kept, state=back).converged


def test_the_state_of_the_solver_goes_along():
    schedule = lambda count: (
        1.5 / (count.astype(jnp.float32) + 2)
    )  # needs the solver's own count
    inner = fixed_point.picard(lambda x, a: jnp.cos(a * x), schedule)
    out = core.run(fixed_point.accelerate(inner), 1.0, 1.0, max_steps=20, tol=0.0)
    assert out.state.inner.count > 5
    searching = fixed_point.accelerate(smooth.lbfgs(squares))
    assert core.run(searching, jnp.zeros(8), data32(), tol=1e-3).converged


def test_nan_lanes_end_as_diverged_and_spare_the_others():
    fast = fixed_point.accelerate(fixed_point.picard(lambda x, a: jnp.cos(a * x)))
    out = jax.vmap(lambda a: core.run(fast, 1.0, a))(jnp.array([1.0, jnp.nan, 0.5]))
    np.testing.assert_array_equal(out.status, [1, Status.DIVERGED, 1])
    assert out.params[1] == 1


def test_options_that_make_no_sense_are_value_errors():
    solver = fixed_point.picard(lambda x, _: x)
    with pytest.raises(ValueError, match="anderson"):
        fixed_point.accelerate(lambda x: x)
    for name, value in (
        ("memory", 0), ("every", 0), ("damping", 0.0), ("ridge", -1.0), ("growth", 1.0)
    ):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            fixed_point.accelerate(solver, **{name: value})
