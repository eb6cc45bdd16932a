"""Projections onto balls: the proximal operators of their indicators."""

import chex
import jax.numpy as jnp

from jaxsolve.core import memoise
from jaxsolve.prox import _leaves, _sets
from jaxsolve.prox._prox import Prox


@memoise
def l1_ball(radius: chex.ArrayTree = 1.0, *, axis: _leaves.Axis = None) -> Prox:
    r"""Project onto a ball of the 1-norm.

    For :math:`C = \{x : \|x\|_1 \le r\}`, computes, for :math:`x` outside :math:`C`,

    .. math::

        P_C(x)_i = \operatorname{sign}(x_i) \max(|x_i| - \tau, 0)

    where :math:`\tau` makes the magnitudes sum to :math:`r`; it is found by sorting.

    Args:
        radius: :math:`r \ge 0`, maybe infinite, a scalar; with an axis also an array
            that broadcasts to every leaf with size 1 along that axis, or a pytree of
            such arrays.
        axis: the axis, or axes, of every leaf along which the norm is taken; None for
            one ball of all entries of all leaves.

    Returns:
        A proximal operator. It ignores its stepsize.

    Raises:
        ValueError: if the radius is negative or the radius or axis does not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.l1_ball(2.0)(jnp.array([3.0, 0.5, -2.0]))
        Array([ 1.5,  0. , -0.5], dtype=float32)

    References:
        Duchi, Shalev-Shwartz, Singer and Chandra, `Efficient Projections onto the
        l1-Ball for Learning in High Dimensions
        <https://doi.org/10.1145/1390156.1390191>`_, 2008.
    """
    _leaves.check_at_least_zero(radius=radius)

    def prox(params, stepsize=1.0):
        del stepsize
        return _leaves.groupwise(project_l1_ball, params, axis, radius=radius)

    return prox


@memoise
def l2_ball(radius: chex.ArrayTree = 1.0, *, axis: _leaves.Axis = None) -> Prox:
    r"""Project onto a ball of the 2-norm.

    For :math:`C = \{x : \|x\|_2 \le r\}`, computes, for :math:`x` outside :math:`C`,

    .. math::

        P_C(x) = \frac{r}{\|x\|_2} x

    Args:
        radius: :math:`r \ge 0`, maybe infinite, a scalar; with an axis also an array
            that broadcasts to every leaf with size 1 along that axis, or a pytree of
            such arrays.
        axis: the axis, or axes, of every leaf along which the norm is taken; None for
            one ball of all entries of all leaves.

    Returns:
        A proximal operator. It ignores its stepsize.

    Raises:
        ValueError: if the radius is negative or the radius or axis does not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.l2_ball(2.5)(jnp.array([3.0, -4.0]))
        Array([ 1.5, -2. ], dtype=float32)
    """
    _leaves.check_at_least_zero(radius=radius)

    def project(x, norm, scale, r):
        inside = (norm < r * scale) | jnp.isinf(r)
        # The radius of a point inside is masked as well: were it infinite, zero times
        # infinity would make the transposed derivative NaN.
        r = jnp.where(inside, 0, r)
        return jnp.where(inside, x, _leaves.over_norm(r, norm) * (scale * x))

    def prox(params, stepsize=1.0):
        del stepsize
        norm, scale = _leaves.norms(params, axis)
        return _leaves.leafwise(
            project,
            params,
            norm=norm,
            scale=scale,
            radius=_leaves.per_group("radius", radius, params, axis),
        )

    return prox


@memoise
def linf_ball(radius: chex.ArrayTree = 1.0) -> Prox:
    r"""Project onto a ball of the largest magnitude.

    For :math:`C = \{x : \|x\|_\infty \le r\}`, entry by entry, computes

    .. math::

        P_C(x) = \min(\max(x, -r), r)

    Args:
        radius: :math:`r \ge 0`, maybe infinite, a scalar, an array that broadcasts to
            every leaf, or a pytree like params.

    Returns:
        A proximal operator. It ignores its stepsize.

    Raises:
        ValueError: if the radius is negative or does not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.linf_ball(1.0)(jnp.array([3.0, 0.5, -2.0]))
        Array([ 1. ,  0.5, -1. ], dtype=float32)
    """
    _leaves.check_at_least_zero(radius=radius)

    def prox(params, stepsize=1.0):
        del stepsize
        project = lambda x, r: _sets.clip(x, -r, r)
        return _leaves.leafwise(project, params, radius=radius)

    return prox


def project_l1_ball(x, radius):
    """Project every last axis of `x` onto the ball of the 1-norm."""
    if x.shape[-1] == 0:
        return x
    magnitude = jnp.abs(x)
    inside = jnp.sum(magnitude, -1, keepdims=True) < radius
    inside = inside | jnp.isinf(radius)
    # What is computed for a point inside is not used; the zero keeps it finite.
    radius = jnp.where(inside, 0, radius)
    outside = jnp.sign(x) * _sets.project_simplex(magnitude, radius)
    return jnp.where(inside, x, outside)
