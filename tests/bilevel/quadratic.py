"""Problem Q: a quadratic bilevel problem whose hypergradient is known."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxsolve.bilevel import BilevelProblem, Levels

MU = 0.1


class Quadratic(NamedTuple):
    """The numbers of the lower level; those of the upper one are its target."""

    hessian: np.ndarray  # (dy, dy): H.
    cross: np.ndarray  # (dy, dx): B.
    linear: np.ndarray  # (dy,): c.


def draw(dx=5, dy=10, top=10.0, seed=0):
    """Data (target, Quadratic) with eigenvalues of H from 1 to `top`."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((dy, dy))).Q
    hessian = basis @ np.diag(np.linspace(1, top, dy)) @ basis.T
    cross = rng.standard_normal((dy, dx))
    linear, target = rng.standard_normal((2, dy))
    return target, Quadratic((hessian + hessian.T) / 2, cross, linear)


def upper(levels, target):
    """The squared distance of y from the target, and a ridge."""
    if isinstance(target, tuple):  # a function that closes over all data sees both
        target = target[0]
    x, y = levels
    return jnp.sum((y - target) ** 2) / 2 + MU / 2 * jnp.sum(x**2)


def lower(levels, data):
    """A strongly convex quadratic of y, tilted by x."""
    if not isinstance(data, Quadratic):
        data = data[1]
    x, y = levels
    hessian = (data.hessian + data.hessian.T) / 2  # of moved data too
    return y @ (hessian @ y) / 2 - y @ (data.cross @ x + data.linear)


PROBLEM = BilevelProblem(upper, lower)


def problem_of(form):
    """The problem as a conformance case counts its calls."""
    return BilevelProblem(form.function(upper), form.function(lower))


def pieces(data):
    """The matrix and the offset of y*(x) = M x + m."""
    _, (hessian, cross, linear) = data
    hessian = (hessian + hessian.T) / 2
    return np.linalg.solve(hessian, cross), np.linalg.solve(hessian, linear)


def lower_solution(x, data):
    """y*(x)."""
    slope, offset = pieces(data)
    return slope @ x + offset


def hypergradient(x, data):
    """The gradient of F in closed form."""
    slope, _ = pieces(data)
    return MU * x + slope.T @ (lower_solution(x, data) - data[0])


def solution(data):
    """The stationary pair."""
    slope, offset = pieces(data)
    matrix = MU * np.eye(slope.shape[1]) + slope.T @ slope
    x = np.linalg.solve(matrix, slope.T @ (data[0] - offset))
    return Levels(x, lower_solution(x, data))
