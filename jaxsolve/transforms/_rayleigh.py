"""The rate of steepest descent on a quadratic, by a Rayleigh quotient."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsolve import core
from jaxsolve.transforms._curvature import curvature
from jaxsolve.transforms._lanczos_momentum import check_period
from jaxsolve.transforms._scaled import dot, scaled
from jaxsolve.transforms._wide import like, wide, widened


class ScaleByRayleighState(NamedTuple):
    """State of a rate by Rayleigh quotients."""

    count: chex.Array  # (), int32: updates taken.
    learning_rate: chex.Array  # (), real: zero before any is known.


def scale_by_rayleigh(
    refresh: int = 100,
    max_learning_rate: chex.Numeric = 1.0,
    *,
    growth: chex.Numeric = np.inf,
) -> optax.GradientTransformationExtraArgs:
    r"""Scales gradients by the inverse of the curvature along them.

    In each K-th update, for the gradient :math:`g` of a batch and its Hessian, computes

    .. math::

        \eta = \min \left\{ \frac{g^\top g}{g^\top H g}, \bar\eta, \gamma \eta_{-1}
        \right\}

    after the rate :math:`\eta_{-1}` before, and scales by it until the next. Where the
    curvature along the gradient is not positive the first term is infinite. A gradient
    of zero, and numbers that are not finite, leave the rate as it is; while none is
    known the direction is zero, and the next update looks again.

    It is the best rate of one step on a quadratic, and one product a refresh.

    Args:
        refresh: :math:`K`, such as the updates of an epoch.
        max_learning_rate: :math:`\bar\eta`, positive and finite.
        growth: :math:`\gamma`, at least one.

    Returns:
        A transformation that needs the extra argument ``hvp``, as ``hvp(v) -> H v``, or
        instead ``value_fn`` and params.

    Raises:
        ValueError: if a number is out of its range; in update, without ``hvp`` and
            ``value_fn``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> transform, x = transforms.scale_by_rayleigh(), jnp.array([3.0, 4.0])
        >>> step, _ = transform.update(
        ...     2 * x, transform.init(x), x, hvp=lambda v: 2 * v)
        >>> print(step)
        [3. 4.]

    References:
        Granziol, Wan, Albanie and Roberts, `Explaining the Adaptive Generalisation Gap
        <https://arxiv.org/abs/2011.08181>`_, 2020; the rule as in the authors' code.
    """
    check_period(1, refresh)
    core.check_number("max_learning_rate", max_learning_rate)
    core.check_number("growth", growth, 1, closed="[]")

    def init(params):
        return ScaleByRayleighState(
            jnp.zeros((), jnp.int32), core.real_scalar(0, params)
        )

    def update(updates, state, params=None, *, hvp=None, value_fn=None, **extra):
        del extra
        gradient, old = widened(updates), state.learning_rate
        real = lambda x: jnp.asarray(x, old.dtype)
        due = (state.count % refresh == 0) | (old == 0)

        def renew():
            name = "the rate by Rayleigh quotients"
            product, form = curvature(name, params, updates, hvp, value_fn)
            along, _ = scaled(gradient, old.dtype)  # the quotient knows no lengths
            image = widened(product(like(along, form)))
            square, bend = dot(along, along, old.dtype), dot(along, image, old.dtype)
            known = jnp.isfinite(square) & jnp.isfinite(bend) & (square > 0)
            rate = jnp.where(bend > 0, square / jnp.where(bend > 0, bend, 1), jnp.inf)
            cap = jnp.where(old > 0, real(growth) * old, jnp.inf)
            rate = jnp.minimum(jnp.minimum(rate, real(max_learning_rate)), cap)
            return jnp.where(due & known, rate, old)

        rate = jax.lax.cond(core.any_lane(due), renew, lambda: old)
        steps = jax.tree.map(lambda g: rate.astype(g.dtype) * g, gradient)
        count = optax.safe_increment(state.count)
        return like(steps, updates), ScaleByRayleighState(count, rate)

    return optax.GradientTransformationExtraArgs(init, update)


def rayleigh_sgd(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    refresh: int = 100,
    max_learning_rate: chex.Numeric = 1.0,
    *,
    growth: chex.Numeric = np.inf,
) -> optax.GradientTransformationExtraArgs:
    r"""Stochastic gradient descent whose rate is a Rayleigh quotient's.

    With the rate :math:`\eta` of :func:`scale_by_rayleigh`, computes

    .. math::

        \theta^+ = \theta - c \eta g

    Args:
        learning_rate: :math:`c`, a factor of the rate that is found, a number or a
            schedule.
        refresh: updates from one rate to the next; see :func:`scale_by_rayleigh`, also
            for the others.
        max_learning_rate: the largest rate.
        growth: by which factor a refresh may raise it.

    Returns:
        A transformation that needs the extra argument ``hvp``, or ``value_fn`` and
        params.

    Raises:
        ValueError: as :func:`scale_by_rayleigh`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import transforms
        >>> fun = lambda x, data: jnp.sum((x - data) ** 2)
        >>> solver = jaxsolve.from_optax(fun, transforms.rayleigh_sgd())
        >>> print(jaxsolve.run(solver, 0.0, 2.0).params)
        2.0

    References:
        Granziol, Wan, Albanie and Roberts, `Explaining the Adaptive Generalisation Gap
        <https://arxiv.org/abs/2011.08181>`_, 2020.
    """
    scale = scale_by_rayleigh(refresh, max_learning_rate, growth=growth)
    return optax.chain(scale, wide(optax.scale_by_learning_rate(learning_rate)))
