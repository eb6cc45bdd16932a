"""Small training problems, and runs of all rates and seeds in one program."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

LICENSE = pathlib.Path(__file__).parent.parent / "LICENSE"
CONTEXT = 8  # characters before the one that is to be told


class Task(NamedTuple):
    """A model and its data: everything of float32."""

    start: Callable[[jax.Array], Any]  # key -> params
    logits: Callable[[Any, Any], jax.Array]  # (params, inputs) -> (n, classes)
    train: tuple[np.ndarray, np.ndarray]  # inputs, labels
    judged: tuple[np.ndarray, np.ndarray]  # rates are chosen on these
    test: tuple[np.ndarray, np.ndarray]
    size: int  # of a batch; zero for all

    def loss(self, params, data):
        """Compute the mean cross-entropy."""
        inputs, labels = data
        return cross_entropy(self.logits(params, inputs), labels)

    def batch(self, key):
        """Draw a batch."""
        inputs, labels = self.train
        if not self.size:
            return jnp.asarray(inputs), jnp.asarray(labels)
        at = jax.random.randint(key, (self.size,), 0, len(labels))
        return jnp.asarray(inputs)[at], jnp.asarray(labels)[at]

    def accuracy(self, params, data):
        """Give the share of right answers."""
        inputs, labels = data
        return jnp.mean(jnp.argmax(self.logits(params, inputs), -1) == labels)


def cross_entropy(logits, labels):
    """Compute the mean cross-entropy of integer labels."""
    each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return jnp.mean(each, dtype=jnp.float32)


def of_model(make, run):
    """Give ``start`` and ``logits`` of an equinox model; ``run(model, inputs)``."""
    _, static = eqx.partition(make(jax.random.key(0)), eqx.is_inexact_array)
    start = lambda key: eqx.filter(make(key), eqx.is_inexact_array)
    return start, lambda params, inputs: run(eqx.combine(params, static), inputs)


def images():
    """Give scikit-learn's digits in three parts: train, judged, test."""
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    pixels = (bunch.data[order] / 16).astype(np.float32)
    labels = bunch.target[order].astype(np.int32)
    cut = lambda a, b: (pixels[a:b], labels[a:b])
    return cut(0, 1000), cut(1000, 1300), cut(1300, None)


def perceptron(width=32, depth=2, size=64):
    """Give digits to a network of fully connected layers."""
    make = lambda key: eqx.nn.MLP(64, 10, width, depth, key=key, dtype=jnp.float32)
    return Task(*of_model(make, lambda model, x: jax.vmap(model)(x)), *images(), size)


class _Decayed(Task):
    """A task with a little decay."""

    def loss(self, params, data):
        """Compute the mean cross-entropy, and the decay."""
        return Task.loss(self, params, data) + 1e-4 * jnp.sum(params**2)


def regressed(size=0):
    """Give digits to softmax regression with a little decay, strongly convex."""
    start = lambda key: jnp.zeros((64, 10), jnp.float32)
    return _Decayed(start, lambda w, x: x @ w, *images(), size)


def convolutions():
    """Give digits to a network of two convolutions."""

    def make(key):
        a, b, c = jax.random.split(key, 3)
        kind = dict(dtype=jnp.float32)
        return (
            eqx.nn.Conv2d(1, 8, 3, key=a, **kind),
            eqx.nn.Conv2d(8, 16, 3, stride=2, key=b, **kind),
            eqx.nn.Linear(64, 10, key=c, **kind),
        )

    def one(model, pixels):
        x = jax.nn.relu(model[0](pixels.reshape(1, 8, 8)))
        return model[2](jax.nn.relu(model[1](x)).ravel())

    run = lambda model, x: jax.vmap(lambda pixels: one(model, pixels))(x)
    return Task(*of_model(make, run), *images(), 64)


def characters():
    """Give the next letter of the text of the licence, from the eight before it."""
    text = LICENSE.read_text()
    letters = sorted(set(text))
    codes = np.array([letters.index(c) for c in text], np.int32)
    order = np.random.default_rng(0).permutation(len(codes) - CONTEXT)
    windows = np.stack([codes[i : i + CONTEXT] for i in order])
    labels = codes[order + CONTEXT]
    parts = [slice(0, 9000), slice(9000, 10000), slice(10000, None)]

    def make(key):
        a, b = jax.random.split(key)
        kind = dict(dtype=jnp.float32)
        return (
            eqx.nn.Embedding(len(letters), 16, key=a, **kind),
            eqx.nn.MLP(16 * CONTEXT, len(letters), 128, 1, key=b, **kind),
        )

    one = lambda model, x: model[1](model[0].weight[x].ravel())
    run = lambda model, x: jax.vmap(lambda window: one(model, window))(x)
    return Task(*of_model(make, run), *[(windows[p], labels[p]) for p in parts], 128)


def extras(task, params, batch):
    """Give all extra arguments: what a training loop has at hand on one batch."""
    inputs, labels = batch
    value_fn = lambda p: task.loss(p, batch)
    value, grad = jax.value_and_grad(value_fn)(params)
    logits_fn = lambda p: task.logits(p, inputs)
    of_logits = jax.grad(lambda logits: cross_entropy(logits, labels))
    return dict(
        value=value,
        grad=grad,
        value_fn=value_fn,
        obj_fn=value_fn,
        hvp=lambda v: jax.jvp(jax.grad(value_fn), (params,), (v,))[1],
        logits_fn=logits_fn,
        target_fn=logits_fn,
        target_grad=of_logits(logits_fn(params)),
    )


def trained(task, transform, steps, key, record=None):
    """Train from a key: params, and a history of ``record(params, extra, state)``."""
    transform = optax.with_extra_args_support(transform)
    first, second = jax.random.split(key)
    params = task.start(first)

    def step(carry, key):
        params, state = carry
        extra = extras(task, params, task.batch(key))
        updates, state = transform.update(extra["grad"], state, params, **extra)
        seen = () if record is None else record(params, extra, state)
        return (optax.apply_updates(params, updates), state), seen

    keys = jax.random.split(second, steps)
    (params, _), history = jax.lax.scan(step, (params, transform.init(params)), keys)
    return params, history


class Tuned(NamedTuple):
    """The best of some rates: medians over seeds."""

    rate: float
    judged: float  # loss on the judged part, by which the rate was chosen
    train: float  # loss
    test: float  # loss
    accuracy: float  # on the test part


def tuned(task, make, rates, steps, seeds=3, together=True) -> Tuned:
    """Train at all rates from all seeds, and choose by the loss on the judged part."""

    def one(rate, seed):
        params, _ = trained(task, make(rate), steps, jax.random.key(seed))
        parts = (task.judged, task.train, task.test)
        return *(task.loss(params, p) for p in parts), task.accuracy(params, task.test)

    rates = np.asarray(rates, np.float32)
    a, b = (x.ravel() for x in np.meshgrid(rates, np.arange(seeds), indexing="ij"))
    lanes = (
        jax.vmap(one)
        if together
        else lambda r, s: jax.lax.map(lambda pair: one(*pair), (r, s))
    )
    found = np.stack(jax.jit(lanes)(a, b), -1).reshape(len(rates), seeds, 4)
    middle = np.median(np.where(np.isfinite(found), found, np.inf), 1)
    best = int(np.argmin(middle[:, 0]))
    return Tuned(float(rates[best]), *map(float, middle[best]))
