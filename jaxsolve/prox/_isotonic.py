"""Isotonic regression, and what it gives: projections onto monotone sequences."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve.core import memoise
from jaxsolve.prox import _leaves, _pool, _sets
from jaxsolve.prox._prox import Prox


@memoise
def isotonic(
    weights: chex.ArrayTree = 1.0,
    *,
    increasing: bool = True,
    lower: chex.Numeric = -np.inf,
    upper: chex.Numeric = np.inf,
    axis: _leaves.Axis = None,
) -> Prox:
    r"""Project onto monotone sequences: isotonic regression.

    For :math:`C = \{x : l \le x_1 \le x_2 \le \dots \le x_n \le u\}`, computes

    .. math::

        P_C(x) = \arg\min_{y \in C} \tfrac{1}{2} \sum_i w_i (y_i - x_i)^2

    whose blocks of equal entries are the means of the blocks of :math:`x`. With weights
    other than one it is the projection in the norm that they make. Adjacent violators
    are pooled in exactly :math:`2 n` short steps, so that a vmapped batch costs what
    its lanes cost. Derivatives are the means of blocks as well.

    Args:
        weights: :math:`w > 0`, a scalar, an array that broadcasts to every leaf, or a
            pytree like params.
        increasing: whether sequences rise; otherwise they fall.
        lower: :math:`l`, a scalar, maybe infinite.
        upper: :math:`u`, a scalar, maybe infinite.
        axis: the axis, or axes, of every leaf along which a sequence runs; None for one
            sequence of all entries of all leaves.

    Returns:
        A proximal operator. It ignores its stepsize.

    Raises:
        ValueError: if weights are not positive or do not fit params, known bounds cross
            or are not scalars, or the axis does not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.isotonic()(jnp.array([1.0, 3.0, 2.0, 2.5, 4.0]))
        Array([1. , 2.5, 2.5, 2.5, 4. ], dtype=float32)

    References:
        Barlow, Bartholomew, Bremner and Brunk, "Statistical Inference under Order
        Restrictions", Wiley, 1972. Best and Chakravarti, `Active Set Algorithms for
        Isotonic Regression <https://doi.org/10.1007/BF01580873>`_, 1990.
    """
    _check_positive(weights)
    for name, bound in {"lower": lower, "upper": upper}.items():
        if not _leaves.is_scalar(bound):
            raise ValueError(
                f"{name} must be a scalar, but it is {bound}: bounds that differ are "
                "no bounds of a monotone sequence."
            )
    _sets.check_order(lower, upper)

    def project(x, w, low, up):
        new = increase(x, w) if increasing else -increase(-x, w)
        return _sets.clip(new, low, up)

    def prox(params, stepsize=1.0):
        del stepsize
        return _leaves.groupwise(
            project, params, axis, {"weights": weights}, lower=lower, upper=upper
        )

    return prox


@memoise
def isotonic_kl(
    log_weights: chex.ArrayTree = 0.0,
    *,
    increasing: bool = True,
    axis: _leaves.Axis = None,
) -> Prox:
    r"""Isotonic regression of logarithms, in the Kullback-Leibler divergence.

    For :math:`C = \{x : x_1 \le x_2 \le \dots \le x_n\}`, computes

    .. math::

        \arg\min_{y \in C} \sum_i e^{x_i - y_i} + e^{w_i} y_i

    whose blocks of equal entries are :math:`\log \sum e^{x_i} - \log \sum e^{w_i}` over
    the blocks of :math:`x`. It is the step of entropic soft sorting and ranking. All is
    done with logarithms; nothing overflows.

    Args:
        log_weights: :math:`w`, a scalar, an array that broadcasts to every leaf, or a
            pytree like params.
        increasing: whether sequences rise; otherwise they fall.
        axis: the axis, or axes, of every leaf along which a sequence runs; None for one
            sequence of all entries of all leaves.

    Returns:
        A function of params and an ignored stepsize. It is no proximal operator in the
        2-norm, and may expand distances.

    Raises:
        ValueError: if weights or the axis do not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> y = prox.isotonic_kl()(jnp.log(jnp.array([1.0, 3.0, 2.0])))
        >>> jnp.exp(y).round(1)
        Array([1. , 2.5, 2.5], dtype=float32)

    References:
        Blondel, Teboul, Berthet and Djolonga, `Fast Differentiable Sorting and Ranking
        <https://arxiv.org/abs/2002.08871>`_, 2020. Section 5.
    """

    def regress(x, w):
        if increasing:
            return _rows(_increase_kl)(x, w)
        # Reversed in order, not in sign: the divergence has no mirror image.
        flip = lambda v: jnp.flip(v, -1)
        return flip(_rows(_increase_kl)(flip(x), flip(w)))

    def prox(params, stepsize=1.0):
        del stepsize
        entries = {"log_weights": log_weights}
        return _leaves.groupwise(regress, params, axis, entries)

    return prox


@memoise
def permutahedron(weights: chex.Array, *, axis: _leaves.Axis = None) -> Prox:
    r"""Project onto the convex hull of the permutations of a vector.

    For :math:`C = \operatorname{conv} \{(w_{\pi(1)}, \dots, w_{\pi(n)})\}` over all
    permutations :math:`\pi`, with :math:`w` and the entries of :math:`x` in falling
    order, computes

    .. math::

        P_C(x) = x - \arg\min_{v_1 \ge \dots \ge v_n} \tfrac{1}{2} \|v - (x - w)\|_2^2

    It makes soft ranks: with ``weights = jnp.arange(1.0, n + 1)``, that of
    :math:`x / \varepsilon` tends to the ranks of :math:`x` as :math:`\varepsilon`
    falls.

    Args:
        weights: :math:`w`, of shape :math:`(n,)`, in any order, where a group has
            :math:`n` entries.
        axis: the axis, or axes, of every leaf along which a group lies; None for one
            group of all entries of all leaves.

    Returns:
        A proximal operator. It ignores its stepsize.

    Raises:
        ValueError: if weights do not have the size of a group, or the axis does not fit
            params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> rank = prox.permutahedron(jnp.array([1.0, 2.0, 3.0]))
        >>> rank(jnp.array([5.0, 0.3, 0.5]) * 10)
        Array([3., 1., 2.], dtype=float32)

    References:
        Lim and Wright, `Efficient Bregman Projections onto the Permutahedron and
        Related Polytopes <https://proceedings.mlr.press/v51/lim16.html>`_, 2016.
        Blondel, Teboul, Berthet and Djolonga, `Fast Differentiable Sorting and Ranking
        <https://arxiv.org/abs/2002.08871>`_, 2020.
    """
    check_vector("weights", weights)

    def project(x):
        w = fit_vector("weights", weights, x)
        order = jnp.argsort(jax.lax.stop_gradient(x), descending=True)
        new = _rows(_into_hull)(
            jnp.take_along_axis(x, order, -1), jnp.broadcast_to(w, x.shape)
        )
        return jnp.take_along_axis(new, jnp.argsort(order), -1)

    def prox(params, stepsize=1.0):
        del stepsize
        return _leaves.groupwise(project, params, axis)

    return prox


def increase(x: chex.Array, weight: chex.Array) -> chex.Array:
    """The nearest increasing sequence in a weighted 2-norm, along the last axis."""
    return _rows(_increase)(x, weight)


def _rows(fun):
    """Map a function of vectors over last axes."""

    def apply(x, weight):
        rows = lambda v: v.reshape(-1, x.shape[-1])
        if x.size == 0:
            return x
        return jax.vmap(fun)(rows(x), rows(weight)).reshape(x.shape)

    return apply


def _increase(x, weight):
    # Only the blocks come from comparisons: values, and derivatives of any order, are
    # those of their means.
    fixed, w = jax.lax.stop_gradient((x, weight))
    top = jnp.max(jnp.abs(fixed))
    room = 8 * x.size * (1 + jnp.max(w))
    large = top > float(jnp.finfo(x.dtype).max) / room
    unit = jnp.where(large, _leaves.power_of_two(top), 1).astype(x.dtype)
    x, fixed = x / unit, fixed / unit
    fixed = fixed - jnp.mean(fixed)
    block = _pool.pool(jnp.stack([w * fixed, w], 1), jnp.add, _ratio)
    return jnp.where(top < jnp.inf, unit * _means(x, weight, block), jnp.nan)


def _means(x, weight, block):
    # Sums of small differences, so that no common offset is lost in rounding.
    total = _pool.block_sums(weight, block)
    base = jax.lax.stop_gradient(_pool.block_max(x, block))
    return base + _pool.block_sums(weight * (x - base), block) / total


def _into_hull(x, w):
    """Project a falling sequence onto the hull of the permutations of another."""
    fixed, level = jax.lax.stop_gradient((x, w))
    # Where x falls by more than all of w a block ends, however much it falls. So small
    # differences are not lost in large ones.
    falls = jnp.minimum(fixed[:-1] - fixed[1:], level[0] - level[-1])
    depth = jnp.pad(jnp.cumsum(falls), (1, 0))
    ones = jnp.ones_like(x)
    moments = jnp.stack([level - level[0] + depth, ones], 1)
    block = _pool.pool(moments, jnp.add, _ratio)
    rest = x - jax.lax.stop_gradient(_pool.block_max(x, block))
    # Not x less a mean of x - w, which leaves the hull where x is large.
    new = rest - _means(rest, ones, block) + _means(w, ones, block)
    return jnp.where(jnp.all(jnp.isfinite(fixed)), new, jnp.nan)


def _increase_kl(x, log_weight):
    moments = jax.lax.stop_gradient(jnp.stack([x, log_weight], 1))
    block = _pool.pool(moments, jnp.logaddexp, _difference)

    def log_sum(v):
        top = jax.lax.stop_gradient(_pool.block_max(v, block))
        return top + jnp.log(_pool.block_sums(jnp.exp(v - top), block))

    return log_sum(x) - log_sum(log_weight)


def check_vector(name: str, vector: chex.Array) -> None:
    """Refuse what is no vector."""
    if not _leaves.is_leaf(vector) or jnp.ndim(vector) != 1:
        raise ValueError(
            f"{name} must be a vector, with one entry for each place in a group, but "
            f"it is {vector}: give one array of shape (n,)."
        )


def fit_vector(name: str, vector: chex.Array, x: chex.Array) -> chex.Array:
    """A vector in falling order, in the dtype and rank of `x`."""
    vector = jnp.asarray(vector, x.dtype)
    if vector.shape[0] != x.shape[-1]:
        raise ValueError(
            f"{name} must have one entry for each place in a group of params, but it "
            f"has {vector.shape[0]} and a group has {x.shape[-1]}: match them, or give "
            "an axis."
        )
    vector = jnp.sort(vector, descending=True)
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def _ratio(moments):
    return moments[0] / moments[1]


def _difference(moments):
    return moments[0] - moments[1]


def _check_positive(weights):
    for number in map(_leaves.known, jax.tree.leaves(weights)):
        if number is not None and np.any(number <= 0):
            raise ValueError(
                f"weights must be positive, but they are {number}: leave entries of no "
                "weight out."
            )
