"""What users of other libraries suffered from: projections and proximal operators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

import jaxsolve
from jaxsolve import composite, prox
from jaxsolve.core import Status

RNG = np.random.default_rng(0)


def least_squares(x, data):
    return 0.5 * jnp.sum((data["A"] @ x - data["b"]) ** 2)


@pytest.mark.parametrize(
    "factory", [composite.proximal_gradient, composite.projected_gradient]
)
def test_jaxopt_338_implicit_derivative_through_a_polyhedron(factory, x64):
    # The report: least squares on a polyhedron, by projected gradient; the Jacobian of
    # the solution fell over an assertion. One equation is written twice (#419).
    data = {"A": RNG.normal(size=(8, 4)), "b": RNG.normal(size=8)}
    equations = np.array([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
    project = prox.polyhedron(equations, np.array([1.0, 2.0]), -np.eye(4), np.zeros(4))
    solver = factory(least_squares, project)
    solve = lambda b: jaxsolve.run(
        solver, jnp.full(4, 0.25), {**data, "b": b}, tol=1e-11
    )
    solution = solve(data["b"])
    assert bool(solution.converged)
    reference = optimize.minimize(
        lambda x: float(least_squares(x, data)),
        np.full(4, 0.25),
        bounds=[(0, None)] * 4,
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-15},
    )
    np.testing.assert_allclose(solution.params, reference.x, atol=1e-6)
    jacobian = jax.jacrev(lambda b: solve(b).params)(data["b"])
    step = 1e-5 * RNG.normal(size=8)
    ends = [np.asarray(solve(data["b"] + s * step).params) for s in (1, -1)]
    np.testing.assert_allclose(jacobian @ step, (ends[0] - ends[1]) / 2, atol=1e-9)


def test_jaxopt_419_affine_sets_of_dependent_rows_inside_a_solver(x64):
    data = {"A": RNG.normal(size=(6, 3)), "b": RNG.normal(size=6)}
    rows = np.array([[1.0, -1.0, 0.0], [-3.0, 3.0, 0.0], [0.0, 0.0, 0.0]])

    def solve(height):
        project = prox.affine_set(rows, height * np.array([1.0, -3.0, 0.0]))
        solver = composite.proximal_gradient(least_squares, project)
        return jaxsolve.run(solver, jnp.zeros(3), data, tol=1e-11).params

    # x = (h + t, t, s): ordinary least squares in t and s.
    matrix = np.stack([data["A"][:, 0] + data["A"][:, 1], data["A"][:, 2]], 1)
    exact = lambda h: np.linalg.lstsq(matrix, data["b"] - h * data["A"][:, 0])[0]
    t, s = exact(0.7)
    np.testing.assert_allclose(solve(0.7), [0.7 + t, t, s], atol=1e-9)
    slope = jax.jacfwd(solve)(0.7)
    t, s = exact(1.0) - exact(0.0)
    np.testing.assert_allclose(slope, [1 + t, t, s], atol=1e-8)


def test_pounce_73_an_inactive_inequality_is_not_taken_for_an_equation(x64):
    G, h = np.eye(2), np.array([1.0, 5.0])
    project = lambda x, h: prox.polyhedron(G=G, h=h)(x)
    x = np.array([3.0, 2.0])
    by_point, by_bound = jax.jacrev(project, argnums=(0, 1))(x, h)
    np.testing.assert_allclose(by_point, np.diag([0.0, 1.0]), atol=1e-12)
    np.testing.assert_allclose(by_bound, np.diag([1.0, 0.0]), atol=1e-12)


def test_cvxpylayers_36_one_infeasible_item_does_not_kill_the_batch(x64):
    data = {"A": np.eye(2), "b": np.array([3.0, 3.0])}

    def solve(height):
        limits = jnp.stack([jnp.ones_like(height), -height])
        project = prox.polyhedron(G=np.array([[1.0, 0.0], [-1.0, 0.0]]), h=limits)
        solver = composite.proximal_gradient(least_squares, project, 0.5)
        return jaxsolve.run(solver, jnp.zeros(2), data, tol=1e-9)

    out = jax.jit(jax.vmap(solve))(jnp.array([0.0, 2.0, 0.5]))
    assert list(out.status) == [Status.CONVERGED, Status.DIVERGED, Status.CONVERGED]
    np.testing.assert_allclose(out.params[::2], [[1, 3], [1, 3]], atol=1e-8)
    assert np.all(np.isfinite(out.params))


def test_coreax_1029_the_small_quadratic_programme_on_a_simplex(x64):
    points = RNG.normal(size=(6, 2))
    gram = np.exp(-np.sum((points[:, None] - points[None]) ** 2, -1))
    mean = gram.mean(1)
    fun = lambda w, data: 0.5 * w @ data[0] @ w - w @ data[1]
    solver = composite.proximal_gradient(fun, prox.simplex())
    w = jaxsolve.run(solver, jnp.full(6, 1 / 6), (gram, mean), tol=1e-11).params
    # Optimal: the slope is least on the support.
    slope = gram @ np.asarray(w) - mean
    np.testing.assert_allclose(w.sum(), 1, atol=1e-12)
    np.testing.assert_allclose(slope[w > 1e-9], slope.min(), atol=1e-9)


def test_ott_653_regularised_costs_have_their_transport_maps(x64):
    # Of h(z) = |z|^2 / 2 + g(z), the gradient of the conjugate is the prox of g.
    h = lambda z: 0.5 * z**2 + 0.4 * np.abs(z)
    grid = np.linspace(-4, 4, 80001)
    y = np.array([-1.5, -0.2, 0.0, 0.9])
    best = np.array([grid[np.argmax(v * grid - h(grid))] for v in y])
    np.testing.assert_allclose(prox.l1(0.4)(y), best, atol=1e-4)


def test_ott_411_the_norm_of_zero_has_a_gradient():
    for operator in (prox.group_lasso(1.0), prox.l2_ball(1.0), prox.l2_sphere(1.0)):
        assert np.all(np.isfinite(jax.jacrev(operator)(jnp.zeros(3))))


def test_optax_959_projections_take_an_axis():
    x = jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32)
    for operator in (prox.simplex(axis=1), prox.l1_ball(0.5, axis=1)):
        rows = jax.vmap(lambda row, f=operator: f(row[None])[0])(x)
        np.testing.assert_allclose(operator(x), rows, atol=1e-6)


def test_optax_1280_projections_that_need_a_solver_work_under_jit_and_vmap():
    x = jnp.asarray(RNG.normal(size=(3, 4, 4)), jnp.float32)
    plans = jax.jit(jax.vmap(prox.birkhoff()))(x)
    np.testing.assert_allclose(plans.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(plans.sum(2), 1, atol=1e-6)
    slopes = jax.jit(jax.vmap(jax.jacrev(prox.birkhoff())))(x)
    np.testing.assert_allclose(slopes.sum((1, 2)), 0, atol=1e-5)
