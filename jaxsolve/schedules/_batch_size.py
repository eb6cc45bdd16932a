"""A controller of batch sizes that a data loader can read."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax.numpy as jnp

from jaxsolve.schedules._batch_statistics import BatchStatistics
from jaxsolve.schedules._batch_tests import BatchTest
from jaxsolve.schedules._check import check


class BatchSizeState(NamedTuple):
    """State of a controller of batch sizes."""

    count: chex.Array  # (), int32: updates taken.
    size: chex.Array  # (), int32: samples that the next batch should have.
    wanted: chex.Array  # (), float32: what the last test asked for.
    samples: chex.Array  # (), int32: seen so far, or the largest integer.


class BatchSizeController(NamedTuple):
    """A controller of batch sizes: a pair of functions."""

    init: Callable[[], BatchSizeState]
    update: Callable[[BatchSizeState, BatchStatistics], BatchSizeState]
    sizes: tuple[int, ...] | None  # that it gives, from the least; None for any.


def adaptive_batch_size(
    test: BatchTest,
    first: int,
    largest: int,
    *,
    ladder: bool = True,
    interval: int = 1,
    growth: float = float("inf"),
) -> BatchSizeController:
    r"""Lets batches grow as gradients drown in their noise.

    Every few updates, from the statistics of the gradients of the last batch, before
    the step is taken,

    .. math::

        b^+ = \min \{ \bar b, \max \{ b, \lceil \min \{ \mathrm{test}, \gamma b \}
            \rceil \} \}

    so that batches never shrink. With a ladder the size is rounded up to the next of b,
    2b, 4b, ... of the first b: a batch size is a shape, and every new one compiles
    anew, which a ladder does a few times only. For one shape, pad batches and mask
    them, or accumulate ``-(-size // part)`` parts of fixed size.

    With a linearly convergent method b grows geometrically. Any optimiser may take the
    steps: SGD, ``optax.adagrad``, Adam. A test that is NaN changes nothing.

    Args:
        test: :func:`norm_test`, :func:`inner_product_test`, :func:`orthogonality_test`,
            :func:`augmented_test`, :func:`coordinate_test` or one of your own.
        first: samples of the first batch, at least 2.
        largest: :math:`\bar b`, at least `first`, at most :math:`2^{30}`.
        ladder: whether sizes double.
        interval: updates between two tests, at least 1.
        growth: :math:`\gamma > 1`, by which factor a test lets the batch grow at most:
            2 guards against a gradient that is near zero by luck. A ladder rounds up
            what it leaves, so that batches may double whatever it is.

    Returns:
        A controller: ``state = init()``, and after each batch ``state = update(state,
        statistics)``; the loader reads ``int(state.size)``.

    Raises:
        ValueError: if the test is no function, or a number is out of its range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import schedules
        >>> controller = schedules.adaptive_batch_size(schedules.norm_test(0.5), 2, 100)
        >>> batch = schedules.batch_statistics(jnp.array([1.0, -0.5]))
        >>> print(controller.update(controller.init(), batch).size)  # of 72
        100
        >>> controller.sizes
        (2, 4, 8, 16, 32, 64, 100)

    References:
        Lau, Liu and Kolar, `AdAdaGrad: Adaptive Batch Size Schemes for Adaptive
        Gradient Methods <https://arxiv.org/abs/2402.11215>`_, 2024.
    """
    if not callable(test):
        raise ValueError(
            "test must be one such as schedules.norm_test(0.5), a function of "
            f"BatchStatistics, got {type(test).__name__}."
        )
    for name, number, least in (
        ("first", first, 2),
        ("largest", largest, first),
        ("interval", interval, 1),
    ):
        if not isinstance(number, int) or not least <= number <= 2**30:
            raise ValueError(
                f"{name} must be an integer between {least} and 2**30, got {number!r}."
            )
    check("growth", growth, 1, float("inf"), "]")
    sizes = _ladder(first, largest) if ladder else None

    def init():
        zero = lambda dtype=jnp.int32: jnp.zeros((), dtype)
        size = jnp.asarray(first, jnp.int32)
        return BatchSizeState(zero(), size, zero(jnp.float32), zero())

    def update(state, batch):
        count = state.count + 1
        wanted = jnp.asarray(test(batch)).astype(jnp.float32)
        old = state.size.astype(jnp.float32)
        new = _whole(jnp.minimum(wanted, jnp.asarray(growth, jnp.float32) * old))
        if ladder:
            rungs = jnp.asarray(sizes, jnp.int32)
            new = rungs[jnp.minimum(jnp.searchsorted(rungs, new), len(sizes) - 1)]
        due = (count % interval == 0) & ~jnp.isnan(wanted)
        size = jnp.where(due, jnp.clip(new, state.size, largest), state.size)
        top = jnp.iinfo(jnp.int32).max
        room = top - state.samples
        more = jnp.minimum(_whole(batch.count.astype(jnp.float32)), room)
        return BatchSizeState(
            count, size, jnp.where(due, wanted, state.wanted), state.samples + more
        )

    return BatchSizeController(init, update, sizes)


def _whole(number):
    """Rounds up to an integer of 32 bits, at most that of the largest batch."""
    most = 2.0**30
    return jnp.ceil(jnp.clip(jnp.nan_to_num(number, nan=0.0), 0, most)).astype(
        jnp.int32
    )


def _ladder(first, largest):
    sizes = [first]
    while sizes[-1] < largest:
        sizes.append(min(2 * sizes[-1], largest))
    return tuple(sizes)
