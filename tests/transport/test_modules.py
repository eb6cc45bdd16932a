"""Layers as modules: the functions they are, trained in networks, batched, saved."""

import io
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import transport

RNG = np.random.default_rng(0)
TABLE = np.asarray(RNG.normal(size=(4, 3)), np.float32)
SHARED = {"epsilon": 0.1, "axis": 0, "tol": 1e-5}
LAYERS = [
    (transport.SinkhornLayer, transport.sinkhorn_layer, (), {}),
    (
        transport.SinkhornLayer,
        transport.sinkhorn_layer,
        (),
        {"epsilon": 0.5, "a": [1.0, 2.0, 0.5, 0.5], "b": [2.0, 1.0, 1.0], "tol": 1e-5},
    ),
    (transport.SoftSort, transport.soft_sort, (), {}),
    (transport.SoftSort, transport.soft_sort, (), {"targets": 2, **SHARED}),
    (transport.SoftRank, transport.soft_rank, (), {}),
    (transport.SoftRank, transport.soft_rank, (), SHARED),
    (transport.SoftQuantile, transport.soft_quantile, (0.5,), {}),
    (transport.SoftQuantile, transport.soft_quantile, (0.6,), {"width": 0.5, **SHARED}),
    (transport.SoftTopK, transport.soft_top_k, (2,), {}),
    (transport.SoftTopK, transport.soft_top_k, (1,), SHARED),
]


def program(function):
    """What is traced on the table, but for the addresses of what is called."""
    return re.sub(r"0x[0-9a-f]+", "", str(jax.make_jaxpr(function)(TABLE)))


@pytest.mark.parametrize(("module", "function", "sizes", "options"), LAYERS)
def test_a_layer_is_its_function_with_every_option(module, function, sizes, options):
    arrays = {
        name: jnp.asarray(value) if isinstance(value, list) else value
        for name, value in options.items()
    }
    expected = program(lambda x: function(x, *sizes, **arrays))
    assert program(module(*sizes, **options)) == expected
    # And what goes into the program is not the same as without options.
    assert not options or expected != program(lambda x: function(x, *sizes))


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (transport.SinkhornLayer, RNG.normal(size=(3, 3))),
        (transport.SoftRank, np.array([0.3, -1.2, 2.0, 0.9])),
    ],
)
def test_the_temperature_is_trained_with_the_derivative_of_differences(module, x, x64):
    layer = module(epsilon=0.1, tol=1e-12, trained=True)
    probe = RNG.normal(size=x.shape)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(both):
        return jnp.sum(probe * both[0](both[1]))

    _, (grads, slopes) = loss((layer, jnp.asarray(x)))
    step, along = 1e-5, RNG.normal(size=x.shape)

    def moved(t):
        return layer, jnp.asarray(x + t * along)

    def heated(t):
        log = layer.log_epsilon + t
        return eqx.tree_at(lambda layer: layer.log_epsilon, layer, log), jnp.asarray(x)

    for turn, found in ((moved, np.sum(slopes * along)), (heated, grads.log_epsilon)):
        expected = (loss(turn(step))[0] - loss(turn(-step))[0]) / (2 * step)
        assert abs(expected) > 1e-6
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_only_what_is_to_be_trained_is_a_parameter():
    fixed, trained = transport.SoftRank(epsilon=0.1), transport.SoftRank(trained=True)
    assert jax.tree.leaves(fixed) == [] and fixed.epsilon == 0.1
    assert [leaf.shape for leaf in jax.tree.leaves(trained)] == [()]
    assert not trained.log_epsilon.weak_type
    np.testing.assert_allclose(trained.epsilon, 1e-2, rtol=1e-6)
    matching = transport.SinkhornLayer(a=[1.0, 1.0])
    assert jax.tree.leaves(matching) == []
    assert hash(matching) == hash(transport.SinkhornLayer(a=np.ones(2)))


def network(key):
    """Ranks a list of five objects of three features each."""
    scores = eqx.nn.Linear(15, 5, use_bias=False, key=key)
    return eqx.nn.Sequential([scores, transport.SoftRank(epsilon=0.05, trained=True)])


def test_a_network_with_a_layer_is_trained_on_batches_and_saved():
    lists = jax.random.normal(jax.random.key(1), (64, 5, 3))
    hidden = jnp.matmul(lists, jnp.array([1.0, -2.0, 0.5]))
    truth = jnp.argsort(jnp.argsort(hidden, axis=1), axis=1).astype(jnp.float32)
    lists = lists.reshape(64, 15)
    optimiser = optax.adam(0.05)

    @eqx.filter_value_and_grad
    def loss(model):
        return jnp.mean((jax.vmap(model)(lists) - truth) ** 2)

    @eqx.filter_jit
    def step(model, state):
        value, grads = loss(model)
        updates, state = optimiser.update(grads, state)
        return eqx.apply_updates(model, updates), state, value

    model, values = network(jax.random.key(0)), []
    state = optimiser.init(eqx.filter(model, eqx.is_inexact_array))
    with jax.numpy_dtype_promotion("standard"):  # of Adam's own
        for _ in range(40):
            model, state, value = step(model, state)
            values.append(float(value))
    assert values[-1] < 0.2 * values[0]
    assert abs(model[1].log_epsilon - np.log(0.05)) > 1e-3

    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, model)
    file.seek(0)
    again = eqx.tree_deserialise_leaves(file, network(jax.random.key(2)))
    batch = lists[:3]
    ranks, one = jax.jit(lambda: (jax.vmap(again)(batch), model(batch[2])))()
    # A lane of the batch is the single call, of the network that was saved.
    np.testing.assert_allclose(ranks[2], one, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: transport.SoftSort(epsilon=0.0), "epsilon must be positive"),
        (lambda: transport.SinkhornLayer(epsilon=jnp.nan), "epsilon must be positive"),
        (lambda: transport.SoftTopK(5)(jnp.ones(3)), "k is an integer from"),
        (lambda: transport.SoftQuantile(1.5)(jnp.ones(3)), "level"),
        (lambda: transport.SinkhornLayer(a=[1.0])(jnp.ones((2, 2))), "a has one"),
    ],
)
def test_what_makes_no_sense_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
