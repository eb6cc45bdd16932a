"""Projections onto cones: the second-order cone and the semidefinite matrices."""

import jax
import jax.numpy as jnp

from jaxsolve.core import memoise
from jaxsolve.prox import _leaves, _spectral
from jaxsolve.prox._prox import Prox


@memoise
def second_order_cone(*, axis: _leaves.Axis = None) -> Prox:
    r"""Project onto the second-order cone, the first entry its height.

    For :math:`C = \{(s, x) : \|x\|_2 \le s\}`, computes

    .. math::

        P_C(s, x) = \begin{cases}
            (s, x) & \|x\|_2 \le s \\
            0 & \|x\|_2 \le -s \\
            \tfrac{1}{2} \bigl(1 + s / \|x\|_2\bigr) \, (\|x\|_2, x) & \text{otherwise}
        \end{cases}

    Args:
        axis: the axis, or axes, of every leaf along which a cone lies; None for one
            cone of all entries of all leaves, the first of the first leaf its height.

    Returns:
        A proximal operator. It ignores its stepsize.

    Raises:
        ValueError: if the axis does not fit params, or a cone has no height.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.second_order_cone()(jnp.array([0.0, 3.0, -4.0])).round(1)
        Array([ 2.5,  1.5, -2. ], dtype=float32)

    References:
        Parikh and Boyd, `Proximal Algorithms
        <https://doi.org/10.1561/2400000003>`_, 2014. Section 6.3.2.
    """

    def project(x):
        if x.shape[-1] == 0:
            raise ValueError(
                "params must have an entry for the height of a cone, but a group is "
                "empty: leave it out with prox.separable_sum."
            )
        norm, scale = _leaves.norms(x[..., 1:], -1)
        rest, height = scale * x[..., 1:], scale * x[..., :1]
        inside, below = norm <= height, norm <= -height
        # The ratio is not used there: the zero keeps its derivatives finite.
        ratio = _leaves.over_norm(jnp.where(inside | below, 0, height), norm)
        side = (1 + ratio) / 2
        outside = jnp.concatenate([side * norm, side * rest], -1) / scale
        return jnp.where(inside, x, jnp.where(below, 0, outside))

    def prox(params, stepsize=1.0):
        del stepsize
        return _leaves.groupwise(project, params, axis)

    return prox


@memoise
def psd_cone() -> Prox:
    r"""Project onto the symmetric positive semidefinite matrices.

    For :math:`C = \{X : X = X^\top \succeq 0\}`, from the eigenvalues
    :math:`\tfrac{1}{2} (X + X^\top) = V \operatorname{diag}(\lambda) V^\top`, computes

    .. math::

        P_C(X) = V \operatorname{diag}(\max(\lambda, 0)) V^\top

    The first derivative is that of Löwner, by divided differences, and exact where no
    eigenvalue is zero, repeated ones included. The second is exact where eigenvalues
    differ and finite everywhere.

    Returns:
        A proximal operator. It ignores its stepsize. Each leaf of params is a square
        matrix, or a stack of them in its last two axes.

    Raises:
        ValueError: if a leaf holds no square matrices.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.psd_cone()(jnp.array([[0.0, 1.0], [1.0, 0.0]])).round(3)
        Array([[0.5, 0.5],
               [0.5, 0.5]], dtype=float32)

    References:
        Higham, `Computing a Nearest Symmetric Positive Semidefinite Matrix
        <https://doi.org/10.1016/0024-3795(88)90223-6>`_, 1988. Malick and Sendov,
        `Clarke Generalized Jacobian of the Projection onto the Cone of Positive
        Semidefinite Matrices <https://doi.org/10.1007/s11228-005-0005-1>`_, 2006.
    """

    def project(x):
        _spectral.check_matrix(x)
        if x.shape[-1] != x.shape[-2]:
            raise ValueError(
                "params must be square matrices in their last two axes, but a leaf has "
                f"the shape {x.shape}: reshape it."
            )
        return _positive_part((x + jnp.matrix_transpose(x)) / 2)

    def prox(params, stepsize=1.0):
        del stepsize
        return _leaves.leafwise(project, params)

    return prox


@jax.custom_jvp
def _positive_part(x):
    values, vectors = _spectral.eigh(x)
    return _spectral.compose(vectors, jnp.maximum(values, 0), vectors)


@_positive_part.defjvp
def _positive_part_jvp(primals, tangents):
    values, vectors = _spectral.eigh(primals[0])
    positive, size = jnp.maximum(values, 0), jnp.abs(values)
    # The divided differences of max(., 0), without cancellation.
    slopes = _spectral.divide(_spectral.pairs(positive), _spectral.pairs(size), 0.0)
    inner = slopes * _spectral.rotate(vectors, tangents[0], vectors)
    out = _spectral.compose(vectors, positive, vectors)
    return out, _spectral.unrotate(vectors, inner, vectors)
