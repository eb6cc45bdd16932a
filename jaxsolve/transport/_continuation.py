"""Schedules of the temperature, from an easy problem to the one that is asked."""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve.transport._problem import TransportProblem


class Continuation(NamedTuple):
    """How the temperature falls to that of the problem.

    Solves at a temperature until the error is at most `level`, then goes on at `decay`
    times it from where it is. Potentials are smooth in the temperature. The last is
    that of the problem, and so all are it over powers of `decay`; one over an integer
    is the cheapest, as the kernel is then a power of the one before.

    Attributes:
        initial: the first temperature, in standard deviations of the cost, about.
        decay: in (0, 1): by what it falls from stage to stage.
        level: the error, relative to the mass, that ends a stage.
    """

    initial: float = 0.25
    decay: float = 0.5
    level: float = 0.1


DEFAULT = Continuation()
_ROWS = 128  # of the cost tell how it is spread


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


def power(continuation: Continuation | None) -> int | None:
    """The integer that 1 / decay is, if it is one of use."""
    if continuation is None:
        return None
    nearest = round(1 / continuation.decay)
    near = math.isclose(nearest * continuation.decay, 1, rel_tol=1e-6)
    return nearest if near and nearest <= 16 else None


def first(continuation: Continuation | None, problem: TransportProblem) -> chex.Array:
    """The temperature to begin with: (), real."""
    if continuation is None:
        return problem.epsilon
    spread = jax.lax.stop_gradient(problem.geometry.thinned(_ROWS).spread())
    start = continuation.initial * spread / problem.epsilon
    start = jnp.where((start > 1) & jnp.isfinite(start), start, 1)
    stages = jnp.round(jnp.log(start) / -math.log(continuation.decay))
    return problem.epsilon * (1 / continuation.decay) ** stages


def resumed(
    continuation: Continuation | None, problem: TransportProblem, epsilon: chex.Array
) -> chex.Array:
    """The temperature at which a state of another problem begins on this: (), real."""
    if continuation is None:
        return problem.epsilon
    return jnp.maximum(epsilon, problem.epsilon)


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
    lower = continuation.decay * epsilon
    # The last is the problem's to the last digit.
    lower = jnp.where(
        lower < problem.epsilon / continuation.decay**0.5, problem.epsilon, lower
    )
    return jnp.where(onward, lower, epsilon), onward
