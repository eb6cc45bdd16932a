"""Newton's method with conjugate gradients in a trust region."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.linesearch import Region, TrustRegion, trust_region
from jaxsolve.smooth._progress import (
    Progress,
    judge,
    second_order,
    settle,
)


class Steihaug(NamedTuple):
    """Conjugate gradients on the model at the iterate, until the edge of the region."""

    step: chex.Array  # (n,), real: p, the trial step when done.
    remainder: chex.Array  # (n,), real: r = g + H p, in units of the sup-norm of g.
    direction: chex.Array  # (n,), real: d, of the next product, in these units.
    predicted: chex.Array  # (), real: the reduction of the model by p.
    products: chex.Array  # (), int32: taken so far.
    done: chex.Array  # (), bool: whether p is to be tried.


class NewtonCGState(NamedTuple):
    """State of Newton-CG."""

    count: chex.Array  # (), int32: updates taken, one oracle call each.
    error: chex.Array  # (), real: sup-norm of the gradient at params.
    status: chex.Array  # (), int32: running, stalled or diverged.
    value: chex.Array  # (), real: the objective at params.
    point: chex.Array  # (n,), real: params, raveled, in full precision.
    grad: chex.Array  # (n,), real: the gradient there.
    region: Region  # the trust region.
    inner: Steihaug  # conjugate gradients under way, or the trial.
    progress: Progress  # what tells a stall.


@core.memoise
def newton_cg(
    fun: core.Objective,
    *,
    region: TrustRegion | None = None,
    radius: float = 1.0,
    patience: int = 20,
) -> core.Solver:
    r"""Minimises a smooth function by Newton's method with conjugate gradients.

    Solves :math:`\min_x f(x)`, convex or not, for many unknowns: the Hessian H is only
    multiplied by. Every update takes value, gradient and one product with the Hessian,
    in one linearisation: at a trial point :math:`x + p`, or at x, for one step of
    conjugate gradients on the model :math:`g^\top p + \tfrac12 p^\top H p`,

    .. math::

        p^+ &= p + \alpha d, \quad \alpha = r^\top r / d^\top H d \\
        r^+ &= r + \alpha H d \\
        d^+ &= -r^+ + \frac{\|r^+\|^2}{\|r\|^2} d

    from :math:`p = 0, r = g, d = -g`, until :math:`\|r\| \le \min(\tfrac12,
    \sqrt{\|g\|}) \|g\|`. Where d has no positive curvature, or leads out of the trust
    region, the step goes to its edge and ends there. Then p is tried; accepted, the
    product at the trial is already the first of the next step. Rejected, the same
    direction is tried again as far as the smaller region reaches, which takes no new
    products.

    Converges superlinearly near a minimum with a regular Hessian, and leaves saddle
    points unless it starts on one exactly, or where gradients show no direction of
    negative curvature. On ill-conditioned problems of few
    unknowns `newton` needs fewer updates, and `lbfgs` cheaper ones.

    Args:
        fun: :math:`f`, as ``fun(params, data) -> scalar``, twice differentiable.
            Infinite or NaN values outside a region make the step shrink.
        region: a trust region; ``linesearch.trust_region()`` by default.
        radius: its first radius, positive.
        patience: accepted steps without progress in value or error beyond rounding
            after which the run has stalled.

    Returns:
        A solver. Its error is :math:`\|\nabla f(x)\|_\infty` at params, its residual
        :math:`\nabla f(x)`.

    Raises:
        ValueError: if the radius is not positive; while tracing, if the objective is
            not a real scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> rosenbrock = lambda x, a: jnp.sum(
        ...     a * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)
        >>> solver = jaxsolve.smooth.newton_cg(rosenbrock)
        >>> solution = jaxsolve.run(solver, jnp.zeros(5), 100.0)
        >>> print(solution.converged, jnp.round(solution.params, 2))
        True [1. 1. 1. 1. 1.]

    References:
        Steihaug, `The Conjugate Gradient Method and Trust Regions in Large Scale
        Optimization <https://doi.org/10.1137/0720042>`_, 1983. Toint, "Towards an
        efficient sparsity exploiting Newton method for minimization", in Duff (ed.),
        "Sparse Matrices and Their Uses", 1981. Nocedal and Yuan, `Combining Trust
        Region and Line Search Techniques <https://doi.org/10.1007/978-1-4613-3335-7_7>`_,
        1998, for what follows a rejection.
    """
    core.check_number("radius", radius, closed="]")
    region = trust_region() if region is None else region
    oracle, gradient = second_order(fun), core.value_and_grad(fun)

    def init(params, data=None):
        del data
        x, _ = core.ravel(params)
        inf = jnp.full((), jnp.inf, x.dtype)
        return NewtonCGState(
            count=jnp.zeros((), jnp.int32),
            error=inf,
            status=as_status(Status.RUNNING),
            value=inf,
            point=x,
            grad=jnp.zeros_like(x),
            region=region.init(jnp.asarray(radius, x.dtype)),
            inner=_begin(jnp.zeros_like(x), done=True),  # the first trial is the start
            progress=Progress.start(inf, region=True),
        )

    def update(params, state, data=None):
        x, unravel = core.ravel_fine(params, state.point)
        moved = jnp.any(x != state.point)
        inner = state.inner
        tried = inner.done | moved
        point = jnp.where(inner.done & ~moved, x + inner.step, x)
        value, grad, product = oracle(unravel(point), data)
        bent = product(jnp.where(tried, -grad / _size(grad), inner.direction))
        judged = region.update(
            state.region,
            state.value,
            value,
            inner.predicted,
            jnp.linalg.norm(inner.step),
            jnp.linalg.norm(state.point),
        )
        judged = settle(core.where(moved, state.region, judged), moved, value)

        def decide():
            ok = judged.accepted
            new_x = jnp.where(ok, point, state.point)
            new_value = jnp.where(ok, value, state.value)
            new_grad = jnp.where(ok, grad, state.grad)
            fresh = _advance(_begin(new_grad), bent, new_grad, judged.radius)
            error, status, progress = judge(
                state, judged, new_x, new_value, new_grad, ~moved, patience
            )
            ended = state._replace(
                error=error,
                status=status,
                value=new_value,
                point=new_x,
                grad=new_grad,
                inner=core.where(ok, fresh, inner),
                progress=progress,
            )
            again = state._replace(inner=_shorten(inner, state.grad, judged.radius))
            new = core.where(ok | judged.failed, ended, again)
            return new._replace(region=judged)

        def go_on():
            new = _advance(inner, bent, state.grad, state.region.radius)
            return state._replace(inner=new)

        state = jax.lax.cond(tried, decide, go_on)
        return unravel(state.point), state._replace(count=state.count + 1)

    def residual(params, data=None):
        return gradient(params, data)[1]

    return core.Solver(init, update, residual, core.implicit(psd=True))


def _begin(grad, done=False):
    """Nothing yet: the step is zero, the direction the steepest descent."""
    zero, count = jnp.zeros((), grad.dtype), jnp.zeros((), jnp.int32)
    r = grad / _size(grad)
    return Steihaug(jnp.zeros_like(r), r, -r, zero, count, jnp.asarray(done, bool))


def _size(grad):
    """The unit of the model, so that no square overflows in single precision."""
    size = jnp.max(jnp.abs(grad), initial=0)
    return jnp.where(size > 0, size, 1)


def _advance(inner, bent, grad, radius):
    """One step of conjugate gradients, given H d; or the last, to the edge."""
    one = lambda x: jnp.where(x > 0, x, 1)
    unit = _size(grad)
    p, r, d = inner.step, inner.remainder, inner.direction
    bent = jnp.where(core.all_finite(bent), bent / unit, 0)
    squared, curvature = r @ r, d @ bent
    alpha = squared / one(curvature)
    full = p + alpha * d
    pd, dd, pp = p @ d, d @ d, p @ p
    edge = (curvature <= 0) | ~(full @ full < radius**2)
    room = jnp.maximum(radius**2 - pp, 0)
    root = jnp.sqrt(pd**2 + dd * room)
    # Of the two forms of the positive root, the one that does not cancel.
    tau = jnp.where(pd > 0, room / one(pd + root), (root - pd) / one(dd))
    a = jnp.where(edge, tau, alpha)
    gained = unit * (a * squared - a**2 * curvature / 2)
    new_r = r + a * bent
    new_squared = new_r @ new_r
    size = jnp.linalg.norm(grad / unit)
    eps = float(jnp.finfo(r.dtype).eps)
    forcing = jnp.minimum(0.5, jnp.sqrt(unit * size))
    enough = jnp.sqrt(new_squared) <= size * jnp.maximum(forcing, 10 * eps)
    products = inner.products + 1
    return Steihaug(
        step=p + a * d,
        remainder=new_r,
        direction=new_squared / one(squared) * d - new_r,
        predicted=inner.predicted + gained,
        products=products,
        done=edge | enough | (products >= 2 * p.size),
    )


def _shorten(inner, grad, radius):
    """The same direction, as far as the region still reaches."""
    p = inner.step
    length = jnp.linalg.norm(p)
    t = jnp.minimum(1, radius / jnp.where(length > 0, length, 1))
    slope = grad @ p
    curvature = -2 * (inner.predicted + slope)
    predicted = -t * (slope + t * curvature / 2)
    return inner._replace(step=t * p, predicted=predicted)
