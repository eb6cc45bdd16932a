"""The contract of a line search, and its state."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax.numpy as jnp

ACCEPTED, FAILED, UNBOUNDED = 1, 2, 3


class Search(NamedTuple):
    """A search for a stepsize along a direction of descent.

    The solver evaluates the objective at `stepsize`, tells the search, and goes on
    while it is not `done`. A search that gives up proposes its best point once more, so
    that what a solver accepts is always what it evaluated last.
    """

    stepsize: chex.Array  # (), real: to try next; when done, the one just tried.
    outcome: chex.Array  # (), int32: 0 under way, 1 accepted, 2 failed, 3 unbounded.
    trials: chex.Array  # (), int32: stepsizes tried.
    limit: chex.Array  # (), real: no stepsize is larger.
    ends: chex.Array  # (3, 3), real: stepsize, value and slope at zero, low and high.
    noise: chex.Array  # (), real: the error of values, as far as it has shown.

    @property
    def done(self) -> chex.Array:
        """Whether the last trial is accepted, or the search has failed: (), bool."""
        return self.outcome > 0

    @property
    def failed(self) -> chex.Array:
        """Whether no acceptable stepsize was found: (), bool."""
        return self.outcome == FAILED

    @property
    def unbounded(self) -> chex.Array:
        """Whether it still descends at the largest stepsize of all: (), bool."""
        return self.outcome == UNBOUNDED

    @property
    def value(self) -> chex.Array:
        """The objective at zero: (), real."""
        return self.ends[0, 1]

    @property
    def slope(self) -> chex.Array:
        """The directional derivative at zero: (), real."""
        return self.ends[0, 2]


class LineSearch(NamedTuple):
    """A line search as a pair of pure functions.

    Attributes:
        init: as ``init(value, slope, stepsize, limit=inf) -> search``, from the
            objective and the directional derivative at zero, the stepsize to try first,
            and the largest one allowed. An infinite value with slope and stepsize zero
            asks for the starting point itself to be evaluated; any finite value is then
            accepted.
        update: as ``update(search, value, slope) -> search``, from the objective and
            the directional derivative at ``search.stepsize``. Values that are not
            finite mean that the trial went too far.
    """

    init: Callable[..., Search]
    update: Callable[[Search, chex.Array, chex.Array], Search]


def start(
    value: chex.Array,
    slope: chex.Array,
    stepsize: chex.Numeric,
    limit: chex.Numeric = jnp.inf,
) -> Search:
    """Begins a search: the state that every search of this room starts from."""
    zero, inf = jnp.zeros_like(value), jnp.full_like(value, jnp.inf)
    here = jnp.stack([zero, value, jnp.asarray(slope, value.dtype)])
    count = jnp.zeros((), jnp.int32)
    return Search(
        stepsize=jnp.minimum(jnp.asarray(stepsize, value.dtype), limit),
        outcome=count,
        trials=count,
        limit=jnp.asarray(limit, value.dtype),
        ends=jnp.stack([here, here, jnp.stack([inf, inf, zero])]),
        noise=jnp.where(jnp.isfinite(value), 10 * _eps(value) * jnp.abs(value), 0),
    )


def observed_noise(
    search: Search, value: chex.Array, slope: chex.Array, enabled: bool
) -> chex.Array:
    """The error of values, from a trial whose slope is nearly the first one.

    Values are rounded as their largest terms are, and these may cancel. Between a slope
    and one that is a little flatter the objective falls by their mean: what it does
    instead is noise, as long as that is a small part of the value.
    """
    if not enabled:
        return jnp.zeros_like(value)
    t, (_, first, steep) = search.stepsize, search.ends[0]
    change = value - first
    like = (slope >= steep) & (slope <= 0.5 * steep)
    small = jnp.abs(change) <= _eps(value) ** 0.5 * jnp.abs(first)
    doubt = 2 * jnp.abs(change - 0.5 * t * (slope + steep))
    shown = like & small & jnp.isfinite(doubt)
    return jnp.where(shown, jnp.maximum(search.noise, doubt), search.noise)


def _eps(value):
    """The unit roundoff of a value's dtype."""
    return float(jnp.finfo(value.dtype).eps)
