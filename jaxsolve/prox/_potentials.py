"""The potentials of projections onto a transport polytope, and their derivatives.

Of both geometries the plan is a function of the sum of scores and potentials, by which
it has the Newton matrix of a weighted bipartite graph.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxsolve.prox._dual_newton import line_minimum, product, repeat

MAX_STEPS = 500
RIDGE = 1.0  # of Newton's method, at most; it falls with the error.


class Geometry(NamedTuple):
    """What a distance makes of the sum S + f + g, and of the potentials."""

    plan: Callable  # Z -> P
    weight: Callable  # P -> dP/dZ
    start: Callable  # (S, a, b) -> f, g
    balance: Callable  # (S, a, b, f, g) -> f, g, before each Newton step.
    reach: Callable  # largest |change of S + f + g| -> the first step length to try.
    size: Callable  # (S, a) -> what rounding is relative to.
    scores: Callable  # (S, unit) -> those of the same plan where mass has another unit.


def _start(scores, a, b):
    """Rows and columns level with their largest entries, up to the mass of each."""
    f = a / scores.shape[1] - _finite(jnp.max(scores, 1))
    return f, jnp.zeros_like(b)


def _sweep(scores, a, b, f, g):
    """Sinkhorn's iteration; rows and columns without mass have potentials of zero."""
    total = functools.partial(jax.nn.logsumexp, axis=1)
    log = lambda v: jnp.where(v > 0, jnp.log(jnp.where(v > 0, v, 1)), -jnp.inf)
    f = jnp.where(a > 0, log(a) - total(scores + g[None, :]), 0)
    g = jnp.where(b > 0, log(b) - total((scores + f[:, None]).T), 0)
    return f, g


def _spread(scores):
    return jnp.max(jnp.where(scores == -jnp.inf, 0, jnp.abs(scores)))


L2 = Geometry(
    plan=jax.nn.relu,
    weight=lambda plan: (plan > 0).astype(plan.dtype),
    start=_start,
    balance=lambda scores, a, b, f, g: (f, g),
    reach=jnp.ones_like,
    size=lambda scores, a: jnp.max(a) + _spread(scores),
    scores=lambda scores, unit: scores / unit,
)
KL = Geometry(
    plan=jnp.exp,
    weight=lambda plan: plan,
    start=lambda scores, a, b: (jnp.zeros_like(a), jnp.zeros_like(b)),
    balance=_sweep,
    # Longer steps would meet exponentials of which Newton's method knows nothing.
    reach=lambda change: jnp.minimum(1, 4 / jnp.maximum(change, 1)),
    size=lambda scores, a: jnp.max(a) * (1 + _spread(scores)),
    scores=lambda scores, unit: scores,
)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=(0,))
def project(geometry, scores, a, b):
    """The projection of one matrix onto one polytope, whose total is near one."""
    eps = float(jnp.finfo(scores.dtype).eps)
    # The polytope does not see a common shift of a row or column.
    scores = scores - _finite(jnp.max(scores, 1, keepdims=True))
    scores = scores - _finite(jnp.max(scores, 0, keepdims=True))
    size = geometry.size(scores, a)
    scores = jnp.where((a > 0)[:, None] & (b > 0)[None, :], scores, -jnp.inf)
    step = functools.partial(_newton_step, geometry, scores, a, b, size)
    start = geometry.start(scores, a, b)
    (f, g), error = repeat(step, start, scores.dtype, MAX_STEPS)
    plan = geometry.plan(scores + f[:, None] + g[None, :])
    return jnp.where(error <= eps**0.5 * jnp.max(a), plan, jnp.nan)


def _finite(v):
    return jnp.where(v == -jnp.inf, 0, v)


def _newton_step(geometry, scores, a, b, size, potentials):
    eps = float(jnp.finfo(scores.dtype).eps)
    f, g = geometry.balance(scores, a, b, *potentials)
    sums = scores + f[:, None] + g[None, :]
    plan = geometry.plan(sums)
    short, lack = a - jnp.sum(plan, 1), b - jnp.sum(plan, 0)
    relative = jnp.maximum(jnp.max(jnp.abs(short)), jnp.max(jnp.abs(lack))) / size
    ridge = jnp.clip(RIDGE * relative, 8 * eps, RIDGE)
    df, dg = _solve(geometry.weight(plan), short, lack, ridge)
    change = df[:, None] + dg[None, :]

    def slope(t):
        plan = geometry.plan(sums + t * change)
        value = jnp.sum(plan * change) - product(df, a) - product(dg, b)
        return value, jnp.sum(geometry.weight(plan) * change**2)

    moved = product(jnp.abs(df), a) + product(jnp.abs(dg), b)
    noise = 8 * eps * (moved + jnp.sum(plan * jnp.abs(change)))
    t = line_minimum(slope, noise, geometry.reach(jnp.max(jnp.abs(change))))
    f, g = f + t * df, g + t * dg
    plan = geometry.plan(scores + f[:, None] + g[None, :])
    short, lack = a - jnp.sum(plan, 1), b - jnp.sum(plan, 0)
    error = jnp.maximum(jnp.max(jnp.abs(short)), jnp.max(jnp.abs(lack)))
    # Large scores leave much rounding, but a plan that misses its sums is none.
    return (f, g), error, jnp.minimum(2 * eps * size, eps**0.5 * jnp.max(a) / 4)


def _scaled(weight):
    """The weights over the roots of their row and column sums, and these roots."""
    r, c = jnp.sum(weight, 1), jnp.sum(weight, 0)
    r, c = jnp.sqrt(jnp.where(r > 0, r, 1)), jnp.sqrt(jnp.where(c > 0, c, 1))
    return weight / r[:, None] / c[None, :], r, c


def _solve(weight, rows, columns, ridge):
    """Solves `W d = rows, W' d = columns` in sums d of potentials, with a ridge."""
    if len(rows) > len(columns):
        return _solve(weight.T, columns, rows, ridge)[::-1]
    scaled, r, c = _scaled(weight)
    rows, columns, keep = rows / r, columns / c, 1 + ridge
    matrix = (
        keep * jnp.eye(len(rows), dtype=rows.dtype) - product(scaled, scaled.T) / keep
    )
    left = rows - product(scaled, columns) / keep
    u = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix), left)
    return u / r, (columns - product(u, scaled)) / keep / c


@project.defjvp
def _project_jvp(geometry, primals, tangents):
    scores, a, b = primals
    dscores, da, db = tangents
    plan = project(geometry, scores, a, b)
    weight = geometry.weight(plan)
    moved = jnp.where(weight > 0, weight * dscores, 0)
    df, dg = _solve_exactly(weight, da - jnp.sum(moved, 1), db - jnp.sum(moved, 0))
    return plan, moved + weight * (df[:, None] + dg[None, :])


def _solve_exactly(weight, rows, columns):
    """As `_solve`, without a ridge, where the weights may fall into parts."""
    if len(rows) > len(columns):
        return _solve_exactly(weight.T, columns, rows)[::-1]
    scaled, r, c = _scaled(weight)
    # On each connected part the potentials are free by a constant: that is the whole
    # kernel, so that no rank has to be guessed.
    part = _parts(jax.lax.stop_gradient(scaled))
    same = part[:, None] == part[None, :]
    both = jnp.where(same, r[:, None] * r[None, :], 0)
    kernel = both / jnp.sum(jnp.where(same, (r**2)[None, :], 0), 1)[:, None]
    rows, columns = rows / r, columns / c
    matrix = jnp.eye(len(rows), dtype=r.dtype) - product(scaled, scaled.T) + kernel
    left = rows - product(scaled, columns)
    u = jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix), left)
    return u / r, (columns - product(u, scaled)) / c


@jax.jit
def _parts(scaled):
    """Labels the rows by the connected part of the weights that they lie in."""
    m = len(scaled)
    edges = scaled > float(jnp.finfo(scaled.dtype).eps)
    least = lambda v, axis: jnp.min(jnp.where(edges, v, m), axis, initial=m)

    def spread(carry):
        label, _ = carry
        columns = least(label[:, None], 0)
        new = jnp.minimum(label, least(columns[None, :], 1))
        return new, jnp.any(new != label)

    start = (jnp.arange(m, dtype=jnp.int32), jnp.ones((), bool))
    return jax.lax.while_loop(lambda carry: carry[1], spread, start)[0]
