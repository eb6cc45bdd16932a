"""BO-REP: normalised momentum, and a lower level that is seldom touched."""

import optax

from jaxsolve import core
from jaxsolve.bilevel._adjoint_loops import sgd_loop
from jaxsolve.bilevel._epoch_sgd import EpochSgd, gradient_loop
from jaxsolve.bilevel._phases import check_steps, phases
from jaxsolve.bilevel._problem import BilevelProblem, check_problem


@core.memoise
def bo_rep(
    problem: BilevelProblem,
    optimizer: optax.GradientTransformation,
    refresh: EpochSgd,
    adjoint_stepsize: optax.ScalarOrSchedule,
    *,
    period: int,
    start: EpochSgd | None = None,
) -> core.Solver:
    r"""Minimises over both levels where the upper one has no Lipschitz gradient.

    Solves :math:`\min_x f(x, y^\star(x))`, where :math:`y^\star(x)` minimises
    :math:`g(x, \cdot)`, and the smoothness of f may grow with its gradient, as that of
    exponentials, polynomials and recurrent networks does. With :math:`H = g_{yy}` and
    :math:`J = g_{xy}` at :math:`(x, y)`, round :math:`k = 0, 1, \dots` computes, with
    one linearisation of g in each update,

    .. math::

        y &\leftarrow \mathrm{start}(x, y) && \text{if } k = 0 \\
        y &\leftarrow \mathrm{refresh}(x, y) && \text{if } k > 0 \text{ and } I
            \text{ divides } k \\
        w &\leftarrow w - \nu (H w - f_y) \\
        m &\leftarrow \beta m + (1 - \beta) (f_x - J^\top w) \\
        x &\leftarrow P_X(x - \eta m / \|m\|)

    The last two lines, the third of the updates, are the optimizer
    :func:`normalized_momentum`; another may be given. Between refreshes y stays as it
    is, bit by bit. On minibatches every update sees a new batch; :math:`f_x` and
    :math:`f_y` are of one, which the paper draws separately.

    With g strongly convex in y and all steps small it reaches, and stays at, a distance
    in proportion to :math:`\eta`: normalised steps never come to rest. So let
    :math:`\eta` decrease to converge. :math:`\eta I` must stay below the accuracy
    wanted of y, which lags behind by up to that. The paper's theory has :math:`1 -
    \beta` and :math:`\nu` of the order :math:`\epsilon^2`, :math:`\eta` of
    :math:`\epsilon^3`, and I and the steps of a refresh of :math:`\epsilon^{-2}`, for
    a hypergradient of norm :math:`\epsilon`: recalled, with medium confidence.

    Args:
        problem: both objectives; an upper set is kept by projection, other parts are
            refused.
        optimizer: the step of x: ``normalized_momentum(eta, 0.9)`` in the paper, with
            :math:`\eta` from 1e-4 to 5e-2; any optax transformation.
        refresh: the steps of y every now and then, as :func:`epoch_sgd` describes them:
            ``epoch_sgd(tau, N)`` in practice, N from 3 to 10; with a ball and an
            average in theory, ``epoch_sgd(tau, N, radius=R, average=True)``.
        adjoint_stepsize: :math:`\nu` in :math:`(0, 2 / L_g)`, 1e-2 in the paper, a
            scalar or a schedule of the upper steps taken; above, w diverges.
        period: :math:`I \ge 1`, from 2 to 3 in practice.
        start: the steps of y at the very first, likewise: ``epoch_sgd(tau, T)`` in
            practice, several epochs with balls and averages in theory; none by default.

    Returns:
        A solver of ``Levels(upper, lower)``. Its error is the largest entry of
        :math:`(f_x - J^\top w, g_y, H w - f_y)` before the last step of x, infinite
        before the first, with an upper set :math:`x - P_X(x - \cdot)` of the first
        part. With a constant :math:`\eta`, and on minibatches, it cannot stop a run.
        Its residual is :math:`(f_x - J^\top H^{-1} f_y, g_y)`.

    Raises:
        ValueError: if the problem has a lower set or a constraint; if `refresh` or
            `start` does not come from :func:`epoch_sgd`; on numbers that are not
            positive.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import bilevel, core
        >>> upper = lambda levels, data: (levels.lower - data) ** 4
        >>> lower = lambda levels, data: (levels.lower - levels.upper) ** 2 / 2
        >>> problem = bilevel.BilevelProblem(upper, lower)
        >>> rule, refresh = bilevel.normalized_momentum(0.05), bilevel.epoch_sgd(0.5, 3)
        >>> solver = bilevel.bo_rep(problem, rule, refresh, 0.5, period=2)
        >>> begin = bilevel.Levels(jnp.asarray(10.0), jnp.asarray(10.0))
        >>> print(f"{core.run(solver, begin, (3.0, None)).params.upper:.0f}")
        3

    References:
        Hao, Gong and Liu, `Bilevel Optimization under Unbounded Smoothness: A New
        Algorithm and Convergence Analysis <https://arxiv.org/abs/2401.09587>`_, 2024.
    """
    check_problem(problem, "bo_rep", takes=("upper_set",))
    check_steps(period=period)
    core.check_stepsize(adjoint_stepsize)
    for name, loop in (("refresh", refresh), ("start", start)):
        if not isinstance(loop, EpochSgd) and (loop is not None or name == "refresh"):
            raise ValueError(
                f"{name} of bo_rep is what epoch_sgd makes, such as epoch_sgd(0.1, 3), "
                f"got {type(loop).__name__}."
            )
    lower_loop = gradient_loop(start, refresh, period)
    return phases(problem, lower_loop, sgd_loop(adjoint_stepsize, 1), optimizer)
