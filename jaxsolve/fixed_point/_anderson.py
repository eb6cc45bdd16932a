"""Anderson acceleration of a fixed-point iteration."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.fixed_point import _mixing
from jaxsolve.fixed_point._map import Map, check_positive, checked, judge, residual_of
from jaxsolve.fixed_point._mixing import Mixing


class AndersonState(NamedTuple):
    """State of Anderson acceleration."""

    count: chex.Array  # (), int32: updates taken, one evaluation of the map each.
    error: chex.Array  # (), real: sup-norm of T(x) - x at params.
    status: chex.Array  # (), int32: running, stalled or diverged.
    point: chex.Array  # (n,), real: params, raveled, in full precision.
    residual: chex.Array  # (n,), real: T(x) - x at params.
    trial: chex.Array  # (n,), real: where the map is evaluated next.
    plain: chex.Array  # (), bool: whether the trial is a plain step from params.
    best: chex.Array  # (), real: least norm of a residual since the memory was empty.
    mixing: Mixing  # the last changes of the iterate and of the residual.


@core.memoise
def anderson(
    fun: Map,
    memory: int = 5,
    *,
    damping: chex.Numeric = 1.0,
    ridge: chex.Numeric | None = None,
    growth: chex.Numeric = 10.0,
) -> core.Solver:
    r"""Finds a fixed point by Anderson's acceleration of the map.

    Solves :math:`x = T(x)`. With :math:`f = T(x) - x`, and the last changes of
    :math:`x` and of :math:`f` as the columns of :math:`S` and :math:`Y`, one update
    evaluates :math:`T` at the trial, which becomes :math:`x`, and computes the next one

    .. math::

        \gamma &= \arg\min_\gamma \|f - Y \gamma\|_2^2
            + \rho \textstyle\sum_i \gamma_i^2 \|Y_i\|_2^2 \\
        x^+ &= x + \beta f - (S + \beta Y) \gamma

    (type II). On linear maps it is essentially GMRES, restarted and truncated; it often
    takes many times fewer evaluations than :func:`picard`. It is safe: where :math:`T`
    is not finite at the trial, or the residual there is `growth` times the least since
    the memory was empty, the memory is emptied and the next trial is the plain step
    :math:`x + \beta f`, which is accepted wherever :math:`T` is finite. The memory
    takes 2m vectors like params. Params that were changed between two updates, by
    another link of a chain, are evaluated and gone on from.

    Args:
        fun: :math:`T`, as ``fun(params, data) -> params``.
        memory: :math:`m`, how many changes are kept, at least 1; 5 to 20 is usual.
        damping: :math:`\beta > 0`; less than 1 where the plain iteration is unstable.
        ridge: :math:`\rho \ge 0`, free of units; 100 machine epsilons by default. More
            of it where the map is noisy.
        growth: of the residual that empties the memory, more than 1.

    Returns:
        A solver. Its error is :math:`\|T(x) - x\|_\infty` at params, its residual
        :math:`x - T(x)`.

    Raises:
        ValueError: if `memory` is not a positive integer, or `damping`, `ridge` or
            `growth` is out of its range; while tracing, if the map returns another tree
            than params.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> solver = jaxsolve.fixed_point.anderson(lambda x, a: jnp.cos(a * x))
        >>> solution = jaxsolve.run(solver, 1.0, 1.0)
        >>> print(solution.converged, f"{solution.params:.3f}")
        True 0.739

    References:
        Anderson, `Iterative Procedures for Nonlinear Integral Equations
        <https://doi.org/10.1145/321296.321305>`_, 1965. Walker and Ni, `Anderson
        Acceleration for Fixed-Point Iterations <https://doi.org/10.1137/10078356X>`_,
        2011, (2.2).
    """
    if not isinstance(memory, int) or memory < 1:
        raise ValueError(f"memory must be a positive integer, got {memory!r}.")
    check_positive("damping", damping)
    _check(ridge is None or ridge >= 0, "ridge must not be negative", ridge)
    _check(growth > 1, "growth must be more than 1", growth)
    mapped = checked(fun)

    def init(params, data=None):
        del data
        x, _ = core.ravel(params)
        inf = jnp.full((), jnp.inf, x.dtype)
        return AndersonState(
            count=jnp.zeros((), jnp.int32),
            error=inf,
            status=as_status(Status.RUNNING),
            point=x,
            residual=jnp.zeros_like(x),
            trial=x,
            plain=jnp.ones((), bool),
            best=inf,
            mixing=_mixing.empty(memory, x),
        )

    def update(params, state, data=None):
        x, unravel = core.ravel_fine(params, state.point)
        slack = 8 * float(jnp.finfo(x.dtype).eps) * jnp.max(jnp.abs(x), initial=0)
        moved = jnp.any(~(jnp.abs(x - state.point) <= slack))  # by more than rounding
        trial = jnp.where(moved, x, state.trial)
        value, _ = core.ravel(mapped(unravel(trial), data))
        residual = value - trial
        beta = jnp.asarray(damping, x.dtype)
        rho = 100 * float(jnp.finfo(x.dtype).eps) if ridge is None else ridge
        rho = jnp.asarray(rho, x.dtype)

        size = jnp.sqrt(jnp.sum(residual**2))
        finite = jnp.isfinite(size)
        plain = state.plain | moved
        accept = finite & (plain | (size <= growth * state.best))
        known = jnp.isfinite(state.error)
        step, bend = trial - state.point, residual - state.residual
        keep = accept & known
        mixing = _mixing.push(
            state.mixing, jnp.where(keep, step, 0), jnp.where(keep, bend, 0)
        )
        mixing = core.where(keep, mixing, state.mixing)
        mixing = _mixing.cleared(mixing, ~accept)
        new_x = jnp.where(accept, trial, state.point)
        new_residual = jnp.where(accept, residual, state.residual)
        mixed = _mixing.mix(mixing, new_x, new_residual, beta, rho)
        sound = jnp.all(jnp.isfinite(mixed)) & (mixing.count > 0)
        simple = new_x + beta * new_residual
        error = jnp.max(jnp.abs(new_residual), initial=0)
        lost = ~finite & plain
        status = jnp.where(
            lost, as_status(Status.DIVERGED), judge(new_x, new_x + new_residual, error)
        )
        best = jnp.where(plain, size, jnp.minimum(size, state.best))
        return unravel(new_x), AndersonState(
            count=state.count + 1,
            error=jnp.where(known | accept, error, state.error),
            status=status,
            point=new_x,
            residual=new_residual,
            trial=jnp.where(sound, mixed, simple),
            plain=~sound,
            best=jnp.where(accept, best, state.best),
            mixing=mixing,
        )

    return core.Solver(init, update, residual_of(mapped), core.implicit())


def _check(condition, message, value):
    if not isinstance(condition, jax.core.Tracer) and not condition:
        raise ValueError(f"{message}, got {value!r}.")
