"""Projections onto affine sets: subspaces, hyperplanes, halfspaces."""

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve.core import memoise
from jaxsolve.prox import _leaves
from jaxsolve.prox._prox import Prox


@memoise
def affine_set(matrix: chex.Array, offset: chex.Array) -> Prox:
    r"""Project onto the solutions of linear equations.

    For :math:`C = \{x : A x = b\}`, computes

    .. math::

        P_C(x) = x - A^+ (A x - b)

    The pseudoinverse :math:`A^+` is computed once, when the operator is made, so rows
    may depend on one another. Equations that contradict one another are met in the
    sense of least squares: :math:`C = \{x : A^\top A x = A^\top b\}`. Derivatives in
    :math:`A` are exact where its rank does not change.

    Args:
        matrix: :math:`A`, of shape :math:`(m, n)`, with one column for each entry of
            params, leaf after leaf, each in row-major order.
        offset: :math:`b`, of shape :math:`(m,)`.

    Returns:
        A proximal operator. It ignores its stepsize.

    Raises:
        ValueError: if the shapes of matrix, offset and params do not fit together.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> project = prox.affine_set(jnp.ones((1, 3)), jnp.array([12.0]))
        >>> project(jnp.array([1.0, 2.0, 6.0])).round()
        Array([2., 3., 7.], dtype=float32)

    References:
        Parikh and Boyd, `Proximal Algorithms
        <https://doi.org/10.1561/2400000003>`_, 2014. Section 6.2.
    """
    matrix, offset = jnp.asarray(matrix), jnp.asarray(offset)
    if matrix.ndim != 2 or offset.shape != matrix.shape[:1]:
        raise ValueError(
            "matrix and offset must have the shapes (m, n) and (m,), but they have "
            f"{matrix.shape} and {offset.shape}: give one row for each equation."
        )
    if not jnp.issubdtype(matrix.dtype, jnp.inexact):
        matrix = matrix.astype(float)
    matrix = _leaves.widen(matrix)
    inverse = jnp.linalg.pinv(matrix)

    def prox(params, stepsize=1.0):
        del stepsize
        x, unravel = _leaves.ravel(params)
        if x.size != matrix.shape[1]:
            raise ValueError(
                "params must have one entry for each column of matrix, but they have "
                f"{x.size} and it has {matrix.shape[1]}: give the other columns."
            )
        a, b, inv = (v.astype(x.dtype) for v in (matrix, offset, inverse))
        product = lambda m, v: jnp.dot(m, v, precision=jax.lax.Precision.HIGHEST)
        return unravel(x - product(inv, product(a, x) - b))

    return prox


@memoise
def hyperplane(normal: chex.ArrayTree, offset: chex.Numeric) -> Prox:
    r"""Project onto a hyperplane.

    For :math:`C = \{x : \langle a, x \rangle = b\}`, computes

    .. math::

        P_C(x) = x - \frac{\langle a, x \rangle - b}{\|a\|_2^2} a

    Args:
        normal: :math:`a \ne 0`, a scalar, an array that broadcasts to every leaf, or a
            pytree like params.
        offset: :math:`b`, a scalar.

    Returns:
        A proximal operator. It ignores its stepsize.

    Raises:
        ValueError: if the normal is zero, does not fit params, or the offset is not a
            scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.hyperplane(1.0, 3.0)(jnp.array([1.0, 2.0, 6.0]))
        Array([-1.,  0.,  4.], dtype=float32)
    """
    return _optax(optax.projections.projection_hyperplane, normal, offset)


@memoise
def halfspace(normal: chex.ArrayTree, offset: chex.Numeric) -> Prox:
    r"""Project onto a halfspace.

    For :math:`C = \{x : \langle a, x \rangle \le b\}`, computes

    .. math::

        P_C(x) = x - \frac{\max(\langle a, x \rangle - b, 0)}{\|a\|_2^2} a

    Args:
        normal: :math:`a \ne 0`, a scalar, an array that broadcasts to every leaf, or a
            pytree like params.
        offset: :math:`b`, a scalar.

    Returns:
        A proximal operator. It ignores its stepsize. On the boundary its derivative is
        the mean of those from inside and outside.

    Raises:
        ValueError: if the normal is zero, does not fit params, or the offset is not a
            scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.halfspace(1.0, 3.0)(jnp.array([1.0, 2.0, 6.0]))
        Array([-1.,  0.,  4.], dtype=float32)
    """
    return _optax(optax.projections.projection_halfspace, normal, offset)


def _optax(projection, normal, offset):
    """A projection of optax, in one dtype of at least 32 bits."""
    known = [_leaves.known(a) for a in jax.tree.leaves(normal)]
    if all(a is not None and not a.any() for a in known):
        raise ValueError(
            "normal must not be zero, since the set is then empty or everything, but "
            f"it is {normal}: give another, or prox.identity()."
        )
    if not _leaves.is_scalar(offset):
        raise ValueError(
            f"offset must be a scalar, but it is {offset}: use prox.affine_set for "
            "several equations."
        )

    def prox(params, stepsize=1.0):
        del stepsize
        wide = _leaves.widen(params)
        full = lambda a, x: jnp.broadcast_to(a, x.shape)
        a = jax.tree.map(full, _leaves.like("normal", normal, wide), wide)
        b = jnp.asarray(offset, _leaves.working_dtype(wide))
        # Squares and products neither overflow nor underflow if the normal is near one,
        # and large params are brought there. Powers of two round nothing.
        per_normal, per_params = _per_top(a), _per_top(wide, least=2.0**50)
        a = optax.tree.scale(per_normal, a)
        near = optax.tree.scale(per_params, wide)
        point = projection(near, a, b * per_normal * per_params)
        return _leaves.narrow(optax.tree.scale(1 / per_params, point), params)

    return prox


def _per_top(tree, least=0.0):
    """A power of two that brings the largest entry near one, if it exceeds `least`."""
    top = optax.tree.norm(tree, ord=jnp.inf)
    return jnp.where(top > least, 1 / _leaves.power_of_two(top), 1).astype(top.dtype)
