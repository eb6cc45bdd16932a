"""Convex functions that choose what Lion-K does: norms of groups of entries."""

import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.transforms._kappas import Kappa, add, largest


def lp_kappa(p: float, *, axis: int | tuple[int, ...] | None = None) -> Kappa:
    r"""Make the p-norm of all entries, or the sum of those of groups of them.

    .. math::

        K(m) = \sum_G \|m_G\|_p, \qquad
        \nabla K(m)_G = \operatorname{sign}(m_G)
        \left( \frac{|m_G|}{\|m_G\|_p} \right)^{p - 1}, \qquad
        K^*(x) = 0 \text{ where } \max_G \|x_G\|_q \le 1

    with :math:`1/p + 1/q = 1`, and zero of a group of zeros. With :math:`p = 2` Lion-K
    is normalised momentum in a ball, or with groups in one ball for each.

    Args:
        p: above 1 and finite; instead of 1 take `l1_kappa`, instead of infinity
            ``top_k_kappa(1)``.
        axis: the axis, or axes, of every leaf along which groups lie; None where all
            entries of all leaves are one group. For one group a leaf, see
            `per_leaf_kappa`.

    Returns:
        A `Kappa`.

    Raises:
        ValueError: if p is not above 1 and finite; of its functions, if a leaf has no
            such axis.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> m = jnp.array([[3.0, 4.0], [0.0, 2.0]])
        >>> print(transforms.lp_kappa(2.0, axis=1).subgradient(m))
        [[0.6 0.8]
         [0.  1. ]]
    """
    if not 1 < p < float("inf"):
        raise ValueError(
            f"p must be above 1 and finite, got {p!r}; instead of 1 take l1_kappa(), "
            "instead of infinity top_k_kappa(1)."
        )

    def norms(tree, power):
        """The norms of the groups and the entries over them, in 32 bits or more."""
        power = int(power) if power == int(power) else power
        wide = widest(tree)
        tops = _reduce(jnp.max, jnp.maximum, jax.tree.map(jnp.abs, wide), axis)
        unit = jax.tree.map(lambda top: jnp.where(top == 0, 1, top), tops)
        parts = jax.tree.map(lambda x, u: jnp.abs(x) / u, wide, unit)
        powers = jax.tree.map(lambda x: x**power, parts)
        roots = jax.tree.map(
            lambda total: jnp.where(total == 0, 1, total) ** (1 / power),
            _reduce(jnp.sum, jnp.add, powers, axis),
        )
        sizes = jax.tree.map(jnp.multiply, tops, roots)
        return sizes, jax.tree.map(jnp.divide, parts, roots)

    def subgradient(tree):
        _, ratios = norms(tree, p)
        bend = lambda r: r if p == 2 else r ** (p - 1)
        slope = lambda m, r: jnp.sign(m) * bend(r).astype(m.dtype)
        return jax.tree.map(slope, tree, ratios)

    def value(tree):
        sizes = jax.tree.leaves(norms(tree, p)[0])
        sizes = sizes[:1] if axis is None else sizes
        return add([jnp.sum(size) for size in sizes], tree)

    def dual_norm(tree):
        sizes = jax.tree.leaves(norms(tree, p / (p - 1))[0])
        return largest([jnp.max(size, initial=0) for size in sizes], tree)

    return Kappa(value, subgradient, nothing, dual_norm)


def top_k_kappa(k: int) -> Kappa:
    r"""Make the sum of the k largest entries: Lion that moves k entries an update.

    .. math::

        K(m) = \sum_{i \in T} |m_i|, \qquad
        \nabla K(m)_i = \operatorname{sign}(m_i) [i \in T], \qquad
        K^*(x) = 0 \text{ where } \max\{\|x\|_\infty, \|x\|_1 / k\} \le 1

    for the set T of the k entries that are largest in magnitude; those that are equal
    at its edge share what is left.

    Args:
        k: how many entries of all leaves together, at least 1; more than there are
            count as all. For k entries of each leaf, see `per_leaf_kappa`.

    Returns:
        A `Kappa`.

    Raises:
        ValueError: if k is not a positive integer.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> print(transforms.top_k_kappa(1).subgradient(jnp.array([3.0, -4.0, 1.0])))
        [ 0. -1.  0.]
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k must be a positive integer, got {k!r}.")

    def tops(sizes):
        """The largest magnitudes, at most k of them, in falling order."""
        flat = [x.ravel() for x in jax.tree.leaves(sizes)]
        flat = jnp.concatenate(flat) if flat else jnp.zeros(0)
        return jax.lax.top_k(flat, min(k, flat.size))[0]

    def value(tree):
        return add([jnp.sum(tops(_sizes(tree)))], tree)

    def subgradient(tree):
        sizes = _sizes(tree)
        edge = jnp.min(tops(sizes), initial=jnp.inf)
        count = lambda test: add(
            [jnp.sum(test(x)) for x in jax.tree.leaves(sizes)], sizes
        )
        above, at = count(lambda x: x > edge), count(lambda x: x == edge)
        share = jnp.clip((k - above) / jnp.maximum(at, 1), 0, 1)
        weight = lambda x: jnp.where(x > edge, 1, jnp.where(x == edge, share, 0))
        # Not a number beside a number is neither above nor below it.
        pick = lambda m, x: jnp.sign(m) * weight(x).astype(m.dtype)
        return jax.tree.map(pick, tree, sizes)

    def dual_norm(tree):
        leaves = jax.tree.leaves(_sizes(tree))
        sup = largest([jnp.max(x, initial=0) for x in leaves], tree)
        return jnp.maximum(sup, add([jnp.sum(x) for x in leaves], tree) / k)

    return Kappa(value, subgradient, nothing, dual_norm)


def widest(tree):
    """Casts all leaves to the dtype of scalars beside them."""
    dtype = core.real_dtype(tree)
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def _sizes(tree):
    return jax.tree.map(jnp.abs, widest(tree))


def nothing(tree):
    """The conjugate of a norm, in its ball."""
    return core.real_scalar(0, tree)


def _reduce(along, together, tree, axis):
    """Reduces groups of non-negative entries, to what broadcasts to every leaf."""
    if axis is None:
        parts = [along(x, initial=0) for x in jax.tree.leaves(tree)]
        total = core.real_scalar(0, tree)
        for part in parts:
            total = together(total, part)
        return jax.tree.map(lambda _: total, tree)
    axes = axis if isinstance(axis, tuple) else (axis,)

    def reduce(x):
        if any(not -x.ndim <= a < x.ndim for a in axes):
            raise ValueError(
                f"axis must lie within every leaf, but it is {axis} and a leaf has the "
                f"shape {x.shape}: give another axis, or treat the leaves apart with "
                "optax.partition."
            )
        return along(x, axis=axes, keepdims=True, initial=0)

    return jax.tree.map(reduce, tree)
