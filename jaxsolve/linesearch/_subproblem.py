"""Steps within a trust region: minimisers of a quadratic model in a ball."""

import chex
import jax
import jax.numpy as jnp

_SECULAR_STEPS = 20  # of Newton's method, from below; six to eight are needed


def exact_step(
    hessian: chex.Array, grad: chex.Array, radius: chex.Numeric
) -> tuple[chex.Array, chex.Array, chex.Array]:
    r"""Minimises a quadratic model in a ball, to rounding.

    Solves :math:`\min_{\|p\| \le \Delta} g^\top p + \tfrac12 p^\top H p`, convex or
    not. With :math:`H = Q \Lambda Q^\top` and :math:`a = Q^\top g` the solution is

    .. math::

        p = -Q (\Lambda + \mu I)^{-1} a, \quad \mu \ge \max(0, -\lambda_1), \quad
        \mu (\Delta - \|p\|) = 0

    where Newton's method finds :math:`\mu` from :math:`1 / \|p(\mu)\| = 1 / \Delta`:
    in exact arithmetic it rises from the lower bound :math:`\max_i |a_i| / \Delta -
    \lambda_i` without overshooting. In the hard case, where :math:`a` is zero along the
    eigenvector of :math:`\lambda_1 < 0`, as much of that is added as reaches the ball.
    In directions without curvature or slope beyond rounding there is no step. The
    work is one eigendecomposition.

    Args:
        hessian: :math:`H`, (n, n), symmetric; only its symmetric part counts.
        grad: :math:`g`, (n,).
        radius: :math:`\Delta > 0`; it may be infinite, and a step of a model that is
            then unbounded below is only very long.

    Returns:
        The step (n,), the predicted reduction, and the multiplier :math:`\mu`; all zero
        where H or g is not finite.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import linesearch
        >>> hessian = jnp.diag(jnp.array([-1.0, 2.0]))
        >>> grad = jnp.array([0.0, 9.0])
        >>> step, _, multiplier = linesearch.exact_step(hessian, grad, 5.0)
        >>> print(abs(step), multiplier)
        [4. 3.] 1.0

    References:
        Moré and Sorensen, `Computing a Trust Region Step
        <https://doi.org/10.1137/0904038>`_, 1983.
    """
    sane = jnp.all(jnp.isfinite(hessian)) & jnp.all(jnp.isfinite(grad))
    hessian = jnp.where(sane, hessian, jnp.eye(grad.size, dtype=grad.dtype))
    values, vectors = jnp.linalg.eigh(hessian)
    return spectral_step(values, vectors, jnp.where(sane, grad, 0), radius)


def spectral_step(
    values: chex.Array, vectors: chex.Array, grad: chex.Array, radius: chex.Numeric
) -> tuple[chex.Array, chex.Array, chex.Array]:
    """As `exact_step`, from the eigendecomposition of the Hessian: work of order n^2.

    Args:
        values: the eigenvalues, (n,), from the least, finite.
        vectors: the eigenvectors, (n, n), in columns.
        grad: (n,), finite.
        radius: positive.

    Returns:
        The step (n,), the predicted reduction, and the multiplier.
    """
    dtype = grad.dtype
    if grad.size == 0:
        return grad, jnp.zeros((), dtype), jnp.zeros((), dtype)
    info = jnp.finfo(dtype)
    # A finite ball whose square is finite: the step must be a number.
    radius = jnp.minimum(jnp.asarray(radius, dtype), float(info.max) ** 0.4)
    a = grad @ vectors
    rounding = grad.size * float(info.eps)
    flat = jnp.abs(values) <= rounding * jnp.max(jnp.abs(values), initial=0)
    values = jnp.where(flat, 0, values)
    size = jnp.max(jnp.abs(a), initial=0)
    a = jnp.where(flat & (jnp.abs(a) <= rounding * size), 0, a)

    # All in t = mu + lambda_1 and in gaps to lambda_1: no cancellation near the pole.
    least = values[0]
    gaps = values - least
    lower = jnp.maximum(jnp.max(jnp.abs(a) / radius - gaps), jnp.maximum(least, 0))

    def coordinates(t):
        pole = gaps + t
        return -jnp.where(pole > 0, a / jnp.where(pole > 0, pole, 1), 0), pole

    def climb(_, t):
        z, pole = coordinates(t)
        squared = z @ z
        slope = jnp.sum(jnp.where(pole > 0, z**2 / jnp.where(pole > 0, pole, 1), 0))
        excess = jnp.sqrt(squared) / radius - 1
        newton = excess * squared / jnp.where(slope > 0, slope, 1)
        return jnp.maximum(t + newton, lower)

    t = jax.lax.fori_loop(0, _SECULAR_STEPS, climb, lower)
    z, pole = coordinates(t)
    # With t at its pole there is nothing along the first eigenvector yet.
    hard = (least < 0) & (t <= rounding * -least)
    missing = jnp.sqrt(jnp.maximum(radius**2 - z @ z, 0) + z[0] ** 2)
    way = jnp.where(z[0] < 0, -missing, missing)
    first = jnp.arange(grad.size, dtype=jnp.int32) == 0
    z = jnp.where(hard & first, way, z)
    mu = jnp.maximum(t - least, 0)
    predicted = (pole @ z**2 + mu * (z @ z)) / 2
    return vectors @ z, predicted, mu


def dogleg_step(
    newton: chex.Array, grad: chex.Array, curvature: chex.Array, radius: chex.Numeric
) -> tuple[chex.Array, chex.Array]:
    r"""Follows Powell's dogleg to the boundary of a ball.

    From the Cauchy point :math:`c = -(g^\top g / g^\top H g) g` towards the Newton step
    :math:`n = -H^{-1} g`: the last point of the path :math:`0 \to c \to n` in the ball
    :math:`\|p\| \le \Delta`. Along it the model decreases and the length grows if H is
    positive definite; where :math:`g^\top H g \le 0` it is the point of the ball along
    :math:`-g`, and where n is not finite, or uphill, the path ends at c.

    Args:
        newton: :math:`n`, (n,); for least squares that of Gauss and Newton.
        grad: :math:`g`, (n,); for least squares :math:`J^\top r`.
        curvature: :math:`g^\top H g`; for least squares :math:`\|J g\|^2`.
        radius: :math:`\Delta > 0`; infinite only where :math:`g^\top H g > 0`.

    Returns:
        The step (n,), and the reduction of the model.

    References:
        Powell, "A hybrid method for nonlinear equations", in Rabinowitz (ed.),
        "Numerical Methods for Nonlinear Algebraic Equations", Gordon and Breach, 1970,
        pp. 87-114.
    """
    radius = jnp.asarray(radius, grad.dtype)
    one = lambda x: jnp.where(x > 0, x, 1)
    squared = grad @ grad
    length = jnp.sqrt(squared)
    convex = curvature > 0
    most = jnp.where(jnp.isfinite(radius), radius, 1) / one(length)
    cauchy = jnp.where(convex, squared / one(curvature), most)
    short = cauchy * length >= radius  # the Cauchy point is outside, or on the edge
    share = jnp.where(short, radius / one(length), cauchy)

    slope = newton @ grad
    leads = jnp.all(jnp.isfinite(newton)) & (slope < 0) & convex & ~short
    newton = jnp.where(leads, newton, 0)
    c = -share * grad
    d = jnp.where(leads, newton - c, 0)
    dd, cd = d @ d, c @ d
    room = radius**2 - c @ c
    root = jnp.sqrt(jnp.maximum(cd**2 + dd * room, 0))
    # The positive root, in the form that does not cancel.
    tau = jnp.where(cd > 0, room / one(cd + root), (root - cd) / one(dd))
    tau = jnp.where(jnp.isfinite(radius), jnp.clip(tau, 0, 1), 1)
    tau = jnp.where(leads, tau, 0)

    # The model, by H n = -g, without another product with H.
    along = share * squared - share**2 * curvature / 2
    full = share**2 * curvature - 2 * share * squared - slope
    return c + tau * d, along + jnp.where(leads, tau * (1 - tau / 2) * full, 0)
