"""Proximal gradient: the papers' iterates, known answers, the rate, the search."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

import jaxsolve
from jaxsolve import composite, core, prox
from jaxsolve.core import Status

RNG = np.random.default_rng(0)
A = RNG.normal(size=(30, 10))
B = RNG.normal(size=30)
L = np.linalg.norm(A, 2) ** 2
LAM = 2.0
CENTER = np.array([1.0, 2.0, 3.0])


def least_squares(x, data):
    matrix, target = data
    return 0.5 * jnp.sum((matrix @ x - target) ** 2)


def bowl(x, data):
    return jnp.sum(jnp.array([1.0, 10.0, 100.0], x.dtype) * (x - data) ** 2)


def soft(v, threshold):
    return np.sign(v) * np.maximum(np.abs(v) - threshold, 0)


def data32():
    return jnp.asarray(A, jnp.float32), jnp.asarray(B, jnp.float32)


def data64():
    return jnp.asarray(A), jnp.asarray(B)


def ahead(x, new_x, z, t, ratio, accelerate, restart):
    """Extrapolates: Beck and Teboulle (4.2), (4.3); O'Donoghue and Candes (13)."""
    if not accelerate:
        return new_x, t
    if restart and (z - new_x) @ (new_x - x) > 0:
        return new_x, 1.0
    new_t = (1 + np.sqrt(1 + 4 * ratio * t**2)) / 2
    return new_x + (t - 1) / new_t * (new_x - x), new_t


def paper(steps, accelerate, restart):
    """Beck and Teboulle (2009), (3.1) and (4.1)-(4.3), in NumPy."""
    x, z, t, iterates = np.zeros(10), np.zeros(10), 1.0, []
    for _ in range(steps):
        new_x = soft(z - A.T @ (A @ z - B) / L, LAM / L)
        z, t = ahead(x, new_x, z, t, 1, accelerate, restart)
        x = new_x
        iterates.append(x)
    return np.stack(iterates)


def searched_paper(fun, x, steps, accelerate):
    """The search of the docstring as textbook loops: the accepted iterates,
    and the oracle calls that each has taken.

    Args:
        fun: as fun(x) -> value, gradient.
        x: the start.
        steps: how many to accept.
        accelerate: whether to extrapolate.
    """
    z, t, iterates, calls, counts = x, 1.0, [], 1, []
    (value, grad), tested, gentle, idle, wait = fun(z), False, False, 0, 0
    eta = 1 / np.linalg.norm(grad)

    def room(y):
        drop = fun(y)[0] - value - grad @ (y - z)
        bound = (y - z) @ (y - z) / (2 * eta)
        return bound / max(drop, bound / 100)

    for _ in range(steps):
        candidate = soft(z - eta * grad, LAM * eta)
        bold = accelerate and gentle and tested and idle < wait
        new_z, new_t = ahead(x, candidate, z, t, 1, accelerate, True)
        due, passed = False, bold and room(new_z) >= 1
        calls += bold
        if passed:
            new_eta = eta
        else:
            calls += 1
            while room(candidate) < 1:
                calls += 1
                eta *= np.clip(0.9 * room(candidate), 0.1, 0.8)
                tested, idle, wait = False, 0, min(max(4 * wait, 4), 160)
                candidate = soft(z - eta * grad, LAM * eta)
            due = idle >= wait
            most = 2 if wait else 10
            factor = np.clip(0.9 * room(candidate), 1, most) if due else 1
            new_eta = factor * eta
            new_z, new_t = ahead(x, candidate, z, t, 1 / factor, accelerate, True)
            tested = new_eta == eta
            if new_eta > eta and wait:
                wait = max(wait // 2, 1)
        counts.append(calls)
        calls += not passed and np.any(new_z != candidate)
        idle = 0 if due else idle + 1
        new_value, new_grad = fun(new_z)
        bend = new_grad - grad
        gentle = new_eta * bend @ bend <= bend @ (new_z - z)
        x, z, t, eta, value, grad = (
            candidate,
            new_z,
            new_t,
            new_eta,
            new_value,
            new_grad,
        )
        iterates.append(x)
    return np.stack(iterates), counts


@pytest.mark.parametrize(
    "accelerate, restart", [(False, False), (True, False), (True, True)]
)
def test_first_iterates_are_the_papers(x64, accelerate, restart):
    solver = composite.proximal_gradient(
        least_squares, prox.l1(LAM), 1 / L, accelerate=accelerate, restart=restart
    )
    params, data = jnp.zeros(10), data64()
    state = solver.init(params, data)
    for expected in paper(25, accelerate, restart):
        params, state = solver.update(params, state, data)
        np.testing.assert_allclose(params, expected, rtol=1e-10, atol=1e-12)


def test_the_restart_changes_the_iterates():
    gap = paper(25, True, True) - paper(25, True, False)
    assert np.max(np.abs(gap)) > 1e-5


@pytest.mark.parametrize(
    "accelerate, scales",
    [
        (False, np.array([8.0, *np.ones(9)])),
        (True, np.array([8.0, *np.ones(9)])),
        (True, np.logspace(1, -1, 10)),
    ],
    ids=["plain", "outlier", "ill"],
)
def test_searched_iterates_are_those_of_the_textbook_loops(x64, accelerate, scales):
    matrix = A * scales
    solver = composite.proximal_gradient(
        least_squares, prox.l1(LAM), accelerate=accelerate
    )
    fun = lambda x: (
        0.5 * np.sum((matrix @ x - B) ** 2),
        matrix.T @ (matrix @ x - B),
    )
    expected, counts = searched_paper(fun, np.ones(10), 30, accelerate)
    data = jnp.asarray(matrix), jnp.asarray(B)
    params, accepted, calls = jnp.ones(10), [], []
    for new_params, state in jaxsolve.iterate(
        solver, params, data, max_steps=200, tol=0.0
    ):
        if jnp.any(new_params != params):
            accepted.append(new_params)
            calls.append(int(state.count))
        params = new_params
        if len(accepted) == 30:
            break
    np.testing.assert_allclose(np.stack(accepted), expected, rtol=1e-8, atol=1e-10)
    assert calls == counts


@pytest.mark.parametrize("stepsize", [None, 0.9])
def test_the_simplex_projection_is_found(stepsize):
    center = jnp.array([0.5, 0.9, -1.0])
    fun = lambda x, c: 0.5 * jnp.sum((x - c) ** 2)
    solver = composite.proximal_gradient(fun, prox.simplex(), stepsize)
    out = core.run(solver, jnp.ones(3) / 3, center)
    assert out.converged
    np.testing.assert_allclose(out.params, [0.3, 0.7, 0.0], atol=1e-3)


@pytest.mark.parametrize("accelerate", [False, True])
def test_non_negative_least_squares_agrees_with_scipy(x64, accelerate):
    solver = composite.proximal_gradient(
        least_squares, prox.non_negative(), accelerate=accelerate
    )
    out = core.run(solver, jnp.zeros(10), data64(), tol=1e-10)
    assert out.converged
    np.testing.assert_allclose(out.params, scipy.optimize.nnls(A, B)[0], atol=1e-9)


def test_gap_stays_below_the_proved_rate(x64):
    solver = composite.proximal_gradient(
        least_squares, prox.l1(LAM), 1 / L, restart=False
    )
    value = lambda x: least_squares(x, data64()) + LAM * jnp.sum(jnp.abs(x))
    steps = 40
    out = core.run(
        solver,
        jnp.zeros(10),
        data64(),
        max_steps=steps,
        tol=0.0,
        record=lambda x, state: value(x),
    )
    best = paper(3000, True, True)[-1]
    k = np.arange(1, steps + 1)
    bound = 2 * L * np.sum(best**2) / (k + 1) ** 2
    assert np.all(out.history - value(jnp.asarray(best)) <= bound)


def test_a_search_on_a_lasso_takes_few_oracle_calls(x64):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(100, 1000))
    target = matrix[:, :10] @ rng.normal(size=10)
    lam = float(0.1 * np.max(np.abs(matrix.T @ target)))
    solver = composite.proximal_gradient(least_squares, prox.l1(lam))
    data = jnp.asarray(matrix), jnp.asarray(target)
    tol = 1e-6 * lam
    out = core.run(solver, jnp.zeros(1000), data, tol=tol, max_steps=150)
    assert out.converged
    assert out.state.count <= 80


def test_an_exact_step_is_not_tested_again(x64):
    # On a smooth, well scaled problem the search settles: one update an iteration.
    solver = composite.proximal_gradient(least_squares, prox.box(-0.05, 0.05))
    data = jnp.asarray(A * np.logspace(0, -1.5, 10)), jnp.asarray(B)
    out = core.run(
        solver,
        jnp.zeros(10),
        data,
        max_steps=400,
        tol=1e-9,
        record=lambda params, state: state.error,
    )
    errors = np.asarray(out.history)[: int(out.state.count)]
    accepted = 1 + np.count_nonzero(np.diff(errors[np.isfinite(errors)]))
    assert out.converged
    assert int(out.state.count) <= 1.4 * accepted


def test_a_mere_test_of_a_trial_takes_no_gradient():
    pulls = []

    @jax.custom_vjp
    def watched(x):
        return x

    def pull(_, cotangent):
        jax.debug.callback(lambda: pulls.append(1))
        return (cotangent,)

    watched.defvjp(lambda x: (x, None), pull)
    solver = composite.proximal_gradient(
        lambda x, data: least_squares(watched(x), data), prox.l1(LAM)
    )
    keep = lambda x, state: state.error
    out = core.run(solver, jnp.zeros(10), data32(), max_steps=20, tol=0.0, record=keep)
    jax.effects_barrier()
    errors = np.unique(out.history)
    accepted = np.count_nonzero(np.isfinite(errors))
    assert len(pulls) <= accepted + 1 < 15  # one at the start, one a step accepted


# -------------------------------------------------------------------------- derivatives


def test_the_derivative_of_a_lasso_is_the_closed_form_on_its_support(x64):
    matrix = jnp.asarray(RNG.normal(size=(12, 20)))
    target = jnp.asarray(RNG.normal(size=12))
    weight = jnp.linspace(-1, 1, 20)

    def value(lam, target):
        solver = composite.proximal_gradient(least_squares, prox.l1(lam))
        out = core.run(solver, jnp.zeros(20), (matrix, target), tol=1e-12)
        return weight @ out.params, out

    (by_lam, by_target), out = jax.grad(value, (0, 1), has_aux=True)(1.0, target)
    support = np.flatnonzero(out.params)
    assert out.converged and 2 < support.size < 12
    sub = np.asarray(matrix)[:, support]
    inverse = np.linalg.inv(sub.T @ sub)
    signs, w = np.sign(out.params[support]), np.asarray(weight)[support]
    np.testing.assert_allclose(by_lam, -w @ inverse @ signs, rtol=1e-8)
    np.testing.assert_allclose(by_target, sub @ inverse @ w, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("stepsize", [None, 0.1])
def test_derivatives_of_a_box_constrained_quadratic(x64, stepsize):
    hessian = jnp.array([[3.0, 1.0, 0.0], [1.0, 4.0, 1.0], [0.0, 1.0, 2.0]])

    def fun(x, theta):
        linear = jnp.array([theta[0], 1.0, -9.0]) * theta[1]
        return 0.5 * x @ hessian @ x + x @ linear + jnp.sum(x**4) / 4

    solver = composite.proximal_gradient(fun, prox.box(-1.0, 1.0), stepsize)
    solve = lambda theta: core.run(solver, jnp.zeros(3), theta, tol=1e-12).params
    value = lambda theta: jnp.sum(jnp.sin(solve(theta)))
    theta, v, h = jnp.array([1.0, 1.5]), jnp.array([0.3, -0.7]), 1e-4

    @jax.jit
    def everything(theta):
        x, move = jax.jvp(solve, (theta,), (v,))
        grad, curve = jax.jvp(jax.grad(value), (theta,), (v,))
        return x, grad, move, curve

    x, grad, move, curve = everything(theta)
    (x1, grad1, _, _), (x0, grad0, _, _) = map(
        everything, (theta + h * v, theta - h * v)
    )
    total = lambda x: jnp.sum(jnp.sin(x))
    assert x[2] == 1.0
    np.testing.assert_allclose(move, (x1 - x0) / (2 * h), atol=1e-7)
    np.testing.assert_allclose(grad @ v, (total(x1) - total(x0)) / (2 * h), rtol=1e-6)
    np.testing.assert_allclose(curve, (grad1 - grad0) / (2 * h), rtol=1e-5, atol=1e-8)


# --------------------------------------------------------------- honest, and any form


@pytest.mark.parametrize("accelerate, offset", [(True, 1e4), (True, 1e6), (False, 1e6)])
def test_the_search_reaches_the_floor_of_single_precision(accelerate, offset):
    solver = composite.proximal_gradient(
        lambda x, data: bowl(x, data) + offset, prox.l1(0.1), accelerate=accelerate
    )
    out = core.run(solver, jnp.zeros(3), jnp.asarray(CENTER, jnp.float32))
    assert out.converged
    np.testing.assert_allclose(out.params, [0.95, 1.995, 2.9995], atol=3e-4)


def test_without_a_tolerance_single_precision_stalls():
    solver = composite.proximal_gradient(bowl, prox.l1(0.1))
    out = core.run(
        solver, jnp.zeros(3), jnp.asarray(CENTER, jnp.float32) + 0.123, tol=0
    )
    assert out.status in (Status.STALLED, Status.CONVERGED)
    assert out.state.error <= 1e-3


@pytest.mark.parametrize(
    "fun, accelerate",
    [(lambda x, _: jnp.sum(x), True), (lambda x, _: -jnp.sum(x**3), False)],
    ids=["linear", "cubic"],
)
def test_an_unbounded_objective_is_found(fun, accelerate):
    solver = composite.proximal_gradient(fun, prox.identity(), accelerate=accelerate)
    out = core.run(solver, jnp.ones(3))
    assert out.status == Status.DIVERGED
    assert core.all_finite(out.params)


def test_a_fixed_step_that_is_too_long_ends_as_diverged():
    solver = composite.proximal_gradient(
        lambda x, _: -jnp.sum(x**3), prox.identity(), 0.1
    )
    out = core.run(solver, jnp.ones(3))
    assert out.status == Status.DIVERGED
    assert core.all_finite(out.params)


@pytest.mark.parametrize("stepsize", [None, 0.001])
def test_nan_data_return_the_start_as_diverged(stepsize):
    solver = composite.proximal_gradient(bowl, prox.l1(0.1), stepsize)
    out = core.run(solver, jnp.ones(3), jnp.array([1.0, jnp.nan, 1.0]))
    assert out.status == Status.DIVERGED and out.state.error == jnp.inf
    np.testing.assert_array_equal(out.params, np.ones(3))


@pytest.mark.parametrize("accelerate", [False, True])
def test_the_search_steps_back_from_outside_the_domain(accelerate):
    barrier = lambda x, data: jnp.sum(data * x - jnp.log(x))
    solver = composite.proximal_gradient(
        barrier, prox.identity(), accelerate=accelerate
    )
    out = core.run(solver, jnp.full(3, 0.1), jnp.array([1.0, 3.0, 9.0]))
    assert out.converged
    np.testing.assert_allclose(out.params, [1, 1 / 3, 1 / 9], rtol=1e-3)


def test_a_step_too_short_to_move_is_no_convergence():
    fun = lambda x, _: jnp.sum(x)
    solver = composite.proximal_gradient(fun, prox.identity(), 1e-9)
    out = core.run(solver, jnp.ones(3), max_steps=5)
    assert out.status == Status.STALLED and out.state.error == 1


@pytest.mark.parametrize("stepsize", [None, 0.004])
def test_half_precision_params_keep_a_master_copy(stepsize):
    solver = composite.proximal_gradient(bowl, prox.l1(0.1), stepsize)
    params = jnp.zeros(3, jnp.bfloat16)
    out = core.run(solver, params, jnp.asarray(CENTER, jnp.bfloat16), max_steps=300)
    assert out.params.dtype == jnp.bfloat16
    assert out.state.point.dtype == jnp.float32
    np.testing.assert_allclose(
        np.asarray(out.params, np.float32), [0.95, 1.995, 2.9995], atol=0.02
    )


@pytest.mark.parametrize("stepsize", [None, 0.004])
def test_a_tree_of_mixed_precision_keeps_its_dtypes(x64, stepsize):
    params = {"a": jnp.zeros(2, jnp.float32), "b": jnp.zeros((), jnp.bfloat16)}

    def fun(tree, data):
        b = tree["b"].astype(jnp.float32)
        return jnp.sum((tree["a"] - data) ** 2) + 10 * (b - 1) ** 2

    solver = composite.proximal_gradient(fun, prox.non_negative(), stepsize)
    data = jnp.array([1.0, -1.0], jnp.float32)
    out = core.run(solver, params, data, tol=1e-2)
    assert out.params["a"].dtype == jnp.float32
    assert out.params["b"].dtype == jnp.bfloat16
    np.testing.assert_allclose(out.params["a"], [1, 0], atol=1e-2)


@pytest.mark.parametrize("stepsize", [None, 0.004])
def test_the_objective_is_traced_twice_at_most(stepsize):
    traces = []

    def fun(x, data):
        traces.append(1)
        return bowl(x, data)

    solver = composite.proximal_gradient(fun, prox.l1(0.1), stepsize)
    solve = lambda data: jnp.sum(core.run(solver, jnp.zeros(3), data).params)
    jax.grad(solve)(jnp.asarray(CENTER, jnp.float32))
    assert len(traces) <= 2
    core.run(solver, jnp.ones(3), jnp.zeros(3))
    assert len(traces) <= 2


@pytest.mark.parametrize("stepsize", [None, 1 / L])
def test_a_link_of_a_chain_equals_the_run_and_follows_what_others_change(stepsize):
    solver = composite.proximal_gradient(least_squares, prox.l1(LAM), stepsize)
    data = data32()
    plain = core.run(solver, jnp.zeros(10), data, max_steps=300)
    for factor, steps in ((1.0, int(plain.state.count)), (0.7, 300)):
        transform = optax.chain(core.to_optax(solver, data), optax.scale(factor))

        def body(carry, _):
            x, state = carry
            change, state = transform.update(x, state, x)
            return (optax.apply_updates(x, change), state), None

        start = jnp.zeros(10), transform.init(jnp.zeros(10))
        (x, _), _ = jax.lax.scan(body, start, length=steps)
        np.testing.assert_allclose(x, plain.params, atol=2e-4)


def test_lanes_of_a_batch_equal_their_single_runs():
    solver = composite.proximal_gradient(bowl, prox.l1(0.1))
    centers = jnp.outer(jnp.array([1.0, -2.0, 0.01]), jnp.array([1.0, 2.0, 3.0]))
    centers = centers.at[2, 0].set(jnp.nan)
    solve = lambda center: core.run(solver, jnp.zeros(3), center)
    batch = jax.vmap(solve)(centers)
    np.testing.assert_array_equal(batch.status, [1, 1, Status.DIVERGED])
    for lane in range(2):
        single = solve(centers[lane])
        np.testing.assert_allclose(batch.params[lane], single.params, atol=1e-4)


def test_a_schedule_gives_the_stepsize():
    schedule = optax.exponential_decay(0.5, 1, 0.9)
    fun = lambda x, _: x
    solver = composite.proximal_gradient(fun, prox.identity(), schedule)
    params, state = jnp.zeros(()), solver.init(jnp.zeros(()))
    params, state = solver.update(params, state, None)
    assert params == -0.5 and state.error == 1


# ---------------------------------------------------------------------------- bad input


def test_static_mistakes_are_value_errors():
    make = composite.proximal_gradient
    with pytest.raises(ValueError, match="stepsize must be one positive"):
        make(bowl, prox.l1(1.0), -0.1)
    with pytest.raises(ValueError, match="stepsize must be one positive"):
        make(bowl, prox.l1(1.0), 0)
    with pytest.raises(ValueError, match="max_trials"):
        make(bowl, prox.l1(1.0), max_trials=0)
    with pytest.raises(ValueError, match="float"):
        core.run(make(bowl, prox.l1(1.0)), jnp.zeros(3, jnp.int32), CENTER)
    for stepsize in (None, 0.1):
        with pytest.raises(ValueError, match="scalar"):
            core.run(make(lambda x, _: x, prox.l1(1.0), stepsize), jnp.zeros(3))
        with pytest.raises(ValueError, match="prox must return"):
            core.run(
                make(lambda x, _: x @ x, lambda x, eta: (x, x), stepsize), jnp.zeros(3)
            )


def test_equal_arguments_give_one_solver():
    make = lambda: composite.proximal_gradient(bowl, prox.l1(0.5), 0.1)
    assert make() is make()
