"""Projections onto simple sets: the proximal operators of their indicators.

Where a point lies on the boundary, derivatives are those from outside the set.

Optax's projections are used where they hold in strict JAX, in every float dtype and at
every point: those onto the orthant, a hyperplane and a halfspace. Of the others (optax
0.2.8), `projection_simplex` and `projection_l1_ball` fail under strict promotion and on
bfloat16; `projection_l2_ball` is NaN for a radius of zero at zero and for an infinite
radius, overflows, and mixes no dtypes; `projection_box` takes no scalar bounds for a
pytree, and where both bounds equal the point its derivative in the point is 1/4, not 0;
`projection_linf_ball` is made of it. None has an axis.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsolve.core import memoise
from jaxsolve.prox import _leaves
from jaxsolve.prox._prox import Prox


@memoise
def box(lower: chex.ArrayTree, upper: chex.ArrayTree) -> Prox:
    r"""Project onto a box: clip every entry.

    For :math:`C = \{x : l \le x \le u\}`, entry by entry, computes

    .. math::

        P_C(x) = \min(\max(x, l), u)

    Args:
        lower: :math:`l`, a scalar, an array that broadcasts to every leaf, or a pytree
            like params; may be :math:`-\infty`.
        upper: :math:`u`, in the same forms; may be :math:`\infty`, or equal the lower
            bound, which fixes the entry.

    Returns:
        A proximal operator. It ignores its stepsize. Traced bounds that cross give the
        upper one.

    Raises:
        ValueError: if known bounds cross, or if bounds do not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.box(-1.0, jnp.array([2.0, jnp.inf]))(jnp.array([3.0, 3.0]))
        Array([2., 3.], dtype=float32)
    """
    check_order(lower, upper)

    def prox(params, stepsize=1.0):
        del stepsize
        return _leaves.leafwise(clip, params, lower=lower, upper=upper)

    return prox


@memoise
def non_negative() -> Prox:
    r"""Project onto the non-negative orthant.

    For :math:`C = \{x : x \ge 0\}`, computes :math:`P_C(x) = \max(x, 0)`.

    Returns:
        A proximal operator. It ignores its stepsize.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.non_negative()(jnp.array([3.0, -0.5]))
        Array([3., 0.], dtype=float32)
    """

    def prox(params, stepsize=1.0):
        del stepsize
        return optax.projections.projection_non_negative(_leaves.real(params))

    return prox


@memoise
def simplex(radius: chex.ArrayTree = 1.0, *, axis: _leaves.Axis = None) -> Prox:
    r"""Project onto a simplex, the probability vectors where the radius is one.

    For :math:`C = \{x : x \ge 0, \sum_i x_i = r\}`, computes

    .. math::

        P_C(x)_i = \max(x_i - \tau, 0)

    where :math:`\tau` makes the entries sum to :math:`r`; it is found by sorting. An
    entry may be :math:`-\infty`.

    Args:
        radius: :math:`r \ge 0`, a scalar; with an axis also an array that broadcasts to
            every leaf with size 1 along that axis, or a pytree of such arrays.
        axis: the axis, or axes, of every leaf along which entries sum to the radius;
            None where all entries of all leaves do.

    Returns:
        A proximal operator. It ignores its stepsize.

    Raises:
        ValueError: if the radius is negative or infinite, or if the radius or axis does
            not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.simplex(axis=1)(jnp.array([[3.0, 2.5, 0.0], [0.0, 0.0, -2.0]]))
        Array([[0.75, 0.25, 0.  ],
               [0.5 , 0.5 , 0.  ]], dtype=float32)

    References:
        Duchi, Shalev-Shwartz, Singer and Chandra, `Efficient Projections onto the
        l1-Ball for Learning in High Dimensions
        <https://doi.org/10.1145/1390156.1390191>`_, 2008. Figure 1.
    """
    _leaves.check_at_least_zero(radius=radius)
    numbers = map(_leaves.known, jax.tree.leaves(radius))
    if any(n is not None and np.any(np.isinf(n)) for n in numbers):
        raise ValueError(
            f"radius must be finite, but it is {radius}: an infinite simplex is empty; "
            "use prox.non_negative for the orthant."
        )

    def prox(params, stepsize=1.0):
        del stepsize
        return _leaves.groupwise(project_simplex, params, axis, radius=radius)

    return prox


def check_order(lower, upper):
    if jax.tree.structure(lower) != jax.tree.structure(upper):
        if _leaves.is_leaf(lower):
            lower = jax.tree.map(lambda _: lower, upper)
        elif _leaves.is_leaf(upper):
            upper = jax.tree.map(lambda _: upper, lower)
        else:
            raise ValueError(
                "lower and upper must be scalars, arrays or pytrees like params, but "
                f"they are {jax.tree.structure(lower)} and "
                f"{jax.tree.structure(upper)}: give both one array for each leaf."
            )
    for low, up in zip(jax.tree.leaves(lower), jax.tree.leaves(upper), strict=True):
        low, up = _leaves.known(low), _leaves.known(up)
        if low is None or up is None:
            continue
        try:
            crossed = np.any(low > up)
        except ValueError as error:
            raise ValueError(
                "lower and upper must broadcast to each other, but their shapes are "
                f"{low.shape} and {up.shape}: give both the shape of the leaf."
            ) from error
        if crossed:
            raise ValueError(
                f"lower must not exceed upper, but lower is {low} and upper {up}: the "
                "box is empty; exchange them."
            )


def clip(x, lower, upper):
    """Clip `x`; at a bound the derivative is that of the bound, and NaN stays NaN."""
    # Not jnp.clip, whose derivatives at a bound are divided between x and the bound.
    x = jnp.where((x > lower) | jnp.isnan(x), x, lower)
    return jnp.where((x < upper) | jnp.isnan(x), x, upper)


def _threshold(x, radius):
    """The number that, taken from every entry, leaves positive parts of sum `radius`.

    Only the support comes from the sort: the sum over it is accurate, and its
    derivative is that of the projection.
    """
    ordered = jnp.sort(jax.lax.stop_gradient(x), descending=True)
    rank = jnp.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    rank = rank.reshape((1,) * (x.ndim - 1) + (-1,))
    excess = jnp.cumsum(ordered, -1) - jax.lax.stop_gradient(radius)
    size = jnp.sum(ordered * rank > excess, -1, keepdims=True, dtype=jnp.int32)
    last = jnp.maximum(size, 1) - 1
    # Compared with this level, not with the last entry of the support: a compiler may
    # compute x twice and round it differently, and the largest entry must be found.
    level = jnp.take_along_axis(excess / rank, last, -1)
    support = x > level
    count = jnp.maximum(jnp.sum(support, -1, keepdims=True, dtype=x.dtype), 1)
    return (jnp.sum(jnp.where(support, x, 0), -1, keepdims=True) - radius) / count


def check_group(x):
    """Refuse groups without entries, of which no simplex is made."""
    if x.shape[-1] == 0:
        raise ValueError(
            "params must have at least one entry to lie in a simplex, but a group is "
            "empty: leave it out with prox.separable_sum."
        )


def project_simplex(x, radius):
    """Project every last axis of `x` onto the simplex."""
    check_group(x)
    # The simplex does not see a common shift, and small numbers are summed exactly.
    x = _below_largest(x)
    return jax.nn.relu(x - _threshold(x, radius))


@jax.custom_jvp
def _below_largest(x):
    """`x` less its largest entry along the last axis, which is taken for constant."""
    top = jnp.max(x, -1, keepdims=True)
    place = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    first = place == jnp.argmax(x, -1, keepdims=True).astype(jnp.int32)
    # Zero by decree: where x is a product, a compiler may fuse it with the difference,
    # which is then what rounding took from the product, and no longer zero.
    largest = ((x == top) | first) & jnp.isfinite(top)
    return jnp.where(largest, 0, jnp.minimum(x - top, 0))


@_below_largest.defjvp
def _below_largest_jvp(primals, tangents):
    return _below_largest(*primals), tangents[0]
