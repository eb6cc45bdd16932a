"""Conversion of the regret of a transformation to its last iterate, and its record."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsolve import core, schedules
from jaxsolve.transforms._scaled import scaled_squares
from jaxsolve.transforms._wide import widened


def last_iterate(
    transform: optax.GradientTransformation,
    steps: chex.Numeric,
    *,
    weights: chex.Array | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Makes the last iterate of a transformation as good as its regret.

    Scales the updates :math:`\Delta_t` of any transformation, for weights :math:`w_1,
    \dots, w_T` and the step t, the count plus one:

    .. math::

        x_{t+1} = x_t + \frac{w_{t+1} + \dots + w_T}{w_1 + \dots + w_T} \Delta_t

    On convex f, exact subgradients :math:`g_t` at :math:`x_t`, and the sequence
    :math:`z_1 = x_1, z_{t+1} = z_t + \Delta_t`, which is not kept,

    .. math::

        f(x_T) - f(u) \le \sum_t w_t \langle g_t, z_t - u \rangle / \sum_t w_t

    for any u; with stochastic ones in expectation. So a bound on the regret of the
    transformation bounds the last iterate. Equal weights give linear decay, of whatever
    the transformation is. Wrap the whole chain, with its decoupled weight decay.

    Args:
        transform: any optax transformation, whose updates are to be added to params.
        steps: :math:`T \ge 1`. The update T, and those after, are zero.
        weights: :math:`w > 0`, (T,); equal ones by default. Those of a run with
            gradient norms G are :math:`G^{-2}`, or :math:`G^{-1}` of l1 norms.

    Returns:
        A transformation with the extra arguments of the one given.

    Raises:
        ValueError: if `transform` is none, `steps` is not positive, or there are not as
            many weights.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from jaxsolve import transforms
        >>> transform = transforms.last_iterate(optax.sgd(1.0), 4)
        >>> x = jnp.array([8.0])
        >>> step, _ = transform.update(x, transform.init(x), x)
        >>> print(step)
        [-6.]

    References:
        Defazio, Cutkosky, Mehta and Mishchenko, `When, Why and How Much? Adaptive
        Learning Rate Scheduling by Refinement <https://arxiv.org/abs/2310.07831>`_,
        2023.
    """
    if not isinstance(transform, optax.GradientTransformation):
        raise ValueError(
            "transform must be an optax transformation, such as optax.sgd(0.1), got "
            f"{type(transform).__name__}."
        )
    factor = schedules.linear_decay(1.0, steps)
    if weights is not None:
        if jnp.shape(weights) != (steps,):
            raise ValueError(
                f"{steps} steps need as many weights, got shape {jnp.shape(weights)}."
            )
        if core.is_concrete(weights):
            given = np.asarray(weights)
            if not (np.all(given >= 0) and 0 < given.sum() < np.inf):
                raise ValueError(
                    "weights must be at least zero and finite, not all of them zero."
                )
        table = jnp.asarray(weights)
        sums = jax.lax.associative_scan(jnp.add, table, reverse=True)
        after = jnp.concatenate([sums[1:], jnp.zeros_like(sums[:1])])
        factor = schedules.tabulated(after / sums[0])
    inner = optax.with_extra_args_support(transform)
    return optax.chain(inner, optax.scale_by_schedule(factor))


class RecordGradientNormsState(NamedTuple):
    """State of the record of gradient norms."""

    count: chex.Array  # (), int32: updates seen.
    norms: chex.Array  # (T,), real: norms of the first T of them; zeros beyond.


def record_gradient_norms(
    steps: int, *, order: int = 2
) -> optax.GradientTransformationExtraArgs:
    r"""Passes gradients on, and keeps the norms of the first T of them.

    .. math::

        G_t = \|g_t\|_2 \quad \text{or} \quad G_t = \|g_t\|_1

    over all leaves. ``schedules.refined`` makes a schedule for the next run of them, if
    they are of the raw gradients: put it at the head of the chain, and read
    ``optax.tree.get(state, "norms")``, of a run that stopped early ``norms[:count]``.

    Args:
        steps: :math:`T \ge 1`, how many are kept.
        order: 2, for SGD and its like, or 1, for Adam and its like.

    Returns:
        A transformation that changes nothing.

    Raises:
        ValueError: if `steps` is no positive integer, or the order is another.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from jaxsolve import transforms
        >>> chain = optax.chain(transforms.record_gradient_norms(3), optax.sgd(0.1))
        >>> x = jnp.array([3.0, 4.0])
        >>> _, state = chain.update(x, chain.init(x), x)
        >>> print(optax.tree.get(state, "norms"))
        [5. 0. 0.]

    References:
        Defazio, Cutkosky, Mehta and Mishchenko, `When, Why and How Much? Adaptive
        Learning Rate Scheduling by Refinement <https://arxiv.org/abs/2310.07831>`_,
        2023.
    """
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a positive integer, got {steps!r}.")
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}.")

    def init(params):
        norms = jnp.zeros(steps, core.real_dtype(params))
        return RecordGradientNormsState(jnp.zeros((), jnp.int32), norms)

    def update(updates, state, params=None, **extra):
        del params, extra
        dtype = state.norms.dtype
        if order == 1:
            leaves = jax.tree.leaves(widened(updates))
            parts = [jnp.sum(jnp.abs(g)).astype(dtype) for g in leaves]
            norm = sum(parts, jnp.zeros((), dtype))
        else:
            unit, total = scaled_squares(updates, jnp.zeros((), dtype))
            norm = unit * jnp.sqrt(total)
        norms = state.norms.at[state.count].set(norm, mode="drop")
        return updates, RecordGradientNormsState(
            optax.safe_increment(state.count), norms
        )

    return optax.GradientTransformationExtraArgs(init, update)
