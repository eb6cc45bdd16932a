"""The smallest solvers there are, to try the core on."""

from typing import NamedTuple

import chex
import jax.numpy as jnp

from jaxsolve import core


class State(NamedTuple):
    """State of a fixed-point iteration."""

    count: chex.Array
    error: chex.Array


def iteration(function, derivative=None, residual=True):
    """A solver that repeats x+ = function(x, data); its error is |x+ - x|."""

    def init(params, data=None):
        return State(jnp.zeros((), jnp.int32), core.real_scalar(jnp.inf, params))

    def update(params, state, data=None):
        new_params = function(params, data)
        error = jnp.max(jnp.abs(new_params - params))
        return new_params, State(state.count + 1, error)

    def gap(params, data=None):
        return params - function(params, data)

    return core.Solver(init, update, gap if residual else None, derivative)


def toward(x, data):
    """Halves the distance to the data."""
    return x + 0.5 * (data - x)
