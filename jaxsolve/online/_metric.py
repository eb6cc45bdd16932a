"""Sets, by the quadratics that are minimised over them."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core, linesearch, prox
from jaxsolve.online._rounds import check_positive
from jaxsolve.prox import Prox

HIGHEST = jax.lax.Precision.HIGHEST


class Quadratic(NamedTuple):
    """A quadratic x'Hx/2 - q'x of vectors."""

    metric: chex.Array  # (n, n): H, positive definite.
    linear: chex.Array  # (n,): q.
    least: chex.Array  # (), real: a bound from below on the eigenvalues of H.
    free: chex.Array  # (n,): the minimiser where there is no set.


class QuadraticDomain(NamedTuple):
    """A convex set, by what :func:`online_newton` asks of it.

    Attributes:
        minimiser: of a `Quadratic` over the set, as ``minimiser(quadratic, onto)`` with
            the projection of vectors in the 2-norm.
        projection: onto the set in the 2-norm, of params.
    """

    minimiser: Callable
    projection: Prox


@core.memoise
def quadratic_ball(radius: chex.Numeric) -> QuadraticDomain:
    r"""Makes the ball of a radius about zero, over which quadratics are minimised.

    Where the free minimiser is outside, it solves :math:`(H + \mu I) x = q` with the
    multiplier :math:`\mu` that brings x to the boundary, exactly, by the eigenvalues of
    H: work of order :math:`n^3`, in the rounds that need it.

    Args:
        radius: positive.

    Returns:
        A `QuadraticDomain`.

    Raises:
        ValueError: if a known radius is not positive and finite.

    Examples:
        >>> from jaxsolve import online
        >>> domain = online.quadratic_ball(2.0)
    """
    check_positive(radius=radius)

    def minimiser(quadratic, onto):
        del onto
        free = quadratic.free
        outside = jnp.sqrt(free @ free) > jnp.asarray(radius, free.dtype)

        def bend():
            bent, *_ = linesearch.exact_step(
                quadratic.metric, -quadratic.linear, jnp.asarray(radius, free.dtype)
            )
            return jnp.where(outside, bent, free)

        return jax.lax.cond(core.any_lane(outside), bend, lambda: free)

    return QuadraticDomain(minimiser, prox.l2_ball(radius))


@core.memoise
def quadratic_set(projection: Prox, *, max_steps: int = 500) -> QuadraticDomain:
    r"""Makes any convex set with a projection one over which quadratics are minimised.

    By accelerated projected gradient steps, begun from the projection of the free
    minimiser, which is the answer where that is inside. From x and the point z, with
    :math:`\beta = (\sqrt \kappa - 1) / (\sqrt \kappa + 1)`, a step is

    .. math::

        x^+ &= P_C(z - (H z - q) / l) \\
        z^+ &= x^+ + \beta (x^+ - x)

    with :math:`l`, a bound on the eigenvalues of H, and :math:`\kappa`, its ratio to
    the least. They end where a step moves nothing but rounding. Some
    :math:`\sqrt \kappa` of them gain a digit, each of order :math:`n^2` and one
    projection.

    Args:
        projection: onto the set in the 2-norm, such as ``prox.box(-1.0, 1.0)``.
        max_steps: how many steps a minimiser may take.

    Returns:
        A `QuadraticDomain`.

    Raises:
        ValueError: if `projection` is no operator, or `max_steps` no positive integer.

    Examples:
        >>> from jaxsolve import online, prox
        >>> domain = online.quadratic_set(prox.simplex())
    """
    projection = prox.resolve(projection, None)
    if not isinstance(max_steps, int) or max_steps < 1:
        raise ValueError(f"max_steps must be a positive integer, got {max_steps!r}.")

    def minimiser(quadratic, onto):
        metric, linear, least, free = quadratic
        most = jnp.maximum(row_norm(metric), least)
        root = jnp.sqrt(most / least)
        beta = (root - 1) / (root + 1)
        eps = 16 * float(jnp.finfo(free.dtype).eps)

        def unfinished(carry):
            _, _, moved, size, count = carry
            return (moved > eps * size) & (count < max_steps)

        def step(carry):
            x, z, _, _, count = carry
            slope = jnp.matmul(metric, z, precision=HIGHEST) - linear
            new = onto(z - slope / most)
            moved = jnp.maximum(jnp.max(jnp.abs(new - z)), jnp.max(jnp.abs(new - x)))
            return new, new + beta * (new - x), moved, jnp.max(jnp.abs(new)), count + 1

        x = onto(free)
        moved, none = jnp.max(jnp.abs(x - free)), jnp.zeros((), jnp.int32)
        # One step tells whether more are needed, unless nothing was projected.
        begin = (x, x, moved, jnp.zeros_like(moved), none)
        return jax.lax.while_loop(unfinished, step, begin)[0]

    return QuadraticDomain(minimiser, projection)


def row_norm(metric: chex.Array) -> chex.Array:
    """The largest sum of magnitudes in a row: no eigenvalue is greater."""
    return jnp.max(jnp.sum(jnp.abs(metric), 1))


def minimise(
    domain: QuadraticDomain, quadratic: Quadratic, onto: Callable
) -> chex.Array:
    """Minimises a quadratic over a set, with the derivative of its optimality."""

    def residual(x, quadratic):
        metric, linear, least, _ = quadratic
        most = jax.lax.stop_gradient(jnp.maximum(row_norm(metric), least))
        slope = jnp.matmul(metric, x, precision=HIGHEST) - linear
        return x - onto(x - slope / most)

    @core.implicit_function(residual)
    def solve(_, quadratic):
        return domain.minimiser(quadratic, onto)

    return solve(quadratic.free, quadratic)
