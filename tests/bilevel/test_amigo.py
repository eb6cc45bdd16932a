"""AmIGO: the paper's updates, with gradient steps and with conjugate gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.sparse.linalg

from jaxsolve import bilevel, core
from jaxsolve.bilevel import BilevelProblem, Levels
from tests.bilevel import quadratic
from tests.bilevel.rounds import START, Rounds, assert_same_updates, stream

ALPHA, BETA, GAMMA = 0.3, 0.35, 0.2


def sgd(run, steps):
    """Steps on the linear system, from where the last round ended."""
    for _ in range(steps):
        run.evaluate()
        hessian = run.next()[0]
        run.w = run.w - BETA * (hessian @ run.w - run.f_y)
        run.record()


def conjugate_gradients(run, steps):
    """The card's AID, step 2; the first product is that of w."""
    run.evaluate()
    r = run.f_y - run.next()[0] @ run.w
    run.record()
    p = r
    for _ in range(steps):
        product = run.next()[0] @ p
        a = r @ r / (p @ product)
        run.w = run.w + a * p
        new_r = r - a * product
        p = new_r + (new_r @ new_r) / (r @ r) * p
        r = new_r
        run.record()


def paper(batches, rounds, adjoint, inner_steps, adjoint_steps):
    """Algorithm 1, in NumPy."""
    run = Rounds(batches)
    for _ in range(rounds):
        for _ in range(inner_steps):
            run.lower(ALPHA)
        adjoint(run, adjoint_steps)
        run.upper(lambda gradient: (None, -GAMMA * gradient))
    return run.after


@pytest.mark.parametrize("steps", [(3, 2), (1, 1)])
@pytest.mark.parametrize("adjoint", [sgd, conjugate_gradients])
def test_every_update_is_the_papers_on_a_batch_of_its_own(x64, adjoint, steps):
    inner_steps, adjoint_steps = steps
    length = sum(steps) + 1 + (adjoint is conjugate_gradients)
    batches = stream(4 * length)
    solver = bilevel.amigo(
        quadratic.PROBLEM,
        optax.sgd(GAMMA),
        ALPHA,
        BETA if adjoint is sgd else None,
        inner_steps=inner_steps,
        adjoint_steps=adjoint_steps,
    )
    keep = lambda params, state: (*params, state.adjoint, state.error)
    out = core.scan(solver, Levels(*START), batches, record=keep)
    assert_same_updates(out.history, paper(batches, 4, adjoint, *steps))
    assert out.state.outer == 4


@pytest.mark.parametrize("beta", [0.1, None])
def test_hypergradient_has_no_bias_in_the_limit(x64, beta):
    data = quadratic.draw()
    solver = bilevel.amigo(
        quadratic.PROBLEM, optax.sgd(0.2), 0.1, beta, inner_steps=10, adjoint_steps=10
    )
    start = Levels(np.zeros(5), np.zeros(10))
    out = core.run(solver, start, data, max_steps=20_000, tol=1e-9)
    assert out.converged
    gradient = quadratic.hypergradient(np.asarray(out.params.upper), data)
    assert np.linalg.norm(gradient) < 1e-8
    assert abs(np.sum(out.params.upper) - np.sum(quadratic.solution(data).upper)) < 1e-7


def test_conjugate_gradients_are_scipys(x64):
    data = quadratic.draw()
    target, (hessian, _, _) = data
    solver = bilevel.amigo(
        quadratic.PROBLEM, optax.sgd(0.2), 0.1, inner_steps=1, adjoint_steps=7
    )
    start = Levels(np.zeros(5), np.zeros(10))
    out = core.run(solver, start, data, max_steps=9, tol=0.0)
    rhs = np.asarray(out.params.lower) - target
    expected, _ = scipy.sparse.linalg.cg(hessian, rhs, rtol=0.0, maxiter=7)
    np.testing.assert_allclose(out.state.adjoint, expected, rtol=1e-9)


def test_conjugate_gradients_end_when_nothing_is_left(x64):
    lower = lambda levels, data: jnp.sum((levels.lower - levels.upper) ** 2) / 2
    upper = lambda levels, data: jnp.sum((levels.lower - 3.0) ** 2) / 2
    solver = bilevel.amigo(
        BilevelProblem(upper, lower),
        optax.sgd(0.5),
        1.0,
        inner_steps=1,
        adjoint_steps=9,
    )
    # H is the identity: a step of y, the product of w, one of r, a step of x.
    out = core.run(solver, Levels(np.zeros(2), np.zeros(2)), max_steps=40, tol=0.0)
    assert out.state.outer == 10
    np.testing.assert_allclose(out.params.upper, 3 - 3 * 0.5**10, rtol=1e-12)


def test_conjugate_gradients_make_no_step_without_curvature(x64):
    """A lower level that is concave somewhere: w stays, the error tells."""
    lower = lambda levels, data: -jnp.sum(levels.lower**2) / 2
    upper = lambda levels, data: jnp.sum(levels.lower) + jnp.sum(levels.upper**2)
    solver = bilevel.amigo(
        BilevelProblem(upper, lower),
        optax.sgd(0.1),
        0.1,
        inner_steps=1,
        adjoint_steps=9,
    )
    out = core.run(solver, Levels(np.ones(2), np.zeros(2)), max_steps=100)
    np.testing.assert_array_equal(out.state.adjoint, 0.0)
    assert not out.converged and out.state.error == 1.0
    assert out.state.outer == 25  # nothing is multiplied in vain


def test_mixed_trees_keep_their_dtypes():
    def lower(levels, data):
        x, y = levels.upper["x"], levels.lower
        fit = jnp.sum((y["a"] - x) ** 2)
        return fit + jnp.sum((y["b"].astype(jnp.float32) - data) ** 2)

    def upper(levels, data):
        y = levels.lower
        ridge = jnp.sum((levels.upper["x"] - data) ** 2)
        return jnp.sum(y["a"]) * jnp.sum(y["b"].astype(jnp.float32)) + ridge

    start = Levels(
        {"x": jnp.zeros(2)}, {"a": jnp.ones(2), "b": jnp.zeros(3, jnp.bfloat16)}
    )
    for beta in (0.25, None):
        solver = bilevel.amigo(
            BilevelProblem(upper, lower),
            optax.adam(0.1),
            0.25,
            beta,
            inner_steps=2,
            adjoint_steps=2,
        )
        out = core.run(solver, start, (1.0, 0.5), max_steps=2000, tol=1e-2)
        assert out.converged
        assert jax.tree.map(jnp.result_type, out.params) == jax.tree.map(
            jnp.result_type, start
        )
        # y* = (x, 1/2), so F = 3 sum(x) / 2 + |x - 1|^2.
        np.testing.assert_allclose(out.params.upper["x"], 0.25, atol=2e-2)
