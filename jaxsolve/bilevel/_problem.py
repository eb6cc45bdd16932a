"""Bilevel problems: two levels, their sets, and what couples them."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core


class Levels(NamedTuple):
    """What belongs to the upper level, and what to the lower one.

    The params of every bilevel solver; its data may be such a pair too.
    """

    upper: Any  # x, a tree.
    lower: Any  # y, a tree.


@dataclasses.dataclass(frozen=True)
class BilevelProblem:
    r"""An upper objective at the solution of a lower problem.

    .. math::

        \min_{x \in X} f(x, y^\star(x)), \qquad
        y^\star(x) \in \operatorname{argmin}_{y \in Y} \{g(x, y) : c(x, y) \le 0\}

    Both objectives see both levels, and the data of their own: the ``data`` of a
    bilevel solver is a pair ``(upper_data, lower_data)``, or None where neither needs
    any. In machine learning that is validation first, training second.

    Inner solvers take ``problem.inner``, the lower objective as a function of y and the
    data ``(x, lower_data)``, such as ``smooth.lbfgs(problem.inner)``.

    Attributes:
        upper: :math:`f`, as ``upper(levels, upper_data) -> scalar``.
        lower: :math:`g`, as ``lower(levels, lower_data) -> scalar``.
        upper_set: the projection onto :math:`X`, as ``upper_set(x) -> x``, such as
            ``prox.box(0.0, 1.0)``; everything by default.
        lower_set: the projection onto :math:`Y`, likewise.
        constraint: :math:`c`, as ``constraint(levels, lower_data) -> tree``, of any
            form; no coupling by default.
        joint_set: the projection onto what the constraint and both sets allow, as
            ``joint_set(levels) -> levels``, for solvers that stay inside.
        equality: whether the constraint is :math:`c(x, y) = 0`.

    Raises:
        ValueError: if a part that is given is not a function, or `equality` is given
            without a constraint.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve.bilevel import BilevelProblem, Levels
        >>> problem = BilevelProblem(
        ...     upper=lambda levels, data: jnp.sum((levels.lower - data) ** 2),
        ...     lower=lambda levels, data: jnp.sum((levels.lower - levels.upper) ** 2),
        ... )
        >>> print(problem.upper(Levels(jnp.zeros(2), jnp.ones(2)), 0.0))
        2.0
    """

    upper: Callable[[Levels, Any], chex.Array]
    lower: Callable[[Levels, Any], chex.Array]
    upper_set: Callable | None = None
    lower_set: Callable | None = None
    constraint: Callable[[Levels, Any], chex.ArrayTree] | None = None
    joint_set: Callable[[Levels], Levels] | None = None
    equality: bool = False

    def __post_init__(self):
        """Checks what can be checked without calling anything."""
        for name in ("upper", "lower", *OPTIONAL):
            part = getattr(self, name)
            if not callable(part) and (part is not None or name not in OPTIONAL):
                raise ValueError(
                    f"{name} of a BilevelProblem must be a function, got {part!r}."
                )
        if self.equality and self.constraint is None:
            raise ValueError("equality=True says what a constraint is: give one.")

    def inner(self, params, data):
        """The lower objective of `y` alone: ``fun(y, (x, lower_data))``.

        What inner solvers minimise, such as ``smooth.lbfgs(problem.inner)``.
        """
        x, lower_data = data
        return self.lower(Levels(x, params), lower_data)


OPTIONAL = ("upper_set", "lower_set", "constraint", "joint_set")


def check_problem(problem: BilevelProblem, name: str, *, takes: tuple = ()) -> None:
    """Refuses what is no bilevel problem, or has a part that the solver would drop."""
    if not isinstance(problem, BilevelProblem):
        raise ValueError(
            f"{name} solves a BilevelProblem(upper, lower), got "
            f"{core.describe(problem)}."
        )
    for part in OPTIONAL:
        if getattr(problem, part) is not None and part not in takes:
            raise ValueError(
                f"{name} takes no {part}; see the table of solvers for one that does."
            )


def check_levels(levels: Levels) -> Levels:
    """Checks the params of a bilevel solver: a pair, both parts real float trees."""
    if not isinstance(levels, Levels):
        raise ValueError(
            "the params of a bilevel solver are Levels(upper, lower), got "
            f"{core.describe(levels)}."
        )
    for name, part in zip(Levels._fields, levels, strict=True):
        for leaf in jax.tree.leaves(part):
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                raise ValueError(
                    f"all leaves of {name} must be real floats, got "
                    f"{jnp.result_type(leaf)}: cast it, or let it be part of the data."
                )
    return levels


def split(data: Any) -> tuple:
    """The data of the two levels.

    Raises:
        ValueError: if the data are neither a pair nor None, or a batch is empty.
    """
    if data is None:
        return None, None
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise ValueError(
            "the data of a bilevel solver are a pair (upper_data, lower_data), or "
            f"None, in this order, got {core.describe(data)}."
        )
    empty = [leaf for leaf in jax.tree.leaves(data) if 0 in jnp.shape(leaf)]
    if empty:
        raise ValueError("a batch is empty: its data have an axis of length zero.")
    return tuple(data)


def lower_slope(problem: BilevelProblem) -> Callable:
    r"""Makes ``(y, x, lower_data) -> g_y``, like y."""

    def slope(y, x, data):
        fun = core.objective(lambda y, _: problem.lower(Levels(x, y), data))
        return jax.grad(fun)(y, None)

    return slope
