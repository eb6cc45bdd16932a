"""The stochastic Armijo search: the paper's iterates, its options, its failures."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsolve
from jaxsolve import core, transforms
from jaxsolve.core import Status

RNG = np.random.default_rng(0)
A = RNG.normal(size=(12, 4)) * np.array([0.3, 1.0, 2.0, 4.0])
SOLUTION = RNG.normal(size=4)
B = A @ SOLUTION  # it interpolates
C, BETA, TOP = 0.1, 0.9, 10.0


def batch_loss(x, batch):
    rows, targets = batch
    return jnp.mean((rows @ x - targets) ** 2) / 2


def loss_and_grad(x, rows, targets):
    r = rows @ x - targets
    return np.mean(r**2) / 2, rows.T @ r / len(r)


def batches(steps):
    picks = [np.arange(3) + 3 * (k % 4) for k in range(steps)]
    return [(A[p], B[p]) for p in picks]


def papers(steps, growth, goldstein, momentum):
    """Vaswani et al. (2019), Algorithms 1 and 2, in NumPy."""
    x, old, eta, iterates, trials = np.zeros(4), np.zeros(4), TOP, [], []
    for rows, targets in batches(steps):
        f, g = loss_and_grad(x, rows, targets)
        eta, count = min(growth * eta, TOP), 1
        while True:
            new = loss_and_grad(x - eta * g, rows, targets)[0]
            if new > f - C * eta * g @ g:
                eta = BETA * eta
            elif goldstein and new < f - (1 - C) * eta * g @ g and eta < TOP:
                eta = min(growth * eta, TOP)
            else:
                break
            count += 1
        x, old = x - eta * g + momentum * (x - old), x
        iterates.append(x)
        trials.append(count)
    return iterates, trials


@pytest.mark.parametrize(
    "growth, goldstein, momentum",
    [
        (1.0, False, 0.0),
        (np.inf, False, 0.0),
        (2 ** (1 / 4), False, 0.0),
        (1.7, True, 0.0),
        (1.5, False, 0.4),
    ],
    ids=["option 0", "option 1", "option 2", "goldstein", "momentum"],
)
def test_first_iterates_are_the_papers(x64, growth, goldstein, momentum):
    transform = transforms.armijo_sgd(
        C,
        TOP,
        shrink=BETA,
        growth=growth,
        goldstein=goldstein,
        max_trials=100,
        momentum=momentum,
    )
    solver = jaxsolve.from_optax(batch_loss, transform)
    x = jnp.zeros(4)
    state = solver.init(x, None)
    iterates, trials = papers(12, growth, goldstein, momentum)
    for batch, y, count in zip(batches(12), iterates, trials, strict=True):
        x, state = solver.update(x, state, jax.tree.map(jnp.asarray, batch))
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-11)
        assert state.inner[1].trials == count and not state.inner[1].failed


def test_accepted_stepsizes_are_as_long_as_the_paper_proves(x64):
    # Lemma 1: at least min{2 beta (1 - c) / L, the largest}, L of the batch.
    transform = transforms.armijo_sgd(C, TOP, shrink=BETA, growth=np.inf)
    solver = jaxsolve.from_optax(batch_loss, transform)
    x = jnp.zeros(4)
    state = solver.init(x, None)
    for rows, targets in batches(12):
        x, state = solver.update(x, state, (jnp.asarray(rows), jnp.asarray(targets)))
        smooth = np.linalg.norm(rows, 2) ** 2 / 3
        assert state.inner[1].stepsize >= min(2 * BETA * (1 - C) / smooth, TOP)


def test_it_finds_the_solution_that_interpolates(x64):
    solver = jaxsolve.from_optax(batch_loss, transforms.armijo_sgd(C, TOP))
    x = jnp.zeros(4)
    state = solver.init(x, None)
    for batch in batches(3000):
        x, state = solver.update(x, state, jax.tree.map(jnp.asarray, batch))
    np.testing.assert_allclose(x, SOLUTION, atol=1e-3)


def step(transform, x, state, fun, **extra):
    value, grad = jax.value_and_grad(fun)(x, **extra)
    updates, state = transform.update(
        grad, state, x, value=value, grad=grad, value_fn=fun, **extra
    )
    return updates, state


def test_a_search_that_fails_takes_no_step_and_goes_on_next_time():
    steep = lambda x: 1e4 * jnp.sum(x**2)
    x = jnp.ones(2)
    transform = transforms.armijo_sgd(max_trials=15, growth=1.0)
    updates, state = step(transform, x, transform.init(x), steep)
    np.testing.assert_array_equal(updates, 0)
    assert state[1].failed and state[1].trials == 15
    updates, state = step(transform, x, state, steep)
    for _ in range(3):
        updates, state = step(transform, x, state, steep)
    assert steep(x + updates) < steep(x)
    theirs = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15))
    updates, _ = step(theirs, x, theirs.init(x), steep)
    assert steep(x + updates) > steep(x)  # why there is one here


def test_a_batch_of_nans_leaves_the_stepsize_alone():
    fun = lambda x, scale: scale * jnp.sum(x**2)
    x = jnp.ones(2)
    transform = transforms.armijo_sgd()
    _, before = step(transform, x, transform.init(x), fun, scale=jnp.array(1.0))
    updates, state = step(transform, x, before, fun, scale=jnp.array(jnp.nan))
    np.testing.assert_array_equal(updates, 0)
    assert state[1].stepsize == before[1].stepsize and state[1].trials == 0
    updates, state = step(transform, x, state, fun, scale=jnp.array(1.0))
    assert fun(x + updates, 1.0) < fun(x, 1.0) and not state[1].failed


def test_it_steps_back_from_where_the_objective_is_not_defined():
    solver = jaxsolve.from_optax(
        lambda x, data: jnp.sum(x - data * jnp.log(x)),
        transforms.armijo_sgd(0.1, 100.0),
    )
    out = core.run(solver, jnp.array([0.5]), jnp.array([2.0]), tol=1e-3)
    assert out.status == Status.CONVERGED
    np.testing.assert_allclose(out.params, 2.0, atol=3e-3)


def test_updates_that_do_not_descend_are_not_taken():
    transform = transforms.scale_by_armijo()
    fun, x = lambda x: jnp.sum(x**2), jnp.ones(2)
    updates, state = step(transform, x, transform.init(x), fun)  # without a minus
    np.testing.assert_array_equal(updates, 0)
    assert state.failed and state.trials == 0


def test_the_objective_is_traced_twice(x64):
    calls = []
    fun = lambda x, data: calls.append(0) or jnp.sum((x - data) ** 2)
    solver = jaxsolve.from_optax(fun, transforms.armijo_sgd())
    core.run(solver, jnp.zeros(2), jnp.ones(2), tol=1e-3)
    # One for the gradient, one for the search, and the residual of the derivative.
    assert len(calls) <= 4


@pytest.mark.parametrize(
    "options",
    [
        dict(decrease=1.0),
        dict(decrease=0.5, goldstein=True),
        dict(shrink=1.0),
        dict(max_stepsize=0.0),
        dict(growth=0.9),
        dict(growth=np.inf, goldstein=True),
        dict(momentum=-0.1),
    ],
    ids=str,
)
def test_static_mistakes_are_value_errors(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must"):
        transforms.armijo_sgd(**options)


def test_without_params_it_says_so():
    transform = transforms.scale_by_armijo()
    state = transform.init(jnp.ones(2))
    with pytest.raises(ValueError, match="starts from the params"):
        transform.update(None, state, value=0.0, grad=None, value_fn=None)
