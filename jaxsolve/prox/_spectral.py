"""Spectral functions: the nuclear norm, and decompositions differentiable anywhere."""

import chex
import jax
import jax.numpy as jnp

from jaxsolve.core import memoise
from jaxsolve.prox import _leaves
from jaxsolve.prox._prox import Prox

MATRIX = (-2, -1)  # the axes of a leaf in which its matrices lie.


@memoise
def nuclear_norm(weight: chex.ArrayTree) -> Prox:
    r"""Soft-threshold singular values: the proximal operator of the nuclear norm.

    For :math:`g(X) = w \|X\|_*`, the sum of the singular values, from
    :math:`X = U \operatorname{diag}(\sigma) V^\top`, computes

    .. math::

        \operatorname{prox}_{t g}(X)
        = U \operatorname{diag}(\max(\sigma - t w, 0)) V^\top

    The first derivative is by divided differences, and exact where no singular value
    equals the threshold, repeated and zero ones included. The second is exact where
    singular values differ and are not zero, and finite everywhere.

    Args:
        weight: :math:`w \ge 0`, a scalar, an array that broadcasts to every leaf with
            size 1 along its last two axes, or a pytree of such arrays.

    Returns:
        A proximal operator. Each leaf of params is a matrix, or a stack of matrices in
        its last two axes; the function is the sum over all of them. Its stepsize has
        the form of the weight.

    Raises:
        ValueError: if the weight is negative or does not fit params, or if a leaf has
            fewer than two axes.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.nuclear_norm(1.0)(jnp.array([[3.0, 0.0], [0.0, 0.5]])).round(3)
        Array([[2., 0.],
               [0., 0.]], dtype=float32)

    References:
        Cai, Candes and Shen, `A Singular Value Thresholding Algorithm for Matrix
        Completion <https://arxiv.org/abs/0810.3286>`_, 2010. Theorem 2.1. Candes,
        Sing-Long and Trzasko, `Unbiased Risk Estimates for Singular Value Thresholding
        and Spectral Estimators <https://arxiv.org/abs/1210.4139>`_, 2013. Lemma IV.2.
    """
    _leaves.check_at_least_zero(weight=weight)

    def prox(params, stepsize=1.0):
        params = jax.tree.map(check_matrix, _leaves.real(params))
        return _leaves.leafwise(
            lambda x, t, w: _threshold(x, (t * w)[..., 0]),
            params,
            stepsize=_leaves.per_group("stepsize", stepsize, params, MATRIX),
            weight=_leaves.per_group("weight", weight, params, MATRIX),
        )

    return prox


def check_matrix(x: chex.Array) -> chex.Array:
    """Refuse a leaf that holds no matrices."""
    if x.ndim < 2:
        raise ValueError(
            "params must have matrices in the last two axes of every leaf, but a leaf "
            f"has the shape {x.shape}: reshape it, or treat the leaves apart with "
            "prox.separable_sum."
        )
    return x


@jax.custom_jvp
def _threshold(x, threshold):
    u, s, v = svd(x)
    return compose(u, jnp.maximum(s - threshold, 0), v)


@_threshold.defjvp
def _threshold_jvp(primals, tangents):
    (x, threshold), (x_dot, threshold_dot) = primals, tangents
    u, s, v = svd(x)
    above = s >= threshold
    new = jnp.where(above, s - threshold, 0)
    inner = rotate(u, x_dot, v)
    symmetric = (inner + jnp.matrix_transpose(inner)) / 2
    # Divided differences of the threshold as an odd function, without cancellation.
    # Where nothing is thresholded the derivative is the identity, at zero as well.
    free = jnp.where(threshold > 0, 0, 1).astype(s.dtype)
    top = pairs(new)
    near = divide(top, pairs(jnp.abs(s - threshold)), 1.0)
    far = divide(top, pairs(s), free[..., None])
    ratio = divide(new, s, free)
    shift = jnp.where(above, threshold_dot, 0)
    inner = far * inner + (near - far) * symmetric
    # What x_dot has outside the spaces of u and v.
    left, right = _outside(u, x_dot, v)
    outer = compose(left, ratio, v) + compose(u, ratio, right) - compose(u, shift, v)
    return compose(u, new, v), unrotate(u, inner, v) + outer


@jax.custom_jvp
def eigh(x: chex.Array) -> tuple[chex.Array, chex.Array]:
    """Eigenvalues and vectors of symmetric matrices; derivatives always finite.

    Vectors of equal eigenvalues are not turned into one another.
    """
    vectors, values = jax.lax.linalg.eigh(x, symmetrize_input=False)
    return values, vectors


@eigh.defjvp
def _eigh_jvp(primals, tangents):
    values, vectors = eigh(primals[0])
    inner = rotate(vectors, tangents[0], vectors)
    gaps = values[..., None, :] - values[..., :, None]
    turn = divide(inner, gaps, 0.0)
    return (values, vectors), (_diagonal(inner), product(vectors, turn))


@jax.custom_jvp
def svd(x: chex.Array) -> tuple[chex.Array, chex.Array, chex.Array]:
    """Thin singular vectors, values, vectors; derivatives always finite.

    Vectors of equal singular values are not turned into one another.
    """
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    return u, s, jnp.matrix_transpose(vt)


@svd.defjvp
def _svd_jvp(primals, tangents):
    (x_dot,) = tangents
    u, s, v = svd(primals[0])
    inner = rotate(u, x_dot, v)
    crossed = jnp.matrix_transpose(inner)
    row, column = s[..., None, :], s[..., :, None]
    gaps = (row - column) * (row + column)
    turn_u = divide(inner * row + column * crossed, gaps, 0.0)
    turn_v = divide(column * inner + crossed * row, gaps, 0.0)
    rest_u, rest_v = _outside(u, x_dot, v)
    u_dot = product(u, turn_u) + divide(rest_u, row, 0.0)
    v_dot = product(v, turn_v) + divide(rest_v, row, 0.0)
    return (u, s, v), (u_dot, _diagonal(inner), v_dot)


def divide(x: chex.Array, by: chex.Array, otherwise: chex.Numeric) -> chex.Array:
    """Divide where the divisor is not zero."""
    return jnp.where(by == 0, otherwise, x / jnp.where(by == 0, 1, by))


def pairs(values: chex.Array) -> chex.Array:
    """The sum of every two values, a matrix."""
    return values[..., :, None] + values[..., None, :]


def product(a: chex.Array, b: chex.Array) -> chex.Array:
    """Multiply matrices in full precision."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def rotate(u: chex.Array, x: chex.Array, v: chex.Array) -> chex.Array:
    """Compute U' X V."""
    return product(product(jnp.matrix_transpose(u), x), v)


def unrotate(u: chex.Array, x: chex.Array, v: chex.Array) -> chex.Array:
    """Compute U X V'."""
    return product(product(u, x), jnp.matrix_transpose(v))


def compose(u: chex.Array, values: chex.Array, v: chex.Array) -> chex.Array:
    """Compute U diag(values) V'."""
    return product(u * values[..., None, :], jnp.matrix_transpose(v))


def _outside(u, x, v):
    """The parts of X V outside the span of U, and of X' U outside that of V."""
    across, inner = jnp.matrix_transpose(x), rotate(u, x, v)
    right = product(across, u) - product(v, jnp.matrix_transpose(inner))
    return product(x, v) - product(u, inner), right


def _diagonal(x):
    return jnp.diagonal(x, axis1=-2, axis2=-1)
