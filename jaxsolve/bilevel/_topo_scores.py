"""Scores of an order of the nodes: one regression of each node on those before it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.bilevel._topo_graphs import check_square, places_of
from jaxsolve.core import Status

NodeScore = Callable[[Any, chex.Array, chex.Array], tuple[chex.Array, chex.Array]]


class Scores(NamedTuple):
    """The lower level of `topo`: what an order of the nodes is worth.

    Attributes:
        fit: as ``fit(data, order) -> (values, weights)``: the score of each node, (d,),
            and the weights W, (d, d), with :math:`W_{ij} = 0` unless node i precedes
            node j. The score of a node depends on which nodes precede it, not on their
            order.
        slope: as ``slope(data, weights)``, the gradient of the score in all entries of
            W off the diagonal, (d, d); None where it is not known.
    """

    fit: Callable[[Any, chex.Array], tuple[chex.Array, chex.Array]]
    slope: Callable[[Any, chex.Array], chex.Array] | None = None


@core.memoise
def linear_scores(ridge: chex.Numeric = 0.0) -> Scores:
    r"""Scores orders by least squares, plain or with a ridge penalty.

    With the second moments :math:`S = X^\top X / n` of n examples of d variables, the
    weights that an order :math:`\pi` allows minimise

    .. math::

        Q(W) = \tfrac{1}{2 n} \|X - X W\|_F^2 + \tfrac{\lambda}{2} \|W\|_F^2,
        \qquad \nabla Q(W) = S W - S + \lambda W

    All d regressions are one Cholesky factorisation :math:`L L^\top` of
    :math:`S + \lambda I`, rows and columns in the order: with
    :math:`U = L \operatorname{diag}(L)^{-1}`,

    .. math::

        W = I - U^{-\top}, \qquad Q = \tfrac12 \textstyle\sum_k (L_{kk}^2 - \lambda)

    Args:
        ridge: :math:`\lambda \ge 0`. At zero, S must be regular: with no more examples
            than variables, or collinear ones, take 1e-8 times its diagonal or more in
            double precision, 1e-4 in single; above 80 variables 1e-3.

    Returns:
        Scores for `topo`, whose data are S, (d, d). Subtract the means of X first, or
        include a constant in the model by other means. Scores are NaN where the matrix
        is singular to rounding: not factorised, or :math:`L_{kk}^2` is at most 10 d
        machine epsilons of its diagonal entry.

    Raises:
        ValueError: if `ridge` is negative; while tracing, if the data are not (d, d).

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import bilevel
        >>> moments = jnp.array([[1.0, 2.0], [2.0, 5.0]])
        >>> values, weights = bilevel.linear_scores().fit(moments, jnp.array([0, 1]))
        >>> print(values, weights[0, 1])
        [0.5 0.5] 2.0
    """
    if core.is_concrete(ridge) and not ridge >= 0:
        raise ValueError(f"ridge must not be negative, got {ridge!r}.")

    def shifted(moments, size):
        moments = jnp.asarray(moments)
        check_square("the data of linear_scores, X.T @ X / n", moments, size)
        moments = moments.astype(core.real_dtype(moments))
        penalty = jnp.asarray(ridge, moments.dtype)
        return moments, penalty, jnp.eye(size, dtype=moments.dtype)

    def fit(moments, order):
        moments, penalty, eye = shifted(moments, order.shape[0])
        places = places_of(order)
        matrix = (moments + penalty * eye)[order[:, None], order[None, :]]
        factor = jnp.linalg.cholesky(matrix)
        pivots = jnp.diagonal(factor)
        inverse = jax.scipy.linalg.solve_triangular(
            factor / pivots[None, :], eye, lower=True, unit_diagonal=True
        )
        weights = jnp.triu(-inverse.T, 1)
        rounding = 10 * order.shape[0] * jnp.finfo(matrix.dtype).eps
        regular = pivots**2 > rounding * jnp.diagonal(matrix)
        values = jnp.where(regular, (pivots**2 - penalty) / 2, jnp.nan)
        return values[places], weights[places[:, None], places[None, :]]

    def slope(moments, weights):
        moments, penalty, eye = shifted(moments, weights.shape[0])
        weights = weights.astype(moments.dtype)
        predicted = jnp.matmul(moments, weights - eye, precision="highest")
        return predicted + penalty * weights

    return Scores(fit, slope)


@core.memoise
def node_scores(score: NodeScore, slope: Callable | None = None) -> Scores:
    """Scores orders by a function that scores one node: any model of it.

    The function is vmapped over all nodes of all candidate orders, so an update of
    `topo` costs d fits a candidate, which the interval between the swapped nodes alone
    would need; take small searches where a fit is dear.

    Args:
        score: as ``score(data, node, mask) -> (value, weights)``: how badly the best
            model explains node ``node``, (), int32, by those in ``mask``, (d,), bool,
            and how much each node counts in it, (d,), real: coefficients, or the norms
            of the first layer of a network, column by column. Weights outside of the
            mask are taken for zero. A value that is NaN rules a candidate out.
        slope: as ``slope(data, weights)``, (d, d), the gradient of the sum of values in
            the weights, zero ones included; not known by default.

    Returns:
        Scores for `topo`, whose data are whatever the function takes.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import bilevel
        >>> def correlation(data, node, mask):  # with the strongest predecessor alone
        ...     used = jnp.where(mask, data[node], 0)
        ...     return 1 - jnp.max(used**2), used
        >>> scores = bilevel.node_scores(correlation)
        >>> data = jnp.array([[1.0, 0.5], [0.5, 1.0]])
        >>> print(scores.fit(data, jnp.array([1, 0]))[0])
        [0.75 1.  ]
    """

    def fit(data, order):
        size = order.shape[0]
        places = places_of(order)
        before = places[None, :] < places[:, None]
        nodes = jnp.arange(size, dtype=jnp.int32)
        values, weights = jax.vmap(score, (None, 0, 0))(data, nodes, before)
        if jnp.shape(values) != (size,) or jnp.shape(weights) != (size, size):
            raise ValueError(
                f"score returns a scalar and weights ({size},), got shapes "
                f"{jnp.shape(values)[1:]} and {jnp.shape(weights)[1:]}."
            )
        return values, jnp.where(before, weights, 0).T

    return Scores(fit, slope)


@core.memoise
def solver_scores(
    fun: core.Objective,
    solver: core.Solver,
    penalty: Callable[[chex.Array], chex.Array] | None = None,
    *,
    max_steps: int = 1000,
    tol: float | None = None,
) -> Scores:
    """Scores orders by a solver that fits one node: lasso, logistic regression, ...

    Args:
        fun: the smooth part of a node's score, as ``fun(weights, (data, node, mask)) ->
            scalar`` with weights (d,), of which it reads only those in ``mask``, (d,),
            bool.
        solver: minimises it, together with the penalty if there is one, from zero; its
            data are the triple ``(data, node, mask)``.
        penalty: what the solver adds to `fun`, as ``penalty(weights) -> scalar``.
        max_steps: of the solver; a run that they end has the score NaN, which rules the
            candidate out.
        tol: of the solver; well below the differences of scores that matter.

    Returns:
        Scores for `topo`; their slope is the gradient of `fun` alone, so that a lasso
        of weight w takes ``topo(scores, min_slope=w)``.

    Raises:
        ValueError: while running, if `solver` is not a solver.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import bilevel, composite, prox
        >>> def fun(w, problem):
        ...     moments, node, mask = problem
        ...     w = jnp.where(mask, w, 0)
        ...     return w @ moments @ w / 2 - moments[node] @ w + moments[node, node] / 2
        >>> lasso = composite.proximal_gradient(fun, prox.l1(0.5), 0.1)
        >>> scores = bilevel.solver_scores(fun, lasso, lambda w: 0.5 * jnp.sum(abs(w)))
        >>> moments = jnp.array([[1.0, 2.0], [2.0, 5.0]])
        >>> print(scores.fit(moments, jnp.array([0, 1]))[1][0, 1].round(2))
        1.5
    """

    def score(data, node, mask):
        problem = data, node, mask
        start = jnp.zeros(mask.shape, core.real_dtype(data))
        out = core.run(solver, start, problem, max_steps=max_steps, tol=tol)
        solved = (out.status == Status.CONVERGED) | (out.status == Status.STALLED)
        weights = jnp.where(mask, out.params, 0)
        value = fun(weights, problem)
        value = value if penalty is None else value + penalty(weights)
        return jnp.where(solved, value, jnp.nan), weights

    def slope(data, weights):
        nodes = jnp.arange(weights.shape[0], dtype=jnp.int32)
        others = nodes[None, :] != nodes[:, None]
        one = lambda w, node, mask: jax.grad(fun)(w, (data, node, mask))
        return jax.vmap(one)(weights.T, nodes, others).T

    return node_scores(score, slope)
