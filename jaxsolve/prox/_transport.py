"""Projections onto transport polytopes: matrices of given row and column sums."""

import functools

import chex
import jax.numpy as jnp
import numpy as np

from jaxsolve.core import memoise
from jaxsolve.prox import _leaves, _potentials
from jaxsolve.prox._prox import Prox


@memoise
def transport(a: chex.Array, b: chex.Array) -> Prox:
    r"""Project onto a transport polytope: matrices of given row and column sums.

    For :math:`C = \{P \ge 0 : P 1 = a, P^\top 1 = b\}`, computes

    .. math::

        P_C(S) = \max(S + f 1^\top + 1 g^\top, 0)

    where the potentials :math:`f, g` give the sums. They minimise the dual

    .. math::

        \tfrac{1}{2} \|\max(S + f 1^\top + 1 g^\top, 0)\|^2
        - \langle a, f \rangle - \langle b, g \rangle

    which a semismooth Newton method does until what is left is rounding. With
    :math:`S = -C / \epsilon` the projection is the plan of the cost :math:`C`
    regularised by :math:`\tfrac{\epsilon}{2} \|P\|^2`: sparse, unlike an entropic one.

    Mass may have any unit. Sums that are missed by more than the root of the machine
    epsilon times the largest make all of the projection NaN; rounding keeps them within
    that as long as scores differ by less than about the inverse of the root times the
    total: in single precision 3000 times.

    Derivatives are exact wherever the projection is differentiable. Where an entry is
    zero by a hair, it is as if it remained zero. Where the support of the projection
    falls into parts, the masses of which must then move together, derivatives in the
    marginals meet them in the sense of least squares.

    Args:
        a: the row sums, at least zero, of shape (m,) or with leading axes that
            broadcast to those of params.
        b: the column sums, of shape (n,), likewise, of the same total. What totals
            differ by rounding is taken from b, in proportion; traced totals that differ
            by more leave the set empty, and all of the projection is NaN.

    Returns:
        A proximal operator, of params whose leaves have the shape (..., m, n): every
        matrix is projected by itself. It ignores its stepsize.

    Raises:
        ValueError: if the marginals are known to be negative, without mass or of
            different totals, or if they do not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> similar = jnp.array([[1.0, 0.0, 0.5], [0.0, 0.2, 0.0]])
        >>> project = prox.transport(jnp.array([0.6, 0.4]), jnp.full(3, 1 / 3))
        >>> print((30 * project(similar)).round(2))
        [[10.  0.  8.]
         [ 0. 10.  2.]]

    References:
        Blondel, Seguy and Rolet, `Smooth and Sparse Optimal Transport
        <https://arxiv.org/abs/1710.06276>`_, 2018, (7). Li, Sun and Toh, `On the
        Efficient Computation of a Generalized Jacobian of the Projector over the
        Birkhoff Polytope <https://doi.org/10.1007/s10107-018-1342-9>`_, 2020,
        Algorithm 1.
    """
    return _projection(_potentials.L2, a, b)


@memoise
def birkhoff() -> Prox:
    r"""Project onto the Birkhoff polytope: the doubly stochastic matrices.

    This is :func:`transport` where all row and column sums are one.

    Returns:
        A proximal operator, of params whose leaves have the shape (..., n, n). It
        ignores its stepsize.

    Raises:
        ValueError: if the matrices of params are not square.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> print((8 * prox.birkhoff()(jnp.array([[1.5, 0.0], [0.5, 0.5]]))).round(2))
        [[7. 1.]
         [1. 7.]]

    References:
        Li, Sun and Toh, `On the Efficient Computation of a Generalized Jacobian of the
        Projector over the Birkhoff Polytope
        <https://doi.org/10.1007/s10107-018-1342-9>`_, 2020.
    """
    return _projection(_potentials.L2, None, None)


@memoise
def kl_transport(a: chex.Array, b: chex.Array) -> Prox:
    r"""Project in the Kullback-Leibler sense onto a transport polytope.

    For :math:`C = \{P \ge 0 : P 1 = a, P^\top 1 = b\}`, computes

    .. math::

        \arg\min_{P \in C} \operatorname{KL}(P, \exp(S))
        = \exp(S + f 1^\top + 1 g^\top)

    where the potentials :math:`f, g` give the sums, by sweeps of Sinkhorn's iteration
    in the log domain, each followed by a Newton step on the dual with a line search:
    the sweeps make it safe, the steps make it end. With :math:`S = -C / \epsilon` this
    is the entropic plan of the cost :math:`C`.

    Derivatives are exact, except where the plan nearly falls into parts: they are as if
    it were cut where :math:`P_{ij} / \sqrt{a_i b_j}` is below the machine epsilon.
    Masses of the parts must then move together, and derivatives in the marginals meet
    them in the sense of least squares, as in :func:`transport`.

    Mass may have any unit. Sums that are missed by more than the root of the machine
    epsilon times the largest make all of the projection NaN; rounding keeps them within
    that as long as scores differ by less than about the inverse of the root: in single
    precision 3000.

    This is no proximal operator in the sense of the others, since it measures distance
    by another function than half the squared norm, and takes params to be logarithms:
    it is the map from dual to primal points that mirror descent needs.

    Args:
        a: the row sums, at least zero, of shape (m,) or with leading axes that
            broadcast to those of params.
        b: the column sums, of shape (n,), likewise, of the same total. What totals
            differ by rounding is taken from b, in proportion; traced totals that differ
            by more leave the set empty, and all of the projection is NaN.

    Returns:
        A function ``(params, stepsize) -> params``, of params whose leaves have the
        shape (..., m, n). It ignores its stepsize. Entries of params may be minus
        infinity, as far as the sums can still be met.

    Raises:
        ValueError: if the marginals are known to be negative, without mass or of
            different totals, or if they do not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> project = prox.kl_transport(jnp.array([0.5, 0.5]), jnp.array([0.3, 0.7]))
        >>> print((1000 * project(jnp.array([[1.0, 0.0], [0.0, 0.0]]))).round())
        [[201. 299.]
         [ 99. 401.]]

    References:
        Cuturi, `Sinkhorn Distances <https://arxiv.org/abs/1306.0895>`_, 2013. Brauer,
        Clason, Lorenz and Wirth, `A Sinkhorn-Newton Method for Entropic Optimal
        Transport <https://arxiv.org/abs/1710.06635>`_, 2017.
    """
    return _projection(_potentials.KL, a, b)


@memoise
def kl_birkhoff() -> Prox:
    r"""Project in the Kullback-Leibler sense onto the doubly stochastic matrices.

    This is :func:`kl_transport` where all row and column sums are one.

    Returns:
        A function ``(params, stepsize) -> params``, of params whose leaves have the
        shape (..., n, n). It ignores its stepsize.

    Raises:
        ValueError: if the matrices of params are not square.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> scores = jnp.array([[2.0, 0.0], [0.0, 0.0]])
        >>> print((1000 * prox.kl_birkhoff()(scores)).round())
        [[731. 269.]
         [269. 731.]]

    References:
        Sinkhorn, `A Relationship Between Arbitrary Positive Matrices and Doubly
        Stochastic Matrices <https://doi.org/10.1214/aoms/1177703591>`_, 1964.
    """
    return _projection(_potentials.KL, None, None)


def _projection(geometry, a, b):
    """The operator; marginals of None are ones."""
    if a is not None:
        _check(a, b)

    def project(x):
        shape = x.shape[-2:]
        if x.ndim < 2 or (a is None and shape[0] != shape[1]):
            wanted = "(..., m, n)" if a is not None else "(..., n, n)"
            raise ValueError(
                f"params must be matrices, of shape {wanted}, but a leaf has the shape "
                f"{x.shape}: reshape it, or use prox.separable_sum."
            )
        rows, columns = (
            jnp.ones(size, x.dtype) if v is None else jnp.asarray(v, x.dtype)
            for v, size in zip((a, b), shape, strict=True)
        )
        if (rows.shape[-1], columns.shape[-1]) != shape:
            raise ValueError(
                "a and b must have one entry for each row and column of params, whose "
                f"shape is {x.shape}, but they have the shapes {rows.shape} and "
                f"{columns.shape}: exchange or reshape them."
            )
        rows, columns = (
            jnp.broadcast_to(v, x.shape[:-2] + v.shape[-1:]) for v in (rows, columns)
        )
        one = functools.partial(_one, geometry)
        return jnp.vectorize(one, signature="(m,n),(m),(n)->(m,n)")(x, rows, columns)

    def prox(params, stepsize=1.0):
        del stepsize
        return _leaves.leafwise(project, params)

    return prox


def _check(a, b):
    _leaves.check_at_least_zero(a=a, b=b)
    if jnp.ndim(a) == 0 or jnp.ndim(b) == 0:
        raise ValueError(
            "a and b must be vectors, of row and of column sums, but their shapes are "
            f"{jnp.shape(a)} and {jnp.shape(b)}: give one sum for each row and column."
        )
    known = [_leaves.known(v) for v in (a, b)]
    if any(v is None for v in known):
        return
    left, right = (np.asarray(v, np.float64).sum(-1) for v in known)
    if np.any(left == 0) or np.any(right == 0):
        raise ValueError(
            f"a and b must have mass, but their totals are {left} and {right}: give "
            "each a positive entry."
        )
    if np.any(np.abs(left - right) > _slack(jnp.result_type(a, b)) * left):
        raise ValueError(
            f"a and b must have the same total, but these are {left} and {right}: no "
            "matrix has such sums; scale one of them."
        )


def _slack(dtype):
    """What totals may differ by, relatively, and be the same but for rounding."""
    inexact = jnp.issubdtype(dtype, jnp.inexact)
    return float(jnp.finfo(dtype if inexact else jnp.float32).eps) ** 0.5


def _one(geometry, scores, a, b):
    total = jnp.sum(a)
    other = jnp.sum(b)
    same = jnp.abs(total - other) <= _slack(scores.dtype) * total
    b = b * (total / jnp.where(other > 0, other, 1))
    # A power of two, so that it rounds nothing.
    unit = _leaves.power_of_two(total)
    scores = geometry.scores(scores, unit)
    plan = unit * _potentials.project(geometry, scores, a / unit, b / unit)
    return jnp.where(same & (total > 0), plan, jnp.nan)
