"""Douglas-Rachford splitting."""

import chex

from jaxsolve import core
from jaxsolve.composite import _splitting
from jaxsolve.prox import Prox


@core.memoise
def douglas_rachford(
    prox_f: Prox,
    prox_g: Prox,
    stepsize: chex.Numeric = 1.0,
    *,
    relaxation: chex.Numeric = 1.0,
) -> core.Solver:
    r"""Minimises the sum of two functions, of which only the proxes are known.

    Solves :math:`\min_x f(x) + g(x)`. From the governing point :math:`z`, which starts
    at the given params, one update computes

    .. math::

        x &= \operatorname{prox}_{\eta g}(z) \\
        y &= \operatorname{prox}_{\eta f}(2 x - z) \\
        z^+ &= z + \lambda (y - x)

    Params are the shadow points :math:`x`: they lie in the domain of :math:`g`, so what
    must hold exactly (a constraint, a sparsity) belongs there. For convex :math:`f` and
    :math:`g` it converges with any stepsize, :math:`\|y - x\|` like
    :math:`1/\sqrt{k}` or better; linearly where both are piecewise linear-quadratic.
    Where no point lies in both domains, :math:`z` drifts away and the error stays.

    The sum of many functions is that of two over copies of :math:`x`: params hold one
    copy along an axis, ``prox_f`` treats each apart, ``prox_g`` gives all their mean.

    Args:
        prox_f: of :math:`f`, as ``prox(params, stepsize) -> params``, or made by
            :func:`prox.of_data <jaxsolve.prox.of_data>`. Both proxes are shown leaves
            of at least 32 bits.
        prox_g: of :math:`g`, likewise.
        stepsize: :math:`\eta > 0`. It balances the two: the best one is about the ratio
            of the distance to go to the size of the gradients at the solution.
        relaxation: :math:`\lambda`, between 0 and 2.

    Returns:
        A solver. Its error is :math:`\|y - x\|_\infty / \min(\eta, 1)`: there are
        subgradients of :math:`g` at :math:`x` and of :math:`f` at :math:`y` that sum to
        :math:`(x - y) / \eta`. Its residual, of :math:`x` and :math:`z`, is
        :math:`x - \operatorname{prox}_{\eta g}(z)` and :math:`x - y`. Derivatives are
        refused, as NaN, where the multiplier :math:`z - x` is not unique, as where
        constraints overlap. Where neither prox moves :math:`z` beyond rounding the
        error is that rounding, over :math:`\min(\eta, 1)`: the stepsize may be
        lost in it.

    Raises:
        ValueError: if `stepsize` is not one positive number or `relaxation` not between
            0 and 2; while tracing, if a prox returns another tree.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import composite, prox
        >>> plane = prox.affine_set(jnp.array([[1.0, 2.0, 2.0]]), jnp.array([2.0]))
        >>> solver = composite.douglas_rachford(plane, prox.l1(1.0), 0.3)
        >>> solution = jaxsolve.run(solver, jnp.array([1.0, 2.0, 0.0]))
        >>> print(solution.converged, jnp.round(jnp.sum(jnp.abs(solution.params)), 3))
        True 1.0

    References:
        Lions and Mercier, `Splitting Algorithms for the Sum of Two Nonlinear Operators
        <https://doi.org/10.1137/0716071>`_, 1979. Eckstein and Bertsekas, `On the
        Douglas-Rachford Splitting Method and the Proximal Point Algorithm
        <https://doi.org/10.1007/BF01581204>`_, 1992, relaxed.
    """
    _splitting.check(stepsize, relaxation)
    update = _splitting.split(None, prox_f, prox_g, stepsize, relaxation)
    residual = _splitting.equations(None, prox_f, prox_g, stepsize)
    return core.Solver(_splitting.start, update, residual, _splitting.RULE)
