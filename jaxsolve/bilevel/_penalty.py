"""What penalty methods share: the gradients of f + penalty (g(x, y) - g(x, z))."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsolve import core
from jaxsolve.bilevel._oracle import projected, upper_oracle
from jaxsolve.bilevel._problem import BilevelProblem, Levels, split


class Triple(NamedTuple):
    """What a penalty method moves, or what belongs to each of the three."""

    upper: Any  # x.
    lower: Any  # y, which also seeks a small f.
    shadow: Any  # z, like y, which minimises g alone.


class Slopes(NamedTuple):
    """The gradients of both objectives at a triple."""

    direct: Any  # like x: f_x(x, y).
    pull: Any  # like y: f_y(x, y).
    gap: Any  # like x: g_x(x, y) - g_x(x, z).
    lower: Any  # like y: g_y(x, y).
    shadow: Any  # like y: g_y(x, z).


def penalty_oracle(problem: BilevelProblem) -> Callable[[Triple, Any], Slopes]:
    """Makes ``(triple, data) -> Slopes``, at one call site of each objective.

    Both trajectories see the same data, so that sampling noise cancels in the gap.
    """
    upper, lower = upper_oracle(problem), core.value_and_grad(problem.lower)

    def at(triple, data):
        x, y, z = triple
        _, (direct, pull) = upper(Levels(x, y), data)
        lower_data = split(data)[1]
        slopes = lambda y: lower(Levels(x, y), lower_data)[1]
        (cross, shadow_cross), (below, shadow) = map(
            unstack, jax.vmap(slopes)(stack(y, z))
        )
        gap = optax.tree.sub(cross, shadow_cross)
        return Slopes(direct, pull, gap, below, shadow)

    return at


def stack(first: Any, second: Any) -> Any:
    """Two trees of one form as one, along a new leading axis."""
    return jax.tree.map(lambda *pair: jnp.stack(pair), first, second)


def unstack(tree: Any) -> tuple:
    """The inverse of `stack`."""
    return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in (0, 1))


def descent(slopes: Slopes, penalty: chex.Array) -> Triple:
    """The directions of descent of x and y, and of ascent of z, as gradients."""
    return Triple(
        core.axpy(penalty, slopes.gap, slopes.direct),
        core.axpy(penalty, slopes.lower, slopes.pull),
        core.axpy(penalty, slopes.shadow, optax.tree.zeros_like(slopes.shadow)),
    )


def mapping(problem: BilevelProblem, triple: Triple, gradient: Triple) -> Triple:
    """The gradient, or where there are sets how far its unit step moves the triple."""
    below = problem.lower_set
    distance = lambda y, grad: optax.tree.sub(y, below(optax.tree.sub(y, grad)))
    lower, shadow = gradient.lower, gradient.shadow
    if below is not None:
        lower = distance(triple.lower, lower)
        shadow = distance(triple.shadow, shadow)
    return Triple(projected(problem, triple.upper, gradient.upper), lower, shadow)


def penalty_rule(problem: BilevelProblem, penalty: optax.ScalarOrSchedule) -> tuple:
    """The residual in params and z where the penalty is one number, and its rule.

    Where it is a schedule nothing is a fixed point, so there are none.
    """
    if callable(penalty):
        return None, None
    at = penalty_oracle(problem)

    def residual(unknowns, data=None):
        (x, y), z = unknowns
        triple = Triple(x, y, z)
        gradient = descent(at(triple, data), core.real_scalar(penalty, triple))
        x, y, z = mapping(problem, triple, gradient)
        return Levels(x, y), z

    return residual, core.implicit(further=lambda state: state.shadow)


class Numbers(NamedTuple):
    """The numbers of a penalty method; the first three may be schedules."""

    stepsize: optax.ScalarOrSchedule  # of y.
    shadow_stepsize: optax.ScalarOrSchedule  # of z.
    penalty: optax.ScalarOrSchedule
    rho: chex.Numeric | None = None  # of the proximal terms; None without them.
    damping: chex.Numeric = 1.0  # of their centres.

    def at(self, count: chex.Array, tree: Any) -> "Numbers":
        """The numbers at a count, the first three as scalars beside a tree."""
        schedules = map(core.as_schedule, self[:3])
        return Numbers(
            *(core.real_scalar(s(count), tree) for s in schedules), *self[3:]
        )


def lower_step(
    problem: BilevelProblem, numbers: Numbers, inner: tuple, centres: tuple, slopes
) -> tuple:
    """A step of u and of v, drawn to their centres if there is a rho, into the set."""
    penalised = core.axpy(1 / numbers.penalty, slopes.pull, slopes.lower)

    def forward(u, centre, grad, eta):
        if numbers.rho is not None:
            grad = core.axpy(1 / numbers.rho, optax.tree.sub(u, centre), grad)
        new_u = core.axpy(-eta, grad, u)
        return new_u if problem.lower_set is None else problem.lower_set(new_u)

    grads, etas = (penalised, slopes.shadow), numbers[:2]
    return tuple(map(forward, inner, centres, grads, etas))


def within(problem: BilevelProblem, levels: Levels) -> Levels:
    """The levels moved into their sets, where a start may not be."""
    sets = problem.upper_set, problem.lower_set
    pairs = zip(sets, levels, strict=True)
    return Levels(*(part if onto is None else onto(part) for onto, part in pairs))


def mix(damping: chex.Numeric, centres: tuple, inner: tuple) -> tuple:
    """Moves the centres a part of the way."""
    return core.axpy(damping, optax.tree.sub(inner, centres), centres)


def check_positive(what: str, value: optax.ScalarOrSchedule, top=np.inf) -> None:
    """Raises a `ValueError` unless a number, where known, lies in (0, top]."""
    if not callable(value):
        core.check_number(what, value, 0, top, "]" if top < np.inf else "")


def check_steps(steps: int) -> None:
    """Raises a `ValueError` unless the length of a round is a positive integer."""
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a positive integer, got {steps!r}.")
