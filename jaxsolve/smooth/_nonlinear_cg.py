"""Nonlinear conjugate gradients."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.linesearch import LineSearch, Search, wolfe
from jaxsolve.smooth._beta import Beta, hager_zhang
from jaxsolve.smooth._progress import Progress, evaluate, judge, norm, settle


class NonlinearCGState(NamedTuple):
    """State of nonlinear conjugate gradients."""

    count: chex.Array  # (), int32: updates taken, one oracle call each.
    error: chex.Array  # (), real: sup-norm of the gradient at params.
    status: chex.Array  # (), int32: running, stalled or diverged.
    value: chex.Array  # (), real: the objective at params.
    point: chex.Array  # (n,), real: params, raveled, in full precision.
    grad: chex.Array  # (n,), real: the gradient there.
    direction: chex.Array  # (n,), real: of the search.
    steepest: chex.Array  # (), bool: whether it is the steepest descent.
    search: Search  # the line search under way.
    progress: Progress  # what tells a stall.


@core.memoise
def nonlinear_cg(
    fun: core.Objective,
    beta: Beta = hager_zhang,
    *,
    restart: float = 1.0,
    search: LineSearch | None = None,
    patience: int = 50,
) -> core.Solver:
    r"""Minimises a smooth function by nonlinear conjugate gradients.

    Solves :math:`\min_x f(x)`. Each update evaluates :math:`f` and its gradient
    :math:`g` at one trial point :math:`x + t d` of a line search. When the search is
    done,

    .. math::

        x^+ &= x + t d \\
        d^+ &= - g^+ + \beta(g^+, g, d) \, d

    and the next search begins with a step as long as the last. It restarts from
    :math:`d^+ = -g^+` where the direction does not descend or is not finite, after a
    failed search, and by Powell's test, where :math:`|g^{+\top} g| \ge \nu g^{+\top}
    g^+`: successive gradients are orthogonal where conjugacy holds. A failed search
    along the steepest descent is a stall.

    The state takes a few vectors like params. Where memory for some pairs is at hand,
    `lbfgs` needs fewer evaluations.

    Args:
        fun: :math:`f`, as ``fun(params, data) -> scalar``. Infinite or NaN values
            outside a region make the search step back.
        beta: as ``beta(new_grad, grad, direction) -> scalar``, of vectors, (n,):
            `hager_zhang`, `polak_ribiere`, `hestenes_stiefel`, `dai_yuan`, or your own.
        restart: :math:`\nu > 0`; 0.2 restarts often, infinity never does.
        search: a line search; ``linesearch.wolfe(curvature=0.4)`` by default. Nearer to
            exact, it takes fewer steps of more evaluations.
        patience: accepted steps without progress in value or error beyond rounding
            after which the run has stalled.

    Returns:
        A solver. Its error is :math:`\|\nabla f(x)\|_\infty` at params, its residual
        :math:`\nabla f(x)`.

    Raises:
        ValueError: if `beta` is not callable, or `restart` not positive; while tracing,
            if the objective is not a real scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> rosenbrock = lambda x, a: jnp.sum(
        ...     a * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)
        >>> solver = jaxsolve.smooth.nonlinear_cg(rosenbrock)
        >>> solution = jaxsolve.run(solver, jnp.zeros(5), 10.0)
        >>> print(solution.converged, jnp.round(solution.params, 2))
        True [1. 1. 1. 1. 1.]

    References:
        Nocedal and Wright, `Numerical Optimization
        <https://doi.org/10.1007/978-0-387-40065-5>`_, 2006, Algorithm 5.4 and (5.52).
        Powell, `Restart Procedures for the Conjugate Gradient Method
        <https://doi.org/10.1007/BF01593790>`_, 1977.
    """
    if not callable(beta):
        raise ValueError(
            "beta must be a function of (new_grad, grad, direction), such as "
            f"smooth.hager_zhang, got {beta!r}."
        )
    if isinstance(restart, int | float) and not restart > 0:
        raise ValueError(
            f"restart must be positive, got {restart!r}; pass infinity for no restarts."
        )
    search = wolfe(curvature=0.4) if search is None else search
    oracle = core.value_and_grad(fun)

    def init(params, data=None):
        del data
        x, _ = core.ravel(params)
        zero, inf = jnp.zeros((), x.dtype), jnp.full((), jnp.inf, x.dtype)
        return NonlinearCGState(
            count=jnp.zeros((), jnp.int32),
            error=inf,
            status=as_status(Status.RUNNING),
            value=inf,
            point=x,
            grad=jnp.zeros_like(x),
            direction=jnp.zeros_like(x),
            steepest=jnp.ones((), bool),
            search=search.init(inf, zero, zero),  # the first trial is the start
            progress=Progress.start(inf),
        )

    def update(params, state, data=None):
        x, unravel = core.ravel_fine(params, state.point)
        moved = jnp.any(x != state.point)
        t = jnp.where(moved, 0, state.search.stepsize)
        direction = state.direction / _huge(state.direction)
        trial = x + t * direction
        value, grad = evaluate(oracle, unravel(trial), data)
        found = search.update(state.search, value, grad @ direction)
        found = settle(found, moved, value)

        def accept():
            ok = ~found.failed
            new_x = jnp.where(ok, trial, state.point)
            new_value = jnp.where(ok, value, state.value)
            new_grad = jnp.where(ok, grad, state.grad)
            went = ok & (t > 0)
            d, steepest = _turn(beta, restart, new_grad, state, went)
            error, status, progress = judge(
                state, found, new_x, new_value, new_grad, state.steepest, patience
            )
            # As long as the last step; at first, of unit length at most.
            searched = d / _huge(d)
            length = norm(searched)
            short = jnp.where(went, t * norm(direction), 1)
            stepsize = short / jnp.where(length > 0, length, 1)
            stepsize = jnp.where(went, stepsize, jnp.minimum(1, stepsize))
            return NonlinearCGState(
                state.count + 1,
                error,
                status,
                new_value,
                new_x,
                new_grad,
                d,
                steepest,
                search.init(new_value, new_grad @ searched, stepsize),
                progress,
            )

        def try_again():
            return state._replace(count=state.count + 1, search=found)

        state = jax.lax.cond(found.done, accept, try_again)
        return unravel(state.point), state

    def residual(params, data=None):
        return oracle(params, data)[1]

    return core.Solver(init, update, residual, core.implicit(psd=True))


def _turn(beta, restart, grad, state, went):
    """The next direction, and whether it is the steepest descent."""
    # A formula of products of these has no units.
    unit = jnp.maximum(
        _huge(grad), jnp.maximum(_huge(state.grad), _huge(state.direction))
    )
    g, old, d = grad / unit, state.grad / unit, state.direction / unit
    turned = beta(g, old, d) * d - g
    descends = (g @ turned < 0) & jnp.all(jnp.isfinite(turned))
    nu = jnp.asarray(restart, g.dtype)
    conjugate = jnp.abs(g @ old) < nu * (g @ g)
    steepest = ~(went & descends & conjugate)
    return jnp.where(steepest, -grad, unit * turned), steepest


def _huge(x):
    """The norm of a vector whose products would overflow; of any other, one."""
    size = norm(x)
    return jnp.where(size > float(jnp.finfo(x.dtype).max) ** 0.4, size, 1)
