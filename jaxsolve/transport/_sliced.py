"""Transport between projections: sliced Wasserstein, and what its maxima share."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core, prox
from jaxsolve.transport._one_dimension import (
    check_power,
    check_weights,
    cost_1d,
    measures,
)
from jaxsolve.transport._products import HIGHEST


class PointPair(NamedTuple):
    """Two weighted clouds of points: the data of solvers that look for a slice."""

    x: chex.Array  # (n, d), real.
    y: chex.Array  # (m, d), real.
    a: chex.Array | None = None  # (n,), real: weights of x; None if they are equal.
    b: chex.Array | None = None  # (m,), real: those of y.


def sliced_wasserstein(
    x: chex.Array,
    y: chex.Array,
    a: chex.Array | None = None,
    b: chex.Array | None = None,
    *,
    key: chex.PRNGKey,
    slices: int = 100,
    p: float = 2,
) -> chex.Array:
    r"""Estimates the sliced Wasserstein distance, to its power p.

    .. math::

        \mathrm{SW}_p^p = \mathbb{E}_{\theta \sim U(S^{d-1})}
            W_p^p(\langle x, \theta \rangle, \langle y, \theta \rangle)

    by the mean over random directions :math:`\theta`, an unbiased estimate. The same
    key gives the same directions, and then the p-th root satisfies the triangle
    inequality exactly. Differentiable in points and weights, as `wasserstein_1d` is.

    Args:
        x: points, (n, d), real.
        y: points, (m, d), real.
        a: weights of x, (n,), as in `wasserstein_1d`.
        b: those of y, (m,).
        key: a key of `jax.random`.
        slices: how many directions.
        p: the power of the cost, a Python number, at least 1.

    Returns:
        (), real: the estimate.

    Raises:
        ValueError: as `wasserstein_1d`, or if `slices` is not a positive integer.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> x = jax.random.normal(jax.random.key(0), (20, 3))
        >>> shift = jnp.array([[3.0, 0.0, 0.0]])  # SW = 9 / 3
        >>> key = jax.random.key(1)
        >>> value = transport.sliced_wasserstein(x, x + shift, key=key, slices=5000)
        >>> print(f"{value:.1f}")
        3.0

    References:
        Bonneel, Rabin, Peyré and Pfister, `Sliced and Radon Wasserstein Barycenters of
        Measures <https://doi.org/10.1007/s10851-014-0506-3>`_, 2015.
    """
    check_power(p)
    check_weights(a, b)
    check_slices(slices)
    return _sliced(x, y, a, b, key, slices, p)


def projected_wasserstein(
    x: chex.Array,
    y: chex.Array,
    directions: chex.Array,
    a: chex.Array | None = None,
    b: chex.Array | None = None,
    *,
    p: float = 2,
) -> chex.Array:
    r"""Computes the mean cost of transport between projections on given directions.

    The mean over :math:`\theta` of :math:`W_p^p(\langle x, \theta \rangle, \langle y,
    \theta \rangle)`. With the direction that `max_sliced` found, held constant, it has
    the derivative of the max-sliced distance, by Danskin's theorem.

    Args:
        x: points, (n, d), real.
        y: points, (m, d), real.
        directions: :math:`\theta`, (d,) or (l, d), taken as they are: of any length.
        a: weights of x, (n,), as in `wasserstein_1d`.
        b: those of y, (m,).
        p: the power of the cost, a Python number, at least 1.

    Returns:
        (), real: the mean.

    Raises:
        ValueError: as `wasserstein_1d`, or if directions are not of the points' space.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> x, shift = jnp.eye(3), jnp.array([[3.0, 4.0, 0.0]])
        >>> value = transport.projected_wasserstein(x, x + shift, jnp.eye(3)[:2])
        >>> print(f"{value:.2f}")
        12.50
    """
    check_power(p)
    check_weights(a, b)
    return _projected(x, y, directions, a, b, p)


@functools.partial(jax.jit, static_argnames=("slices", "p"), inline=True)
def _sliced(x, y, a, b, key, slices, p):
    pair = prepared(PointPair(x, y, a, b), p)
    shape = (slices, pair.x.shape[1])
    return along(unit(jax.random.normal(key, shape, pair.x.dtype)), pair, p)


@functools.partial(jax.jit, static_argnames="p", inline=True)
def _projected(x, y, directions, a, b, p):
    pair = prepared(PointPair(x, y, a, b), p)
    directions = jnp.asarray(directions)
    if directions.ndim not in (1, 2) or directions.shape[-1] != pair.x.shape[1]:
        raise ValueError(
            f"directions are (d,) or (l, d) with d = {pair.x.shape[1]}, the points' "
            f"dimension, got shape {directions.shape}."
        )
    return along(jnp.atleast_2d(directions).astype(pair.x.dtype), pair, p)


def along(directions, pair, p):
    """The mean of the cost over directions, (l, d), of a pair that is prepared."""
    x = jnp.matmul(directions, pair.x.T, precision=HIGHEST)
    y = jnp.matmul(directions, pair.y.T, precision=HIGHEST)
    one = lambda x, y: cost_1d(x, y, pair.a, pair.b, p)
    return jnp.mean(jax.vmap(one)(x, y))


def prepared(pair, p, dtype=None):
    """The pair with weights of sum one, of one dtype: `dtype`, if it is given."""
    if not isinstance(pair, PointPair):
        raise ValueError(
            "the data of a solver of slices is a transport.PointPair(x, y), got "
            f"{core.describe(pair)}."
        )
    if dtype is not None:
        pair = jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(dtype), pair)
    return PointPair(*measures(*pair, p, ndim=2))


def unit(vectors):
    """Vectors divided by their norms; any unit vector where one is zero."""
    return prox.l2_sphere(axis=-1)(vectors)


def check_slices(slices):
    """Raises a `ValueError` unless `slices` is a positive integer."""
    if not isinstance(slices, int) or slices < 1:
        raise ValueError(f"slices must be a positive integer, got {slices!r}.")
