"""Proximal operators of norms and their squares."""

import chex
import jax.numpy as jnp

from jaxsolve.core import memoise
from jaxsolve.prox import _balls, _leaves
from jaxsolve.prox._prox import Prox


@memoise
def l1(weight: chex.ArrayTree) -> Prox:
    r"""Soft-threshold: the proximal operator of the 1-norm.

    For :math:`g(x) = w \|x\|_1`, entry by entry, computes

    .. math::

        \operatorname{prox}_{t g}(x) = \operatorname{sign}(x) \max(|x| - t w, 0)

    Args:
        weight: :math:`w \ge 0`, a scalar, an array that broadcasts to every leaf, or a
            pytree like params.

    Returns:
        A proximal operator. At the kink :math:`|x| = t w` its derivative is one.

    Raises:
        ValueError: if the weight is negative or does not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.l1(1.0)(jnp.array([3.0, 0.5, -2.0]), 0.5)
        Array([ 2.5,  0. , -1.5], dtype=float32)

    References:
        Parikh and Boyd, `Proximal Algorithms
        <https://doi.org/10.1561/2400000003>`_, 2014. Section 6.5.2.
    """
    _leaves.check_at_least_zero(weight=weight)

    def prox(params, stepsize=1.0):
        shrink = lambda x, t, w: _shrink(x, t * w)
        return _leaves.leafwise(shrink, params, stepsize=stepsize, weight=weight)

    return prox


@memoise
def squared_l2(weight: chex.ArrayTree = 1.0) -> Prox:
    r"""Shrink towards zero: the proximal operator of half the squared 2-norm.

    For :math:`g(x) = \tfrac{w}{2} \|x\|_2^2`, computes

    .. math::

        \operatorname{prox}_{t g}(x) = \frac{x}{1 + t w}

    Args:
        weight: :math:`w \ge 0`, a scalar, an array that broadcasts to every leaf, or a
            pytree like params.

    Returns:
        A proximal operator.

    Raises:
        ValueError: if the weight is negative or does not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.squared_l2(2.0)(jnp.array([3.0, -1.5]), 0.25)
        Array([ 2., -1.], dtype=float32)
    """
    _leaves.check_at_least_zero(weight=weight)

    def prox(params, stepsize=1.0):
        shrink = lambda x, t, w: x / (1 + t * w)
        return _leaves.leafwise(shrink, params, stepsize=stepsize, weight=weight)

    return prox


@memoise
def elastic_net(l1_weight: chex.ArrayTree, l2_weight: chex.ArrayTree) -> Prox:
    r"""Soft-threshold, then shrink: the proximal operator of the elastic net.

    For :math:`g(x) = w_1 \|x\|_1 + \tfrac{w_2}{2} \|x\|_2^2`, entry by entry, computes

    .. math::

        \operatorname{prox}_{t g}(x)
        = \frac{\operatorname{sign}(x) \max(|x| - t w_1, 0)}{1 + t w_2}

    Args:
        l1_weight: :math:`w_1 \ge 0`, a scalar, an array that broadcasts to every leaf,
            or a pytree like params.
        l2_weight: :math:`w_2 \ge 0`, in the same forms.

    Returns:
        A proximal operator.

    Raises:
        ValueError: if a weight is negative or does not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.elastic_net(1.0, 3.0)(jnp.array([3.0, 0.5, -2.0]))
        Array([ 0.5 ,  0.  , -0.25], dtype=float32)

    References:
        Zou and Hastie, `Regularization and Variable Selection via the Elastic Net
        <https://doi.org/10.1111/j.1467-9868.2005.00503.x>`_, 2005.
    """
    _leaves.check_at_least_zero(l1_weight=l1_weight, l2_weight=l2_weight)

    def prox(params, stepsize=1.0):
        return _leaves.leafwise(
            lambda x, t, w1, w2: _shrink(x, t * w1) / (1 + t * w2),
            params,
            stepsize=stepsize,
            l1_weight=l1_weight,
            l2_weight=l2_weight,
        )

    return prox


@memoise
def group_lasso(weight: chex.ArrayTree, *, axis: _leaves.Axis = None) -> Prox:
    r"""Shrink whole groups: the proximal operator of the 2-norm of each.

    For :math:`g(x) = \sum_i w_i \|x_i\|_2` over the groups :math:`x_i`, computes

    .. math::

        \operatorname{prox}_{t g}(x)_i = \max\Bigl(1 - \frac{t w_i}{\|x_i\|_2}, 0\Bigr)
        \, x_i

    With ``axis=None`` all entries of params are one group and :math:`g` is the 2-norm.

    Args:
        weight: :math:`w \ge 0`, a scalar; with an axis also an array that broadcasts to
            every leaf with size 1 along that axis, or a pytree of such arrays.
        axis: the axis, or axes, of every leaf along which a group lies; None for one
            group of all entries of all leaves.

    Returns:
        A proximal operator, differentiable at zero. Its stepsize has the form of the
        weight.

    Raises:
        ValueError: if the weight is negative or the weight or axis does not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.group_lasso(2.5, axis=1)(jnp.array([[3.0, 4.0], [1.0, -1.0]]))
        Array([[1.5, 2. ],
               [0. , 0. ]], dtype=float32)

    References:
        Yuan and Lin, `Model Selection and Estimation in Regression with Grouped
        Variables <https://doi.org/10.1111/j.1467-9868.2005.00532.x>`_, 2006.
    """
    _leaves.check_at_least_zero(weight=weight)

    def shrink(x, norm, scale, t, w):
        threshold = t * scale * w
        shrunk = norm < threshold
        # The threshold of a group that vanishes is masked as well: were it infinite,
        # zero times infinity would make the transposed derivative NaN.
        threshold = jnp.where(shrunk, 0, threshold)
        factor = 1 - _leaves.over_norm(threshold, norm)
        return jnp.where(shrunk, 0, factor * x)

    def prox(params, stepsize=1.0):
        norm, scale = _leaves.norms(params, axis)
        return _leaves.leafwise(
            shrink,
            params,
            norm=norm,
            scale=scale,
            stepsize=_leaves.per_group("stepsize", stepsize, params, axis),
            weight=_leaves.per_group("weight", weight, params, axis),
        )

    return prox


@memoise
def linf(weight: chex.ArrayTree, *, axis: _leaves.Axis = None) -> Prox:
    r"""Cut the largest entries: the proximal operator of the largest magnitude.

    For :math:`g(x) = w \|x\|_\infty`, by Moreau's identity, computes

    .. math::

        \operatorname{prox}_{t g}(x) = x - P(x), \qquad
        P \text{ the projection onto } \{y : \|y\|_1 \le t w\}

    With an axis, :math:`g` is the sum of the norms of the groups along it.

    Args:
        weight: :math:`w \ge 0`, a scalar; with an axis also an array that broadcasts to
            every leaf with size 1 along that axis, or a pytree of such arrays.
        axis: the axis, or axes, of every leaf along which a group lies; None for one
            group of all entries of all leaves.

    Returns:
        A proximal operator. Its stepsize has the form of the weight.

    Raises:
        ValueError: if the weight is negative or the weight or axis does not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.linf(1.0)(jnp.array([3.0, 0.5, -2.5]))
        Array([ 2.25,  0.5 , -2.25], dtype=float32)

    References:
        Parikh and Boyd, `Proximal Algorithms
        <https://doi.org/10.1561/2400000003>`_, 2014. Section 6.5.2.
    """
    _leaves.check_at_least_zero(weight=weight)

    def cut(x, t, w):
        return x - _balls.project_l1_ball(x, t * w)

    def prox(params, stepsize=1.0):
        return _leaves.groupwise(cut, params, axis, stepsize=stepsize, weight=weight)

    return prox


def _shrink(x, threshold):
    # Written so that a zero threshold has derivative one at zero, and NaN stays NaN.
    return jnp.where(jnp.abs(x) < threshold, 0, x - jnp.sign(x) * threshold)
