"""SABA: SOBA with memories of every batch, which remove the noise of sampling."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.bilevel._oracle import accept, begin, stationarity
from jaxsolve.bilevel._problem import BilevelProblem, check_problem, split
from jaxsolve.bilevel._soba import Samples, mover, sampler


class SabaState(NamedTuple):
    """State of SABA, as the `inner` of a ``core.MinibatchState``."""

    count: chex.Array  # (), int32: updates taken.
    error: chex.Array  # (), real: largest entry of the directions of the last update.
    status: chex.Array  # (), int32: running or diverged.
    adjoint: Any  # like y: v, which tends to -H^{-1} f_y; zero at first.
    upper: Any  # the optimizer's own state.
    means: Samples  # of the memories, in at least 32 bits.
    memories: Samples  # each sample of each batch, before the last: a leading axis.
    seen: Samples  # the last ones, to be written there at the next update.
    rows: tuple  # (), int32 each: the last batches, of the upper and the lower level.


@core.memoise
def saba(
    problem: BilevelProblem,
    optimizer: optax.GradientTransformation,
    stepsize: optax.ScalarOrSchedule,
    *,
    batch: int | tuple[int, int],
    key: chex.PRNGKey,
    full: bool = False,
) -> core.Solver:
    r"""Minimises a finite sum over both levels in a single loop with constant steps.

    As :func:`soba`, on :math:`f = \frac1m \sum_j f_j` and :math:`g = \frac1n \sum_i
    g_i`, sums over fixed batches of consecutive examples. One update draws i and j,
    takes each of the five samples :math:`q`, of :math:`f_x, f_y` on batch j and of
    :math:`g_y, H v, J^\top v` on batch i, and replaces it by

    .. math::

        q - M_i + \bar M

    with :math:`M` its memory and :math:`\bar M` the memory's mean; then :math:`M_i`
    becomes :math:`q` and the mean follows. With n and m batches, the memories hold
    :math:`n (2 d_y + d_x) + m (d_y + d_x)` numbers. Batches are drawn in a new random
    order every epoch, as the authors' code does; the paper draws them independently.

    The iterates converge linearly to the solution if :math:`F` has the
    Polyak-Lojasiewicz property, with steps like those of :func:`soba`, constant, below
    what the worst batch allows.

    Args:
        problem: both objectives, means over the examples of a batch; an upper set is
            kept by projection, other parts are refused.
        optimizer: the step of x, any optax transformation, ``optax.sgd(gamma)`` in the
            paper.
        stepsize: :math:`\rho > 0` of y and v, a scalar or a schedule of the update
            count.
        batch: examples in a batch, or a pair of integers for the two levels. The
            number of examples must be a multiple of it.
        key: a key of `jax.random`.
        full: whether the memories are filled by a full pass, in which nothing moves,
            before the first step; else they begin at zero.

    Returns:
        A solver of ``Levels(upper, lower)`` whose data are the whole data of both
        levels, arrays with a leading axis of examples. Its error is the largest entry
        of a direction within the last whole epoch (which is one of the level with more
        batches), infinite in the first; unlike that of a sampled method it falls to
        zero and may stop a run. Its residual is :math:`(f_x - J^\top H^{-1} f_y, g_y)`
        on the whole data.

    Raises:
        ValueError: if the problem has a lower set or a constraint, on a stepsize that
            is not positive and finite, a batch that is no integer; while tracing, if
            the examples are no multiple of the batch.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxsolve import bilevel, core
        >>> upper = lambda levels, data: jnp.mean((levels.lower - data) ** 2)
        >>> lower = lambda p, data: jnp.mean((p.lower - data * p.upper) ** 2)
        >>> problem = bilevel.BilevelProblem(upper, lower)
        >>> solver = bilevel.saba(
        ...     problem, optax.sgd(0.02), 0.1, batch=1, key=jax.random.key(0))
        >>> start = bilevel.Levels(jnp.zeros(()), jnp.zeros(()))
        >>> data = jnp.array([1.0, 2.0, 6.0]), jnp.array([1.0, 2.0])
        >>> print(f"{core.run(solver, start, data, max_steps=5000).params.upper:.3f}")
        2.000

    References:
        Dagréou, Ablin, Vaiter and Moreau, `A framework for bilevel optimization that
        enables stochastic and global variance reduction algorithms
        <https://arxiv.org/abs/2201.13409>`_, 2022. Algorithm 1, (SABA).
    """
    check_problem(problem, "saba", takes=("upper_set",))
    core.check_stepsize(stepsize)
    sizes = batch if isinstance(batch, tuple) else (batch, batch)
    if len(sizes) != 2 or any(not isinstance(s, int) or s < 1 for s in sizes):
        raise ValueError(
            f"batch must be a positive integer or a pair of them, got {batch!r}."
        )
    schedule = core.as_schedule(stepsize)

    def sampled(data):
        parts = split(data)
        batches = [_batches(*part) for part in zip(parts, sizes, strict=True)]
        counts = tuple(index.size for _, index in batches)
        inner = _on_batches(problem, optimizer, schedule, counts, full)
        # The examples that are drawn, one at a time, are whole batches.
        return core.minibatch(inner, (1, 1), key=key), tuple(batches)

    def init(params, data=None):
        inner, batches = sampled(data)
        return inner.init(params, batches)

    def update(params, state, data=None):
        inner, batches = sampled(data)
        return inner.update(params, state, batches)

    return core.Solver(init, update, stationarity(problem), core.implicit())


def _batches(part, size):
    """Cuts the data of a level, and numbers its batches; no data are one batch."""
    leading = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(part)}
    if not leading:
        return part, jnp.zeros((1,), jnp.int32)
    if len(leading) != 1 or () in leading:
        raise ValueError(
            "the data of each level must share one leading axis of examples, got "
            f"leading axes {sorted(leading)}."
        )
    (n,) = leading.pop()
    if n % size:
        raise ValueError(
            f"the number of examples must be a multiple of the batch, got {n} examples "
            f"in batches of {size}; leave the remainder out, or choose a divisor."
        )
    cut = lambda x: jnp.reshape(x, (n // size, size, *jnp.shape(x)[1:]))
    return jax.tree.map(cut, part), jnp.arange(n // size, dtype=jnp.int32)


def _on_batches(problem, optimizer, schedule, counts, full):
    """Makes the solver whose data are one batch of each level, with its number."""
    begin_upper, move = mover(problem, optimizer, schedule)
    sample = sampler(problem)
    above, below = counts
    sizes = Samples(above, above, below, below, below)
    fill = max(counts) if full else 0

    def init(params, data):
        del data
        x, y = params
        first = begin(params)
        likes = Samples(x, y, x, y, y)
        means = jax.tree.map(
            lambda leaf: jnp.zeros(jnp.shape(leaf), core.real_dtype(leaf)), likes
        )
        memories = [
            jax.tree.map(
                lambda leaf, n=n: jnp.zeros((n, *leaf.shape), leaf.dtype), like
            )
            for n, like in zip(sizes, likes, strict=True)
        ]
        zero = jnp.zeros((), jnp.int32)
        return SabaState(
            *first,
            adjoint=optax.tree.zeros_like(y),
            upper=begin_upper(x),
            means=means,
            memories=Samples(*memories),
            seen=optax.tree.zeros_like(likes),
            rows=(zero, zero),
        )

    def update(params, state, data):
        (upper_data, j), (lower_data, i) = jax.tree.map(lambda x: x[0], data)
        # Written before they are read, and never chosen by a condition: so XLA changes
        # them in place, and an update costs no pass over all memories.
        memories = _write(state.memories, state.rows, state.seen)
        old = state._replace(memories=None)
        value, new = sample(params, state.adjoint, (upper_data, lower_data))
        change = optax.tree.sub(new, _read(memories, (j, i)))
        means = map(
            lambda n, *pair: core.axpy(1 / n, *pair), sizes, change, state.means
        )
        stepped = move(params, old, core.axpy(1, state.means, change), value)
        inf = jnp.full_like(state.error, jnp.inf)
        filled = params, old._replace(count=state.count + 1, error=inf)
        new_params, new_state = core.where(state.count < fill, filled, stepped)
        new_state = new_state._replace(means=Samples(*means), seen=new, rows=(j, i))
        new_params, new_state = accept(
            params, old, new_params, new_state, free=("upper",)
        )
        return new_params, new_state._replace(memories=memories)

    return core.Solver(init, update)


def _by_level(rows):
    j, i = rows
    return Samples(j, j, i, i, i)


def _read(memories, rows):
    read = lambda part, i: jax.tree.map(lambda m: m[i], part)
    return Samples(*map(read, memories, _by_level(rows)))


def _write(memories, rows, samples):
    write = lambda part, i, new: jax.tree.map(lambda m, q: m.at[i].set(q), part, new)
    return Samples(*map(write, memories, _by_level(rows), samples))
