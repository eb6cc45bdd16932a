"""Operators of data: no new trace, differentiable, lifted through the calculus."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsolve
from jaxsolve import composite, prox

B = jnp.array([3.0, 0.5, -2.0])


@pytest.mark.parametrize("stepsize", [None, 0.5])
def test_a_weight_of_data_is_differentiated_without_a_new_trace(stepsize):
    traces = []

    def fun(x, data):
        traces.append(1)
        return 0.5 * jnp.sum((x - data["b"]) ** 2)

    weighed = prox.of_data(lambda data: prox.l1(data["weight"]))
    solver = composite.proximal_gradient(fun, weighed, stepsize)

    def largest(weight):
        data = {"b": B, "weight": weight}
        return jaxsolve.run(solver, jnp.zeros(3), data, tol=1e-5).params

    np.testing.assert_allclose(largest(0.3), [2.7, 0.2, -1.7], atol=1e-4)
    slope = jax.jacrev(largest)
    np.testing.assert_allclose(slope(0.3), [-1, -1, 1], atol=1e-4)
    count = len(traces)
    np.testing.assert_allclose(slope(1.0), [-1, 0, 1], atol=1e-4)
    assert len(traces) == count
    lanes = jax.vmap(largest)(jnp.array([0.3, 1.0]))
    np.testing.assert_allclose(lanes, [[2.7, 0.2, -1.7], [2, 0, -1]], atol=1e-4)


def test_the_calculus_passes_data_on():
    weighed = prox.of_data(prox.l1)
    x = {"a": B, "b": B}
    parts = {"a": prox.conjugate(weighed), "b": prox.scale(weighed, 2.0)}
    out = prox.resolve(prox.separable_sum(parts), 0.5)(x)
    expected = {"a": prox.linf_ball(0.5)(B), "b": prox.l1(1.0)(B)}
    for key in x:
        np.testing.assert_allclose(out[key], expected[key])
    assert prox.conjugate(weighed) is parts["a"]


def test_an_operator_without_data_resolves_to_itself():
    operator = prox.l1(1.0)
    assert prox.resolve(operator, B) is operator


def test_an_operator_of_data_called_without_it_says_so():
    with pytest.raises(ValueError, match="depends on data.*prox.resolve"):
        prox.of_data(prox.l1)(B)
    with pytest.raises(ValueError, match="make must be a function of data.*0.5"):
        prox.of_data(0.5)


@pytest.mark.parametrize(
    ("operator", "hint"),
    [
        (prox.l1, r"prox\.l1\(weight\)"),
        (prox.box, r"prox\.box\(lower, upper\)"),
        (prox.identity, r"prox\.identity\(\)"),
        (3.0, r"a function of \(params, stepsize\)"),
    ],
)
def test_what_is_no_operator_is_told_how_to_make_one(operator, hint):
    distance = lambda x, data: jnp.sum((x - 1) ** 2)
    solver = composite.proximal_gradient(distance, operator)
    with pytest.raises(ValueError, match=hint):
        jaxsolve.run(solver, jnp.zeros(3))


def test_a_function_whose_annotation_says_nothing_is_an_operator():
    def halve(params, stepsize) -> jax.Array:
        return params / (1 + stepsize)

    np.testing.assert_allclose(prox.resolve(halve, None)(jnp.ones(2), 1.0), 0.5)
