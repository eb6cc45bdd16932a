"""Assignment: soft where a network is trained, exact where it is used."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.transport._modules import SinkhornLayer


def hard_assignment(scores: chex.Array) -> chex.Array:
    r"""Finds the best one-to-one matching: a matrix of zeros and ones.

    Solves :math:`\max_P \langle S, P \rangle` over matrices of zeros and ones with at
    most one in a row or column, and :math:`\min(n, m)` in all, by optax's Hungarian
    algorithm, in cubic time. Its derivative is zero; `AssignmentLayer` trains through
    it.

    Args:
        scores: :math:`S`: (..., n, m), real; minus infinity forbids a pair. Leading
            axes are a batch.

    Returns:
        P: (..., n, m), real. Where no full matching is allowed, as many pairs as can
        be; NaN where a score is NaN or infinity.

    Raises:
        ValueError: if scores are not real matrices.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> scores = jnp.array([[3.0, 2.0], [2.0, 0.0]])
        >>> print(transport.hard_assignment(scores))
        [[0. 1.]
         [1. 0.]]

    References:
        Crouse, `On implementing 2D rectangular assignment algorithms
        <https://doi.org/10.1109/TAES.2016.140952>`_, 2016.
    """
    scores = jnp.asarray(scores)
    if scores.ndim < 2 or not jnp.issubdtype(scores.dtype, jnp.floating):
        raise ValueError(
            f"scores are (..., n, m) and real, got shape {scores.shape} and dtype "
            f"{scores.dtype}."
        )
    wide = jax.lax.stop_gradient(scores).astype(core.real_dtype(scores))
    return jnp.vectorize(_matched, signature="(n,m)->(n,m)")(wide)


def _matched(scores):
    """The best matching of one matrix."""
    sane = jnp.all(scores < jnp.inf)
    allowed = jnp.isfinite(scores)
    cost = jnp.where(allowed, -scores, 0)
    # No matching with a forbidden pair is as good as one with a pair less of them.
    highest = 2 * (min(cost.shape) + 1) * jnp.maximum(jnp.max(jnp.abs(cost)), 1)
    rows, columns = optax.assignment.hungarian_algorithm(
        jnp.where(allowed, cost, highest)
    )
    chosen = jnp.zeros_like(cost).at[rows, columns].set(1)
    return jnp.where(sane, jnp.where(allowed, chosen, 0), jnp.nan)


class AssignmentLayer(eqx.Module):
    """Assigns rows to columns: softly in training, one to one in inference.

    In training it is the `SinkhornLayer` it is given, or, with `straight_through`, the
    `hard_assignment` with the derivative of that layer. In inference, as
    `equinox.nn.inference_mode` sets it, it is the `hard_assignment`.

    Args:
        matching: the soft matching; ``SinkhornLayer()`` by default.
        straight_through: whether to be hard in training too.
        inference: whether the network is used, not trained.

    Raises:
        ValueError: where it is called, if scores are not square matrices.

    Examples:
        >>> import equinox as eqx, jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> layer = transport.AssignmentLayer()
        >>> scores = jnp.array([[3.0, 2.0], [2.0, 0.0]])
        >>> print(layer(scores).round(2), eqx.nn.inference_mode(layer)(scores)[0])
        [[0.38 0.62]
         [0.62 0.38]] [0. 1.]

    References:
        Mena, Belanger, Linderman and Snoek, `Learning Latent Permutations with
        Gumbel-Sinkhorn Networks <https://arxiv.org/abs/1802.08665>`_, 2018. Bengio,
        Léonard and Courville, `Estimating or Propagating Gradients Through Stochastic
        Neurons for Conditional Computation <https://arxiv.org/abs/1308.3432>`_, 2013.
    """

    matching: SinkhornLayer
    straight_through: bool = eqx.field(static=True)
    inference: bool

    def __init__(
        self,
        matching: SinkhornLayer | None = None,
        *,
        straight_through: bool = False,
        inference: bool = False,
    ):
        self.matching = SinkhornLayer() if matching is None else matching
        self.straight_through, self.inference = straight_through, inference

    def __call__(self, scores: chex.Array, *, key: chex.PRNGKey | None = None):
        """Assigns by scores, (..., n, n), real."""
        scores = jnp.asarray(scores)
        if scores.ndim < 2 or scores.shape[-2] != scores.shape[-1]:
            raise ValueError(f"scores are (..., n, n), got shape {scores.shape}.")
        if self.inference:
            return hard_assignment(scores)
        soft = self.matching(scores)
        if not self.straight_through:
            return soft
        # Exactly the assignment in value: what is added is zero.
        return hard_assignment(scores) + (soft - jax.lax.stop_gradient(soft))
