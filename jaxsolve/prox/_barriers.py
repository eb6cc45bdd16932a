"""Proximal operators of Huber's function, the logarithmic barrier and the entropy."""

import chex
import jax
import jax.numpy as jnp

from jaxsolve.core import memoise
from jaxsolve.prox import _leaves
from jaxsolve.prox._prox import Prox

NEWTON_STEPS = 6  # enough for float64 from the starts taken below.


@memoise
def huber(weight: chex.ArrayTree = 1.0, delta: chex.ArrayTree = 1.0) -> Prox:
    r"""Shrink small entries and shift large ones: the operator of Huber's function.

    For :math:`g(x) = w \sum_i h(x_i)`, where :math:`h(x) = x^2 / 2` if
    :math:`|x| \le \delta` and :math:`\delta (|x| - \delta / 2)` otherwise, entry by
    entry, computes

    .. math::

        \operatorname{prox}_{t g}(x)
        = x - t w \max\Bigl(\min\Bigl(\frac{x}{1 + t w}, \delta\Bigr), -\delta\Bigr)

    Args:
        weight: :math:`w \ge 0`, a scalar, an array that broadcasts to every leaf, or a
            pytree like params.
        delta: :math:`\delta \ge 0`, in the same forms.

    Returns:
        A proximal operator.

    Raises:
        ValueError: if weight or delta is negative or does not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.huber(1.0, 0.5)(jnp.array([3.0, 0.5, -2.0]))
        Array([ 2.5 ,  0.25, -1.5 ], dtype=float32)

    References:
        Huber, `Robust Estimation of a Location Parameter
        <https://doi.org/10.1214/aoms/1177703732>`_, 1964. Parikh and Boyd, `Proximal
        Algorithms <https://doi.org/10.1561/2400000003>`_, 2014. Section 6.5.1.
    """
    _leaves.check_at_least_zero(weight=weight, delta=delta)

    def shrink(x, t, w, d):
        small = jnp.abs(x) <= (1 + t * w) * d
        return jnp.where(small, x / (1 + t * w), x - t * w * d * jnp.sign(x))

    def prox(params, stepsize=1.0):
        return _leaves.leafwise(
            shrink, params, stepsize=stepsize, weight=weight, delta=delta
        )

    return prox


@memoise
def log_barrier(weight: chex.ArrayTree = 1.0) -> Prox:
    r"""Keep away from zero: the proximal operator of the logarithmic barrier.

    For :math:`g(x) = -w \sum_i \log x_i`, entry by entry, computes

    .. math::

        \operatorname{prox}_{t g}(x) = \tfrac{1}{2} \bigl(x + \sqrt{x^2 + 4 t w}\bigr)

    without cancellation where :math:`x < 0`, and without overflow.

    Args:
        weight: :math:`w \ge 0`, a scalar, an array that broadcasts to every leaf, or a
            pytree like params. Where it is zero, so is the barrier, inside the orthant.

    Returns:
        A proximal operator, whose values are positive where the weight is.

    Raises:
        ValueError: if the weight is negative or does not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> print(prox.log_barrier(2.0)(jnp.array([1.0, -1.0])).round(3))
        [2. 1.]

    References:
        Parikh and Boyd, `Proximal Algorithms
        <https://doi.org/10.1561/2400000003>`_, 2014. Section 6.1.3.
    """
    _leaves.check_at_least_zero(weight=weight)

    def prox(params, stepsize=1.0):
        root = lambda x, t, w: _positive_root(x, t * w)
        return _leaves.leafwise(root, params, stepsize=stepsize, weight=weight)

    return prox


@jax.custom_jvp
def _positive_root(x, weight):
    """The y >= 0 with y - w / y = x."""
    # Not the square root of squares: they overflow where the root does not.
    half, root = x / 2, jnp.sqrt(weight)
    total = jnp.abs(half) + jnp.hypot(half, root)
    return jnp.where(x > 0, total, root * (root / jnp.where(total == 0, 1, total)))


@_positive_root.defjvp
def _positive_root_jvp(primals, tangents):
    (x, weight), (x_dot, weight_dot) = primals, tangents
    y = _positive_root(x, weight)
    slope = jnp.where((y == 0) & (x == 0), 1, y + (y - x))
    return y, (y * x_dot + weight_dot) / slope


@memoise
def entropy(weight: chex.ArrayTree = 1.0) -> Prox:
    r"""Make positive by the entropy: the proximal operator of :math:`x \log x`.

    For :math:`g(x) = w \sum_i x_i \log x_i`, entry by entry, computes with Lambert's
    function :math:`W`

    .. math::

        \operatorname{prox}_{t g}(x)
        = t w \, W\Bigl(\frac{1}{t w} \exp\Bigl(\frac{x}{t w} - 1\Bigr)\Bigr)

    as the root :math:`y` of :math:`y + t w \log y = x - t w`, by Newton's method in
    :math:`y` or :math:`\log y`: nothing overflows, in float32 neither.

    Args:
        weight: :math:`w \ge 0`, a scalar, an array that broadcasts to every leaf, or a
            pytree like params. Where it is zero, :math:`\max(x, 0)` remains.

    Returns:
        A proximal operator. Its values are not negative; they are zero where they are
        too small for the dtype.

    Raises:
        ValueError: if the weight is negative or does not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> print(prox.entropy(1.0)(jnp.array([1.0, 2.0, -1000.0])))
        [0.5671433 1.        0.       ]

    References:
        Combettes and Pesquet, `Proximal Splitting Methods in Signal Processing
        <https://arxiv.org/abs/0912.3522>`_, 2011. Table 10.2. Corless, Gonnet, Hare,
        Jeffrey and Knuth, `On the Lambert W Function
        <https://doi.org/10.1007/BF02124750>`_, 1996.
    """
    _leaves.check_at_least_zero(weight=weight)

    def prox(params, stepsize=1.0):
        root = lambda x, t, w: _entropic_root(x, t * w)
        return _leaves.leafwise(root, params, stepsize=stepsize, weight=weight)

    return prox


@jax.custom_jvp
def _entropic_root(x, weight):
    """The y >= 0 with y + w log(y) = x - w."""
    w = jnp.broadcast_to(weight, x.shape)
    unit = jnp.where(w > 0, w, 1)
    scaled = jnp.where(w > 0, x / unit, jnp.where(x > 0, jnp.inf, -jnp.inf)) - 1
    # With y = w u the equation is u + log u = z.
    z = scaled - jnp.log(unit)
    large = z > 1

    # Concave in u: from the left Newton's method climbs to the root. The start, one at
    # z = 1, is never further than 3 % from it.
    c = jnp.where(large, x - w - w * jnp.log(unit), 1)
    y = jnp.where(large, x - w - w * jnp.log(c), 1)
    climb = lambda _, y: y / (y + w) * (x - w * jnp.log(y))

    # Convex in log u: from the right it descends.
    goal = jnp.where(large, 1, jnp.maximum(z, -1e4))
    v = jnp.where(large, 0, goal)
    descend = lambda _, v: v - (v - goal + jnp.exp(v)) / (1 + jnp.exp(v))

    both = lambda i, pair: (climb(i, pair[0]), descend(i, pair[1]))
    y, v = jax.lax.fori_loop(0, NEWTON_STEPS, both, (y, v))
    # Not w exp(v), which has the rounding of z, nor with log w, of which v had lost.
    small = jnp.where(w > 0, jnp.exp(scaled - jnp.exp(v)), 0)
    return jnp.where(x < jnp.inf, jnp.where(large, y, small), x)


@_entropic_root.defjvp
def _entropic_root_jvp(primals, tangents):
    (x, weight), (x_dot, weight_dot) = primals, tangents
    y = _entropic_root(x, weight)
    some = y > 0
    slope = 1 + jnp.where(some, jnp.log(jnp.where(some, y, 1)), 0)
    factor = y / jnp.where(some, y + weight, 1)
    return y, factor * (x_dot - slope * weight_dot)
