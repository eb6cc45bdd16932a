"""Who solves the adjoint system: methods by name, each prepared at one matrix."""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.scipy.sparse import linalg

DENSE_LIMIT = 1000  # unknowns up to which the matrix is formed by default
PSD_DENSE_LIMIT = 50  # the same where conjugate gradients apply
_BLOCK = 64  # columns of it formed at a time: bounds the memory


class System(NamedTuple):
    """A square matrix known by its products with vectors, (n,) real."""

    mv: Callable  # v -> A v
    vm: Callable  # w -> A^T w
    symmetric: bool
    psd: bool


class Solves(NamedTuple):
    """What a method does with one matrix, to a relative residual of `tol`."""

    solve: Callable  # (rhs, start, tol) -> A^-1 rhs
    transposed: Callable  # (rhs, start, tol) -> A^-T rhs
    definite: chex.Numeric = True  # (), bool: no negative curvature, where that shows.


LinearSolve = Callable[[System, chex.Array], Solves]  # (system, like) -> Solves


def default() -> LinearSolve:
    """LU while the matrix is small, else CG where psd, else BiCGStab."""

    def prepare(system, like):
        limit = PSD_DENSE_LIMIT if system.psd else DENSE_LIMIT
        if like.size <= limit:
            return dense()(system, like)
        return _krylov(_cg if system.psd else linalg.bicgstab, system)

    return prepare


def as_linear_solve(method: LinearSolve | None) -> LinearSolve:
    """The default method, or the one given, which must be one of this file's."""
    if method is None:
        return default()
    makers = default, dense, conjugate_gradient, gmres, normal_cg, neumann
    if method in makers or inspect.ismodule(method) or not _takes_two(method):
        raise ValueError(
            "linear_solve is bilevel.dense(), conjugate_gradient(), gmres(), "
            "normal_cg() or neumann(stepsize, terms), or a function (system, like) -> "
            f"Solves, got {method!r}."
        )
    return method


def _takes_two(method):
    try:
        inspect.signature(method).bind(None, None)
    except (TypeError, ValueError):
        return False
    return True


def dense() -> LinearSolve:
    """Solves by LU of the matrix itself: exact, for at most some thousand unknowns.

    Returns:
        A method for the ``linear_solve`` of a hypergradient.
    """

    def prepare(system, like):
        eye = jnp.eye(like.size, dtype=like.dtype)
        columns = jax.lax.map(system.mv, eye, batch_size=_BLOCK)
        factors = jax.scipy.linalg.lu_factor(columns.T)

        def solve(rhs, start, tol):
            del start, tol
            return jax.scipy.linalg.lu_solve(factors, rhs)

        def transposed(rhs, start, tol):
            del start, tol
            return jax.scipy.linalg.lu_solve(factors, rhs, trans=1)

        definite = _is_definite(columns) if system.psd else True
        return Solves(solve, transposed, definite)

    return prepare


def _is_definite(matrix):
    """Whether a symmetric matrix is positive semi-definite, to rounding."""
    size = jnp.max(jnp.abs(jnp.diagonal(matrix)), initial=0)
    shift = 100 * float(jnp.finfo(matrix.dtype).eps) * size
    shifted = (matrix + matrix.T) / 2 + shift * jnp.eye(len(matrix), dtype=matrix.dtype)
    return jnp.all(jnp.isfinite(jnp.linalg.cholesky(shifted)))


def conjugate_gradient(max_steps: int | None = None) -> LinearSolve:
    """Solves by conjugate gradients, from a warm start where there is one.

    Args:
        max_steps: products with the Hessian at most; ten times its size by default. The
            truncated solve's residual tells what is missing.

    Returns:
        A method for the ``linear_solve`` of a hypergradient. It refuses, while tracing,
        systems that are not declared symmetric positive semi-definite: there CG
        converges to something else.
    """

    def prepare(system, like):
        if not system.psd:
            raise ValueError(
                "conjugate_gradient needs an inner solver whose residual is a gradient "
                "(derivative=implicit(psd=True)), and this one's is not declared so; "
                "use gmres, normal_cg or dense."
            )
        return _krylov(_cg, system, maxiter=max_steps)

    return prepare


def normal_cg(max_steps: int | None = None) -> LinearSolve:
    r"""Solves by conjugate gradients on :math:`A A^\top`: any matrix, slowly.

    The condition number is squared: half the digits are lost. Where memory allows, use
    :func:`gmres`.

    Args:
        max_steps: pairs of products at most.

    Returns:
        A method for the ``linear_solve`` of a hypergradient.
    """

    def normal(mv, vm):
        def solve(rhs, start, tol):
            square = lambda v: vm(mv(v))
            return _cg(square, vm(rhs), start, tol=tol, maxiter=max_steps)[0]

        return solve

    def prepare(system, like):
        del like
        return Solves(normal(system.mv, system.vm), normal(system.vm, system.mv))

    return prepare


def gmres(restart: int = 20, max_steps: int | None = None) -> LinearSolve:
    """Solves by restarted GMRES: any matrix, from a warm start where there is one.

    Args:
        restart: vectors of the basis.
        max_steps: restarts at most.

    Returns:
        A method for the ``linear_solve`` of a hypergradient.
    """

    def prepare(system, like):
        size = min(restart, like.size)
        return _krylov(linalg.gmres, system, restart=size, maxiter=max_steps)

    return prepare


def neumann(stepsize: chex.Numeric, terms: int) -> LinearSolve:
    r"""Sums the first terms of a Neumann series, whatever tolerance is asked for.

    .. math::

        w = \eta \sum_{q=0}^{Q-1} (I - \eta A)^q \, b

    Its error falls like :math:`\max_i |1 - \eta \lambda_i|^Q`; for a residual
    :math:`y - T(y)` and :math:`\eta = 1` the factor is that of :math:`T`. It never
    needs a decision, and is what a fixed budget of products buys.

    Args:
        stepsize: :math:`\eta`, in :math:`(0, 2 / L)` for eigenvalues up to :math:`L`;
            beyond it the series diverges.
        terms: :math:`Q`, products plus one; at least 1. One term is the Jacobian-free
            hypergradient, :math:`w = \eta b`.

    Returns:
        A method for the ``linear_solve`` of a hypergradient. With a start :math:`w_0`
        the series is that of the correction.

    Raises:
        ValueError: if `terms` is not a positive integer.
    """
    if isinstance(terms, bool) or not isinstance(terms, int) or terms < 1:
        raise ValueError(f"terms must be a positive Python integer, got {terms!r}.")

    def series(mv):
        def solve(rhs, start, tol):
            del tol
            eta = jnp.asarray(stepsize, rhs.dtype)

            def more(_, w):
                return w + eta * (rhs - mv(w))

            if start is None:
                return jax.lax.fori_loop(0, terms - 1, more, eta * rhs)
            return jax.lax.fori_loop(0, terms, more, start)

        return solve

    def prepare(system, like):
        del like
        return Solves(series(system.mv), series(system.vm))

    return prepare


def _cg(mv, rhs, start, tol, maxiter=None):
    """As `jax.scipy.sparse.linalg.cg`, which begins by multiplying zero.

    One of ten products where a start is lacking, and three such solves a hypergradient.
    """
    most = 10 * rhs.size if maxiter is None else maxiter
    inner = functools.partial(jnp.vdot, precision=jax.lax.Precision.HIGHEST)
    least = tol**2 * inner(rhs, rhs)

    def unfinished(carry):
        _, _, _, square, count = carry
        return (square > least) & (count < most)

    def step(carry):
        x, r, p, square, count = carry
        image = mv(p)
        length = square / inner(p, image)
        x, r = x + length * p, r - length * image
        new = inner(r, r)
        return x, r, r + new / square * p, new, count + 1

    r = rhs if start is None else rhs - mv(start)
    x = jnp.zeros_like(rhs) if start is None else start
    first = x, r, r, inner(r, r), jnp.zeros((), jnp.int32)
    x, _, _, _, count = jax.lax.while_loop(unfinished, step, first)
    return x, count


def _krylov(method, system, **options):
    def solve_with(mv):
        def solve(rhs, start, tol):
            return method(mv, rhs, start, tol=tol, **options)[0]

        return solve

    return Solves(solve_with(system.mv), solve_with(system.vm))
