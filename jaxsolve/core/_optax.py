"""Bridges to optax, in both directions."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve.core._derivative import implicit
from jaxsolve.core._memoise import memoise
from jaxsolve.core._solver import Data, Objective, Solver, check_solver, value_and_grad
from jaxsolve.core._status import Status, as_status
from jaxsolve.core._tree import all_finite, as_params, real_scalar, sup_norm, where


class OptaxState(NamedTuple):
    """State of a solver made of an optax transformation."""

    count: chex.Array  # (), int32: updates taken.
    error: chex.Array  # (), real: the larger sup-norm of the gradient and the step.
    status: chex.Array  # (), int32: running, or diverged.
    value: chex.Array  # (), real: the objective there.
    inner: Any  # the transformation's own state.


@memoise
def from_optax(fun: Objective, transform: optax.GradientTransformation) -> Solver:
    r"""Makes a solver of an optax transformation: loop, stop rule, status, derivative.

    Solves :math:`\min_x f(x)`. One update computes

    .. math::

        g &= \nabla f(x) \\
        x^+ &= x + \mathrm{transform}(g)

    A gradient that is not finite, or an update that would lead to an infinite iterate,
    is not taken: the iterate stays and the status is `DIVERGED`.

    Args:
        fun: :math:`f`, as ``fun(params, data) -> scalar``.
        transform: any optax transformation or chain; it is given ``value``, ``grad``
            and ``value_fn`` by optax's conventions. One with a line search evaluates
            `fun` more than once an update.

    Returns:
        A solver. Its error is the larger of :math:`\|g\|_\infty` and
        :math:`\|x^+ - x\|_\infty`, its residual :math:`\nabla f(x)`. On minibatches
        the error cannot stop a run.

    Raises:
        ValueError: if `transform` is not an optax transformation.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> import jaxsolve
        >>> fun = lambda x, data: jnp.sum((x - data) ** 2)
        >>> solver = jaxsolve.from_optax(fun, optax.sgd(0.25, momentum=0.5))
        >>> bool(jaxsolve.run(solver, jnp.zeros(3), jnp.arange(3.0)).converged)
        True
    """
    begin, advance = transform_pair(transform)
    oracle = value_and_grad(fun)

    def init(params, data=None):
        del data
        inf = real_scalar(jnp.inf, params)
        count, running = jnp.zeros((), jnp.int32), as_status(Status.RUNNING)
        inner = begin(params)
        return OptaxState(count, inf, running, inf, inner)

    def update(params, state, data=None):
        value, grad = oracle(params, data)
        value_fn = lambda params: fun(params, data)
        new_params, inner = advance(
            grad, state.inner, params, value=value, grad=grad, value_fn=value_fn
        )
        finite = jnp.isfinite(value) & all_finite(grad) & all_finite(new_params)
        new_params = where(finite, new_params, params)
        inner = where(finite, inner, state.inner)
        # A momentum may yet leave a point where the gradient is zero.
        step = sup_norm(optax.tree.sub(new_params, params))
        error = jnp.where(finite, jnp.maximum(sup_norm(grad), step), state.error)
        status = jnp.where(finite, state.status, as_status(Status.DIVERGED))
        value = jnp.where(finite, value, state.value)
        return new_params, OptaxState(state.count + 1, error, status, value, inner)

    def residual(params, data=None):
        return oracle(params, data)[1]

    return Solver(init, update, residual, implicit(psd=True))


def transform_pair(transform: optax.GradientTransformation) -> tuple:
    """Makes of an optax transformation a pair that a solver can embed.

    Args:
        transform: any optax transformation or chain.

    Returns:
        ``init(params) -> state``, whose leaves are strongly typed, and
        ``step(grad, state, params, **extra) -> (params, state)``, which applies the
        updates and keeps every dtype.

    Raises:
        ValueError: if `transform` is not an optax transformation.
    """
    if not isinstance(transform, optax.GradientTransformation):
        raise ValueError(
            "an optax transformation is wanted, such as optax.adam(1e-3), got "
            f"{type(transform).__name__}."
        )
    transform = optax.with_extra_args_support(transform)

    def init(params):
        return jax.tree.map(_strong, transform.init(params))

    def step(grad, state, params, /, **extra):
        with jax.numpy_dtype_promotion("standard"):  # optax mixes counts and floats
            updates, new = transform.update(grad, state, params, **extra)
        new = jax.tree.map(lambda new, old: new.astype(old.dtype), new, state)
        return optax.apply_updates(params, updates), new

    return init, step


def _strong(leaf):
    leaf = jnp.asarray(leaf)
    return jax.lax.convert_element_type(leaf, leaf.dtype)


class LinkState(NamedTuple):
    """State of a solver as a link of a chain."""

    inner: Any  # the solver's own state.
    exact: Any  # like params: what the solver returned last.
    rounded: Any  # like params: the same, as params plus an update give it.


def to_optax(
    solver: Solver, data: Data = None
) -> optax.GradientTransformationExtraArgs:
    """Makes an optax transformation of a solver: a link of a chain.

    Its update ignores the incoming updates and returns the change of params that the
    solver's update makes, so it belongs at the head of a chain. It needs ``params``;
    it takes the data of a step as the extra argument ``data``. Where the links after it
    change its step every time, use a solver without a search: a search begins anew at
    params that it did not propose.

    Args:
        solver: a solver whose params are the params of the chain.
        data: the data, where it is not passed at each step.

    Returns:
        A transformation whose state holds the solver's. Alone it takes the iterates of
        the plain run exactly: adding an update to params rounds, and the link goes on
        from the unrounded iterate unless params were changed otherwise.

    Raises:
        ValueError: if `solver` is not a `Solver`, or update is called without params.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> import jaxsolve
        >>> fun = lambda x, data: jnp.sum((x - data) ** 2)
        >>> link = jaxsolve.to_optax(jaxsolve.smooth.gradient_descent(fun, 0.4))
        >>> transform = optax.chain(link, optax.scale(0.5))
        >>> x, data = jnp.zeros(2), jnp.ones(2)
        >>> state = transform.init(x)
        >>> for _ in range(20):
        ...     step, state = transform.update(x, state, x, data=data)
        ...     x = optax.apply_updates(x, step)
        >>> print(jnp.round(x, 1))
        [1. 1.]
    """
    check_solver(solver)
    default = data

    def init(params):
        params = as_params(params)
        copy = lambda: jax.tree.map(jnp.copy, params)  # so that both may be donated
        return LinkState(solver.init(params, default), copy(), copy())

    def update(updates, state, params=None, *, data=None, **extra):
        del updates, extra
        if params is None:
            raise ValueError(
                "a solver's update starts from the params: call "
                "`transform.update(updates, state, params)`."
            )
        data = default if data is None else data
        start = jax.tree.map(
            lambda x, rounded, exact: jnp.where(x == rounded, exact, x),
            params,
            state.rounded,
            state.exact,
        )
        new_params, inner = solver.update(start, state.inner, data)
        change = optax.tree.sub(new_params, params)
        rounded = optax.apply_updates(params, change)
        return change, LinkState(inner, new_params, rounded)

    return optax.GradientTransformationExtraArgs(init, update)
