"""The optimal brain surgeon: pruning by the inverse Fisher matrix."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxsolve import core
from jaxsolve.transforms._inverse_fisher import InverseFisher, inverse_fisher


def obs_scores(params: chex.ArrayTree, inverse: InverseFisher) -> chex.ArrayTree:
    r"""Computes what the removal of each weight alone would cost.

    .. math::

        \rho_k = \frac{w_k^2}{2 (F^{-1})_{kk}}

    which is the least of :math:`\tfrac{1}{2} v^\top F v` over the changes v of all
    weights with :math:`w_k + v_k = 0`.

    Args:
        params: the weights w.
        inverse: :math:`F^{-1}`, made by :func:`inverse_fisher` of gradients like
            params.

    Returns:
        A tree like params, of at least 32 bits.

    Raises:
        ValueError: if params and gradients do not have the same shapes.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> inverse = transforms.inverse_fisher(jnp.array([[3.0, 0.0]]), damping=1.0)
        >>> print(jnp.round(transforms.obs_scores(jnp.array([1.0, 2.0]), inverse), 3))
        [5. 2.]

    References:
        Hassibi and Stork, `Second order derivatives for network pruning: Optimal Brain
        Surgeon <https://papers.nips.cc/paper/1992/hash/
        303ed4c69846ab36c2904d3ba8573050-Abstract.html>`_, 1992. Equation (5).
    """
    _check(params, inverse)
    score = lambda w, d: w.astype(d.dtype) ** 2 / (2 * d)
    return jax.tree.map(score, params, inverse.diagonal())


def obs_remove(
    params: chex.ArrayTree, inverse: InverseFisher, removed: chex.ArrayTree
) -> chex.ArrayTree:
    r"""Sets weights to zero and corrects the others.

    .. math::

        u_k &= w_k / (F^{-1})_{kk} \text{ for removed } k, \text{ else } 0 \\
        w &\mapsto w - F^{-1} u

    after which what is removed is set to zero exactly. For one weight this is the least
    change of the quadratic with the matrix :math:`F`; of several it adds up what each
    alone asks for.

    Args:
        params: the weights w.
        inverse: :math:`F^{-1}`, made by :func:`inverse_fisher` of gradients like
            params. Where weights have been removed before, of gradients that are zero
            there, so that these weights stay where they are.
        removed: like params, booleans.

    Returns:
        The new params.

    Raises:
        ValueError: if params and gradients do not have the same shapes.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> inverse = transforms.inverse_fisher(jnp.array([[1.0, 1.0]]), damping=1.0)
        >>> removed = jnp.array([False, True])
        >>> w = transforms.obs_remove(jnp.array([1.0, 2.0]), inverse, removed)
        >>> print(jnp.round(w, 3))
        [2. 0.]

    References:
        Hassibi and Stork, `Second order derivatives for network pruning: Optimal Brain
        Surgeon <https://papers.nips.cc/paper/1992/hash/
        303ed4c69846ab36c2904d3ba8573050-Abstract.html>`_, 1992. Equation (5).
    """
    _check(params, inverse)
    ask = lambda r, w, d: jnp.where(r, w.astype(d.dtype) / d, 0)
    change = inverse.product(jax.tree.map(ask, removed, params, inverse.diagonal()))
    corrected = core.axpy(-1, change, params)
    return jax.tree.map(lambda r, w: jnp.where(r, 0, w), removed, corrected)


def obs_prune(
    gradients: Callable[[chex.ArrayTree], chex.ArrayTree],
    params: chex.ArrayTree,
    sparsity: float,
    damping: chex.Numeric = 1e-5,
    *,
    steps: int = 16,
    block_size: int | None = None,
    mask: chex.ArrayTree | None = None,
) -> tuple[chex.ArrayTree, chex.ArrayTree]:
    r"""Prunes to a sparsity, with the inverse Fisher matrix made anew on the way.

    Of d weights, :math:`k_0` of them kept so far, step i of n makes the inverse of
    gradients at the weights that there are, and removes those of the least
    :func:`obs_scores` by :func:`obs_remove`, until

    .. math::

        k_i = k_0 \left( \frac{(1 - s) d}{k_0} \right)^{i / n}

    are kept, rounded: each step keeps the same fraction.

    Args:
        gradients: as ``gradients(params) -> tree``, like params with a leading axis:
            some 64 gradients of minibatches. Those of removed weights do not count.
        params: the weights of a trained model, those which ``mask`` removes zero.
        sparsity: s, in [0, 1), of all weights.
        damping: :math:`\lambda > 0`; see :func:`inverse_fisher`.
        steps: n, how often the inverse is made.
        block_size: of the inverse; published are 128 entries.
        mask: like params: which weights are there, all by default. It comes from a call
            with less sparsity, between which and this one the model may be trained.

    Returns:
        The new params, and the mask of what is kept, like params.

    Raises:
        ValueError: if `sparsity` is not in [0, 1), or `steps` not a positive integer;
            and as :func:`inverse_fisher`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> A, w = jnp.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.1]]), jnp.ones(3)
        >>> gradients = lambda w: A * (A @ w)[:, None]  # of the squares of A w, halved
        >>> w, mask = transforms.obs_prune(gradients, w, 1 / 3, 1e-2, steps=1)
        >>> print(mask)
        [ True  True False]

    References:
        Frantar, Kurtic and Alistarh, `M-FAC: Efficient Matrix-Free Approximations of
        Second-Order Information <https://arxiv.org/abs/2107.03356>`_, 2021. One-shot
        pruning with recomputation, as in the authors' code.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be at least 0 and below 1, got {sparsity!r}.")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a positive integer, got {steps!r}.")
    size = sum(x.size for x in jax.tree.leaves(params))
    target = jnp.asarray(round((1 - sparsity) * size), jnp.int32)
    if mask is None:
        mask = jax.tree.map(lambda x: jnp.ones(x.shape, bool), params)
    counts = [jnp.sum(x, dtype=jnp.int32) for x in jax.tree.leaves(mask)]
    first = sum(counts, jnp.zeros((), jnp.int32))

    def step(carry, i):
        params, mask = carry
        hide = lambda m, g: jnp.where(m[None], g, 0)
        seen = jax.tree.map(hide, mask, gradients(params))
        inverse = inverse_fisher(seen, damping, block_size=block_size)
        kept = jnp.where(i == steps, target, _between(first, target, i / steps))
        mask = _best(obs_scores(params, inverse), mask, kept)
        removed = jax.tree.map(jnp.logical_not, mask)
        return (obs_remove(params, inverse, removed), mask), None

    numbers = jnp.arange(1, steps + 1, dtype=jnp.int32)
    carry, _ = jax.lax.scan(step, (params, mask), numbers)
    return carry


def _between(first, target, fraction):
    """How many weights are kept after a fraction of the steps."""
    ratio = target.astype(fraction.dtype) / jnp.maximum(first, 1).astype(fraction.dtype)
    kept = jnp.round(first.astype(fraction.dtype) * ratio**fraction)
    return kept.astype(jnp.int32)


def _best(scores, mask, kept):
    """The mask of the best scores, of those which the old mask keeps."""
    flat, _ = core.ravel(scores)
    old, unravel = ravel_pytree(mask)
    ranks = jnp.arange(flat.size, dtype=kept.dtype)
    order = jnp.argsort(jnp.where(old, flat, -1), descending=True)
    best = jnp.zeros(flat.shape, bool).at[order].set(ranks < kept)
    return unravel(best & old)


def _check(params, inverse):
    form = lambda tree: jax.tree.map(jnp.shape, tree)
    if form(params) != form(inverse.least):
        raise ValueError(
            f"params must have the shapes of a gradient, {form(inverse.least)}, got "
            f"{form(params)}."
        )
