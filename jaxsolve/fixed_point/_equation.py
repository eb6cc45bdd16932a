"""The user's equation, checked and raveled, and the steps towards its root."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve import core
from jaxsolve.linesearch import ACCEPTED, FAILED, Search

Equation = Callable[[core.Params, core.Data], core.Params]
HIGHEST = jax.lax.Precision.HIGHEST
LARGEST = 4 * 2**30  # bytes: no dense Jacobian is larger


def equation(fun: Equation) -> Callable:
    """Makes of the user's function one whose value is a vector of the size of params.

    Raises:
        ValueError: while tracing, if it has another size, or is not of real floats.
    """

    def residual(params, data=None):
        value = jax.tree.map(jnp.asarray, fun(params, data))
        dtypes = [x.dtype for x in jax.tree.leaves(value)]
        if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
            raise ValueError(
                f"an equation must have real float values, got {[*map(str, dtypes)]}; "
                "of complex ones return real and imaginary parts as two leaves."
            )
        vector, _ = core.ravel(value)
        size = sum(np.size(x) for x in jax.tree.leaves(params))
        if vector.size != size:
            raise ValueError(
                f"a root needs as many equations as params has entries, {size}, got "
                f"{vector.size}; with more or fewer equations minimise their squares, "
                "by a solver of least squares."
            )
        return vector.astype(core.real_dtype(params))

    return residual


def norm(value: chex.Array) -> chex.Array:
    """The Euclidean norm, without overflow: (), real; infinite where not finite."""
    top = jnp.max(jnp.abs(value), initial=0)
    unit = jnp.where((top > 0) & jnp.isfinite(top), top, 1)
    size = unit * jnp.sqrt(jnp.sum((value / unit) ** 2))
    return jnp.where(jnp.isfinite(size), size, jnp.inf)


def check_dense(x: chex.Array, name: str) -> None:
    """Refuses a Jacobian that cannot be meant to be formed."""
    if x.size**2 * x.dtype.itemsize > LARGEST:
        raise ValueError(
            f"{name} forms the Jacobian, {x.size} x {x.size}, of "
            f"{x.size**2 * x.dtype.itemsize / 2**30:.3g} GiB; use newton_krylov or "
            "broyden, which know it by products or by differences."
        )


def jacobian(push: Callable, x: chex.Array) -> chex.Array:
    """The matrix of a linear map on vectors like `x`; zeros where it is not finite."""
    columns = jax.vmap(push)(jnp.eye(x.size, dtype=x.dtype))
    return jnp.where(jnp.isfinite(columns), columns, 0).T


def scaled(matrix: chex.Array, axis: int) -> tuple[chex.Array, chex.Array]:
    """Divides rows (axis 1) or columns (axis 0) by their largest entries."""
    size = jnp.max(jnp.abs(matrix), axis=axis, keepdims=True, initial=0)
    size = jnp.where(size > 0, size, 1)
    return matrix / size, jnp.squeeze(size, axis)


def column_norms(matrix: chex.Array) -> chex.Array:
    """The Euclidean norms of the columns, without overflow: (n,), real."""
    unit, top = scaled(matrix, 0)
    return top * jnp.sqrt(jnp.sum(unit**2, axis=0))


def factorised(matrix: chex.Array) -> tuple[Callable, chex.Array]:
    """LU of a matrix whose rows and columns are equilibrated first.

    Returns:
        The function that solves with it, and whether it is regular: (), bool.
    """
    equal, row = scaled(matrix, 1)
    equal, column = scaled(equal, 0)
    factors = jax.scipy.linalg.lu_factor(equal)
    pivots = jnp.abs(jnp.diagonal(factors[0]))
    eps = float(jnp.finfo(matrix.dtype).eps)
    least = 8 * matrix.shape[0] ** 0.5 * eps * jnp.max(pivots, initial=0)
    regular = jnp.all(pivots > least)

    def solve(right):
        ones = tuple(range(1, right.ndim))
        right = right / jnp.expand_dims(row, ones)
        solution = jax.scipy.linalg.lu_solve(factors, right)
        return solution / jnp.expand_dims(column, ones)

    return solve, regular


def damped(matrix: chex.Array, right: chex.Array, damping: chex.Array) -> chex.Array:
    r"""Minimises :math:`\|A d - b\|^2 + \lambda \|D d\|^2`, D the columns' norms.

    So a step does not depend on the units of params, and descends along
    :math:`\|b - A d\|` whatever the rank of the matrix. `right` is b, or several.
    """
    size = column_norms(matrix)
    size = jnp.where(size > 0, size, 1)
    unit = matrix / size[None, :]
    gram = jnp.matmul(unit.T, unit, precision=HIGHEST)
    gram = gram + damping * jnp.eye(gram.shape[0], dtype=gram.dtype)
    product = jnp.matmul(unit.T, right, precision=HIGHEST)
    factor = jnp.linalg.cholesky(gram)
    solution = jax.scipy.linalg.cho_solve((factor, True), product)
    return solution / jnp.expand_dims(size, tuple(range(1, right.ndim)))


def settle(search: Search, moved: chex.Array, value: chex.Array) -> Search:
    """Ends a search whose params were changed meanwhile, and were evaluated instead."""
    there = jnp.where(jnp.isfinite(value), ACCEPTED, FAILED).astype(jnp.int32)
    return search._replace(outcome=core.once(jnp.where(moved, there, search.outcome)))


def strictly(search: Search, value: chex.Array) -> Search:
    """Fails a search that accepts no decrease at all, being asked for less than one."""
    level = (search.outcome == ACCEPTED) & ~(value < search.value)
    level = level & jnp.isfinite(search.value)
    return search._replace(outcome=jnp.where(level, FAILED, search.outcome))


def stepped(point, direction, search, moved):
    """The trial of a search; where params were changed meanwhile, these."""
    return point + jnp.where(moved, 0, search.stepsize) * direction
