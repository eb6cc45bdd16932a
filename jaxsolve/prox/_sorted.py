"""Operators that look at the order of magnitudes: SLOPE, k-support, sparse simplex."""

import chex
import jax
import jax.numpy as jnp

from jaxsolve.core import memoise
from jaxsolve.prox import _isotonic, _leaves, _section, _sets
from jaxsolve.prox._prox import Prox


@memoise
def sorted_l1(weights: chex.Array, *, axis: _leaves.Axis = None) -> Prox:
    r"""Threshold large entries more: the proximal operator of the sorted 1-norm, SLOPE.

    For :math:`g(x) = \sum_i w_i |x|_{(i)}`, with the weights and the magnitudes in
    falling order, computes for :math:`x \ge 0` in that order

    .. math::

        \operatorname{prox}_{t g}(x)
        = \max\Bigl(\arg\min_{v_1 \ge \dots \ge v_n} \tfrac{1}{2} \|v - (x - t w)\|_2^2,
        0\Bigr)

    by isotonic regression, and puts back order and signs.

    Args:
        weights: :math:`w \ge 0`, of shape :math:`(n,)`, in any order, where a group has
            :math:`n` entries.
        axis: the axis, or axes, of every leaf along which a group lies; None for one
            group of all entries of all leaves.

    Returns:
        A proximal operator. Its stepsize is a scalar, or has one entry for each group.

    Raises:
        ValueError: if weights are negative or do not have the size of a group, or the
            axis does not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.sorted_l1(jnp.array([2.0, 1.0, 0.0]))(jnp.array([1.0, -4.0, 3.5]))
        Array([ 1.  , -2.25,  2.25], dtype=float32)

    References:
        Bogdan, van den Berg, Sabatti, Su and Candes, `SLOPE - Adaptive Variable
        Selection via Convex Optimization <https://arxiv.org/abs/1407.3824>`_, 2015.
    """
    _isotonic.check_vector("weights", weights)
    _leaves.check_at_least_zero(weights=weights)

    def shrink(x, t):
        w = _isotonic.fit_vector("weights", weights, x)
        sign = jnp.where(x < 0, -1, 1).astype(x.dtype)
        size = sign * x
        order = jnp.argsort(jax.lax.stop_gradient(size), descending=True)
        shrunk = jnp.take_along_axis(size, order, -1) - t * w
        new = -_isotonic.increase(-shrunk, jnp.ones_like(x))
        new = jnp.where(new < 0, 0, new)
        return sign * jnp.take_along_axis(new, jnp.argsort(order), -1)

    def prox(params, stepsize=1.0):
        return _leaves.groupwise(shrink, params, axis, stepsize=stepsize)

    return prox


@memoise
def k_support(
    k: int, weight: chex.ArrayTree = 1.0, *, axis: _leaves.Axis = None
) -> Prox:
    r"""Shrink all but the largest: the operator of half the squared k-support norm.

    For :math:`g(x) = \tfrac{w}{2} \bigl(\|x\|_k^{sp}\bigr)^2`, where the unit ball of
    the norm is the convex hull of the vectors with at most :math:`k` entries other than
    zero and a 2-norm of at most one, computes

    .. math::

        \operatorname{prox}_{t g}(x)_i = \frac{\theta_i}{\theta_i + t w} x_i, \qquad
        \theta_i = \min(\max(\alpha |x_i| - t w, 0), 1)

    where :math:`\alpha` makes :math:`\sum_i \theta_i = k`; if there are at most
    :math:`k` entries other than zero, :math:`\theta_i = 1`. For :math:`k = 1` the norm
    is the 1-norm, for :math:`k = n` the 2-norm.

    Args:
        k: how many entries, a positive integer; of a group with fewer all are taken.
        weight: :math:`w \ge 0`, a scalar; with an axis also an array that broadcasts to
            every leaf with size 1 along that axis, or a pytree of such arrays.
        axis: the axis, or axes, of every leaf along which a group lies; None for one
            group of all entries of all leaves.

    Returns:
        A proximal operator. Its stepsize has the form of the weight.

    Raises:
        ValueError: if k is not a positive integer, the weight is negative, or the
            weight or axis does not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.k_support(1)(jnp.array([4.0, -3.5, 1.0])).round(1)
        Array([ 1.5, -1. ,  0. ], dtype=float32)

    References:
        Argyriou, Foygel and Srebro, `Sparse Prediction with the k-Support Norm
        <https://arxiv.org/abs/1204.5043>`_, 2012. McDonald, Pontil and Stamos, `New
        Perspectives on k-Support and Cluster Norms
        <https://jmlr.org/papers/v17/15-151.html>`_, 2016. Section 5.
    """
    _check_whole(k)
    _leaves.check_at_least_zero(weight=weight)

    def shrink(x, t, w):
        size, w = jnp.abs(x), t * w
        low, high = jnp.zeros_like(x), jnp.ones_like(x)
        goal = jnp.full_like(w, k)
        start = jnp.broadcast_to(-w, x.shape)
        theta, _ = _section.clip_to_sum(start, low, high, size, high, goal)
        total = theta + w
        return theta / jnp.where(total > 0, total, 1) * x

    def prox(params, stepsize=1.0):
        return _leaves.groupwise(shrink, params, axis, stepsize=stepsize, weight=weight)

    return prox


@memoise
def sparse_simplex(
    k: int, radius: chex.ArrayTree = 1.0, *, axis: _leaves.Axis = None
) -> Prox:
    r"""Project onto the sparse vectors of a simplex, a set that is not convex.

    For :math:`C = \{x : x \ge 0, \sum_i x_i = r, \|x\|_0 \le k\}`, computes a nearest
    point: the :math:`k` largest entries projected onto the simplex, and zero elsewhere.
    Of equal entries the first are taken.

    Args:
        k: how many entries may differ from zero, a positive integer.
        radius: :math:`r \ge 0`, a scalar; with an axis also an array that broadcasts to
            every leaf with size 1 along that axis, or a pytree of such arrays.
        axis: the axis, or axes, of every leaf along which entries sum to the radius;
            None where all entries of all leaves do.

    Returns:
        A projection. It ignores its stepsize, and may expand distances.

    Raises:
        ValueError: if k is not a positive integer, the radius is negative, or the
            radius or axis does not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.sparse_simplex(2)(jnp.array([0.75, 0.5, 0.5, -2.0]))
        Array([0.625, 0.375, 0.   , 0.   ], dtype=float32)

    References:
        Kyrillidis, Becker, Cevher and Koch, `Sparse Projections onto the Simplex
        <https://arxiv.org/abs/1206.1529>`_, 2013. Algorithm 1.
    """
    _check_whole(k)
    _leaves.check_at_least_zero(radius=radius)

    def project(x, r):
        order = jnp.argsort(jax.lax.stop_gradient(x), descending=True)
        rank = jnp.argsort(order)
        # What is NaN comes last and would be dropped in silence.
        keep = (rank < k) | jnp.isnan(x)
        return _sets.project_simplex(jnp.where(keep, x, -jnp.inf), r)

    def prox(params, stepsize=1.0):
        del stepsize
        return _leaves.groupwise(project, params, axis, radius=radius)

    return prox


def _check_whole(k):
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(
            f"k must be a positive integer, but it is {k!r}: it counts entries, and "
            "may not be traced."
        )
