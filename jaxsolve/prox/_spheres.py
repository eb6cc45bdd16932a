"""Projections onto spheres, which are not convex: to a nearest point."""

import math

import chex
import jax.numpy as jnp

from jaxsolve.core import memoise
from jaxsolve.prox import _leaves, _sets
from jaxsolve.prox._prox import Prox


@memoise
def l1_sphere(radius: chex.ArrayTree = 1.0, *, axis: _leaves.Axis = None) -> Prox:
    r"""Project onto a sphere of the 1-norm.

    For :math:`C = \{x : \|x\|_1 = r\}`, computes a nearest point

    .. math::

        P_C(x)_i = \operatorname{sign}(x_i) \max(|x_i| - \tau, 0)

    where :math:`\tau`, maybe negative, makes the magnitudes sum to :math:`r`, and the
    sign of zero is one.

    Args:
        radius: :math:`r \ge 0`, a scalar; with an axis also an array that broadcasts to
            every leaf with size 1 along that axis, or a pytree of such arrays.
        axis: the axis, or axes, of every leaf along which the norm is taken; None for
            one sphere of all entries of all leaves.

    Returns:
        A projection. It ignores its stepsize, and may expand distances.

    Raises:
        ValueError: if the radius is negative or the radius or axis does not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.l1_sphere(2.5)(jnp.array([0.5, 0.0, -0.5])).round(1)
        Array([ 1. ,  0.5, -1. ], dtype=float32)
    """
    _leaves.check_at_least_zero(radius=radius)

    def project(x, r):
        sign = jnp.where(x < 0, -1, 1).astype(x.dtype)
        return sign * _sets.project_simplex(sign * x, r)

    def prox(params, stepsize=1.0):
        del stepsize
        return _leaves.groupwise(project, params, axis, radius=radius)

    return prox


@memoise
def l2_sphere(radius: chex.ArrayTree = 1.0, *, axis: _leaves.Axis = None) -> Prox:
    r"""Project onto a sphere of the 2-norm.

    For :math:`C = \{x : \|x\|_2 = r\}`, computes a nearest point

    .. math::

        P_C(x) = \frac{r}{\|x\|_2} x

    and, of zero, which is as far from all, the one with equal entries.

    Args:
        radius: :math:`r \ge 0`, a scalar; with an axis also an array that broadcasts to
            every leaf with size 1 along that axis, or a pytree of such arrays.
        axis: the axis, or axes, of every leaf along which the norm is taken; None for
            one sphere of all entries of all leaves.

    Returns:
        A projection. It ignores its stepsize, and may expand distances. Its derivative
        at zero is that of the constant given there.

    Raises:
        ValueError: if the radius is negative or the radius or axis does not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.l2_sphere(2.5)(jnp.array([0.3, -0.4]))
        Array([ 1.5, -2. ], dtype=float32)
    """
    _leaves.check_at_least_zero(radius=radius)

    def project(x, r):
        norm, scale = _leaves.norms(x, -1)
        at_zero = r / math.sqrt(max(x.shape[-1], 1))
        away = _leaves.over_norm(r, norm) * (scale * x)
        return jnp.where(norm == 0, at_zero, away)

    def prox(params, stepsize=1.0):
        del stepsize
        return _leaves.groupwise(project, params, axis, radius=radius)

    return prox
