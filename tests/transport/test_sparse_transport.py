"""Sparse transport: the card's steps in NumPy, brute force, and known solutions."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from jaxsolve import core, prox, smooth, transport
from jaxsolve.core import Status
from jaxsolve.transport import _sparse_transport
from tests.transport.cases_sparse import COLUMNS, COST, ROWS, TURN

RNG = np.random.default_rng(0)
LARGE = RNG.uniform(size=(12, 10))
descent = functools.partial(smooth.gradient_descent, stepsize=0.05)


def card(alpha, cost, a, b, gamma, k):
    """Steps 1 to 4 of the semi-dual: its value, gradient and plan."""
    plan, value = np.zeros(cost.shape), alpha @ a
    for j in range(cost.shape[1]):
        x = alpha - cost[:, j]
        chosen = np.argsort(-x, kind="stable")[:k]
        u = np.sort(x[chosen] / gamma)[::-1]
        theta = (np.cumsum(u) - b[j]) / np.arange(1, k + 1)
        last = np.max(np.nonzero(u > theta)[0])
        plan[chosen, j] = np.maximum(x[chosen] / gamma - theta[last], 0)
        value -= x @ plan[:, j] - gamma / 2 * np.sum(plan[:, j] ** 2)
    return value, a - plan.sum(1), plan


def card_dual(alpha, beta, cost, a, b, gamma, k):
    x = alpha[:, None] + beta - cost
    kept = np.argsort(np.argsort(-x, 0, kind="stable"), 0) < k
    plan = np.where(kept, np.maximum(x, 0), 0) / gamma
    value = alpha @ a + beta @ b - gamma / 2 * np.sum(plan**2)
    return value, (a - plan.sum(1), b - plan.sum(0)), plan


def best_by_force(s, b, gamma, k):
    """The conjugate of one column: the best of all supports."""
    best = -np.inf
    for size in range(1, k + 1):
        for chosen in map(list, itertools.combinations(range(s.size), size)):
            t = s[chosen] / gamma
            t = t - (t.sum() - b) / size
            if np.all(t >= 0):
                best = max(best, s[chosen] @ t - gamma / 2 * t @ t)
    return best


def sparse(cost=COST, a=ROWS, b=COLUMNS, k=2, gamma=0.5):
    a, b = (None if w is None else jnp.asarray(w) for w in (a, b))
    return transport.SparseTransportProblem(jnp.asarray(cost), a, b, k=k, gamma=gamma)


@functools.partial(jax.jit, static_argnames=("dual", "derivative", "max_steps"))
def solve(problem, dual=False, derivative=None, max_steps=600):
    """All that is asked of a solution."""
    zero = jnp.zeros_like(problem.a)
    start = (zero, jnp.zeros_like(problem.b)) if dual else zero
    solver = transport.sparse_transport(smooth.lbfgs, dual=dual)
    tol = 1e-9 if zero.dtype == jnp.float64 else None
    out = core.run(
        solver, start, problem, tol=tol, max_steps=max_steps, derivative=derivative
    )
    of = lambda name: getattr(problem, name)(out.params)
    names = ("plan", "dual_value", "gap", "row_error", "column_error")
    return out, {name: of(name) for name in names}


@pytest.mark.parametrize("k", [1, 2, 3])
def test_value_gradient_and_plan_are_the_cards(x64, k):
    problem = sparse(k=k)
    arrays = COST, ROWS, COLUMNS, 0.5, k
    semi = jax.jit(jax.value_and_grad(problem.semi_dual))
    both = jax.jit(jax.value_and_grad(problem.dual, argnums=(0, 1)))
    plan = jax.jit(lambda params: problem.plan(params))
    close = functools.partial(np.testing.assert_allclose, atol=1e-12)
    for alpha in RNG.normal(size=(3, 3)):
        value, gradient, expected = card(alpha, *arrays)
        jax.tree.map(close, semi(alpha), (value, gradient))
        close(plan(alpha), expected)
        beta = RNG.uniform(size=4)
        value, gradient, expected = card_dual(alpha, beta, *arrays)
        jax.tree.map(close, both(alpha, beta), (value, gradient))
        close(plan((alpha, beta)), expected)


def test_value_of_the_semi_dual_is_that_of_the_best_support(x64):
    cost, b = RNG.uniform(size=(6, 3)), np.array([0.2, 0.5, 0.3])
    for k in (2, 3, 6):
        problem = sparse(cost, None, b, k, 0.4)
        alpha = RNG.normal(size=6)
        best = [
            best_by_force(alpha - c, w, 0.4, k) for c, w in zip(cost.T, b, strict=True)
        ]
        expected = alpha.mean() - np.sum(best)
        np.testing.assert_allclose(problem.semi_dual(jnp.asarray(alpha)), expected)


def test_first_iterates_and_errors_are_those_of_gradient_ascent():
    problem = sparse()
    solver = transport.sparse_transport(descent)
    params = jnp.zeros(3)
    state, alpha = solver.init(params, problem), np.zeros(3)
    for _ in range(4):
        params, state = solver.update(params, state, problem)
        alpha = alpha + 0.05 * card(alpha, COST, ROWS, COLUMNS, 0.5, 2)[1]
        np.testing.assert_allclose(params, alpha, atol=1e-6)
        gap = card(alpha, COST, ROWS, COLUMNS, 0.5, 2)[1]
        np.testing.assert_allclose(state.error, np.abs(gap).sum(), rtol=1e-5)


def test_error_of_lbfgs_is_the_row_error_at_params():
    problem = sparse(a=2 * ROWS, b=2 * COLUMNS, k=3)
    solver = transport.sparse_transport(smooth.lbfgs)
    params = jnp.zeros(3)
    state = solver.init(params, problem)
    assert state.error == jnp.inf
    for _ in range(5):
        params, state = solver.update(params, state, problem)
        _, gap, _ = card(np.asarray(params), COST, 2 * ROWS, 2 * COLUMNS, 0.5, 3)
        np.testing.assert_allclose(state.error, np.abs(gap).sum() / 2, rtol=1e-4)


def test_with_room_enough_the_plan_is_that_of_quadratic_transport(x64):
    """Checks 1 and 3 of the card."""
    ends = {k: solve(sparse(LARGE, None, None, k, 1.0)) for k in (2, 4, 12)}
    quadratic = prox.transport(jnp.full(12, 1 / 12), jnp.full(10, 0.1))(-LARGE)
    widest = int(np.max(np.sum(np.asarray(quadratic) > 1e-9, 0)))
    assert widest <= 4
    for k in (4, 12):
        out, found = ends[k]
        assert bool(out.converged) and found["row_error"] < 1e-6
        np.testing.assert_allclose(found["plan"], quadratic, atol=1e-8)
        np.testing.assert_allclose(found["gap"], 0, atol=1e-8)
        np.testing.assert_allclose(found["dual_value"], ends[12][1]["dual_value"])
    values = [float(ends[k][1]["dual_value"]) for k in (2, 4, 12)]
    assert np.all(np.diff(values) <= 1e-9)
    assert 2 * ends[4][0].state.count < ends[2][0].state.count
    assert ends[2][1]["row_error"] > 0.01  # entries tie: honest, and not converged
    assert not bool(ends[2][0].converged)
    assert ends[2][1]["row_error"] == pytest.approx(float(ends[2][0].error))
    np.testing.assert_array_less(np.sum(ends[2][1]["plan"] > 0, 0), 3)


def test_one_row_a_column_is_linear_transport_but_for_a_constant(x64):
    """Check 2 of the card: an upper bound that a nonsmooth ascent nearly reaches."""
    cost = LARGE.T
    rows, columns = np.kron(np.eye(10), np.ones(12)), np.kron(np.ones(10), np.eye(12))
    sums = np.concatenate([np.full(10, 0.1), np.full(12, 1 / 12)])
    linear = linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=sums).fun
    bound = linear + 0.5 / 12
    value = solve(sparse(cost, None, None, 1, 1.0))[1]["dual_value"]
    assert bound - 0.01 <= value <= bound + 1e-9


def test_dual_and_semi_dual_have_one_maximum_and_one_plan(x64):
    (one, first), (two, second) = (solve(sparse(), dual=d) for d in (False, True))
    assert bool(one.converged) and bool(two.converged)
    np.testing.assert_allclose(first["dual_value"], second["dual_value"], atol=1e-9)
    np.testing.assert_allclose(first["plan"], second["plan"], atol=1e-7)
    np.testing.assert_allclose(second["column_error"], 0, atol=1e-8)
    assert first["column_error"] < 1e-15


def test_value_is_a_lower_bound_of_every_plan_that_is_sparse_enough(x64):
    problem = sparse()
    _, found = solve(problem)
    bound = problem.primal_value(found["plan"])
    values = jax.vmap(problem.semi_dual)(RNG.normal(size=(50, 3)))
    assert np.all(np.asarray(values) <= bound)


HOLES = np.where(np.arange(12).reshape(3, 4) == 9, np.inf, COST)


def test_derivatives_of_the_value_are_danskins(x64):
    """With a row and a column that have no weight, and a forbidden pair."""
    a, b = np.array([0.6, 0.0, 0.4]), np.array([0.4, 0.3, 0.0, 0.3])

    @jax.jit
    def value(cost, a, b, gamma):
        problem = sparse(cost, a, b, 2, gamma)
        return solve(problem, derivative=core.envelope())[1]["dual_value"]

    slopes = jax.grad(value, (0, 1, 2, 3))(HOLES, a, b, 0.5)
    assert all(np.all(np.isfinite(slope)) for slope in slopes)
    finite = np.where(np.isinf(HOLES), 0, 1)
    turns = (
        (TURN * finite, 0 * a, 0 * b, 0.0),
        (0 * TURN, np.array([1.0, 0, -1.0]), 0 * b, 0.0),
        (0 * TURN, 0 * a, np.array([0.0, 1.0, 0, -1.0]), 0.0),
        (0 * TURN, 0 * a, 0 * b, 1.0),
        # One-sided: what has no weight gets some.
        (0 * TURN, np.array([-1.0, 1.0, 0]), 0 * b, 0.0),
        (0 * TURN, 0 * a, np.array([0.0, -1.0, 1.0, 0]), 0.0),
    )
    for i, turn in enumerate(turns):
        at = lambda h, turn=turn: value(
            *(x + h * d for x, d in zip((HOLES, a, b, 0.5), turn, strict=True))
        )
        h = 1e-4
        slope = (4 * at(h) - at(2 * h) - 3 * at(0)) / (2 * h)
        expected = sum(np.sum(s * d) for s, d in zip(slopes, turn, strict=True))
        np.testing.assert_allclose(expected, slope, atol=1e-5, err_msg=str(i))


@jax.jit
@jax.value_and_grad
def loss_of_plan(t, cost, turn, weights):
    a, b = np.array([0.3, 0.2, 0.3, 0.2]), np.array([0.25, 0.25, 0.35, 0.15])
    _, found = solve(sparse(cost + t * turn, a, b, 4, 3.0))
    return jnp.sum(weights * found["plan"])


@pytest.mark.parametrize("apart", [0.0, 5.0])
def test_derivative_of_the_plan_is_right_also_where_it_falls_into_parts(x64, apart):
    far = apart * np.kron(np.array([[0, 1], [1, 0]]), np.ones((2, 2)))
    cost = RNG.uniform(size=(4, 4)) + far
    turn, weights = RNG.normal(size=(2, 4, 4))
    loss = lambda t: loss_of_plan(t, cost, turn, weights)
    expected = (loss(1e-3)[0] - loss(-1e-3)[0]) / 2e-3
    assert abs(expected) > 1e-2
    np.testing.assert_allclose(loss(0.0)[1], expected, rtol=1e-5)


def test_large_singular_systems_are_solved_as_small_ones(x64, monkeypatch):
    factor = RNG.normal(size=(6, 4))
    matrix = jnp.asarray(factor @ factor.T)
    reachable = matrix @ jnp.arange(6.0)
    times = lambda x: matrix @ x
    expected = np.linalg.pinv(matrix) @ reachable
    small = _sparse_transport.least_squares_solve(times, reachable)
    np.testing.assert_allclose(small, expected, rtol=1e-6)
    monkeypatch.setattr(_sparse_transport, "DENSE_LIMIT", 0)
    large = _sparse_transport.least_squares_solve(times, reachable)
    np.testing.assert_allclose(large, expected, rtol=1e-6)
    beyond = reachable + np.linalg.svd(factor)[0][:, -1]
    assert np.all(np.isnan(_sparse_transport.least_squares_solve(times, beyond)))


def test_entries_that_tie_leave_a_row_error_that_is_told_and_can_be_repaired():
    problem = sparse(jnp.zeros((3, 4)), None, None, 2, 0.5)
    out, found = solve(problem)
    assert out.status != Status.CONVERGED and out.error > 0.1
    np.testing.assert_allclose(out.error, found["row_error"], rtol=1e-5)
    np.testing.assert_allclose(found["plan"].sum(0), 0.25, rtol=1e-6)
    repair = jax.jit(lambda params, slack: problem.repaired(params, slack))
    plan = repair(out.params, 0.1)
    np.testing.assert_allclose(plan.sum(1), 1 / 3, rtol=1e-5)
    np.testing.assert_allclose(plan.sum(0), 0.25, rtol=1e-5)
    assert np.all(np.asarray(plan) >= 0)
    # Without slack: the entries of the plan, all of them in two rows of the three.
    assert np.all(np.isnan(repair(jnp.array([0.0, 0.0, -1.0]), 0.0)))
    best = 0.25 * (2 * 0.25**2 + 2 * (1 / 12) ** 2 + 2 * (1 / 6) ** 2)
    assert found["dual_value"] <= best + 1e-6  # the value of a sparse plan


def test_problems_without_a_solution_end_with_a_status_and_spare_their_neighbours():
    nan, lost = COST.copy(), COST.copy()
    nan[0, 0], lost[1] = np.nan, np.inf
    rows = np.stack([ROWS, ROWS, 2 * ROWS, ROWS, [0.9, -0.2, 0.3], [0.7, 0, 0.3]])
    costs = np.stack([COST, nan, COST, lost, COST, lost])
    out, _ = jax.vmap(lambda cost, a: solve(sparse(cost, a)))(
        jnp.asarray(costs, jnp.float32), jnp.asarray(rows, jnp.float32)
    )
    assert out.status.tolist() == [
        Status.CONVERGED,
        Status.DIVERGED,
        Status.PRIMAL_INFEASIBLE,
        Status.PRIMAL_INFEASIBLE,
        Status.DIVERGED,
        Status.CONVERGED,  # the row that may go nowhere has no weight
    ]
    assert np.all(np.isfinite(out.params))
    alone, _ = solve(sparse())
    np.testing.assert_allclose(out.params[0], alone.params, atol=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(k=0), "k is an integer from 1 to 3"),
        (dict(k=4), "k is an integer from 1 to 3"),
        (dict(k=True), "k is an integer"),
        (dict(k=2.0), "k is an integer"),
        (dict(gamma=0.0), "gamma is one number, positive"),
        (dict(gamma=np.ones(2)), "gamma is one number"),
        (dict(a=-ROWS), "none negative"),
        (dict(a=2 * ROWS), "masses differ"),
        (dict(a=ROWS[:2]), "one weight for each point"),
        (dict(cost=np.where(COST == 0, np.nan, COST)), "costs must be numbers"),
        (dict(cost=COST.T, a=COLUMNS, b=ROWS, k=1), "let k be at least 2"),
    ],
)
def test_problems_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sparse(**options)


def test_what_is_no_method_problem_or_potential_is_refused():
    with pytest.raises(ValueError, match="factory of solvers"):
        transport.sparse_transport(lambda fun: fun)
    solver, pair = (
        transport.sparse_transport(smooth.lbfgs, dual=d) for d in (False, True)
    )
    assert solver is transport.sparse_transport(smooth.lbfgs)
    with pytest.raises(ValueError, match="SparseTransportProblem, got"):
        core.run(solver, jnp.zeros(3), COST)
    with pytest.raises(ValueError, match="got 2 numbers"):
        core.run(solver, jnp.zeros(2), sparse())
    with pytest.raises(ValueError, match="the pair of potentials"):
        core.run(pair, jnp.zeros(3), sparse())
    with pytest.raises(ValueError, match="potentials are alpha"):
        sparse().plan(jnp.zeros(2))
