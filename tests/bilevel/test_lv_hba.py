"""LV-HBA: the card's iterates and figures, its sets, and what must not converge."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize

from jaxsolve import core, prox
from jaxsolve.bilevel import BilevelProblem, Levels, lv_hba
from jaxsolve.core import Status
from tests.bilevel import coupled, finite_sum
from tests.bilevel.quadratic import MU, draw, lower, lower_solution, upper
from tests.case import Form

N = 100
RADIUS = 0.3
SLOW = optax.sgd(2e-3)  # one object, one compiled loop


def growing(count):
    return (count.astype(float) + 1) ** 0.3


def floats(tree):
    return jax.tree.map(jnp.asarray, tree)


# ------------------------------------------------------------------------- the card's


def paper(data, steps, equality):
    """The card's update, with a box for the lower set, in NumPy."""
    target, (hessian, cross, linear) = data
    a, b = coupled.NORMAL
    low = -RADIUS if equality else 0.0
    g1, g2 = coupled.GAMMA
    alpha, eta, beta = 0.1, 0.2, 0.15
    g = lambda x, y: y @ hessian @ y / 2 - y @ (cross @ x + linear)
    g_x, g_y = lambda y: -cross.T @ y, lambda x, y: hessian @ y - cross @ x - linear
    c = lambda x, y: coupled.BOUND + a @ x + b @ y
    beyond = abs if equality else (lambda value: max(value, 0))
    box, box_y = lambda v: np.clip(v, low, RADIUS), lambda v: np.clip(v, -0.4, 0.4)

    def project(x, y):
        excess = c(x, y) if equality else max(c(x, y), 0)
        excess = excess / (a @ a + b @ b)
        return x - excess * a, y - excess * b

    x, y = np.zeros(len(a)), np.zeros(len(b))
    theta, lam, z = y, 0.0, 0.0
    for k in range(steps):
        rho = (k + 1) ** 0.3
        down = g_y(x, theta) + b * lam + (theta - y) / g1
        up = c(x, theta) - (lam - z) / g2
        moves = [theta - box_y(theta - down), lam - box(lam + up)]
        violations = beyond(c(x, theta)), beyond(c(x, y))
        theta, lam = box_y(theta - eta * down), box(lam + eta * up)
        dx = MU * x / rho + g_x(y) - g_x(theta) - a * lam
        dy = (y - target) / rho + g_y(x, y) - (y - theta) / g1
        dz = -(lam - z) / g2
        value = g(x, theta) + lam * c(x, theta) + np.sum((theta - y) ** 2) / (2 * g1)
        gap = g(x, y) - value + (lam - z) ** 2 / (2 * g2)
        near = project(x - dx, y - dy)
        moves += [x - near[0], y - near[1], z - box(z - dz)]
        error = max(*violations, *(rho * np.max(np.abs(move)) for move in moves))
        (x, y), z = project(x - alpha * dx, y - alpha * dy), box(z - beta * dz)
        yield x, y, theta, lam, z, gap, error


@pytest.mark.parametrize("equality", [False, True], ids=["inequality", "equality"])
def test_first_iterates_are_the_cards(x64, equality):
    data = draw(dx=2, dy=3, top=2.0)
    made = coupled.problem_of(Form(), equality=equality)
    parts = {name: getattr(made, name) for name in ("constraint", "joint_set")}
    problem = BilevelProblem(
        upper, lower, lower_set=prox.box(-0.4, 0.4), equality=equality, **parts
    )
    optimizer = optax.sgd(0.1)
    solver = lv_hba(
        problem, optimizer, 0.2, 0.15, growing, gamma=coupled.GAMMA, radius=RADIUS
    )
    params = Levels(jnp.zeros(2), jnp.zeros(3))
    state = solver.init(params, floats(data))
    bounds = set()
    for expected in paper(data, 30, equality):
        params, state = solver.update(params, state, floats(data))
        multipliers = state.multiplier["first"], state.anchor["first"]
        ours = *params, state.shadow, *multipliers, state.gap, state.error
        for value, wanted in zip(ours, expected, strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-10, atol=1e-12)
        bounds.add(float(np.max(np.abs(expected[2]))) == 0.4)
        bounds.add(expected[3] == RADIUS)
    assert bounds == {False, True}  # both sets were met


LLC = BilevelProblem(
    upper=lambda levels, _: (
        jnp.sum((levels.upper - levels.lower["second"]) ** 2) / 2
        + jnp.sum((levels.lower["first"] - 1) ** 2) / 2
    ),
    lower=lambda levels, _: (
        jnp.sum(levels.lower["first"] ** 2) / 2
        - levels.upper @ levels.lower["first"]
        + jnp.sum(levels.lower["second"])
    ),
    constraint=lambda levels, _: sum(map(jnp.sum, jax.tree.leaves(levels))),
    joint_set=prox.hyperplane(1.0, 0.0),
    equality=True,
)


def llc(solver, max_steps, tol=0.0):
    """A run from the card's start."""
    full = lambda value: {"first": jnp.full(N, value), "second": jnp.full(N, value)}
    start = LLC.joint_set(Levels(jnp.full(N, 2.0), full(2.0)))
    state = solver.init(start)._replace(shadow=full(1.0))
    return core.run(solver, start, state=state, max_steps=max_steps, tol=tol)


def errors(levels):
    """The relative errors of x and y."""
    part = lambda v, value: np.linalg.norm(v - value)
    y = np.hypot(part(levels.lower["first"], 0.7), part(levels.lower["second"], -0.4))
    return part(levels.upper, -0.3) / 3, y / np.sqrt(65)


@pytest.mark.parametrize(
    "steps, x, y", [(1000, 0.071, 0.21), (5000, 0.024, 0.0083), (20000, 0.015, 0.010)]
)
def test_llc_reaches_the_cards_errors(x64, steps, x, y):
    solver = lv_hba(LLC, SLOW, 3e-3, 2e-3, growing, gamma=(10.0, 1.0))
    out = llc(solver, steps)
    assert errors(out.params) == pytest.approx((x, y), rel=0.04)
    if steps > 1000:
        assert out.state.multiplier == pytest.approx(-1, abs=2e-3)


def test_constant_penalty_ends_at_a_biased_point(x64):
    solver = lv_hba(LLC, optax.sgd(5e-3), 5e-3, 5e-3, 1.0)
    out = llc(solver, 20000, tol=1e-8)
    assert out.status == Status.CONVERGED
    assert errors(out.params)[0] == pytest.approx(0.3636, abs=1e-4)
    assert out.state.multiplier == pytest.approx(-1.0909, abs=1e-4)
    assert out.state.gap > 1  # and the gap gives it away


def test_objective_of_llsc_decreases():
    rng = np.random.default_rng(0)
    a, h, b = rng.normal(size=(3, 5, N)).astype(np.float32) / np.sqrt(N)
    c, d = rng.normal(size=(2, N)).astype(np.float32)
    rows = np.block([[h, a], [b, np.zeros_like(b)]])
    problem = BilevelProblem(
        upper=lambda levels, _: (
            jnp.sin(c @ levels.upper + d @ levels.lower)
            + jnp.log(jnp.sum((levels.upper + levels.lower) ** 2) + 1)
        ),
        lower=lambda levels, _: jnp.sum((levels.upper - levels.lower) ** 2) / 2,
        constraint=lambda levels, _: a @ levels.lower + h @ levels.upper,
        joint_set=prox.affine_set(rows, np.zeros(10, np.float32)),
        equality=True,
    )
    solver = lv_hba(problem, optax.sgd(0.02), 0.1, 1e-3, growing)
    start = problem.joint_set(Levels(jnp.ones(N), jnp.ones(N)))
    out = core.run(
        solver,
        start,
        max_steps=1000,
        tol=0.0,
        record=lambda params, _: problem.upper(params, None),
    )
    values = np.asarray(out.history)
    assert np.all(np.diff(values[::100]) < 0)
    assert values[-1] < problem.upper(start, None) - 1
    np.testing.assert_allclose(rows @ np.concatenate(out.params), 0, atol=1e-4)


# ------------------------------------------------------------------ what it is used for

DATA = draw(dx=2, dy=3, top=2.0)
START = Levels(np.zeros(2), np.array([1.5, 0.0, 0.0]))
PRECISE = dict(max_steps=4000, tol=1e-9)


def coupled_solver(penalty):
    problem = coupled.problem_of(Form(), equality=False)
    return lv_hba(problem, optax.sgd(0.3), 0.4, 0.5, penalty, gamma=coupled.GAMMA)


def test_large_penalty_comes_near_the_bilevel_solution(x64):
    out = core.run(coupled_solver(100.0), START, DATA, max_steps=100000, tol=1e-5)
    assert out.status == Status.CONVERGED
    expected = coupled.constrained_solution(DATA)
    for ours, wanted in zip(out.params, expected, strict=True):
        np.testing.assert_allclose(ours, wanted, atol=0.02)
    assert 0 < out.state.gap < 1e-4


def test_without_a_constraint_it_solves_the_smooth_problem(x64):
    data = draw(dx=2, dy=3, top=2.0)
    problem = BilevelProblem(upper, lower, upper_set=prox.box(-0.1, 0.1))
    solver = lv_hba(problem, optax.sgd(0.3), 0.4, 0.4, 300.0)
    params = Levels(jnp.ones(2), jnp.zeros(3))
    out = core.run(solver, params, floats(data), max_steps=20000, tol=1e-6)
    assert out.status == Status.CONVERGED
    value = lambda x: float(upper(Levels(x, lower_solution(x, data)), data[0]))
    best = minimize(value, np.zeros(2), bounds=[(-0.1, 0.1)] * 2, tol=1e-12)
    np.testing.assert_allclose(out.params.upper, best.x, atol=5e-3)
    assert np.max(np.abs(best.x)) == pytest.approx(0.1)


def test_every_iterate_is_feasible():
    data = floats(jax.tree.map(np.float32, draw(dx=2, dy=3, top=2.0)))
    solver = lv_hba(
        coupled.problem_of(Form(), equality=False), optax.sgd(0.1), 0.2, 0.2, growing
    )
    start = Levels(jnp.ones(2), jnp.full(3, -5.0))  # not feasible itself
    for params, state in core.iterate(solver, start, data):
        assert coupled.constraint(params, None)["first"] <= 1e-6
        if state.count == 20:
            break


def rising(count):
    """A schedule that ends at 1.001."""
    return jnp.minimum(count.astype(float) / 200, 1.0) + 1e-3


def test_a_schedule_that_ends_is_differentiated_at_its_end(x64):
    way = jax.tree.map(np.cos, draw(dx=2, dy=3, top=2.0))
    move = lambda step: jax.tree.map(lambda v, w: v + step * w, DATA, way)
    solver = coupled_solver(rising)
    solve = lambda step: core.run(solver, START, move(step), **PRECISE).params
    values, slope = jax.jvp(solve, (0.0,), (1.0,))
    ahead, behind = (coupled.solution(move(h), 1.001) for h in (1e-5, -1e-5))
    for ours, a, b in zip(slope, ahead, behind, strict=True):
        np.testing.assert_allclose(ours, (a - b) / 2e-5, rtol=1e-4, atol=1e-6)


def test_penalty_may_be_differentiated(x64):
    solve = lambda rho: core.run(coupled_solver(rho), START, DATA, **PRECISE).params
    slope = jax.jacfwd(solve)(1.0)
    ahead, behind = (coupled.solution(DATA, 1 + h) for h in (1e-5, -1e-5))
    for ours, a, b in zip(slope, ahead, behind, strict=True):
        np.testing.assert_allclose(ours, (a - b) / 2e-5, rtol=1e-4, atol=1e-6)


def test_minibatches_come_near_the_solution():
    data = jax.tree.map(np.float32, finite_sum.draw(n=256, dx=2, dy=3, top=2.0))
    problem = coupled.problem_of(Form(), equality=False)
    problem = BilevelProblem(
        finite_sum.upper,
        finite_sum.lower,
        constraint=problem.constraint,
        joint_set=problem.joint_set,
    )
    solver = lv_hba(problem, optax.sgd(0.02), 0.1, 0.02, 1.0, gamma=coupled.GAMMA)
    solver = core.minibatch(solver, (64, 32), key=jax.random.key(0))
    start = Levels(jnp.zeros(2), jnp.array([1.5, 0.0, 0.0]))
    out = core.run(solver, start, floats(data), max_steps=4000)
    assert out.status == Status.MAX_STEPS  # the noise does not end
    mean = jax.tree.map(np.float64, finite_sum.mean(data))
    expected = coupled.solution(mean, 1.0)
    assert np.linalg.norm(out.params.upper - expected.upper) < 0.1


# ------------------------------------------------------------------------- bad input


def test_infeasible_constraint_does_not_end_as_converged():
    quadratic = lambda levels, _: jnp.sum(levels.upper**2 + levels.lower**2)
    problem = BilevelProblem(
        quadratic,
        quadratic,
        constraint=lambda levels, _: 1 + jnp.sum(levels.lower**2),
        joint_set=lambda levels: levels,
    )
    solver = lv_hba(problem, optax.sgd(0.1), 0.1, 0.1, 1.0, radius=2.0)
    out = core.run(solver, Levels(jnp.ones(2), jnp.ones(2)), max_steps=3000)
    assert out.status == Status.MAX_STEPS
    assert out.state.multiplier == 2.0 and out.state.error >= 1
    assert bool(core.all_finite(out.params))


@pytest.mark.parametrize("name", ["upper_set", "lower_set"])
def test_a_joint_set_that_forgets_a_set_does_not_end_as_converged(name):
    far = lambda levels, _: (levels.upper - 2) ** 2 + (levels.lower - 2) ** 2
    problem = BilevelProblem(
        far,
        far,
        constraint=lambda levels, _: levels.upper + levels.lower - 10,
        joint_set=prox.halfspace(Levels(1.0, 1.0), 10.0),
    )
    run = lambda problem: core.run(
        lv_hba(problem, optax.sgd(0.05), 0.1, 0.1, 1.0),
        Levels(0.0, 0.0),
        max_steps=2000,
        tol=1e-4,
    )
    assert run(problem).status == Status.CONVERGED
    out = run(dataclasses.replace(problem, **{name: prox.box(0.0, 1.0)}))
    assert out.status == Status.MAX_STEPS and out.state.error > 0.5


def test_contradictory_equations_do_not_end_as_converged():
    rows = np.array([[1.0, 1.0], [1.0, 1.0]], np.float32)
    offset = np.array([0.0, 1.0], np.float32)
    problem = BilevelProblem(
        lambda levels, _: levels.upper**2,
        lambda levels, _: levels.lower**2,
        constraint=lambda levels, _: rows @ jnp.stack(levels) - offset,
        joint_set=prox.affine_set(rows, offset),
        equality=True,
    )
    solver = lv_hba(problem, optax.sgd(0.1), 0.1, 0.1, 1.0, radius=2.0)
    out = core.run(solver, Levels(0.0, 0.0), max_steps=2000)
    assert out.status == Status.MAX_STEPS
    assert out.state.error >= 0.4


def test_nan_data_end_the_run_and_spare_the_other_lanes():
    data = floats(jax.tree.map(np.float32, draw(dx=2, dy=3, top=2.0)))
    problem = coupled.problem_of(Form(), equality=False)
    solver = lv_hba(problem, optax.sgd(0.1), 0.2, 0.2, growing)
    start = Levels(jnp.zeros(2), jnp.array([1.5, 0.0, 0.0]))
    solve = lambda data: core.run(solver, start, data, max_steps=50)
    scale = jnp.array([1.0, jnp.nan, 0.5])
    lanes = jax.vmap(lambda s: solve(jax.tree.map(lambda v: s * v, data)))(scale)
    np.testing.assert_array_equal(
        lanes.status, [Status.MAX_STEPS, Status.DIVERGED, Status.MAX_STEPS]
    )
    assert bool(core.all_finite(lanes.params))
    np.testing.assert_array_equal(lanes.params.upper[1], start.upper)
    np.testing.assert_allclose(lanes.params.upper[0], solve(data).params.upper, 1e-5)


def test_static_mistakes_are_errors():
    fun = lambda levels, _: levels.upper * levels.lower
    plain = BilevelProblem(fun, fun)
    numbers = optax.sgd(0.1), 0.1, 0.1, 1.0
    with pytest.raises(ValueError, match="joint_set"):
        lv_hba(BilevelProblem(fun, fun, constraint=fun), *numbers)
    with pytest.raises(ValueError, match="gamma must be one real number"):
        lv_hba(plain, *numbers, gamma=(1.0, 0.0))
    with pytest.raises(ValueError, match="gamma must be a pair"):
        lv_hba(plain, *numbers, gamma=1.0)
    with pytest.raises(ValueError, match="radius must be one real number"):
        lv_hba(plain, *numbers, radius=-1.0)
    with pytest.raises(ValueError, match="penalty must be one real number"):
        lv_hba(plain, optax.sgd(0.1), 0.1, 0.1, 0.0)
    with pytest.raises(ValueError, match="stepsize"):
        lv_hba(plain, optax.sgd(0.1), -0.1, 0.1, 1.0)
    with pytest.raises(ValueError, match="BilevelProblem"):
        lv_hba(fun, *numbers)
    with pytest.raises(ValueError, match="optax"):
        lv_hba(plain, 0.1, 0.1, 0.1, 1.0)
    with pytest.raises(ValueError, match="Levels"):
        core.run(lv_hba(plain, *numbers), (1.0, 1.0))
    with pytest.raises(ValueError, match="empty"):
        data = jnp.zeros((0, 3)), None
        core.run(lv_hba(plain, *numbers), Levels(1.0, 1.0), data)
