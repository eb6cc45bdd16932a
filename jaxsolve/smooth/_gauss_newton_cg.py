"""Gauss-Newton without a matrix: conjugate gradients in a trust region."""

import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.linesearch import TrustRegion
from jaxsolve.smooth._least_squares import (
    Residuals,
    least_squares_residual,
    residual_vector,
    weigh,
)
from jaxsolve.smooth._loss import Loss
from jaxsolve.smooth._newton_cg import newton_cg


@core.memoise
def gauss_newton_cg(
    fun: Residuals,
    *,
    loss: Loss | None = None,
    region: TrustRegion | None = None,
    radius: float = 1.0,
    patience: int = 20,
) -> core.Solver:
    r"""Minimises a sum of squares of many unknowns, without a Jacobian matrix.

    Solves :math:`\min_x f(x) = \tfrac12 \|r(x)\|^2`. It is ``newton_cg`` on the
    Gauss-Newton model at the iterate,

    .. math::

        m(p) = \tfrac12 \|r + J p\|^2, \quad \|p\| \le \Delta

    each update one linearisation of :math:`r` with three products, one by J and two by
    its transpose: the gradient :math:`J^\top r` at a trial point, or one step of
    conjugate gradients, and the product :math:`J^\top J d`. The trust region does what
    the damping does in ``levenberg_marquardt``, which is the better choice where J
    fits into memory: its steps are exact, and it knows the units of params.

    Args:
        fun: :math:`r`, as ``fun(params, data) -> tree of residuals``. Infinite or NaN
            values outside a region make the step shrink.
        loss: a robust loss, a function of the squared residuals such as
            ``smooth.huber_loss()``: the model is then that of iteratively reweighted
            least squares.
        region: a trust region; ``linesearch.trust_region()`` by default.
        radius: its first radius, positive.
        patience: accepted steps without progress in value or error beyond rounding
            after which the run has stalled.

    Returns:
        A solver, with the state of ``newton_cg``. Its error is :math:`\|\nabla f(x)
        \|_\infty` at params, not scaled, as the columns of J are not known; its
        residual is :math:`\nabla f(x)`.

    Raises:
        ValueError: if the radius is not positive; while tracing, if the residuals are
            not real floats.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> rosenbrock = lambda x, a: {
        ...     "valley": a * (x[1:] - x[:-1] ** 2), "slope": 1 - x[:-1]}
        >>> solver = jaxsolve.smooth.gauss_newton_cg(rosenbrock)
        >>> solution = jaxsolve.run(solver, jnp.zeros(5), 10.0)
        >>> print(solution.converged, jnp.round(solution.params, 2))
        True [1. 1. 1. 1. 1.]

    References:
        Steihaug, `The Conjugate Gradient Method and Trust Regions in Large Scale
        Optimization <https://doi.org/10.1137/0720042>`_, 1983.
    """
    residuals = residual_vector(fun)

    def model(params, data=None):
        """The objective, with the Hessian of the Gauss-Newton model."""
        here = jax.lax.stop_gradient(params)
        r, push = jax.linearize(lambda p: residuals(p, data), here)
        value, weight = jax.lax.stop_gradient(weigh(r, loss))
        change = push(jax.tree.map(jnp.subtract, params, here))  # zero, but its slope
        return value + weight**2 * r @ change + jnp.sum((weight * change) ** 2) / 2

    solver = newton_cg(model, region=region, radius=radius, patience=patience)
    return solver._replace(residual=least_squares_residual(residuals, loss))
