"""Epochs of gradient steps on the lower level: shorter steps, averages, balls."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsolve import core, prox
from jaxsolve.bilevel._phases import LowerLoop, check_steps


class EpochSgd(NamedTuple):
    """What is known of the epochs; made by :func:`epoch_sgd`."""

    stepsize: optax.ScalarOrSchedule
    steps: int
    epochs: int
    radius: chex.Numeric | None
    average: bool


def epoch_sgd(
    stepsize: optax.ScalarOrSchedule,
    steps: int,
    *,
    epochs: int = 1,
    radius: chex.Numeric | None = None,
    average: bool = False,
) -> EpochSgd:
    r"""Describes gradient steps on the lower level, in epochs of growing length.

    Epoch :math:`s = 0, 1, \dots` starts from a centre :math:`c`, which is y, and takes
    :math:`2^s T` steps

    .. math::

        y^+ = P_{B(c, \, 2^{-s/2} R)} \bigl( y - 2^{-s} \tau \, g_y(x, y) \bigr)

    one an update, each on the batch of that update. It ends at the average of its
    iterates, or at the last one. One epoch without ball and average, the default, is
    plain stochastic gradient descent. Epochs, balls and averages are the form in which
    the theory of :func:`bo_rep` is stated; they are reconstructed here from its
    description, with medium confidence, and are seldom needed in practice.

    Args:
        stepsize: :math:`\tau` in :math:`(0, 2 / L_g)`, a scalar or a schedule of the
            upper steps taken; above, y diverges.
        steps: :math:`T \ge 1`, of the first epoch.
        epochs: how many, at least 1.
        radius: :math:`R > 0` of the first ball; none by default. The distance from the
            centre to the solution, at least, or y cannot reach it.
        average: whether an epoch ends at the average of its iterates.

    Returns:
        What :func:`bo_rep` takes for its refreshes and its start.

    Raises:
        ValueError: if `steps` or `epochs` is not a positive integer, or too large; on
            a stepsize or radius that is not positive.

    Examples:
        >>> from jaxsolve import bilevel
        >>> loop = bilevel.epoch_sgd(0.5, 10, epochs=4, radius=8.0, average=True)
        >>> bilevel.epoch_sgd(0.1, 3).epochs
        1

    References:
        Hazan and Kale, `Beyond the Regret Minimization Barrier
        <https://jmlr.org/papers/v15/hazan14a.html>`_, 2014. Algorithm 1, Epoch-GD.
    """
    core.check_stepsize(stepsize)
    check_steps(steps=steps, epochs=epochs)
    known = radius is not None and core.is_concrete(radius)
    if known and not np.asarray(radius) > 0:
        raise ValueError(f"radius must be positive, got {radius!r}.")
    if steps * 2**epochs > np.iinfo(np.int32).max:
        raise ValueError(f"{epochs} epochs from {steps} steps are too many.")
    return EpochSgd(stepsize, steps, epochs, radius, bool(average))


class Trail(NamedTuple):
    """What an epoch remembers beside y."""

    center: Any  # like y: where it began; None without balls.
    mean: Any  # like y: the average so far; None without averages.


def gradient_loop(
    start: EpochSgd | None, refresh: EpochSgd, period: int = 1
) -> LowerLoop:
    """Starts, if at all, at k = 0; refreshes at later multiples of the period."""
    loops = [refresh] if start is None else [start, refresh]

    def init(levels, data):
        del data
        y = levels.lower
        balls = any(loop.radius is not None for loop in loops)
        averages = any(loop.average for loop in loops)
        return Trail(y if balls else None, y if averages else None)

    def wanted(outer):
        due = outer % period == 0
        return due if start is not None else due & (outer > 0)

    def step(levels, state, slope, data):
        del data
        here = lambda loop: lambda: _step(loop, levels.lower, slope, state)
        if start is None or start is refresh:
            return here(refresh)()
        return jax.lax.cond(state.outer == 0, here(start), here(refresh))

    return LowerLoop(init, wanted, step)


def _step(loop, y, slope, state):
    """One step of an epoch, which it may begin or end."""
    growth = 2 ** np.arange(loop.epochs)
    lengths = loop.steps * growth
    ends = np.cumsum(lengths)
    whole = lambda table: jnp.asarray(table, jnp.int32)
    epoch = jnp.sum(state.taken >= whole(ends[:-1]), dtype=jnp.int32)
    before = state.taken - whole(ends - lengths)[epoch]  # steps of this epoch taken
    shrink = core.real_scalar(1 / growth, y)[epoch]
    tau = core.real_scalar(core.as_schedule(loop.stepsize)(state.outer), y)
    new_y = core.axpy(-tau * shrink, slope, y)
    center, mean = state.lower
    if loop.radius is not None:
        center = core.where(before == 0, y, center)
        ball = prox.l2_ball(core.real_scalar(loop.radius, y) * jnp.sqrt(shrink))
        new_y = optax.tree.add(center, ball(optax.tree.sub(new_y, center)))
    if loop.average:
        last = state.taken + 1 == whole(ends)[epoch]
        weight = 1 / core.real_scalar(before + 1, y)
        old = core.where(before == 0, new_y, mean)
        mean = core.axpy(weight, optax.tree.sub(new_y, old), old)
        new_y = core.where(last, mean, new_y)
    return new_y, Trail(center, mean), state.taken + 1 == int(ends[-1])
