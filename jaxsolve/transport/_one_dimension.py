"""Exact transport between points on the line."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve import core


class Coupling1D(NamedTuple):
    """A plan on the line, entry by entry; every other one is zero."""

    rows: chex.Array  # (k,), int32: points of x.
    columns: chex.Array  # (k,), int32: points of y.
    mass: chex.Array  # (k,), real: how much goes from one to the other; may be zero.


def wasserstein_1d(
    x: chex.Array,
    y: chex.Array,
    a: chex.Array | None = None,
    b: chex.Array | None = None,
    *,
    p: float = 2,
) -> chex.Array:
    r"""Computes the cost of transport between points on the line, exactly.

    .. math::

        W_p^p = \int_0^1 | F_x^{-1}(q) - F_y^{-1}(q) |^p \, dq

    with the quantiles of both sides, which jump at :math:`n + m` levels. The distance
    is its p-th root, which has no derivative at zero. Sorting costs :math:`O((n + m)
    \log(n + m))`.

    Derivatives in points and weights are exact wherever they exist. Where points tie,
    or levels do, they are those of one optimal plan, or one pair of potentials. (With
    equal weights all levels tie; in these a one-sided derivative is taken.)

    Args:
        x: points, (n,), real.
        y: points, (m,), real.
        a: weights of x, (n,), not negative; divided by their sum. Uniform by default.
            What a point without weight holds does not matter, NaN included.
        b: those of y, (m,).
        p: the power of the cost, a Python number, at least 1.

    Returns:
        (), real: the cost; NaN where weights are negative, NaN, or all zero.

    Raises:
        ValueError: if shapes do not fit, if `p` is less than 1, or, where they are
            known, if weights are negative, not finite, or all zero.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> x, y = jnp.array([3.0, 1.0]), jnp.array([2.0, 4.0, 0.0])
        >>> print(f"{transport.wasserstein_1d(x, y, b=jnp.array([1.0, 1.0, 0.0])):.3f}")
        1.000

    References:
        Peyré and Cuturi, `Computational Optimal Transport
        <https://arxiv.org/abs/1803.00567>`_, 2019, section 2.6.
    """
    check_power(p)
    check_weights(a, b)
    return _cost(x, y, a, b, p)


def coupling_1d(
    x: chex.Array,
    y: chex.Array,
    a: chex.Array | None = None,
    b: chex.Array | None = None,
) -> Coupling1D:
    r"""Finds the optimal plan between points on the line: the monotone one.

    It is the same for all costs :math:`|x - y|^p`, :math:`p \ge 1`. With equal numbers
    of points and no weights it is the assignment of the sorted points to one another;
    else it has at most :math:`n + m - 1` entries that are not zero. The mass is
    differentiable in the weights.

    Args:
        x: points, (n,), real.
        y: points, (m,), real.
        a: weights of x, as in `wasserstein_1d`.
        b: those of y.

    Returns:
        A `Coupling1D` of total mass one.

    Raises:
        ValueError: as `wasserstein_1d`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> x, y = jnp.array([3.0, 1.0]), jnp.array([2.0, 4.0])
        >>> plan = transport.coupling_1d(x, y)
        >>> print(jnp.zeros((2, 2)).at[plan.rows, plan.columns].add(plan.mass))
        [[0.  0.5]
         [0.5 0. ]]
    """
    check_weights(a, b)
    return _coupling(x, y, a, b)


@functools.partial(jax.jit, static_argnames="p", inline=True)
def _cost(x, y, a, b, p):
    return cost_1d(*measures(x, y, a, b, p, ndim=1), p)


@functools.partial(jax.jit, inline=True)
def _coupling(x, y, a, b):
    return coupling(*measures(x, y, a, b, 2, ndim=1))


def cost_1d(x, y, a, b, p):
    """The cost of `wasserstein_1d`, of what `measures` returns."""
    plan = coupling(x, y, a, b)
    gap = x[plan.rows] - y[plan.columns]
    return jnp.sum(plan.mass * _power(gap, p))


def coupling(x, y, a, b):
    """The plan of `coupling_1d`, of what `measures` returns."""
    n, m = x.size, y.size
    first, second = _order(x), _order(y)
    if a is None and b is None:
        if n == m:
            return Coupling1D(first, second, jnp.full((n,), 1 / n, x.dtype))
        rows, columns, mass = _uniform(n, m)
        return Coupling1D(first[rows], second[columns], jnp.asarray(mass, x.dtype))
    a = jnp.full((n,), 1 / n, x.dtype) if a is None else a[first]
    b = jnp.full((m,), 1 / m, x.dtype) if b is None else b[second]
    rows, columns, mass = _matched(a, b)
    return Coupling1D(first[rows], second[columns], mass)


def _uniform(n, m):
    """Matches n equal weights with m others, in whole units of 1 / (n m)."""
    levels = np.union1d(m * np.arange(1, n + 1), n * np.arange(1, m + 1))
    start = np.concatenate([[0], levels[:-1]])
    rows, columns = start // m, start // n
    return rows.astype(np.int32), columns.astype(np.int32), (levels - start) / (n * m)


def _matched(a, b):
    """Matches weights in the order of their points, from the least level up."""
    n, m = a.size, b.size
    levels = jnp.concatenate([_levels(a), _levels(b)])
    order = _order(levels)
    levels = levels[order]
    passed = jnp.cumsum(order < n, dtype=jnp.int32) - (order < n).astype(jnp.int32)
    rows = jnp.minimum(passed, n - 1)
    columns = jnp.minimum(jnp.arange(n + m, dtype=jnp.int32) - passed, m - 1)
    mass = jnp.diff(levels, prepend=jnp.zeros_like(levels[:1]))
    # Rounding must not move mass to a point that has none, which may lie anywhere; what
    # a first bit of mass would cost there is the derivative.
    there = (a[rows] > 0) & (b[columns] > 0)
    return rows, columns, mass - jnp.where(there, 0, jax.lax.stop_gradient(mass))


def _levels(weights):
    """Sums up, never falling: sums of parts do, by rounding."""
    levels = jnp.cumsum(weights)
    value = jax.lax.stop_gradient(levels)
    return levels + (jax.lax.cummax(value) - value)


def _order(values):
    """The stable order of values: (n,), int32."""
    index = jnp.arange(values.size, dtype=jnp.int32)
    return jax.lax.sort((jax.lax.stop_gradient(values), index), num_keys=1)[1]


def _power(gap, p):
    if p == 1:
        return jnp.sign(gap) * gap  # whose derivative at zero is zero
    if p == 2:
        return gap * gap
    there = gap != 0
    return jnp.where(there, jnp.abs(jnp.where(there, gap, 1)) ** p, 0)


def measures(x, y, a, b, p, ndim):
    """Both sides as arrays of one real dtype, with weights of sum one, or None."""
    x, y = jnp.asarray(x), jnp.asarray(y)
    dtype = core.real_dtype((x, y))
    x, a = _measure("x", x, "a", a, p, ndim, dtype)
    y, b = _measure("y", y, "b", b, p, ndim, dtype)
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            "x and y must be points of one space, got dimensions "
            f"{x.shape[1]} and {y.shape[1]}."
        )
    return x, y, a, b


def _measure(name, points, weight, weights, p, ndim, dtype):
    if points.ndim != ndim or points.size == 0:
        wanted = "(n,)" if ndim == 1 else "(n, d)"
        raise ValueError(
            f"{name} are points, {wanted} and at least one, got shape {points.shape}."
        )
    points = points.astype(dtype)
    if weights is None:
        return points, None
    weights = jnp.asarray(weights).astype(dtype)
    if weights.shape != points.shape[:1]:
        raise ValueError(
            f"{weight} has one weight for each point of {name}, "
            f"({points.shape[0]},), got shape {weights.shape}."
        )
    # Where there is no weight the cost must be finite all the same, also in space.
    most = float(jnp.finfo(dtype).max) ** (0.5 / p)
    column = weights.reshape(-1, *[1] * (ndim - 1))
    usable = jnp.broadcast_to(column > 0, points.shape) | (jnp.abs(points) < most)
    total = jnp.sum(weights)
    sane = jnp.all(weights >= 0) & (total > 0) & jnp.isfinite(total)
    weights = jnp.where(sane, weights / jnp.where(sane, total, 1), jnp.nan)
    return jnp.where(usable, points, 0), weights


def check_power(p):
    """Raises a `ValueError` unless p is a number of at least 1."""
    if not isinstance(p, int | float) or not 1 <= p < float("inf"):
        raise ValueError(f"p must be a finite Python number, at least 1, got {p!r}.")


def check_weights(a, b):
    """Raises a `ValueError` on weights that are known to be none."""
    for name, weights in (("a", a), ("b", b)):
        if weights is None or not core.is_concrete(weights):
            continue
        w = np.asarray(weights)
        if not np.all(np.isfinite(w)) or np.any(w < 0) or not np.sum(w) > 0:
            raise ValueError(
                f"{name} must be finite weights, none negative and not all zero."
            )
