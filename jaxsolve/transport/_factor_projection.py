"""The projection of two positive factors onto those of plans: in KL, by Newton."""

import functools
import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve.transport._low_rank_plan import LowRankPlan
from jaxsolve.transport._low_rank_value import covariances
from jaxsolve.transport._matrices import rounded
from jaxsolve.transport._products import HIGHEST

matmul = functools.partial(jnp.matmul, precision=HIGHEST)
TRIALS = 40  # of the dual variables, at most
REACH = 3.0  # the longest step in any of them


class _Search(NamedTuple):
    """Where Newton's method on the dual is."""

    trial: chex.Array  # (2, r), real: where it is evaluated next.
    sweep: chex.Array  # (2, r), real: one of Dykstra's sweeps from the best.
    best: chex.Array  # (2, r), real: logarithms of the scales of the columns.
    value: chex.Array  # (), real: the dual objective there.
    error: chex.Array  # (), real: L1 error of the sums of the columns there.
    count: chex.Array  # (), int32.


def project(
    logs: LowRankPlan, a: chex.Array, b: chex.Array, least: chex.Array
) -> tuple[LowRankPlan, chex.Array]:
    r"""Projects factors in the Kullback-Leibler divergence, and rounds them.

    Minimises :math:`\mathrm{KL}(Q | K_1) + \mathrm{KL}(R | K_2) + \mathrm{KL}(g | K_3)`
    where :math:`Q 1 = a, R 1 = b, Q^\top 1 = R^\top 1 = g \ge \alpha`. With the rows
    eliminated, the dual is

    .. math::

        \min_{s, t} \langle a, \log K_1 e^s \rangle + \langle b, \log K_2 e^t \rangle +
        \psi(s + t), \quad \psi' = -\max(\alpha, K_3 e^{-s - t}),

    in 2 r variables. Dykstra's algorithm descends on it block by block, and may take
    thousands of sweeps; Newton's takes a few steps of the same price for small r. Where
    a step of Newton's goes up, one of Dykstra's sweeps is taken instead. What error of
    the sums is left is rounded away.

    Args:
        logs: logarithms of the K, of which rows and g may be shifted by constants.
        a: (n,), weights.
        b: (m,), weights.
        least: the bound on g: (), real.

    Returns:
        The factors; and s and t, (2, r).
    """
    dtype = logs.g.dtype
    eps = float(jnp.finfo(dtype).eps)
    mass = jnp.sum(a)
    floor = 0.5 * math.log(float(jnp.finfo(dtype).tiny))
    lift = lambda z: z - jnp.max(z, 1, keepdims=True)
    kernels = [jnp.exp(jnp.maximum(lift(z), floor)) for z in (logs.q, logs.r)]
    log_g = logs.g - jax.scipy.special.logsumexp(logs.g) + jnp.log(mass)
    weights = a, b

    def shares(scales):
        """Row-stochastic factors, and the logarithms of the sums of their rows."""
        top = jnp.max(scales, 1, keepdims=True)
        out = []
        for kernel, scale in zip(kernels, jnp.exp(scales - top), strict=True):
            scaled = kernel * scale[None]
            total = jnp.sum(scaled, 1)
            out.append((scaled / total[:, None], jnp.log(total)))
        return out, top[:, 0]

    def middle(scales):
        log = log_g - jnp.sum(scales, 0)
        raw = jnp.exp(jnp.minimum(log, -2 * floor / 3))
        below = least * (1 + log - jnp.log(least))
        inside = raw > least
        return jnp.where(inside, raw, least), inside, jnp.where(inside, raw, below)

    def step(search):
        scales = search.trial
        both, top = shares(scales)
        g, inside, paid = middle(scales)
        value = jnp.sum(paid) + mass * jnp.sum(top)
        value = value + sum(
            jnp.sum(w * z) for w, (_, z) in zip(weights, both, strict=True)
        )
        sums = jnp.stack(
            [matmul(w, s) for w, (s, _) in zip(weights, both, strict=True)]
        )
        error = jnp.sum(jnp.abs(sums - g[None]))
        noise = 10 * eps * (jnp.abs(search.value) + mass)
        good = (value <= search.value + noise) | ~jnp.isfinite(search.value)

        raw = jnp.log(sums) - scales  # sums of the columns before they are scaled
        log = jnp.maximum(jnp.log(least), (log_g + jnp.sum(raw, 0)) / 3)
        sweep = log[None] - raw
        hessians = [covariances(s, w) for w, (s, _) in zip(weights, both, strict=True)]
        move = _newton(hessians, sums, g, inside, eps)
        fine = jnp.all(jnp.isfinite(move))
        length = jnp.max(jnp.abs(move))
        move = move * jnp.minimum(1, REACH / jnp.where(length > 0, length, 1))
        ahead = jnp.where(fine, scales + move, sweep)
        keep = lambda new, old: jnp.where(good, new, old)
        return _Search(
            trial=keep(ahead, search.sweep),
            sweep=keep(sweep, search.sweep),
            best=keep(scales, search.best),
            value=keep(value, search.value),
            error=keep(error, search.error),
            count=search.count + 1,
        )

    def goes_on(search):
        return (search.error > eps**0.75 * mass) & (search.count < TRIALS)

    zero, inf = jnp.zeros((2, log_g.size), dtype), jnp.full((), jnp.inf, dtype)
    first = _Search(zero, zero, zero, inf, inf, jnp.zeros((), jnp.int32))
    scales = jax.lax.while_loop(goes_on, step, first).best
    both, _ = shares(scales)
    g, _, _ = middle(scales)
    g = mass * g / jnp.sum(g)
    q, r = (
        rounded(w[:, None] * s, w, g) for w, (s, _) in zip(weights, both, strict=True)
    )
    return LowRankPlan(q, r, g), scales


def _newton(hessians, sums, g, inside, eps):
    """Newton's step on the dual, from a matrix that is scaled to have a diagonal one.

    Along (1, -1) the dual is constant; what ridge is added there, and to all that is
    nearly so where factors are sharp, only has to keep the matrix regular.
    """
    count = g.size
    bent = jnp.where(inside, g, 0)
    matrix = jnp.tile(jnp.diag(bent), (2, 2))
    matrix = matrix.at[:count, :count].add(hessians[0])
    matrix = matrix.at[count:, count:].add(hessians[1])
    root = jnp.sqrt(jnp.ravel(sums) + jnp.tile(bent, 2))
    matrix = matrix / (root[:, None] * root[None])
    null = root * jnp.where(jnp.arange(2 * count) < count, 1, -1).astype(g.dtype)
    null = null / jnp.linalg.norm(null)
    matrix = (
        matrix
        + null[:, None] * null[None]
        + 10 * eps * jnp.eye(2 * count, dtype=g.dtype)
    )
    gap = jnp.ravel(g[None] - sums) / root
    factor = jnp.linalg.cholesky(matrix)
    move = jax.scipy.linalg.cho_solve((factor, True), gap) / root
    return jnp.reshape(move, (2, count))


def gap(
    plan: LowRankPlan,
    gradient: LowRankPlan,
    multipliers: chex.Array,
    a: chex.Array,
    b: chex.Array,
    least: chex.Array,
) -> chex.Array:
    r"""By how much a linear function of the factors may still fall, at most.

    Whatever the multipliers of :math:`Q^\top 1 = g` and :math:`R^\top 1 = g` are, this
    bounds :math:`\max \langle \nabla, \xi - \xi' \rangle` over all feasible
    :math:`\xi'`, the gap of Frank and Wolfe; it is zero where these conditions hold.
    """
    total = jnp.zeros((), plan.g.dtype)
    sides = zip(plan[:2], gradient[:2], multipliers, (a, b), strict=True)
    for factor, d, scale, w in sides:
        reduced = d - scale[None]
        least_of_row = jnp.min(reduced, 1, keepdims=True)
        total = total + jnp.sum(
            jnp.where(w[:, None] > 0, factor * (reduced - least_of_row), 0)
        )
    reduced = gradient.g + jnp.sum(multipliers, 0)
    above = jnp.maximum(plan.g - least, 0)
    return total + jnp.sum(above * (reduced - jnp.min(reduced)))


def mirror_step(
    plan: LowRankPlan, gradient: LowRankPlan, multipliers: chex.Array, scale: chex.Array
) -> LowRankPlan:
    """Logarithms of what a step of mirror descent projects; multipliers warm it up."""
    log = lambda z: jnp.log(jnp.maximum(z, float(jnp.finfo(z.dtype).tiny) ** 0.75))
    q, r = (
        log(z) - scale * (d - shift[None])
        for z, d, shift in zip(plan[:2], gradient[:2], multipliers, strict=True)
    )
    return LowRankPlan(
        q, r, log(plan.g) - scale * (gradient.g + jnp.sum(multipliers, 0))
    )


def product(one: LowRankPlan, other: LowRankPlan) -> chex.Array:
    """The inner product of two triples: (), real."""
    dot = lambda x, y: jnp.vdot(x, y, precision=HIGHEST)
    return sum(dot(x, y) for x, y in zip(one, other, strict=True))
