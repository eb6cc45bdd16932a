"""Maxima smoothed by random perturbations."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from optax import perturbations

from jaxsolve.core import memoise, real_dtype
from jaxsolve.prox import _leaves


@memoise
def perturbed_max(
    argmax: Callable[[chex.ArrayTree], chex.ArrayTree],
    sigma: chex.Numeric,
    *,
    samples: int = 1000,
    noise: Any = None,
) -> Callable[..., chex.Array]:
    r"""Smooth a linear maximum, whose derivative is then the perturbed argmax.

    For :math:`y^\star(\theta) = \arg\max_{y \in C} \langle y, \theta \rangle` and noise
    :math:`Z`, estimates from the same samples the function and its gradient

    .. math::

        F_\sigma(\theta) &= \mathbb{E} \max_{y \in C} \langle y, \theta + \sigma Z
            \rangle \\
        \nabla F_\sigma(\theta) &= \mathbb{E} \, y^\star(\theta + \sigma Z)

    The gradient is that of ``optax.perturbations.make_perturbed_fun(argmax, ...)``,
    which estimates second derivatives too, with :math:`y^\star(\theta)` as control
    variate. It is the argmax regularised by :math:`\Omega`, the conjugate of
    :math:`F_\sigma`: :math:`\arg\max_{y \in C} \langle y, \theta \rangle - \Omega(y)`.
    Gumbel noise and :math:`\sigma = 1` on the simplex give the softmax. For a loss of
    scores against targets, use ``optax.losses.make_fenchel_young_loss`` of it.

    Args:
        argmax: :math:`y^\star`, as ``argmax(scores) -> choice``, like scores; need not
            be differentiable. Any combinatorial solver that JAX can vmap.
        sigma: :math:`\sigma > 0`, the scale of the noise.
        samples: how many to average over. The error falls like its square root.
        noise: with methods ``sample`` and ``log_prob``: by default
            ``optax.perturbations.Gumbel()``, or ``Normal()`` there.

    Returns:
        A function ``smooth(scores, *, key) -> scalar``.

    Raises:
        ValueError: if ``sigma`` is negative or ``samples`` is not a positive integer.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> one_hot = lambda x: jax.nn.one_hot(jnp.argmax(x), 3)
        >>> smooth = prox.perturbed_max(one_hot, 1.0, samples=10_000)
        >>> scores, key = jnp.array([0.0, 1.0, 2.0]), jax.random.key(0)
        >>> gap = jax.grad(smooth)(scores, key=key) - jax.nn.softmax(scores)
        >>> print(jnp.max(jnp.abs(gap)) < 0.02)
        True

    References:
        Berthet, Blondel, Teboul, Cuturi, Vert and Bach, `Learning with Differentiable
        Perturbed Optimizers <https://arxiv.org/abs/2002.08676>`_, 2020. Definition 2.1
        and Proposition 2.2.
    """
    if not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples must be a positive integer, got {samples!r}.")
    _leaves.check_at_least_zero(sigma=sigma)
    noise = perturbations.Gumbel() if noise is None else noise
    perturbed = lambda fun, baseline: perturbations.make_perturbed_fun(
        fun, samples, sigma, noise, baseline
    )
    # The same key gives both the same samples.
    value = perturbed(lambda scores: _inner(scores, argmax(scores)), False)
    choice = perturbed(argmax, True)

    @jax.custom_jvp
    def maximum(scores, key):
        return value(key, scores)

    @maximum.defjvp
    def _(primals, tangents):
        scores, key = primals
        return maximum(scores, key), _inner(choice(key, scores), tangents[0])

    def smooth(scores, *, key):
        return maximum(_leaves.real(scores), key)

    return smooth


def _inner(a, b):
    dtype = real_dtype(a)
    wide = lambda x: x.astype(dtype)
    products = jax.tree.map(lambda x, y: jnp.sum(wide(x) * wide(y)), a, b)
    return optax.tree.sum(products)
