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
    """A quadratic g'(x - y) + (x - y)'H(x - y)/2 of vectors."""

    metric: chex.Array  # (n, n): H, positive definite.
    point: chex.Array  # (n,): y.
    grad: chex.Array  # (n,): g, its gradient there.
    least: chex.Array  # (), real: a bound from below on the eigenvalues of H.
    move: chex.Array  # (n,): from the point to the minimiser where there is no set.


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

    Where the free minimiser is outside, it solves :math:`(H + \mu I) x = H y - g` with
    the multiplier :math:`\mu` that brings x to the boundary, exactly, by the
    eigenvalues of H: work of order :math:`n^3`, in the rounds that need it.

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
        metric, point, grad, least, move = quadratic
        free, bound = point + move, jnp.asarray(radius, move.dtype)
        outside = jnp.sqrt(free @ free) > bound

        def bend():
            # In the basis of H, where no direction blurs another.
            values, vectors = jnp.linalg.eigh(metric)
            values = jnp.maximum(values, least)
            slope = grad @ vectors - values * (point @ vectors)
            eye = jnp.eye(slope.size, dtype=slope.dtype)
            bent, *_ = linesearch.spectral_step(values, eye, slope, bound)
            return jnp.where(outside, vectors @ bent, free)

        return jax.lax.cond(core.any_lane(outside), bend, lambda: free)

    return QuadraticDomain(minimiser, prox.l2_ball(radius))


@core.memoise
def quadratic_set(projection: Prox, *, max_steps: int = 5000) -> QuadraticDomain:
    r"""Makes any convex set with a projection one over which quadratics are minimised.

    By accelerated projected gradient steps, begun from the projection of the free
    minimiser, which is the answer where that is inside. From d and the way on w, both
    from the point y, a step is

    .. math::

        u &= w - (g + H w) / l \\
        d^+ &= P_C(y + u) - y \\
        w^+ &= d^+ + \beta (d^+ - d)

    with :math:`l`, a bound on the eigenvalues of H, and :math:`\beta`, that grows from
    zero to one and starts anew where :math:`\langle w - d^+, d^+ - d \rangle > 0`. They
    end where a step moves nothing but rounding. Some :math:`\sqrt \kappa` of them gain
    a digit, with :math:`\kappa` the ratio of the eigenvalues, each of order :math:`n^2`
    and one projection. Where `max_steps` do not suffice, the result is NaN, and the
    learner skips the round.

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
        metric, point, grad, least, move = quadratic
        most = jnp.maximum(row_norm(metric), least)
        eps = float(jnp.finfo(move.dtype).eps)

        def project(way):
            place = point + way
            there = onto(place)
            # What is not projected keeps the digits that it has as a difference.
            return jnp.where(there == place, way, there - point), there

        def unfinished(carry):
            *_, moved, size, count = carry
            return (moved > 2 * eps * size) & (count < max_steps)

        def step(carry):
            d, w, t, _, _, count = carry
            slope = grad + jnp.matmul(metric, w, precision=HIGHEST)
            new, there = project(w - slope / most)
            back = (w - new) @ (new - d) > 0
            t = jnp.where(back, 1, t)
            next_t = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
            beta = (t - 1) / next_t
            moved = jnp.maximum(jnp.max(jnp.abs(new - w)), jnp.max(jnp.abs(new - d)))
            w = new + beta * (new - d)
            return new, w, next_t, moved, jnp.max(jnp.abs(there)), count + 1

        d, there = project(move)
        moved = jnp.max(jnp.abs(there - (point + move)))
        one, none = jnp.ones_like(moved), jnp.zeros((), jnp.int32)
        # One step tells whether more are needed, unless nothing was projected.
        begin = (d, d, one, moved, 0 * moved, none)
        end = jax.lax.while_loop(unfinished, step, begin)
        return jnp.where(unfinished(end[:-1] + (none,)), jnp.nan, onto(point + end[0]))

    return QuadraticDomain(minimiser, projection)


def row_norm(metric: chex.Array) -> chex.Array:
    """The largest sum of magnitudes in a row: no eigenvalue is greater."""
    return jnp.max(jnp.sum(jnp.abs(metric), 1))


def minimise(
    domain: QuadraticDomain, quadratic: Quadratic, onto: Callable
) -> chex.Array:
    """Minimises a quadratic over a set, with the derivative of its optimality."""

    def residual(x, quadratic):
        metric, point, grad, least, _ = quadratic
        most = jax.lax.stop_gradient(jnp.maximum(row_norm(metric), least))
        slope = grad + jnp.matmul(metric, x - point, precision=HIGHEST)
        return x - onto(x - slope / most)

    @core.implicit_function(residual)
    def solve(_, quadratic):
        return domain.minimiser(quadratic, onto)

    return solve(quadratic.point, quadratic)
