"""Stepsizes of stochastic mirror descent with which the last iterate converges."""

import chex
import jax.numpy as jnp
import optax

from jaxsolve.schedules._check import check, left, real


def convex_last_iterate(
    scale: chex.Numeric,
    smoothness: chex.Numeric = 0.0,
    *,
    steps: chex.Numeric | None = None,
    moment: chex.Numeric = 2.0,
) -> optax.Schedule:
    r"""Stepsizes for convex problems, with a known number of steps or any.

    For the step :math:`t = 1, 2, \dots`, the count plus one, and the moment p

    .. math::

        \eta_t = \min \{ 1 / (2 L), \, \eta / t^{1/p} \} \quad \text{or} \quad
        \eta_t = \min \{ 1 / (2 L), \, \eta / T^{1/p} \}

    where T steps will be taken. Composite stochastic mirror descent,

    .. math::

        x_{t+1} = \arg\min_x \{ h(x) + \langle g_t, x \rangle + D_\psi(x, x_t) / \eta_t
            \},

    then has an expected gap at its last iterate, not an average, of :math:`O(L D_1 / T
    + (M + \sigma) \sqrt{D_1} \log T / \sqrt T)` with the scale of
    :func:`last_iterate_scale`; :math:`\sqrt{\log T}` in place of the logarithm where T
    is known. Noise of which only the moment p in (1, 2) is finite gives :math:`T^{1/p -
    1}` up to logarithms, without clipping, if :math:`\psi` is uniformly convex of the
    order :math:`p / (p - 1)`.

    Args:
        scale: :math:`\eta > 0`.
        smoothness: :math:`L \ge 0` of the smooth part; zero where it has none.
        steps: :math:`T`, if known beforehand: the steps actually taken.
        moment: :math:`p`, in (1, 2], of the noise.

    Returns:
        An optax schedule.

    Raises:
        ValueError: if a number is out of its range.

    Examples:
        >>> from jaxsolve import schedules
        >>> stepsize = schedules.convex_last_iterate(1.0, smoothness=1.0)
        >>> print([round(float(stepsize(count)), 2) for count in (0, 3, 15)])
        [0.5, 0.5, 0.25]

    References:
        Liu and Zhou, `Revisiting the Last-Iterate Convergence of Stochastic Gradient
        Methods <https://arxiv.org/abs/2312.08531>`_, 2024.
    """
    check("scale", scale)
    check("smoothness", smoothness, closed="[")
    check("steps", steps)
    check("moment", moment, 1, 2, "]")
    cast = real(scale, smoothness, steps, moment)

    def schedule(count):
        t = cast(count) + 1 if steps is None else cast(steps)
        return jnp.minimum(
            _cap(cast(smoothness)), cast(scale) * t ** (-1 / cast(moment))
        )

    return schedule


def nonsmooth_last_iterate(scale: chex.Numeric, steps: chex.Numeric) -> optax.Schedule:
    r"""Stepsizes for convex problems without smoothness: linear, and optimal.

    For the step :math:`t = 1, \dots, T`, the count plus one,

    .. math::

        \eta_t = \eta (T - t + 1) / T^{3/2}

    and zero after. The last iterate of T steps has the gap :math:`O((M + \sigma)
    \sqrt{D_1 / T})` with the scale of :func:`last_iterate_scale`, without a logarithm.
    Without noise, subgradients of length G and :math:`\eta = (D / G) (T / (T +
    1))^{3/2}` it is at most :math:`G D / \sqrt{T + 1}` for a start D from a minimum.

    Args:
        scale: :math:`\eta > 0`.
        steps: :math:`T \ge 1`, the steps actually taken, below :math:`2^{31}`.

    Returns:
        An optax schedule.

    Raises:
        ValueError: if a number is not positive.

    Examples:
        >>> from jaxsolve import schedules
        >>> stepsize = schedules.nonsmooth_last_iterate(1.0, 4)
        >>> print([float(stepsize(count)) for count in range(5)])
        [0.5, 0.375, 0.25, 0.125, 0.0]

    References:
        Liu and Zhou, `Revisiting the Last-Iterate Convergence of Stochastic Gradient
        Methods <https://arxiv.org/abs/2312.08531>`_, 2024. Zamani and Glineur, `Exact
        convergence rate of the last iterate in subgradient methods
        <https://arxiv.org/abs/2307.11134>`_, 2023, for the bound without noise.
    """
    check("scale", scale)
    check("steps", steps, 0, 2**31)
    cast = real(scale, steps)

    def schedule(count):
        total = cast(steps)
        return cast(scale) * (left(steps, count, cast) / total) / jnp.sqrt(total)

    return schedule


def strongly_convex_last_iterate(
    convexity: chex.Numeric,
    smoothness: chex.Numeric = 0.0,
    *,
    of_prox: bool = False,
) -> optax.Schedule:
    r"""Stepsizes for strongly convex problems, for any number of steps.

    For the step :math:`t = 1, 2, \dots`, the count plus one, and :math:`\kappa = L /
    \mu`

    .. math::

        \eta_t = \frac{1}{\mu (t + 2 \kappa)} \quad \text{or} \quad
        \eta_t = \frac{2}{\mu (t + 4 \kappa)}

    where the smooth part, or the proximable one, is strongly convex relative to
    :math:`\psi`. The last iterate has the gap :math:`O(1 / T)` up to logarithms. The
    offsets of t are reconstructed from :math:`\eta_t \le 1 / (2 L)`.

    Args:
        convexity: :math:`\mu > 0`.
        smoothness: :math:`L \ge 0` of the smooth part; zero where it has none.
        of_prox: whether the proximable part h is the one that is strongly convex.

    Returns:
        An optax schedule.

    Raises:
        ValueError: if a number is out of its range.

    Examples:
        >>> from jaxsolve import schedules
        >>> stepsize = schedules.strongly_convex_last_iterate(0.5, 1.0)
        >>> print([float(stepsize(count)) for count in (0, 5)])
        [0.4000000059604645, 0.20000000298023224]

    References:
        Liu and Zhou, `Revisiting the Last-Iterate Convergence of Stochastic Gradient
        Methods <https://arxiv.org/abs/2312.08531>`_, 2024.
    """
    check("convexity", convexity)
    check("smoothness", smoothness, closed="[")
    cast = real(convexity, smoothness)
    factor = 2 if of_prox else 1

    def schedule(count):
        mu, t = cast(convexity), cast(count) + 1
        return factor / (mu * t + 2 * factor * cast(smoothness))

    return schedule


def last_iterate_scale(
    divergence: chex.Numeric,
    noise: chex.Numeric,
    lipschitz: chex.Numeric = 0.0,
    *,
    failure: chex.Numeric | None = None,
) -> chex.Array:
    r"""The scale :math:`\eta = \sqrt{D_1 / (M^2 + \sigma^2)}` of such stepsizes.

    One too large costs linearly. For a bound that holds with the probability :math:`1 -
    \delta` under sub-Gaussian noise it is divided by :math:`\sqrt{\log(1 / \delta)}`,
    up to a constant.

    Args:
        divergence: :math:`D_1 = D_\psi(x^\star, x_1)`: half the squared distance in
            Euclid's geometry, at most :math:`\log d` from the centre of a simplex.
        noise: :math:`\sigma`, the standard deviation of the gradients.
        lipschitz: :math:`M`, twice the Lipschitz constant of what is not smooth.
        failure: :math:`\delta`, in (0, 1), for high probability.

    Returns:
        The scale: (), real.

    Raises:
        ValueError: if a number is out of its range, or noise and M are both zero.

    Examples:
        >>> from jaxsolve import schedules
        >>> print(schedules.last_iterate_scale(2.0, 1.0, 1.0))
        1.0
    """
    check("divergence", divergence)
    check("noise", noise, closed="[")
    check("lipschitz", lipschitz, closed="[")
    check("failure", failure, 0, 1)
    cast = real(divergence, noise, lipschitz, failure)
    size = jnp.hypot(cast(noise), cast(lipschitz))
    if isinstance(noise, int | float) and isinstance(lipschitz, int | float):
        check("the larger of noise and lipschitz", max(noise, lipschitz))
    scale = jnp.sqrt(cast(divergence)) / size
    return scale if failure is None else scale / jnp.sqrt(-jnp.log(cast(failure)))


def _cap(smoothness):
    safe = jnp.where(smoothness > 0, smoothness, 1)
    return jnp.where(smoothness > 0, 1 / (2 * safe), jnp.inf)
