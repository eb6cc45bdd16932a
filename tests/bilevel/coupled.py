"""Problem Q with a coupled lower constraint, and its penalised solution."""

import jax.numpy as jnp
import numpy as np

from jaxsolve import prox
from jaxsolve.bilevel import BilevelProblem, Levels
from tests.bilevel.quadratic import MU, lower, pieces, upper

GAMMA = (1.0, 0.5)
BOUND = 1.0
NORMAL = Levels(np.array([0.2, 0.2]), np.array([-1.0, 0.0, 0.0]))


def constraint(levels, data):
    """The first entry of y is at least 1 + 0.2 (x_1 + x_2)."""
    return {"first": BOUND + 0.2 * jnp.sum(levels.upper) - levels.lower[0]}


def problem_of(form, *, equality):
    """The problem as a conformance case counts its calls."""
    make = prox.hyperplane if equality else prox.halfspace
    return BilevelProblem(
        form.function(upper),
        form.function(lower),
        constraint=form.function(constraint),
        joint_set=make(NORMAL, -BOUND),
        equality=equality,
    )


def solution(data, penalty):
    """Where LV-HBA ends with a constant penalty, the constraint active."""
    target, (hessian, cross, linear) = data
    hessian = (hessian + hessian.T) / 2
    (dy, dx), (a, b) = cross.shape, NORMAL

    def conditions(u):
        x, y, theta, (multiplier, price) = np.split(u, [dx, dx + dy, dx + 2 * dy])
        slope = lambda y: hessian @ y - cross @ x - linear
        away = (y - theta) / GAMMA[0]
        return np.concatenate(
            [
                MU * x / penalty - cross.T @ (y - theta) + (price - multiplier) * a,
                (y - target) / penalty + slope(y) - away + price * b,
                slope(theta) + multiplier * b - away,
                [BOUND + a @ x + b @ theta, BOUND + a @ x + b @ y],
            ]
        )

    size = dx + 2 * dy + 2
    offset = conditions(np.zeros(size))
    matrix = np.stack([conditions(e) - offset for e in np.eye(size)], 1)
    u = np.linalg.solve(matrix, -offset)
    return Levels(u[:dx], u[dx : dx + dy])


def constrained_solution(data):
    """The stationary pair of the bilevel problem itself, the constraint active."""
    target, (hessian, cross, linear) = data
    slope, offset = pieces(data)
    a, b = NORMAL
    back = np.linalg.solve((hessian + hessian.T) / 2, b) / (
        b @ np.linalg.solve(hessian, b)
    )
    # The free minimiser, moved along H^-1 b to where b y = -BOUND - a x.
    move = slope - np.outer(back, b @ slope + a)
    rest = offset - back * (b @ offset + BOUND)
    matrix = MU * np.eye(len(a)) + move.T @ move
    x = np.linalg.solve(matrix, move.T @ (target - rest))
    return Levels(x, move @ x + rest)
