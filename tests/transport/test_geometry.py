"""Geometries: every way to keep a cost gives the same sums, products and kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import transport

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(7, 2)), RNG.normal(size=(5, 2))
F, G = RNG.normal(size=7), RNG.normal(size=5)
V, W = RNG.normal(size=5), RNG.uniform(size=7)


def squares(x, y):
    return np.sum((x[:, None] - y[None]) ** 2, -1)


def grid():
    lines = [np.linspace(0, 1, k) for k in (3, 4)]
    other = [np.linspace(0, 2, k) for k in (2, 3)]
    costs = [(a[:, None] - b[None]) ** 2 for a, b in zip(lines, other, strict=True)]
    points = lambda axes: np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    return transport.GridCost(costs), squares(points(lines), points(other))


def pairs():
    cloud = transport.PointCloud(X, Y)
    made, matrix = grid()
    yield "dense", transport.DenseCost(squares(X, Y)), squares(X, Y)
    yield "cloud", cloud, squares(X, Y)
    yield "online", transport.PointCloud(X, Y, block=3), squares(X, Y)
    yield "low_rank", transport.low_rank(cloud, block=3), squares(X, Y)
    yield "grid", made, matrix


@pytest.mark.parametrize("name", ["dense", "cloud", "online", "low_rank", "grid"])
def test_all_that_a_geometry_computes_is_that_of_its_matrix(name, x64):
    geometry, cost = next((g, c) for key, g, c in pairs() if key == name)
    n, m = cost.shape
    f, g, u, v = (RNG.normal(size=k) for k in (n, m, n, m))
    eps = 0.3
    kernel = np.exp((f[:, None] + g[None] - cost) / eps)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    assert geometry.shape == cost.shape and geometry.dtype == jnp.float64
    close(geometry.matrix(), cost)
    close(geometry.scale(), cost.mean())
    close(geometry.spread(), cost.std())
    close(geometry.apply(v, 1), cost @ v)
    close(geometry.apply(u, 0), cost.T @ u)
    close(geometry.apply(v, 1, jnp.square), cost**2 @ v)
    made = geometry.kernel(jnp.asarray(f), jnp.asarray(g), jnp.asarray(eps))
    close(made.times(jnp.asarray(v)), kernel @ v)
    close(made.transposed(jnp.asarray(u)), kernel.T @ u)
    weights = np.abs(u)
    softmin = geometry.softmin(
        jnp.asarray(f), jnp.asarray(weights), jnp.asarray(eps), 0
    )
    log = np.log(np.sum(weights[:, None] * np.exp((f[:, None] - cost) / eps), 0))
    close(softmin, -eps * log)


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        (transport.euclidean, lambda x, y: np.sqrt(squares(x, y))),
        (transport.p_norm(3.0), None),
        (transport.cosine, None),
        (lambda x, y: jnp.max(jnp.abs(x - y)), None),
    ],
)
def test_costs_of_two_points_are_their_formulas(cost, expected, x64):
    found = transport.PointCloud(X, Y, cost=cost).matrix()
    if expected is None:
        norm = np.linalg.norm
        unit = lambda z: z / norm(z, axis=1, keepdims=True)
        other = {
            transport.p_norm(3.0): norm(X[:, None] - Y[None], ord=3, axis=-1),
            transport.cosine: 1 - unit(X) @ unit(Y).T,
        }
        default = np.max(np.abs(X[:, None] - Y[None]), -1)
        np.testing.assert_allclose(found, other.get(cost, default), rtol=1e-12)
    else:
        np.testing.assert_allclose(found, expected(X, Y), rtol=1e-9)


@pytest.mark.parametrize("cost", [transport.euclidean, transport.cosine])
def test_derivatives_of_distances_are_finite_where_points_meet_or_vanish(cost):
    total = lambda x: jnp.sum(transport.PointCloud(x, cost=cost).matrix())
    gradient = jax.grad(total)(jnp.array([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0]]))
    assert bool(jnp.all(jnp.isfinite(gradient)))


def test_forbidden_pairs_and_zero_weights_leave_finite_derivatives():
    cost = jnp.array([[0.0, jnp.inf], [1.0, 0.5]])
    weights = jnp.array([0.0, 1.0])

    def total(h, w, eps):
        return jnp.sum(transport.DenseCost(cost).softmin(h, w, eps, 1))

    gradients = jax.grad(total, (0, 1, 2))(jnp.ones(2), weights, jnp.asarray(0.1))
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in gradients)


def test_distances_far_from_the_origin_do_not_cancel():
    x = jnp.array([[1000.0, 1000.0], [1000.01, 1000.0]])
    found = transport.PointCloud(x).matrix()[0, 1]
    np.testing.assert_allclose(found, (x[1, 0] - x[0, 0]) ** 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: transport.DenseCost(jnp.ones(3)), "matrix"),
        (lambda: transport.DenseCost(jnp.ones((0, 3))), "not empty"),
        (lambda: transport.DenseCost(jnp.ones((2, 3), int)), "floats"),
        (lambda: transport.PointCloud(jnp.ones(3)), "arrays"),
        (lambda: transport.PointCloud(jnp.ones((3, 2)), jnp.ones((3, 1))), "arrays"),
        (lambda: transport.PointCloud(jnp.ones((3, 2)), cost=2.0), "function"),
        (lambda: transport.PointCloud(jnp.ones((3, 2)), block=0), "block"),
        (lambda: transport.GridCost([]), "grid"),
        (lambda: transport.LowRankCost(jnp.ones((3, 2)), jnp.ones((3, 1))), "factors"),
        (
            lambda: transport.low_rank(
                transport.PointCloud(jnp.ones((3, 2)), cost=transport.cosine)
            ),
            "squared",
        ),
        (lambda: transport.p_norm(0.5), "at least 1"),
    ],
)
def test_what_is_no_geometry_is_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("block", [None, 50])
def test_some_rows_tell_how_a_cost_is_spread(block, x64):
    x = RNG.normal(size=(1000, 2)) + 3 * (np.arange(1000) % 2)[:, None]
    cloud = transport.PointCloud(x, RNG.normal(size=(40, 2)), block=block)
    for geometry in (cloud, transport.DenseCost(cloud.matrix())):
        few = geometry.thinned(128)
        assert 100 < few.shape[0] <= 128
        np.testing.assert_allclose(few.spread(), geometry.spread(), rtol=0.1)
        assert geometry.thinned(1000).shape == geometry.shape


@pytest.mark.parametrize("make", [transport.newton_transport, transport.sinkhorn])
def test_beside_the_cost_memory_holds_no_more_than_three_matrices(make, x64):
    cost, start = jnp.asarray(RNG.uniform(size=(300, 300))), jnp.zeros(300)

    def solve(cost):
        problem = transport.TransportProblem(cost, epsilon=0.01)
        return jaxsolve.run(make(), start, problem, tol=1e-6).params

    memory = jax.jit(solve).lower(cost).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 3.3 * cost.nbytes
