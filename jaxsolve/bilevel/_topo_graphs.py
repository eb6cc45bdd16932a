"""Weighted graphs as matrices: how cyclic they are, and orders of their nodes."""

import chex
import jax
import jax.numpy as jnp
from jax.scipy.linalg import expm

from jaxsolve import core


def logdet_acyclicity(weights: chex.Array) -> chex.Array:
    r"""Measures the cycles of a graph by a determinant.

    .. math::

        h(A) = -\log\det(I - A) = \sum_{k \ge 1} \operatorname{tr}(A^k) / k,
        \qquad \nabla h(A) = (I - A)^{-\top}

    for a matrix without negative entries of spectral radius below one, zero if and only
    if the graph has no cycle. Entry (i, j) of the gradient is the weight of all walks
    from j to i, each the product of its edges.

    Args:
        weights: A, (d, d): :math:`A_{ij} \ge 0` is the weight of the edge from i to j.

    Returns:
        h, a scalar; meaningless where the spectral radius is one or more.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve import bilevel
        >>> path = jnp.diag(jnp.array([2.0, 3.0]), 1)
        >>> print(bilevel.logdet_acyclicity(path) == 0)
        True
        >>> print(jax.grad(bilevel.logdet_acyclicity)(path)[2, 0])
        6.0

    References:
        Bello, Aragam and Ravikumar, `DAGMA: Learning DAGs via M-matrices and a
        Log-Determinant Acyclicity Characterization <https://arxiv.org/abs/2209.08037>`_,
        2022, Theorem 1.
    """
    return -jnp.linalg.slogdet(_eye(weights) - weights)[1]


@jax.custom_jvp
def exp_acyclicity(weights: chex.Array) -> chex.Array:
    r"""Measures the cycles of a graph by the matrix exponential.

    .. math::

        h(A) = \operatorname{tr}(e^A) - d = \sum_{k \ge 1} \operatorname{tr}(A^k) / k!,
        \qquad \nabla h(A) = (e^A)^\top

    for any matrix without negative entries, zero if and only if the graph has no cycle.

    Args:
        weights: A, (d, d): :math:`A_{ij} \ge 0` is the weight of the edge from i to j.

    Returns:
        h, a scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import bilevel
        >>> cycle = jnp.array([[0.0, 1.0], [1.0, 0.0]])
        >>> print(f"{bilevel.exp_acyclicity(cycle):.4f}")
        1.0862

    References:
        Zheng, Aragam, Ravikumar and Xing, `DAGs with NO TEARS: Continuous Optimization
        for Structure Learning <https://arxiv.org/abs/1803.01422>`_, 2018, Theorem 1.
    """
    return jnp.trace(expm(weights) - _eye(weights))


@exp_acyclicity.defjvp
def _exp_slope(primals, tangents):
    # That of the exponential itself is slow to compile, and not needed.
    (weights,), (tangent,) = primals, tangents
    power = expm(weights)
    return jnp.trace(power - _eye(weights)), jnp.sum(power.T * tangent)


def polynomial_acyclicity(weights: chex.Array) -> chex.Array:
    r"""Measures the cycles of a graph by a power of its matrix.

    .. math::

        h(A) = \operatorname{tr}((I + A / d)^d) - d,
        \qquad \nabla h(A) = \bigl((I + A / d)^{d - 1}\bigr)^\top

    for any matrix without negative entries, zero if and only if the graph has no cycle.

    Args:
        weights: A, (d, d): :math:`A_{ij} \ge 0` is the weight of the edge from i to j.

    Returns:
        h, a scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import bilevel
        >>> cycle = jnp.array([[0.0, 1.0], [1.0, 0.0]])
        >>> print(bilevel.polynomial_acyclicity(cycle))
        0.5

    References:
        Yu, Chen, Gao and Yu, `DAG-GNN: DAG Structure Learning with Graph Neural
        Networks <https://arxiv.org/abs/1904.10098>`_, 2019, Theorem 1.
    """
    size = weights.shape[0]
    eye = _eye(weights)
    with jax.default_matmul_precision("highest"):
        power = jnp.linalg.matrix_power(eye + weights / size, size)
    return jnp.trace(power - eye)


def _eye(weights):
    return jnp.eye(weights.shape[0], dtype=weights.dtype)


def topological_order(weights: chex.Array) -> chex.Array:
    """Lists the nodes of a graph so that edges lead from earlier to later ones.

    Always the node comes next that those not yet listed send the least weight to. Of
    a graph without cycles this is a topological order; of any other a sensible one.

    Args:
        weights: (d, d), real; entry (i, j) is not zero where an edge leads from i to j.

    Returns:
        The order, (d,), int32: ``order[0]`` is the first node.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import bilevel
        >>> weights = jnp.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
        >>> print(bilevel.topological_order(weights))
        [1 2 0]
    """
    weights = jnp.abs(jnp.asarray(weights))
    size = weights.shape[0]

    def append(place, carry):
        order, left = carry
        incoming = jnp.sum(jnp.where(left[:, None], weights, 0), axis=0)
        finite = jnp.nan_to_num(incoming)  # infinity is for those listed
        node = jnp.argmin(jnp.where(left, finite, jnp.inf)).astype(jnp.int32)
        return order.at[place].set(node), left.at[node].set(False)

    start = jnp.zeros(size, jnp.int32), jnp.ones(size, bool)
    return jax.lax.fori_loop(0, size, append, start)[0]


def complete_dag(order: chex.Array, dtype: chex.ArrayDType = float) -> chex.Array:
    """Makes the matrix with an edge of weight one from every node to all later ones.

    Args:
        order: (d,), integers: a permutation of 0, ..., d - 1.
        dtype: of the result.

    Returns:
        (d, d), zeros and ones, whose only topological order is the given one.

    Raises:
        ValueError: if the order, where it is known, is no permutation.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import bilevel
        >>> print(bilevel.complete_dag(jnp.array([1, 2, 0])))
        [[0. 0. 0.]
         [1. 0. 1.]
         [1. 0. 0.]]
    """
    order = jnp.asarray(order)
    whole = order.ndim == 1 and jnp.issubdtype(order.dtype, jnp.integer)
    if not whole or (
        core.is_concrete(order) and sorted(order.tolist()) != [*range(order.size)]
    ):
        raise ValueError(f"order must be a permutation of 0 to d - 1, got {order}.")
    places = places_of(order)
    return (places[:, None] < places[None, :]).astype(dtype)


def places_of(order: chex.Array) -> chex.Array:
    """The inverse of an order: the place of every node."""
    return jnp.argsort(jnp.asarray(order)).astype(jnp.int32)


def check_square(what: str, matrix: chex.Array, size: int | None = None) -> None:
    """Raises a `ValueError` unless a matrix is real, (d, d), with two nodes or more."""
    shape, dtype = jnp.shape(matrix), jnp.result_type(matrix)
    square = len(shape) == 2 and shape[0] == shape[1] and shape[0] >= 2
    fits = size is None or shape[:1] == (size,)
    if not (square and fits and jnp.issubdtype(dtype, jnp.floating)):
        wanted = "(d, d) with d >= 2" if size is None else f"({size}, {size})"
        raise ValueError(
            f"{what}: a real matrix {wanted} is wanted, got shape {shape} and dtype "
            f"{dtype}."
        )
