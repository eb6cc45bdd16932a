"""The value function of a constrained lower level, smoothed by proximal terms."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core, prox
from jaxsolve.bilevel._penalty import check_positive
from jaxsolve.bilevel._problem import (
    BilevelProblem,
    Levels,
    check_levels,
    check_problem,
)
from jaxsolve.composite import projected_gradient
from jaxsolve.smooth import lbfgs

TAKES = ("upper_set", "lower_set", "constraint", "joint_set")


class ProximalLagrangian(NamedTuple):
    """A value of the proximal Lagrangian, and where it is taken."""

    value: chex.Array  # (), real: v.
    lower: Any  # like y: the minimiser theta.
    multiplier: Any  # like the constraint: the maximiser lambda.
    status: chex.Array  # (), int32: how the inner run ended.


def proximal_lagrangian(
    problem: BilevelProblem,
    *,
    gamma: tuple = (1.0, 1.0),
    radius: chex.Numeric = 1000.0,
    inner: Callable | None = None,
    derivative: core.Derivative | None = None,
    max_steps: int = 1000,
    tol: chex.Numeric | None = None,
) -> Callable[..., ProximalLagrangian]:
    r"""Makes a differentiable layer of a constrained lower level: its smooth value.

    For the lower objective :math:`g`, the constraint :math:`c` and its multipliers'
    box :math:`Z`, which is :math:`[0, r]^p`, or :math:`[-r, r]^p` for an equality,

    .. math::

        v(x, y, z) = \min_{\theta \in Y} \max_{\lambda \in Z} \;
        g(x, \theta) + \lambda^\top c(x, \theta)
        + \tfrac{1}{2 \gamma_1} \|\theta - y\|^2
        - \tfrac{1}{2 \gamma_2} \|\lambda - z\|^2

    where :math:`\lambda = P_Z(z + \gamma_2 c(x, \theta))` is eliminated and
    :math:`\theta` is found by an inner run from :math:`y`. It is smooth even where the
    lower solution jumps; by Danskin its gradient needs no linear solve:

    .. math::

        \nabla v = (g_x + c_x^\top \lambda,\; (y - \theta) / \gamma_1,\;
        (\lambda - z) / \gamma_2)

    With :math:`g` and :math:`c` convex in y, :math:`g(x, y) - v(x, y, z) \ge 0`
    wherever :math:`c(x, y) \le 0`, and it vanishes where y solves the lower problem
    with the multipliers z.

    Args:
        problem: its lower objective, constraint, and lower set if any.
        gamma: :math:`(\gamma_1, \gamma_2)`, both positive; large ones smooth less, and
            make the inner problem harder.
        radius: :math:`r > 0`, above the multipliers; one that is too small hides that a
            constraint is violated.
        inner: makes the inner solver of its objective, as ``inner(fun) -> Solver``; by
            default `smooth.lbfgs`, or `composite.projected_gradient` on a lower set.
        derivative: of the minimiser; ``core.envelope()`` by default. With
            ``core.implicit()`` second derivatives of the value are right too.
        max_steps: of the inner run.
        tol: of the inner run.

    Returns:
        A function ``(levels, anchor, lower_data=None) -> ProximalLagrangian``, with the
        anchor z like the values of the constraint. First derivatives are those of its
        value; they are refused where the inner run did not converge.

    Raises:
        ValueError: if `problem` is none, or a gamma or the radius is not positive.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve.bilevel import BilevelProblem, Levels, proximal_lagrangian
        >>> problem = BilevelProblem(
        ...     upper=lambda levels, data: jnp.sum(levels.lower),
        ...     lower=lambda levels, data: jnp.sum(levels.lower**2) / 2,
        ...     constraint=lambda levels, data: levels.upper - levels.lower,
        ... )
        >>> v = proximal_lagrangian(problem)
        >>> levels, z = Levels(jnp.array([2.0]), jnp.array([2.0])), jnp.array([2.0])
        >>> slope = jax.grad(lambda levels: v(levels, z).value)(levels)
        >>> print(v(levels, z).value, slope.upper)
        2.0 [2.]

    References:
        Yao, Yu, Zeng and Zhang, `Constrained Bi-Level Optimization: Proximal Lagrangian
        Value Function Approach and Hessian-free Algorithm
        <https://arxiv.org/abs/2401.16164>`_, 2024.
    """
    check_problem(problem, "proximal_lagrangian", takes=TAKES)
    check_numbers(gamma, radius)
    rule = core.envelope() if derivative is None else derivative
    parts, box = lower_parts(problem), multiplier_box(problem, radius)

    def at(theta, data):
        (x, y), anchor, lower_data = data
        value, values = parts(Levels(x, theta), lower_data)
        multiplier = box(core.axpy(gamma[1], values, anchor))
        value = value + dot(multiplier, values, theta)
        moved = optax.tree.sub(theta, y), optax.tree.sub(multiplier, anchor)
        return value + proximal_terms(*moved, gamma), multiplier

    fun = lambda theta, data: at(theta, data)[0]
    if inner is None:
        box_y = problem.lower_set
        inner = lbfgs if box_y is None else lambda fun: projected_gradient(fun, box_y)
    solver = inner(fun)

    def value(levels, anchor, lower_data=None):
        data = check_levels(levels), anchor, lower_data
        out = core.run(
            solver, levels.lower, data, max_steps=max_steps, tol=tol, derivative=rule
        )
        least, multiplier = at(out.params, data)
        return ProximalLagrangian(least, out.params, multiplier, out.status)

    return value


def lower_parts(problem: BilevelProblem) -> Callable:
    """Makes ``(levels, lower_data) -> g, c``: the lower objective, the constraint."""
    constraint = problem.constraint or (lambda levels, data: ())
    objective = core.objective(problem.lower)
    return lambda levels, data: (objective(levels, data), constraint(levels, data))


def multiplier_box(problem: BilevelProblem, radius: chex.Numeric) -> Callable:
    """The projection onto Z, for multipliers of any form."""
    return prox.box(-radius if problem.equality else 0.0, radius)


def dot(left: Any, right: Any, like: Any) -> chex.Array:
    """The inner product of two trees, a scalar of the dtype beside a third."""
    dtype = core.real_dtype((left, right, like))
    product = lambda a, b: jnp.sum(a.astype(dtype) * b.astype(dtype))
    return sum(
        jax.tree.leaves(jax.tree.map(product, left, right)), jnp.zeros((), dtype)
    )


def proximal_terms(theta: Any, multiplier: Any, gamma: tuple) -> chex.Array:
    """What the proximal terms add, given how far theta and lambda are from y and z."""
    near, far = dot(theta, theta, theta), dot(multiplier, multiplier, theta)
    return near / (2 * gamma[0]) - far / (2 * gamma[1])


def check_numbers(gamma: tuple, radius: chex.Numeric) -> None:
    """Raises a `ValueError` unless both gammas and the radius are positive."""
    if not isinstance(gamma, tuple | list) or len(gamma) != 2:
        raise ValueError(f"gamma must be a pair of numbers, got {gamma!r}.")
    for number in gamma:
        check_positive("gamma", number)
    check_positive("radius", radius)
