"""Which weights a mask keeps, by their scores: the k best of all, or whole groups."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core, prox
from jaxsolve.bilevel._problem import Levels, check_levels

UNIT = prox.box(0.0, 1.0)


class Selection(NamedTuple):
    """How scores make a mask, and where the scores lie: two pure functions.

    Make your own for groups that reach over several leaves, such as a neuron with its
    bias: any tree of zeros and ones that is like the weights is a mask.
    """

    mask: Callable[[chex.ArrayTree], chex.ArrayTree]  # scores -> zeros and ones.
    project: Callable[[chex.ArrayTree], chex.ArrayTree] = UNIT  # scores -> scores.


@core.memoise
def top_k(k: int, *, capped: bool = False) -> Selection:
    r"""Keeps the k largest scores of all leaves together: unstructured pruning.

    Exactly k, also where scores are equal: then those that come first.

    Args:
        k: how many, from 1 to the number of all weights.
        capped: whether scores are projected onto :math:`\{s \in [0, 1]^n, 1^\top s \le
            k\}`, whose scores compete with one another; by default they are clipped,
            each by itself. Where more than k are clipped at one, their places decide.

    Raises:
        ValueError: if k is not a positive integer or, while tracing, too large.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import bilevel
        >>> print(bilevel.top_k(2).mask(jnp.array([0.5, 0.2, 0.5, 0.5])))
        [1. 0. 1. 0.]
    """
    _check_count("k", k)

    def mask(scores):
        vector, unravel = core.ravel(scores)
        if k > vector.size:
            raise ValueError(
                f"k must be at most the number of weights, {vector.size}, got {k}."
            )
        return unravel(_best(vector, k))

    return Selection(mask, functools.partial(_cap, total=k) if capped else UNIT)


def top_groups(
    kept: chex.ArrayTree, *, axis: int = -1, capped: bool = False
) -> Selection:
    r"""Keeps, in every leaf, the groups with the largest norms: structured pruning.

    The groups of a leaf are its slices along one axis: the columns of a matrix that
    multiplies from the right, the output channels of a kernel. Their rank is by the
    Euclidean norm of their scores; exactly as many are kept as are asked for.

    Args:
        kept: how many groups of each leaf, a tree like the weights of positive
            integers, or of None where a leaf is kept whole, such as a bias; or one
            integer for all leaves.
        axis: the axis along which the groups are counted.
        capped: whether the scores of a leaf compete, as in :func:`top_k`: their sum is
            at most the number of its entries that are kept.

    Raises:
        ValueError: if numbers are no positive integers or, while tracing, do not fit.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import bilevel
        >>> selection = bilevel.top_groups({"matrix": 1, "bias": None})
        >>> matrix = jnp.array([[0.1, 0.9], [0.5, 0.1]])
        >>> scores = {"matrix": matrix, "bias": jnp.ones(2)}
        >>> print(selection.mask(scores)["matrix"])
        [[0. 1.]
         [0. 1.]]
    """
    for number in jax.tree.leaves(kept):
        _check_count("kept", number)

    def leafwise(fun):
        def apply(scores):
            leaves, treedef = jax.tree.flatten(scores)
            same = isinstance(kept, int)
            numbers = [kept] * len(leaves) if same else treedef.flatten_up_to(kept)
            pairs = zip(leaves, numbers, strict=True)
            return treedef.unflatten(fun(*pair, axis) for pair in pairs)

        return apply

    project = leafwise(_cap_groups) if capped else UNIT
    return Selection(leafwise(_keep_groups), project)


def _cap(scores, total):
    """Projects onto the scores in [0, 1] whose sum is at most a number."""
    clipped = UNIT(scores)
    within = jnp.sum(core.ravel(clipped)[0]) <= total
    section = prox.box_section(0.0, 1.0, 1.0, float(total))
    return core.where(within, clipped, section(scores))


def _cap_groups(scores, number, axis):
    if number is None:
        return UNIT(scores)
    return _cap(scores, number * (scores.size // scores.shape[axis]))


def _keep_groups(scores, number, axis):
    if number is None:
        return jnp.ones_like(scores)
    if scores.ndim == 0 or not -scores.ndim <= axis < scores.ndim:
        raise ValueError(
            f"a leaf of shape {scores.shape} has no axis {axis} of groups; give None "
            "for a leaf that is kept whole."
        )
    rows = jnp.moveaxis(scores, axis, -1).reshape(-1, scores.shape[axis])
    if number > rows.shape[1]:
        raise ValueError(
            f"kept must be at most the number of groups, {rows.shape[1]}, got {number}."
        )
    squares = jnp.sum(rows.astype(core.real_dtype(rows)) ** 2, axis=0)
    line = [1] * scores.ndim
    line[axis] = -1
    chosen = _best(squares, number).reshape(line)
    return jnp.broadcast_to(chosen, scores.shape).astype(scores.dtype)


def _best(vector, k):
    """Ones at the k largest entries, the first of equals; zeros elsewhere."""
    _, places = jax.lax.top_k(vector, k)
    return jnp.zeros_like(vector).at[places].set(1)


def _check_count(name, value):
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}.")


def as_selection(keep: int | Selection) -> Selection:
    """Makes a selection of the number of weights to keep."""
    if isinstance(keep, Selection):
        return keep
    if not isinstance(keep, int):
        raise ValueError(
            "keep must be the number of weights to keep, or a selection such as "
            f"bilevel.top_groups(...), got {keep!r}."
        )
    return top_k(keep)


def prunable(weights: chex.ArrayTree) -> Levels:
    """Makes the start of a pruning run: scores by magnitude, the largest is one.

    Args:
        weights: trained ones, without a mask. From random ones, which weights start
            large decides for long which are kept.

    Returns:
        ``Levels(scores, weights)``.
    """
    weights = jax.tree.map(jnp.asarray, weights)
    top = core.sup_norm(weights)
    unit = jnp.where(top > 0, top, 1)
    scores = jax.tree.map(lambda w: jnp.abs(w) / unit.astype(w.dtype), weights)
    return Levels(scores, weights)


def pruned(params: Levels, keep: int | Selection) -> chex.ArrayTree:
    """The weights that are kept, and zero elsewhere: what to use after a run.

    Args:
        params: ``Levels(scores, weights)``, as of :func:`bip`.
        keep: as of :func:`bip`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import bilevel
        >>> params = bilevel.prunable(jnp.array([3.0, -4.0, 0.5]))
        >>> print(bilevel.pruned(params, 1))
        [ 0. -4.  0.]
    """
    scores, weights = check_levels(params)
    return masked(mask_like(as_selection(keep), scores, weights), weights)


def mask_like(selection: Selection, scores, weights) -> chex.ArrayTree:
    """The mask, in the dtypes of the weights, as a constant."""
    mask = jax.lax.stop_gradient(selection.mask(scores))
    return jax.tree.map(lambda m, w: m.astype(jnp.result_type(w)), mask, weights)


def masked(mask: chex.ArrayTree, tree: chex.ArrayTree) -> chex.ArrayTree:
    """The product, entry by entry."""
    return jax.tree.map(jnp.multiply, mask, tree)
