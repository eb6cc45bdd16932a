"""The distances of mirror maps on the simplex and the orthant, as one family.

They are the Bregman divergences of separable functions whose second derivative is
x^(q - 2): the logarithmic barrier for q = 0, Tsallis' entropy for 0 < q < 1, and
Shannon's for q = 1. Zeros of a point are infinite in the dual and stay zero.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.scipy.special import xlog1py

TURNS = 12  # of Newton's method; nine sufficed for 100,000 entries in float64.
NEAR = 0.05  # relative changes below which a divergence is summed as a series.
TERMS = 13  # of that series; enough for float64.


class Distance(NamedTuple):
    """A separable distance, by what mirror descent asks of it; leaf by leaf."""

    shift: Callable  # (z, g) -> u: the dual of z, less g, in units of its own.
    primal: Callable  # u -> x >= 0
    normalise: Callable  # (u, r) -> primal of u - tau that sums to r on the last axis
    divergence: Callable  # (x, z) -> D(x, z), entry by entry


def entropy() -> Distance:
    """The distance of x log x - x, in the log domain."""

    def shift(z, g):
        safe = jnp.where(z > 0, z, 1)
        return jnp.where(z > 0, g - jnp.log(safe), jnp.where(z <= 0, jnp.inf, z))

    def normalise(u, r):
        weight = jnp.exp(-_above_least(u))
        return r * weight / jnp.sum(weight, -1, keepdims=True)

    direct = lambda d: xlog1py(1 + d, d) - d
    return Distance(shift, lambda u: jnp.exp(-u), normalise, _divergence(direct, 1.0))


def power(q: chex.Numeric) -> Distance:
    """The distance of x^q / (q (q - 1)); of -log x where q is zero."""
    p = 1 / (1 - q)
    barrier = isinstance(q, float) and q == 0

    def shift(z, g):
        safe = jnp.where(z > 0, z, 1)
        dual = jnp.where(z > 0, safe ** _like(q - 1, z), jnp.where(z <= 0, jnp.inf, z))
        return dual + _like(1 - q, z) * g

    def primal(u):
        # Beyond zero the step is unbounded: there is no minimiser.
        safe = jnp.where(u > 0, u, 1)
        return jnp.where(u > 0, safe ** _like(-p, u), jnp.where(u <= 0, jnp.inf, u))

    def normalise(u, r):
        # In units where the radius is one.
        d = _above_least(u) * r ** _like(1 / p, u)
        x = (d + _root(d, _like(p, u))) ** _like(-p, u)
        return r * x / jnp.sum(x, -1, keepdims=True)

    def direct(d):
        if barrier:
            return d - jnp.log1p(d)
        exponent, less, scale = (_like(v, d) for v in (q, q - 1, q * (q - 1)))
        base = 1 + d
        log = jnp.log1p(jnp.where(base > 0, d, 0))
        # Each keeps its digits where the other's numerator vanishes.
        to_entropy = base * jnp.expm1(less * log) - less * d
        to_barrier = jnp.expm1(exponent * log) - exponent * d
        inside = jnp.where(exponent < 0.5, to_barrier, to_entropy)
        edge = base**exponent - 1 - exponent * d
        return jnp.where(base > 0, inside, edge) / scale

    return Distance(shift, primal, normalise, _divergence(direct, q))


def _like(number, x):
    return jnp.asarray(number, x.dtype)


def _above_least(u):
    """Duals less the least of their group; a group of zeros becomes one of equals."""
    least = jnp.min(u, -1, keepdims=True)
    none = least == jnp.inf
    least = jnp.where(none, 0, least)
    return jnp.where(none, 0, u - jax.lax.stop_gradient(least))


def _root(d, p):
    """Solves sum (d + s)^-p = 1 on every last axis for s, in [1, n^(1/p)].

    In G(s) = (sum (d + s)^-p)^(-1/p), concave and increasing, Newton's iterates rise
    from the lower bound to the root of G = 1 and never pass it.
    """
    most = _like(d.shape[-1], d) ** (1 / p)

    def newton(s, d):
        base = d + s
        total = jnp.sum(base**-p, -1, keepdims=True)
        slope = jnp.sum(base ** (-p - 1), -1, keepdims=True)
        level = total ** (-1 / p)
        return s + (1 - level) * total / (level * slope)

    fixed = jax.lax.stop_gradient(d)
    start = jnp.ones_like(d[..., :1])
    body = lambda _, s: jnp.clip(newton(s, fixed), 1, most)
    s = jax.lax.stop_gradient(jax.lax.fori_loop(0, TURNS, body, start))
    # Two steps at the root carry its first and second derivative.
    return newton(newton(s, d), d)


def _divergence(direct, q):
    """D(x, z) = z^q B(d), d = x / z - 1; where d is small B is summed as a series."""

    def divergence(x, z):
        safe = jnp.where(z > 0, z, 1)
        d = (x - z) / safe
        small = jnp.abs(d) < NEAR
        near, far = jnp.where(small, d, 0), jnp.where(small, 1, d)
        term = near**2 / 2
        series = term
        for k in range(2, TERMS + 1):
            term = term * near * (_like(q, z) - k) / (k + 1)
            series = series + term
        value = safe ** _like(q, z) * jnp.where(small, series, direct(far))
        outside = jnp.where(x > 0, jnp.inf, jnp.zeros_like(x))
        return jnp.where(z > 0, value, jnp.where(z <= 0, outside, z))

    return divergence
