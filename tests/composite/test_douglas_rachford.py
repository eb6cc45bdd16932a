"""Douglas-Rachford and Davis-Yin: the papers' iterates, known answers, the rate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import composite, core, prox
from jaxsolve.core import Status

RNG = np.random.default_rng(0)
A = RNG.normal(size=(30, 10))
B = RNG.normal(size=30)
L = np.linalg.norm(A, 2) ** 2
LAM, ETA = 2.0, 0.1
INVERSE = np.linalg.inv(np.eye(10) + ETA * A.T @ A)


def soft(v, threshold):
    return np.sign(v) * np.maximum(np.abs(v) - threshold, 0)


def least_squares(x, data):
    matrix, target = data
    return 0.5 * jnp.sum((matrix @ x - target) ** 2)


@prox.of_data
def near(data):
    matrix, target = data

    def solve(x, t):
        system = jnp.eye(10, dtype=x.dtype) + t * matrix.T @ matrix
        return jnp.linalg.solve(system, x + t * matrix.T @ target)

    return solve


def data64():
    return jnp.asarray(A), jnp.asarray(B)


def papers(steps, relaxation, smooth):
    """Eckstein and Bertsekas (1992), (10); Davis and Yin (2017), Algorithm 1."""
    eta = 1 / L if smooth else ETA
    z, shadows = np.ones(10), []
    for _ in range(steps):
        x = soft(z, LAM * eta)
        if smooth:  # f is the box
            y = np.clip(2 * x - z - eta * A.T @ (A @ x - B), -0.2, 0.2)
        else:
            y = INVERSE @ (2 * x - z + eta * A.T @ B)
        z = z + relaxation * (y - x)
        shadows.append((x, np.max(np.abs(y - x)) / eta))
    return shadows


@pytest.mark.parametrize("relaxation", [1.0, 1.6])
@pytest.mark.parametrize("smooth", [False, True], ids=["two", "three"])
def test_first_iterates_are_the_papers(x64, relaxation, smooth):
    if smooth:
        solver = composite.davis_yin(
            least_squares,
            prox.box(-0.2, 0.2),
            prox.l1(LAM),
            1 / L,
            relaxation=relaxation,
        )
    else:
        solver = composite.douglas_rachford(
            near, prox.l1(LAM), ETA, relaxation=relaxation
        )
    params = jnp.ones(10)
    state = solver.init(params, data64())
    for x, error in papers(10, relaxation, smooth):
        params, state = solver.update(params, state, data64())
        np.testing.assert_allclose(params, x, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(state.error, error, rtol=1e-8)


def test_the_lasso_is_that_of_proximal_gradient_with_the_same_zeros(x64):
    ours = composite.douglas_rachford(near, prox.l1(LAM), ETA)
    other = composite.proximal_gradient(least_squares, prox.l1(LAM))
    out = core.run(ours, jnp.zeros(10), data64(), tol=1e-10)
    expected = core.run(other, jnp.zeros(10), data64(), tol=1e-10)
    assert bool(out.converged)
    np.testing.assert_allclose(out.params, expected.params, atol=1e-9)
    np.testing.assert_array_equal(out.params == 0, expected.params == 0)


def test_basis_pursuit_recovers_a_sparse_signal(x64):
    matrix = np.random.default_rng(3).normal(size=(20, 40))
    signal = np.zeros(40)
    signal[[3, 17, 30]] = [1.0, -2.0, 0.5]
    plane = prox.affine_set(jnp.asarray(matrix), jnp.asarray(matrix @ signal))
    solver = composite.douglas_rachford(plane, prox.l1(1.0), 0.3)
    out = core.run(solver, jnp.zeros(40), tol=1e-9)
    assert bool(out.converged)
    np.testing.assert_allclose(out.params, signal, atol=1e-7)


def test_consensus_of_copies_is_the_median():
    # The sum of |x - a_i|: each copy knows one term, prox_g makes them agree.
    points = jnp.array([5.0, -1.0, 2.0, 40.0, 0.0])
    apart = prox.of_data(lambda data: prox.translate(prox.l1(1.0), data))
    agree = lambda x, t: jnp.broadcast_to(jnp.mean(x), x.shape)
    solver = composite.douglas_rachford(apart, agree, 3.0)
    out = core.run(solver, jnp.zeros(5), points)
    assert bool(out.converged)
    np.testing.assert_allclose(out.params, 2.0, atol=1e-3)


def test_the_fixed_point_residual_falls_as_fast_as_is_proved(x64):
    # He and Yuan (2015): |z+ - z|^2 <= |z0 - z*|^2 / (k + 1), and monotonically.
    solver = composite.douglas_rachford(near, prox.l1(LAM), ETA)
    out = core.run(solver, jnp.ones(10), data64(), tol=1e-13)
    z, record = out.state.governing, lambda params, state: state.governing
    path = core.run(
        solver, jnp.ones(10), data64(), tol=0.0, max_steps=60, record=record
    ).history
    path = np.concatenate([np.ones((1, 10)), path])
    moves = np.sum(np.diff(path, axis=0) ** 2, 1)
    bound = np.sum((1 - np.asarray(z)) ** 2) / np.arange(1, 61)
    assert np.all(moves <= bound) and np.all(np.diff(moves) <= 1e-15)


def test_sets_without_a_common_point_do_not_converge():
    solver = composite.douglas_rachford(prox.box(0.0, 1.0), prox.box(2.0, 3.0))
    out = core.run(solver, jnp.zeros(2), max_steps=200)
    assert out.status == Status.MAX_STEPS
    np.testing.assert_allclose(out.params, 2.0)  # nearest to the other set


def test_unrolled_derivatives_agree_with_central_differences(x64):
    solver = composite.douglas_rachford(near, prox.l1(LAM), ETA)

    options = dict(max_steps=9, tol=0.0, derivative=core.unrolled())

    def loss(scale):
        matrix, target = data64()
        out = core.run(solver, jnp.zeros(10), (matrix, scale * target), **options)
        return jnp.sum(jnp.cos(out.params))

    loss = jax.jit(loss)
    slope = (loss(1 + 1e-5) - loss(1 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(loss)(1.0), slope, rtol=1e-6)


def test_where_others_move_params_the_governing_point_goes_along(x64):
    solver = composite.douglas_rachford(near, prox.l1(LAM), ETA)
    state = solver.init(jnp.ones(10), data64())
    params, state = solver.update(jnp.ones(10), state, data64())
    z, away = np.asarray(state.governing), np.linspace(-1, 1, 10)
    moved, _ = solver.update(params + away, state, data64())
    np.testing.assert_allclose(moved, soft(z + away, LAM * ETA), rtol=1e-10)


@pytest.mark.parametrize("poison", ["prox", "objective"])
def test_what_is_not_finite_ends_the_run_at_the_last_iterate(poison):
    bad = lambda x, t: jnp.where(jnp.any(x > 0.7), jnp.nan, x)
    rising = lambda x, data: -jnp.sum(x)
    spoiled = lambda x, data: rising(x, data) + jnp.where(x[0] > 0.7, jnp.inf, 0)
    if poison == "prox":
        solver = composite.davis_yin(rising, prox.identity(), bad, 0.2)
    else:
        solver = composite.davis_yin(spoiled, prox.identity(), prox.identity(), 0.2)
    out = core.run(solver, jnp.zeros(2))
    assert out.status == Status.DIVERGED
    np.testing.assert_allclose(out.params, 0.6, atol=1e-6)


def test_an_objective_that_is_unbounded_below_diverges():
    solver = composite.davis_yin(
        lambda x, d: -jnp.sum(x**4), prox.identity(), prox.identity(), 1.0
    )
    out = core.run(solver, jnp.ones(2))
    assert out.status == Status.DIVERGED and bool(core.all_finite(out.params))


@pytest.mark.parametrize("stepsize", [0.0, -1.0, jnp.inf, lambda count: 1.0])
def test_a_stepsize_that_is_no_positive_number_is_refused(stepsize):
    with pytest.raises(ValueError, match="stepsize must be one"):
        composite.douglas_rachford(near, prox.l1(1.0), stepsize)


@pytest.mark.parametrize("relaxation", [0.0, 2.0])
def test_a_relaxation_out_of_range_is_refused(relaxation):
    with pytest.raises(ValueError, match="relaxation must lie"):
        composite.davis_yin(
            least_squares, near, prox.l1(1.0), 0.1, relaxation=relaxation
        )


def test_a_prox_of_another_form_is_refused():
    solver = composite.douglas_rachford(lambda x, t: x[:1], prox.l1(1.0))
    with pytest.raises(ValueError, match="prox must return a tree"):
        core.run(solver, jnp.zeros(2))


def test_equal_arguments_give_one_solver():
    make = lambda: composite.douglas_rachford(near, prox.l1(1.0), 0.5)
    assert make() is make()
    assert isinstance(make(), jaxsolve.Solver)


def test_a_stepsize_lost_in_rounding_is_no_convergence():
    apart = composite.douglas_rachford(prox.box(-1e6, 1e6), prox.l1(1.0), 1e-4)
    smooth = lambda x, data: 0.5 * jnp.sum((x - 3) ** 2)
    three = composite.davis_yin(smooth, prox.l1(0.1), prox.non_negative(), 1e-9)
    for solver, start in ((apart, 1e4), (three, 1.0)):
        out = core.run(solver, jnp.full(3, start))
        assert out.status == Status.STALLED and out.state.error > 1
