"""Workers: simulated or on eight devices, they are one ordinary solver."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from jaxsolve import core, smooth
from jaxsolve.core import Status
from tests.core.cases import data_parallel
from tests.core.solvers import iteration

COUNT = 8
RNG = np.random.default_rng(0)
A = RNG.normal(size=(COUNT, 2, 3))
B = RNG.normal(size=(COUNT, 2))
MESH = Mesh(np.array(jax.devices()), ("workers",))


def fun(x, data):
    a, b = data
    return jnp.sum(jnp.sqrt(1 + (a @ x - b) ** 2)) + jnp.sum(x**2) / 4


def serial(x, data):
    return jnp.mean(jax.vmap(fun, (None, 0))(x, data))


@functools.cache
def solvers():
    local = data_parallel(fun, 0.3, "workers")
    return {
        "simulated": core.workers(local, "workers"),
        "devices": core.workers(local, "workers", mesh=MESH),
    }


@pytest.mark.parametrize("name", ["simulated", "devices"])
def test_data_parallel_descent_equals_descent_on_the_whole(name, x64):
    whole = smooth.gradient_descent(serial, 0.3)
    data = (jnp.asarray(A), jnp.asarray(B))
    options = dict(max_steps=9, tol=0.0)
    expected = core.run(whole, jnp.zeros(3), data, **options)
    out = core.run(solvers()[name], jnp.zeros(3), data, **options)
    np.testing.assert_allclose(out.params, expected.params, rtol=1e-10)
    np.testing.assert_allclose(out.state.error, expected.state.error, rtol=1e-10)
    assert out.state.count == 9 and out.status == Status.MAX_STEPS
    assert out.state.inner.error.shape == (COUNT,)


@pytest.mark.parametrize("name", ["simulated", "devices"])
def test_derivative_is_that_of_the_serial_problem(name, x64):
    def slope(solver):
        def loss(b):
            data = (jnp.asarray(A), b)
            out = core.run(solver, jnp.zeros(3), data, tol=1e-11)
            return jnp.sum(jnp.sin(out.params))

        return jax.jit(jax.grad(loss))(jnp.asarray(B))

    expected = slope(smooth.gradient_descent(serial, 0.3))
    np.testing.assert_allclose(slope(solvers()[name]), expected, rtol=1e-7, atol=1e-10)


def test_per_worker_gradient_is_a_workers_own_in_both_worlds(x64):
    def own(x, data):
        return jax.grad(fun)(core.per_worker(x, "workers"), data)

    data = (jnp.asarray(A), jnp.asarray(B))
    x = jnp.ones(3)
    simulated = jax.vmap(own, (None, 0), axis_name="workers")(x, data)
    spec = jax.sharding.PartitionSpec
    local = lambda x, d: own(x, jax.tree.map(lambda leaf: leaf[0], d))[None]
    placed = jax.shard_map(
        local, mesh=MESH, in_specs=(spec(), spec("workers")), out_specs=spec("workers")
    )(x, data)
    expected = jax.vmap(jax.grad(fun), (None, 0))(x, data)
    np.testing.assert_allclose(simulated, expected, rtol=1e-10)
    np.testing.assert_allclose(placed, expected, rtol=1e-10)


@pytest.mark.parametrize("mesh", [None, MESH], ids=["simulated", "devices"])
def test_workers_may_have_params_of_their_own(mesh):

    def gossip(x, data):
        """Each moves to its own data and towards the mean of all."""
        return x - 0.25 * (x - data) - 0.25 * (x - jax.lax.pmean(x, "workers"))

    solver = core.workers(iteration(gossip), "workers", common=False, mesh=mesh)
    data = jnp.arange(float(COUNT))
    out = core.run(solver, jnp.zeros(COUNT), data, tol=1e-6)
    assert bool(out.converged)
    expected = (np.arange(COUNT) + 3.5) / 2
    np.testing.assert_allclose(out.params, expected, rtol=1e-4)


def test_mesh_by_make_mesh_is_taken_too():
    mesh = jax.make_mesh((COUNT,), ("workers",))  # its axes are explicit by default
    solver = core.workers(data_parallel(fun, 0.3, "workers"), "workers", mesh=mesh)
    data = (jnp.asarray(A, jnp.float32), jnp.asarray(B, jnp.float32))
    out = core.run(solver, jnp.zeros(3), data)
    expected = core.run(solvers()["simulated"], jnp.zeros(3), data)
    np.testing.assert_allclose(out.params, expected.params, rtol=1e-4)


def test_one_failing_worker_fails_the_run():
    b = jnp.asarray(B, jnp.float32).at[5, 0].set(jnp.nan)
    out = core.run(solvers()["simulated"], jnp.zeros(3), (jnp.asarray(A, "f4"), b))
    assert out.status == Status.DIVERGED and bool(core.all_finite(out.params))


def test_wrong_meshes_are_refused():
    local = data_parallel(fun, 0.3, "workers")
    mesh = jax.make_mesh((COUNT,), ("batch",))
    with pytest.raises(ValueError, match="no 'workers'"):
        core.workers(local, "workers", mesh=mesh)
    data = (jnp.asarray(A[:4], "f4"), jnp.asarray(B[:4], "f4"))
    with pytest.raises(ValueError, match="8 workers of the mesh"):
        core.run(solvers()["devices"], jnp.zeros(3), data)
