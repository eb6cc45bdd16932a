"""A thousand bootstrap replicas of a logistic regression, solved in one batch."""

import time
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

import jaxsolve

TOL = 1e-8  # on the gradient, for both libraries


class Tumours(NamedTuple):
    """Measurements of tumours, shared by all replicas."""

    features: chex.Array  # (n, 30), real: standardised.
    signs: chex.Array  # (n,), real: 1 where malignant, -1 where benign.


class Bootstrap(NamedTuple):
    """What came out."""

    names: list[str]  # of the features
    coefficients: np.ndarray  # (replicas, 30)
    solution: jaxsolve.Solution
    first: float  # seconds of the first call, compilation included
    again: float  # seconds of the second call
    loop: float  # seconds a replica in scikit-learn's loop
    looped: int  # how many replicas were timed there
    grads: tuple[float, float]  # largest gradient norm: jaxsolve's, scikit-learn's
    gap: float  # largest difference of coefficients


def logistic(model: dict, data: tuple[chex.Array, Tumours]) -> chex.Array:
    """The objective of scikit-learn's LogisticRegression(C=1), per tumour."""
    counts, tumours = data
    margins = tumours.signs * (
        tumours.features @ model["coefficients"] + model["intercept"]
    )
    ridge = jnp.sum(model["coefficients"] ** 2) / 2
    return (jnp.sum(counts * jax.nn.softplus(-margins)) + ridge) / margins.size


def bootstrap(replicas: int, looped: int, seed: int, progress) -> Bootstrap:
    """Solves all replicas in one batch, and some in a loop over scikit-learn."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    features = (bunch.data - bunch.data.mean(0)) / bunch.data.std(0)
    signs = np.where(bunch.target == 0, 1.0, -1.0)
    size, width = features.shape
    # A resample is how often each tumour was drawn, so that replicas share the data.
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(size, np.full(size, 1 / size), replicas).astype(float)

    solver = jaxsolve.smooth.lbfgs(logistic)
    start = {
        "coefficients": jnp.zeros((replicas, width)),
        "intercept": jnp.zeros(replicas),
    }
    data = jnp.asarray(counts), Tumours(jnp.asarray(features), jnp.asarray(signs))
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        solution = jaxsolve.solve_batch(solver, start, data, in_axes=(0, None), tol=TOL)
        jax.block_until_ready(solution.params)
        seconds.append(time.perf_counter() - began)
        progress()
    tumours = Tumours(features, signs)
    ours = np.column_stack(
        [solution.params["coefficients"], solution.params["intercept"]]
    )
    theirs, loop = scikit_learn(tumours, counts[:looped], progress)
    grads = (
        max(sup_norm(*lane, tumours) for lane in zip(found, counts, strict=False))
        for found in (ours, theirs)
    )
    return Bootstrap(
        [str(name) for name in bunch.feature_names],
        ours[:, :-1],
        solution,
        *seconds,
        loop / looped,
        looped,
        tuple(grads),
        float(np.max(np.abs(ours[:looped] - theirs))),
    )


def scikit_learn(tumours, counts, progress) -> tuple[np.ndarray, float]:
    """Fits one replica after the other: coefficients and intercepts, seconds."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    rival, found, seconds = LogisticRegression(tol=TOL, max_iter=10_000), [], 0.0
    with threadpool_limits(1):  # at its fastest: threads cost more than they bring
        for weights in counts:
            began = time.perf_counter()
            rival.fit(*tumours, sample_weight=weights)
            seconds += time.perf_counter() - began
            found.append(np.append(rival.coef_[0], rival.intercept_))
            progress()
    return np.stack(found), seconds


def sup_norm(found, counts, tumours) -> float:
    """The gradient of the objective, in NumPy: its largest entry."""
    features, signs = tumours
    margins = signs * (features @ found[:-1] + found[-1])
    slopes = -signs * counts / (1 + np.exp(margins))
    grad = np.append(features.T @ slopes + found[:-1], slopes.sum()) / len(signs)
    return float(np.max(np.abs(grad)))
