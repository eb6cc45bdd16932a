"""What stands for the Hessian in `gradient_normalized_newton`."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core


class Rows(NamedTuple):
    """The matrix `rows.T @ rows`, not formed where the rows are few."""

    rows: chex.Array  # (m, n), real.


class Diagonal(NamedTuple):
    """A diagonal matrix."""

    entries: chex.Array  # (n,), real.


class Evaluation(NamedTuple):
    """What is known of an objective at a point."""

    params: core.Params  # the point.
    data: core.Data  # of the problem.
    value: chex.Array  # (), real: the objective.
    grad: chex.Array  # (n,), real: its gradient, raveled.
    product: Callable  # the product of its Hessian with a vector (n,).


Curvature = Callable[[Evaluation], "chex.Array | Rows | Diagonal"]


@core.memoise
def exact_hessian() -> Curvature:
    """The Hessian itself, by n products with it; need not be positive."""

    def curvature(at):
        return jax.vmap(at.product)(jnp.eye(at.grad.size, dtype=at.grad.dtype))

    return curvature


@core.memoise
def gauss_newton_hessian(outputs: Callable, loss: Callable) -> Curvature:
    r"""The generalised Gauss-Newton matrix of an objective :math:`\ell(u(x))`.

    It is :math:`J^\top \nabla^2 \ell(u) J` with the Jacobian J of u, positive where the
    loss is convex, and made of n products; no other matrix is formed.

    Args:
        outputs: :math:`u`, as ``outputs(params, data) -> tree``.
        loss: :math:`\ell`, as ``loss(outputs, data) -> scalar``, twice differentiable.

    Returns:
        A curvature, for :func:`gradient_normalized_newton`.
    """

    def curvature(at):
        x, unravel = core.ravel(at.params)
        there, push = jax.linearize(lambda x: outputs(unravel(x), at.data), x)
        pull = jax.linear_transpose(push, x)
        slope = jax.grad(lambda u: loss(u, at.data))
        _, bend = jax.linearize(slope, there)
        product = lambda v: pull(bend(push(v)))[0]
        return jax.vmap(product)(jnp.eye(x.size, dtype=x.dtype))

    return curvature


@core.memoise
def factored_hessian(rows: Callable) -> Curvature:
    r"""The matrix :math:`U^\top U` of m given rows, by Woodbury's formula for m < n.

    Args:
        rows: :math:`U`, as ``rows(params, data)``: a tree like params whose leaves have
            one axis more, of length m, in front. The Jacobian of residuals makes the
            Gauss-Newton matrix of half their squares.

    Returns:
        A curvature, for :func:`gradient_normalized_newton`.
    """

    def curvature(at):
        return Rows(jax.vmap(lambda row: core.ravel(row)[0])(rows(at.params, at.data)))

    return curvature


@core.memoise
def fisher_hessian(losses: Callable, scale: float = 1.0) -> Curvature:
    r"""The empirical Fisher matrix :math:`c \sum_i \nabla f_i \nabla f_i^\top`.

    Args:
        losses: :math:`f_i`, as ``losses(params, data) -> (m,)``, one a sample.
        scale: :math:`c > 0`: one where the objective is their sum, 1/m where it is
            their mean.

    Returns:
        A curvature, for :func:`gradient_normalized_newton`.

    Raises:
        ValueError: if the scale is not positive.
    """
    if isinstance(scale, int | float) and not scale > 0:
        raise ValueError(f"scale must be positive, got {scale!r}.")
    factored = factored_hessian(jax.jacrev(losses))

    def curvature(at):
        rows = factored(at).rows
        return Rows(rows * jnp.sqrt(jnp.asarray(scale, rows.dtype)))

    return curvature


@core.memoise
def rank_one_hessian(coefficient: Callable) -> Curvature:
    r"""The matrix :math:`c(f) \, \nabla f \nabla f^\top`, at no cost beside its oracle.

    For :math:`f = \tfrac1p \|u(x)\|^p` the term of its Hessian that has this form has
    :math:`c = (p - 2) / (p f)`: with an affine u and the metric :math:`J^\top J` of u
    nothing else is needed.

    Args:
        coefficient: :math:`c`, as ``coefficient(value) -> scalar``, not negative.

    Returns:
        A curvature, for :func:`gradient_normalized_newton`.
    """

    def curvature(at):
        c = jnp.asarray(coefficient(at.value), at.grad.dtype)
        return Rows((jnp.sqrt(c) * at.grad)[None, :])

    return curvature


@core.memoise
def diagonal_hessian(entries: Callable | None = None) -> Curvature:
    """A diagonal matrix: of given entries, or of those of the Hessian.

    Args:
        entries: as ``entries(params, data)``, a tree like params; by default the exact
            diagonal, by n products, of which memory is kept for the diagonal alone.

    Returns:
        A curvature, for :func:`gradient_normalized_newton`.
    """

    def curvature(at):
        if entries is not None:
            return Diagonal(core.ravel(entries(at.params, at.data))[0])
        n = at.grad.size

        def entry(i):
            unit = jnp.zeros_like(at.grad).at[i].set(1)
            return at.product(unit)[i]

        return Diagonal(jax.lax.map(entry, jnp.arange(n)))

    return curvature
