"""L-BFGS-B: the compact matrix on the free variables, the box, SciPy beside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxsolve import Status, core, smooth
from jaxsolve.smooth import _lbfgsb
from tests.linesearch.transcription import search_wolfe

RNG = np.random.default_rng(0)


def rosenbrock(x, scale):
    return jnp.sum(scale * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def start(n):
    return np.where(np.arange(n) % 2 == 0, -1.2, 1.0)


def dense_hessian(pairs, theta, n):
    """The BFGS matrix of the pairs (s, y), oldest first, from theta I."""
    b = theta * np.eye(n)
    for s, y in pairs:
        b = b - np.outer(b @ s, s @ b) / (s @ b @ s) + np.outer(y, y) / (s @ y)
    return b


@pytest.mark.parametrize("kept", [0, 2, 3, 5])  # of 3: empty, filling, full, wrapped
def test_subspace_step_is_that_of_the_dense_matrix_on_the_free_variables(kept, x64):
    n, memory = 6, 3
    hessian = np.diag(np.arange(1.0, n + 1)) + 0.3
    pairs = [(s, hessian @ s) for s in RNG.normal(size=(kept, n))]
    ring = np.zeros((2, memory, n))
    for i, (s, y) in enumerate(pairs):
        ring[:, i % memory] = np.stack([s, y]) / np.sqrt(s @ y)
    theta = pairs[-1][1] @ pairs[-1][1] / (pairs[-1][0] @ pairs[-1][1]) if kept else 1.0
    g, free = RNG.normal(size=n), np.array([1, 1, 0, 1, 0, 1], bool)
    b = dense_hessian(pairs[-memory:], theta, n)
    expected = np.zeros(n)
    expected[free] = np.linalg.solve(b[np.ix_(free, free)], g[free])
    step = _lbfgsb._subspace_newton(
        *map(jnp.asarray, (g, free, np.int32(kept), ring, theta))
    )
    np.testing.assert_allclose(step, expected, rtol=1e-9, atol=1e-12)


def plain_lbfgsb(fun, grad, x, lower, upper, steps, memory):
    """The accepted iterates, with dense algebra and a plain line search."""
    clip = lambda v: np.clip(v, lower, upper)
    x, pairs, iterates = clip(x), [], []
    f, g = fun(x), grad(x)
    for _ in range(steps):
        cauchy = clip(x - g) - x
        theta = (
            pairs[-1][1] @ pairs[-1][1] / (pairs[-1][0] @ pairs[-1][1]) if pairs else 1
        )
        scaled = x - g / theta
        near = min(1e-3, np.max(np.abs(clip(scaled) - x)))
        held = ((x <= lower + near) & (g > 0)) | ((x >= upper - near) & (g < 0))
        held &= (scaled <= lower) | (scaled >= upper)
        free = ~held & (lower < upper)
        b = dense_hessian(pairs[-memory:], theta, x.size)
        d = -g / theta
        d[free] = -np.linalg.solve(b[np.ix_(free, free)], g[free])
        p = clip(x + d) - x
        fresh = not pairs or not g @ p < -2e-16 * np.linalg.norm(g) * np.linalg.norm(p)
        p = cauchy if fresh else p
        with np.errstate(divide="ignore", invalid="ignore"):
            room = np.where(p > 0, (upper - x) / p, (lower - x) / p)
        limit = max(1.0, np.min(room[p != 0], initial=np.inf))
        boxed = np.all(np.isfinite(upper - lower))
        t = min(1.0, 1 / np.linalg.norm(p)) if fresh and not boxed else 1.0
        phi = lambda t, x=x, p=p: (fun(clip(x + t * p)), grad(clip(x + t * p)) @ p)
        tried = search_wolfe(phi, f, g @ p, min(t, limit), max_stepsize=limit)
        new = clip(x + tried[-1] * p)
        s, y = new - x, grad(new) - g
        if s @ y > 2e-16 * np.linalg.norm(s) * np.linalg.norm(y):
            pairs.append((s, y))
        x, f, g = new, fun(new), grad(new)
        iterates.append(x)
    return np.stack(iterates)


@pytest.mark.parametrize("bounds", [(-1.1, 0.6), (-np.inf, 0.9), (-5.0, 5.0)])
def test_first_iterates_are_those_of_a_plain_transcription(bounds, x64):
    scale, n, memory = 10.0, 4, 3
    fun = lambda x: float(rosenbrock(jnp.asarray(x), scale))
    grad = lambda x: np.array(jax.grad(rosenbrock)(jnp.asarray(x), scale))
    lower, upper = np.full(n, bounds[0]), np.full(n, bounds[1])
    expected = plain_lbfgsb(fun, grad, start(n), lower, upper, 9, memory)
    solver = smooth.lbfgsb(rosenbrock, bounds, memory)
    seen = [np.clip(start(n), lower, upper)]
    for x, _ in core.iterate(solver, jnp.asarray(start(n)), scale, max_steps=40):
        if np.any(np.asarray(x) != seen[-1]):
            seen.append(np.asarray(x))
    np.testing.assert_allclose(seen[1:10], expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("n", [2, 12])
@pytest.mark.parametrize("bounds", [(-2.0, 0.5), (1.1, 3.0), (0.0, None)])
def test_minimum_is_that_of_scipy(n, bounds, x64):
    both = jax.jit(jax.value_and_grad(rosenbrock))
    reference = optimize.minimize(
        lambda x: tuple(np.asarray(v, float) for v in both(jnp.asarray(x), 100.0)),
        start(n),
        jac=True,
        method="L-BFGS-B",
        bounds=[bounds] * n,
        options={"ftol": 1e-16, "gtol": 1e-9, "maxiter": 2000},
    )
    solution = core.run(smooth.lbfgsb(rosenbrock, bounds), jnp.asarray(start(n)), 100.0)
    assert solution.converged
    np.testing.assert_allclose(solution.params, reference.x, atol=1e-5)
    assert solution.state.value <= reference.fun + 1e-9 * (1 + abs(reference.fun))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_objective_is_never_evaluated_outside_the_box(dtype, x64):
    low, high = dtype(0.1), dtype(0.7)  # neither is exact in binary
    seen = []

    def fun(x, scale):
        jax.debug.callback(lambda x: seen.append(np.array(x)), x)
        return rosenbrock(x, scale)

    solver = smooth.lbfgsb(fun, (low, high))
    core.run(solver, jnp.asarray(5 * start(5), dtype), dtype(100), max_steps=60)
    jax.effects_barrier()
    points = np.stack(seen)
    assert len(points) > 5
    assert points.min() >= low and points.max() <= high


def test_jaxopt_492_trivial_objective_between_bounds_is_no_nan():
    solver = smooth.lbfgsb(lambda x, _: jnp.sum(x), (-1.0, 1.0))
    out = core.run(solver, jnp.array([1.0, -1.0, 0.0]))
    assert out.converged
    np.testing.assert_array_equal(out.params, -np.ones(3))


def test_jaxopt_590_undefined_outside_the_box_is_no_nan(x64):
    def fun(x, c):  # NaN for negative x, the minimum at the very bound
        return jnp.sum(jnp.sqrt(x) + c * x**2)

    out = core.run(smooth.lbfgsb(fun, (1e-6, 1.0)), jnp.full(3, 0.5), 1.0)
    assert out.converged
    np.testing.assert_allclose(out.params, 1e-6)


def test_jaxopt_439_step_is_capped_at_the_bounds():
    solver = smooth.lbfgsb(lambda x, _: -jnp.sum(x**3), (0.0, 10.0))
    out = core.run(solver, jnp.full(2, 0.1))
    assert out.converged
    np.testing.assert_array_equal(out.params, [10.0, 10.0])


def test_fixed_and_free_variables_mix_and_fixed_ones_stay(x64):
    lower = jnp.array([0.5, -jnp.inf, 0.0, -1.0])
    upper = jnp.array([0.5, jnp.inf, jnp.inf, 0.3])
    center = jnp.array([2.0, -7.0, -1.0, 9.0])
    fun = lambda x, c: jnp.sum((x - c) ** 2) + x[0] * x[1]
    out = core.run(smooth.lbfgsb(fun, (lower, upper)), jnp.zeros(4), center)
    assert out.converged
    np.testing.assert_allclose(out.params, [0.5, -7.25, 0.0, 0.3], atol=1e-8)


def test_degenerate_multipliers_converge(x64):
    """Half of the active bounds carry no force: the unconstrained minimum touches."""
    hessian = np.diag(np.arange(1.0, 9)) + 0.2
    center = np.where(np.arange(8) % 2 == 0, 0.0, 1.0)
    fun = lambda x, h: (x - center) @ h @ (x - center) / 2
    out = core.run(smooth.lbfgsb(fun, (0.0, 0.5)), jnp.ones(8), jnp.asarray(hessian))
    best = optimize.minimize(
        lambda x: (x - center) @ hessian @ (x - center) / 2,
        np.ones(8) / 3,
        jac=lambda x: hessian @ (x - center),
        bounds=[(0, 0.5)] * 8,
        method="trust-constr",
        options={"gtol": 1e-10, "xtol": 1e-14},
    )
    assert out.converged
    np.testing.assert_allclose(out.state.value, best.fun, rtol=1e-6)


def test_solution_is_differentiable_in_data_and_bounds(x64):
    hessian = jnp.asarray(np.diag(np.arange(1.0, 6)) + 0.3)
    fun = lambda x, d: x @ hessian @ x / 2 - d["b"] @ x
    solver = smooth.lbfgsb(fun, lambda d: (d["low"], d["high"]))
    data = {"b": jnp.array([3.0, -3.0, 0.2, 1.0, 9.0]), "low": -0.3, "high": 0.5}

    def total(data):
        return jnp.sum(core.run(solver, jnp.zeros(5), data, tol=1e-12).params ** 2)

    found = jax.grad(total)(data)
    for name, step in (("low", 1e-6), ("high", 1e-6)):
        ends = [total({**data, name: data[name] + s}) for s in (step, -step)]
        np.testing.assert_allclose(found[name], (ends[0] - ends[1]) / 2e-6, rtol=1e-6)
    ends = [total({**data, "b": data["b"].at[3].add(s)}) for s in (1e-6, -1e-6)]
    np.testing.assert_allclose(found["b"][3], (ends[0] - ends[1]) / 2e-6, atol=1e-8)


def test_unbounded_directions_end_as_diverged_with_finite_params():
    out = core.run(smooth.lbfgsb(lambda x, _: jnp.sum(x), (None, 1.0)), jnp.zeros(3))
    assert out.status == Status.DIVERGED
    assert np.all(np.isfinite(out.params))


def test_lane_with_crossed_bounds_leaves_the_others_alone():
    fun = lambda x, data: jnp.sum((x - 3.0) ** 2)
    solver = smooth.lbfgsb(fun, lambda data: (0.0, data))
    solve = lambda high: core.run(solver, jnp.zeros(2), high)
    high = jnp.array([1.0, -1.0, 5.0])
    out = jax.vmap(solve)(high)
    expected = [Status.CONVERGED, Status.PRIMAL_INFEASIBLE, Status.CONVERGED]
    assert list(out.status) == expected
    for lane in (0, 2):
        np.testing.assert_array_equal(out.params[lane], solve(high[lane]).params)


@pytest.mark.parametrize("memory", [0, 2.5])
def test_memory_that_is_no_positive_integer_is_refused(memory):
    with pytest.raises(ValueError, match="memory"):
        smooth.lbfgsb(rosenbrock, (0.0, 1.0), memory)
