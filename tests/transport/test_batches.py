"""Many problems at once, of any sizes, and one problem on many devices."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxsolve
from jaxsolve import transport


def ragged(sizes, width, seed=0):
    """Clouds of some sizes, filled up to one width by points without weight."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(size=(len(sizes), width, 2))
    weights = np.zeros((len(sizes), width))
    for row, size in zip(weights, sizes, strict=True):
        row[:size] = rng.uniform(0.5, 1.5, size)
        row /= row.sum()
    return jnp.asarray(points), jnp.asarray(weights)


def test_problems_of_different_sizes_are_solved_in_one_batch(x64):
    (x, a), (y, b) = ragged((3, 8), 8), ragged((7, 4), 7, seed=1)

    def cost(x, a, y, b):
        return transport.solve(transport.PointCloud(x, y), a, b, epsilon=0.05).cost

    derived = jax.value_and_grad(cost, (0, 2))
    values, slopes = jax.jit(jax.vmap(derived))(x, a, y, b)
    alone, slope = jax.jit(derived)(x[0, :3], a[0, :3], y[0], b[0])
    np.testing.assert_allclose(values[0], alone, rtol=1e-7)
    np.testing.assert_allclose(slopes[0][0, :3], slope[0], atol=1e-6)
    np.testing.assert_allclose(slopes[1][0], slope[1], atol=1e-6)
    assert np.all(slopes[0][0, 3:] == 0) and np.all(slopes[1][1, 4:] == 0)


def test_a_batch_is_packed_and_sharded_over_devices(x64):
    lanes, mesh = 24, jax.make_mesh((8,), ("lanes",))
    (x, a), (y, b) = ragged((6,) * lanes, 6), ragged((5,) * lanes, 5, seed=1)
    epsilon = jnp.logspace(-3, 0, lanes)
    make = lambda x, a, y, b, e: transport.TransportProblem(
        transport.PointCloud(x, y), a, b, epsilon=e
    )
    problems = jax.vmap(make)(x, a, y, b, epsilon)
    start, solver = jnp.zeros((lanes, 6)), transport.newton_transport()
    one = jaxsolve.solve_batch(solver, start, problems, tol=1e-9)
    spread = jaxsolve.solve_batch(solver, start, problems, tol=1e-9, mesh=mesh)
    assert np.all(one.converged) and np.all(spread.converged)
    np.testing.assert_allclose(spread.params, one.params, atol=1e-8)


@pytest.mark.parametrize("block", [None, 8])
def test_rows_of_a_cloud_may_be_sharded_over_devices(x64, block):
    # The layout: rows of x, and with them a and f, over the devices; y on every one.
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((8,), ("rows",), axis_types=auto)
    rows = NamedSharding(mesh, PartitionSpec("rows"))
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(64, 2)), rng.uniform(size=(40, 2))

    def solved(x, y):
        cloud = transport.PointCloud(x, y, block=block)
        out = transport.solve(cloud, epsilon=0.05, tol=1e-9)
        return out.f, out.cost

    alone = jax.jit(solved)(x, y)
    compiled = jax.jit(solved).lower(jax.device_put(x, rows), y).compile()
    f, cost = compiled(jax.device_put(x, rows), jnp.asarray(y))
    np.testing.assert_allclose(f, alone[0], atol=1e-8)
    np.testing.assert_allclose(cost, alone[1], rtol=1e-8)
    # No device ever holds a matrix of all rows: gathered are vectors at most.
    gathered = re.findall(r"f64\[([\d,]+)\][^=]* all-gather\(", compiled.as_text())
    sizes = [np.prod([int(k) for k in g.split(",")]) for g in gathered]
    assert not sizes or max(sizes) <= 2 * 64
