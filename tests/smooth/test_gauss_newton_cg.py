"""Gauss-Newton by conjugate gradients: its model, its minima, its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve import core, smooth

TIMES = np.linspace(0.0, 4.0, 12)
CURVE = 2.0 * np.exp(-0.7 * TIMES)
CURVE[3] = 9.0


def decay(x, curve):
    return x[0] * jnp.exp(-x[1] * TIMES) - curve


def plain(x, radius):
    """The first step in NumPy: truncated conjugate gradients, one product an update."""
    jac = np.stack([np.exp(-x[1] * TIMES), -x[0] * TIMES * np.exp(-x[1] * TIMES)], 1)
    g, hessian = jac.T @ (x[0] * np.exp(-x[1] * TIMES) - CURVE), jac.T @ jac
    p, r, d, products = np.zeros(2), g, -g, 0
    while True:
        alpha, products = r @ r / (d @ hessian @ d), products + 1
        if np.linalg.norm(p + alpha * d) >= radius:
            roots = np.roots([d @ d, 2 * p @ d, p @ p - radius**2])
            return p + np.max(roots) * d, products
        new_r = r + alpha * hessian @ d
        p, d, r = p + alpha * d, new_r @ new_r / (r @ r) * d - new_r, new_r
        if np.linalg.norm(r) <= min(0.5, np.linalg.norm(g) ** 0.5) * np.linalg.norm(g):
            return p, products


def test_first_step_is_that_of_the_gauss_newton_matrix(x64):
    start = np.array([1.0, 0.5])
    step, products = plain(start, 0.3)
    solver = smooth.gauss_newton_cg(decay, radius=0.3)
    params = jnp.asarray(start)
    state = solver.init(params)
    for _ in range(products + 1):  # the start with the first product; then the trial
        params, state = solver.update(params, state, jnp.asarray(CURVE))
    np.testing.assert_allclose(params, start + step, rtol=1e-9)


def test_robust_fit_finds_the_minimum_of_levenberg_marquardt_and_its_slope(x64):
    def solve(factory, curve):
        solver = factory(decay, loss=smooth.soft_l1_loss(0.1))
        return core.run(solver, np.ones(2), curve, tol=1e-10)

    curve = jnp.asarray(CURVE)
    ours, theirs = (
        jax.jacrev(lambda c: (lambda s: (s.params, s))(solve(factory, c)), has_aux=True)
        for factory in (smooth.gauss_newton_cg, smooth.levenberg_marquardt)
    )
    (slope, end), (expected, other) = ours(curve), theirs(curve)
    assert end.converged and other.converged, (end, other)
    np.testing.assert_allclose(end.params, other.params, rtol=1e-7)
    np.testing.assert_allclose(end.value, other.value, rtol=1e-12)
    np.testing.assert_allclose(slope, expected, rtol=1e-5, atol=1e-9)


def test_thousand_unknowns_need_no_matrix(x64):
    chain = lambda x, a: {"valley": a * (x[1:] - x[:-1] ** 2), "slope": 1 - x[:-1]}
    out = core.run(smooth.gauss_newton_cg(chain), np.full(1000, 0.5), 2.0)
    assert out.converged and out.value < 1e-12, out
