"""Bounds of the gap at the last iterate of subgradient steps."""

import chex
import jax
import jax.numpy as jnp

from jaxsolve.schedules._check import check, real


def refined_bound(norms: chex.Array, distance: chex.Numeric) -> chex.Array:
    r"""What the gap at the last iterate is below: :math:`D / \sqrt{\sum G_t^{-2}}`.

    In expectation, for a convex function, by subgradient steps of the schedule
    :func:`refined_stepsize` from a start D from a minimum, if gradients have the norms.

    Args:
        norms: (T,), l2 norms.
        distance: :math:`D > 0`.

    Returns:
        The bound: (), real.

    Raises:
        ValueError: if the distance is not positive.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import schedules
        >>> print(schedules.refined_bound(jnp.full(4, 2.0), 1.0))  # D G / sqrt T
        1.0
    """
    check("distance", distance)
    cast = real(norms)
    least = jnp.min(cast(norms))  # relative to which squares stay in range
    ratios = jnp.where(least > 0, least, 1) / cast(norms)
    return cast(distance) * least / jnp.sqrt(jnp.sum(ratios**2))


def last_iterate_bound(
    stepsizes: chex.Array, norms: chex.Array, distance: chex.Numeric = 1.0
) -> chex.Array:
    r"""A bound of the gap at the last iterate for any stepsizes, to be minimised.

    With :math:`S_k = \sum_{t \ge k} \lambda_t` and :math:`Q_k = \sum_{t \ge k}
    \lambda_t^2 G_t^2`

    .. math::

        \frac{D^2 + Q_1}{2 S_1} + \frac12 \sum_{k=1}^{T-1}
            \frac{\lambda_k Q_k}{S_{k+1} S_k}

    Its minimiser, as by ``minimize(last_iterate_bound, start, norms, bounds=(1e-8,
    None))`` from :math:`D / \sqrt T`, is the schedule that would have been best for a
    run with these norms: one for :func:`tabulated`, close to :func:`refined`. Divide
    the norms by their mean before.

    Args:
        stepsizes: :math:`\lambda > 0`: (T,), real.
        norms: :math:`G`, (T,), l2 norms.
        distance: :math:`D`, of the start from a minimum.

    Returns:
        The bound: (), real.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import schedules
        >>> stepsizes = jnp.array([3.0, 2.0, 1.0]) / 8
        >>> print(f"{schedules.last_iterate_bound(stepsizes, jnp.ones(3)):.4f}")
        1.1667

    References:
        Defazio, Cutkosky, Mehta and Mishchenko, `When, Why and How Much? Adaptive
        Learning Rate Scheduling by Refinement <https://arxiv.org/abs/2310.07831>`_,
        2023, and the authors' code.
    """
    cast = real(stepsizes)
    sizes = cast(stepsizes)
    sums = tails(sizes)
    squares = tails((sizes * cast(norms)) ** 2)
    later = sizes[:-1] * squares[:-1] / (sums[1:] * sums[:-1])
    first = (cast(distance) ** 2 + squares[0]) / (2 * sums[0])
    return first + jnp.sum(later) / 2


def tails(values):
    """Sums of all that is not before; a tree of sums, so that rounding stays small."""
    return jax.lax.associative_scan(jnp.add, values, reverse=True)
