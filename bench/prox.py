"""Projections and proximal operators against JAXopt, optax and scikit-learn.

There is no objective here: traces and calls are of nothing, and every solve is a step.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxopt import isotonic as jaxopt_isotonic
from jaxopt import projection as jaxopt_projection
from sklearn.isotonic import isotonic_regression

from bench._harness import Contender, compare, row, target
from jaxsolve import prox

OURS = "jaxsolve"


def once(operator):
    """Give a contender's builder for an operator of arrays."""
    return lambda fun: lambda *args: (operator(*args), jnp.ones((), jnp.int32))


def measure(name, problem, operators, args, exact, bound, options, **more):
    """Measure operators, ours first, by the largest distance from the exact answer."""
    contenders = [
        Contender(label, once(operator), settings, compiled)
        for label, (operator, settings, compiled) in operators.items()
    ]
    error = lambda out: np.max(np.abs(np.asarray(out) - exact))
    figures = compare(contenders, lambda x: x, args, error, bound, options)
    peers = [label for label in operators if label != OURS]
    targets = []
    if peers:
        best = figures.fastest(peers)
        goal = more.pop("goal", 1.0)
        ratio = figures.ratio(best, OURS)
        targets = [target(f"time of {best} / ours", ratio, ">=", goal)]
    return row(name, problem, figures, OURS, targets=targets, **more)


def trend(shape):
    """Give noise about a line."""
    noise = np.random.default_rng(0).normal(size=shape)
    return jnp.asarray(noise + np.linspace(0, 3, shape[-1]))


def isotonic(options):
    """Measure one isotonic regression, then a batch."""
    size, lanes = (50, 4) if options.quick else (1000, 256)
    x = trend((size,))
    exact = isotonic_regression(np.asarray(x))
    operators = {
        OURS: (prox.isotonic(), "", True),
        "scikit-learn": (lambda x: isotonic_regression(np.asarray(x)), "", False),
    }
    notes = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pav = jaxopt_isotonic.isotonic_l2_pav
        operators["jaxopt"] = (pav, "a callback; slow Python without numba", True)
        notes.append("JAXopt's runs on the host, in Python if numba is not installed.")
        problem = f"isotonic regression, n={size}"
        yield measure(
            "isotonic", problem, operators, (x,), exact, 1e-10, options, notes=notes
        )

    rows = trend((lanes, size))
    loop = lambda x: np.stack([isotonic_regression(r) for r in np.asarray(x)])
    operators = {
        OURS: (prox.isotonic(axis=1), "", True),
        "scikit-learn": (loop, "a loop over rows", False),
    }
    problem = f"{lanes} isotonic regressions, n={size}"
    exact = loop(rows)
    yield measure("isotonic_batch", problem, operators, (rows,), exact, 1e-10, options)


def simplex(options):
    """Measure projections onto the simplex, in a batch."""
    lanes, size = (8, 10) if options.quick else (1024, 100)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(lanes, size)))
    operators = {
        OURS: (prox.simplex(axis=1), "", True),
        "jaxopt": (jax.vmap(jaxopt_projection.projection_simplex), "", True),
        "optax": (jax.vmap(optax.projections.projection_simplex), "", True),
    }
    # By bisection, alike for all.
    low, high = np.asarray(x).min(1) - 1, np.asarray(x).max(1)
    for _ in range(100):
        middle = (low + high) / 2
        above = np.maximum(np.asarray(x) - middle[:, None], 0).sum(1) > 1
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    exact = np.maximum(np.asarray(x) - high[:, None], 0)
    problem = f"{lanes} projections onto the simplex, n={size}"
    yield measure("simplex", problem, operators, (x,), exact, 1e-10, options)


def box_section(options):
    """Measure projections onto the section of a box and a hyperplane, in a batch."""
    lanes, size = (8, 10) if options.quick else (256, 100)
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(size=(lanes, size)))
    normal = jnp.asarray(rng.uniform(0.5, 2, size=(lanes, size)))
    ours = lambda x, a: prox.box_section(0.0, 1.0, a, 5.0, axis=1)(x)

    def theirs(x, a):
        bounds = jnp.zeros(size), jnp.ones(size)
        return jaxopt_projection.projection_box_section(x, (*bounds, a, 5.0))

    low, high = np.full((lanes, 1), -10.0), np.full((lanes, 1), 10.0)
    a, y = np.asarray(normal), np.asarray(x)
    for _ in range(100):
        middle = (low + high) / 2
        above = (a * np.clip(y - middle * a, 0, 1)).sum(1, keepdims=True) > 5.0
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    operators = {
        OURS: (ours, "exact, by a safeguarded Newton method", True),
        "jaxopt": (jax.vmap(theirs), "bisection, its default tolerance", True),
    }
    exact = np.clip(y - high * a, 0, 1)
    problem = f"{lanes} projections onto a box section, n={size}"
    yield measure("box_section", problem, operators, (x, normal), exact, 1e-4, options)


def total_variation(options):
    """Measure total variation in one dimension; there is no peer in JAX."""
    size, weight = (50, 1.0) if options.quick else (1000, 1.0)
    rng = np.random.default_rng(3)
    jumps = rng.normal(size=size) * 5 * (rng.uniform(size=size) < 0.02)
    x = jnp.asarray(np.cumsum(jumps) + rng.normal(size=size))
    operators = {OURS: (prox.total_variation(weight), "", True)}
    out = np.asarray(prox.total_variation(weight)(x))
    dual, bends = np.cumsum(np.asarray(x) - out)[:-1], np.sign(np.diff(out))
    slack = np.max(np.abs(np.where(np.abs(np.diff(out)) > 1e-9, dual + bends, 0)))
    notes = [f"violation of the optimality conditions: {slack:.1e}"]
    problem = f"total variation of a signal, n={size}"
    yield measure(
        "total_variation", problem, operators, (x,), out, 1e-10, options, notes=notes
    )


ROWS = {
    "isotonic": isotonic,
    "simplex": simplex,
    "box_section": box_section,
    "total_variation": total_variation,
}
