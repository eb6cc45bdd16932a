"""How far softmax cross-entropy is analytic along a direction."""

import chex
import jax.numpy as jnp

from jaxsolve import core

TINY = 1e-12  # beside a spread of zero.


def softmax_radius(slopes: chex.Array, quantile: chex.Numeric = 1.0) -> chex.Array:
    r"""Bounds from below how far cross-entropy is analytic along slopes of logits.

    Computes :math:`\pi / (\Delta + 10^{-12})` for the largest spread :math:`\Delta` of
    the slopes of one sample, or a quantile of them.

    Args:
        slopes: (..., classes): the derivatives of the logits along a direction.
        quantile: in [0, 1].

    Returns:
        The radius, in units of the direction.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> print(transforms.softmax_radius(jnp.array([[1.0, 0.0], [0.5, -1.5]])))
        1.5707964
    """
    slopes = _as_float(slopes, jnp.result_type(float))
    return jnp.pi / (quantile_of(spread_of(slopes), quantile) + TINY)


def binary_radius(gap: chex.Numeric, slope: chex.Numeric) -> chex.Array:
    r"""Gives the exact radius of two classes, where their logits' gap counts too.

    For a gap :math:`\delta` of the logits, which grows by :math:`\Delta` with the step,
    computes :math:`\sqrt{\delta^2 + \pi^2} / |\Delta|`: the distance to the pole of the
    sigmoid, never below the bound of :func:`softmax_radius`.

    Args:
        gap: :math:`\delta`, of any shape.
        slope: :math:`\Delta`; zero gives infinity.

    Returns:
        The radius, of their shape.

    Examples:
        >>> from jaxsolve import transforms
        >>> print(f"{transforms.binary_radius(2.0, 1.0):.2f}")
        3.72
    """
    gap = _as_float(gap, jnp.result_type(float))
    slope = _as_float(slope, gap.dtype)
    return jnp.hypot(gap, jnp.asarray(jnp.pi, gap.dtype)) / jnp.abs(slope)


def _as_float(number, dtype):
    """An array of floats: those of integers have the given dtype."""
    number = jnp.asarray(number)
    floating = jnp.issubdtype(number.dtype, jnp.floating)
    return number if floating else number.astype(dtype)


def spread_of(logits: chex.Array) -> chex.Array:
    """The largest minus the smallest along the classes."""
    return jnp.max(logits, axis=-1) - jnp.min(logits, axis=-1)


def quantile_of(spreads: chex.Array, quantile: chex.Numeric) -> chex.Array:
    """A quantile of the spreads of samples, cheap where it is their maximum."""
    if isinstance(quantile, float | int) and quantile == 1:
        return jnp.max(spreads)
    spreads = spreads.astype(core.real_dtype(spreads))
    return jnp.quantile(spreads, jnp.asarray(quantile, spreads.dtype))
