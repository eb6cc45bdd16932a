"""Probabilities from losses by the logarithmic barrier: a layer."""

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.online._rounds import check_positive

TURNS = 20  # of Newton's method, in a form that converges in about nine.


def log_barrier_simplex(
    losses: chex.Array, stepsize: chex.Numeric = 1.0, *, axis: int = -1
) -> chex.Array:
    r"""Turns losses into probabilities whose tails are one over the loss.

    Computes

    .. math::

        p = \arg\min_{p \in \Delta} \langle p, L \rangle
            + \frac{1}{\eta} \sum_i \log \frac{1}{p_i}, \qquad
        p_i = \frac{1}{\eta (L_i - \min L) + \nu}

    where :math:`\nu \in [1, K]` makes the K entries sum to one. It is found by Newton's
    method on the reciprocal of that sum, a concave function, so that the steps rise to
    it from one. A softmax would give the entries the tail :math:`\exp(-\eta L_i)`.

    The derivative is implicit and exact at all orders:

    .. math::

        dp_i = -p_i^2 (\eta \, dL_i + d\nu), \qquad
        d\nu = -\frac{\sum_i p_i^2 \eta \, dL_i}{\sum_i p_i^2}

    Args:
        losses: :math:`L`, real. Those of :math:`\infty` get zero. Where all are, or
            one is :math:`-\infty`, there is no minimiser, and the result is NaN.
        stepsize: :math:`\eta > 0`, a number; the greater, the more on the least loss.
            Where it is not positive, there is no minimiser, and the result is NaN.
        axis: the axis of the entries of a distribution.

    Returns:
        Probabilities, of the shape and dtype of `losses`, computed in 32 bits at least.

    Raises:
        ValueError: if losses are not real and floating, an axis has no entries, or a
            known stepsize is not positive.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import online
        >>> print(online.log_barrier_simplex(jnp.array([0.0, 0.75]), 2.0).round(4))
        [0.6667 0.3333]

    References:
        Dai, Luo, Wei and Zimmert, `Refined Regret for Adversarial MDPs with Linear
        Function Approximation <https://arxiv.org/abs/2301.12942>`_, 2023.
    """
    check_positive(stepsize=stepsize)
    losses = jnp.asarray(losses)
    if not jnp.issubdtype(losses.dtype, jnp.floating):
        raise ValueError(f"losses must be real and floating, got {losses.dtype}.")
    if not -losses.ndim <= axis < losses.ndim or losses.shape[axis] == 0:
        raise ValueError(
            f"losses must have entries along axis {axis}, got the shape {losses.shape}."
        )
    dtype = core.real_dtype(losses)
    eta = jnp.asarray(stepsize, dtype)
    wide = jnp.moveaxis(losses.astype(dtype), axis, -1)
    least = jax.lax.stop_gradient(jnp.min(wide, -1, keepdims=True))
    scaled = jnp.where(wide == jnp.inf, jnp.inf, eta * (wide - least))
    scaled = jnp.where(eta > 0, scaled, jnp.nan)
    return jnp.moveaxis(_probabilities(scaled), -1, axis).astype(losses.dtype)


@jax.custom_jvp
def _probabilities(d):
    """The entries 1 / (d + nu) that sum to one on the last axis, where min d = 0."""
    most = float(d.shape[-1])

    def newton(_, nu):
        p = 1 / (d + nu)
        total = jnp.sum(p, -1, keepdims=True)
        step = (total - 1) * total / jnp.sum(p**2, -1, keepdims=True)
        return jnp.clip(nu + step, 1, most)

    nu = jax.lax.fori_loop(0, TURNS, newton, jnp.ones_like(d[..., :1]))
    p = 1 / (d + nu)
    return p / jnp.sum(p, -1, keepdims=True)


@_probabilities.defjvp
def _probabilities_jvp(primals, tangents):
    p, (dd,) = _probabilities(*primals), tangents
    squared = p**2
    moved = jnp.where(squared > 0, squared * dd, 0)
    share = squared / jnp.sum(squared, -1, keepdims=True)
    return p, share * jnp.sum(moved, -1, keepdims=True) - moved
