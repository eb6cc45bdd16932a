"""What the projections that need a solver share: their loop and their line search.

The dual of such a projection is convex and once differentiable. It is minimised by
Newton steps (semismooth ones where it is piecewise quadratic), each followed by an
almost exact line search, until what is left is rounding.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve.core import where

PATIENCE = 8  # steps near the floor of rounding without a better point.
TRIALS = 50  # of a line search.


class _Best(NamedTuple):
    point: chex.ArrayTree  # the last one.
    error: chex.Array  # (), real: its error.
    floor: chex.Array  # (), real: what rounding lets its error be.
    best: chex.ArrayTree  # like point: the one of the least error.
    least: chex.Array  # (), real: its error.
    since: chex.Array  # (), int32: steps since it was found.
    count: chex.Array  # (), int32: steps.


def repeat(
    step: Callable, start: chex.ArrayTree, dtype: jnp.dtype, max_steps: int
) -> tuple[chex.ArrayTree, chex.Array]:
    """Repeats `point, error, floor = step(point)` until the error is at its floor.

    An error that is NaN ends it too. Returns the best point and its error, which is
    infinite where there was none.
    """

    def unfinished(now):
        resting = (now.since >= PATIENCE) & (now.least <= 16 * now.floor)
        return (now.error > now.floor) & ~resting & (now.count < max_steps)

    def body(now):
        point, error, floor = step(now.point)
        better = error < now.least
        return _Best(
            point=point,
            error=error,
            floor=floor,
            best=where(better, point, now.best),
            least=jnp.where(better, error, now.least),
            since=jnp.where(better, 0, now.since + 1),
            count=now.count + 1,
        )

    inf, zero = jnp.array(jnp.inf, dtype), jnp.zeros((), jnp.int32)
    none = _Best(start, inf, jnp.zeros((), dtype), start, inf, zero, zero)
    end = jax.lax.while_loop(unfinished, body, none)
    return end.best, end.least


def line_minimum(
    slope: Callable, noise: chex.Array, first: chex.Array | None = None
) -> chex.Array:
    """Finds where a convex function is least along a line that leads downhill.

    Args:
        slope: as ``slope(t) -> (derivative, second derivative)``.
        noise: a derivative below which all is rounding.
        first: where to look first; one by default.

    Returns:
        t, at which the slope is a hundredth of that at zero or less: Newton's method
        within a bracket. If the search fails, the greatest t known to be downhill.
    """
    zero, inf = jnp.zeros_like(noise), jnp.full_like(noise, jnp.inf)
    first = jnp.ones_like(noise) if first is None else first
    target = jnp.maximum(jnp.abs(slope(zero)[0]) / 100, noise)

    def unfinished(search):
        _, _, _, (value, _), trials = search
        return (jnp.abs(value) > target) & (trials < TRIALS)

    def body(search):
        t, low, high, (value, curvature), trials = search
        low = jnp.where(value < 0, t, low)
        high = jnp.where(value < 0, high, t)
        newton = t - value / curvature
        middle = jnp.where(jnp.isinf(high), 8 * t, (low + high) / 2)
        t = jnp.where((newton > low) & (newton < high), newton, middle)
        return t, low, high, slope(t), trials + 1

    search = (first, zero, inf, slope(first), jnp.zeros((), jnp.int32))
    t, low, _, (value, _), _ = jax.lax.while_loop(unfinished, body, search)
    return jnp.where(jnp.abs(value) <= target, t, low)


def product(left: chex.Array, right: chex.Array) -> chex.Array:
    """A product of matrices or vectors in full precision."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
