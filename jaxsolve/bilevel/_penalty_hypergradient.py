"""Hypergradients by penalties: no second derivatives at all."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.bilevel._hypergradient import (
    Hypergradient,
    arguments,
    check_numbers,
    limits,
    refused,
    structure_of,
)
from jaxsolve.bilevel._problem import (
    BilevelProblem,
    Levels,
    check_problem,
)
from jaxsolve.core import Status, as_status

SHARES = (1.0, 0.5, 0.25, 0.0)  # of sigma: the lower problems that are solved
REGULAR = 0.75  # share that halving sigma may leave of the bias; a half in the limit


@core.memoise
def penalty_hypergradient(
    problem: BilevelProblem,
    inner: Callable[[core.Objective], core.Solver],
    sigma: chex.Numeric,
    *,
    corrected: bool = False,
    rtol: float = 0.1,
) -> Callable[..., Hypergradient]:
    r"""Makes a hypergradient of first derivatives only, biased by a penalty.

    With :math:`l(x, \sigma) = \min_y \sigma f(x, y) + g(x, y)`, attained at
    :math:`y_\sigma`, computes

    .. math::

        h_\sigma = \frac{\partial_x l(x, \sigma) - \partial_x l(x, 0)}{\sigma}
        = f_x(x, y_\sigma) + \frac{g_x(x, y_\sigma) - g_x(x, y_0)}{\sigma}

    whose distance to the gradient of :math:`F(x) = f(x, y^\star(x))` is proportional to
    :math:`\sigma` as :math:`\sigma \to 0`, where the lower problem is regular. The
    penalties :math:`\sigma, \sigma/2, \sigma/4` are solved together, as one batch: from
    :math:`\theta = |h_{\sigma/4} - h_{\sigma/2}| / |h_{\sigma/2} - h_\sigma|`, near a
    half where the bias is proportional, the error is estimated as :math:`|h_{\sigma/2}
    - h_\sigma| / (1 - \theta)`, infinite for :math:`\theta \ge 3/4`; and it is refused
    above `rtol`, as by :func:`implicit_hypergradient`.

    Args:
        problem: two levels. The set of the lower one is the inner solver's business.
        inner: makes a solver of a lower objective, such as ``smooth.lbfgs``, or
            ``lambda fun: composite.projected_gradient(fun, prox.nonnegative())``.
        sigma: :math:`\sigma > 0`. The inner tolerance must lie far below it, and in
            float32 differences divided by less than 1e-3 have few digits.
        corrected: whether to return :math:`2 h_{\sigma/4} - h_{\sigma/2}` instead,
            whose bias is of second order.
        rtol: share of its gradient that an error may have.

    Returns:
        A function ``hypergradient(levels, data=None, *, max_steps=1000, tol=None)``,
        which starts the inner solver at ``levels.lower`` and returns a
        :class:`Hypergradient`. Its `value` and `lower` are those of :math:`\sigma = 0`,
        which have no bias; its `contraction` is :math:`\theta`; there is no adjoint.
        Its gradient is differentiable, all else in it is constant.

    Raises:
        ValueError: if `sigma` is known and not positive.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import bilevel, smooth
        >>> problem = bilevel.BilevelProblem(
        ...     upper=lambda levels, _: jnp.sum((levels.lower - 3.0) ** 2),
        ...     lower=lambda levels, _: jnp.sum((levels.lower - levels.upper) ** 2),
        ... )
        >>> h = bilevel.penalty_hypergradient(problem, smooth.lbfgs, 0.01)
        >>> found = h(bilevel.Levels(jnp.ones(1), jnp.ones(1)))
        >>> print(f"{found.gradient[0]:.2f}, off by {found.error:.2f}")
        -3.96, off by 0.04

    References:
        Kwon, Kwon, Wright and Nowak, `On Penalty Methods for Nonconvex Bilevel
        Optimization and First-Order Stochastic Approximation
        <https://arxiv.org/abs/2309.01753>`_, 2024. The estimate is ours.
    """
    check_problem(problem, "penalty_hypergradient", takes=("upper_set", "lower_set"))
    check_numbers(rtol)
    if core.is_concrete(sigma) and not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma!r}.")

    if isinstance(inner, core.Solver) or not callable(inner):
        raise ValueError(
            "inner makes the solver of what this makes of both objectives: a factory "
            f"such as smooth.lbfgs, got {core.describe(inner)}."
        )

    def penalised(y, data):
        x, (upper_data, lower_data), weight = data
        levels = Levels(x, y)
        weight = core.real_scalar(weight, levels)
        f = core.objective(problem.upper)(levels, upper_data)
        return weight * f + core.objective(problem.lower)(levels, lower_data)

    solver = inner(penalised)
    structure_of(solver)  # its residual tells how far lower points are off

    @jax.jit
    def compiled(levels, data, max_steps, tol):
        x, begin = levels
        size = core.real_scalar(sigma, levels)
        weights = size * jnp.asarray(SHARES, size.dtype)
        flat, unravel = core.ravel(x)

        def one(weight):
            problem_data = (x, data, weight)
            out = core.run(solver, begin, problem_data, max_steps=max_steps, tol=tol)
            y = out.params
            slope = jax.grad(lambda flat: penalised(y, (unravel(flat), data, weight)))
            residual = core.ravel(solver.residual(y, problem_data))[0]
            return y, slope(flat), residual, out.status

        points, slopes, residuals, statuses = jax.vmap(one)(weights)
        y = jax.tree.map(lambda leaf: leaf[-1], points)
        value, pulled = jax.value_and_grad(
            lambda y: core.objective(problem.upper)(Levels(x, y), data[0])
        )(y)
        slopes = (slopes[:-1] - slopes[-1:]) / weights[:-1, None].astype(flat.dtype)
        scale = jnp.linalg.norm(core.ravel(pulled)[0])
        gaps = jnp.linalg.norm(residuals, axis=1)
        direct = jax.grad(lambda flat: problem.upper(Levels(unravel(flat), y), data[0]))
        stop = jax.lax.stop_gradient
        parts = stop((slopes, direct(flat), gaps, scale, weights, value))
        error, theta, status = _judged(*parts, statuses, corrected, rtol)
        gradient = 2 * slopes[2] - slopes[1] if corrected else slopes[0]
        inf, (value, y) = jnp.asarray(jnp.inf, value.dtype), stop((value, y))
        gradient = unravel(refused(gradient, status))
        return Hypergradient(
            value, gradient, error, y, None, stop(gaps[-1]), inf, theta, status
        )

    def hypergradient(levels, data=None, *, max_steps=1000, tol=None):
        levels, data = arguments(levels, data)
        return compiled(levels, data, *limits(levels, max_steps, tol))

    return hypergradient


def _judged(
    slopes, direct, gaps, scale, weights, value, statuses, corrected, rtol
) -> tuple:
    """The estimated error, theta, and the status."""
    whole, half, quarter = slopes  # of the dtype of x; y may have another
    gaps, scale, weights = (z.astype(whole.dtype) for z in (gaps, scale, weights))
    norm = jnp.linalg.norm
    first, second = norm(half - whole), norm(quarter - half)
    theta = second / jnp.where(first > 0, first, 1)
    least = weights[2] if corrected else weights[0]
    gradient, bias = whole, first / (1 - jnp.minimum(theta, REGULAR))
    if corrected:
        gradient = 2 * quarter - half
        bias = norm(gradient - (2 * half - whole))
    # Lower points are off by their residuals, and that is divided by sigma.
    through = norm(gradient - direct)
    loose = jnp.max(gaps) / jnp.where(scale > 0, least * scale, 1) * through
    eps = float(jnp.finfo(gradient.dtype).eps)
    rounding = 100 * eps * norm(quarter) / least
    known = jnp.isfinite(bias) & ((theta < REGULAR) | (first <= rounding))
    error = jnp.where(known, bias + loose, jnp.inf).astype(gradient.dtype)
    allowed = rtol * norm(gradient) + eps**0.5 * (norm(direct) + through)
    trusted = ((error <= allowed) & jnp.isfinite(error)) | (rtol == jnp.inf)
    ended = (statuses == Status.CONVERGED) | (statuses == Status.STALLED)
    status = jnp.where(
        jnp.all(ended), as_status(Status.STALLED), as_status(Status.MAX_STEPS)
    )
    status = jnp.where(trusted, as_status(Status.CONVERGED), status)
    finite = core.all_finite((gradient, value))
    failed = ~finite | jnp.any(statuses == Status.DIVERGED) | ~(weights[0] > 0)
    return error, theta, jnp.where(failed, as_status(Status.DIVERGED), status)
