"""solve_batch: equal to vmap(run) lane by lane, whatever is packed or sharded."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from jaxsolve import core, smooth
from jaxsolve.core import Status
from tests.core.solvers import iteration

RNG = np.random.default_rng(0)


def creeping(x, data):
    """Contracts by a factor of the data: step counts differ as wanted."""
    return x + data["rate"] * (data["goal"] - x)


SOLVER = iteration(creeping)


def straggling(size):
    """A few lanes take much longer than the others; one never ends, one is NaN."""
    rate = np.full(size, 0.5, np.float32)
    rate[:: max(1, size // 5)] = 0.02
    goal = RNG.normal(size=(size, 2)).astype(np.float32)
    if size > 3:
        rate[2], goal[2], goal[3] = 2e-3, 1000, np.nan
    return jnp.zeros((size, 2)), {"rate": rate, "goal": goal}


def vmapped(params, data, axes=0, **options):
    solve = lambda p, d: core.run(SOLVER, p, d, **options)
    return jax.jit(jax.vmap(solve, (0, axes)))(params, data)


def assert_same(left, right):
    np.testing.assert_array_equal(left.status, right.status)
    np.testing.assert_array_equal(left.state.count, right.state.count)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, left, right)


@pytest.mark.parametrize("size", [1, 5, 33, 150])
@pytest.mark.parametrize("every", [1, 16])
def test_equals_the_vmapped_run_lane_by_lane_packed_or_not(size, every):
    params, data = straggling(size)
    out = core.solve_batch(SOLVER, params, data, max_steps=500, check_every=every)
    assert_same(out, vmapped(params, data, max_steps=500))
    if size > 3:
        assert out.status[2] == Status.MAX_STEPS and out.state.count[2] == 500
        assert out.status[3] == Status.DIVERGED


@pytest.mark.parametrize("limit", [0, 1, 37])
def test_max_steps_is_exact_in_every_lane(limit):
    params, data = straggling(70)
    out = core.solve_batch(SOLVER, params, data, max_steps=limit, check_every=10)
    assert_same(out, vmapped(params, data, max_steps=limit))
    assert int(jnp.max(out.state.count)) == limit


def test_lbfgs_equals_its_vmapped_run():
    def fun(x, scale):
        return jnp.sum(scale * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    solver = smooth.lbfgs(fun)
    starts = jnp.asarray(RNG.normal(size=(100, 3)), jnp.float32)
    scales = jnp.logspace(-1, 1.5, 100)
    out = core.solve_batch(solver, starts, scales, tol=1e-3)
    solve = jax.jit(jax.vmap(lambda p, d: core.run(solver, p, d, tol=1e-3)))
    expected = solve(starts, scales)
    np.testing.assert_array_equal(out.status, expected.status)
    assert np.mean(out.state.count == expected.state.count) > 0.9  # but for rounding
    np.testing.assert_allclose(out.params, 1, atol=2e-2)


@pytest.mark.parametrize("size", [8, 13, 70])
def test_mesh_of_eight_devices_gives_the_same_whatever_the_size(size):
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("a", "b"))
    params, data = straggling(size)
    out = core.solve_batch(
        SOLVER, params, data, mesh=mesh, max_steps=300, check_every=8
    )
    assert_same(out, vmapped(params, data, max_steps=300))


def test_explicit_mesh_is_taken_too():
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Explicit,))
    params, data = straggling(16)
    out = core.solve_batch(SOLVER, params, data, mesh=mesh, max_steps=300)
    assert_same(out, vmapped(params, data, max_steps=300))


def test_in_axes_are_those_of_vmap():
    params, data = straggling(40)
    shared = {"rate": jnp.float32(0.3), "goal": jnp.moveaxis(data["goal"], 0, 1)}
    axes = {"rate": None, "goal": 1}
    out = core.solve_batch(SOLVER, params, shared, in_axes=axes, max_steps=100)
    assert_same(out, vmapped(params, shared, axes, max_steps=100))
    common = {"rate": jnp.float32(0.3), "goal": jnp.ones(2)}
    out = core.solve_batch(SOLVER, params, common, in_axes=None)
    assert_same(out, vmapped(params, common, None))
    negative = {"rate": jnp.float32(0.3), "goal": shared["goal"]}
    out = core.solve_batch(
        SOLVER, params, negative, in_axes={"rate": None, "goal": -1}, max_steps=100
    )
    assert_same(out, vmapped(params, negative, axes, max_steps=100))


def test_problem_without_data_is_a_batch_of_starts():
    solver = iteration(lambda x, data: 0.5 * x)
    out = core.solve_batch(solver, jnp.arange(50.0), in_axes=None)
    expected = jax.vmap(lambda x: core.run(solver, x))(jnp.arange(50.0))
    np.testing.assert_array_equal(out.state.count, expected.state.count)
    np.testing.assert_array_equal(out.params, expected.params)


def test_derivatives_are_those_of_the_vmapped_run(x64):
    def fun(x, data):
        return jnp.sum(data["a"] * (x - data["b"]) ** 2 + (x - data["b"]) ** 4 + x)

    solver = smooth.gradient_descent(fun)
    start = jnp.zeros((40, 2))
    data = {"a": jnp.linspace(1, 3, 40), "b": jnp.linspace(-1, 1, 2)}
    axes = {"a": 0, "b": None}
    batch = lambda d: core.solve_batch(solver, start, d, in_axes=axes, tol=1e-10).params
    lanes = lambda d: jax.vmap(
        lambda p, d: core.run(solver, p, d, tol=1e-10).params, (0, axes)
    )(start, d)
    total = lambda solve: lambda d: jnp.sum(jnp.sin(solve(d)))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-8)
    jax.tree.map(close, jax.grad(total(batch))(data), jax.grad(total(lanes))(data))
    way = jax.tree.map(jnp.ones_like, data)
    curve = lambda solve: jax.jvp(jax.grad(total(solve)), (data,), (way,))[1]
    jax.tree.map(close, curve(batch), curve(lanes))


def test_closed_over_values_are_differentiated(x64):
    def total(c):
        fun = lambda x, d: jnp.sum((x - c * d) ** 2)
        solver = smooth.gradient_descent(fun, 0.4)
        out = core.solve_batch(solver, jnp.zeros(40), jnp.arange(40.0))
        return jnp.sum(out.params)

    np.testing.assert_allclose(jax.grad(total)(2.0), np.arange(40).sum(), rtol=1e-6)


def test_unconverged_lanes_refuse_and_can_be_masked(x64):
    params, data = straggling(40)
    rate = jnp.asarray(data["rate"], float).at[2].set(1e-2)
    data = {"rate": rate, "goal": jnp.ones((40, 2))}
    params = params.astype(float)

    def loss(goal, masked):
        d = {**data, "goal": goal}
        out = core.solve_batch(SOLVER, params, d, max_steps=100)
        keep = out.converged[:, None] | ~masked
        return jnp.sum(jnp.where(keep, out.params, 0)), out.converged

    slope, converged = jax.grad(loss, has_aux=True)(data["goal"], jnp.bool_(True))
    assert 0 < np.sum(converged) < 40
    expected = np.where(converged, 1.0, 0.0)[:, None]
    np.testing.assert_allclose(slope, np.tile(expected, 2), rtol=1e-6)
    slope, _ = jax.grad(loss, has_aux=True)(data["goal"], jnp.bool_(False))
    np.testing.assert_array_equal(np.isfinite(slope).all(axis=1), converged)


def test_objective_is_traced_twice_at_most_whatever_the_number_of_widths():
    calls = 0

    def counting(x, data):
        nonlocal calls
        calls += 1
        return jnp.sum(data["rate"] * (x - data["goal"]) ** 2)

    solver = smooth.gradient_descent(counting, 0.9)
    params, data = straggling(600)
    data["rate"] = np.geomspace(1e-3, 0.5, 600).astype(np.float32)
    out = core.solve_batch(solver, params, data, max_steps=3000)
    assert len(set(np.asarray(out.state.count))) > 20 and calls <= 2
    core.solve_batch(solver, params + 1, data, max_steps=100, tol=0.1)
    assert calls <= 2


def test_data_beside_arrays_of_floats_are_passed_through():
    def step(x, data):
        n, key = data
        noise = jax.random.normal(key, ())
        return x + 0.5 * (n.astype(x.dtype) + noise - x)

    solver = iteration(step)
    keys = jax.random.split(jax.random.key(0), 40)
    data = (jnp.arange(40), keys)
    out = core.solve_batch(solver, jnp.zeros(40), data)
    expected = jnp.arange(40.0) + jax.vmap(jax.random.normal)(keys)
    np.testing.assert_allclose(out.params, expected, atol=1e-2)


def test_progress_is_shown(capfd):
    params, data = straggling(40)
    core.solve_batch(SOLVER, params, data, max_steps=100, progress=True)
    assert capfd.readouterr().err.rstrip(" ").endswith("\n")


@pytest.mark.parametrize(
    "params, data, axes, words",
    [
        (jnp.zeros((0, 2)), jnp.zeros((0, 2)), 0, "empty"),
        (jnp.zeros((3, 2)), jnp.zeros((4, 2)), 0, "one leading batch axis"),
        (jnp.zeros((3, 2)), jnp.float32(1), 0, "no batch axis"),
        (jnp.zeros(()), None, None, "one leading batch axis"),
        (jnp.zeros(3, int), jnp.zeros(3), 0, "float"),
    ],
    ids=["empty", "unequal", "scalar", "start", "integers"],
)
def test_what_is_no_batch_is_refused(params, data, axes, words):
    with pytest.raises(ValueError, match=words):
        core.solve_batch(iteration(lambda x, d: x), params, data, in_axes=axes)


def test_traced_arguments_and_unrolled_rules_are_refused():
    solver = iteration(lambda x, d: 0.5 * x + d)
    solve = functools.partial(core.solve_batch, solver)
    for transform in (jax.jit, jax.vmap):
        with pytest.raises(ValueError, match="vmap"):
            transform(lambda d: solve(jnp.zeros(3), d).params)(jnp.ones((3, 3)))
    with pytest.raises(ValueError, match="vmap"):
        jax.jit(lambda tol: solve(jnp.zeros(3), jnp.ones(3), tol=tol))(0.1)
    for rule in (core.unrolled(), core.one_step()):
        with pytest.raises(ValueError, match="single updates"):
            solve(jnp.zeros(3), jnp.ones(3), derivative=rule)
