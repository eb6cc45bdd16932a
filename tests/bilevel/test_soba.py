"""SOBA: the card's iterates and numbers, sets, trees, batches and bad input."""

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
KEY = jax.random.key(0)


def slope_at(x):
    """The norm of the gradient of F, in closed form."""
    return np.linalg.norm(quadratic.hypergradient(np.asarray(x), DATA))


def decay(first, power):
    """A schedule of steps, for NumPy and for JAX."""
    return lambda k: first * (1.0 + jnp.asarray(k, float)) ** -power


def card(steps, rho, gamma):
    """The card's update on problem Q, in NumPy."""
    target, (hessian, cross, linear) = DATA
    x, y, v = np.zeros(5), np.zeros(10), np.zeros(10)
    iterates = []
    for k in range(steps):
        d_y = hessian @ y - cross @ x - linear
        d_v = hessian @ v + y - target
        d_x = -cross.T @ v + quadratic.MU * x
        x, y, v = x - gamma(k) * d_x, y - rho(k) * d_y, v - rho(k) * d_v
        iterates.append((x, y, v, max(np.abs(d).max() for d in (d_x, d_y, d_v))))
    return iterates


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_first_iterates_are_those_of_the_card(x64, power):
    rho, gamma = decay(0.1, power), decay(0.05, power)
    solver = bilevel.soba(quadratic.PROBLEM, optax.sgd(gamma), rho)
    ours = core.iterate(solver, ZERO, DATA, max_steps=8, tol=0.0)
    for step, (x, y, v, error) in zip(ours, card(8, rho, gamma), strict=True):
        params, state = step
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
        close(params.upper, x)
        close(params.lower, y)
        close(state.adjoint, v)
        close(state.error, error)


def test_time_scales_decide_between_convergence_and_divergence(x64):
    def end(gamma):
        solver = bilevel.soba(quadratic.PROBLEM, optax.sgd(gamma), 0.1)
        return core.run(solver, ZERO, DATA, max_steps=2000, tol=0.0).params.upper

    assert 1.4e-6 < slope_at(end(0.05)) < 1.55e-6  # 1.5e-6 in the card
    assert slope_at(end(0.1)) > 1e4


def test_divergence_ends_with_a_status_and_finite_params():
    solver = bilevel.soba(quadratic.PROBLEM, optax.sgd(0.2), 0.1)
    out = core.run(solver, ZERO, DATA, max_steps=10_000)
    assert out.status == Status.DIVERGED
    assert bool(core.all_finite(out.params))


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(optax.exponential_decay(0.02, 1000, 0.2)),
        optax.sgd(0.02, momentum=0.5),
        optax.polyak_sgd(0.02),
    ],
    ids=["adam", "momentum", "value"],
)
def test_upper_step_may_be_any_optax_transformation(x64, optimizer):
    solver = bilevel.soba(quadratic.PROBLEM, optimizer, 0.1)
    out = core.run(solver, ZERO, DATA, max_steps=8000, tol=1e-3)
    assert out.converged
    assert slope_at(out.params.upper) < 5e-3


def test_optimizer_whose_state_begins_infinite_is_no_divergence():
    patient = optax.contrib.reduce_on_plateau(accumulation_size=20)
    optimizer = optax.chain(optax.sgd(0.05), patient)
    out = core.run(bilevel.soba(quadratic.PROBLEM, optimizer, 0.1), ZERO, DATA)
    assert out.status == Status.MAX_STEPS and slope_at(out.params.upper) < 0.5


def test_upper_set_is_kept_and_its_stationary_point_is_found(x64):
    inside = prox.box(-0.2, 0.2)
    problem = BilevelProblem(quadratic.upper, quadratic.lower, upper_set=inside)
    solver = bilevel.soba(problem, optax.sgd(0.02), 0.1)
    record = lambda params, _: jnp.max(jnp.abs(params.upper))
    out = core.run(solver, ZERO, DATA, max_steps=4000, tol=1e-7, record=record)
    assert out.converged and np.nanmax(out.history) <= 0.2
    x = np.asarray(out.params.upper)
    step = np.clip(x - quadratic.hypergradient(x, DATA), -0.2, 0.2)
    np.testing.assert_allclose(step, x, atol=1e-6)


def test_levels_may_be_trees(x64):
    def inside(fun):
        join = lambda part: jnp.concatenate([part["a"], part["b"][0].ravel()])
        return lambda levels, data: fun(Levels(*map(join, levels)), data)

    problem = BilevelProblem(inside(quadratic.upper), inside(quadratic.lower))
    solver = bilevel.soba(problem, optax.sgd(0.05), 0.1)
    x = {"a": np.zeros(1), "b": [np.zeros((2, 2))]}
    y = {"a": np.zeros(4), "b": [np.zeros((2, 3))]}
    out = core.run(solver, Levels(x, y), DATA, max_steps=50, tol=0.0)
    flat = bilevel.soba(quadratic.PROBLEM, optax.sgd(0.05), 0.1)
    expected = core.run(flat, ZERO, DATA, max_steps=50, tol=0.0).params
    assert out.params.upper["b"][0].shape == (2, 2)
    np.testing.assert_allclose(core.ravel(out.params)[0], core.ravel(expected)[0])


def test_minibatches_reach_the_noise_of_their_steps(x64):
    data = finite_sum.draw()
    solver = bilevel.soba(
        finite_sum.PROBLEM,
        optax.sgd(decay(0.1, 0.5)),
        decay(0.3, 0.5),
    )
    solver = core.minibatch(solver, (16, 8), key=KEY)
    out = core.run(solver, ZERO, data, max_steps=4000, tol=0.0)
    mean = finite_sum.mean(data)
    slope = lambda x: np.linalg.norm(quadratic.hypergradient(np.asarray(x), mean))
    assert slope(out.params.upper) < 0.1 * slope(ZERO.upper)
    assert out.state.error > 1e-2  # on a batch nothing is stationary


def test_stream_of_batches_is_scanned():
    targets, numbers = finite_sum.draw(n=40)
    cut = lambda leaf: leaf.reshape(10, 4, *leaf.shape[1:])
    batches = jax.tree.map(cut, (targets, numbers))
    solver = bilevel.soba(finite_sum.PROBLEM, optax.sgd(0.02), 0.05)
    out = core.scan(solver, ZERO, batches)
    params, state = ZERO, solver.init(ZERO)
    for i in range(10):
        batch = jax.tree.map(lambda leaf, i=i: leaf[i], batches)
        params, state = solver.update(params, state, batch)
    np.testing.assert_allclose(out.params.upper, params.upper, rtol=1e-5)
    assert out.status == Status.MAX_STEPS


def test_half_precision_params_keep_their_dtype():
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), ZERO)
    wide = lambda fun: (
        lambda levels, data: fun(
            jax.tree.map(lambda x: x.astype(jnp.float32), levels), data
        )
    )
    problem = BilevelProblem(wide(quadratic.upper), wide(quadratic.lower))
    out = core.run(bilevel.soba(problem, optax.sgd(0.05), 0.1), half, DATA)
    assert out.converged
    assert {leaf.dtype for leaf in out.params} == {jnp.dtype("bfloat16")}


def test_lane_that_is_not_finite_leaves_the_others_alone():
    target, numbers = DATA
    targets = np.stack([target, np.full_like(target, np.nan)])
    solver = bilevel.soba(quadratic.PROBLEM, optax.sgd(0.05), 0.1)
    run = lambda target: core.run(solver, ZERO, (target, numbers), max_steps=50)
    out = jax.vmap(run)(targets)
    assert list(out.status) == [Status.MAX_STEPS, Status.DIVERGED]
    single = run(target).params.upper
    np.testing.assert_allclose(out.params.upper[0], single, rtol=1e-5)
    np.testing.assert_array_equal(out.params.upper[1], 0)


def test_parts_it_cannot_honour_and_wrong_numbers_are_refused():
    box = prox.box(0.0, 1.0)
    bounded = BilevelProblem(quadratic.upper, quadratic.lower, lower_set=box)
    with pytest.raises(ValueError, match="soba takes no lower_set"):
        bilevel.soba(bounded, optax.sgd(0.1), 0.1)
    with pytest.raises(ValueError, match="BilevelProblem"):
        bilevel.soba(quadratic.upper, optax.sgd(0.1), 0.1)
    with pytest.raises(ValueError, match="stepsize"):
        bilevel.soba(quadratic.PROBLEM, optax.sgd(0.1), -0.1)
    with pytest.raises(ValueError, match="optax"):
        bilevel.soba(quadratic.PROBLEM, 0.1, 0.1)


def test_wrong_params_and_data_are_refused():
    solver = bilevel.soba(quadratic.PROBLEM, optax.sgd(0.1), 0.1)
    with pytest.raises(ValueError, match="Levels"):
        core.run(solver, tuple(ZERO), DATA)
    with pytest.raises(ValueError, match="pair"):
        core.run(solver, ZERO, DATA[0])
    with pytest.raises(ValueError, match="empty"):
        core.run(solver, ZERO, (np.zeros((0, 10)), DATA[1]))
