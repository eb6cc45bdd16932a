"""What LV-HBA reads of a lower level, and arithmetic over its pairs of points."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.bilevel._penalty import stack, unstack
from jaxsolve.bilevel._problem import BilevelProblem, Levels
from jaxsolve.bilevel._proximal_lagrangian import dot, lower_parts


class Look(NamedTuple):
    """What one call of the lower level tells, at (x, theta) and at (x, y)."""

    value: chex.Array  # (), real: g(x, y).
    grad: Levels  # g_x and g_y there.
    values: Any  # (2, ...) like the constraint: c at (x, theta), at (x, y).
    slope: Any  # like x: g_x + c_x^T lambda at (x, theta).
    down: Any  # like y: the direction in which theta descends.
    up: Any  # like the constraint: that in which lambda climbs.


def lagrangian(problem: BilevelProblem) -> Callable:
    """Makes ``(levels, lambda, data) -> (g + <lambda, c>, c), its gradient``."""
    parts = lower_parts(problem)

    def value(levels, multiplier, data):
        objective, values = parts(levels, data)
        return objective + dot(multiplier, values, levels), values

    return jax.value_and_grad(value, has_aux=True)


def looks(oracle: Callable, gamma: tuple) -> Callable:
    """Makes ``(params, theta, lambda, z, data) -> Look``, at one call site."""
    both = jax.vmap(oracle, in_axes=(Levels(None, 0), 0, None))

    def look(params, theta, multiplier, anchor, data):
        free = jax.tree.map(jnp.zeros_like, multiplier)  # at (x, y): g alone
        points = Levels(params.upper, stack(theta, params.lower))
        (values, c), grads = both(points, stack(multiplier, free), data)
        at_theta, at_y = unstack(grads)
        away = optax.tree.sub(theta, params.lower)
        down = core.axpy(1 / gamma[0], away, at_theta.lower)
        near = optax.tree.sub(multiplier, anchor)
        up = core.axpy(-1 / gamma[1], near, unstack(c)[0])
        return Look(values[1], at_y, c, at_theta.upper, down, up)

    return look


def descent(
    seen: Look, grad: Levels, slope: Any, away: Any, rho: chex.Array, gamma: tuple
) -> Levels:
    """The directions d_x and d_y, given f's gradient and theta's share of both."""
    shadow = Levels(slope, times(1 / gamma[0], away))
    return core.axpy(1 / rho, grad, optax.tree.sub(seen.grad, shadow))


def times(scalar: chex.Numeric, tree: Any) -> Any:
    """A tree times a scalar, in its own dtypes."""
    return jax.tree.map(lambda v: jnp.asarray(scalar, v.dtype) * v, tree)


def at_both(project: Callable, first: Any, second: Any) -> tuple:
    """Projects two points at one call site."""
    return unstack(jax.vmap(project)(stack(first, second)))
