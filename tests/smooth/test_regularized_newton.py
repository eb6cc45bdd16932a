"""Regularised Newton: a plain transcription, the proved rate, and a hard start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import core, smooth
from tests.smooth.test_newton_cg import rosenbrock

RNG = np.random.default_rng(0)
FEATURES, LABELS = RNG.normal(size=(40, 3)), np.sign(RNG.normal(size=40))


def logistic(w, data):
    features, labels = data
    return jnp.mean(jnp.logaddexp(0.0, -labels * (features @ w)))


def plain(fun, grad, hessian, x, steps):
    """Points tried, each with whether it was accepted and the constant used."""
    m, rows = 1.0, []
    f, g, h = fun(x), grad(x), hessian(x)
    while len(rows) < steps:
        values = np.linalg.eigvalsh(h)
        plain = np.sqrt(m * np.linalg.norm(g))
        added = plain + max(0.0, -values[0])
        s = -np.linalg.solve(h + added * np.eye(x.size), g)
        new_f, new_g, r = fun(x + s), grad(x + s), np.linalg.norm(s)
        lower = new_f <= f - 2 / 3 * plain * r**2
        ok = lower and (np.linalg.norm(new_g) <= 2 * added * r or values[0] < 0)
        rows.append([*(x + s), ok, m])
        seen = np.linalg.norm(new_g - g - h @ s) / r**2
        m = np.clip(seen, m / 16, m / 2) if ok else np.clip(seen, 2 * m, 1e4 * m)
        if ok:
            x = x + s
            f, g, h = fun(x), grad(x), hessian(x)
    return np.stack(rows)


@pytest.mark.parametrize(
    ("fun", "data", "start", "steps"),
    [
        (rosenbrock, 100.0, [-1.2, 1.0, 0.5, 2.0], 20),
        (logistic, (FEATURES, LABELS), [5.0, -9.0, 7.0], 8),
    ],
    ids=["rosenbrock", "logistic"],
)
def test_trials_are_those_of_a_plain_transcription(fun, data, start, steps, x64):
    calls = [jax.jit(f(fun)) for f in (lambda f: f, jax.grad, jax.hessian)]
    call = [lambda x, c=c: np.asarray(c(x, data)) for c in calls]
    expected = plain(*call, np.array(start), steps)
    solver, params = smooth.regularized_newton(fun), jnp.array(start)
    state, tried = solver.init(params, data), []
    for _ in range(steps + 1):
        trial, constant = state.point + state.step, state.constant
        params, state = solver.update(params, state, data)
        tried.append([*trial, state.trials == 0, constant])
    np.testing.assert_allclose(tried[1:], expected, rtol=1e-6, atol=1e-8)
    assert fun is logistic or np.sum(expected[:, -2]) < steps  # some were rejected


def test_gap_stays_below_the_proved_rate(x64):
    """A soft maximum of planes: convex, far from quadratic, steep almost everywhere."""
    sharp, planes = 20.0, RNG.normal(size=(12, 4))
    planes -= planes.mean(axis=0)  # bounded below

    def soft_max(x, data):
        return jax.nn.logsumexp(sharp * (data @ x)) / sharp

    solver, start = smooth.regularized_newton(soft_max), np.full(4, 10.0)
    record = lambda params, state: (params, state.value, state.trials)
    out = core.run(solver, start, planes, tol=1e-12, record=record, max_steps=200)
    points, values, trials = jax.tree.map(
        lambda x: np.asarray(x)[: int(out.state.count)], out.history
    )
    gaps = (values - values.min())[trials == 0]  # the iterates
    assert out.state.error < 1e-10
    steepness = np.linalg.norm(planes, axis=1).max()
    lipschitz = sharp**2 * steepness**3  # of the Hessian of a soft maximum
    distance = np.linalg.norm(points - points[-1], axis=1).max()
    k = np.arange(1, gaps.size)
    assert np.all(gaps[1:] * k**2 <= lipschitz * distance**3)
    assert out.state.count < 80


def test_start_converges_from_which_plain_newton_diverges(x64):
    """On sqrt(1 + x^2) Newton's method maps x to -x^3."""
    fun = lambda x, data: jnp.sum(jnp.sqrt(1 + (x - data) ** 2))
    solver = smooth.regularized_newton(fun)
    out = core.run(solver, jnp.array([50.0, -30.0]), 0.5, tol=1e-9)
    assert bool(out.converged) and out.state.count < 40
    np.testing.assert_allclose(out.params, 0.5, atol=1e-8)


def test_convergence_is_superlinear(x64):
    record = lambda params, state: state.error
    solver, data = smooth.regularized_newton(logistic), (FEATURES, LABELS)
    out = core.run(solver, jnp.zeros(3), data, tol=1e-12, record=record)
    errors = np.asarray(out.history)[: int(out.state.count)]
    assert bool(out.converged)
    assert errors[-1] < 0.1 * errors[-2] < 0.01 * errors[-3]
    start = smooth.regularized_newton(logistic, 1e8)  # much too careful at first
    out = core.run(start, jnp.zeros(3), data, tol=1e-10)
    assert bool(out.converged) and out.state.count < 60


@pytest.mark.parametrize("constant", [0.0, -1.0, np.inf, np.nan])
def test_constant_that_is_not_positive_and_finite_is_refused(constant):
    with pytest.raises(ValueError, match="constant must be positive and finite"):
        smooth.regularized_newton(rosenbrock, constant)


@pytest.mark.parametrize(("factor", "centre"), [(1e30, 1.0), (1.0, 1e15)])
def test_bounded_quadratics_of_extreme_size_are_minimised(factor, centre):
    fun = lambda x, data: data[0] * jnp.sum((x - data[1]) ** 2)
    data = jnp.array(factor), jnp.array(centre)
    out = core.run(smooth.regularized_newton(fun), jnp.zeros(3), data)
    assert bool(out.converged)
    np.testing.assert_allclose(out.params, centre, rtol=1e-6)
