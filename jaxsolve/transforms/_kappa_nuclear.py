"""The convex function that makes Lion-K Muon: the nuclear norm."""

import jax
import jax.numpy as jnp

from jaxsolve.transforms._kappa_norms import nothing, widest
from jaxsolve.transforms._kappas import Kappa, add, largest

_HIGHEST = jax.lax.Precision.HIGHEST


def nuclear_kappa(newton_schulz: int | None = None) -> Kappa:
    r"""Make the nuclear norm of matrices: Muon with decay, in a spectral ball.

    Of each matrix :math:`m = U \operatorname{diag}(\sigma) V^\top`

    .. math::

        K(m) = \sum \sigma, \qquad \nabla K(m) = U V^\top, \qquad
        K^*(x) = 0 \text{ where } \sigma_{\max}(x) \le 1

    where :math:`U V^\top` leaves out singular values of zero. A decomposition gives it;
    ``newton_schulz`` multiplies instead, which devices prefer: from :math:`X = m /
    \|m\|_F`, so many times

    .. math::

        X \leftarrow X (15 - 10 X^\top X + 3 (X^\top X)^2) / 8

    which brings every singular value :math:`s` towards 1 from below, small ones by the
    factor 15/8 each time. So, unlike the coefficients of Muon, it never leaves the
    ball, however few the steps; but a direction is short where :math:`s` is small.

    Args:
        newton_schulz: how many steps instead of the decomposition; None for that.

    Returns:
        A `Kappa`, the sum over all matrices, which lie in the last two axes of the
        leaves. A leaf of fewer axes is a matrix of one column: its norm is the 2-norm.

    Raises:
        ValueError: if `newton_schulz` is not a positive integer.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> m = jnp.array([[0.0, 3.0], [-0.1, 0.0]])
        >>> print(transforms.nuclear_kappa().subgradient(m).round(3) + 0.0)
        [[ 0.  1.]
         [-1.  0.]]
    """
    if newton_schulz is not None and (
        isinstance(newton_schulz, bool)
        or not isinstance(newton_schulz, int)
        or newton_schulz < 1
    ):
        raise ValueError(
            "newton_schulz must be a positive integer, or None for the decomposition, "
            f"got {newton_schulz!r}."
        )

    def subgradient(tree):
        def factor(m):
            if m.size == 0:
                return m
            x = _matrix(widest(m))
            polar = _by_svd(x) if newton_schulz is None else _multiply(x, newton_schulz)
            return polar.reshape(m.shape).astype(m.dtype)

        return jax.tree.map(factor, tree)

    def values(tree):
        leaves = [x for x in jax.tree.leaves(widest(tree)) if x.size]
        return [jnp.linalg.svd(_matrix(x), compute_uv=False) for x in leaves]

    return Kappa(
        lambda tree: add([jnp.sum(s) for s in values(tree)], tree),
        subgradient,
        nothing,
        lambda tree: largest([jnp.max(s) for s in values(tree)], tree),
    )


def _by_svd(x):
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    noise = max(x.shape[-2:]) * float(jnp.finfo(x.dtype).eps)
    kept = jnp.where(s > noise * s[..., :1], 1, 0).astype(x.dtype)
    return jnp.matmul(u * kept[..., None, :], vt, precision=_HIGHEST)


def _multiply(x, steps):
    """Newton-Schulz steps on the smaller side."""
    tall = x.shape[-2] >= x.shape[-1]
    x = x if tall else jnp.matrix_transpose(x)
    product = lambda a, b: jnp.matmul(a, b, precision=_HIGHEST)
    top = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)
    x = x / jnp.where(top == 0, 1, top)
    size = jnp.sqrt(jnp.sum(x**2, axis=(-2, -1), keepdims=True))
    x = x / jnp.where(size == 0, 1, size)

    def step(x, _):
        square = product(jnp.matrix_transpose(x), x)
        return (
            15 * x - product(x, 10 * square - 3 * product(square, square))
        ) / 8, None

    x, _ = jax.lax.scan(step, x, length=steps)
    return x if tall else jnp.matrix_transpose(x)


def _matrix(x):
    return x if x.ndim >= 2 else x.reshape(-1, 1)
