"""Stochastic Polyak stepsizes."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.transforms._scaled import scaled_squares
from jaxsolve.transforms._wide import wide


class ScaleBySPSState(NamedTuple):
    """State of stochastic Polyak stepsizes."""

    stepsize: chex.Array  # (), real: the last that was not zero, or the first bound.


def scale_by_sps(
    lower_bound: chex.Numeric = 0.0,
    max_stepsize: chex.Numeric = 1.0,
    *,
    c: chex.Numeric = 1.0,
    growth: chex.Numeric | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Scales gradients by the stochastic Polyak stepsize.

    For the value :math:`f` and the gradient :math:`g` of a batch, computes

    .. math::

        \gamma = \min \left\{ \frac{(f - f^\star)_+}{c \|g\|^2}, \bar\gamma \right\},
        \qquad g \mapsto \gamma g

    where :math:`\bar\gamma` is ``max_stepsize``, SPS_max, or with ``growth`` the last
    stepsize times it, SPS_max smoothed. Without a bound, :math:`\bar\gamma = \infty`,
    it is SPS+. Beside ``optax.scale_by_polyak`` it takes the lower bound of each batch,
    :math:`c` inside of the minimum, and the smoothed bound; a value at or
    below :math:`f^\star`, and one that is not finite, give a stepsize of zero.

    It acts on gradients, at the head of a chain, and leaves their sign: a descent needs
    ``optax.scale(-1)``, as in :func:`sps`.

    Args:
        lower_bound: :math:`f^\star`, of the value of a batch; zero where a model can
            interpolate. A value at or below it gives a stepsize of zero. Also the extra
            argument ``lower_bound`` of an update, which goes before.
        max_stepsize: :math:`\bar\gamma > 0`, possibly infinite; with `growth` that of
            the first update.
        c: :math:`c > 0`: one is Polyak's own step; convex problems converge for those
            above one half; one half itself only for smooth, strongly convex f.
        growth: by which factor the stepsize may grow from update to update, at least
            one: :math:`\tau^{b/n}` for batches of b of n samples, usually with
            :math:`\tau = 2`.

    Returns:
        A transformation that needs the extra argument ``value``, the objective at
        params on the batch of the gradient.

    Raises:
        ValueError: on a bound or constant that is not positive, or a growth below one.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from jaxsolve import transforms
        >>> transform = transforms.scale_by_sps()
        >>> x = jnp.array([3.0, 4.0])
        >>> step, _ = transform.update(2 * x, transform.init(x), value=jnp.sum(x**2))
        >>> print(step)  # a quarter of the gradient
        [1.5 2. ]

    References:
        Loizou, Vaswani, Laradji and Lacoste-Julien, `Stochastic Polyak Step-size for
        SGD <https://arxiv.org/abs/2002.10542>`_, 2021; smoothed, in its experiments.
        Garrigos, Gower and Schaipp, `Function Value Learning: Adaptive Learning Rates
        Based on the Polyak Stepsize and Function Splitting in ERM
        <https://arxiv.org/abs/2307.14528>`_, 2023, on SPS+.
    """
    core.check_number("max_stepsize", max_stepsize, closed="]")
    core.check_number("c", c)
    if growth is not None:
        core.check_number("growth", growth, 1, closed="[]")
    default = lower_bound

    def init(params):
        return ScaleBySPSState(core.real_scalar(max_stepsize, params))

    def update(updates, state, params=None, *, value, lower_bound=None, **extra):
        del params, extra
        real = lambda number: core.real_scalar(number, updates)
        bound = real(default if lower_bound is None else lower_bound)
        gap = jnp.maximum(real(value) - bound, 0)
        unit, squared = scaled_squares(updates, real(0))
        known = jnp.isfinite(gap) & jnp.isfinite(squared) & (squared > 0)
        # The stepsize times the unit: the stepsize alone, and squares, may vanish.
        polyak = (gap / unit) / jnp.where(known, real(c) * squared, 1)
        last = state.stepsize.astype(gap.dtype)
        cap = real(max_stepsize) if growth is None else real(growth) * last
        stride = jnp.where(known, jnp.minimum(polyak, cap * unit), 0)
        # A batch that is fitted exactly would hold a smoothed stepsize at zero.
        stepsize = jnp.where(known, jnp.minimum(stride / unit, cap), 0)
        new = jnp.where(stepsize > 0, stepsize, last).astype(state.stepsize.dtype)
        times = lambda g: jnp.where(known, stride * (g.astype(stride.dtype) / unit), 0)
        scaled = jax.tree.map(lambda g: times(g).astype(g.dtype), updates)
        return scaled, ScaleBySPSState(new)

    return optax.GradientTransformationExtraArgs(init, update)


def sps(
    lower_bound: chex.Numeric = 0.0,
    max_stepsize: chex.Numeric = 1.0,
    *,
    c: chex.Numeric = 1.0,
    growth: chex.Numeric | None = None,
    momentum: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Stochastic gradient descent with Polyak stepsizes and heavy-ball momentum.

    With the stepsize :math:`\gamma` of :func:`scale_by_sps`, computes

    .. math::

        x^+ = x - (1 - \beta) \gamma g + \beta (x - x^-)

    which with momentum is MomSPS_max. A stepsize without the factor :math:`1 - \beta`
    can diverge.

    Args:
        lower_bound: :math:`f^\star`; see :func:`scale_by_sps`, also for the next three.
        max_stepsize: :math:`\bar\gamma`.
        c: :math:`c`.
        growth: by which factor the stepsize may grow from update to update.
        momentum: :math:`\beta`, at least 0 and below 1.

    Returns:
        A transformation that needs the extra argument ``value``.

    Raises:
        ValueError: as :func:`scale_by_sps`, or if `momentum` is not in [0, 1).

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import transforms
        >>> fun = lambda x, data: jnp.sum((x - data) ** 2)
        >>> solver = jaxsolve.from_optax(fun, transforms.sps())
        >>> solution = jaxsolve.run(solver, jnp.zeros(2), jnp.array([1.0, 2.0]))
        >>> print(jnp.round(solution.params))
        [1. 2.]

    References:
        Oikonomou and Loizou, `Stochastic Polyak Step-sizes and Momentum: Convergence
        Guarantees and Practical Performance <https://arxiv.org/abs/2406.04142>`_, 2025.
    """
    core.check_number("momentum", momentum, 0, 1, "[")
    scale = scale_by_sps(lower_bound, max_stepsize, c=c, growth=growth)
    links = [scale, optax.scale(-(1 - momentum)), wide(optax.trace(momentum))]
    return optax.chain(*(links[:2] if core.is_zero(momentum) else links))
