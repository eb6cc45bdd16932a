"""Estimators of moving quantities by one sample at two points: STORM and MSVR."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxsolve import core


class Estimator(NamedTuple):
    """A pair that follows a quantity through samples of it.

    Attributes:
        init: as ``init(value) -> estimate``, of a first sample.
        update: as ``update(estimate, now, previous, count=0, blocks=None)``, the same
            sample at this point and at the one before. Where the estimate holds the
            sampled ones of `blocks` blocks, along the leading axes of its leaves.
    """

    init: Callable[[Any], Any]
    update: Callable[..., Any]


@core.memoise
def storm(beta: optax.ScalarOrSchedule) -> Estimator:
    r"""Follows one quantity: recursive momentum.

    From the estimate :math:`e` and one sample of :math:`h` at two points, computes

    .. math::

        e^+ = (1 - \beta) (e - h(\text{previous})) + h(\text{now})

    exact if samples are: then :math:`e = h(\text{previous})`.

    Args:
        beta: :math:`0 < \beta \le 1`, a scalar or a schedule; at one it is the plain
            sample.

    Returns:
        An estimator. It does not ask for the number of blocks.

    Raises:
        ValueError: if a known :math:`\beta` is out of its range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import bilevel
        >>> estimator = bilevel.storm(0.5)
        >>> estimate = estimator.init(jnp.float32(1.0))
        >>> print(estimator.update(estimate, jnp.float32(3.0), jnp.float32(2.0)))
        2.5

    References:
        Cutkosky and Orabona, `Momentum-Based Variance Reduction in Non-Convex SGD
        <https://arxiv.org/abs/1905.10018>`_, 2019.
    """
    check_weight("beta", beta)
    schedule = core.as_schedule(beta)

    def update(estimate, now, previous, count=0, blocks=None):
        del blocks
        rest = optax.tree.sub(estimate, previous)
        return core.axpy(1 - jnp.asarray(schedule(count)), rest, now)

    return Estimator(lambda value: value, update)


@core.memoise
def msvr(
    alpha: optax.ScalarOrSchedule, gamma: optax.ScalarOrSchedule | None = None
) -> Estimator:
    r"""Follows the quantities of many blocks, a few of which are sampled at a time.

    Multi-block single-probe variance reduction: a sampled block i computes

    .. math::

        e_i^+ = (1 - \alpha) e_i + \alpha h_i(\text{now})
        + \gamma (h_i(\text{now}) - h_i(\text{previous}))

    and the others keep their estimates; the correction makes up for the moves that a
    block has missed. Where all blocks are sampled, it is :func:`storm`.

    Args:
        alpha: :math:`0 < \alpha \le 1`, a scalar or a schedule.
        gamma: :math:`\gamma \ge 0`, likewise; for I of m blocks by default that of the
            theory, :math:`(m - I) / (I (1 - \alpha)) + 1 - \alpha`. It overshoots where
            the quantity moves far between two visits, and is infinite at
            :math:`\alpha = 1` unless all blocks are sampled.

    Returns:
        An estimator. It needs the number of blocks unless it is given all of them.

    Raises:
        ValueError: if a known :math:`\alpha` is out of its range; while updating some
            of the blocks, if it is one and there is no :math:`\gamma`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import bilevel
        >>> estimator, index = bilevel.msvr(0.5), jnp.array([2])
        >>> estimate = estimator.init(jnp.zeros(3))
        >>> now, previous = jnp.array([1.0]), jnp.array([0.5])
        >>> rows = estimator.update(estimate[index], now, previous, blocks=3)
        >>> estimate.at[index].set(rows)
        Array([0.  , 0.  , 2.75], dtype=float32)

    References:
        Jiang, Li, Wang, Zhang and Yang, `Multi-block-Single-probe Variance Reduced
        Estimator for Coupled Compositional Optimization
        <https://arxiv.org/abs/2207.08540>`_, 2022.
    """
    check_weight("alpha", alpha)
    schedule = core.as_schedule(alpha)

    def correction(a, count, share):
        if gamma is not None:
            return core.as_schedule(gamma)(count)
        if share == 1:
            return 1 - a
        if core.is_concrete(a) and a == 1:
            raise ValueError(
                "msvr with alpha = 1 has no gamma of its own where only some blocks "
                "are sampled: give it one."
            )
        return (1 / share - 1) / (1 - a) + 1 - a

    def update(estimate, now, previous, count=0, blocks=None):
        a = schedule(count)
        sampled = len(jax.tree.leaves(now)[0])
        share = 1 if blocks is None else sampled / blocks
        gain = correction(a, count, share)
        moved = optax.tree.sub(now, previous)
        estimate = core.axpy(a, optax.tree.sub(now, estimate), estimate)
        return core.axpy(gain, moved, estimate)

    return Estimator(lambda value: value, update)


def check_weight(name: str, value: Any) -> None:
    """Raises a `ValueError` unless a weight that is known is in (0, 1]."""
    if not callable(value):
        core.check_number(name, value, 0, 1, "]")


def check_estimators(estimators: Any) -> None:
    """Raises a `ValueError` unless these are two estimators."""
    pair = isinstance(estimators, tuple) and len(estimators) == 2
    if not pair or not all(isinstance(e, Estimator) for e in estimators):
        raise ValueError(
            "estimators must be a pair such as (bilevel.msvr(0.1), "
            f"bilevel.storm(0.1)), got {estimators!r}."
        )
