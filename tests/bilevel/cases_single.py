"""The conformance cases of the single-loop bilevel solvers and of penalty methods."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsolve import bilevel, prox
from jaxsolve.bilevel import BilevelProblem, Levels
from tests.bilevel import finite_sum, quadratic
from tests.bilevel.quadratic import MU, draw, problem_of
from tests.case import Case

DATA = draw(dx=2, dy=3, top=2.0)
EXAMPLES = finite_sum.draw(n=4, dx=2, dy=3, top=2.0)
START = Levels(np.zeros(2), np.zeros(3))
PENALTY = 10.0
TERMS = 3
ETA = 0.4


def penalised(data, penalty=PENALTY):
    """The stationary pair of the penalised problem."""
    target, (hessian, cross, linear) = data
    hessian = (hessian + hessian.T) / 2
    with_f = hessian + np.eye(3) / penalty
    slope = np.linalg.solve(with_f, cross) - np.linalg.solve(hessian, cross)
    offset = np.linalg.solve(with_f, linear + target / penalty)
    constant = offset - np.linalg.solve(hessian, linear)
    matrix = MU * np.eye(2) - penalty * cross.T @ slope
    x = np.linalg.solve(matrix, penalty * cross.T @ constant)
    return Levels(x, np.linalg.solve(with_f, cross @ x) + offset)


def biased(data):
    """Where a truncated series of the adjoint takes two-timescale descent."""
    target, (hessian, cross, _) = data
    hessian = (hessian + hessian.T) / 2
    shrink = np.eye(3) - ETA * hessian
    series = ETA * sum(np.linalg.matrix_power(shrink, q) for q in range(TERMS))
    slope, offset = quadratic.pieces(data)
    matrix = MU * np.eye(2) + cross.T @ series @ slope
    x = np.linalg.solve(matrix, cross.T @ series @ (target - offset))
    return Levels(x, quadratic.lower_solution(x, data))


def in_box(form):
    problem = problem_of(form)
    return BilevelProblem(problem.upper, problem.lower, prox.box(-0.5, 0.5))


def in_boxes(form):
    problem = problem_of(form)
    sets = prox.box(-0.5, 0.5), prox.box(-0.3, 0.4)
    return BilevelProblem(problem.upper, problem.lower, *sets)


def inside(levels):
    x, y = levels
    return jnp.all(jnp.abs(x) <= 0.5) & jnp.all((y >= -0.3) & (y <= 0.4))


def case(factory, make, solution=quadratic.solution, **changes):
    """A case on problem Q: params are a pair of the room, not dictionaries."""
    settings = dict(
        params=START, data=DATA, dicts=False, calls=2, spread=0.03, max_steps=2500
    )
    return Case(factory, make, solution=solution, **{**settings, **changes})


CASES = (
    case(
        "bilevel.soba",
        lambda form: bilevel.soba(problem_of(form), optax.sgd(0.05), 0.5),
    ),
    case(
        "bilevel.soba",
        lambda form: bilevel.soba(in_box(form), optax.sgd(0.05), 0.5),
        solution=None,
        variant="box",
    ),
    case(
        "bilevel.saba",
        lambda form: bilevel.saba(
            finite_sum.problem_of(form),
            optax.sgd(0.05),
            0.2,
            batch=(2, 1),
            key=jax.random.key(0),
        ),
        solution=lambda data: quadratic.solution(finite_sum.mean(data)),
        data=EXAMPLES,
    ),
    case(
        "bilevel.alternating_descent",
        lambda form: bilevel.alternating_descent(
            problem_of(form), optax.sgd(0.1), ETA, terms=TERMS
        ),
        solution=biased,
    ),
    case(
        "bilevel.f2sa",
        lambda form: bilevel.f2sa(
            problem_of(form), optax.sgd(0.1), 0.4, PENALTY, steps=3
        ),
        solution=penalised,
    ),
    case(
        "bilevel.f3sa",
        lambda form: bilevel.f3sa(problem_of(form), optax.sgd(0.02), 0.4, PENALTY, 0.5),
        solution=penalised,
    ),
    case(
        "bilevel.pbo",
        lambda form: bilevel.pbo(
            problem_of(form), optax.sgd(0.1), 0.2, PENALTY, 0.5, steps=3
        ),
        solution=penalised,
    ),
    case(
        "bilevel.pbo",
        lambda form: bilevel.pbo(
            in_boxes(form), optax.sgd(0.05), 0.2, PENALTY, 0.5, steps=3
        ),
        solution=None,
        variant="boxes",
        spread=0.01,  # further away another bound is active, and steps must be smaller
        usable=inside,
    ),
    case(
        "bilevel.pbo_momentum",
        lambda form: bilevel.pbo_momentum(
            problem_of(form), optax.sgd(0.02), 0.2, PENALTY, 0.5, 0.5
        ),
        solution=penalised,
    ),
)
