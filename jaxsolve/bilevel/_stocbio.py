"""stocBiO: warm-started lower steps, then a Neumann series for the adjoint."""

import optax

from jaxsolve import core
from jaxsolve.bilevel._adjoint_loops import neumann_loop
from jaxsolve.bilevel._epoch_sgd import epoch_sgd, gradient_loop
from jaxsolve.bilevel._phases import check_steps, phases
from jaxsolve.bilevel._problem import BilevelProblem, check_problem


@core.memoise
def stocbio(
    problem: BilevelProblem,
    optimizer: optax.GradientTransformation,
    stepsize: optax.ScalarOrSchedule,
    *,
    inner_steps: int,
    terms: int,
    eta: optax.ScalarOrSchedule,
) -> core.Solver:
    r"""Minimises over both levels by stocBiO: lower steps, a Neumann series, a step.

    Solves :math:`\min_x f(x, y^\star(x))`, where :math:`y^\star(x)` minimises
    :math:`g(x, \cdot)`. With :math:`H = g_{yy}` and :math:`J = g_{xy}` at
    :math:`(x, y)`, a round of :math:`K + Q` updates computes, with one linearisation of
    g in each,

    .. math::

        y &\leftarrow y - \alpha g_y(x, y) && K \text{ times} \\
        w &= \eta \sum_{q=0}^{Q-1} (I - \eta H)^q f_y && Q - 1 \text{ products} \\
        x &\leftarrow P_X(x + \mathrm{optimizer}(f_x - J^\top w))

    y is kept from round to round, w is not. On minibatches every update sees a new
    batch, so that every term of the series has its own; :math:`f_x` and :math:`f_y` are
    of one batch. (The paper's shrinking batches within a series are not offered.)

    With g strongly convex in y it converges to where the hypergradient **as the series
    knows it** is zero: its bias is :math:`(1 - \eta \mu)^Q`, on fixed data too, as long
    as :math:`\eta \le 1 / L_g`. :func:`amigo` has no such bias, at the same cost.

    Args:
        problem: both objectives; an upper set is kept by projection, other parts are
            refused.
        optimizer: the step of x, any optax transformation; ``optax.sgd(0.1)`` in the
            paper.
        stepsize: :math:`\alpha` in :math:`(0, 2 / L_g)` of y, a scalar or a schedule of
            the upper steps taken; above, y diverges.
        inner_steps: :math:`K \ge 1`; 200 in the paper's data cleaning.
        terms: :math:`Q \ge 1` of the series, as in :func:`neumann`; the paper's Q, 3 in
            its experiments, is ``terms - 1``.
        eta: :math:`\eta` in :math:`(0, 2 / L_g)`, a scalar or a schedule of the upper
            steps taken; above, the series diverges.

    Returns:
        A solver of ``Levels(upper, lower)``. Its error is the largest entry of
        :math:`(f_x - J^\top w, g_y, H w - f_y)` before the last step of x, infinite
        before the first, with an upper set :math:`x - P_X(x - \cdot)` of the first
        part. It stays above the bias, and on minibatches it cannot stop a run. Its
        residual is :math:`(f_x - J^\top H^{-1} f_y, g_y)`.

    Raises:
        ValueError: if the problem has a lower set or a constraint; on numbers that are
            not positive.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from jaxsolve import bilevel, core
        >>> upper = lambda levels, data: jnp.sum((levels.lower - data) ** 2)
        >>> lower = lambda levels, data: jnp.sum((levels.lower - 2 * levels.upper) ** 2)
        >>> problem = bilevel.BilevelProblem(upper, lower)
        >>> solver = bilevel.stocbio(
        ...     problem, optax.sgd(0.1), 0.25, inner_steps=5, terms=20, eta=0.25
        ... )
        >>> start = bilevel.Levels(jnp.zeros(()), jnp.zeros(()))
        >>> print(f"{core.run(solver, start, (3.0, None)).params.upper:.3f}")
        1.500

    References:
        Ji, Yang and Liang, `Bilevel Optimization: Convergence Analysis and Enhanced
        Design <https://arxiv.org/abs/2010.07962>`_, 2021. Algorithm 2 and (6).
    """
    check_problem(problem, "stocbio", takes=("upper_set",))
    check_steps(terms=terms)
    core.check_stepsize(eta)
    loop = epoch_sgd(stepsize, inner_steps)
    return phases(
        problem, gradient_loop(loop, loop), neumann_loop(eta, terms), optimizer
    )
