"""Objectives with a structure that coordinate descent can use.

Params are one array of shape (n,) or (n, k), whose rows are the blocks; or a tree of
such arrays, whose rows follow one another.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core

_EXACT = jax.lax.Precision.HIGHEST


class LinearModel(NamedTuple):
    r"""An objective of predictions, :math:`\ell(A x) + \langle b, x \rangle`.

    It is an objective like any other, called as ``model(params, data)``. Params are one
    array of shape (n,) or (n, k), or a tree of arrays that make one when they are
    concatenated; predictions :math:`A x` have the shape (m,) or (m, k).

    Attributes:
        loss: :math:`\ell`, as ``loss(predictions, data) -> scalar``, smooth.
        matrix: :math:`A`, as ``matrix(data) -> (m, n)``.
        curvature: a Lipschitz constant of the gradient of the loss, as
            ``curvature(data) -> scalar``.
        linear: :math:`b`, as ``linear(data)``, (n,) or (n, k); None where it is zero.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import composite
        >>> model = composite.LinearModel(
        ...     loss=lambda p, data: jnp.sum((p - data[1]) ** 2) / 2,
        ...     matrix=lambda data: data[0],
        ...     curvature=lambda data: 1.0,
        ... )
        >>> print(model(jnp.ones(2), (jnp.eye(2), jnp.array([1.0, 3.0]))))
        2.0
    """

    loss: Callable[[chex.Array, core.Data], chex.Array]
    matrix: Callable[[core.Data], chex.Array]
    curvature: Callable[[core.Data], chex.Numeric]
    linear: Callable[[core.Data], chex.Array] | None = None

    def __call__(self, params: core.Params, data: core.Data = None) -> chex.Array:
        """Evaluates the objective."""
        params = rows(params)
        matrix = jnp.asarray(self.matrix(data))
        value = self.loss(_product(matrix, params), data)
        if self.linear is None:
            return value
        linear = jnp.asarray(self.linear(data)).astype(params.dtype)
        return value + _inner(linear, params).astype(value.dtype)


class QuadraticModel(NamedTuple):
    r"""A quadratic, :math:`\tfrac{1}{2} \langle x, Q x \rangle - \langle b, x \rangle`.

    It is an objective like any other, called as ``model(params, data)``. Params are as
    for `LinearModel`.

    Attributes:
        matrix: :math:`Q`, as ``matrix(data) -> (n, n)``, symmetric.
        linear: :math:`b`, as ``linear(data)``, (n,) or (n, k).
    """

    matrix: Callable[[core.Data], chex.Array]
    linear: Callable[[core.Data], chex.Array]

    def __call__(self, params: core.Params, data: core.Data = None) -> chex.Array:
        """Evaluates the objective."""
        params = rows(params)
        product = _product(jnp.asarray(self.matrix(data)), params)
        linear = jnp.asarray(self.linear(data)).astype(product.dtype)
        return _inner(params.astype(product.dtype), product / 2 - linear)


def least_squares_model() -> LinearModel:
    r"""Make least squares, :math:`\tfrac{1}{2 m} \|A x - y\|^2` of data ``(A, y)``.

    With m rows in A, and targets of shape (m,) or (m, k).

    Returns:
        A `LinearModel`: always the same one.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import composite
        >>> data = jnp.eye(2), jnp.array([1.0, 3.0])
        >>> print(composite.least_squares_model()(jnp.ones(2), data))
        1.0
    """
    return _SQUARED


def logistic_model() -> LinearModel:
    r"""Make the mean logistic loss of data ``(A, y)`` with labels 0 and 1.

    .. math::

        \tfrac{1}{m} \sum_i \log(1 + e^{a_i^\top x}) - y_i a_i^\top x

    For params and labels of shape (n, k) and (m, k) it is the sum over k binary tasks.

    Returns:
        A `LinearModel`: always the same one.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import composite
        >>> data = jnp.eye(2), jnp.array([1.0, 0.0])
        >>> print(jnp.round(composite.logistic_model()(jnp.zeros(2), data), 4))
        0.6931
    """
    return _LOGISTIC


def softmax_model() -> LinearModel:
    r"""Make the mean multinomial logistic loss of data ``(A, y)``, y of integers.

    .. math::

        \tfrac{1}{m} \sum_i \log \textstyle\sum_c e^{a_i^\top x_c} - a_i^\top x_{y_i}

    with one column :math:`x_c` of params, (n, k), for each class.

    Returns:
        A `LinearModel`: always the same one.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import composite
        >>> data = jnp.eye(2), jnp.array([0, 2])
        >>> print(jnp.round(composite.softmax_model()(jnp.zeros((2, 3)), data), 4))
        1.0986
    """
    return _SOFTMAX


def svm_dual_model() -> LinearModel:
    r"""Make the dual of multiclass linear support vector machines.

    For data ``(X, Y, l2)`` of features (m, n), one-hot labels (m, k) and the weight
    of a ridge, and with a row of params, (m, k), on the simplex for each sample, it is

    .. math::

        \tfrac{1}{2 \lambda} \|X^\top (Y - \beta)\|^2 - \langle \beta, 1 - Y \rangle.

    The primal weights are :math:`X^\top (Y - \beta) / \lambda`, (n, k).

    Returns:
        A `LinearModel`: always the same one.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import composite
        >>> data = jnp.eye(2), jnp.eye(2), 1.0
        >>> print(composite.svm_dual_model()(jnp.full((2, 2), 0.5), data))
        -0.5

    References:
        Crammer and Singer, `On the Algorithmic Implementation of Multiclass
        Kernel-based Vector Machines <https://www.jmlr.org/papers/v2/crammer01a.html>`_,
        2001.
    """
    return _SVM_DUAL


def _mean_squares(predictions, data):
    return jnp.sum((predictions - data[1]) ** 2) / (2 * predictions.shape[0])


def _mean_logistic(predictions, data):
    labels = jnp.asarray(data[1]).astype(predictions.dtype)
    return jnp.sum(jax.nn.softplus(predictions) - labels * predictions) / len(labels)


def _mean_softmax(predictions, data):
    right = jnp.take_along_axis(predictions, jnp.asarray(data[1])[:, None], 1)
    return jnp.mean(jax.nn.logsumexp(predictions, axis=1) - right[:, 0])


def _rows(data):
    return jnp.asarray(data[0])


def _per_row(scale):
    return lambda data: scale / data[0].shape[0]


_SQUARED = LinearModel(_mean_squares, _rows, _per_row(1.0))
_LOGISTIC = LinearModel(_mean_logistic, _rows, _per_row(0.25))
_SOFTMAX = LinearModel(_mean_softmax, _rows, _per_row(0.5))


def _svm_loss(predictions, data):
    # |p - X^T Y|^2 / 2 l2, where the products with Y are a linear term and a constant.
    features, labels, ridge = data
    features, labels = jnp.asarray(features), jnp.asarray(labels)
    target = jnp.matmul(features.T, labels, precision=_EXACT)
    return jnp.sum((target - predictions) ** 2) / (2 * ridge)


_SVM_DUAL = LinearModel(
    loss=_svm_loss,
    matrix=lambda data: jnp.asarray(data[0]).T,
    curvature=lambda data: 1 / data[2],
    linear=lambda data: jnp.asarray(data[1]) - 1,
)


def _product(matrix, params):
    dtype = core.real_dtype((matrix, params))
    matrix, params = matrix.astype(dtype), params.astype(dtype)
    return jnp.matmul(matrix, params, precision=_EXACT)


def _inner(left, right):
    return jnp.vdot(left, right, precision=_EXACT)


def rows(params: core.Params) -> chex.Array:
    """Params as one array whose rows are the blocks: (n,) or (n, k)."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(params)]
    if len({leaf.shape[1:] for leaf in leaves}) != 1 or not all(x.ndim for x in leaves):
        raise ValueError(
            "params must be an array whose rows are the blocks, or a tree of arrays "
            f"alike but for their first axes, got {jax.tree.map(jnp.shape, params)}."
        )
    if len(leaves) == 1:
        return leaves[0]
    dtype = core.real_dtype(params)
    return jnp.concatenate([leaf.astype(dtype) for leaf in leaves])


def like_rows(array: chex.Array, params: core.Params) -> core.Params:
    """The inverse of `rows`: an array as a tree like params, in the dtypes of these."""
    leaves, treedef = jax.tree.flatten(params)
    ends = list(itertools.accumulate(leaf.shape[0] for leaf in leaves))
    parts = jnp.split(array, ends[:-1])
    parts = [part.astype(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(treedef, parts)
