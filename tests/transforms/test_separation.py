"""Perceptrons and normalised logistic regression: the paper's table and bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsolve
from jaxsolve import core, transforms
from jaxsolve.core import Status

RNG = np.random.default_rng(1)
RAW = RNG.normal(size=(40, 5)) * np.geomspace(1, 3, 5)
TRUTH = RNG.normal(size=5)
Z = RAW * np.sign(RAW @ TRUTH)[:, None]
Z += 0.1 * TRUTH / np.linalg.norm(TRUTH)  # a margin


def margins(x, z):
    return z @ x


def worst(n):
    """One point of one label, n - 1 of the other, times their labels."""
    return jnp.array([[0.5, -1.0]] + (n - 1) * [[0.5, 1.0]])


def updates(solver, z, **options):
    """How many updates it takes until nothing is misclassified."""
    out = jaxsolve.run(solver, jnp.zeros(z.shape[1], z.dtype), z, **options)
    assert out.converged and np.all(z @ out.params > 0)
    return int(out.state.count) - 1  # the last one only finds that


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def papers(rule, gamma, steps):
    """Tyurin (2025): LR+GD and its kin, from zero."""
    x, iterates, n = np.zeros(5), [], len(Z)
    for k in range(steps):
        m = Z @ x
        wrong = (m <= 0).astype(float)
        p = sigmoid(-m)
        if wrong.sum() == 0:
            step = 0 * x
        elif rule == "normalized":
            gradient, beta = -Z.T @ p / n, 1 / np.mean(p)
            step = -gamma * beta * gradient
        elif rule == "plain":
            step = gamma * Z.T @ p / n
        elif rule == "batch":
            step = np.sum(Z, axis=0) / (2 * n) if k == 0 else Z.T @ wrong / n
        else:
            step = Z.T @ wrong / wrong.sum()
        x = x + step
        iterates.append(x)
    return iterates


SOLVERS = {
    "normalized": transforms.logistic_perceptron(margins, 0.5),
    "plain": transforms.logistic_perceptron(margins, 0.5, normalize=False),
    "batch": transforms.batch_perceptron(margins),
    "normalized batch": transforms.batch_perceptron(margins, normalize=True),
}


@pytest.mark.parametrize("rule", SOLVERS)
def test_first_iterates_are_the_papers(x64, rule):
    solver, z = SOLVERS[rule], jnp.asarray(Z)
    update = jax.jit(solver.update)
    x = jnp.zeros(5)
    state = solver.init(x, z)
    for expected in papers(rule, 0.5, 40):
        wrong = np.sum(Z @ np.asarray(x) <= 0)
        x, state = update(x, state, z)
        assert float(state.error) == wrong
        np.testing.assert_allclose(x, expected, rtol=1e-10, atol=1e-12)


def test_the_transformation_takes_the_solvers_steps(x64):
    transform = transforms.normalized_logistic(0.5)
    z, x = jnp.asarray(Z), jnp.zeros(5)
    loss = lambda x: jnp.mean(jnp.logaddexp(0, -(z @ x)))
    state = transform.init(x)
    for expected in papers("normalized", 0.5, 6):
        assert not np.all(z @ x > 0)
        step, state = transform.update(jax.grad(loss)(x), state, margins=z @ x)
        x = x + step
        np.testing.assert_allclose(x, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gamma, count", [(100.0, 2), (10.0, 2), (1.0, 16), (0.1, 157)])
def test_the_papers_table_is_reproduced(x64, gamma, count):
    solver = transforms.logistic_perceptron(margins, gamma)
    assert updates(solver, worst(1000)) == count
    bound = 1.25 / 0.25 + 2 * np.log(2 * 1000 - 1) / (gamma * 0.25)
    assert count <= bound  # as proved


@pytest.mark.parametrize("n, count", [(1000, 308), (2000, 616)])
def test_without_normalisation_large_steps_need_as_many_as_points(x64, n, count):
    solver = transforms.logistic_perceptron(margins, 100.0, normalize=False)
    assert updates(solver, worst(n)) == count


def test_large_logistic_steps_tend_to_the_batch_perceptron(x64):
    z = jnp.asarray(Z)
    limit = SOLVERS["batch"]
    deviations = []
    for gamma in (1e4, 1e5, 1e6):
        logistic = transforms.logistic_perceptron(margins, gamma, normalize=False)
        x, y = jnp.zeros(5), jnp.zeros(5)
        state, other, worst_yet = logistic.init(x, z), limit.init(y, z), 0.0
        one, two = jax.jit(logistic.update), jax.jit(limit.update)
        for _ in range(20):
            (x, state), (y, other) = one(x, state, z), two(y, other, z)
            worst_yet = max(worst_yet, np.max(np.abs(x / gamma - y)))
        deviations.append(worst_yet)
    assert deviations[0] < 1e-2 and deviations[2] < 1e-12


def test_rosenblatts_perceptron_learns_from_one_error_at_a_time(x64):
    z, solver = jnp.asarray(Z), transforms.perceptron(margins, key=jax.random.key(3))
    x, drawn = jnp.zeros(5), set()
    state = solver.init(x, z)
    for _ in range(10):
        wrong = np.flatnonzero(z @ x <= 0)
        new, state = solver.update(x, state, z)
        gaps = np.max(np.abs(Z[wrong] - np.asarray(new - x)), axis=1)
        assert len(wrong) == 0 or np.min(gaps) < 1e-12
        drawn.add(int(wrong[np.argmin(gaps)]) if len(wrong) else -1)
        x = new
    assert len(drawn) > 3
    direction = TRUTH / np.linalg.norm(TRUTH)
    bound = np.max(np.sum(Z**2, axis=1)) / np.min(Z @ direction) ** 2
    assert updates(solver, z, max_steps=int(bound) + 2) <= bound


def test_rosenblatts_perceptron_picks_any_of_its_errors(x64):
    z, picked = jnp.asarray(Z), set()
    for seed in range(8):
        solver = transforms.perceptron(margins, key=jax.random.key(seed))
        x, _ = solver.update(jnp.zeros(5), solver.init(jnp.zeros(5), z), z)
        gaps = np.max(np.abs(Z - np.asarray(x)), axis=1)
        picked.add(int(np.argmin(gaps)))
        assert np.min(gaps) < 1e-12
    assert len(picked) > 4 and max(picked) > 20


def test_at_zero_nothing_is_classified_and_at_a_solution_nothing_moves(x64):
    for solver in SOLVERS.values():
        z = jnp.asarray(Z)
        _, state = solver.update(jnp.zeros(5), solver.init(jnp.zeros(5), z), z)
        assert state.error == 40
        x = jaxsolve.run(solver, jnp.zeros(5), z).params
        again, state = solver.update(x, solver.init(x, z), z)
        assert state.error == 0 and np.all(again == x)


def test_weights_do_not_underflow_where_margins_are_large():
    z = jnp.array([[1.0, -1.0], [1.0, 1.0]])  # margins of -1 and 401
    solver = transforms.logistic_perceptron(margins, 1.0)
    x = jnp.array([200.0, 201.0])
    new, _ = solver.update(x, solver.init(x, z), z)
    np.testing.assert_allclose(new, [201.0, 200.0])
    transform = transforms.scale_by_normalized_logistic()
    step, _ = transform.update(0 * x, transform.init(x), margins=jnp.full(3, 1e3))
    np.testing.assert_array_equal(step, 0)


def test_data_that_cannot_be_separated_end_at_max_steps_and_bad_ones_diverge():
    z = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
    for solver in (*SOLVERS.values(), transforms.perceptron(margins)):
        out = jaxsolve.run(solver, jnp.zeros(2), z, max_steps=20)
        assert out.status == Status.MAX_STEPS
        out = jaxsolve.run(solver, jnp.zeros(2), z * jnp.nan, max_steps=20)
        assert out.status == Status.DIVERGED and np.all(out.params == 0)


def test_networks_may_be_separated_too():
    points = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    signs = jnp.array([-1.0, 1.0, 1.0, -1.0])
    keys = jax.random.split(jax.random.key(1), 3)
    params = [jax.random.normal(keys[0], (2, 8)), jax.random.normal(keys[1], (8,))]
    params.append(jax.random.normal(keys[2], (8,)))
    network = lambda p, _: signs * (jnp.tanh(points @ p[0] + p[2][None]) @ p[1])
    solver = transforms.logistic_perceptron(network, 0.5)
    assert jaxsolve.run(solver, params, max_steps=200).converged


def test_it_takes_minibatches():
    solver = core.minibatch(SOLVERS["batch"], 10, key=jax.random.key(0))
    out = jaxsolve.run(solver, jnp.zeros(5), jnp.asarray(Z), max_steps=2000)
    assert out.converged and np.all(Z @ out.params > 0)


def test_decay_is_that_of_optax():
    transform = transforms.normalized_logistic(0.5, 0.1)
    x, g, m = jnp.ones(2), jnp.array([1.0, 0.0]), jnp.zeros(3)
    step, _ = transform.update(g, transform.init(x), x, margins=m)
    np.testing.assert_allclose(step, -0.5 * (2 * g + 0.1 * x), rtol=1e-6)
    assert optax.tree.norm(step) > 0


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="stepsize"):
        transforms.logistic_perceptron(margins, 0.0)
    with pytest.raises(ValueError, match="vector"):
        jaxsolve.run(transforms.batch_perceptron(lambda x, _: jnp.sum(x)), jnp.ones(2))
    with pytest.raises(ValueError, match="derivative"):
        solve = lambda z: jaxsolve.run(SOLVERS["batch"], jnp.zeros(5), z).params
        jax.jacobian(solve)(jnp.asarray(Z))
