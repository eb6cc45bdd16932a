"""What BSVRB remembers of every block: where it descends, and its Hessian."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core, prox
from jaxsolve.bilevel._blocks import put, take
from jaxsolve.bilevel._msvr import Estimator


class Visit(NamedTuple):
    """The blocks that an update looks at."""

    index: chex.Array | None  # (I,), int32; None for all blocks.
    missed: chex.Array  # (I,), int32: steps since each was last looked at.
    recent: chex.Array  # (I,), bool: whether that was in the move before.
    count: chex.Array  # (), int32: moves taken so far.
    blocks: int  # m.


class Track(NamedTuple):
    """A quantity of every block that descends along an estimate of its slope."""

    values: Any  # (m, ...).
    before: Any  # (m, ...): the same, one move earlier; None if lazy.
    slope: Any  # (m, ...): the estimate.


class Hessians(NamedTuple):
    """Estimates of the lower Hessians."""

    values: chex.Array  # (m, n, n), real.
    before: chex.Array  # (m, n, n), real: the same, before the last visit of each.


class Memory(NamedTuple):
    """A machine that knows H^-1 f_y of every block, one way or another.

    Attributes:
        init: as ``init(y) -> state``.
        measure: at one block, as ``measure(point, held, fresh) -> hypergradient,
            signal to follow, H w - f_y``.
        read: as ``read(state, visit) -> held now, held before``, of these blocks.
        note: as ``note(state, visit, signals, ok)``: the first signals are estimates.
        follow: as ``follow(state, held, visit, now, before) -> rows``, the estimates.
        advance: as ``advance(state, visit, held, rows, ok) -> state``.
    """

    init: Callable
    measure: Callable
    read: Callable
    note: Callable
    follow: Callable
    advance: Callable


def read(
    track: Track, visit: Visit, stepsize: chex.Array, project: Callable | None = None
) -> tuple:
    """The rows of these blocks, now and before; those left behind are caught up."""
    values = take(track.values, visit.index)
    if track.before is not None:
        return values, take(track.before, visit.index)
    slopes = take(track.slope, visit.index)
    last = jnp.where(visit.count > 0, -stepsize, jnp.zeros_like(stepsize))
    missed = stepsize * visit.missed.astype(stepsize.dtype)
    values = _onto(project, jax.vmap(descend)(values, missed, slopes))
    return values, _onto(project, descend(values, last, slopes))


def advance(
    track: Track,
    visit: Visit,
    values: Any,
    slopes: Any,
    stepsize: chex.Array,
    ok: chex.Array,
    project: Callable | None = None,
) -> Track:
    """Writes the new slopes of these blocks, then all descend; only these if lazy."""
    new_slope = put(track.slope, visit.index, slopes, ok)
    if track.before is None:
        rows = _onto(project, descend(values, stepsize, slopes))
        return Track(put(track.values, visit.index, rows, ok), None, new_slope)
    length = jnp.where(ok, stepsize, jnp.zeros_like(stepsize))
    stepped = _onto(project, descend(track.values, length, new_slope))
    return Track(stepped, track.values, new_slope)


def descend(values: Any, stepsize: chex.Array, slopes: Any) -> Any:
    """A step against the slopes, except where it would leave the finite numbers."""
    stepped = core.axpy(-stepsize, slopes, values)
    keep = lambda new, old: jnp.where(jnp.isfinite(new), new, old)
    return jax.tree.map(keep, stepped, values)


def _onto(project, values):
    return values if project is None else jax.vmap(project)(values)


def hessians(floor: chex.Numeric, tracker: Estimator) -> Memory:
    """Follows the Hessians themselves, with eigenvalues of at least `floor`."""
    onto = prox.psd_cone()

    def raised(matrices):
        least = jnp.asarray(floor, matrices.dtype)
        shift = least * jnp.eye(matrices.shape[-1], dtype=matrices.dtype)[None]
        return onto(matrices - shift) + shift

    def init(y):
        def one(row):
            vector, _ = core.ravel(row)
            eye = jnp.eye(vector.size, dtype=vector.dtype)
            # Of y, so that it is spread over devices where y is.
            return jnp.where(jnp.all(jnp.isfinite(vector)), eye, 2 * eye)

        eyes = jax.vmap(one)(y)
        return Hessians(eyes, eyes)

    def measure(point, held, fresh):
        rhs, unravel = core.ravel(point.grad.lower)
        column = lambda e: core.ravel(point.pull(unravel(e)).lower)[0]
        hessian = jax.vmap(column)(jnp.eye(rhs.size, dtype=rhs.dtype))
        used = jax.lax.cond(fresh, lambda: raised(hessian[None])[0], lambda: held)
        factor = jax.scipy.linalg.cho_factor(used)
        w = jax.scipy.linalg.cho_solve(factor, rhs)
        gap = jnp.dot(hessian, w, precision=jax.lax.Precision.HIGHEST) - rhs
        indirect = point.pull(unravel(w)).upper
        return optax.tree.sub(point.grad.upper, indirect), hessian, gap

    def look(state, visit):
        now = take(state.values, visit.index)
        before = take(state.before, visit.index)
        return now, jnp.where(visit.recent[:, None, None], before, now)

    def note(state, visit, signals, ok):
        values = put(state.values, visit.index, raised(signals), ok)
        return state._replace(values=values)

    def follow(state, held, visit, now, before):
        rows = tracker.update(held, now, before, visit.count, visit.blocks)
        return raised(rows)

    def move(state, visit, held, rows, ok):
        pair = Hessians(rows, held)
        return Hessians(
            *[put(a, visit.index, b, ok) for a, b in zip(state, pair, strict=True)]
        )

    return Memory(init, measure, look, note, follow, move)


def adjoints(
    stepsize: Callable, radius: chex.Numeric, tracker: Estimator, lazy: bool
) -> Memory:
    """Follows v = H^-1 f_y by descent on its quadratic, in a ball."""
    bounded = not core.is_concrete(radius) or radius < jnp.inf
    ball = prox.l2_ball(radius) if bounded else None

    def length(visit, values):
        return core.real_scalar(stepsize(visit.count), values)

    def init(y):
        zeros = optax.tree.zeros_like(y)
        return Track(zeros, None if lazy else zeros, zeros)

    def measure(point, held, fresh):
        del fresh
        pulled = point.pull(held)
        signal = optax.tree.sub(pulled.lower, point.grad.lower)
        return optax.tree.sub(point.grad.upper, pulled.upper), signal, signal

    def look(state, visit):
        return read(state, visit, length(visit, state.values), ball)

    def note(state, visit, signals, ok):
        return state._replace(slope=put(state.slope, visit.index, signals, ok))

    def follow(state, held, visit, now, before):
        slopes = take(state.slope, visit.index)
        rows = tracker.update(slopes, now, before, visit.count, visit.blocks)
        sound = jnp.isfinite(length(visit, state.values))  # `descend` would hide it
        return jax.tree.map(lambda row: jnp.where(sound, row, jnp.nan), rows)

    def move(state, visit, held, rows, ok):
        eta = length(visit, state.values)
        return advance(state, visit, held, rows, eta, ok, ball)

    return Memory(init, measure, look, note, follow, move)
