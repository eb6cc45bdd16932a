"""The conformance cases of the double-loop bilevel solvers."""

import jax.numpy as jnp
import numpy as np
import optax

from jaxsolve import bilevel, prox, smooth
from jaxsolve.bilevel import BilevelProblem, Levels
from tests.bilevel.quadratic import draw, problem_of, solution
from tests.case import Case

DATA = draw(dx=2, dy=3, top=2.0)
TAU = 2 / 3  # the best stepsize for eigenvalues from 1 to 2


def rule():
    """A new one for every case: solvers are kept as long as their optimizer."""
    return optax.sgd(0.38, momentum=0.25)


def implicit_descent(form):
    problem = problem_of(form)
    return bilevel.implicit_descent(
        problem,
        smooth.lbfgs(problem.inner),
        rule(),
        lambda outer: 0.1 * 0.6 ** outer.astype(jnp.float32),
        inner_steps=20,
        adjoint_steps=3,
    )


def boxed(form):
    """A box that cuts off the solution."""
    problem = problem_of(form)
    return BilevelProblem(problem.upper, problem.lower, prox.box(-0.5, 0.5))


def shrinking(outer):
    """A stepsize under which normalised steps come to rest."""
    return 0.5 * 0.88 ** outer.astype(jnp.float32)


def case(factory, make, **changes):
    settings = dict(
        params=Levels(np.zeros(2), np.zeros(3)),
        data=DATA,
        solution=solution,
        calls=2,
        dicts=False,
        spread=0.03,
        max_steps=3000,
    )
    return Case(factory, make, **{**settings, **changes})


CASES = (
    case(
        "bilevel.stocbio",
        lambda form: bilevel.stocbio(
            problem_of(form), rule(), TAU, inner_steps=5, terms=24, eta=TAU
        ),
    ),
    case(
        "bilevel.amigo",
        lambda form: bilevel.amigo(
            problem_of(form), rule(), TAU, TAU, inner_steps=3, adjoint_steps=3
        ),
    ),
    case(
        "bilevel.amigo",
        lambda form: bilevel.amigo(
            boxed(form), rule(), TAU, inner_steps=3, adjoint_steps=3
        ),
        variant="conjugate_gradients_in_a_box",
        solution=None,
    ),
    case("bilevel.implicit_descent", implicit_descent, calls=3),
    case(
        "bilevel.bo_rep",
        lambda form: bilevel.bo_rep(
            problem_of(form),
            bilevel.normalized_momentum(shrinking, 0.5),
            bilevel.epoch_sgd(TAU, 3),
            TAU,
            period=2,
            start=bilevel.epoch_sgd(TAU, 10),
        ),
    ),
    case(
        "bilevel.bo_rep",
        lambda form: bilevel.bo_rep(
            problem_of(form),
            optax.sgd(0.2),
            bilevel.epoch_sgd(TAU, 3, radius=1.0, average=True),
            TAU,
            period=2,
            start=bilevel.epoch_sgd(TAU, 4, epochs=3, radius=4.0, average=True),
        ),
        variant="balls_and_averages",
    ),
)
