"""Minibatches: what is drawn, and what the error says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import core, smooth
from jaxsolve.core import Status
from tests.core.solvers import iteration

KEY = jax.random.key(3)
# Its params are the batch itself.
SEEN = iteration(lambda x, batch: jax.tree.leaves(batch)[0], residual=False)


def draws(sizes, data, shape, steps, solver=SEEN):
    """The batches of the first steps, as params."""
    wrapped = core.minibatch(solver, sizes, key=KEY)
    params = jnp.zeros(shape)
    state = wrapped.init(params, data)
    update = jax.jit(wrapped.update)
    batches = []
    for _ in range(steps):
        params, state = update(params, state, data)
        batches.append(np.asarray(params))
    return batches, state


@pytest.mark.parametrize("size", [1, 3, 4, 12])
def test_every_example_is_drawn_once_an_epoch_in_a_new_order(size):
    data, per_epoch = jnp.arange(12.0), 12 // size
    batches, state = draws(size, data, (size,), 3 * per_epoch)
    epochs = np.concatenate(batches).reshape(3, 12)
    for epoch in epochs:
        assert sorted(epoch) == list(range(12))
    if size < 12:
        assert not np.array_equal(epochs[0], epochs[1])
        assert not np.array_equal(epochs[1], epochs[2])
    assert state.count == 3 * per_epoch


def test_remainder_is_left_out_of_an_epoch_and_changes_with_it():
    batches, _ = draws(4, jnp.arange(10.0), (4,), 8)
    epochs = np.concatenate(batches).reshape(4, 8)
    for epoch in epochs:
        assert len(set(epoch)) == 8
    left = {tuple(sorted(set(range(10)) - set(map(int, epoch)))) for epoch in epochs}
    assert len(left) > 1


def test_tuple_of_sizes_draws_independently_and_one_size_draws_alike():
    pairs = iteration(lambda x, batch: jnp.concatenate(jax.tree.leaves(batch)))
    data = (jnp.arange(12.0), 100 + jnp.arange(6.0))
    batches, _ = draws((4, 2), data, (6,), 3, pairs)
    first = np.concatenate([b[:4] for b in batches])
    second = np.concatenate([b[4:] for b in batches])
    assert sorted(first) == list(range(12)) and sorted(second) == list(range(100, 106))
    alike = {"x": jnp.arange(12.0), "y": 100 + jnp.arange(12.0)}
    for batch in draws(3, alike, (6,), 6, pairs)[0]:
        np.testing.assert_array_equal(batch[:3] + 100, batch[3:])


def test_error_is_the_largest_of_the_last_whole_epoch():
    # The error of SEEN is the largest change of params from batch to batch.
    data = jnp.arange(6.0)
    wrapped = core.minibatch(SEEN, 2, key=KEY)
    params, own = jnp.zeros(2), []
    state = wrapped.init(params, data)
    for k in range(9):
        params, state = wrapped.update(params, state, data)
        own.append(float(state.inner.error))
        last = 3 * ((k + 1) // 3)
        expected = max(own[last - 3 : last]) if last else np.inf
        assert state.error == expected


def test_run_stops_only_if_all_batches_agree():
    fun = lambda x, batch: jnp.mean((x - batch) ** 2)
    solver = core.minibatch(smooth.gradient_descent(fun, 0.25), 2, key=KEY)
    agreeing = core.run(solver, 0.0, jnp.full(8, 2.0))
    assert bool(agreeing.converged) and agreeing.state.count % 4 == 0
    np.testing.assert_allclose(agreeing.params, 2.0, rtol=1e-3)
    quarrelling = core.run(solver, 0.0, jnp.arange(8.0), max_steps=50)
    assert quarrelling.status == Status.MAX_STEPS
    spoiled = core.run(solver, 0.0, jnp.array([0.0] * 7 + [jnp.nan]), max_steps=50)
    assert spoiled.status == Status.DIVERGED and bool(jnp.isfinite(spoiled.params))
    assert spoiled.state.count <= 4


def test_lanes_of_a_vmap_draw_their_own_batches():
    data = jnp.stack([jnp.arange(6.0), 10 * jnp.arange(6.0)])
    solver = core.minibatch(SEEN, 3, key=KEY)
    solve = lambda d: core.run(solver, jnp.zeros(3), d, max_steps=3, tol=0.0).params
    lanes = jax.vmap(solve)(data)
    for i in range(2):
        np.testing.assert_array_equal(lanes[i], solve(data[i]))


@pytest.mark.parametrize("sizes", [0, -2, 2.0, (), (2, 0), None])
def test_sizes_that_are_no_counts_are_refused(sizes):
    with pytest.raises(ValueError, match="positive Python integers"):
        core.minibatch(SEEN, sizes, key=KEY)


@pytest.mark.parametrize(
    "data, words",
    [
        (jnp.arange(3.0), "4 examples cannot be drawn from 3"),
        (jnp.float32(1), "leading axis of examples"),
        ((jnp.arange(8.0), jnp.arange(7.0)), "leading axis of examples"),
        (None, "leading axis of examples"),
    ],
    ids=["few", "scalar", "unequal", "none"],
)
def test_data_without_enough_examples_are_refused(data, words):
    with pytest.raises(ValueError, match=words):
        core.run(core.minibatch(SEEN, 4, key=KEY), jnp.zeros(4), data)
