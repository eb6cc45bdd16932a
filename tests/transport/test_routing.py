"""Routing: exact assignments, shapes, derivatives, and a network that learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import linear_sum_assignment

from jaxsolve import smooth, transport

RNG = np.random.default_rng(0)


@functools.partial(jax.jit, static_argnames=("capacity",))
def route(scores, capacity, gamma=1.0):
    return transport.sparse_routing(scores, capacity, smooth.lbfgs, gamma=gamma)


def shares(out, tokens):
    """The plan as a matrix (n, m)."""
    experts = out.tokens.shape[0]
    plan = np.zeros((tokens, experts))
    plan[np.asarray(out.tokens), np.arange(experts)[:, None]] = out.weights
    return plan


def test_with_no_room_to_spare_the_routing_is_the_best_balanced_assignment():
    # None of them has a second best assignment that is nearly as good.
    scores = np.random.default_rng(0).normal(size=(3, 8, 4)).astype(np.float32)
    out = jax.vmap(lambda s: route(s, 2))(scores)
    for i in range(3):
        tokens, slots = linear_sum_assignment(np.repeat(scores[i], 2, 1), maximize=True)
        best = np.zeros((8, 4))
        best[tokens, slots // 2] = 1
        one = jax.tree.map(lambda x, i=i: x[i], out)
        assert one.row_error < 1e-3, i
        np.testing.assert_allclose(shares(one, 8), best, atol=2e-3)


def test_every_expert_takes_exactly_its_capacity_of_different_tokens():
    out = route(jnp.asarray(RNG.normal(size=(9, 4)), jnp.float32), 3)
    assert out.tokens.shape == out.weights.shape == (4, 3)
    assert all(len(set(row)) == 3 for row in out.tokens.tolist())
    np.testing.assert_allclose(jnp.sum(out.weights, 1), 9 / 4, rtol=1e-5)
    plan = shares(out, 9)
    error = np.mean(np.abs(plan.sum(1) - 1))
    np.testing.assert_allclose(out.row_error, error, atol=1e-5)
    low = jax.eval_shape(lambda s: route(s, 3), jnp.zeros((9, 4), jnp.bfloat16))
    assert (low.weights.dtype, low.row_error.dtype) == (jnp.bfloat16, jnp.float32)


def test_tokens_that_tie_are_routed_all_the_same_and_the_error_is_told():
    out = route(jnp.zeros((4, 2)), 2)
    assert np.all(np.isfinite(out.weights)) and out.row_error > 0.1
    slopes = jax.grad(lambda s: jnp.sum(route(s, 2).weights ** 2))(jnp.zeros((4, 2)))
    assert np.all(np.isfinite(slopes))


def test_dispatched_tokens_come_back_in_their_places():
    tokens = jnp.asarray(RNG.normal(size=(8, 3)), jnp.float32)
    out = route(jnp.asarray(RNG.normal(size=(8, 4)), jnp.float32), 2)
    sent = out.dispatch(tokens)
    assert sent.shape == (4, 2, 3)
    plan = shares(out, 8)
    np.testing.assert_allclose(
        out.combine(sent, 8), plan.sum(1)[:, None] * tokens, rtol=1e-5
    )


def test_shares_are_differentiable_in_the_scores(x64):
    scores, turn = RNG.normal(size=(2, 6, 3))

    def loss(t):
        out = route(scores + t * turn, 6, 4.0)
        return jnp.sum(jnp.cos(jnp.arange(18.0)).reshape(3, 6) * out.weights)

    expected = (loss(1e-3) - loss(-1e-3)) / 2e-3
    assert abs(expected) > 1e-3
    np.testing.assert_allclose(jax.grad(loss)(0.0), expected, rtol=1e-3)


def test_a_router_in_a_network_learns_which_expert_suits_which_token():
    """Two experts, of which one negates: tokens of two kinds need one each."""
    kind = np.repeat([1.0, -1.0], 6)
    tokens = np.stack([kind, *RNG.normal(size=(2, 12))], 1).astype(np.float32)
    wanted = jnp.asarray(kind[:, None] * tokens)
    router = transport.SparseRouter(3, 2, 6, smooth.lbfgs, key=jax.random.key(0))
    signs = jnp.asarray([1.0, -1.0])[:, None, None]

    def loss(router):
        out = router(jnp.asarray(tokens))
        made = out.combine(signs * out.dispatch(jnp.asarray(tokens)), 12)
        return jnp.mean((made - wanted) ** 2)

    optimiser = optax.adam(0.1)

    @jax.jit
    def step(router, state):
        value, slope = jax.value_and_grad(loss)(router)
        change, state = optimiser.update(slope, state)
        return optax.apply_updates(router, change), state, value

    state, values = optimiser.init(router), []
    with jax.numpy_dtype_promotion("standard"):  # optax's adam
        for _ in range(60):
            router, state, value = step(router, state)
            values.append(float(value))
    assert values[-1] < 0.1 * values[0]
    taken = np.asarray(router(jnp.asarray(tokens)).tokens)
    assert set(taken[0]) == set(range(6)) and set(taken[1]) == set(range(6, 12))


@pytest.mark.parametrize(
    "scores, capacity, message",
    [
        (np.zeros((6, 3)), 1, "let k be at least 2"),
        (np.zeros((6, 3)), 7, "k is an integer from 1 to 6"),
        (np.zeros(6), 2, "scores are real"),
        (np.zeros((6, 3), int), 2, "scores are real"),
    ],
)
def test_routings_that_make_no_sense_are_refused(scores, capacity, message):
    with pytest.raises(ValueError, match=message):
        transport.sparse_routing(jnp.asarray(scores), capacity, smooth.lbfgs)
