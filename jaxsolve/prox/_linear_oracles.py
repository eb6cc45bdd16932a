"""Linear minimisation oracles: vertices of sets, for Frank-Wolfe methods.

Only sets whose oracle is exact and compiles have one here.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve.core import memoise
from jaxsolve.prox import _leaves
from jaxsolve.prox._balls import l1_ball, l2_ball
from jaxsolve.prox._prox import Prox
from jaxsolve.prox._sets import box, simplex


class Corners(NamedTuple):
    """All vertices of a polytope that are few enough to be numbered.

    Attributes:
        count: how many there are in n dimensions, as ``count(n)``.
        combine: the point of given weights, as ``combine(weights) -> (n,)``, linear.
        scores: the products of all vertices with a vector, as ``scores(grad)``.
    """

    count: Callable
    combine: Callable
    scores: Callable


class LinearOracle(NamedTuple):
    r"""A compact convex set C, by what Frank-Wolfe methods ask of it.

    Anyone may make one of functions of his own.

    Attributes:
        vertex: as ``vertex(grad) -> params``, a minimiser over C of :math:`\langle g, x
            \rangle`, like `grad`; a vertex, where C is a polytope.
        projection: onto C in the 2-norm, by which solvers differentiate a solution;
            None where it is not known.
        corners: the vertices of a polytope that has few, by which solvers that keep an
            active set spare themselves a copy of each; None elsewhere.
    """

    vertex: Callable
    projection: Prox | None = None
    corners: Corners | None = None


@memoise
def simplex_vertex(
    radius: chex.Numeric = 1.0, *, axis: _leaves.Axis = None
) -> LinearOracle:
    r"""Make the linear oracle of a simplex: all on the least entry of the gradient.

    Over :math:`C = \{x : x \ge 0, \sum_i x_i = r\}` the minimiser of :math:`\langle g,
    x \rangle` is :math:`r e_i` with :math:`i = \arg\min_i g_i`, the first of equals.

    Args:
        radius: :math:`r > 0`.
        axis: the axis, or axes, of every leaf along which entries sum to the radius;
            None where all entries of all leaves do.

    Returns:
        A `LinearOracle`, which numbers its vertices where axis is None.

    Raises:
        ValueError: if the radius is not positive and finite.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.simplex_vertex(2.0).vertex(jnp.array([3.0, -1.0, 0.5]))
        Array([0., 2., 0.], dtype=float32)
    """
    _check_radius(radius)

    def vertex(grad):
        return _leaves.groupwise(
            lambda g, r: r * _unit(g, jnp.argmin(g, -1)), grad, axis, radius=radius
        )

    def combine(weights):
        return jnp.asarray(radius, weights.dtype) * weights

    corners = Corners(lambda n: n, combine, combine) if axis is None else None
    return LinearOracle(vertex, simplex(radius, axis=axis), corners)


@memoise
def l1_ball_vertex(
    radius: chex.Numeric = 1.0, *, axis: _leaves.Axis = None
) -> LinearOracle:
    r"""Make the linear oracle of a 1-norm ball: all on the largest entry.

    Over :math:`C = \{x : \|x\|_1 \le r\}` the minimiser of :math:`\langle g, x \rangle`
    is :math:`-r \operatorname{sign}(g_i) e_i` with :math:`i = \arg\max_i |g_i|`.

    Args:
        radius: :math:`r > 0`.
        axis: the axis, or axes, of every leaf along which a ball lies; None for one
            ball of all entries of all leaves.

    Returns:
        A `LinearOracle`, which numbers its vertices where axis is None.

    Raises:
        ValueError: if the radius is not positive and finite.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.l1_ball_vertex(2.0).vertex(jnp.array([3.0, -4.0, 0.5]))
        Array([0., 2., 0.], dtype=float32)
    """
    _check_radius(radius)

    def one(g, r):
        sign = jnp.where(g > 0, -1, 1).astype(g.dtype)
        return jnp.where(_unit(g, jnp.argmax(jnp.abs(g), -1)) > 0, r * sign, 0)

    def vertex(grad):
        return _leaves.groupwise(one, grad, axis, radius=radius)

    def combine(weights):
        plus, minus = jnp.split(weights, 2)
        return jnp.asarray(radius, weights.dtype) * (plus - minus)

    def scores(grad):
        return jnp.asarray(radius, grad.dtype) * jnp.concatenate([grad, -grad])

    corners = Corners(lambda n: 2 * n, combine, scores) if axis is None else None
    return LinearOracle(vertex, l1_ball(radius, axis=axis), corners)


@memoise
def l2_ball_vertex(
    radius: chex.Numeric = 1.0, *, axis: _leaves.Axis = None
) -> LinearOracle:
    r"""Make the linear oracle of a 2-norm ball: against the gradient.

    Over :math:`C = \{x : \|x\|_2 \le r\}` the minimiser of :math:`\langle g, x \rangle`
    is :math:`-r g / \|g\|_2`, and zero where the gradient is.

    Args:
        radius: :math:`r > 0`.
        axis: the axis, or axes, of every leaf along which a ball lies; None for one
            ball of all entries of all leaves.

    Returns:
        A `LinearOracle`.

    Raises:
        ValueError: if the radius is not positive and finite.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.l2_ball_vertex(2.0).vertex(jnp.array([3.0, -4.0]))
        Array([-1.2,  1.6], dtype=float32)
    """
    _check_radius(radius)

    def one(g, r):
        top = jnp.max(jnp.abs(g), -1, keepdims=True)
        unit = g / jnp.where(top > 0, top, 1)
        square = jnp.sum(unit**2, -1, keepdims=True)
        return -r * unit / jnp.sqrt(jnp.where(square > 0, square, 1))

    def vertex(grad):
        return _leaves.groupwise(one, grad, axis, radius=radius)

    return LinearOracle(vertex, l2_ball(radius, axis=axis))


@memoise
def box_vertex(lower: chex.ArrayTree, upper: chex.ArrayTree) -> LinearOracle:
    r"""Make the linear oracle of a box: the corner against the gradient.

    Over :math:`C = \{x : l \le x \le u\}` the minimiser of :math:`\langle g, x \rangle`
    has the entries :math:`l_i` where :math:`g_i > 0`, else :math:`u_i`.

    Args:
        lower: :math:`l`, finite; a scalar, an array that broadcasts to every leaf, or a
            pytree like params.
        upper: :math:`u`, in the same forms.

    Returns:
        A `LinearOracle`.

    Raises:
        ValueError: if known bounds cross or are infinite.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.box_vertex(-1.0, 2.0).vertex(jnp.array([3.0, -1.0, 0.0]))
        Array([-1.,  2.,  2.], dtype=float32)
    """
    for name, bound in (("lower", lower), ("upper", upper)):
        for number in map(_leaves.known, jax.tree.leaves(bound)):
            if number is not None and not np.all(np.isfinite(number)):
                raise ValueError(
                    f"{name} must be finite, but it is {number}: a linear function "
                    "has no least vertex on an unbounded box."
                )

    def vertex(grad):
        pick = lambda g, lower, upper: jnp.where(g > 0, lower, upper)
        return _leaves.leafwise(pick, grad, lower=lower, upper=upper)

    return LinearOracle(vertex, box(lower, upper))


@memoise
def nuclear_ball_vertex(radius: chex.Numeric = 1.0) -> LinearOracle:
    r"""Make the linear oracle of a nuclear-norm ball: one singular pair.

    Over the matrices :math:`C = \{x : \|x\|_* \le r\}` the minimiser of :math:`\langle
    g, x \rangle` is :math:`-r u v^\top` with the leading singular vectors of :math:`g`,
    from its full decomposition. Every leaf is a matrix in a ball of its own; leading
    axes are batches.

    Args:
        radius: :math:`r > 0`.

    Returns:
        A `LinearOracle`, without a projection.

    Raises:
        ValueError: if the radius is not positive and finite; while tracing, if a leaf
            is no matrix.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.nuclear_ball_vertex(2.0).vertex(jnp.diag(jnp.array([1.0, 3.0])))
        Array([[ 0.,  0.],
               [ 0., -2.]], dtype=float32)

    References:
        Jaggi, `Revisiting Frank-Wolfe: Projection-Free Sparse Convex Optimization
        <https://proceedings.mlr.press/v28/jaggi13.html>`_, 2013. Table 1.
    """
    _check_radius(radius)

    def one(g, r):
        if g.ndim < 2:
            raise ValueError(
                f"leaves must be matrices for the nuclear norm, got shape {g.shape}."
            )
        u, _, v = jnp.linalg.svd(g, full_matrices=False)
        return 0 - r * u[..., :, :1] * v[..., :1, :]

    def vertex(grad):
        return _leaves.leafwise(one, grad, radius=radius)

    return LinearOracle(vertex)


def _unit(g, index):
    """One where the index along the last axis is `index`, else zero."""
    return jax.nn.one_hot(index, g.shape[-1], dtype=g.dtype)


def _check_radius(radius):
    known = _leaves.known(radius)
    if np.ndim(radius) or (known is not None and not 0 < known < np.inf):
        raise ValueError(f"radius must be one positive, finite number, got {radius}.")
