"""Newton-Krylov: GMRES by SciPy, forcing by its paper, honest ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg

from jaxsolve import core, fixed_point
from jaxsolve.core import Status
from jaxsolve.fixed_point import _arnoldi
from tests.fixed_point.equations import rootless, rosenbrock, tridiagonal

N = 12
RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(N, N)) + 4 * np.eye(N)
RIGHT = RNG.normal(size=N)


@jax.jit
def gmres(matrix, right, memory_of):
    """Steps of our GMRES, one cycle: directions and residuals, a row a step."""

    def body(krylov, _):
        krylov = _arnoldi.extend(krylov, matrix @ _arnoldi.newest(krylov))
        zero = jnp.zeros_like(right)
        p, left, _ = _arnoldi.end(krylov, zero, jnp.asarray(jnp.inf))
        return krylov, (p, left)

    memory = memory_of.shape[0]
    krylov = _arnoldi.start(_arnoldi.empty(memory, right), right)
    return jax.lax.scan(body, krylov, length=memory)[1]


def test_gmres_minimises_over_the_krylov_space(x64):
    steps, lefts = gmres(jnp.asarray(MATRIX), jnp.asarray(RIGHT), jnp.zeros(6))
    space, power = [], RIGHT
    for p, left in zip(steps, lefts, strict=True):
        space.append(power / np.linalg.norm(power))
        power = MATRIX @ power
        basis = np.stack(space, 1)
        y = np.linalg.lstsq(MATRIX @ basis, RIGHT)[0]
        np.testing.assert_allclose(p, basis @ y, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(left, RIGHT - MATRIX @ p, atol=1e-12)


def test_restarted_it_agrees_with_scipy(x64):
    # An affine equation to full forcing: one Newton step, four products a cycle.
    solver = fixed_point.newton_krylov(
        lambda x, data: data[0] @ x - data[1], 4, forcing=1e-7
    )
    data = jnp.asarray(MATRIX), jnp.asarray(RIGHT)
    out = core.run(solver, jnp.zeros(N), data, tol=1e-6)
    products = []
    x, info = scipy.sparse.linalg.gmres(
        MATRIX, RIGHT, rtol=1e-7, restart=4,
        callback=products.append, callback_type="pr_norm",
    )  # fmt: skip
    assert out.converged and info == 0
    assert out.state.count == len(products) + 2  # and two values
    np.testing.assert_allclose(out.params, x, atol=1e-6)


def test_forcing_is_eisenstats_and_walkers(x64):
    solver = fixed_point.newton_krylov(tridiagonal)
    params, state = -jnp.ones(N), solver.init(-jnp.ones(N))
    norms, etas = [], []
    for _ in range(25):
        solving = bool(state.solving)
        params, state = solver.update(params, state, None)
        if not solving and state.solving:
            norms.append(np.linalg.norm(tridiagonal(np.asarray(params))))
            etas.append(float(state.forcing))
    golden = (1 + 5**0.5) / 2
    assert etas[0] == 0.5
    for i in range(1, len(etas)):
        golden = (1 + 5**0.5) / 2
        eta, last = (
            0.9 * (norms[i] / norms[i - 1]) ** golden,
            0.9 * etas[i - 1] ** golden,
        )
        eta = max(eta, last) if last > 0.1 else eta
        np.testing.assert_allclose(etas[i], np.clip(eta, 1.5e-8, 0.9), rtol=1e-6)
        assert norms[i] <= 2 * etas[i - 1] * norms[i - 1]  # as GMRES was asked
    assert len(etas) > 4 and norms[-1] < 1e-7


def test_a_large_system_takes_few_products(x64):
    out = core.run(fixed_point.newton_krylov(tridiagonal), -jnp.ones(1000))
    assert out.converged and out.state.count < 40
    assert np.max(np.abs(tridiagonal(np.asarray(out.params)))) < 1.5e-8


def test_the_search_brings_it_to_rosenbrocks_root(x64):
    out = core.run(fixed_point.newton_krylov(rosenbrock), jnp.array([-1.2, 1.0]))
    assert out.converged
    np.testing.assert_allclose(out.params, 1, atol=1e-7)


def test_a_minimum_of_the_norm_that_is_no_root_does_not_converge():
    out = core.run(fixed_point.newton_krylov(rootless), jnp.array([3.0, 1.0]))
    assert out.status in (Status.STALLED, Status.MAX_STEPS)
    assert core.all_finite(out.params) and out.state.error > 0.9


def test_a_jacobian_of_zeros_is_a_stall_and_one_without_values_a_breakdown():
    flat = core.run(fixed_point.newton_krylov(lambda x, _: x**2 + 1), jnp.zeros(2))
    assert flat.status == Status.STALLED
    root = core.run(
        fixed_point.newton_krylov(lambda x, _: jnp.sqrt(x) + 1), jnp.zeros(2)
    )
    assert root.status == Status.BREAKDOWN and core.all_finite(root.params)


def test_nan_lanes_end_as_diverged_and_spare_the_others():
    solver = fixed_point.newton_krylov(lambda x, a: x**3 - a)
    data = jnp.array([[1.0, 8.0], [jnp.nan, 8.0], [27.0, 1.0]])
    out = jax.vmap(lambda a: core.run(solver, jnp.ones(2), a))(data)
    np.testing.assert_array_equal(out.status, [1, Status.DIVERGED, 1])
    np.testing.assert_allclose(out.params, [[1, 2], [1, 1], [3, 1]], rtol=1e-3)


def test_options_that_make_no_sense_are_value_errors():
    with pytest.raises(ValueError, match="memory"):
        fixed_point.newton_krylov(tridiagonal, 0)
    with pytest.raises(ValueError, match="forcing"):
        fixed_point.newton_krylov(tridiagonal, forcing=1.0)
