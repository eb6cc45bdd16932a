"""What the double-loop solvers share: their cost, batches, sets, and bad input."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import bilevel, core, prox, smooth
from jaxsolve.bilevel import BilevelProblem, Levels
from jaxsolve.core import Status
from tests.bilevel import finite_sum, quadratic
from tests.bilevel.rounds import START

F32 = np.float32


def stocbio(problem, rule, inner_steps=2):
    return bilevel.stocbio(
        problem, rule, 0.3, inner_steps=inner_steps, terms=30, eta=0.3
    )


def amigo(problem, rule, inner_steps=2):
    return bilevel.amigo(
        problem, rule, 0.3, 0.3, inner_steps=inner_steps, adjoint_steps=3
    )


def implicit_descent(problem, rule, inner_steps=2):
    inner = smooth.gradient_descent(problem.inner, 0.3)
    return bilevel.implicit_descent(
        problem, inner, rule, 0.0, inner_steps=inner_steps, adjoint_steps=3
    )


def bo_rep(problem, rule, inner_steps=2):
    refresh = bilevel.epoch_sgd(0.3, inner_steps)
    return bilevel.bo_rep(problem, rule, refresh, 0.3, period=1, start=refresh)


SOLVERS = [stocbio, amigo, implicit_descent, bo_rep]
every = pytest.mark.parametrize("make", SOLVERS, ids=lambda make: make.__name__)


def start(dtype=F32):
    return Levels(*(part.astype(dtype) for part in START))


def small(dtype=F32):
    data = quadratic.draw(dx=2, dy=3, top=2.0)
    return jax.tree.map(lambda leaf: leaf.astype(dtype), data)


def marked(pulled):
    """The identity, of whose gradient `pulled` is told whenever it is pulled back."""
    back = jax.custom_vjp(lambda slope: slope)

    def tell(_, v):
        jax.debug.callback(pulled)
        return (v,)

    back.defvjp(lambda slope: (slope, None), tell)
    mark = jax.custom_vjp(lambda y: y)
    mark.defvjp(lambda y: (y, None), lambda _, slope: (back(slope),))
    return mark


@every
@pytest.mark.parametrize("lanes", [None, 2])
def test_no_phase_pays_for_what_it_does_not_need(make, lanes):
    calls = collections.Counter()
    tell = lambda name: lambda: calls.update([name])
    mark = marked(tell("pull"))

    def upper(levels, data):
        jax.debug.callback(tell("upper"))
        return quadratic.upper(levels, data)

    def lower(levels, data):
        jax.debug.callback(tell("lower"))
        return quadratic.lower(Levels(levels.upper, mark(levels.lower)), data)

    solver = make(BilevelProblem(upper, lower), optax.sgd(0.1))
    keep = lambda params, state: (state.phase, state.outer)
    run = lambda params: core.run(
        solver, params, small(), max_steps=100, tol=0.0, record=keep
    )
    if lanes is None:
        out = run(start())
    else:
        stacked = jax.tree.map(lambda leaf: np.stack([leaf, leaf + 1]), start())
        out = jax.vmap(run)(stacked)
    jax.effects_barrier()
    phase, outer = (np.asarray(leaf).reshape(-1, 100)[0] for leaf in out.history)
    assert outer[-1] <= calls["upper"] <= outer[-1] + 1  # the last round has no end
    assert calls["pull"] == np.sum(phase[:-1] != 0)  # the first update is a lower one
    assert calls["lower"] == 100


@pytest.mark.parametrize("make", [stocbio, amigo, bo_rep], ids=lambda m: m.__name__)
def test_minibatches_come_near_the_solution(make):
    examples = finite_sum.draw()
    data = jax.tree.map(lambda leaf: leaf.astype(F32), examples)
    rule = optax.sgd(optax.exponential_decay(0.1, 400, 0.3))
    if make is bo_rep:
        rule = bilevel.normalized_momentum(optax.exponential_decay(0.05, 400, 0.3))
    solver = make(finite_sum.PROBLEM, rule, inner_steps=5)
    solver = core.minibatch(solver, (16, 8), key=jax.random.key(0))
    params = Levels(np.ones(5, F32), np.zeros(10, F32))
    out = core.run(solver, params, data, max_steps=12_000)
    mean = finite_sum.mean(examples)
    slope = lambda x: np.linalg.norm(quadratic.hypergradient(np.asarray(x), mean))
    assert slope(out.params.upper) < 0.15 < 1.5 < slope(np.ones(5))
    assert out.status == Status.MAX_STEPS


@every
def test_any_optax_transformation_takes_the_step_even_one_that_reads_the_value(make):
    plateau = optax.contrib.reduce_on_plateau(patience=100)  # the best is infinite yet
    solver = make(quadratic.PROBLEM, optax.chain(optax.polyak_sgd(0.2), plateau))
    out = core.run(solver, start(), small(), max_steps=8000, tol=1e-3)
    assert out.converged
    solution = quadratic.solution(small(float))
    np.testing.assert_allclose(out.params.upper, solution.upper, atol=1e-2)


@every
def test_x_stays_in_its_set_and_the_error_knows_it(make, x64):
    box = prox.box(-0.5, 0.5)
    problem = BilevelProblem(quadratic.upper, quadratic.lower, box)
    solver = make(problem, optax.sgd(0.1))
    out = core.run(solver, start(float), small(float), max_steps=10_000, tol=1e-4)
    assert out.converged
    x = np.asarray(out.params.upper)
    gradient = quadratic.hypergradient(x, small(float))
    assert np.max(np.abs(x)) == 0.5  # the solution lies outside
    np.testing.assert_allclose(np.clip(x - gradient, -0.5, 0.5), x, atol=1e-3)


@pytest.mark.parametrize("make", [amigo, implicit_descent], ids=lambda m: m.__name__)
def test_unrolled_derivatives_are_the_implicit_ones(make, x64):
    solver = make(quadratic.PROBLEM, optax.sgd(0.3))
    target, numbers = small(float)

    def loss(target, derivative):
        data = target, numbers
        out = core.run(
            solver, start(float), data, max_steps=4000, tol=1e-4, derivative=derivative
        )
        return jnp.sum(jnp.sin(out.params.upper))

    implicit = jax.grad(loss)(target, None)
    np.testing.assert_allclose(
        jax.grad(loss)(target, core.unrolled()), implicit, atol=1e-3
    )


@every
def test_nan_that_comes_late_ends_the_run_with_the_last_finite_iterate(make):
    """Only the upper level, only far away."""

    def upper(levels, data):
        cliff = jnp.where(jnp.sum(levels.upper) < 0, jnp.nan, 1.0)
        return quadratic.upper(levels, data) * cliff

    problem = BilevelProblem(upper, quadratic.lower)
    solver = make(problem, optax.sgd(0.1))
    out = core.run(solver, start(), small(), max_steps=1000)
    assert out.status == Status.DIVERGED
    assert core.all_finite(out.params) and out.state.outer > 0
    assert np.isfinite(out.state.error)


@every
def test_lower_step_that_is_too_long_diverges(make):
    lower = lambda levels, data: 50 * jnp.sum((levels.lower - data) ** 2)
    solver = make(BilevelProblem(quadratic.upper, lower), optax.sgd(0.1), 40)
    data = (np.zeros(3, F32), np.ones(3, F32))
    out = core.run(solver, start(), data, max_steps=1000)
    assert out.status == Status.DIVERGED
    assert core.all_finite(out.params)


@every
def test_upper_loss_that_ignores_the_lower_level_needs_no_adjoint(make):
    upper = lambda levels, data: jnp.sum((levels.upper - 1.0) ** 2)
    solver = make(BilevelProblem(upper, quadratic.lower), optax.sgd(0.25))
    out = core.run(solver, start(), small())
    assert out.converged
    np.testing.assert_allclose(out.params.upper, 1.0, atol=1e-3)
    np.testing.assert_array_equal(out.state.adjoint, 0.0)


@every
@pytest.mark.parametrize("part", ["lower_set", "constraint", "joint_set"])
def test_parts_of_a_problem_that_would_be_dropped_are_refused(make, part):
    extra = {part: lambda *args: args[0]}
    problem = BilevelProblem(quadratic.upper, quadratic.lower, **extra)
    with pytest.raises(ValueError, match=f"{make.__name__} takes no {part}"):
        make(problem, optax.sgd(0.1))


@every
def test_numbers_and_data_that_make_no_sense_are_refused(make):
    solver = make(quadratic.PROBLEM, optax.sgd(0.1))
    target, numbers = small()
    cases = [
        ("inner_steps|steps", lambda: make(quadratic.PROBLEM, optax.sgd(0.1), 0)),
        ("optax", lambda: make(quadratic.PROBLEM, 0.1)),
        ("Levels", lambda: core.run(solver, tuple(start()), small())),
        ("pair", lambda: core.run(solver, start(), target)),
        ("empty", lambda: core.run(solver, start(), (target[:0], numbers))),
    ]
    for what, call in cases:
        with pytest.raises(ValueError, match=what):
            call()


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize("which", range(5))
def test_stepsizes_that_make_no_sense_are_refused(which, value):
    problem, rule, loop = quadratic.PROBLEM, optax.sgd(0.1), bilevel.epoch_sgd(0.1, 3)
    counts = {"inner_steps": 2}
    calls = [
        lambda: bilevel.stocbio(problem, rule, value, terms=2, eta=0.1, **counts),
        lambda: bilevel.stocbio(problem, rule, 0.1, terms=2, eta=value, **counts),
        lambda: bilevel.amigo(problem, rule, value, 0.1, adjoint_steps=1, **counts),
        lambda: bilevel.amigo(problem, rule, 0.1, value, adjoint_steps=1, **counts),
        lambda: bilevel.bo_rep(problem, rule, loop, value, period=2),
    ]
    with pytest.raises(ValueError, match="stepsize"):
        calls[which]()
