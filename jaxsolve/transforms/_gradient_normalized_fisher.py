"""Newton steps that are no longer than gamma, by a diagonal or a Fisher matrix."""

import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.transforms._gradient_normalized import normalized
from jaxsolve.transforms._wide import like

_HIGHEST = jax.lax.Precision.HIGHEST


def scale_by_gradient_normalized_diagonal(
    gamma: optax.ScalarOrSchedule = 1.0, *, adaptive: bool = False
) -> optax.GradientTransformationExtraArgs:
    r"""Scales gradients by a regularised diagonal.

    As :func:`scale_by_gradient_normalized_newton`, but for a given diagonal d

    .. math::

        \lambda = \|g\| / (\gamma + 10^{-8}), \quad
            g \mapsto g / (\max \{ d, 0 \} + \lambda)

    Args:
        gamma: :math:`\gamma > 0`, or a schedule of it; with `adaptive` the first one.
        adaptive: whether it follows the values.

    Returns:
        A transformation that needs the extra argument ``diagonal``, a tree like params,
        for instance Hutchinson's estimate, and with `adaptive` also ``value``.

    Raises:
        ValueError: as :func:`scale_by_gradient_normalized_newton`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> transform = transforms.scale_by_gradient_normalized_diagonal(gamma=5.0)
        >>> x = jnp.array([3.0, 4.0])
        >>> step, _ = transform.update(x, transform.init(x), diagonal=jnp.ones(2))
        >>> print([f"{x:.3f}" for x in step])
        ['1.500', '2.000']

    References:
        Semenov, Jaggi and Doikov, `Gradient-Normalized Smoothness for Optimization with
        Approximate Hessians <https://arxiv.org/abs/2506.13710>`_, 2025.
    """

    def solve(grad, shift, diagonal, updates):
        del updates
        divide = lambda g, d: g / (jnp.maximum(d, 0) + shift.astype(g.dtype))
        return jax.tree.map(divide, grad, like(diagonal, grad))

    return normalized(gamma, adaptive, solve, "diagonal", "a tree like params")


def scale_by_gradient_normalized_fisher(
    gamma: optax.ScalarOrSchedule = 1.0, *, adaptive: bool = False
) -> optax.GradientTransformationExtraArgs:
    r"""Scales gradients by the regularised empirical Fisher matrix of a batch.

    As :func:`scale_by_gradient_normalized_newton`, but for the gradients :math:`g_1,
    \dots, g_m` of the samples of a batch

    .. math::

        \lambda = \|g\| / (\gamma + 10^{-8}), \quad
            g \mapsto \Bigl( \frac1m \sum_i g_i g_i^\top + \lambda I \Bigr)^{-1} g

    by an eigendecomposition of their m by m inner products.

    Args:
        gamma: :math:`\gamma > 0`, or a schedule of it; with `adaptive` the first one.
        adaptive: whether it follows the values.

    Returns:
        A transformation that needs the extra argument ``sample_grads``, a tree like
        params with an axis of samples in front of every leaf, and with `adaptive` also
        ``value``.

    Raises:
        ValueError: as :func:`scale_by_gradient_normalized_newton`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> transform = transforms.scale_by_gradient_normalized_fisher(gamma=1.0)
        >>> x = jnp.array([3.0, 4.0])
        >>> step, _ = transform.update(x, transform.init(x), sample_grads=x[None])
        >>> print(jnp.round(step, 3))  # a thirtieth: 25 of the sample, and lambda = 5
        [0.1   0.133]

    References:
        Semenov, Jaggi and Doikov, `Gradient-Normalized Smoothness for Optimization with
        Approximate Hessians <https://arxiv.org/abs/2506.13710>`_, 2025.
    """

    def solve(grad, shift, rows, updates):
        del updates
        return _woodbury(grad, shift, like(rows, grad))

    hint = "a tree like params with an axis of samples in front"
    return normalized(gamma, adaptive, solve, "sample_grads", hint)


def _woodbury(grad, shift, rows):
    """Solves with the mean of the outer products of rows plus a shift.

    What of the gradient is the mean of the rows needs no difference: for it the inverse
    is moved to the side of the samples.
    """
    leaves = jax.tree.leaves(rows)
    if not leaves:
        return grad
    m, dtype = leaves[0].shape[0], shift.dtype
    flat = [jnp.reshape(u, (m, u.size // m)).astype(dtype) for u in leaves]
    values, turns = jnp.linalg.eigh(sum(_dot(u, u.T) for u in flat) / m)
    divisor = jnp.maximum(values, 0) + shift
    inverse = lambda v: _dot(turns, _dot(v, turns) / divisor)
    over = lambda c: jax.tree.map(
        lambda u: jnp.tensordot(c.astype(u.dtype), u, 1, precision=_HIGHEST), rows
    )
    mean = over(jnp.full(m, 1 / m, dtype))
    rest = optax.tree.sub(grad, mean)
    products = lambda u, r: _dot(jnp.reshape(u, (m, u.size // m)), jnp.ravel(r))
    parts = jax.tree.leaves(jax.tree.map(products, rows, rest))
    across = inverse(sum(part.astype(dtype) for part in parts) / m)
    along = inverse(jnp.full(m, 1 / m, dtype))
    found = core.axpy(1 / shift, rest, over(along))
    return core.axpy(-1 / shift, over(across), found)


def _dot(a, b):
    return jnp.matmul(a, b, precision=_HIGHEST)
