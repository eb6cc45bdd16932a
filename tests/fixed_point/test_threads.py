"""What users of other libraries suffered from: roots, fixed points, derivatives."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.optimize

from jaxsolve import core, fixed_point
from jaxsolve.core import Status


def affine(x, data):
    matrix, shift = data
    return matrix @ x + shift


def cosine(x, a):
    return jnp.cos(a * x)


def test_jax_33872_reverse_mode_by_a_krylov_solver_works(x64):
    matrix = 0.2 * np.random.default_rng(0).normal(size=(4, 4))
    rule = core.implicit(lx.GMRES(1e-12, 1e-12))
    solver = fixed_point.anderson(affine)

    def total(shift):
        data = matrix, shift
        out = core.run(solver, jnp.zeros(4), data, tol=1e-12, derivative=rule)
        return jnp.sum(out.params**3)

    inverse = np.linalg.inv(np.eye(4) - matrix)
    x = inverse @ np.ones(4)
    np.testing.assert_allclose(
        jax.jit(jax.grad(total))(jnp.ones(4)), inverse.T @ (3 * x**2), rtol=1e-8
    )
    np.testing.assert_allclose(
        jax.jit(jax.hessian(total))(jnp.ones(4)),
        inverse.T @ np.diag(6 * x) @ inverse,
        rtol=1e-7,
    )


def test_optimistix_151_the_hessian_of_a_root_exists(x64):
    solver = fixed_point.newton_root(lambda x, a: x**3 - a)
    root = lambda a: core.run(solver, 1.0, a, tol=1e-12).params
    np.testing.assert_allclose(
        jax.hessian(root)(8.0), -2 / 9 * 8 ** (-5 / 3), rtol=1e-9
    )


def test_optimistix_112_forward_mode_exists(x64):
    solve = lambda a: core.run(fixed_point.picard(cosine), 1.0, a, tol=1e-13).params
    x, slope = jax.jvp(solve, (0.9,), (1.0,))
    sine = np.sin(0.9 * x)
    np.testing.assert_allclose(slope, -x * sine / (1 + 0.9 * sine), rtol=1e-9)


def test_optimistix_218_memory_of_reverse_mode_does_not_grow_with_the_steps():
    def temporary(max_steps):
        solver = fixed_point.picard(lambda x, a: 0.5 * jnp.cos(a * x))
        end = lambda a: core.run(solver, jnp.ones(50), a, max_steps=max_steps).params
        compiled = jax.jit(jax.grad(lambda a: end(a).sum())).lower(1.0).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(10_000) == temporary(10)


def test_jaxopt_111_what_a_map_closes_over_is_differentiated(x64):
    def solve(a):
        solver = fixed_point.anderson(lambda x, data: jnp.cos(a * x) + data)
        return core.run(solver, 1.0, 0.1, tol=1e-12).params

    ends = solve(0.8 + 1e-6), solve(0.8 - 1e-6)
    np.testing.assert_allclose(
        jax.grad(solve)(0.8), (ends[0] - ends[1]) / 2e-6, rtol=1e-6
    )


def test_jaxopt_183_the_adjoint_of_a_tree_has_the_shapes_of_the_tree(x64):
    def layer(z, data):
        hidden = jnp.tanh(data["w"] @ z["h"] + data["x"])
        return {"h": 0.5 * hidden, "s": 0.3 * jnp.sum(hidden) + 0.1 * z["s"]}

    rng = np.random.default_rng(0)
    data = {"w": 0.3 * rng.normal(size=(3, 3)), "x": rng.normal(size=3)}
    start = {"h": jnp.zeros(3), "s": jnp.zeros(())}
    solver = fixed_point.anderson(layer)

    def loss(data):
        z = core.run(solver, start, data, tol=1e-12).params
        return jnp.sum(z["h"] ** 2) + z["s"]

    slopes = jax.jit(jax.grad(loss))(data)
    assert jax.tree.map(jnp.shape, slopes) == jax.tree.map(jnp.shape, data)
    moved = lambda s: loss({**data, "x": data["x"] + s * np.eye(3)[0]})
    np.testing.assert_allclose(
        slopes["x"][0], (moved(1e-6) - moved(-1e-6)) / 2e-6, rtol=1e-6
    )


def test_optimistix_197_a_map_that_diverges_does_not_go_on_to_max_steps():
    solver = fixed_point.picard(lambda x, a: a * x**2)
    out = core.run(solver, jnp.full(2, 3.0), 1.0, max_steps=10_000)
    assert out.status == Status.DIVERGED and out.state.count < 100
    assert np.all(np.isfinite(out.params))


def test_optimistix_172_a_solve_is_decorated_with_its_derivative(x64):
    @core.implicit_function(lambda x, a: cosine(x, a) - x)
    def dottie(x, a):
        return jax.lax.fori_loop(0, 200, lambda _, y: cosine(y, a), x)

    x = dottie(1.0, 1.0)
    slope = jax.jit(jax.grad(dottie, argnums=1))(1.0, 1.0)
    np.testing.assert_allclose(slope, -x * np.sin(x) / (1 + np.sin(x)), rtol=1e-12)


def test_jaxopt_403_a_solve_by_scipy_is_jitted_batched_and_differentiated(x64):
    def call(x, a):
        scalar = lambda a: scipy.optimize.brentq(
            lambda y: np.cos(a * y) - y, 0, 1, xtol=1e-14
        )
        return np.vectorize(scalar, otypes=[float])(a)

    @core.implicit_function(lambda x, a: cosine(x, a) - x)
    def solve(x, a):
        shape = jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))
        return jax.pure_callback(call, shape, x, a, vmap_method="expand_dims")

    a = jnp.array([0.5, 1.0])
    batch = jax.jit(jax.vmap(jax.value_and_grad(solve, argnums=1), (None, 0)))
    x, slope = batch(0.5, a)
    np.testing.assert_allclose(x, np.cos(a * x), atol=1e-12)
    sine = np.sin(a * x)
    np.testing.assert_allclose(slope, -x * sine / (1 + a * sine), rtol=1e-10)


@pytest.mark.parametrize("every", [1, 8])
def test_ott_375_a_fixed_point_is_converged_just_where_its_error_says_so(every):
    out = core.run(
        fixed_point.picard(cosine), 1.0, 0.9, tol=1e-3, max_steps=12, check_every=every
    )
    gap = abs(np.cos(0.9 * out.params) - out.params)
    assert bool(out.converged) == bool(out.state.error <= 1e-3)
    assert gap <= out.state.error


def test_optimistix_182_every_step_can_be_driven_and_watched():
    solver, errors = fixed_point.anderson(cosine), []
    for _, state in core.iterate(solver, 1.0, 0.9):
        errors.append(float(state.error))
        if errors[-1] < 0.05:
            break
    assert len(errors) == 3 and np.all(np.diff(errors) < 0)
