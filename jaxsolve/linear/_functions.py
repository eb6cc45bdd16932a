"""Products of functions of symmetric operators, differentiable."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.linear._lanczos import combine, function_times_start, lanczos
from jaxsolve.linear._operator import (
    HIGHEST,
    Operator,
    as_product,
    cast_like,
    check_count,
    inner,
    widened,
)


def matrix_function(
    fun: Callable[[chex.Array], chex.Array],
    operator: Operator,
    vector: chex.ArrayTree,
    steps: int,
    *,
    tol: chex.Numeric | None = None,
) -> chex.ArrayTree:
    r"""Multiplies a function of a symmetric operator by a vector.

    With the basis :math:`Q` of :func:`lanczos` from :math:`b`, and the eigenpairs
    :math:`T = U \Theta U^\top`, computes

    .. math::

        f(A) b \approx \|b\| Q U f(\Theta) U^\top e_1

    exact where the Krylov space is invariant, or f a polynomial of a degree below m.

    It is differentiable in reverse mode: in b, in what `operator` and `fun` close over.
    The derivative is not that of the eigendecomposition, which is infinite at multiple
    eigenvalues: for a cotangent w it projects onto a second Krylov space, that from w,
    with Ritz pairs :math:`(\theta'_i, x'_i)` beside :math:`(\theta_j, x_j)`, and takes

    .. math::

        \bar b &= f(A) w \\
        \langle \bar A, E \rangle &= \|w\| \|b\| \sum_{ij} u'_{1i} u_{1j}
        \frac{f(\theta'_i) - f(\theta_j)}{\theta'_i - \theta_j} x_i'^\top E x_j

    Args:
        fun: :math:`f`, smooth on the spectrum, as ``fun(number) -> number``.
        operator: :math:`A`, symmetric; see :func:`lanczos`.
        vector: :math:`b`, a tree.
        steps: :math:`m`, the products taken.
        tol: below which :func:`lanczos` has broken down.

    Returns:
        :math:`f(A) b`, a tree like `vector` of its dtypes.

    Raises:
        ValueError: as :func:`lanczos`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import linear
        >>> matrix, b = jnp.diag(jnp.array([1.0, 4.0, 9.0])), jnp.ones(3)
        >>> print(jnp.round(linear.matrix_function(jnp.sqrt, matrix, b, 3)))
        [1. 2. 3.]

    References:
        Higham, `Functions of Matrices <https://doi.org/10.1137/1.9780898717778>`_,
        2008. Chapters 3 and 13.
    """
    check_count("steps", steps)
    product, like = as_product(operator, vector)
    fun, numbers = jax.closure_convert(fun, jnp.zeros((), core.real_dtype(like)))
    product, weights = jax.closure_convert(product, vector)

    def project(weights, start):
        return lanczos(lambda v: product(v, *weights), start, steps, tol=tol)

    def evaluate(numbers, values):
        return jax.vmap(lambda x: fun(x, *numbers))(values)

    @jax.custom_vjp
    def apply(numbers, weights, vector):
        return forward(numbers, weights, vector)[0]

    def forward(numbers, weights, vector):
        krylov = project(weights, vector)
        image = function_times_start(krylov, evaluate(numbers, krylov.values))
        return cast_like(image, vector), (krylov, numbers, weights, vector)

    def backward(saved, cotangent):
        krylov, numbers, weights, vector = saved
        dual = project(weights, cotangent)
        image = function_times_start(dual, evaluate(numbers, dual.values))
        matrix = _coupling(lambda x: fun(x, *numbers), dual, krylov)
        share = _to_operator(product, weights, matrix, dual, krylov, vector)
        slopes = _to_function(evaluate, numbers, krylov, cotangent)
        return slopes, share, cast_like(image, vector)

    apply.defvjp(forward, backward)
    return apply(numbers, weights, vector)


def _coupling(fun, dual, krylov):
    """The numbers by which pairs of Ritz vectors enter: (m, m), dual ones in rows."""
    left, right = dual.values[:, None], krylov.values[None, :]
    s, t = jnp.broadcast_arrays(left, right)
    every = jax.vmap(jax.vmap(fun))
    scale = jnp.maximum(jnp.abs(s), jnp.abs(t))
    near = jnp.abs(s - t) <= float(jnp.finfo(s.dtype).eps) ** (1 / 3) * scale
    # The mean of both slopes is as exact as a quotient, and stays on the spectrum.
    slope = jax.vmap(jax.vmap(jax.grad(fun)))
    slopes = slope(jnp.where(near, (s + t) / 2, s))
    quotients = (every(s) - every(t)) / jnp.where(near, 1, s - t)
    first = dual.norm * dual.rotation[0]
    second = krylov.norm * krylov.rotation[0]
    factors = first[:, None] * second[None, :]
    return jnp.where(factors == 0, 0, factors * jnp.where(near, slopes, quotients))


def _to_operator(product, weights, matrix, dual, krylov, like):
    """The cotangent of what the operator is made of, a product at a time."""
    into = jnp.matmul(dual.rotation, matrix, precision=HIGHEST)
    left = combine(dual.basis, into)
    right = combine(krylov.basis, krylov.rotation)

    def add(total, pair):
        x, y = (cast_like(v, like) for v in pair)
        image, pull = jax.vjp(lambda weights: product(x, *weights), weights)
        (share,) = pull(cast_like(y, image))
        return jax.tree.map(jnp.add, total, share), None

    total = jax.tree.map(jnp.zeros_like, weights)
    return jax.lax.scan(add, total, (right, left))[0]


def _to_function(evaluate, numbers, krylov, cotangent):
    """The cotangent of the numbers that the function is made of."""
    vectors = combine(krylov.basis, krylov.rotation)
    dots = jax.vmap(lambda x: inner(x, widened(cotangent)))(vectors)
    values, pull = jax.vjp(lambda numbers: evaluate(numbers, krylov.values), numbers)
    share = krylov.norm * krylov.rotation[0] * dots
    return pull(share.astype(values.dtype))[0]
