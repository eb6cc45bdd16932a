"""The linear system behind an implicit derivative, solved by declared structure."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx

from jaxsolve.core._lanes import any_lane
from jaxsolve.core._tree import ravel, where

DENSE_LIMIT = 1000  # unknowns up to which the matrix is formed and factorised
FALLBACK_LIMIT = 2000  # up to which LU is tried where a Krylov method has failed
PSD_DENSE_LIMIT = 50  # above which conjugate gradients are tried first
_DENSE_BLOCK = 64  # columns of it formed at a time: bounds the memory


class Structure(NamedTuple):
    """What is declared of the Jacobian, and who solves with it."""

    linear_solve: lx.AbstractLinearSolver | Callable | None
    symmetric: bool
    psd: bool


class System(NamedTuple):
    """A square linear map on vectors, its transpose, and optionally its operator."""

    mv: Callable
    transpose_mv: Callable
    operator: lx.AbstractLinearOperator | None = None

    def transpose(self) -> "System":
        """The system with the transposed matrix."""
        operator = None if self.operator is None else self.operator.T
        return System(self.transpose_mv, self.mv, operator)


def solve(
    system: System, rhs: chex.Array, structure: Structure
) -> tuple[chex.Array, chex.Array]:
    """Solves with the matrix of `system`.

    Returns:
        The solution, like `rhs`, and whether it can be trusted: (), bool. A solve by
        the defaults is trusted if its residual is small; the user's own always.
    """
    trusted = jnp.ones((), bool)
    if callable(structure.linear_solve) and not isinstance(
        structure.linear_solve, lx.AbstractLinearSolver
    ):
        return structure.linear_solve(system.mv, rhs), trusted
    if system.operator is not None:
        solver = structure.linear_solve or lx.AutoLinearSolver(well_posed=True)
        return lx.linear_solve(system.operator, rhs, solver, throw=False).value, trusted
    if structure.linear_solve is not None:
        operator = _operator(system, rhs, structure)
        solution = lx.linear_solve(operator, rhs, structure.linear_solve, throw=False)
        return solution.value, trusted
    if rhs.size <= (PSD_DENSE_LIMIT if structure.psd else DENSE_LIMIT):
        return _dense(system, rhs)
    solution, trusted = _krylov(system, rhs, structure)
    if rhs.size > FALLBACK_LIMIT:
        return solution, trusted
    # Too hard for a Krylov method, but not too large for LU.
    return jax.lax.cond(
        any_lane(~trusted),
        lambda: where(trusted, (solution, trusted), _dense(system, rhs)),
        lambda: (solution, trusted),
    )


def _dense(system, rhs):
    columns = jax.lax.map(
        system.mv, jnp.eye(rhs.size, dtype=rhs.dtype), batch_size=_DENSE_BLOCK
    )
    # Equilibrated, so that units of params do not look like a singular matrix.
    matrix, row = _scaled(columns.T, 1)
    matrix, column = _scaled(matrix, 0)
    factors = jax.scipy.linalg.lu_factor(matrix)
    pivots = jnp.abs(jnp.diagonal(factors[0]))
    eps = float(jnp.finfo(rhs.dtype).eps)
    regular = jnp.min(pivots) > 8 * rhs.size**0.5 * eps * jnp.max(pivots)
    solution = jax.scipy.linalg.lu_solve(factors, rhs / row) / column
    return solution, regular & _is_small(system, solution, rhs, 1e-2)


def _scaled(matrix, axis):
    """Divides rows (axis 1) or columns (axis 0) by their largest entries."""
    size = jnp.max(jnp.abs(matrix), axis=axis)
    size = jnp.where(size > 0, size, 1)
    return matrix / jnp.expand_dims(size, axis), size


def _krylov(system, rhs, structure):
    eps = float(jnp.finfo(rhs.dtype).eps)
    method = (lx.CG if structure.psd else lx.BiCGStab)(eps**0.8, eps**0.8)
    operator = _operator(system, rhs, structure)
    solution = lx.linear_solve(operator, rhs, method, throw=False).value
    return solution, _is_small(system, solution, rhs, eps**0.5)


def _is_small(system, solution, rhs, rtol):
    gap = jnp.linalg.norm(system.mv(solution) - rhs)
    return gap <= rtol * jnp.linalg.norm(rhs)


def _operator(system, rhs, structure):
    tags = []
    if structure.psd:
        tags = [lx.positive_semidefinite_tag]
    elif structure.symmetric:
        tags = [lx.symmetric_tag]
    return lx.FunctionLinearOperator(
        system.mv, jax.eval_shape(lambda: rhs), frozenset(tags)
    )


def solve_linear(
    matvec: Callable,
    rhs: chex.ArrayTree,
    *,
    symmetric: bool = False,
    psd: bool = False,
    linear_solve: lx.AbstractLinearSolver | Callable | None = None,
) -> chex.ArrayTree:
    """Solves with a linear map on trees, differentiably and transposably.

    By LU up to 1,000 unknowns and BiCGStab above; where `psd`, by CG above 50. A solve
    that failed is not a number.

    Args:
        matvec: as ``matvec(tree) -> tree``, linear, of trees like `rhs`.
        rhs: a tree of float arrays.
        symmetric: whether the map is symmetric.
        psd: whether it is symmetric positive semi-definite.
        linear_solve: as in `implicit`.

    Returns:
        The solution, like `rhs`.
    """
    b, unravel = ravel(rhs)
    symmetric = symmetric or psd
    structure = Structure(linear_solve, symmetric, psd)

    def on_vectors(v):
        return ravel(matvec(unravel(v)))[0].astype(b.dtype)

    def attempt(mv, rhs):
        transposed = jax.linear_transpose(mv, rhs)
        flipped = mv if symmetric else lambda w: transposed(w)[0]
        solution, trusted = solve(System(mv, flipped), rhs, structure)
        nothing = jnp.where(jnp.all(rhs == 0), 0, jnp.nan).astype(rhs.dtype)
        return jnp.where(trusted, solution, nothing)

    solution = jax.lax.custom_linear_solve(
        on_vectors, b, attempt, attempt, symmetric=symmetric
    )
    return unravel(solution)


def operator_system(operator: lx.AbstractLinearOperator) -> System:
    """Makes a system of a lineax operator on vectors."""
    return System(operator.mv, operator.T.mv, operator)


def convert(function: Callable, *args) -> tuple[Callable, list]:
    """Hoists everything that `function` closes over, whatever it returns.

    Unlike `jax.closure_convert` it hoists integers too, allows other leaves than
    arrays in the result, and keeps no reference to `function`.

    Returns:
        A function of `(consts, *args)`, and the consts, a list of arrays.
    """
    static = None

    def arrays_of(*args):
        nonlocal static
        arrays, static = eqx.partition(function(*args), eqx.is_array)
        return arrays

    closed, shapes = jax.make_jaxpr(arrays_of, return_shape=True)(*args)
    jaxpr, treedef, rest = closed.jaxpr, jax.tree.structure(shapes), static

    def call(consts, *args):
        flat = jax.core.eval_jaxpr(jaxpr, consts, *jax.tree.leaves(args))
        return eqx.combine(jax.tree.unflatten(treedef, flat), rest)

    return call, list(closed.consts)
