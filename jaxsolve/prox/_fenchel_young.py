"""Losses made of proximal operators."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from jaxsolve.core import memoise, real_dtype
from jaxsolve.prox import _leaves
from jaxsolve.prox._prox import Prox


@memoise
def fenchel_young_loss(
    prox: Prox, value: Callable[[chex.ArrayTree], chex.Array] | None = None
) -> Callable[[chex.ArrayTree, chex.ArrayTree], chex.Array]:
    r"""Make the loss whose gradient is the output of a prox less the target.

    For scores :math:`\theta`, a target :math:`y` and :math:`\Omega = \tfrac{1}{2} \|
    \cdot \|^2 + g`, computes

    .. math::

        L(\theta, y) = \Omega^*(\theta) + \Omega(y) - \langle \theta, y \rangle,
        \qquad \nabla_\theta L = \hat y - y, \qquad
        \hat y = \operatorname{prox}_g(\theta)

    which is convex in the scores, at least :math:`\tfrac{1}{2} \|y - \hat y\|^2`, and
    zero just where the prediction :math:`\hat y` is the target. For projections
    :math:`g` is zero on the set: the simplex gives the sparsemax loss, other polytopes
    those of SparseMAP, the identity the squared one. Where a maximum is known rather
    than a prox, such as ``logsumexp`` or a :func:`perturbed_max`, use
    ``optax.losses.make_fenchel_young_loss``.

    Args:
        prox: of :math:`g`, convex; it is shown leaves of at least 32 bits. It may close
            over traced numbers, but is not differentiated in them.
        value: :math:`g`, as ``value(params) -> scalar``; zero by default, as of
            projections. Targets must lie in the set.

    Returns:
        A loss of one sample, ``loss(scores, targets) -> scalar``; use ``jax.vmap`` for
        a batch. It may be differentiated twice.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> sparsemax_loss = jax.value_and_grad(prox.fenchel_young_loss(prox.simplex()))
        >>> value, slope = sparsemax_loss(jnp.array([2.0, 1.5]), jnp.array([1.0, 0.0]))
        >>> print(value, slope)
        0.0625 [-0.25  0.25]

    References:
        Blondel, Martins and Niculae, `Learning with Fenchel-Young Losses
        <https://arxiv.org/abs/1901.02324>`_, 2020, (14). Blondel, `Structured
        Prediction with Projection Oracles <https://arxiv.org/abs/1910.11369>`_, 2019.
    """
    own = (lambda params: 0) if value is None else value

    @jax.custom_jvp
    def gap(scores, targets):
        # As one product, which does not cancel where scores are large.
        chosen = prox(scores, 1.0)
        middle = jax.tree.map(lambda s, p, t: s - (p + t) / 2, scores, chosen, targets)
        away = jax.tree.map(jnp.subtract, chosen, targets)
        return _inner(middle, away) - own(chosen)

    @gap.defjvp
    def _(primals, tangents):
        scores, targets = primals
        slope = jax.tree.map(jnp.subtract, prox(scores, 1.0), targets)
        other = jax.tree.map(jnp.subtract, targets, scores)
        change = _inner(slope, tangents[0]) + _inner(other, tangents[1])
        return gap(scores, targets), change

    def loss(scores, targets):
        scores = _leaves.widen(scores)
        like = lambda s, t: jnp.asarray(t, s.dtype)
        targets = jax.tree.map(like, scores, targets)
        return gap(scores, targets) + own(targets)

    return loss


def _inner(a, b):
    dtype = real_dtype(a)
    wide = lambda x: x.astype(dtype)
    products = jax.tree.map(lambda x, y: jnp.sum(wide(x) * wide(y)), a, b)
    return sum(jax.tree.leaves(products), jnp.zeros((), dtype))
