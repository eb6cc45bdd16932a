"""Normalised momentum: one length whatever the gradient, as an optax citizen."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import bilevel, core

RNG = np.random.default_rng(0)
GRADS = RNG.standard_normal((6, 5)) * 10.0 ** RNG.integers(-6, 7, (6, 1))


def steps(rule, grads):
    params = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), grads)
    state = rule.init(params)
    for i in range(6):
        step, state = rule.update(jax.tree.map(lambda leaf: leaf[i], grads), state)
        yield step


def test_steps_are_those_of_the_card_whatever_the_scale(x64):
    m = np.zeros(5)
    for step, grad in zip(
        steps(bilevel.normalized_momentum(0.3, 0.8), jnp.asarray(GRADS)),
        GRADS,
        strict=True,
    ):
        m = 0.8 * m + 0.2 * grad
        np.testing.assert_allclose(step, -0.3 * m / (np.linalg.norm(m) + 1e-10))


def test_one_norm_is_taken_over_all_leaves(x64):
    rule = bilevel.normalized_momentum(0.3)
    whole = steps(rule, jnp.asarray(GRADS))
    cut = steps(rule, {"a": jnp.asarray(GRADS[:, :2]), "b": jnp.asarray(GRADS[:, 2:])})
    for one, two in zip(whole, cut, strict=True):
        np.testing.assert_allclose(jnp.concatenate([two["a"], two["b"]]), one)


def test_first_step_is_along_the_gradient_and_zero_makes_none():
    for decay in (0.0, 0.99):
        rule = bilevel.normalized_momentum(2.0, decay)
        grad = jnp.array([3.0, -4.0])
        step, _ = rule.update(grad, rule.init(grad))
        np.testing.assert_allclose(step, [-1.2, 1.6], rtol=1e-6)
        nothing = jnp.zeros(2)
        assert not np.any(rule.update(nothing, rule.init(nothing))[0])


def test_it_composes_and_keeps_dtypes():
    rule = optax.chain(
        optax.masked(
            bilevel.normalized_momentum(lambda k: 0.1), {"a": True, "b": False}
        ),
        optax.scale(2.0),
    )
    grad = {"a": jnp.full(4, 7.0, jnp.bfloat16), "b": jnp.ones(2)}
    state = jax.eval_shape(rule.init, grad)
    assert jax.tree.leaves(state)
    step, _ = rule.update(grad, rule.init(grad))
    assert step["a"].dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(step["a"], float), -0.1, rtol=1e-2)
    np.testing.assert_allclose(step["b"], 2.0)


def test_alone_it_minimises_to_within_its_stepsize():
    fun = lambda x, data: jnp.sum((x - data) ** 4)
    solver = core.from_optax(fun, bilevel.normalized_momentum(1e-2, 0.5))
    out = core.run(solver, jnp.zeros(3), jnp.ones(3), max_steps=300)
    np.testing.assert_allclose(out.params, 1.0, atol=2e-2)


@pytest.mark.parametrize(
    ("what", "arguments"),
    [("stepsize", (0.0,)), ("decay", (0.1, 1.0)), ("decay", (0.1, -0.1))],
)
def test_numbers_that_make_no_sense_are_refused(what, arguments):
    with pytest.raises(ValueError, match=what):
        bilevel.normalized_momentum(*arguments)
