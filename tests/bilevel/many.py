"""Problem Q in many blocks: the upper objective is the mean of theirs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsolve.bilevel import Levels, bsvrb_v1, bsvrb_v2
from tests.bilevel import quadratic
from tests.bilevel.quadratic import Quadratic

KEY = jax.random.key(3)


def draw(m=20, dx=5, dy=4, top=4.0, seed=1):
    """Data (targets, Quadratic), every leaf with a leading axis of m blocks."""
    rng = np.random.default_rng(seed)
    targets, numbers = [], []
    for _ in range(m):
        basis = np.linalg.qr(rng.standard_normal((dy, dy))).Q
        hessian = basis @ np.diag(np.linspace(1, top, dy)) @ basis.T
        cross = rng.standard_normal((dy, dx))
        linear, target = rng.standard_normal((2, dy))
        numbers.append(Quadratic((hessian + hessian.T) / 2, cross, linear))
        targets.append(target)
    return np.stack(targets), jax.tree.map(lambda *parts: np.stack(parts), *numbers)


def blocks(data):
    """The data of every block."""
    return [jax.tree.map(lambda v: v[i], data) for i in range(len(data[0]))]


def hypergradient(x, data):
    """The gradient of F in closed form."""
    return np.mean([quadratic.hypergradient(x, one) for one in blocks(data)], 0)


def lower_solution(x, data):
    """y*(x), (m, dy)."""
    return np.stack([quadratic.lower_solution(x, one) for one in blocks(data)])


def solution(data):
    """The stationary pair."""
    dx = data[1].cross.shape[-1]
    offset = hypergradient(np.zeros(dx), data)
    matrix = np.stack([hypergradient(e, data) - offset for e in np.eye(dx)], 1)
    x = np.linalg.solve(matrix, -offset)
    return Levels(x, lower_solution(x, data))


def floats(tree, dtype=None):
    """JAX arrays of NumPy ones."""
    return jax.tree.map(lambda v: jnp.asarray(v, dtype), tree)


def start(m, dx=5, dy=4, dtype=None):
    """Zeros."""
    return Levels(jnp.zeros(dx, dtype), jnp.zeros((m, dy), dtype))


def first(problem, eta, tau, *, floor=0.5, **options):
    """The first form, by gradient steps."""
    return bsvrb_v1(problem, optax.sgd(eta), tau, floor, **options)


def second(problem, eta, tau, **options):
    """The second form, its stepsizes alike."""
    return bsvrb_v2(problem, optax.sgd(eta), tau, tau, **options)
