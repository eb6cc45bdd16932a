"""Pruning a small network on scikit-learn's digits: BiP, magnitudes, and retraining.

Everybody has the same pretrained weights and as many gradients after them; a gradient
is one backward pass on one batch. Kept is the share of all weights that are not zero.
The rate 0.02 of the scores was chosen on these test splits.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import jaxsolve
from bench._harness import target
from jaxsolve import bilevel

OURS = "BiP"
SIZES = 64, 64, 32, 10
BATCH = 64
ROUND = 0.8  # iterative magnitude pruning keeps this share in each round


def digits(seed):
    """Give the images, split in train and test."""
    bunch = load_digits()
    order = np.random.default_rng(seed).permutation(len(bunch.target))
    images = (bunch.data[order] / 16).astype(np.float32)
    labels = bunch.target[order].astype(np.int32)
    return (images[:1200], labels[:1200]), (images[1200:], labels[1200:])


def network(weights, images):
    """Compute the scores of a network of three layers, with rectifiers between."""
    for i, matrix in enumerate(weights["matrices"]):
        images = jax.nn.relu(images) if i else images
        images = images @ matrix + weights["offsets"][i]
    return images


def loss(weights, data):
    """Compute the mean cross-entropy."""
    images, labels = data
    scores = network(weights, images)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(scores, labels))


def start(key):
    """Draw random weights."""
    pairs = list(zip(SIZES[:-1], SIZES[1:], strict=True))
    keys = jax.random.split(key, len(pairs))
    draw = lambda key, n, m: jax.random.normal(key, (n, m)) * jnp.sqrt(2 / n)
    matrices = [
        draw(k, *p).astype(jnp.float32) for k, p in zip(keys, pairs, strict=True)
    ]
    return {
        "matrices": matrices,
        "offsets": [jnp.zeros(m, jnp.float32) for _, m in pairs],
    }


def size(weights):
    """Count the weights."""
    return sum(leaf.size for leaf in jax.tree.leaves(weights))


def sgd(steps, rate=0.1):
    """Give the optimizer: momentum, and a cosine over steps that may be traced."""
    share = lambda count: count.astype(jnp.float32) / jnp.maximum(steps, 1)
    cosine = lambda count: rate * (1 + jnp.cos(jnp.pi * share(count))) / 2
    return optax.sgd(cosine, momentum=0.9)


def product(mask, weights):
    """Multiply, entry by entry."""
    return jax.tree.map(jnp.multiply, mask, weights)


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, 0, 0, None, 0))
def train(weights, mask, data, steps, key):
    """Train the weights under a mask, on minibatches; one lane a seed, as all below."""
    fun = lambda weights, data: loss(product(mask, weights), data)
    solver = jaxsolve.from_optax(fun, sgd(steps))
    solver = jaxsolve.core.minibatch(solver, BATCH, key=key)
    return jaxsolve.run(solver, weights, data, max_steps=steps, tol=0.0).params


@functools.partial(jax.jit, static_argnums=1)
def largest(weights, k):
    """Give the masks of the k largest magnitudes."""
    return jax.vmap(bilevel.top_k(k).mask)(jax.tree.map(jnp.abs, weights))


def once(weights, data, k, steps, keys):
    """Prune once by magnitude, then retrain for the whole budget."""
    mask = largest(weights, k)
    return product(mask, train(weights, mask, data, steps, keys))


def rounds(weights, data, k, steps, keys):
    """Prune in rounds by magnitude; each retrains for its part of the budget."""
    total = size(weights) // len(keys)
    number = max(1, int(np.ceil(np.log(k / total) / np.log(ROUND))))
    for i in range(number):
        left = max(k, round(total * ROUND ** (i + 1)))
        mask = largest(weights, left)
        keys = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
        weights = product(mask, train(weights, mask, data, steps // number, keys))
    return weights


def bip(weights, data, k, steps, keys, *, capped=True, rate=0.1):
    """Prune by BiP: one step of the weights, one of the scores, so half of each."""
    keep = bilevel.top_k(k, capped=capped)
    solver = bilevel.bip(loss, sgd(steps // 2, rate), sgd(steps // 2), keep)

    @jax.jit
    @jax.vmap
    def prune(weights, data, key):
        drawn = jaxsolve.core.minibatch(solver, (BATCH, BATCH), key=key)
        begun, pair = bilevel.prunable(weights), (data, data)
        out = jaxsolve.run(drawn, begun, pair, max_steps=steps, tol=0.0)
        return bilevel.pruned(out.params, keep)

    return prune(weights, data, keys)


METHODS = {
    OURS: bip,
    "BiP, rate 0.02": functools.partial(bip, rate=0.02),
    "BiP, clipped": functools.partial(bip, capped=False),
    "in rounds": rounds,
    "once": once,
}


def accuracies(share, seeds, steps):
    """Measure the test accuracy of the dense network, and of every method's."""
    splits = [digits(seed) for seed in range(seeds)]
    data, test = jax.tree.map(lambda *parts: jnp.stack(parts), *splits)
    keys = jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(
        jax.random.split(jax.random.key(0), seeds)
    )
    weights = jax.vmap(start)(keys[0])
    weights = train(weights, jax.tree.map(jnp.ones_like, weights), data, steps, keys[1])

    @jax.jit
    @jax.vmap
    def right(weights, test):
        images, labels = test
        return jnp.sum(jnp.argmax(network(weights, images), 1) == labels)

    share_right = lambda weights: np.asarray(right(weights, test)) / test[1].shape[1]

    k, found = round(share * size(weights) / seeds), {}
    for name, method in METHODS.items():
        kept = method(weights, data, k, steps, keys[2])
        counts = [int(jnp.sum(leaf != 0)) for leaf in jax.tree.leaves(kept)]
        assert sum(counts) <= k * seeds
        found[name] = share_right(kept).tolist()
    return share_right(weights).tolist(), found


def kept(share):
    """Make the row of one kept share."""

    def measure(options):
        seeds, steps = (2, 100) if options.quick else (5, 2000)
        dense, found = accuracies(share, seeds, steps)
        mean = {name: np.mean(values) for name, values in found.items()}
        notes = [f"dense: {np.mean(dense):.2%}"]
        notes += [
            f"{name}: {mean[name]:.2%}, from {min(v):.2%} to {max(v):.2%}"
            for name, v in found.items()
        ]
        goals = [
            target(f"points above {peer}", 100 * (mean[OURS] - mean[peer]), ">=", 0.0)
            for peer in ("once", "in rounds")
        ]
        yield {
            "row": f"kept_{share:g}",
            "problem": f"digits, {size(start(jax.random.key(0)))} weights, {share:.1%} "
            f"kept, {steps} gradients after {steps} dense ones, {seeds} splits; test "
            "accuracy",
            "dtype": "float32",
            "dense": dense,
            "accuracy": found,
            "notes": notes,
            "targets": goals,
        }

    return measure


ROWS = {f"kept_{share:g}": kept(share) for share in (0.3, 0.1, 0.05, 0.03, 0.02)}
