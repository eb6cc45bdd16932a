"""Bilevel problems: what they refuse, and how long what is made of them lives."""

import gc
import weakref

import jax.numpy as jnp
import optax
import pytest

from jaxsolve import bilevel, core, smooth
from jaxsolve.bilevel import BilevelProblem, Levels

START = Levels(jnp.zeros(2), jnp.zeros(2))


def problem(note=None):
    """A pair of quadratics; its functions hold on to a note."""
    near = lambda levels, data: (note, jnp.sum((levels.lower - levels.upper) ** 2))[1]
    return BilevelProblem(
        upper=lambda levels, data: (note, jnp.sum((levels.lower - 1.0) ** 2))[1],
        lower=lambda levels, data: near(levels, data) + jnp.sum(levels.lower**2),
    )


def test_parts_must_be_functions_and_an_equality_needs_its_constraint():
    with pytest.raises(ValueError, match="lower of a BilevelProblem"):
        BilevelProblem(upper=lambda levels, data: 0.0, lower=None)
    with pytest.raises(ValueError, match="equality"):
        BilevelProblem(
            lambda levels, data: 0.0, lambda levels, data: 0.0, equality=True
        )


def test_equal_calls_make_one_solver():
    same, optimizer = problem(), optax.sgd(0.1)
    make = lambda: bilevel.soba(same, optimizer, 0.1)
    assert make() is make()
    assert make() is not bilevel.soba(problem(), optimizer, 0.1)


def test_a_deleted_problem_takes_its_solvers_and_hypergradients_along():
    class Note:
        pass

    optimizer = optax.sgd(0.1)  # outlives them, and holds none of them

    def make():
        note = Note()
        ours = problem(note)
        core.run(bilevel.soba(ours, optimizer, 0.1), START, max_steps=2)
        inner = smooth.lbfgs(ours.inner)
        bilevel.implicit_hypergradient(ours.upper, inner)(START)
        return weakref.ref(note)

    ref = make()
    gc.collect()
    assert ref() is None
