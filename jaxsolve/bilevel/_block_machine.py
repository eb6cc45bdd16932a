"""The machine of both forms of BSVRB."""

import dataclasses
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.bilevel._blocks import (
    BlockSampling,
    block_count,
    put,
    sampler,
    sweeps,
    take,
)
from jaxsolve.bilevel._msvr import Estimator
from jaxsolve.bilevel._oracle import (
    begin,
    error_of,
    linearised,
    projected,
    stationarity,
    upper_step,
)
from jaxsolve.bilevel._penalty import stack, unstack
from jaxsolve.bilevel._problem import BilevelProblem, Levels, check_levels
from jaxsolve.bilevel._tracks import Memory, Track, Visit, advance, read
from jaxsolve.core import Status, as_status


class BsvrbState(NamedTuple):
    """State of BSVRB."""

    count: chex.Array  # (), int32: updates taken.
    error: chex.Array  # (), real: largest entry of what should be zero.
    status: chex.Array  # (), int32: running, or diverged.
    before: Levels  # like params: one move earlier; without y if lazy.
    slope: Any  # like y: S, the estimates of g_y.
    memory: Any  # the estimates of the Hessians (v1), or V and those of its slope (v2).
    direction: Any  # like x: Z, the estimate of the hypergradient.
    visited: chex.Array  # (m,), int32: the move in which each was last sampled, or -1.
    wrong: chex.Array  # (m,), real: each block's share of the error, at that move.
    inner: Any  # the optimizer's own state.
    key: chex.PRNGKey | None  # (): for the next samples.


class Measured(NamedTuple):
    """What the oracles of sampled blocks tell at one point."""

    hypergradient: Any  # (I, ...) like x.
    slope: Any  # (I, ...): g_y.
    signal: Any  # (I, ...): what the memory follows.
    gap: Any  # (I, ...): H w - f_y, for the w in use.


def machine(
    problem: BilevelProblem,
    optimizer: optax.GradientTransformation,
    stepsize: optax.ScalarOrSchedule,
    memory: Memory,
    sampling: BlockSampling,
    estimators: tuple[Estimator, Estimator],
    key: chex.PRNGKey | None,
) -> core.Solver:
    """Makes BSVRB of what it remembers of the blocks."""
    schedule = core.as_schedule(stepsize)
    start, step = upper_step(problem, optimizer)
    tracker, momentum = estimators
    sample, at = sampler(sampling), linearised(problem)

    def block(x, y, held, fresh, data):
        point = at(Levels(x, y), data)
        hypergradient, signal, gap = memory.measure(point, held, fresh)
        return Measured(hypergradient, point.slope, signal, gap)

    blocks_at = jax.vmap(block, in_axes=(None, 0, 0, None, 0))
    look = jax.vmap(blocks_at, in_axes=(0, 0, 0, None, None))

    def init(params, data=None):
        x, y = check_levels(params)
        blocks, first = block_count(params, data, sampling), begin(params)
        return BsvrbState(
            *first,
            before=Levels(x, None if sampling.lazy else y),
            slope=optax.tree.zeros_like(y),
            memory=memory.init(y),
            direction=optax.tree.zeros_like(x),
            visited=jnp.full((blocks,), -1, jnp.int32),
            wrong=jnp.broadcast_to(first[1], (blocks,)),
            inner=start(x),
            key=key,
        )

    def update(params, state, data=None):
        x, y = check_levels(params)
        blocks = block_count(params, data, sampling)
        turns = sweeps(sampling, blocks)
        starting, k = state.count < turns, jnp.maximum(state.count - turns, 0)
        index, batch, new_key = sample(state.key, data, blocks, state.count)
        visited = take(state.visited, index)
        recent = (visited == k - 1) & (k > 0)
        visit = Visit(index, k - visited - 1, recent, k, blocks)
        eta = core.real_scalar(schedule(k), params)
        track = Track(y, state.before.lower, state.slope)
        lowers, held = read(track, visit, eta), memory.read(state.memory, visit)
        uppers = stack(x, state.before.upper)
        now, before = unstack(
            look(uppers, stack(*lowers), stack(*held), starting, batch)
        )
        state = state._replace(count=state.count + 1, key=new_key)

        def note():
            """Visits every block once, before the first move."""
            ok = core.all_finite(now)
            weights = jnp.full(visited.shape, 1 / blocks, eta.dtype)
            if index is not None:  # the last of these visits may repeat some
                new = index >= (state.count - 1) * len(index)
                weights = jnp.where(new, weights, 0)
            direction = _plus_weighted(state.direction, weights, now.hypergradient)
            return params, state._replace(
                status=_judged(ok, state),
                slope=put(state.slope, index, now.slope, ok),
                memory=memory.note(state.memory, visit, now.signal, ok),
                direction=core.where(ok, direction, state.direction),
            )

        def move():
            means = [_mean(seen.hypergradient) for seen in (now, before)]
            direction = momentum.update(state.direction, *means, k)
            new_x, inner = step(direction, state.inner, x)
            slopes = take(state.slope, index)
            slopes = tracker.update(slopes, now.slope, before.slope, k, blocks)
            signals = now.signal, before.signal
            rows = memory.follow(state.memory, held[0], visit, *signals)
            ok = core.all_finite([now, before, direction, new_x, slopes, rows, eta])
            moved = advance(track, visit, lowers[0], slopes, eta, ok)
            share = jax.vmap(error_of)(now.slope, now.gap).astype(state.wrong.dtype)
            wrong = put(state.wrong, index, share, ok)
            error = error_of(projected(problem, x, direction), wrong)
            keep = lambda new, old: core.where(ok, new, old)
            return Levels(keep(new_x, x), moved.values), state._replace(
                error=keep(error.astype(state.error.dtype), state.error),
                status=_judged(ok, state),
                before=Levels(keep(x, state.before.upper), moved.before),
                slope=moved.slope,
                memory=memory.advance(state.memory, visit, held[0], rows, ok),
                direction=keep(direction, state.direction),
                visited=put(state.visited, index, jnp.full_like(visited, k), ok),
                wrong=wrong,
                inner=keep(inner, state.inner),
            )

        return jax.lax.cond(starting, note, move)

    return core.Solver(init, update, _residual(problem), core.implicit())


def _residual(problem):
    """The mean hypergradient of the blocks, and the slope of each."""
    one = stationarity(dataclasses.replace(problem, upper_set=None))
    every = jax.vmap(one, in_axes=(Levels(None, 0), 0))

    def residual(levels, data=None):
        hypergradients, slopes = every(check_levels(levels), data)
        return Levels(projected(problem, levels.upper, _mean(hypergradients)), slopes)

    return residual


def _judged(ok, state):
    return jnp.where(ok, state.status, as_status(Status.DIVERGED))


def _mean(tree):
    return jax.tree.map(lambda rows: jnp.mean(rows, axis=0), tree)


def _plus_weighted(tree, weights, rows):
    add = lambda leaf, row: leaf + jnp.tensordot(weights.astype(row.dtype), row, 1)
    return jax.tree.map(add, tree, rows)
