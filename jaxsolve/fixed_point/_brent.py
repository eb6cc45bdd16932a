"""Chandrupatla's variant of Brent's method."""

import chex
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.fixed_point._bracket import Bound, Ends, bracketing
from jaxsolve.fixed_point._equation import Equation


@core.memoise
def brent(
    fun: Equation,
    lower: Bound,
    upper: Bound,
    *,
    width: chex.Numeric | None = None,
) -> core.Solver:
    r"""Finds roots in brackets by inverse quadratic steps, safeguarded by halving.

    Solves :math:`F(x) = 0` for :math:`a \le x \le b`, entry by entry, where
    :math:`F(a)` and :math:`F(b)` differ in sign. This is Chandrupatla's method: Brent's
    idea with one simple test in place of his several. With the newest point
    :math:`x_1`, the end across the root :math:`x_2` and the point before, :math:`x_3`,
    one update evaluates

    .. math::

        x = x_1 + t (x_2 - x_1)

    with :math:`t` that of the parabola through the three, as a function of :math:`F`,
    where that is monotone between them, which is the case if

    .. math::

        \Phi^2 < \xi, \quad (1 - \Phi)^2 < 1 - \xi, \qquad
        \xi = \frac{x_1 - x_2}{x_3 - x_2}, \quad
        \Phi = \frac{F_1 - F_2}{F_3 - F_2}

    and :math:`t = 1/2` elsewhere. Superlinear on smooth functions. The start is
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
        >>> solver = jaxsolve.fixed_point.brent(lambda x, a: jnp.cos(x) - a * x, 0, 1)
        >>> print(jaxsolve.run(solver, 0.5, 1.0))
        Solution(converged after 5 updates, error 1.85e-04, params=0.738974)

    References:
        Chandrupatla, `A new hybrid quadratic/bisection algorithm for finding the zero
        of a nonlinear function <https://doi.org/10.1016/S0965-9978(96)00051-8>`_, 1997.
        Brent, `Algorithms for Minimization without Derivatives
        <https://maths-people.anu.edu.au/~brent/pub/pub011.html>`_, 1973, Chapter 4.
    """

    def propose(ends: Ends):
        (x1, f1), (x2, f2), (x3, f3) = ends.newest, ends.across, ends.older
        safe = lambda x: jnp.where((x != 0) & jnp.isfinite(x), x, 1)
        xi = (x1 - x2) / safe(x3 - x2)
        phi = (f1 - f2) / safe(f3 - f2)
        smooth = (phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi)
        smooth = smooth & (f3 != f2) & (f3 != f1) & (x3 != x2)
        linear = f1 / safe(f2 - f1) * f3 / safe(f2 - f3)
        square = (x3 - x1) / safe(x2 - x1) * f1 / safe(f3 - f1) * f2 / safe(f3 - f2)
        t = linear + square
        t = jnp.where(smooth & jnp.isfinite(t), t, 0.5)
        # No nearer to an end than rounding, so that the far end moves at last.
        eps = 2 * float(jnp.finfo(x1.dtype).eps)
        least = eps * jnp.maximum(jnp.abs(x1), jnp.abs(x2)) / safe(jnp.abs(x2 - x1))
        least = jnp.minimum(least, 0.5)
        return x1 + jnp.clip(t, least, 1 - least) * (x2 - x1)

    return bracketing(fun, lower, upper, width, propose)
