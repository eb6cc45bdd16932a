"""Two-timescale descent: its iterates, its bias, sets, batches and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import bilevel, core, prox
from jaxsolve.bilevel import BilevelProblem, Levels
from jaxsolve.core import Status
from tests.bilevel import finite_sum, quadratic

DATA = quadratic.draw()
ZERO = Levels(np.zeros(5), np.zeros(10))


def solver_of(gamma=0.05, stepsize=0.1, eta=None, problem=quadratic.PROBLEM, **options):
    return bilevel.alternating_descent(
        problem, optax.sgd(gamma), stepsize, eta, **options
    )


def slope_at(x, data=DATA):
    """The norm of the gradient of F, in closed form."""
    return np.linalg.norm(quadratic.hypergradient(np.asarray(x), data))


def decay(first, power):
    """A schedule of steps, for NumPy and for JAX."""
    return lambda k: first * (1.0 + jnp.asarray(k, float)) ** -power


def plain(steps, gamma, beta, eta, terms):
    """Both steps on problem Q, in NumPy."""
    target, (hessian, cross, linear) = DATA
    x, y, iterates = np.zeros(5), np.zeros(10), []
    for k in range(steps):
        d_y = hessian @ y - cross @ x - linear
        shrink = np.eye(10) - eta * hessian
        powers = [np.linalg.matrix_power(shrink, q) for q in range(terms)]
        w = eta * sum(powers, np.zeros((10, 10))) @ (y - target)
        d_x = quadratic.MU * x + cross.T @ w
        x, y = x - gamma(k) * d_x, y - beta(k) * d_y
        iterates.append((x, y, max(np.abs(d_x).max(), np.abs(d_y).max())))
    return iterates


@pytest.mark.parametrize("terms", [0, 1, 2, 7])
def test_first_iterates_are_those_of_the_formulas(x64, terms):
    gamma, beta = decay(0.05, 0.6), decay(0.15, 0.4)
    solver = solver_of(gamma, beta, 0.12, terms=terms)
    ours = core.iterate(solver, ZERO, DATA, max_steps=6, tol=0.0)
    for step, expected in zip(ours, plain(6, gamma, beta, 0.12, terms), strict=True):
        params, state = step
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
        close(params.upper, expected[0])
        close(params.lower, expected[1])
        close(state.error, expected[2])


@pytest.mark.parametrize(
    ("terms", "expected"), [(10, 9.6e-2), (20, 1.54e-2), (40, 1.34e-3), (80, 1.94e-5)]
)
def test_truncated_series_misses_what_the_card_says(x64, terms, expected):
    x = np.ones(5)
    levels = Levels(x, quadratic.lower_solution(x, DATA))
    found = solver_of(terms=terms).residual(levels, DATA)
    off = np.linalg.norm(found.upper - quadratic.hypergradient(x, DATA))
    np.testing.assert_allclose(off, expected, rtol=5e-3)
    np.testing.assert_allclose(found.lower, 0, atol=1e-13)


def test_bias_decays_with_the_terms(x64):
    ends = []
    for terms in (5, 10, 20, 40, 80):
        out = core.run(solver_of(0.03, terms=terms), ZERO, DATA, max_steps=20_000)
        assert out.converged
        ends.append(slope_at(out.params.upper))
    assert np.all(np.diff(ends) < 0) and ends[-1] < 2 * 0.9**75 * ends[0]


def test_without_terms_it_follows_the_direct_gradient_alone(x64):
    start = Levels(np.ones(5), np.zeros(10))
    out = core.run(solver_of(terms=0), start, DATA, max_steps=20_000, tol=1e-12)
    np.testing.assert_allclose(out.params.upper, 0, atol=1e-10)  # of the ridge


def test_equal_time_scales_may_diverge():
    out = core.run(solver_of(1.0, 0.1, terms=40), ZERO, DATA, max_steps=10_000)
    assert out.status == Status.DIVERGED
    assert bool(core.all_finite(out.params))


def test_upper_set_is_kept(x64):
    inside = prox.box(-0.2, 0.2)
    problem = BilevelProblem(quadratic.upper, quadratic.lower, upper_set=inside)
    solver = solver_of(0.03, problem=problem, terms=150)
    record = lambda params, _: jnp.max(jnp.abs(params.upper))
    out = core.run(solver, ZERO, DATA, max_steps=4000, tol=1e-7, record=record)
    assert out.converged and np.nanmax(out.history) <= 0.2
    x = np.asarray(out.params.upper)
    step = np.clip(x - quadratic.hypergradient(x, DATA), -0.2, 0.2)
    np.testing.assert_allclose(step, x, atol=1e-5)


def test_minibatches_with_the_steps_of_the_paper(x64):
    data = finite_sum.draw()
    solver = bilevel.alternating_descent(
        finite_sum.PROBLEM, optax.sgd(decay(0.3, 0.6)), decay(0.3, 0.4), 0.2, terms=20
    )
    solver = core.minibatch(solver, (16, 8), key=jax.random.key(0))
    out = core.run(solver, ZERO, data, max_steps=4000, tol=0.0)
    mean = finite_sum.mean(data)
    assert slope_at(out.params.upper, mean) < 0.1 * slope_at(ZERO.upper, mean)


def test_levels_may_be_trees(x64):
    join = lambda part: jnp.concatenate([part["a"], part["b"]])
    inside = lambda fun: lambda levels, data: fun(Levels(*map(join, levels)), data)
    problem = BilevelProblem(inside(quadratic.upper), inside(quadratic.lower))
    cut = lambda part: {"a": part[:2], "b": part[2:]}
    options = dict(max_steps=50, tol=0.0)
    out = core.run(solver_of(problem=problem), Levels(*map(cut, ZERO)), DATA, **options)
    expected = core.run(solver_of(), ZERO, DATA, **options).params
    np.testing.assert_allclose(core.ravel(out.params)[0], core.ravel(expected)[0])


def test_lane_that_is_not_finite_leaves_the_others_alone():
    target, numbers = DATA
    targets = np.stack([target, np.full_like(target, np.nan)])
    solver = solver_of()
    run = lambda target: core.run(solver, ZERO, (target, numbers), max_steps=50)
    out = jax.vmap(run)(targets)
    assert list(out.status) == [Status.MAX_STEPS, Status.DIVERGED]
    np.testing.assert_allclose(
        out.params.upper[0], run(target).params.upper, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_array_equal(out.params.upper[1], 0)


def test_what_it_cannot_honour_is_refused():
    box = prox.box(0.0, 1.0)
    bounded = BilevelProblem(quadratic.upper, quadratic.lower, lower_set=box)
    with pytest.raises(ValueError, match="takes no lower_set"):
        solver_of(problem=bounded)
    with pytest.raises(ValueError, match="adjoint_stepsize"):
        solver_of(stepsize=decay(0.1, 0.4))
    with pytest.raises(ValueError, match="adjoint_stepsize"):
        solver_of(eta=decay(0.1, 0.4))
    for terms in (-1, 2.0):
        with pytest.raises(ValueError, match="terms"):
            solver_of(terms=terms)
    for stepsize in (0.0, np.nan):
        with pytest.raises(ValueError, match="stepsize"):
            solver_of(stepsize=stepsize)
    with pytest.raises(ValueError, match="empty"):
        core.run(solver_of(), ZERO, (np.zeros((0, 10)), DATA[1]))
