"""The contract of a line search, and its state."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax.numpy as jnp


class Search(NamedTuple):
    """A search for a stepsize along a direction of descent.

    The solver evaluates the objective at `stepsize`, tells the search, and goes on
    while it is not `done`. A search that gives up proposes its best point once more, so
    that what a solver accepts is always what it evaluated last.
    """

    stepsize: chex.Array  # (), real: to try next; when done, the one just tried.
    done: chex.Array  # (), bool: the last trial is accepted, or the search has failed.
    failed: chex.Array  # (), bool: no acceptable stepsize was found.
    unbounded: chex.Array  # (), bool: still descending at the largest stepsize.
    trials: chex.Array  # (), int32: stepsizes tried.
    value: chex.Array  # (), real: the objective at zero.
    slope: chex.Array  # (), real: the directional derivative there.
    low: chex.Array  # (3,), real: stepsize, value and slope of the best trial so far.
    high: chex.Array  # (3,), real: of the other end; its stepsize is inf at first.


class LineSearch(NamedTuple):
    """A line search as a pair of pure functions.

    Attributes:
        init: as ``init(value, slope, stepsize) -> search``, from the objective and the
            directional derivative at zero, and the stepsize to try first. An infinite
            value with slope and stepsize zero asks for the starting point itself to be
            evaluated; any finite value is then accepted.
        update: as ``update(search, value, slope) -> search``, from the objective and
            the directional derivative at ``search.stepsize``. Values that are not
            finite mean that the trial went too far.
    """

    init: Callable[[chex.Array, chex.Array, chex.Array], Search]
    update: Callable[[Search, chex.Array, chex.Array], Search]


def start(value: chex.Array, slope: chex.Array, stepsize: chex.Numeric) -> Search:
    """Begins a search: the state that every search of this room starts from."""
    dtype = value.dtype
    zero = jnp.zeros((), dtype)
    inf = jnp.full((), jnp.inf, dtype)
    slope = jnp.asarray(slope, dtype)
    no = jnp.zeros((), bool)
    return Search(
        stepsize=jnp.asarray(stepsize, dtype),
        done=no,
        failed=no,
        unbounded=no,
        trials=jnp.zeros((), jnp.int32),
        value=value,
        slope=slope,
        low=jnp.stack([zero, value, slope]),
        high=jnp.stack([inf, inf, zero]),
    )


def rounding(search: Search, enabled: bool) -> chex.Array:
    """The rounding error of the objective near zero: what values cannot resolve."""
    eps = 10 * float(jnp.finfo(search.value.dtype).eps) if enabled else 0.0
    noise = jnp.asarray(eps, search.value.dtype) * jnp.abs(search.value)
    return jnp.where(jnp.isfinite(noise), noise, jnp.zeros_like(noise))
