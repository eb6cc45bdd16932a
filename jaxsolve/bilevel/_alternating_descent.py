"""Two-timescale descent: a lower and an upper gradient step at every update."""

from typing import NamedTuple

import chex
import jax
import optax

from jaxsolve import core
from jaxsolve.bilevel._oracle import (
    accept,
    begin,
    error_of,
    linearised,
    projected,
    upper_step,
)
from jaxsolve.bilevel._problem import BilevelProblem, Levels, check_problem


class AlternatingDescentState(NamedTuple):
    """State of two-timescale descent."""

    count: chex.Array  # (), int32: updates taken.
    error: chex.Array  # (), real: largest entry of both directions of the last update.
    status: chex.Array  # (), int32: running or diverged.
    upper: chex.ArrayTree  # the optimizer's own state.


@core.memoise
def alternating_descent(
    problem: BilevelProblem,
    optimizer: optax.GradientTransformation,
    stepsize: optax.ScalarOrSchedule,
    adjoint_stepsize: chex.Numeric | None = None,
    *,
    terms: int = 10,
) -> core.Solver:
    r"""Takes a lower and an upper gradient step at every update: the plain baseline.

    Solves :math:`\min_x f(x, y^\star(x))`, where :math:`y^\star(x)` minimises
    :math:`g(x, \cdot)`, up to a bias. With :math:`H = g_{yy}` and :math:`J = g_{xy}` at
    :math:`(x, y)`, one update computes

    .. math::

        w &= \eta \sum_{q=0}^{K-1} (I - \eta H)^q f_y \\
        d_x &= f_x - J^\top w \\
        y^+ &= y - \beta g_y \\
        x^+ &= P_X(x + \mathrm{optimizer}(d_x))

    all at the old :math:`(x, y)`: the K - 1 products are those of one linearisation,
    which also gives :math:`g_y`, and no further calls of the objectives. K = 0 follows
    the direct gradient :math:`f_x`, blind to the lower level's answer; K = 1 is the
    one-step, Jacobian-free one, :math:`w = \eta f_y`.

    This is two-timescale stochastic approximation (TTSA) but for two things. There one
    of the terms, drawn at random and scaled, stands for the sum, which is its
    expectation; and the upper step follows the lower one, at the cost of a second
    linearisation. Its stepsizes are :math:`\beta_k \sim (k + 1)^{-2/5}` and, in the
    optimizer, :math:`\alpha_k \sim (k + 1)^{-3/5}`.

    The steps of x must be much smaller than those of y, or it may diverge. It converges
    to a point whose hypergradient is off by :math:`O((1 - \eta \mu)^K)`, :math:`\mu`
    the least eigenvalue of H. To be free of that bias at less cost, use :func:`soba`,
    which keeps the adjoint from one update to the next.

    Args:
        problem: both objectives; an upper set is kept by projection, other parts are
            refused.
        optimizer: the step of x, any optax transformation.
        stepsize: :math:`\beta` of y, below :math:`2 / L_g`, a scalar or a schedule of
            the update count.
        adjoint_stepsize: :math:`\eta` of the series, one number below :math:`2 / L_g`,
            outside of which it diverges with K; the stepsize by default.
        terms: K, a non-negative integer.

    Returns:
        A solver of ``Levels(upper, lower)``. Its error is :math:`\max(\|d_x\|_\infty,
        \|g_y\|_\infty)` before the step, with an upper set :math:`x - P_X(x - d_x)` for
        :math:`d_x`; on minibatches it cannot stop a run. Its residual is
        :math:`(d_x, g_y)`: derivatives are those of the biased point.

    Raises:
        ValueError: if the problem has a lower set or a constraint; on stepsizes that
            are not positive and finite, or a schedule without an adjoint stepsize; on
            terms that are no non-negative integer.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from jaxsolve import bilevel, core
        >>> upper = lambda levels, data: jnp.sum((levels.lower - data) ** 2)
        >>> lower = lambda levels, data: jnp.sum((levels.lower - 2 * levels.upper) ** 2)
        >>> problem = bilevel.BilevelProblem(upper, lower)
        >>> solver = bilevel.alternating_descent(problem, optax.sgd(0.05), 0.25)
        >>> start = bilevel.Levels(jnp.zeros(()), jnp.zeros(()))
        >>> print(f"{core.run(solver, start, (3.0, None)).params.upper:.3f}")
        1.500

    References:
        Hong, Wai, Wang and Yang, `A Two-Timescale Framework for Bilevel Optimization:
        Complexity Analysis and Application to Actor-Critic
        <https://arxiv.org/abs/2007.05170>`_, 2020. Algorithm 1, (TTSA).
    """
    check_problem(problem, "alternating_descent", takes=("upper_set",))
    core.check_stepsize(stepsize)
    core.check_stepsize(adjoint_stepsize)
    if not isinstance(terms, int) or terms < 0:
        raise ValueError(f"terms must be a non-negative integer, got {terms!r}.")
    eta = stepsize if adjoint_stepsize is None else adjoint_stepsize
    if callable(eta):
        raise ValueError(
            "the solution depends on the adjoint_stepsize, so it must be one number: "
            "give alternating_descent one beside a schedule of stepsizes."
        )
    schedule = core.as_schedule(stepsize)
    at = linearised(problem)
    begin_upper, step = upper_step(problem, optimizer)

    def directions(levels, data):
        """The value of f, and both directions."""
        point = at(levels, data)
        rate = core.real_scalar(eta, levels)
        adjoint = _series(point.pull, point.grad.lower, rate, terms)
        d_x = optax.tree.sub(point.grad.upper, point.pull(adjoint).upper)
        return point.value, d_x, point.slope

    def init(params, data=None):
        del data
        return AlternatingDescentState(*begin(params), begin_upper(params.upper))

    def update(params, state, data=None):
        x, y = params
        value, d_x, d_y = directions(params, data)
        beta = core.real_scalar(schedule(state.count), params)
        new_x, upper = step(d_x, state.upper, x, value)
        new_params = Levels(new_x, core.axpy(-beta, d_y, y))
        error = error_of(projected(problem, x, d_x), d_y)
        new_state = state._replace(count=state.count + 1, error=error, upper=upper)
        return accept(params, state, new_params, new_state, free=("upper",))

    def residual(params, data=None):
        _, d_x, d_y = directions(params, data)
        return Levels(projected(problem, params.upper, d_x), d_y)

    return core.Solver(init, update, residual, core.implicit())


def _series(pull, rhs, eta, terms):
    """Sums the first terms of the Neumann series of H^{-1} rhs."""
    if not terms:
        return optax.tree.zeros_like(rhs)

    def add(carry, _):
        term, total = carry
        term = core.axpy(-eta, pull(term).lower, term)
        return (term, optax.tree.add(total, term)), None

    (_, total), _ = jax.lax.scan(add, (rhs, rhs), length=terms - 1)
    return core.axpy(eta, total, optax.tree.zeros_like(total))
