"""SOBA: both levels and the adjoint move at once, by one call of each objective."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import optax

from jaxsolve import core
from jaxsolve.bilevel._oracle import (
    accept,
    begin,
    error_of,
    linearised,
    projected,
    stationarity,
    upper_step,
)
from jaxsolve.bilevel._problem import BilevelProblem, Levels, check_problem


class SobaState(NamedTuple):
    """State of SOBA."""

    count: chex.Array  # (), int32: updates taken.
    error: chex.Array  # (), real: largest entry of the directions of the last update.
    status: chex.Array  # (), int32: running or diverged.
    adjoint: Any  # like y: v, which tends to -H^{-1} f_y; zero at first.
    upper: Any  # the optimizer's own state.


class Samples(NamedTuple):
    """What a batch tells of the three directions, all linear in the sample."""

    direct: Any  # like x: f_x.
    pull: Any  # like y: f_y.
    cross: Any  # like x: J^T v.
    curve: Any  # like y: H v.
    slope: Any  # like y: g_y.


@core.memoise
def soba(
    problem: BilevelProblem,
    optimizer: optax.GradientTransformation,
    stepsize: optax.ScalarOrSchedule,
) -> core.Solver:
    r"""Minimises over both levels in a single loop, without inner solves.

    Solves :math:`\min_x f(x, y^\star(x))`, where :math:`y^\star(x)` minimises
    :math:`g(x, \cdot)`. With :math:`H = g_{yy}` and :math:`J = g_{xy}` at
    :math:`(x, y)`, and the adjoint :math:`v`, one update computes

    .. math::

        d_x &= J^\top v + f_x, \quad d_v = H v + f_y, \quad d_y = g_y \\
        y^+ &= y - \rho d_y \\
        v^+ &= v - \rho d_v \\
        x^+ &= P_X(x + \mathrm{optimizer}(d_x))

    all at the old :math:`(x, y, v)`. The directions are linear in what is sampled, so
    that they stay unbiased on minibatches. With g strongly convex in y it converges for
    :math:`\rho < 1 / L_g` if the optimizer's steps are much smaller than :math:`\rho`;
    at equal ones it may diverge. On minibatches the steps must decrease: the paper's
    are :math:`\rho / \sqrt{k + 1}` on both levels, a variant for theory
    :math:`(k + 1)^{-2/5}` below and :math:`(k + 1)^{-3/5}` above. :func:`saba` keeps
    them constant.

    Args:
        problem: both objectives; an upper set is kept by projection, other parts are
            refused.
        optimizer: the step of x, any optax transformation, ``optax.sgd(gamma)`` in the
            paper.
        stepsize: :math:`\rho > 0` of y and v, a scalar or a schedule of the update
            count. Above :math:`2 / L_g` the lower level diverges; stochastic runs are
            bound by the worst batch, not by the mean problem.

    Returns:
        A solver of ``Levels(upper, lower)``. Its error is :math:`\max(\|d_x\|_\infty,
        \|d_v\|_\infty, \|d_y\|_\infty)` before the step, with an upper set :math:`x -
        P_X(x - d_x)` for :math:`d_x`; on minibatches it cannot stop a run. Its residual
        is :math:`(f_x - J^\top H^{-1} f_y, g_y)`.

    Raises:
        ValueError: if the problem has a lower set or a constraint, or on a stepsize
            that is not positive and finite.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from jaxsolve import bilevel, core
        >>> upper = lambda levels, data: jnp.sum((levels.lower - data) ** 2)
        >>> lower = lambda levels, data: jnp.sum((levels.lower - 2 * levels.upper) ** 2)
        >>> problem = bilevel.BilevelProblem(upper, lower)
        >>> solver = bilevel.soba(problem, optax.sgd(0.05), 0.25)
        >>> start = bilevel.Levels(jnp.zeros(()), jnp.zeros(()))
        >>> print(f"{core.run(solver, start, (3.0, None)).params.upper:.3f}")
        1.500

    References:
        Dagréou, Ablin, Vaiter and Moreau, `A framework for bilevel optimization that
        enables stochastic and global variance reduction algorithms
        <https://arxiv.org/abs/2201.13409>`_, 2022. Algorithm 1, (SOBA).
    """
    check_problem(problem, "soba", takes=("upper_set",))
    core.check_stepsize(stepsize)
    sample = sampler(problem)
    begin_upper, move = mover(problem, optimizer, core.as_schedule(stepsize))

    def init(params, data=None):
        del data
        first = begin(params)
        adjoint = optax.tree.zeros_like(params.lower)
        return SobaState(*first, adjoint, begin_upper(params.upper))

    def update(params, state, data=None):
        value, samples = sample(params, state.adjoint, data)
        moved = move(params, state, samples, value)
        return accept(params, state, *moved, free=("upper",))

    return core.Solver(init, update, stationarity(problem), core.implicit())


def sampler(problem: BilevelProblem) -> Callable:
    """Makes ``(levels, adjoint, data) -> f, Samples``."""
    at = linearised(problem)

    def sample(levels, adjoint, data):
        point = at(levels, data)
        cross, curve = point.pull(adjoint)
        return point.value, Samples(*point.grad, cross, curve, point.slope)

    return sample


def mover(
    problem: BilevelProblem,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
) -> tuple:
    """Makes the step of x, y and v, for any state that has the fields of SobaState.

    Returns:
        ``init(x) -> state`` of the optimizer, and ``move(levels, state, samples, value)
        -> (levels, state)``, yet to be accepted.
    """
    begin_upper, step = upper_step(problem, optimizer)

    def move(levels: Levels, state, samples: Samples, value):
        x, y = levels
        d_x = optax.tree.add(samples.cross, samples.direct)
        d_v = optax.tree.add(samples.curve, samples.pull)
        d_y = samples.slope
        rho = core.real_scalar(schedule(state.count), levels)
        new_x, upper = step(d_x, state.upper, x, value)
        new_state = state._replace(
            count=state.count + 1,
            error=error_of(projected(problem, x, d_x), d_v, d_y),
            adjoint=core.axpy(-rho, d_v, state.adjoint),
            upper=upper,
        )
        return Levels(new_x, core.axpy(-rho, d_y, y)), new_state

    return begin_upper, move
