"""Broyden's method for equations, in limited memory and without derivatives."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.fixed_point import _secants
from jaxsolve.fixed_point._equation import Equation, equation, norm
from jaxsolve.fixed_point._secants import Secants

SHRINKS = 4  # trials of a search, before its direction is given up
FAILURES = 8  # such directions in a row that are a stall


class BroydenState(NamedTuple):
    """State of Broyden's method."""

    count: chex.Array  # (), int32: updates taken, one evaluation of F each.
    error: chex.Array  # (), real: sup-norm of F at params.
    status: chex.Array  # (), int32: running, stalled or diverged.
    point: chex.Array  # (n,), real: params, raveled, in full precision.
    value: chex.Array  # (n,), real: F there.
    direction: chex.Array  # (n,), real: of the search.
    stepsize: chex.Array  # (), real: to try next.
    trials: chex.Array  # (), int32: stepsizes tried in this direction.
    accepted: chex.Array  # (), int32: steps accepted.
    failures: chex.Array  # (), int32: directions given up since the last of them.
    secants: Secants  # the last changes of the point and of F.


@core.memoise
def broyden(
    fun: Equation,
    memory: int = 20,
    *,
    scale: chex.Numeric | None = None,
    decrease: float = 1e-4,
    growth: float = 10.0,
) -> core.Solver:
    r"""Solves equations by Broyden's good method, one evaluation of them an update.

    Solves :math:`F(x) = 0`. Each update evaluates :math:`F` at one trial
    :math:`x + t p` of a search that asks for

    .. math::

        \|F(x + t p)\| \le (1 - \sigma t^2 + \eta_k) \|F(x)\|, \quad
        \eta_k = \eta / (k + 1)^{3/2}

    at the :math:`k`-th step, so that the norm may grow, but not for ever; otherwise
    :math:`t` is shortened. With the changes :math:`s` of :math:`x` and :math:`y` of
    :math:`F`, the next direction is

    .. math::

        H^+ &= H + \frac{(s - H y) \, s^\top H}{s^\top H y} \\
        p &= - H^+ F

    the inverse of Broyden's matrix. Where :math:`|s^\top H y| < \|s\|^2 / 10`, which
    would make it nearly singular, :math:`y` is drawn towards :math:`H^{-1} s`. A
    direction that fails four times gives its shortest trial to the memory; eight in a
    row are a stall. When the memory is full it is emptied: :math:`H = \gamma I`.
    Converges superlinearly near a root with a regular Jacobian if the memory is large
    enough; knows no derivatives, so that :math:`F` need not have any. The memory takes
    2m vectors like params.

    Args:
        fun: :math:`F`, as ``fun(params, data) -> values``, as many as params has
            entries; a tree like params, or any other.
        memory: :math:`m`, how many changes are kept until all are forgotten; 1 or
            more.
        scale: :math:`\gamma \ne 0`, an inverse slope of :math:`F`, of either sign. By
            default the first step is at most a tenth of params, or of one, and then
            :math:`\gamma = \pm \|s\| / \|y\|` of the first change in the memory.
        decrease: :math:`\sigma`, in (0, 1).
        growth: :math:`\eta \ge 0`; zero is a monotone search.

    Returns:
        A solver. Its error is :math:`\|F(x)\|_\infty` at params, its residual
        :math:`F`.

    Raises:
        ValueError: if `memory` is not a positive integer, or a number out of its range;
            while tracing, if the number of equations is not that of unknowns, or they
            are not real.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> solver = jaxsolve.fixed_point.broyden(lambda x, a: jnp.cos(a * x) - x)
        >>> print(jaxsolve.run(solver, 1.0, 1.0))
        Solution(converged after 5 updates, error 5.19e-06, params=0.739088)

    References:
        Broyden, `A Class of Methods for Solving Nonlinear Simultaneous Equations
        <https://doi.org/10.1090/S0025-5718-1965-0198670-6>`_, 1965, (4.5).
        Moré and Trangenstein, `On the Global Convergence of Broyden's Method
        <https://doi.org/10.1090/S0025-5718-1976-0418451-2>`_, 1976, for the safeguard
        of :math:`y`. Li and Fukushima, `A
        Derivative-Free Line Search and Global Convergence of Broyden-like Method
        <https://doi.org/10.1080/10556780008805782>`_, 2000, (2.7), with the square of
        the step in units of :math:`\|F\|`.
    """
    if not isinstance(memory, int) or memory < 1:
        raise ValueError(f"memory must be a positive integer, got {memory!r}.")
    _check(scale is None or scale != 0, "scale must not be zero", scale)
    _check(0 < decrease < 1, "decrease must be between 0 and 1", decrease)
    _check(growth >= 0, "growth must not be negative", growth)
    values = equation(fun)

    def init(params, data=None):
        del data
        x, _ = core.ravel(params)
        zero, inf = jnp.zeros((), x.dtype), jnp.full((), jnp.inf, x.dtype)
        count = jnp.zeros((), jnp.int32)
        gamma = zero if scale is None else jnp.asarray(scale, x.dtype)
        return BroydenState(
            count=count,
            error=inf,
            status=as_status(Status.RUNNING),
            point=x,
            value=jnp.zeros_like(x),
            direction=jnp.zeros_like(x),
            stepsize=zero,  # the first trial is the start
            trials=count,
            accepted=count,
            failures=count,
            secants=_secants.empty(memory, x, gamma),
        )

    def update(params, state, data=None):
        x, unravel = core.ravel_fine(params, state.point)
        moved = jnp.any(x != state.point)
        trial = x + jnp.where(moved, 0, state.stepsize) * state.direction
        value = values(unravel(trial), data)
        size, before, t = norm(value), norm(state.value), state.stepsize
        finite, known = jnp.isfinite(size), jnp.isfinite(state.error)
        eta = growth / (state.accepted.astype(x.dtype) + 1) ** 1.5
        enough = size <= (1 - decrease * t**2 + eta) * before
        ok = core.once((finite & (enough | moved | ~known)).astype(jnp.int32)) == 1
        given_up = ~ok & (state.trials + 1 >= SHRINKS)
        lost = ~finite & (moved | ~known)

        s, y = trial - state.point, value - state.value
        learns = finite & known & (ok | given_up)
        secants = _secants.push(state.secants, s, y, learns, scale is not None)
        if scale is None:
            gamma = jnp.where(known, secants.gamma, _first(trial, size))
            secants = secants._replace(gamma=gamma)
        new_x = jnp.where(ok, trial, state.point)
        new_value = jnp.where(ok, value, state.value)
        new_p = -_secants.apply(secants, new_value)
        sound = jnp.all(jnp.isfinite(new_p))
        plain = -secants.gamma * new_value
        count = jnp.where(sound, secants.count, 0)
        secants = secants._replace(count=count)
        anew = ok | given_up
        p = jnp.where(anew, jnp.where(sound, new_p, plain), state.direction)

        failures = jnp.where(ok, 0, state.failures + given_up.astype(jnp.int32))
        eps = 2 * float(jnp.finfo(x.dtype).eps)
        still = ok & jnp.all(jnp.abs(p) <= eps * jnp.abs(new_x)) & (size > 0)
        stuck = (failures >= FAILURES) | still
        status = jnp.where(stuck, as_status(Status.STALLED), state.status)
        error = jnp.where(ok, jnp.max(jnp.abs(value), initial=0), state.error)
        one = jnp.ones_like(t)
        return unravel(new_x), BroydenState(
            count=state.count + 1,
            error=error,
            status=jnp.where(lost, as_status(Status.DIVERGED), status),
            point=new_x,
            value=new_value,
            direction=p,
            stepsize=jnp.where(anew, one, _shorter(t, size, before)),
            trials=jnp.where(anew, 0, state.trials + 1),
            accepted=state.accepted + (ok & known).astype(jnp.int32),
            failures=failures,
            secants=secants,
        )

    return core.Solver(init, update, values, core.implicit())


def _first(x, size):
    """A gamma whose step is at most a tenth of x, or of one."""
    reach = 0.1 * jnp.maximum(norm(x), 1)
    return jnp.minimum(1, reach / jnp.where(size > 0, size, 1))


def _shorter(t, size, before):
    """The minimum of the parabola through both squares, a tenth to a half of t."""
    ratio = (size / jnp.where(before > 0, before, 1)) ** 2
    guess = t / jnp.maximum(ratio + 2 * t - 1, 2 * t)
    guess = jnp.where(jnp.isfinite(ratio), guess, 0.1)
    return t * jnp.clip(guess, 0.1, 0.5)


def _check(condition, message, value):
    if not isinstance(condition, jax.core.Tracer) and not condition:
        raise ValueError(f"{message}, got {value!r}.")
