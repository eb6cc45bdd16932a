"""The heavy ball with constants learnt from Lanczos' method."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsolve import core, linear, schedules
from jaxsolve.transforms._curvature import curvature, first_key
from jaxsolve.transforms._wide import like, wide, widened


class ScaleByLanczosMomentumState(NamedTuple):
    """State of the heavy ball with constants learnt from Lanczos' method."""

    count: chex.Array  # (), int32: updates taken.
    learning_rate: chex.Array  # (), real: zero before any is known.
    momentum: chex.Array  # (), real
    largest: chex.Array  # (), real: what was taken for the largest eigenvalue.
    velocity: chex.ArrayTree  # like params, real: the last direction.
    key: chex.PRNGKey  # (), key: of the next start.


def scale_by_lanczos_momentum(
    steps: int = 10,
    refresh: int = 100,
    *,
    max_condition: chex.Numeric = 1e3,
    max_momentum: chex.Numeric = 0.99,
    growth: chex.Numeric = 2.0,
    damping: chex.Numeric = 0.0,
    key: chex.PRNGKey | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Scales gradients by the heavy ball whose constants it reads off the curvature.

    In each K-th update m steps of ``linear.lanczos`` from random signs give Ritz values
    :math:`\theta_k` with weights :math:`\tau_k`, and

    .. math::

        L &= \max_k |\theta_k| + \delta \\
        l &= \max \{ \min \{\theta_k > 0 : \tau_k > \epsilon \} + \delta,
        L / \bar\kappa \} \\
        \beta &= \min \left\{ \left( \frac{\sqrt L - \sqrt l}{\sqrt L + \sqrt l}
        \right)^2, \bar\beta \right\} \\
        \eta &= \min \{ (1 + \sqrt\beta)^2 / L, \gamma \eta_{-1} \}

    after the rate :math:`\eta_{-1}` before; every update computes

    .. math::

        u^+ = \beta u + \eta g

    The least Ritz value of few steps lies above the least eigenvalue, so the momentum
    is too small rather than too large. A refresh that shows no curvature, or none that
    is finite, leaves the constants as they are; while none are known the rate is zero,
    and the next update looks again. Take
    the batches of the refresh as large as those of the updates: they show the curvature
    that limits the rate. With ``max_momentum=0`` it is plain descent, and :math:`\eta =
    2 / (L + l)`.

    The published recipe is known from its abstract; this one is put together from that
    and the heavy ball's classical optimum.

    Args:
        steps: :math:`m`, 5 to 20; each costs a product.
        refresh: :math:`K`, such as the updates of an epoch.
        max_condition: :math:`\bar\kappa`, at least one.
        max_momentum: :math:`\bar\beta`, in [0, 1).
        growth: :math:`\gamma`, at least one; may be infinite.
        damping: :math:`\delta`, not negative, such as a weight decay.
        key: of the first start; ``jax.random.key(0)`` by default.

    Returns:
        A transformation that needs the extra argument ``hvp``, as ``hvp(v) -> H v``, or
        instead ``value_fn`` and params. The product with a Gauss-Newton matrix, as of
        ``linear.gauss_newton_product``, has no negative Ritz values.

    Raises:
        ValueError: if a number is out of its range; in update, without ``hvp`` and
            ``value_fn``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> scales, x = jnp.array([1.0, 4.0]), jnp.array([3.0, 4.0])
        >>> transform = transforms.scale_by_lanczos_momentum()
        >>> _, state = transform.update(
        ...     scales * x, transform.init(x), x, hvp=lambda v: scales * v)
        >>> print(f"{state.learning_rate:.4f} {state.momentum:.4f}")
        0.4444 0.1111

    References:
        Granziol, Zohren and Roberts, `Learning Rates as a Function of Batch Size: A
        Random Matrix Theory Approach to Neural Network Training
        <https://arxiv.org/abs/2006.09092>`_, 2022.
    """
    check_period(steps, refresh)
    core.check_number("max_condition", max_condition, 1, closed="[]")
    core.check_number("max_momentum", max_momentum, 0, 1, "[")
    core.check_number("growth", growth, 1, closed="[]")
    core.check_number("damping", damping, closed="[")

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, widened(params))
        zero = lambda: core.real_scalar(0, params)
        count = jnp.zeros((), jnp.int32)
        return ScaleByLanczosMomentumState(
            count, zero(), zero(), zero(), zeros, first_key(key)
        )

    def constants(values, weights, old_rate):
        real = lambda x: jnp.asarray(x, values.dtype)
        largest = jnp.max(jnp.abs(values)) + real(damping)
        counted = (values > 0) & (weights > NEGLIGIBLE)
        least = jnp.min(jnp.where(counted, values, jnp.inf)) + real(damping)
        least = jnp.clip(least, largest / real(max_condition), largest)
        bound = real(max_momentum)
        rate, momentum = schedules.heavy_ball(largest, least, bound)
        rate = jnp.where(bound == 0, 2 / (largest + least), rate)
        cap = jnp.where(old_rate > 0, real(growth) * real(old_rate), jnp.inf)
        return jnp.minimum(rate, cap), momentum, largest

    def update(updates, state, params=None, *, hvp=None, value_fn=None, **extra):
        del extra
        due = (state.count % refresh == 0) | (state.learning_rate == 0)
        kept = state.learning_rate, state.momentum, state.largest, state.key

        def renew():
            name = "the heavy ball learnt from Lanczos' method"
            product, form = curvature(name, params, updates, hvp, value_fn)
            new_key, now = jax.random.split(state.key)
            krylov = linear.lanczos(product, linear.rademacher(now, form), steps)
            found = constants(krylov.values, krylov.weights, state.learning_rate)
            sound = jnp.isfinite(found[2]) & (found[2] > 0)
            found = core.where(sound, like(found, kept[:3]), kept[:3])
            return core.where(due, (*found, new_key), kept)

        rate, momentum, largest, new_key = jax.lax.cond(
            core.any_lane(due), renew, lambda: kept
        )
        velocity = jax.tree.map(
            lambda u, g: momentum.astype(u.dtype) * u + rate.astype(u.dtype) * g,
            state.velocity,
            widened(updates),
        )
        count = optax.safe_increment(state.count)
        new_state = ScaleByLanczosMomentumState(
            count, rate, momentum, largest, velocity, new_key
        )
        return like(velocity, updates), new_state

    return optax.GradientTransformationExtraArgs(init, update)


NEGLIGIBLE = 1e-6  # weights of Ritz values that random starts barely touch


def lanczos_momentum(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    weight_decay: chex.Numeric = 0.0,
    *,
    steps: int = 10,
    refresh: int = 100,
    mask: chex.ArrayTree | Callable | None = None,
    key: chex.PRNGKey | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Descends by the heavy ball whose rate and momentum it learns by itself.

    With the direction :math:`u` of :func:`scale_by_lanczos_momentum` on the gradient
    :math:`g + \lambda \theta`, computes

    .. math::

        \theta^+ = \theta - c u

    The decay is damping to the curvature as well.

    Args:
        learning_rate: :math:`c`, a factor of the rate that is learnt, a number or a
            schedule; for batches whose noise is large, below one.
        weight_decay: :math:`\lambda`, not negative; it needs params.
        steps: products of a refresh.
        refresh: updates from one to the next.
        mask: which leaves decay; see ``optax.add_decayed_weights``.
        key: of the first start.

    Returns:
        A transformation that needs the extra argument ``hvp`` or ``value_fn``, and
        params.

    Raises:
        ValueError: as :func:`scale_by_lanczos_momentum`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import transforms
        >>> fun = lambda x, data: jnp.sum(jnp.array([1.0, 50.0]) * (x - data) ** 2)
        >>> solver = jaxsolve.from_optax(fun, transforms.lanczos_momentum())
        >>> solution = jaxsolve.run(solver, jnp.zeros(2), jnp.array([1.0, 2.0]))
        >>> print(jnp.round(solution.params))
        [1. 2.]

    References:
        Granziol, Zohren and Roberts, `Learning Rates as a Function of Batch Size: A
        Random Matrix Theory Approach to Neural Network Training
        <https://arxiv.org/abs/2006.09092>`_, 2022.
    """
    core.check_number("weight_decay", weight_decay, closed="[")
    ball = scale_by_lanczos_momentum(steps, refresh, damping=weight_decay, key=key)
    return optax.chain(
        wide(optax.add_decayed_weights(weight_decay, mask)),
        ball,
        wide(optax.scale_by_learning_rate(learning_rate)),
    )


def check_period(steps: int, refresh: int) -> None:
    """Raises a `ValueError` unless both are positive integers."""
    for name, value in (("steps", steps), ("refresh", refresh)):
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name} must be an integer, at least 1, got {value!r}.")
