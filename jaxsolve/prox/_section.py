"""Projections that need the root of a monotone, piecewise linear function."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve.core import memoise
from jaxsolve.prox import _leaves, _sets
from jaxsolve.prox._prox import Prox

MAX_STEPS = 200  # Newton needs about five; bisection alone, as many as there are bits.


@memoise
def box_section(
    lower: chex.ArrayTree,
    upper: chex.ArrayTree,
    normal: chex.ArrayTree = 1.0,
    offset: chex.ArrayTree = 1.0,
    *,
    axis: _leaves.Axis = None,
) -> Prox:
    r"""Project onto the section of a box and a hyperplane.

    For :math:`C = \{x : l \le x \le u, \langle a, x \rangle = b\}`, computes

    .. math::

        P_C(x)_i = \min(\max(x_i - \tau a_i, l_i), u_i)

    where :math:`\tau` makes the equation hold. The sum is monotone and piecewise linear
    in :math:`\tau`; Newton's method, safeguarded by bisection, finds the piece of its
    root in finitely many steps, and :math:`\tau` and its derivatives follow from the
    entries that are free there.

    Args:
        lower: :math:`l`, a scalar, an array that broadcasts to every leaf, or a pytree
            like params; may be :math:`-\infty`.
        upper: :math:`u`, in the same forms; may be :math:`\infty`.
        normal: :math:`a`, in the same forms, of any signs.
        offset: :math:`b`, a scalar; with an axis also an array that broadcasts to every
            leaf with size 1 along that axis, or a pytree of such arrays. Where no point
            of the box fulfils the equation, the corner that comes closest is given.
        axis: the axis, or axes, of every leaf along which a section lies; None for one
            section of all entries of all leaves.

    Returns:
        A proximal operator. It ignores its stepsize.

    Raises:
        ValueError: if known bounds cross, or numbers or the axis do not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.box_section(0.0, 0.625)(jnp.array([2.0, 1.0, 0.5, 0.0]))
        Array([0.625, 0.375, 0.   , 0.   ], dtype=float32)

    References:
        Helgason, Kennington and Lall, `A Polynomially Bounded Algorithm for a Singly
        Constrained Quadratic Program <https://doi.org/10.1007/BF01588328>`_, 1980.
    """
    _sets.check_order(lower, upper)

    def project(x, low, up, a, b):
        # Entries with a negative coefficient are mirrored.
        sign = jnp.where(a < 0, -1, 1).astype(x.dtype)
        low, up = jnp.where(a < 0, -up, low), jnp.where(a < 0, -low, up)
        a = sign * a
        new, _ = clip_to_sum(sign * x, low, up, a, a, b)
        return sign * new

    def prox(params, stepsize=1.0):
        del stepsize
        entries = {"lower": lower, "upper": upper, "normal": normal}
        return _leaves.groupwise(project, params, axis, entries, offset=offset)

    return prox


def clip_to_sum(
    x: chex.Array,
    lower: chex.Array,
    upper: chex.Array,
    slope: chex.Array,
    weight: chex.Array,
    total: chex.Array,
) -> tuple[chex.Array, chex.Array]:
    """Find tau such that clip(x - tau slope, lower, upper) has a weighted sum.

    Works along the last axis. Slopes and weights are at least zero, and the total may
    be out of reach: then all entries that can are at their nearer bounds.

    Returns:
        The clipped entries, and tau, of size 1 along the last axis.
    """
    constants = jax.lax.stop_gradient((x, lower, upper, slope, weight, total))
    free, fixed = _piece(*constants)
    bound = jnp.where(fixed == 0, 0, jnp.where(fixed > 0, upper, lower))
    still = jnp.where(slope > 0, bound, _sets.clip(x, lower, upper))
    parts = jnp.where(free, x, still) * weight
    per_tau = jnp.sum(jnp.where(free, weight * slope, 0), -1, keepdims=True)
    excess = jnp.sum(parts, -1, keepdims=True) - total
    tau = excess / jnp.where(per_tau > 0, per_tau, 1)
    moved = _sets.clip(x - tau * slope, lower, upper)
    return jnp.where(free, moved, still), tau


class _Root(NamedTuple):
    tau: chex.Array  # (..., 1): the last point; maybe infinite, if there is no root.
    low: chex.Array  # (..., 1): below the root.
    high: chex.Array  # (..., 1): above it.
    done: chex.Array  # (..., 1), bool
    count: chex.Array  # (), int32


def _piece(x, lower, upper, slope, weight, total):
    """Which entries are free at the root, and the bounds of the others: -1 or 1."""
    some = slope > 0
    unit = jnp.where(some, slope, 1)
    first = jnp.where(some, (x - upper) / unit, -jnp.inf)  # leaves the upper bound.
    last = jnp.where(some, (x - lower) / unit, jnp.inf)  # arrives at the lower one.
    add = lambda v: jnp.sum(v, -1, keepdims=True)
    rounding = 4 * float(jnp.finfo(x.dtype).eps)

    def outermost(sign):
        ends = [jnp.where(jnp.isfinite(v), sign * v, -jnp.inf) for v in (first, last)]
        return sign * jnp.max(jnp.maximum(*ends), -1, keepdims=True, initial=-jnp.inf)

    rightmost, leftmost = outermost(1), outermost(-1)

    def step(s):
        parts = weight * jnp.clip(x - s.tau * slope, lower, upper)
        gap = add(parts) - total
        # The slope on the side of the root, should this be a breakpoint.
        ahead = (first <= s.tau) & (s.tau < last)
        inside = some & jnp.where(gap > 0, ahead, (first < s.tau) & (s.tau <= last))
        steep = add(jnp.where(inside, weight * slope, 0))
        low = jnp.where(gap > 0, s.tau, s.low)
        high = jnp.where(gap < 0, s.tau, s.high)
        # Where the sum is flat, on to where it last bends; beyond there is no root.
        right = jnp.where(rightmost > s.tau, rightmost, jnp.inf)
        left = jnp.where(leftmost < s.tau, leftmost, -jnp.inf)
        flat = jnp.where(gap > 0, right, left)
        new = jnp.where(steep > 0, s.tau + gap / jnp.where(steep > 0, steep, 1), flat)
        middle = low / 2 + high / 2
        within = (low < new) & (new < high)
        new = jnp.where(within | ~jnp.isfinite(middle), new, middle)
        size = add(jnp.abs(parts)) + jnp.abs(total)
        done = s.done | ~(jnp.abs(gap) > rounding * size)
        tau = jnp.where(done, s.tau, new)
        done = done | ~jnp.isfinite(new) | (new == s.tau)
        return _Root(tau, low, high, done, s.count + 1)

    zero = jnp.zeros((*x.shape[:-1], 1), x.dtype)
    start = _Root(
        tau=zero,
        low=zero - jnp.inf,
        high=zero + jnp.inf,
        done=zero != 0,
        count=jnp.zeros((), jnp.int32),
    )
    unfinished = lambda s: jnp.any(~s.done) & (s.count < MAX_STEPS)
    tau = jax.lax.while_loop(unfinished, step, start).tau
    at_upper, at_lower = some & (first >= tau), some & (last <= tau)
    fixed = jnp.where(at_upper, 1, jnp.where(at_lower, -1, 0))
    return some & ~at_upper & ~at_lower, fixed
