"""The ITP method: interpolate, truncate, project."""

import chex
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.fixed_point._bracket import Bound, Ends, bracketing
from jaxsolve.fixed_point._equation import Equation


@core.memoise
def itp(
    fun: Equation,
    lower: Bound,
    upper: Bound,
    *,
    width: chex.Numeric | None = None,
    kappa1: float = 0.2,
    kappa2: float = 2.0,
    slack: int = 1,
) -> core.Solver:
    r"""Finds roots in brackets by interpolation that never loses to bisection.

    Solves :math:`F(x) = 0` for :math:`a \le x \le b`, entry by entry, where
    :math:`F(a)` and :math:`F(b)` differ in sign. With :math:`m` the middle, :math:`x_f`
    the root of the chord and :math:`\sigma = \pm 1` the side of it where the middle is,
    one update evaluates

    .. math::

        \delta &= \kappa_1 (b - a)^{\kappa_2} / (b_0 - a_0)^{\kappa_2 - 1} \\
        x_t &= x_f + \sigma \min(\delta, |m - x_f|) \\
        r &= 2^{n_0 - j} (b_0 - a_0) / 2 - (b - a) / 2 \\
        x &= m + \min(|x_t - m|, r) \, \mathrm{sign}(x_t - m)

    at the :math:`j`-th step in the bracket :math:`(a_0, b_0)`. To within
    :math:`\epsilon` it takes at most :math:`\lceil \log_2 (b_0 - a_0) / 2 \epsilon
    \rceil + n_0` steps, :math:`n_0` more than bisection; on smooth functions it is
    superlinear, and on average it takes fewer steps on any. The start is
    tried first where it is inside the bracket, else the middle, then both ends; they
    count as updates.


    Args:
        fun: :math:`F`, as ``fun(params, data) -> values`` like params, which works
            entry by entry: each entry of params has its own bracket and its own root.
        lower: :math:`a`, the lower ends: a number, a tree like params (or a prefix of
            it) of arrays that broadcast to its leaves, or a function of the data that
            returns such ends, so that other brackets cost no new trace.
        upper: :math:`b`, the upper ends.
        width: half-width of a bracket that solves its entry, though :math:`|F|` may be
            more than the tolerance there; by default none does. A jump through zero is
            taken for a root then, a pole is not.
        kappa1: :math:`\kappa_1 > 0`, free of units.
        kappa2: :math:`\kappa_2`, from 1 to 2.618; larger is nearer to the chord.
        slack: :math:`n_0 \ge 0`, steps that may be lost to bisection at worst.

    Returns:
        A solver. Params are the end of every bracket with the smaller :math:`|F|`. Its
        error is :math:`\|F(x)\|_\infty` there, entries within `width` not counted; its
        residual :math:`F`, with a diagonal Jacobian. A bracket without a change of sign
        is a breakdown, one whose ends are crossed primal infeasible; where :math:`F` is
        NaN, other than at the start, the run has diverged, and where no bracket can be
        halved any more it has stalled: with one entry, all. To judge each alone, vmap a
        run with scalar params.

    Raises:
        ValueError: if `width` is not positive; while tracing, if the ends are crossed
            or do not fit params, or :math:`F` has another size or is not real.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> solver = jaxsolve.fixed_point.itp(lambda x, a: x**3 - x - a, 1.0, 2.0)
        >>> print(f"{jaxsolve.run(solver, 1.5, 2.0).params:.4f}")
        1.5214

    References:
        Oliveira and Takahashi, `An Enhancement of the Bisection Method Average
        Performance Preserving Minmax Optimality <https://doi.org/10.1145/3423597>`_,
        2020, with the bound of the first bracket for that of :math:`\epsilon`, so that
        it holds for every :math:`\epsilon` at once.
    """
    if not (kappa1 > 0 and 1 <= kappa2 < 2.618):
        raise ValueError(
            "itp needs kappa1 > 0 and 1 <= kappa2 < 2.618, got "
            f"kappa1={kappa1!r} and kappa2={kappa2!r}."
        )
    if not isinstance(slack, int) or slack < 0:
        raise ValueError(f"slack must be a non-negative integer, got {slack!r}.")
    power = kappa2 - 1
    power = int(power) if power == int(power) else power  # a product is much cheaper

    def propose(ends: Ends):
        (newest, f1), (across, f2) = ends.newest, ends.across
        gap = across - newest
        width = jnp.abs(gap)
        middle = newest + 0.5 * gap
        slope = f1 - f2
        share = f1 / jnp.where(slope != 0, slope, 1)
        share = jnp.where((slope != 0) & jnp.isfinite(share), share, 0.5)
        chord = newest + jnp.clip(share, 0, 1) * gap
        # (b - a) / (b_0 - a_0), from the width that halving alone would have by now.
        relative = width / jnp.where(ends.first > 0, ends.first, 1)
        delta = kappa1 * width * relative**power
        toward = middle - chord
        far = jnp.abs(toward)
        truncated = chord + jnp.sign(toward) * jnp.minimum(delta, far)
        radius = jnp.maximum(2.0**slack * ends.halved - width, 0) / 2
        way = truncated - middle
        return middle + jnp.clip(way, -radius, radius)

    return bracketing(fun, lower, upper, width, propose)
