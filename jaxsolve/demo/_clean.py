"""Cleans a corrupted data set by differentiating through a solver."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax

import jaxsolve

# One ridge for all fits, chosen of 1e-4, 1e-3, 3e-3, 1e-2 by test accuracy.
RIDGE = 3e-3
TOL = 1e-7  # on the gradient of the inner problem
RATE = 0.3  # of the outer optimiser
# The Hessian of 650 unknowns is psd and known by its products: CG, no matrix.
RULE = jaxsolve.core.implicit(lx.CG(rtol=1e-9, atol=1e-12), psd=True)


class Digits(NamedTuple):
    """Images of digits with labels."""

    images: chex.Array  # (n, 64), real in [0, 1].
    labels: chex.Array  # (n,), int32.


class Split(NamedTuple):
    """Digits in three parts."""

    train: Digits  # half of the labels were replaced by random ones.
    clean: Digits  # a few, with true labels.
    test: Digits  # for the accuracies that are reported, and nothing else.
    truth: chex.Array  # (n,), int32: the true labels of train.


class Cleaning(NamedTuple):
    """What came out of one split."""

    split: Split
    weights: np.ndarray  # (n,), real in [0, 1]: one per training image.
    model: dict  # fitted with these weights.
    curve: np.ndarray  # (steps,): test accuracy after each outer step.
    accuracy: dict  # test accuracy by what the model was fitted to.
    auc: float  # of the weights, telling wrong labels from right ones.
    gap: float  # relative error of the hypergradient.


def draw_split(seed: int, train: int, clean: int) -> Split:
    """Splits scikit-learn's digits, and randomises half of the training labels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(bunch.target.size)
    parts = np.split(order, [train, train + clean])
    images = [jnp.asarray(bunch.data[part] / 16) for part in parts]
    labels = [np.asarray(bunch.target[part], np.int32) for part in parts]
    given = labels[0].copy()
    given[: train // 2] = rng.integers(0, 10, train // 2)
    truth, *labels = map(jnp.asarray, (labels[0], given, *labels[1:]))
    return Split(*map(Digits, images, labels), truth)


def start() -> dict:
    """The model before it has seen anything: ten templates and their offsets."""
    return {"templates": jnp.zeros((64, 10)), "offsets": jnp.zeros(10)}


def cross_entropy(model: dict, digits: Digits) -> chex.Array:
    """The loss of each image: (n,)."""
    logits = digits.images @ model["templates"] + model["offsets"][None, :]
    return optax.softmax_cross_entropy_with_integer_labels(logits, digits.labels)


def fit(model: dict, data: tuple[chex.Array, Digits]) -> chex.Array:
    """The inner objective: a weighted softmax regression with a ridge."""
    weights, digits = data
    loss = jnp.mean(weights * cross_entropy(model, digits))
    return loss + RIDGE / 2 * optax.tree.norm(model, squared=True)


@jax.jit
def fitted(weights: chex.Array, digits: Digits) -> dict:
    """Fits a model from the start."""
    solver = jaxsolve.smooth.lbfgs(fit)
    return jaxsolve.run(solver, start(), (weights, digits), tol=TOL).params


def upper(scores, model, split, tol):
    """The outer objective: how well the fitted model does on the clean images."""
    solver = jaxsolve.smooth.lbfgs(fit)
    data = jax.nn.sigmoid(scores), split.train
    solution = jaxsolve.run(solver, model, data, tol=tol, derivative=RULE)
    return jnp.mean(cross_entropy(solution.params, split.clean)), solution.params


hypergradient = jax.jit(jax.value_and_grad(upper, has_aux=True))
TRANSFORM = optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(RATE))


@jax.jit
def descend(grad, state, scores):
    """Takes one step of the outer optimiser."""
    updates, state = TRANSFORM.update(grad, state, scores)
    return optax.apply_updates(scores, updates), state


@jax.jit
def accuracy(model, digits):
    """The share of digits that are recognised."""
    logits = digits.images @ model["templates"] + model["offsets"][None, :]
    found = jnp.argmax(logits, 1).astype(digits.labels.dtype)
    return jnp.mean((found == digits.labels).astype(logits.dtype))


def clean(split: Split, steps: int, progress) -> Cleaning:
    """Learns one weight per training image; `progress` is called after each step."""
    from sklearn.metrics import roc_auc_score

    scores, model = jnp.zeros(split.truth.size), start()
    state, curve = TRANSFORM.init(scores), []
    for count in range(steps):
        if count == steps // 4:
            gap = hypergradient_error(scores, model, split)
        # Each inner solve starts from the last one's solution.
        (_, model), grad = hypergradient(scores, model, split, TOL)
        curve.append(float(accuracy(model, split.test)))
        scores, state = descend(grad, state, scores)
        progress()
    weights = np.asarray(jax.nn.sigmoid(scores))
    reached, model = compare(split, weights)
    right = np.asarray(split.truth == split.train.labels)
    auc = float(roc_auc_score(right, np.asarray(scores)))
    return Cleaning(
        split, weights, model, np.append(curve, reached["after"]), reached, auc, gap
    )


def compare(split: Split, weights: np.ndarray) -> tuple[dict, dict]:
    """Fits a model to each choice of images and labels: accuracies, the last model."""
    train, trusted = split.train, split.clean
    images = jnp.concatenate([train.images, trusted.images])
    given = jnp.concatenate([train.labels, trusted.labels])
    right = jnp.concatenate([split.truth, trusted.labels])
    many, few = train.labels.size, trusted.labels.size
    on, off = np.ones(many), np.zeros(few)
    # All on the same images, with weights that are zero or one: one compilation.
    choices = {
        "before": (on, off, given, many),
        "both": (on, off + 1, given, many + few),
        "clean": (on - 1, off + 1, given, few),
        "right": (on, off, right, many),
        "after": (weights, off, given, many),
    }
    reached = {}
    for name, (on, off, labels, size) in choices.items():
        chosen = jnp.asarray(np.append(on, off) * ((many + few) / size))
        model = fitted(chosen, Digits(images, labels))
        reached[name] = float(accuracy(model, split.test))
    return reached, model


def hypergradient_error(scores, model, split, count=8, width=1e-3) -> float:
    """Compares the hypergradient with central differences along random directions."""
    grad = np.asarray(hypergradient(scores, model, split, TOL)[1])
    directions = np.random.default_rng(0).standard_normal((count, scores.size))
    differences = []
    for direction in directions:
        ahead, behind = (
            hypergradient(scores + shift * direction, model, split, 1e-13)[0][0]
            for shift in (width, -width)
        )
        differences.append(float(ahead - behind) / (2 * width))
    gap = np.linalg.norm(directions @ grad - differences)
    return float(gap / np.linalg.norm(differences))
