"""Bisection."""

import chex

from jaxsolve import core
from jaxsolve.fixed_point._bracket import Bound, Ends, bracketing
from jaxsolve.fixed_point._equation import Equation


@core.memoise
def bisection(
    fun: Equation,
    lower: Bound,
    upper: Bound,
    *,
    width: chex.Numeric | None = None,
) -> core.Solver:
    r"""Finds roots in brackets by halving them.

    Solves :math:`F(x) = 0` for :math:`a \le x \le b`, entry by entry, where
    :math:`F(a)` and :math:`F(b)` differ in sign. One update evaluates the middle

    .. math::

        x = (a + b) / 2

    and keeps the half where the sign changes, so that :math:`k` updates leave
    :math:`2^{-k}` of the width whatever :math:`F` is, if continuous. The start is
    tried first where it is inside the bracket, else the middle, then both ends; they
    count as updates. Use
    :func:`itp`, which is never slower but by one step and mostly much faster.


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
        >>> solver = jaxsolve.fixed_point.bisection(lambda x, a: x**3 - a, 0.0, 4.0)
        >>> out = jaxsolve.run(solver, jnp.ones(2), jnp.array([1.0, 8.0]), tol=1e-4)
        >>> print(out.params.round(3))
        [1. 2.]

    References:
        Burden and Faires, Numerical Analysis, Section 2.1: known since Bolzano.
    """

    def propose(ends: Ends):
        return ends.newest.x + 0.5 * (ends.across.x - ends.newest.x)

    return bracketing(fun, lower, upper, width, propose)
