"""Mirror descent: the papers' iterates, known answers, the rates, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from jaxsolve import composite, core, prox
from jaxsolve.core import Status

RNG = np.random.default_rng(0)
A = RNG.uniform(size=(12, 8))
B = A @ RNG.dirichlet(np.ones(8)) + 0.01 * RNG.normal(size=12)
L1 = np.max(np.sum(A**2, axis=0))  # of the gradient, from the 1-norm to the sup-norm.
UNIFORM = np.full(8, 1 / 8)


def squares(x, data):
    matrix, target = data
    return 0.5 * jnp.sum((matrix @ x - target) ** 2)


def poisson(x, data):
    """Smooth relative to the barrier, with constant sum(b), and no other way."""
    matrix, counts = data
    rates = matrix @ x
    return jnp.sum(rates - counts * jnp.log(rates))


def data32():
    return jnp.asarray(A, jnp.float32), jnp.asarray(B, jnp.float32)


def papers(steps, eta, accelerate, restart=True):
    """Hanzely, Richtarik and Xiao (2021), Algorithm 1 with exponent 2, in NumPy.

    With theta = 1 throughout it is Beck and Teboulle (2003), (5.1).
    """
    x = z = UNIFORM
    theta, fresh = 1.0, True
    for _ in range(steps):
        if accelerate and not fresh:
            # The positive root of (1 - t) / t^2 = 1 / theta^2.
            theta = np.roots([1 / theta**2, 1, -1]).max()
        y = (1 - theta) * x + theta * z
        grad = A.T @ (A @ y - B)
        new_z = z * np.exp(-eta / theta * grad)
        new_z /= new_z.sum()
        new_x = (1 - theta) * x + theta * new_z
        uphill = restart and grad @ (new_x - x) > 0
        fresh = uphill or not accelerate
        theta = 1.0 if fresh else theta
        x, z = new_x, new_x if fresh else new_z
        yield x


@pytest.mark.parametrize("accelerate", [False, True])
def test_first_iterates_are_the_papers(x64, accelerate):
    eta = 1 / L1
    solver = composite.mirror_descent(
        squares, prox.entropy_map(), eta, accelerate=accelerate
    )
    params = jnp.asarray(UNIFORM)
    state = solver.init(params)
    for expected in papers(25, eta, accelerate):
        params, state = solver.update(params, state, (A, B))
        np.testing.assert_allclose(params, expected, rtol=1e-11)


@pytest.mark.parametrize("accelerate", [False, True])
def test_every_accepted_step_passes_the_test_of_relative_smoothness(x64, accelerate):
    solver = composite.mirror_descent(
        poisson, prox.entropy_map(None), accelerate=accelerate
    )
    data = (A, np.abs(B))
    value_and_grad = jax.jit(jax.value_and_grad(poisson))
    params = jnp.asarray(UNIFORM)
    state, accepted = solver.init(params), 0
    for _ in range(60):
        s, weight = state.search, state.weight
        new_params, state = solver.update(params, state, data)
        if bool(s.testing) and np.any(new_params != params):
            eta = s.stepsize.eta
            theta = 2 / (1 + np.sqrt(1 + 4 * weight / eta))
            value, grad = value_and_grad(s.anchor, data)
            # z, by the definition of the multiplicative step that led to z+.
            z = s.ahead * np.exp(eta / theta * s.grad)
            far = prox.entropy_map(None).divergence(s.ahead, z)
            model = value + grad @ (new_params - s.anchor) + theta**2 / eta * far
            assert value_and_grad(new_params, data)[0] <= model * (1 + 1e-12)
            accepted += 1
        params = new_params
    assert accepted > 15


def test_stepsize_of_relative_smoothness_gives_the_proved_rate(x64):
    data = (A, np.abs(B))
    eta = 1 / np.sum(data[1])
    mirror = prox.log_barrier_map(None)
    solver = composite.mirror_descent(poisson, mirror, eta)
    start = jnp.asarray(UNIFORM)
    best = core.run(solver, start, data, max_steps=20_000, tol=1e-9)
    least = poisson(best.params, data)
    far = mirror.divergence(best.params, start)
    value = lambda x, state: poisson(x, data)
    out = core.run(solver, start, data, max_steps=200, tol=0.0, record=value)
    gaps = np.asarray(out.history) - least
    assert np.all(np.diff(gaps) <= 1e-12)
    assert np.all(gaps <= float(far / eta) / np.arange(1, 201))


@pytest.mark.parametrize("accelerate", [False, True])
@pytest.mark.parametrize("name", ["entropy", "tsallis", "euclidean"])
def test_every_map_finds_the_minimum_on_the_simplex(x64, name, accelerate):
    mirror = {
        "entropy": prox.entropy_map(),
        "tsallis": prox.tsallis_map(0.5),
        "euclidean": prox.euclidean_map(prox.simplex()),
    }[name]
    solver = composite.mirror_descent(squares, mirror, accelerate=accelerate)
    out = core.run(solver, jnp.asarray(UNIFORM), (A, B), max_steps=5000, tol=1e-6)
    assert out.converged
    # Independent: non-negative least squares with a heavy row for the sum.
    heavy = np.vstack([A, 1e5 * np.ones(8)])
    expected = optimize.nnls(heavy, np.append(B, 1e5))[0]
    np.testing.assert_allclose(out.params, expected, atol=1e-4)


def test_acceleration_pays(x64):
    counts = {}
    for accelerate in (False, True):
        solver = composite.mirror_descent(
            squares, prox.entropy_map(), 1 / L1, accelerate=accelerate
        )
        out = core.run(solver, jnp.asarray(UNIFORM), (A, B), max_steps=20_000, tol=1e-5)
        assert out.converged
        counts[accelerate] = int(out.state.count)
    assert counts[True] < counts[False] / 3


def test_rows_of_the_dual_of_a_support_vector_machine():
    """One simplex for each sample; the duality gap is the judge."""
    features = RNG.normal(size=(12, 4)).astype(np.float32)
    labels = np.eye(3, dtype=np.float32)[RNG.integers(3, size=12)]
    data = (features, labels, np.float32(2.0))
    fun = composite.svm_dual_model()
    solver = composite.mirror_descent(fun, prox.entropy_map(axis=1), accelerate=True)
    out = core.run(solver, jnp.full((12, 3), 1 / 3), data, max_steps=3000)
    weights = features.T @ (labels - np.asarray(out.params)) / 2.0
    scores = features @ weights
    right = np.sum(scores * labels, axis=1)
    hinge = np.max(scores + 1 - labels, axis=1) - right
    primal = np.sum(hinge) + np.sum(weights**2)
    np.testing.assert_allclose(primal, -fun(out.params, data), rtol=2e-3)


def test_derivative_on_the_boundary_is_that_of_the_projection(x64):
    fun = lambda x, c: jnp.sum((x - c) ** 2) / 2
    solver = composite.mirror_descent(fun, prox.entropy_map())
    solve = lambda c: core.run(solver, jnp.ones(4) / 4, c, max_steps=2000).params
    center = jnp.array([0.7, -0.1, -0.9, 0.5])
    actual = jax.jacrev(solve)(center)
    expected = jax.jacrev(prox.simplex())(center)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_a_map_of_ones_own_without_a_projection(x64):
    plain = prox.euclidean_map(prox.box(0.0, 1.0))
    mine = prox.MirrorMap(lambda z, g, t: plain.step(z, g, t), plain.divergence)
    fun = lambda x, c: jnp.sum((x - c) ** 2)
    solver = composite.mirror_descent(fun, mine)
    solve = lambda c: core.run(solver, jnp.full(2, 0.5), c).params
    center = jnp.array([0.3, 4.0])
    np.testing.assert_allclose(solve(center), [0.3, 1.0], atol=1e-7)
    np.testing.assert_allclose(jax.jacfwd(solve)(center), np.diag([1, 0]), atol=1e-9)


def test_start_at_a_zero_that_is_no_solution_stalls():
    fun = lambda x, c: jnp.sum((x - c) ** 2)
    for stepsize in (None, 0.1):
        solver = composite.mirror_descent(fun, prox.entropy_map(None), stepsize)
        out = core.run(solver, jnp.array([0.0, 1.0]), jnp.array([1.0, 1.0]))
        assert out.status == Status.STALLED and out.state.error > 0.5


def test_start_outside_the_set_is_left():
    fun = lambda x, c: jnp.sum((x - c) ** 2)
    for stepsize in (None, 0.4):
        solver = composite.mirror_descent(fun, prox.entropy_map(), stepsize)
        out = core.run(solver, jnp.zeros(3), jnp.array([0.5, 0.4, 0.7]))
        assert out.converged
        np.testing.assert_allclose(out.params, [0.3, 0.2, 0.5], atol=1e-3)


@pytest.mark.parametrize("stepsize", [None, 0.05])
def test_bad_lanes_end_as_diverged_with_finite_params_and_spare_others(stepsize):
    solver = composite.mirror_descent(squares, prox.entropy_map(), stepsize)
    matrix, target = data32()
    targets = jnp.stack([target, target.at[3].set(jnp.nan)])
    start = jnp.asarray(UNIFORM, jnp.float32)
    solve = lambda t: core.run(solver, start, (matrix, t), max_steps=300)
    out = jax.vmap(solve)(targets)
    assert out.status[1] == Status.DIVERGED
    np.testing.assert_array_equal(out.params[1], start)
    single = solve(target)
    np.testing.assert_allclose(out.params[0], single.params, atol=1e-4)


def test_an_unbounded_objective_is_found():
    fun = lambda x, _: -jnp.sum(x**2)
    solver = composite.mirror_descent(fun, prox.entropy_map(None))
    out = core.run(solver, jnp.ones(2), max_steps=500)
    assert out.status == Status.DIVERGED and np.all(np.isfinite(out.params))


def test_static_mistakes_are_value_errors():
    make = composite.mirror_descent
    with pytest.raises(ValueError, match="mirror_map must be"):
        make(squares, prox.simplex())
    with pytest.raises(ValueError, match="stepsize"):
        make(squares, prox.entropy_map(), 0.0)
    with pytest.raises(ValueError, match="max_trials"):
        make(squares, prox.entropy_map(), max_trials=0)
    with pytest.raises(ValueError, match="scalar"):
        core.run(make(lambda x, _: x, prox.entropy_map()), jnp.ones(2))
    wrong = prox.MirrorMap(lambda z, g, t: z[:1], lambda x, z: 0.0)
    with pytest.raises(ValueError, match="step of mirror_map"):
        core.run(make(lambda x, _: jnp.sum(x), wrong), jnp.ones(2))
