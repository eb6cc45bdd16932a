"""Hypergradients by differentiating the inner solver's updates."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.bilevel._estimate import estimate
from jaxsolve.bilevel._hypergradient import (
    Hypergradient,
    arguments,
    as_upper,
    check_numbers,
    equations_of,
    finish,
    implicit_at,
    refused,
    structure_of,
)
from jaxsolve.bilevel._linear_solves import LinearSolve, as_linear_solve
from jaxsolve.bilevel._phases import check_steps
from jaxsolve.bilevel._problem import BilevelProblem, Levels
from jaxsolve.core import Status, as_status


@core.memoise
def unrolled_hypergradient(
    upper: Callable[[Levels, Any], chex.Array] | BilevelProblem,
    inner: core.Solver,
    steps: int,
    *,
    truncate: int | None = None,
    forward: bool = False,
    estimated: bool = True,
    linear_solve: LinearSolve | None = None,
    rtol: float = 0.1,
) -> Callable[..., Hypergradient]:
    r"""Makes the gradient of an upper objective at the last of some inner updates.

    With :math:`y_{k+1} = T(x, y_k)`, K updates of the inner solver from a constant
    :math:`y_0`, computes :math:`h = \mathrm{d} f(x, y_K) / \mathrm{d} x` by the chain
    rule through all updates, or the last `truncate` ones. Its distance to the gradient
    of :math:`F(x) = f(x, y^\star(x))` falls like :math:`K \rho^K` for a contraction by
    :math:`\rho`; it is estimated, and refused above `rtol`, as by
    :func:`implicit_hypergradient`.

    Args:
        upper: :math:`f`, as ``upper(levels, upper_data) -> scalar``, or the problem
            that it is part of.
        inner: a solver of params y and data ``(x, lower_data)`` whose update reads the
            data directly, such as ``smooth.gradient_descent(problem.inner, 0.1)``. One
            with a line search returns points that it had evaluated: its last update
            is a constant, and the estimate finds that out.
        steps: :math:`K`, at least 1.
        truncate: how many of the last updates are differentiated; all by default. With
            one this is one-step differentiation.
        forward: whether to differentiate forwards: one pass per entry of x, but no
            memory. Backwards about twice :math:`\sqrt K` iterates are kept.
        estimated: whether to estimate the error, at the price of an implicit
            hypergradient. Without, the error is infinite and nothing is refused that is
            finite.
        linear_solve: of the estimate, as in :func:`implicit_hypergradient`.
        rtol: share of its gradient that an error may have.

    Returns:
        A function ``hypergradient(levels, data=None)``, which starts the inner solver
        at ``levels.lower`` and returns a :class:`Hypergradient`. Its `adjoint` is that
        of the estimate.

    Raises:
        ValueError: if the counts are not positive integers, or `truncate` exceeds
            `steps`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import bilevel, smooth
        >>> lower = lambda y, data: jnp.sum((y - data[0]) ** 2 + y**2)
        >>> upper = lambda levels, data: jnp.sum((levels.lower - 3.0) ** 2)
        >>> inner = smooth.gradient_descent(lower, 0.2)
        >>> h = bilevel.unrolled_hypergradient(upper, inner, 20)
        >>> print(h(bilevel.Levels(jnp.ones(1), jnp.zeros(1))).gradient.round(3))
        [-2.5]

    References:
        Franceschi, Donini, Frasconi and Pontil, `Forward and Reverse Gradient-Based
        Hyperparameter Optimization <https://arxiv.org/abs/1703.01785>`_, 2017; Shaban,
        Cheng, Hatch and Boots, `Truncated Back-propagation for Bilevel Optimization
        <https://arxiv.org/abs/1810.10667>`_, 2019.
    """
    check_steps(steps=steps)
    check_numbers(rtol)
    if truncate is not None:
        check_steps(truncate=truncate)
    if truncate is not None and truncate > steps:
        raise ValueError(f"truncate must be at most steps, {steps}, got {truncate!r}.")
    rule = core.unrolled() if truncate is None else core.truncated(truncate)
    structure = structure_of(inner) if estimated else None
    upper, method = as_upper(upper), as_linear_solve(linear_solve)
    differentiate = jax.jacfwd if forward else jax.jacrev
    endless = _endless(inner)

    @jax.jit
    def compiled(levels, data):
        x, begin = levels
        upper_data, lower_data = data
        flat, unravel = core.ravel(x)

        def value_of(flat):
            x = unravel(flat)
            out = core.run(
                endless,
                begin,
                (x, lower_data),
                max_steps=steps,
                tol=0.0,
                derivative=rule,
            )
            levels = Levels(x, out.params)
            value = core.objective(upper)(levels, upper_data)
            return value, (value, out)

        gradient, (value, out) = differentiate(value_of, has_aux=True)(flat)
        out = jax.lax.stop_gradient(out)
        if not estimated:
            return _unjudged(gradient, value, out, unravel)
        found_at = jax.lax.stop_gradient(Levels(x, out.params))
        equations = equations_of(
            upper, inner, upper_data, lower_data, method, structure
        )
        found = implicit_at(equations, found_at, None)
        judged = jax.lax.stop_gradient(
            estimate(equations, found.point, found_at, gradient, found.adjoint)
        )
        found = found._replace(gradient=gradient)
        return finish(found, judged, found_at, out.status, False, rtol)

    def hypergradient(levels, data=None):
        return compiled(*arguments(levels, data))

    return hypergradient


def _endless(inner):
    """The same updates, none of which is said to have arrived."""

    def update(params, state, data):
        params, state = inner.update(params, state, data)
        tiny = jnp.finfo(state.error.dtype).tiny
        return params, state._replace(error=jnp.maximum(state.error, tiny))

    return inner._replace(update=jax.jit(update, inline=True))


def _unjudged(gradient, value, out, unravel):
    inf = jnp.asarray(jnp.inf, gradient.dtype)
    finite = core.all_finite((jax.lax.stop_gradient(gradient), value))
    finite = finite & (out.status != Status.DIVERGED)
    status = jnp.where(finite, as_status(Status.CONVERGED), as_status(Status.DIVERGED))
    return Hypergradient(
        jax.lax.stop_gradient(value),
        unravel(refused(gradient, status)),
        inf,
        out.params,
        None,
        inf,
        inf,
        inf,
        status,
    )
