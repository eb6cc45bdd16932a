"""L-BFGS: a plain transcription, its memory, known answers, and hard objectives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxsolve import core, linesearch, smooth
from jaxsolve.core import Status
from tests.linesearch.transcription import search_wolfe


def rosenbrock(x, scale):
    return jnp.sum(scale * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def quadratic(x, data):
    matrix, center = data
    return (x - center) @ (matrix @ (x - center)) / 2


def wavy(x, data):
    """Not convex: a search by decrease alone meets pairs of negative curvature."""
    return jnp.sum(jnp.cos(2 * x) + data * x**2) + jnp.sum(x) ** 2 / 20


def two_loops(pairs, g):
    """Nocedal and Wright, Algorithm 7.4, on pairs from the oldest to the newest."""
    q, alphas = g.copy(), []
    for s, y in reversed(pairs):
        alphas.append(s @ q / (s @ y))
        q -= alphas[-1] * y
    if pairs:
        s, y = pairs[-1]
        q *= (s @ y) / (y @ y)
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        q += s * (alpha - y @ q / (s @ y))
    return q


def dense(pairs, n):
    """The BFGS matrix of the same pairs, from gamma I."""
    s, y = pairs[-1]
    h = np.eye(n) * (s @ y) / (y @ y)
    for s, y in pairs:
        v = np.eye(n) - np.outer(y, s) / (s @ y)
        h = v.T @ h @ v + np.outer(s, s) / (s @ y)
    return h


def plain_lbfgs(fun, grad, x, steps, memory):
    """Accepted iterates of L-BFGS with the transcribed search, one a search."""
    pairs, iterates, calls = [], [x], 1
    f, g = fun(x), grad(x)
    for _ in range(steps):
        direction = -two_loops(pairs, g)
        stepsize = 1.0 if pairs else min(1.0, 1 / np.linalg.norm(g))
        phi = lambda t, x=x, d=direction: (fun(x + t * d), grad(x + t * d) @ d)
        tried = search_wolfe(phi, f, g @ direction, stepsize)
        calls += len(tried)
        new_x = x + tried[-1] * direction
        new_g = grad(new_x)
        pairs = [*pairs, (new_x - x, new_g - g)][-memory:]
        x, f, g = new_x, fun(new_x), new_g
        iterates.append(x)
    return np.stack(iterates), calls


def accepted(solver, params, data, steps):
    """The states after each accepted step, the first of them at the start."""
    state, states = solver.init(params, data), []
    while len(states) < steps:
        params, state = solver.update(params, state, data)
        if state.search.trials == 0:
            states.append(jax.device_get(state))
    return states


@pytest.mark.parametrize("memory", [1, 3, 10])
def test_first_iterates_are_those_of_a_plain_transcription(memory, x64):
    start = np.array([-1.2, 1.0, 0.5, 2.0])
    states = accepted(smooth.lbfgs(rosenbrock, memory), start, 100.0, 13)
    # SciPy's Rosenbrock is the sum of the same terms.
    iterates, calls = plain_lbfgs(
        scipy.optimize.rosen, scipy.optimize.rosen_der, start, 12, memory
    )
    points = np.stack([state.point for state in states])
    np.testing.assert_allclose(points, iterates, rtol=1e-6, atol=1e-8)
    assert states[-1].count == calls  # one oracle call an update


@pytest.mark.parametrize("memory", [1, 2, 5])
@pytest.mark.parametrize(
    "fun, data, start",
    [
        (rosenbrock, 30.0, [-1.2, 1.0, 0.5, 2.0]),
        (wavy, 0.1, [1.43, -4.83, -0.02, 2.63]),
    ],
    ids=["kept", "rejected"],
)
def test_direction_is_that_of_two_loops_and_of_the_dense_matrix(
    memory, fun, data, start, x64
):
    search = linesearch.backtracking()  # does not see to the curvature of pairs
    solver = smooth.lbfgs(fun, memory, search=search)
    wrapped = left_out = 0
    before = None
    for state in accepted(solver, jnp.array(start), data, 14):
        kept = state.memory
        s, y, rho = jax.device_get(kept.ordered())
        filled = rho > 0
        pairs = list(zip(s[filled], y[filled], strict=True))
        np.testing.assert_allclose(rho[filled], 1 / np.sum(s * y, axis=1)[filled])
        if pairs:
            expected = two_loops(pairs, state.grad)
            np.testing.assert_allclose(
                dense(pairs, 4) @ state.grad, expected, rtol=1e-6
            )
            np.testing.assert_allclose(-state.direction, expected, rtol=1e-7, atol=1e-9)
            last_s, last_y = pairs[-1]
            np.testing.assert_allclose(kept.gamma, last_s @ last_y / (last_y @ last_y))
        if before is not None:
            step = state.point - before.point
            change = state.grad - before.grad
            if kept.count > before.memory.count:  # the newest pair stands last
                np.testing.assert_allclose(s[-1], step, atol=1e-12)
                np.testing.assert_allclose(y[-1], change, atol=1e-12)
            else:
                assert step @ change <= 1e-15 * np.linalg.norm(step) + 1e-300
                left_out += 1
        wrapped += kept.count > memory
        before = state
    assert wrapped > 0
    assert (left_out > 0) is (fun is wavy)


def test_ordered_memory_is_what_was_seen_oldest_first(x64):
    states = accepted(smooth.lbfgs(rosenbrock, 4), jnp.zeros(3), 10.0, 8)
    for i, state in enumerate(states):
        s, y, rho = jax.device_get(state.memory.ordered())
        seen = states[max(0, i - 4) : i + 1]
        steps = [b.point - a.point for a, b in zip(seen, seen[1:], strict=False)]
        changes = [b.grad - a.grad for a, b in zip(seen, seen[1:], strict=False)]
        k = len(steps)
        assert s.shape == y.shape == (4, 3) and np.count_nonzero(rho) == k
        if k:
            np.testing.assert_allclose(s[4 - k :], steps, rtol=1e-10, atol=1e-15)
            np.testing.assert_allclose(y[4 - k :], changes, rtol=1e-10, atol=1e-15)
        np.testing.assert_array_equal(rho[: 4 - k], 0)
        np.testing.assert_array_equal(s[: 4 - k], 0)


@pytest.mark.parametrize("n", [2, 10])
def test_rosenbrock_is_solved(n, x64):
    start = np.tile([-1.2, 1.0], n // 2)
    out = core.run(smooth.lbfgs(rosenbrock), start, 100.0, tol=1e-9)
    assert bool(out.converged) and out.state.error <= 1e-9
    np.testing.assert_allclose(out.params, np.ones(n), rtol=1e-8)
    error = np.max(np.abs(scipy.optimize.rosen_der(np.asarray(out.params))))
    np.testing.assert_allclose(error, out.state.error, rtol=1e-3, atol=1e-11)


@pytest.mark.parametrize("condition", [1e2, 1e6])
def test_ill_conditioned_quadratic_is_solved(condition, x64):
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    matrix = q @ np.diag(np.geomspace(1, condition, 12)) @ q.T
    matrix = (matrix + matrix.T) / 2
    center = rng.normal(size=12)
    solver = smooth.lbfgs(quadratic)
    out = core.run(solver, jnp.zeros(12), (matrix, center), tol=1e-6, max_steps=3000)
    assert bool(out.converged)
    np.testing.assert_allclose(out.params, center, atol=2e-6)


@pytest.mark.parametrize("name, n", [("rosen", 6), ("wavy", 5), ("logistic", 4)])
def test_final_value_is_that_of_scipy_or_better(name, n, x64):
    rng = np.random.default_rng(1)
    features, labels = rng.normal(size=(30, 4)), np.sign(rng.normal(size=30))
    fun, data = {
        "rosen": (rosenbrock, 100.0),
        "wavy": (wavy, 1.5),
        "logistic": (
            lambda x, d: jnp.sum(jnp.logaddexp(0.0, -d[1] * (d[0] @ x))) + x @ x,
            (features, labels),
        ),
    }[name]
    start = rng.normal(size=n)
    call = jax.jit(jax.value_and_grad(fun))
    reference = scipy.optimize.minimize(
        lambda x: tuple(map(np.asarray, call(x, data))),
        start,
        jac=True,
        method="L-BFGS-B",
        options=dict(gtol=1e-8, ftol=0, maxiter=1000),
    )
    out = core.run(smooth.lbfgs(fun), start, data, tol=1e-7)
    assert bool(out.converged)
    assert out.state.value <= reference.fun + 1e-10 * (1 + abs(reference.fun))
    assert out.state.count <= 2 * reference.nfev + 10


def test_single_precision_reaches_its_floor_on_a_large_constant():
    shifted = lambda x, c: jnp.sum((x - c) ** 2 * jnp.array([1.0, 10.0, 100.0])) + 1e4
    center = jnp.array([1.0, -2.0, 0.5])
    out = core.run(smooth.lbfgs(shifted), jnp.zeros(3), center)
    assert int(out.status) in (Status.CONVERGED, Status.STALLED)
    # Values tell steps of sqrt(eps f) ~ 0.03 apart; gradients go on from there.
    np.testing.assert_allclose(out.params, center, atol=1e-3)


def test_error_does_not_change_with_a_constant():
    fun = lambda x, data: jnp.sum((x - data["c"]) ** 2) + data["plus"]
    solver = smooth.lbfgs(fun)
    errors = []
    for plus in (0.0, 64.0):
        data = {"c": jnp.ones(2), "plus": jnp.float32(plus)}
        params = jnp.zeros(2)
        _, state = solver.update(params, solver.init(params, data), data)
        errors.append(float(state.error))
    assert errors == [2.0, 2.0]


@functools.cache
def unbounded():
    return {
        "linear": smooth.lbfgs(lambda x, d: jnp.sum(x) * d),
        "cubic": smooth.lbfgs(lambda x, d: -jnp.sum(x**3) * d),
        "quadratic": smooth.lbfgs(lambda x, d: -jnp.sum(x**2) * d),
        "searched": smooth.gradient_descent(lambda x, d: -jnp.sum(x**3) * d),
    }


@pytest.mark.parametrize("name", unbounded())
def test_unbounded_objective_ends_as_diverged_with_finite_params(name):
    out = core.run(unbounded()[name], jnp.full(3, 0.1), jnp.float32(1))
    assert out.status == Status.DIVERGED, out
    assert bool(jnp.all(jnp.isfinite(out.params)))
    assert out.state.count < 500


@pytest.mark.parametrize("factory", [smooth.lbfgs, smooth.gradient_descent])
def test_objective_that_is_infinite_outside_a_region_steps_back(factory):
    # The barrier's minimum is at 0.5 +- ..., the start close to a wall.
    def barrier(x, c):
        inside = jnp.all((x > 0) & (x < 1))
        safe = jnp.where(inside, x, 0.5)
        value = c @ safe - 0.1 * jnp.sum(jnp.log(safe) + jnp.log(1 - safe))
        return jnp.where(inside, value, jnp.inf)

    c = jnp.array([1.0, -3.0])
    out = core.run(factory(barrier), jnp.array([0.99, 0.01]), c)
    assert bool(out.converged), out
    # c = 0.1 (1/x - 1/(1-x)): a quadratic equation.
    b = 1 + 0.2 / np.asarray(c)
    expected = (b - np.sign(c) * np.sqrt(b**2 - 4 * 0.1 / np.asarray(c))) / 2
    np.testing.assert_allclose(out.params, expected, atol=1e-3)


def test_nan_gradient_at_the_start_ends_as_diverged_at_the_start():
    solver = smooth.lbfgs(lambda x, d: jnp.sum(jnp.sqrt(x)))
    out = core.run(solver, jnp.array([-1.0, 2.0]))
    assert out.status == Status.DIVERGED
    np.testing.assert_array_equal(out.params, [-1.0, 2.0])
    assert not bool(jnp.isfinite(out.state.error))


def test_start_at_the_solution_takes_one_update():
    out = core.run(smooth.lbfgs(rosenbrock), jnp.ones(4), 100.0)
    assert bool(out.converged) and out.state.count == 1


def test_bfloat16_params_converge_to_the_rounded_solution():
    fun = lambda x, c: jnp.sum((x["a"].astype(jnp.float32) - c) ** 2) + x["b"] ** 2
    center = jnp.array([0.1, 7.0])
    params = {"a": jnp.zeros(2, jnp.bfloat16), "b": jnp.ones(())}
    out = core.run(smooth.lbfgs(fun), params, center)
    assert (
        out.params["a"].dtype == jnp.bfloat16 and out.params["b"].dtype == jnp.float32
    )
    gap = out.params["a"].astype(jnp.float32) - center
    np.testing.assert_allclose(gap, 0, atol=0.02)
    np.testing.assert_allclose(out.params["b"], 0, atol=1e-3)


@pytest.mark.parametrize("memory", [0, -1, 2.0, None, "10"])
def test_memory_that_is_no_positive_integer_is_refused(memory):
    with pytest.raises(ValueError, match="memory must be a positive integer"):
        smooth.lbfgs(rosenbrock, memory)


@pytest.mark.parametrize(
    "value",
    [jnp.ones(2), jnp.ones((1,)), 1, 1j, None, "x", (jnp.ones(()), {"aux": 1})],
)
@pytest.mark.parametrize("factory", [smooth.lbfgs, smooth.gradient_descent])
def test_objective_that_is_no_real_scalar_is_refused(factory, value):
    solver = factory(lambda x, data: value)
    with pytest.raises(ValueError, match="real scalar"):
        core.run(solver, jnp.zeros(2))
