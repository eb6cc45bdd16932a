"""AmIGO: warm-started steps on the lower level, and on the adjoint."""

import optax

from jaxsolve import core
from jaxsolve.bilevel._adjoint_loops import cg_loop, sgd_loop
from jaxsolve.bilevel._epoch_sgd import epoch_sgd, gradient_loop
from jaxsolve.bilevel._phases import check_steps, phases
from jaxsolve.bilevel._problem import BilevelProblem, check_problem


@core.memoise
def amigo(
    problem: BilevelProblem,
    optimizer: optax.GradientTransformation,
    stepsize: optax.ScalarOrSchedule,
    adjoint_stepsize: optax.ScalarOrSchedule | None = None,
    *,
    inner_steps: int,
    adjoint_steps: int,
) -> core.Solver:
    r"""Minimises over both levels by AmIGO: a few warm-started steps on each system.

    Solves :math:`\min_x f(x, y^\star(x))`, where :math:`y^\star(x)` minimises
    :math:`g(x, \cdot)`. With :math:`H = g_{yy}` and :math:`J = g_{xy}` at
    :math:`(x, y)`, a round of :math:`T + N + 1` updates computes, with one
    linearisation of g in each,

    .. math::

        y &\leftarrow y - \alpha g_y(x, y) && T \text{ times} \\
        w &\leftarrow w - \beta (H w - f_y) && N \text{ times} \\
        x &\leftarrow P_X(x + \mathrm{optimizer}(f_x - J^\top w))

    or, without a :math:`\beta`, N steps of conjugate gradients on :math:`H w = f_y`,
    which takes one product more, for the first residual. Both y and w are kept from
    round to round, so that small numbers of steps suffice, and the hypergradient has no
    bias in the limit. On minibatches every update sees a new batch; :math:`f_x` and
    :math:`f_y` are of one. Conjugate gradients need the same data throughout a round.

    With g strongly convex in y it converges where the optimizer's steps are small
    against those of y and w; the more steps a round has, the larger they may be. T = N
    = 1 is slower than :func:`soba` by a factor of three.

    Args:
        problem: both objectives; an upper set is kept by projection, other parts are
            refused.
        optimizer: the step of x, any optax transformation, ``optax.sgd(gamma)`` in the
            paper.
        stepsize: :math:`\alpha` in :math:`(0, 2 / L_g)` of y, a scalar or a schedule of
            the upper steps taken; above, y diverges.
        adjoint_stepsize: :math:`\beta`, likewise, of w; None for conjugate gradients.
        inner_steps: :math:`T \ge 1`.
        adjoint_steps: :math:`N \ge 1`.

    Returns:
        A solver of ``Levels(upper, lower)``. Its error is the largest entry of
        :math:`(f_x - J^\top w, g_y, H w - f_y)` before the last step of x, infinite
        before the first, with an upper set :math:`x - P_X(x - \cdot)` of the first
        part; on minibatches it cannot stop a run. Its residual is :math:`(f_x - J^\top
        H^{-1} f_y, g_y)`.

    Raises:
        ValueError: if the problem has a lower set or a constraint; on numbers that are
            not positive.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from jaxsolve import bilevel, core
        >>> upper = lambda levels, data: jnp.sum((levels.lower - data) ** 2)
        >>> lower = lambda levels, data: jnp.sum((levels.lower - 2 * levels.upper) ** 2)
        >>> problem = bilevel.BilevelProblem(upper, lower)
        >>> solver = bilevel.amigo(
        ...     problem, optax.sgd(0.1), 0.25, 0.25, inner_steps=3, adjoint_steps=3
        ... )
        >>> start = bilevel.Levels(jnp.zeros(()), jnp.zeros(()))
        >>> print(f"{core.run(solver, start, (3.0, None)).params.upper:.3f}")
        1.500

    References:
        Arbel and Mairal, `Amortized Implicit Differentiation for Stochastic Bilevel
        Optimization <https://arxiv.org/abs/2111.14580>`_, 2022. Algorithm 1, with
        Algorithms 2 and 3 below, AmIGO and AmIGO-CG.
    """
    check_problem(problem, "amigo", takes=("upper_set",))
    check_steps(adjoint_steps=adjoint_steps)
    core.check_stepsize(adjoint_stepsize)
    loop = epoch_sgd(stepsize, inner_steps)
    if adjoint_stepsize is None:
        adjoint = cg_loop(adjoint_steps)
    else:
        adjoint = sgd_loop(adjoint_stepsize, adjoint_steps)
    return phases(problem, gradient_loop(loop, loop), adjoint, optimizer)
