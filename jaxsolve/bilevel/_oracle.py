"""What all bilevel algorithms read of a problem, and how they take their steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.bilevel._problem import (
    BilevelProblem,
    Levels,
    check_levels,
    lower_slope,
    split,
)
from jaxsolve.core import Status, as_status


class Point(NamedTuple):
    """Both oracles at one point: one call of each objective."""

    value: chex.Array  # (), real: f.
    grad: Levels  # f_x and f_y.
    slope: Any  # like y: g_y.
    pull: Callable  # v, like y -> Levels(J^T v, H v): both products in one pull-back.


def linearised(problem: BilevelProblem) -> Callable[[Levels, Any], Point]:
    """Makes ``(levels, data) -> Point``, at one call site of each objective."""
    upper, lower = upper_oracle(problem), lower_oracle(problem)

    def at(levels, data):
        value, grad = upper(levels, data)
        return Point(value, grad, *lower(levels, data))

    return at


def upper_oracle(problem: BilevelProblem) -> Callable:
    """Makes ``(levels, data) -> f, Levels(f_x, f_y)``."""
    oracle = core.value_and_grad(problem.upper)
    return lambda levels, data: oracle(check_levels(levels), split(data)[0])


def lower_oracle(problem: BilevelProblem) -> Callable:
    """Makes ``(levels, data) -> g_y, pull`` with pull as that of a `Point`."""
    slope = lower_slope(problem)

    def at(levels, data):
        x, y = check_levels(levels)
        lower_data = split(data)[1]
        value, pull = jax.vjp(lambda x, y: slope(y, x, lower_data), x, y)
        return value, lambda v: Levels(*pull(v))

    return at


def stationarity(problem: BilevelProblem) -> Callable:
    r"""Makes the residual of the pair, zero where both levels are stationary.

    .. math::

        (f_x - J^\top H^{-1} f_y,\; g_y)

    with :math:`H = g_{yy}` and :math:`J = g_{xy}`; with sets, the distances that a
    projected gradient step of length one moves x and y. For the upper set alone: a
    lower set needs :func:`jaxsolve.bilevel.implicit_hypergradient`.
    """
    at = linearised(problem)

    def residual(levels, data=None):
        point = at(levels, data)
        adjoint = core.solve_linear(
            lambda v: point.pull(v).lower, point.grad.lower, symmetric=True
        )
        direct = point.grad.upper
        hypergradient = optax.tree.sub(direct, point.pull(adjoint).upper)
        return Levels(projected(problem, levels.upper, hypergradient), point.slope)

    return residual


def projected(problem: BilevelProblem, x: Any, grad: Any) -> Any:
    """The gradient, or with an upper set x - P(x - gradient), like x."""
    if problem.upper_set is None:
        return grad
    return optax.tree.sub(x, problem.upper_set(optax.tree.sub(x, grad)))


def error_of(*parts: Any) -> chex.Array:
    """The error of this room: the largest entry of what should be zero."""
    return core.sup_norm(parts)


def upper_step(
    problem: BilevelProblem, optimizer: optax.GradientTransformation
) -> tuple:
    """Makes the step of the upper level: any optax transformation, then the set.

    Returns:
        ``init(x) -> state`` and ``step(grad, state, x, value=None) -> (x, state)``.
    """
    init, advance = core.transform_pair(optimizer)

    def step(grad, state, x, value=None):
        extra = {} if value is None else {"value": value, "grad": grad}
        new_x, state = advance(grad, state, x, **extra)
        if problem.upper_set is not None:
            new_x = problem.upper_set(new_x)
        return new_x, state

    return init, step


def begin(params: Levels) -> tuple:
    """The first three fields of a state: count, error, status."""
    inf = core.real_scalar(jnp.inf, check_levels(params))
    return jnp.zeros((), jnp.int32), inf, as_status(Status.RUNNING)


def accept(
    params: Levels,
    state: Any,
    new_params: Levels,
    new_state: Any,
    *,
    free: tuple[str, ...] = (),
) -> tuple:
    """Takes a step, unless something in it is not finite: that is divergence.

    The error may be infinite: it has not been measured yet. So may the `free` fields,
    states of other people's solvers and optimizers, that judge themselves.
    """
    checked = new_state._replace(error=None, **dict.fromkeys(free))
    floats = [
        leaf
        for leaf in jax.tree.leaves(checked)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    ok = core.all_finite([new_params, floats]) & ~jnp.isnan(new_state.error)
    diverged = as_status(Status.DIVERGED)
    stay = state._replace(count=new_state.count, status=diverged)
    return core.where(ok, (new_params, new_state), (params, stay))
