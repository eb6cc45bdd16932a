"""What users of other libraries suffered from: transport, precision, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import transport
from jaxsolve.core import Status


def clouds(n, m, dimension=2, dtype=jnp.float32, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda k: jnp.asarray(rng.uniform(size=(k, dimension)), dtype)
    return draw(n), draw(m)


def equations(jaxpr):
    """All equations of a jaxpr, and of those inside."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def largest(function, *args):
    """The number of entries of the largest array that a function makes."""
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    sizes = [v.aval.size for e in equations(jaxpr) for v in e.outvars]
    return max(sizes)


# ott#504: with any cost but the squared one, the size of blocks was ignored.
@pytest.mark.parametrize(
    "cost", [transport.euclidean, transport.cosine], ids=["euclidean", "cosine"]
)
def test_an_online_cloud_never_makes_the_matrix(cost):
    x, y = clouds(400, 300)

    def value(x):
        cloud = transport.PointCloud(x, y, cost=cost, block=8)
        out = transport.solve(cloud, epsilon=0.1, max_steps=5)
        return out.dual_value, out.cost, out.marginal_error

    assert largest(value, x) <= 8 * 400 * 2
    assert largest(jax.grad(lambda x: value(x)[0]), x) <= 8 * 400 * 2


# moscot#639: applying a plan needed n by batch by d.
def test_a_plan_is_applied_to_many_values_in_blocks():
    x, y = clouds(400, 300)
    values = jnp.ones((300, 50))

    def pushed(x, values):
        problem = transport.TransportProblem(
            transport.PointCloud(x, y, block=8), epsilon=0.1
        )
        return problem.apply(jnp.zeros(400), values)

    assert largest(pushed, x, values) <= 400 * 50
    plan = transport.TransportProblem(transport.PointCloud(x, y), epsilon=0.1)
    expected = plan.plan(jnp.zeros(400)) @ values
    np.testing.assert_allclose(pushed(x, values), expected, rtol=1e-4)


# ott#121: the value of an unbalanced problem was negative.
def test_values_of_unbalanced_problems_are_not_negative(x64):
    x, y = clouds(8, 6, dtype=jnp.float64)
    a, b = jnp.full(8, 2.0), jnp.full(6, 0.1)
    for tau in (0.01, 0.5, 0.99):
        out = transport.solve(
            transport.PointCloud(x, y + 3), a, b, epsilon=0.1, tau_a=tau, tau_b=tau
        )
        assert out.converged and out.dual_value > 0 and out.cost >= 0


# moscot#802, #534: at small temperatures users waited for hours; a schedule is needed.
def test_small_temperatures_take_hundreds_of_products_not_millions(x64):
    x, y = clouds(40, 40, dtype=jnp.float64)
    problem = transport.PointCloud(x, y)
    out = transport.solve(problem, epsilon=1e-4)
    assert out.converged and out.count <= 1500


# ott#312: a solve inside of jit inside of jit.
def test_solves_compile_inside_of_compiled_functions():
    x, y = clouds(7, 7)
    inner = jax.jit(lambda x: transport.solve(transport.PointCloud(x, y)).cost)
    outer = jax.jit(lambda x: inner(2 * x) + inner(x))
    np.testing.assert_allclose(outer(x), inner(2 * x) + inner(x), rtol=1e-5)


# ott#496: products in TF32 never converged.
def test_every_product_asks_for_the_highest_precision():
    x, y = clouds(12, 12)
    grid = transport.GridCost([jnp.ones((3, 3)), jnp.ones((4, 4))])
    geometries = {
        "stored": transport.PointCloud(x, y),
        "online": transport.PointCloud(x, y, block=4),
        "grid": grid,
        "low rank": transport.low_rank(transport.PointCloud(x, y)),
    }

    def solved(geometry, a):
        out = transport.solve(geometry, a, epsilon=0.1)
        return out.cost, out.dual_value, out.apply(jnp.ones((12, 2)))

    found = []
    for geometry in geometries.values():
        derived = jax.grad(lambda a, g: solved(g, a / a.sum())[0], 0)
        jaxpr = jax.make_jaxpr(lambda a, g: (solved(g, a), derived(a, g)))
        found += [
            e.params["precision"]
            for e in equations(jaxpr(jnp.full(12, 1 / 12), geometry).jaxpr)
            if e.primitive.name == "dot_general"
        ]
    high = jax.lax.Precision.HIGHEST
    assert found and all(p in ((high, high), high) for p in found)


# ott-jax#5, #6: NaN in float32 at small temperatures.
@pytest.mark.parametrize("epsilon", [1e-3, 1e-5, 1e-8])
def test_small_temperatures_in_float32_end_honestly(epsilon):
    x, y = clouds(20, 20)
    out = transport.solve(transport.PointCloud(x, y), epsilon=epsilon)
    assert np.all(np.isfinite(out.f)) and np.all(np.isfinite(out.plan()))
    assert out.status in (Status.CONVERGED, Status.STALLED)
    assert out.count < 5000
    if out.status == Status.CONVERGED:
        assert out.marginal_error <= 1e-3


# ott#185: grids with zero weights.
def test_grids_with_zero_weights_have_finite_values_and_derivatives(x64):
    line = (jnp.arange(4.0)[:, None] - jnp.arange(4.0)[None]) ** 2
    grid = transport.GridCost([line, line])
    a = jnp.zeros((4, 4)).at[0, :2].set(0.5).ravel()
    b = jnp.zeros((4, 4)).at[2:, 3].set(0.5).ravel()
    value = lambda a, e: transport.solve(grid, a, b, epsilon=e).dual_value
    found, slopes = jax.value_and_grad(value, (0, 1))(a, 0.1)
    assert np.isfinite(found) and found > 0
    assert np.all(np.isfinite(slopes[0])) and np.isfinite(slopes[1])


# ott PR#411: the derivative of a norm at zero.
def test_coincident_points_have_finite_derivatives(x64):
    x, _ = clouds(6, 6, dtype=jnp.float64)
    for cost in (transport.euclidean, transport.p_norm(1.5), transport.cosine):

        def value(x, cost=cost):
            cloud = transport.PointCloud(x, x, cost=cost, block=4)
            return transport.solve(cloud, epsilon=0.2).dual_value

        assert np.all(np.isfinite(jax.jit(jax.grad(value))(x)))


# ott#375: `converged` could not be trusted.
def test_converged_means_that_the_marginals_are_right(x64):
    x, y = clouds(15, 11, dtype=jnp.float64)
    for tol in (1e-2, 1e-5, 1e-9):
        for steps in (3, 30, 3000):
            out = transport.solve(
                transport.PointCloud(x, y), epsilon=0.01, tol=tol, max_steps=steps
            )
            plan = out.plan()
            wrong = jnp.abs(plan.sum(1) - 1 / 15).sum()
            wrong = wrong + jnp.abs(plan.sum(0) - 1 / 11).sum()
            assert bool(out.converged) == bool(wrong <= tol * (1 + 1e-6))


# ott PR#578: what the default temperature means depended on the version.
def test_the_default_temperature_scales_with_the_cost(x64):
    x, y = clouds(9, 9, dtype=jnp.float64)
    cost = transport.PointCloud(x, y).matrix()
    plan = transport.solve(cost, tol=1e-10).plan()
    for scale in (1e-3, 1e3):
        scaled = transport.solve(scale * cost, tol=1e-10).plan()
        np.testing.assert_allclose(scaled, plan, atol=1e-9)


# jaxopt#547, optimistix#207: float32 data where float64 is enabled.
def test_float32_stays_float32_where_float64_is_enabled(x64):
    x, y = clouds(6, 5)
    out = transport.solve(transport.PointCloud(x, y))
    assert out.f.dtype == out.plan().dtype == out.cost.dtype == jnp.float32
    grad = jax.grad(lambda x: transport.solve(transport.PointCloud(x, y)).cost)(x)
    assert grad.dtype == jnp.float32


# ott#371, PR#431: a batch was no faster than its slowest lane times its size.
def test_lanes_of_a_batch_are_counted_by_themselves(x64):
    rng = np.random.default_rng(4)
    x, y = rng.uniform(size=(2, 5, 8, 2))
    epsilon = jnp.asarray([1.0, 0.3, 0.1, 0.03, 0.01])
    make = lambda x, y, e: transport.TransportProblem(
        transport.PointCloud(x, y), epsilon=e
    )
    problems = jax.vmap(make)(jnp.asarray(x), jnp.asarray(y), epsilon)
    solver = transport.newton_transport()
    found = jaxsolve.solve_batch(solver, jnp.zeros((5, 8)), problems, tol=1e-9)
    assert np.all(found.converged)
    for k in range(5):
        alone = jaxsolve.run(
            solver, jnp.zeros(8), jax.tree.map(lambda z: z[k], problems), tol=1e-9
        )
        assert abs(int(alone.count) - int(found.state.count[k])) <= 2
        np.testing.assert_allclose(found.params[k], alone.params, atol=1e-8)
