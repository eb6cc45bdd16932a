"""The contract: a solver is a pair of pure functions over pytrees."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsolve.core._derivative import Derivative
from jaxsolve.core._tree import check_like, real_scalar

Params = chex.ArrayTree
Data = Any
State = Any
Objective = Callable[[Params, Data], chex.Array]


class _Solver(NamedTuple):
    init: Callable[[Params, Data], State]
    update: Callable[[Params, State, Data], tuple[Params, State]]
    residual: Callable[[Params, Data], Any] | None = None
    derivative: Derivative | None = None


class Solver(_Solver):
    """A solver: how to begin, how to go on, and what is zero at a solution.

    `data` is one argument, whatever the problem depends on: an array, a pytree, a
    problem object, or None. A state is a `NamedTuple` of arrays with fixed shapes and
    dtypes whose first fields are `count`, the updates taken, and `error`, a
    non-negative scalar; where the solver can tell more it has a `status`.

    Attributes:
        init: as ``init(params, data) -> state``; evaluates no user function.
        update: as ``update(params, state, data) -> (params, state)``: one step, with
            one evaluation of each user function at most. It is jitted, so that steps
            taken by hand are fast too; inside other transformations it is inlined.
        residual: as ``residual(params, data)``, of the size of params, zero at a
            solution; what implicit differentiation reads.
        derivative: how `run` differentiates this solver unless told otherwise.
    """

    __slots__ = ()

    def __new__(cls, init, update, residual=None, derivative=None):
        update = jax.jit(update, inline=True)
        return super().__new__(cls, init, update, residual, derivative)


def check_solver(solver: Any) -> None:
    """Raises a `ValueError` that helps unless `solver` is a `Solver`."""
    if isinstance(solver, Solver):
        return
    if isinstance(solver, optax.GradientTransformation):
        raise ValueError(
            "a jaxsolve.Solver is wanted, got an optax transformation; make a solver "
            "of it by `jaxsolve.from_optax(fun, transform)`."
        )
    hint = (
        "to minimise a function, use `jaxsolve.minimize(fun, x0)` or a solver such as "
        "`jaxsolve.smooth.lbfgs(fun)`"
        if callable(solver)
        else "make one by a factory such as `jaxsolve.smooth.lbfgs(fun)`"
    )
    raise ValueError(
        f"a jaxsolve.Solver is wanted, got {type(solver).__name__}; {hint}."
    )


def begin(solver: Solver, params: Params, data: Data) -> State:
    """Makes the first state, checked for the fields that every run reads."""
    state = solver.init(params, data)
    for field in ("count", "error"):
        value = getattr(state, field, None)
        if value is None or callable(value) or jnp.shape(value) != ():
            raise ValueError(
                f"a solver's state must have a scalar field `{field}`, got "
                f"{type(state).__name__} with fields {getattr(state, '_fields', ())}."
            )
    return state


def step(solver: Solver, params: Params, state: State, data: Data):
    """Takes one update, checked to keep the form of params and state."""
    new_params, new_state = solver.update(params, state, data)
    check_like("the params that update returns", new_params, params)
    check_like("the state that update returns", new_state, state)
    return new_params, new_state


def value_and_grad(fun: Objective) -> Callable:
    """Makes `(params, data) -> (value, gradient)` of an objective, at one call site.

    The value is a scalar of `real_dtype(params)`, the gradient is like params.

    Raises:
        ValueError: while tracing, if the objective is not a real scalar.
    """
    return jax.value_and_grad(objective(fun))


def objective(fun: Objective) -> Objective:
    """Checks what an objective returns, and casts it to `real_dtype(params)`.

    Raises:
        ValueError: while tracing, if the objective is not a real scalar.
    """

    def checked(params, data=None):
        value = fun(params, data)
        is_array = isinstance(value, jax.Array | np.ndarray | np.generic | float | int)
        if not is_array:
            got = type(value).__name__
        elif jnp.shape(value) or not jnp.issubdtype(
            jnp.result_type(value), jnp.floating
        ):
            got = f"shape {jnp.shape(value)} and dtype {jnp.result_type(value)}"
        else:
            return real_scalar(value, params)
        raise ValueError(
            f"the objective must return one real scalar, got {got}; reduce it, for "
            "instance by jnp.sum, and return nothing beside it."
        )

    return checked
