"""perpGrad: gradients without what only scales the params."""

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.transforms._scaled import dot, scaled
from jaxsolve.transforms._wide import like


def perp_grad(
    *, keep_norm: bool = True, per_leaf: bool = True
) -> optax.GradientTransformationExtraArgs:
    r"""Projects gradients onto the directions perpendicular to params.

    From the gradient :math:`g` of a leaf :math:`w`, computes

    .. math::

        g_\perp &= g - \frac{\langle w, g \rangle}{\|w\|^2} w \\
        g &\mapsto \frac{\|g\|}{\|g_\perp\|} g_\perp

    the second line only to keep the norm. A classifier that fits its data lowers its
    loss further by scaling its weights alone: such gradients delay generalisation, and
    soon vanish in the rounding of a softmax. Without them a network generalises soon
    after it fits, and needs no weight decay.

    It acts on gradients, at the head of a chain, and leaves their sign; what comes
    after it, such as Adam, need not keep updates perpendicular. By plain gradient steps
    the weights grow, by :math:`\|w^+\|^2 = \|w\|^2 + \eta^2 \|g\|^2`. It has no memory.

    Where :math:`g` is parallel to :math:`w` up to rounding, of its own dtype or of
    eight in that of the computation, the result is zero and not noise of full norm.
    Leaves of one entry have no perpendicular direction, and pass as they are.

    Args:
        keep_norm: whether what is left is scaled to the norm of the gradient, as in the
            authors' code; the theory goes without.
        per_leaf: whether each leaf is treated by itself, as in the authors' code, or
            all together as one vector.

    Returns:
        A transformation that needs params.

    Raises:
        ValueError: in update, without params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> transform, w = transforms.perp_grad(), jnp.array([1.0, 0.0])
        >>> step, _ = transform.update(jnp.array([4.0, 3.0]), transform.init(w), w)
        >>> print(step)
        [0. 5.]

    References:
        Prieto, Barsbey, Mediano and Birdal, `Grokking at the Edge of Numerical
        Stability <https://arxiv.org/abs/2501.04697>`_, 2025. The guards against
        rounding are ours.
    """

    def init(params):
        del params
        return optax.EmptyState()

    def update(updates, state, params=None, **extra):
        del extra
        if params is None:
            raise ValueError(
                "perp_grad projects against the params: call "
                "`transform.update(updates, state, params)`."
            )
        project = lambda g, w: _perpendicular(g, w, keep_norm)
        if per_leaf:
            new = jax.tree.map(project, updates, params)
        else:
            new = project(updates, params)
        return new, state

    return optax.GradientTransformationExtraArgs(init, update)


def scale_alignment(grads: chex.ArrayTree, params: chex.ArrayTree) -> chex.Array:
    r"""Measures how far descent does nothing but scale the params up.

    .. math::

        \frac{\langle -g, \theta \rangle}{\|g\| \|\theta\|}

    Once a classifier fits its data it tends to one: all that gradients still ask for
    is larger weights, and :func:`perp_grad` takes that away.

    Args:
        grads: :math:`g`, like params.
        params: :math:`\theta`.

    Returns:
        The cosine, zero where either is zero.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> g, w = jnp.array([-3.0, 4.0]), jnp.array([2.0, 0.0])
        >>> print(f"{transforms.scale_alignment(g, w):.1f}")
        0.6

    References:
        Prieto, Barsbey, Mediano and Birdal, `Grokking at the Edge of Numerical
        Stability <https://arxiv.org/abs/2501.04697>`_, 2025.
    """
    dtype = core.real_dtype((grads, params))
    g, _ = scaled(grads, dtype)
    w, _ = scaled(params, dtype)
    square = dot(g, g, dtype) * dot(w, w, dtype)
    return -dot(g, w, dtype) / jnp.sqrt(jnp.where(square == 0, 1, square))


def _perpendicular(gradient, params, keep_norm):
    """The part of a tree perpendicular to another, as if both were vectors."""
    if sum(x.size for x in jax.tree.leaves(gradient)) <= 1:
        return gradient
    dtype = core.real_dtype((gradient, params))
    g, unit = scaled(gradient, dtype)
    w, _ = scaled(params, dtype)
    total = dot(g, g, dtype)
    rest = g
    for _ in range(2):  # twice, since the first time leaves its own rounding
        square = dot(w, w, dtype)
        share = dot(w, rest, dtype) / jnp.where(square > 0, square, 1)
        rest = core.axpy(-share, w, rest)
    left = dot(rest, rest, dtype)
    parallel = left <= _rounding(gradient) ** 2 * total
    scale = jnp.ones_like(left)
    if keep_norm:
        ratio = total / jnp.where(parallel, 1, left)
        scale = jnp.sqrt(jnp.where(parallel, 1, ratio))
    given = lambda x: jnp.where(parallel, 0, unit * (scale * x))
    return like(jax.tree.map(given, rest), gradient)


def _rounding(tree):
    """The relative size of what may be rounding alone in a difference of such trees."""
    leaves = [jnp.finfo(x.dtype).eps for x in jax.tree.leaves(tree)]
    fine = jnp.finfo(core.real_dtype(tree)).eps
    return max(8 * float(fine), *map(float, leaves))
