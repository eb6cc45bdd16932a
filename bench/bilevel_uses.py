"""What bilevel problems are for: penalties, wrong labels, features; on bundled data."""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LassoCV, RidgeCV

from bench._harness import target
from jaxsolve import bilevel, core, smooth
from jaxsolve.bilevel import BilevelProblem, Levels

SPLITS = 5


# ------------------------------------------------------------------ a penalty a feature

FOLDS = 5
PRIOR = 0.01  # keeps penalties together; 0 and 0.001 were tried: 2 % and 1 % worse


def folded(levels, fold, data):
    """Give the loss on the rows that each fit has not seen, or on those it has."""
    features, targets, masks = data
    masks = masks if fold else 1 - masks
    squares = (levels.lower @ features.T - targets[None]) ** 2
    return jnp.mean(jnp.sum(masks * squares, 1) / jnp.sum(masks, 1)) / 2


def ridge(x, weights):
    """Give the penalty of the weights of all fits; x is one for all, or each."""
    return jnp.mean(jnp.sum(weights**2 * jnp.exp(x), 1)) / 2


PENALTIES = BilevelProblem(
    lambda levels, data: folded(levels, True, data) + PRIOR * jnp.var(levels.upper),
    lambda levels, data: (
        folded(levels, False, data) + ridge(levels.upper, levels.lower)
    ),
)


def tune(data, start, steps=30, rate=0.2):
    """Choose penalties by Adam on hypergradients, and fit once more to all rows."""
    features, targets, _ = data
    size = features.shape[1]
    hypergradient = bilevel.implicit_hypergradient(
        PENALTIES.upper, smooth.newton(PENALTIES.inner)
    )
    optimizer = optax.adam(rate)

    def one(carry, _):
        levels, state = carry
        found = hypergradient(levels, (data, data))
        update, state = optimizer.update(found.gradient, state)
        x = optax.apply_updates(levels.upper, update)
        return (Levels(x, found.lower), state), found.converged

    carry = Levels(start, jnp.zeros((FOLDS, size))), optimizer.init(start)
    (levels, _), trusted = jax.lax.scan(one, carry, length=steps)
    gram = features.T @ features / len(targets)
    penalty = jnp.diag(jnp.exp(levels.upper) * jnp.ones(size))
    weights = jnp.linalg.solve(gram + penalty, features.T @ targets / len(targets))
    return levels.upper, weights, jnp.all(trusted)


def patients(seed):
    """Give diabetes with three shuffled copies of each feature: train and test."""
    features, targets = load_diabetes(return_X_y=True)
    rng = np.random.default_rng(seed)
    noise = rng.permuted(np.hstack([features] * 3), axis=0)
    z = np.hstack([features, noise]) * np.sqrt(len(targets))
    t = (targets - targets.mean()) / targets.std()
    train, test = np.split(rng.permutation(len(t)), [200])
    masks = np.stack([np.arange(200) % FOLDS == k for k in range(FOLDS)]) * 1.0
    return (z[train], t[train], masks), (z[test], t[test])


def penalties(options):
    """Measure a penalty a feature beside one for all, the lasso, and ridge."""
    losses = {"one": [], "each": [], "RidgeCV": [], "LassoCV": []}
    seconds, gaps, solve = [], [], jax.jit(tune)
    starts = {"one": jnp.asarray(-2.0), "each": jnp.full(40, -2.0)}
    for seed in range(1 if options.quick else 20):
        data, (z, t) = patients(seed)
        error = lambda prediction, t=t: float(np.mean((prediction - t) ** 2))
        for name, start in starts.items():
            begin = time.perf_counter()
            x, w, trusted = jax.block_until_ready(
                solve(tuple(map(jnp.asarray, data)), start)
            )
            seconds.append(time.perf_counter() - begin)
            assert bool(trusted)
            losses[name].append(error(z @ np.asarray(w)))
        gaps.append(float(jnp.mean(x[10:]) - jnp.mean(x[:10])))
        peers = RidgeCV(np.logspace(-2, 4, 50)), LassoCV(cv=FOLDS)
        for peer in peers:
            prediction = peer.fit(*data[:2]).predict(z)
            losses[type(peer).__name__].append(error(prediction))
    mean = {name: float(np.mean(values)) for name, values in losses.items()}
    wins = np.mean(np.array(losses["one"]) > np.array(losses["each"]))
    yield {
        "row": "penalties",
        "problem": "diabetes with three shuffled copies of each feature, 200 rows in "
        f"{FOLDS} folds; squared test error, mean of {len(gaps)} splits",
        "dtype": "float64",
        "notes": [
            f"one penalty {mean['one']:.3f}, a penalty a feature {mean['each']:.3f}, "
            f"RidgeCV {mean['RidgeCV']:.3f}, LassoCV {mean['LassoCV']:.3f}",
            f"a penalty a feature is better in {wins:.0%} of the splits, and "
            f"{np.exp(np.mean(gaps)):.1f} times larger on shuffled features",
            f"{np.median(seconds):.3f} s for 30 steps of Adam, every gradient judged",
        ],
        "losses": losses,
        "targets": [
            target("error of one / each", mean["one"] / mean["each"], ">=", 1),
            target("error of LassoCV / each", mean["LassoCV"] / mean["each"], ">=", 1),
        ],
    }


# --------------------------------------------------------------------- wrong labels


def softmax_losses(weights, features, labels):
    """Give the losses of a linear classifier: (n,)."""
    logits = features @ weights[:-1] + weights[-1:]
    right = jnp.take_along_axis(logits, labels[:, None], 1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - right


CLEANING = BilevelProblem(
    lambda levels, data: jnp.mean(softmax_losses(levels.lower, *data)),
    lambda levels, data: (
        jnp.mean(jax.nn.sigmoid(levels.upper) * softmax_losses(levels.lower, *data))
        + 1e-3 * jnp.sum(levels.lower**2)
    ),
)


def corrupted(seed, share=0.5):
    """Give digits, of whose training labels half are wrong, and which these are."""
    images, digits = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(digits))
    train, valid, test = np.split(order, [800, 1000])
    wrong = rng.random(800) < share
    labels = digits[train].copy()
    labels[wrong] = (labels[wrong] + rng.integers(1, 10, wrong.sum())) % 10
    images = images / 16
    part = lambda rows, labels: (jnp.asarray(images[rows]), jnp.asarray(labels))
    data = part(valid, digits[valid]), part(train, labels)
    return data, part(test, digits[test]), jnp.asarray(wrong)


@functools.partial(jax.jit, static_argnames="rounds")
def clean(data, rounds=60):
    """Learn a weight a training image, by implicit descent with any optimizer."""
    n = data[1][1].shape[0]
    solver = bilevel.implicit_descent(
        CLEANING,
        smooth.lbfgs(CLEANING.inner),
        optax.adam(0.3),
        lambda k: 1e-4,
        inner_steps=20,
        adjoint_steps=10,
    )
    start = Levels(jnp.zeros(n), jnp.zeros((65, 10)))
    done = lambda params, state: state.outer >= rounds
    return core.run(solver, start, data, max_steps=32 * rounds, tol=0.0, stop=done)


@jax.jit
def fit(data, weights):
    """Fit the classifier to weighted images."""
    x = jnp.log(weights) - jnp.log1p(-weights)
    return core.run(
        smooth.lbfgs(CLEANING.inner), jnp.zeros((65, 10)), (x, data[1])
    ).params


def accuracy(weights, data):
    """Give the share of right answers."""
    features, labels = data
    logits = features @ weights[:-1] + weights[-1:]
    return float(jnp.mean(jnp.argmax(logits, 1) == labels))


def cleaning(options):
    """Measure hyper-cleaning: weights of training images, learned on clean ones."""
    found = {"all labels": [], "cleaned": [], "right labels only": [], "clean 200": []}
    told, seconds = [], []
    for seed in range(1 if options.quick else SPLITS):
        data, test, wrong = corrupted(seed)
        begin = time.perf_counter()
        out = jax.block_until_ready(clean(data, 3 if options.quick else 60))
        seconds.append(time.perf_counter() - begin)
        weights = jax.nn.sigmoid(out.params.upper)
        even = jnp.full_like(weights, 0.5)
        half = lambda keep: jnp.where(keep, 0.5, 1e-6)
        found["all labels"].append(accuracy(fit(data, even), test))
        found["cleaned"].append(accuracy(out.params.lower, test))
        found["right labels only"].append(accuracy(fit(data, half(~wrong)), test))
        alone = (data[0], data[0])
        found["clean 200"].append(accuracy(fit(alone, jnp.full(200, 0.5)), test))
        told.append(float(jnp.mean((weights < 0.5) == wrong)))
    mean = {name: float(np.mean(values)) for name, values in found.items()}
    yield {
        "row": "cleaning",
        "problem": "digits, half of 800 labels wrong, 200 clean ones to learn weights "
        f"from; test accuracy, mean of {len(told)} splits",
        "dtype": "float64",
        "notes": [
            ", ".join(f"{name} {value:.1%}" for name, value in mean.items()),
            f"wrong labels told from right ones: {np.mean(told):.1%}",
            f"{np.median(seconds):.1f} s for 60 upper steps",
        ],
        "accuracies": found,
        "targets": [
            target(
                "cleaned - all labels", mean["cleaned"] - mean["all labels"], ">=", 0
            )
        ],
    }


# ------------------------------------------------------------------ features to share

TASKS = 8  # in a step
SHOTS, WAYS, FEATURES = 3, 3, 32


def embed(x, images):
    """Give the features of images: (n, FEATURES)."""
    hidden = jnp.tanh(images @ x["first"] + x["offset"][None])
    return hidden @ x["second"]


def head_losses(levels, data):
    """Give the losses of one task's linear head on shared features."""
    images, labels = data
    return softmax_losses(levels.lower, embed(levels.upper, images), labels)


FEW_SHOT = BilevelProblem(
    lambda levels, data: jnp.mean(head_losses(levels, data)),
    lambda levels, data: (
        jnp.mean(head_losses(levels, data)) + 0.01 * jnp.sum(levels.lower**2)
    ),
)


def tasks(images, digits, classes, count, rng, queries=12):
    """Draw tasks: a few images of three classes to fit, and others to judge."""
    few, many = [], []
    for _ in range(count):
        chosen = rng.choice(classes, WAYS, replace=False)
        rows = [
            rng.choice(np.flatnonzero(digits == c), SHOTS + queries, replace=False)
            for c in chosen
        ]
        label = np.repeat(np.arange(WAYS), SHOTS)
        few.append((images[np.concatenate([r[:SHOTS] for r in rows])], label))
        label = np.repeat(np.arange(WAYS), queries)
        many.append((images[np.concatenate([r[SHOTS:] for r in rows])], label))
    stack = lambda parts: tuple(
        jnp.asarray(np.stack(p)) for p in zip(*parts, strict=True)
    )
    return stack(many), stack(few)


def learn(stream, key, rate=3e-3):
    """Learn features by Adam on mean hypergradients of a stream of tasks."""
    first, second = jax.random.split(key)
    x = {
        "first": jax.random.normal(first, (64, 64)) / 4,
        "offset": jnp.zeros(64),
        "second": jax.random.normal(second, (64, FEATURES)) / 8,
    }
    hypergradient = bilevel.implicit_hypergradient(
        FEW_SHOT.upper,
        smooth.lbfgs(FEW_SHOT.inner),
        estimated=False,
        linear_solve=bilevel.conjugate_gradient(max_steps=20),
    )
    optimizer = optax.adam(rate)
    heads = jnp.zeros((TASKS, FEATURES + 1, WAYS))

    def one(carry, data):
        x, state = carry
        found = jax.vmap(lambda y, d: hypergradient(Levels(x, y), d, tol=1e-3))(
            heads, data
        )
        mean = jax.tree.map(lambda g: jnp.mean(g, 0), found.gradient)
        update, state = optimizer.update(mean, state)
        return (optax.apply_updates(x, update), state), jnp.mean(found.value)

    (x, _), values = jax.lax.scan(one, (x, optimizer.init(x)), stream)
    return x, values


def judged(x, data):
    """Give the mean accuracy of heads fitted to the few images of new tasks."""

    def one(many, few):
        y = core.run(
            smooth.lbfgs(FEW_SHOT.inner), jnp.zeros((FEATURES + 1, WAYS)), (x, few)
        ).params
        logits = embed(x, many[0]) @ y[:-1] + y[-1:]
        return jnp.mean(jnp.argmax(logits, 1) == many[1])

    return jnp.mean(jax.vmap(one)(*data))


def representation(options):
    """Measure features learned over tasks of 900 images, on tasks of the others."""
    images, digits = load_digits(return_X_y=True)
    images = images / 16
    found = {"learned": [], "random": [], "pixels": []}
    steps = 5 if options.quick else 300
    solve = jax.jit(learn)
    seconds = []
    for seed in range(1 if options.quick else SPLITS):
        rng = np.random.default_rng(seed)
        order, ten = rng.permutation(len(digits)), np.arange(10)
        known, new = order[:900], order[900:]
        many = tasks(images[known], digits[known], ten, steps * TASKS, rng)
        stream = jax.tree.map(lambda a: a.reshape(steps, TASKS, *a.shape[1:]), many)
        fresh = tasks(images[new], digits[new], ten, 100, rng)
        begin = time.perf_counter()
        x, values = jax.block_until_ready(solve(stream, jax.random.key(seed)))
        seconds.append(time.perf_counter() - begin)
        empty = jax.tree.map(lambda a: a[:0], stream)
        start, _ = solve(empty, jax.random.key(seed))
        found["learned"].append(float(jax.jit(judged)(x, fresh)))
        found["random"].append(float(jax.jit(judged)(start, fresh)))
        found["pixels"].append(_pixels(fresh))
    mean = {name: float(np.mean(v)) for name, v in found.items()}
    yield {
        "row": "representation",
        "problem": f"digits, {SHOTS} unseen images each of {WAYS} classes, on "
        f"features learned from tasks of other images; accuracy, {len(seconds)} draws",
        "dtype": "float64",
        "notes": [
            ", ".join(f"{name} {value:.1%}" for name, value in mean.items()),
            f"{np.median(seconds):.1f} s for {steps} upper steps",
        ],
        "accuracies": found,
        "targets": [
            target("learned - pixels", mean["learned"] - mean["pixels"], ">=", 0)
        ],
    }


def _pixels(data):
    problem = BilevelProblem(
        FEW_SHOT.upper,
        lambda levels, d: (
            jnp.mean(softmax_losses(levels.lower, *d)) + 0.01 * jnp.sum(levels.lower**2)
        ),
    )

    @jax.jit
    @jax.vmap
    def one(many, few):
        y = core.run(
            smooth.lbfgs(problem.inner), jnp.zeros((65, WAYS)), (jnp.zeros(()), few)
        ).params
        logits = many[0] @ y[:-1] + y[-1:]
        return jnp.mean(jnp.argmax(logits, 1) == many[1])

    return float(jnp.mean(one(*data)))


ROWS = {
    "penalties": penalties,
    "cleaning": cleaning,
    "representation": representation,
}
