"""Schedules of the temperature, from an easy problem to the one that is asked."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve.transport._problem import TransportProblem


class Continuation(NamedTuple):
    """How the temperature falls to that of the problem.

    Solves at a temperature until the error is at most `level`, then goes on at `decay`
    times it from where it is. Potentials are smooth in the temperature.

    Attributes:
        initial: the first temperature, in standard deviations of the cost.
        decay: in (0, 1): by what it falls from stage to stage.
        level: the error, relative to the mass, that ends a stage.
    """

    initial: float = 1.0
    decay: float = 0.5
    level: float = 0.01


DEFAULT = Continuation()


def check(continuation: Continuation | None) -> None:
    """Raises a `ValueError` unless a schedule makes sense."""
    if continuation is None:
        return
    if not isinstance(continuation, Continuation):
        raise ValueError(
            f"continuation is None or transport.Continuation(), got {continuation!r}."
        )
    initial, decay, level = continuation
    if not (initial > 0 and 0 < decay < 1 and level > 0):
        raise ValueError(
            "a continuation needs initial > 0, 0 < decay < 1 and level > 0, got "
            f"{continuation}."
        )


def first(continuation: Continuation | None, problem: TransportProblem) -> chex.Array:
    """The temperature to begin with: (), real."""
    if continuation is None:
        return problem.epsilon
    spread = jax.lax.stop_gradient(problem.geometry.spread())
    spread = jnp.where(jnp.isfinite(spread), spread, 0)
    return jnp.maximum(problem.epsilon, continuation.initial * spread)


def following(
    continuation: Continuation | None,
    problem: TransportProblem,
    epsilon: chex.Array,
    error: chex.Array,
) -> tuple[chex.Array, chex.Array]:
    """The temperature after a step with that error, and whether it has changed."""
    if continuation is None:
        return epsilon, jnp.zeros((), bool)
    onward = (error <= continuation.level) & (epsilon > problem.epsilon)
    lower = jnp.maximum(continuation.decay * epsilon, problem.epsilon)
    return jnp.where(onward, lower, epsilon), onward
