"""Davis-Yin three-operator splitting."""

import chex

from jaxsolve import core
from jaxsolve.composite import _splitting
from jaxsolve.prox import Prox


@core.memoise
def davis_yin(
    fun: core.Objective,
    prox_f: Prox,
    prox_g: Prox,
    stepsize: chex.Numeric,
    *,
    relaxation: chex.Numeric = 1.0,
) -> core.Solver:
    r"""Minimises a smooth function plus two proximable ones.

    Solves :math:`\min_x h(x) + f(x) + g(x)`. From the governing point :math:`z`, which
    starts at the given params, one update computes

    .. math::

        x &= \operatorname{prox}_{\eta g}(z) \\
        y &= \operatorname{prox}_{\eta f}(2 x - z - \eta \nabla h(x)) \\
        z^+ &= z + \lambda (y - x)

    Params are the points :math:`x`, in the domain of :math:`g`. Without :math:`h` it is
    Douglas-Rachford splitting, without :math:`g` proximal gradient descent. For convex
    functions it converges if :math:`\eta < 2 / L` and
    :math:`\lambda < 2 - \eta L / 2`, where :math:`L` is the Lipschitz constant of
    :math:`\nabla h`.

    Args:
        fun: :math:`h`, as ``fun(params, data) -> scalar``, smooth.
        prox_f: of :math:`f`, as ``prox(params, stepsize) -> params``, or made by
            :func:`prox.of_data <jaxsolve.prox.of_data>`. Both proxes are shown leaves
            of at least 32 bits.
        prox_g: of :math:`g`, likewise.
        stepsize: :math:`\eta`, between 0 and :math:`2 / L`.
        relaxation: :math:`\lambda`.

    Returns:
        A solver. Its error is :math:`\|y - x\|_\infty / \min(\eta, 1)`. Its
        residual, of :math:`x` and :math:`z`, is :math:`x - \operatorname{prox}_{\eta
        g}(z)` and :math:`x - y`. Derivatives are refused, as NaN, where the multiplier
        :math:`z - x` is not unique, as where constraints overlap. Where nothing moves
        :math:`z` beyond rounding the error is at least that rounding, over
        :math:`\min(\eta, 1)`: the stepsize may be lost in it.

    Raises:
        ValueError: if `stepsize` is not one positive number or `relaxation` not between
            0 and 2; while tracing, if the objective is not a real scalar or a prox
            returns another tree.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import composite, prox
        >>> fun = lambda x, b: 0.5 * jnp.sum((x - b) ** 2)
        >>> solver = composite.davis_yin(fun, prox.l1(0.5), prox.non_negative(), 1.0)
        >>> solution = jaxsolve.run(solver, jnp.zeros(3), jnp.array([3.0, 0.2, -2.0]))
        >>> print(solution.converged, jnp.round(solution.params, 3))
        True [2.5 0.  0. ]

    References:
        Davis and Yin, `A Three-Operator Splitting Scheme and its Optimization
        Applications <https://doi.org/10.1007/s11228-017-0421-z>`_, 2017. Algorithm 1.
    """
    _splitting.check(stepsize, relaxation)
    oracle = core.value_and_grad(fun)
    update = _splitting.split(oracle, prox_f, prox_g, stepsize, relaxation)
    residual = _splitting.equations(oracle, prox_f, prox_g, stepsize)
    return core.Solver(_splitting.start, update, residual, _splitting.RULE)
