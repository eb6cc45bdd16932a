"""A finite sum of quadratic bilevel problems: the mean one is known."""

import jax.numpy as jnp
import numpy as np

from jaxsolve.bilevel import BilevelProblem
from tests.bilevel.quadratic import MU, Quadratic


def draw(n=64, dx=5, dy=10, top=4.0, noise=0.2, seed=0):
    """Data (targets, Quadratic), each with a leading axis of n examples.

    The mean Hessian has eigenvalues from 1 to `top`, a sample differs from it by half
    the noise.
    """
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((dy, dy))).Q
    hessian = basis @ np.diag(np.linspace(1, top, dy)) @ basis.T
    spread = centred(rng.standard_normal((n, dy, dy)))
    spread = (spread + spread.transpose(0, 2, 1)) / 2
    cross = 0.5 * rng.standard_normal((dy, dx))
    cross = cross + noise * centred(rng.standard_normal((n, dy, dx)))
    linear, targets = rng.standard_normal((2, n, dy))
    return targets, Quadratic(hessian + noise / 2 * spread, cross, linear)


def centred(samples):
    return samples - samples.mean(0)


def upper(levels, targets):
    """The mean squared distance of y from the targets, and a ridge."""
    if isinstance(targets, tuple):  # a function that closes over all data sees both
        targets = targets[0]
    x, y = levels
    distances = jnp.sum((y[None] - targets) ** 2, axis=1)
    return jnp.mean(distances) / 2 + MU / 2 * jnp.sum(x**2)


def lower(levels, data):
    """The quadratic of the mean numbers of a batch."""
    if not isinstance(data, Quadratic):
        data = data[1]
    x, y = levels
    hessian, cross, linear = (jnp.mean(leaf, axis=0) for leaf in data)
    hessian = (hessian + hessian.T) / 2  # of moved data too
    return y @ (hessian @ y) / 2 - y @ (cross @ x + linear)


PROBLEM = BilevelProblem(upper, lower)


def problem_of(form):
    """The problem as a conformance case counts its calls."""
    return BilevelProblem(form.function(upper), form.function(lower))


def mean(data):
    """The data of problem Q that this is one of: for its closed forms."""
    targets, numbers = data
    return targets.mean(0), Quadratic(*(leaf.mean(0) for leaf in numbers))
