"""BFGS with a dense matrix, kept as a product."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.linesearch import LineSearch, Search, wolfe
from jaxsolve.smooth._progress import Progress, evaluate, judge, norm, settle

_EXACT = jax.lax.Precision.HIGHEST
_LARGEST = 20_000  # unknowns; beyond, the matrix takes gigabytes


class BFGSState(NamedTuple):
    """State of BFGS."""

    count: chex.Array  # (), int32: updates taken, one oracle call each.
    error: chex.Array  # (), real: sup-norm of the gradient at params.
    status: chex.Array  # (), int32: running, stalled or diverged.
    value: chex.Array  # (), real: the objective at params.
    point: chex.Array  # (n,), real: params, raveled, in full precision.
    grad: chex.Array  # (n,), real: the gradient there.
    direction: chex.Array  # (n,), real: of the search.
    search: Search  # the line search under way.
    pairs: chex.Array  # (), int32: taken into the matrix since it was last reset.
    root: chex.Array  # (n, n), real: J, with J J' the inverse Hessian.
    reduced: chex.Array  # (n,), real: J' times the gradient at params.
    progress: Progress  # what tells a stall.

    @property
    def inverse_hessian(self) -> chex.Array:
        """The approximation of the inverse Hessian, J J': (n, n)."""
        return jnp.matmul(self.root, self.root.T, precision=_EXACT)


@core.memoise
def bfgs(
    fun: core.Objective,
    *,
    search: LineSearch | None = None,
    patience: int = 20,
    damped: bool = True,
) -> core.Solver:
    r"""Minimises a smooth function by BFGS, with a dense matrix.

    Solves :math:`\min_x f(x)`. Each update evaluates :math:`f` and its gradient at one
    trial point :math:`x + t d` of a line search. When the search is done, with
    :math:`s = t d`, :math:`y` the change of the gradient :math:`g`, and the inverse
    Hessian kept as a product :math:`H = J J^\top`,

    .. math::

        x^+ &= x + s \\
        v &= J^{-1} s = - t J^\top g, \quad \tau = \sqrt{s^\top y / v^\top v} \\
        J^+ &= J - s p^\top, \quad p = (J^\top y - \tau v) / s^\top y \\
        d^+ &= - J^+ J^{+\top} g^+

    This is the BFGS formula for :math:`H`, which so stays positive definite whatever
    the rounding. The first trial is :math:`t = 1`, or 2 after a step at whose end the
    slope was still over half of what it was at its beginning.

    Before its first pair the matrix is scaled to :math:`s^\top y /
    y^\top y` times the identity. Where a search lets through less curvature than a
    tenth of what the matrix predicts, after a step :math:`t > 1` a tenth over
    :math:`t`, :math:`y` is moved towards :math:`H^{-1} s` until it has that much; a
    Wolfe search with its default curvature never does. After a failed search, and
    halfway to a stall, the matrix is reset to steepest descent, with a first step of
    unit length at most; a second failure in a row is a stall.

    The matrix takes :math:`n^2` numbers, a step some :math:`5 n^2` multiplications.
    Beyond a few thousand unknowns use `lbfgs`.

    Args:
        fun: :math:`f`, as ``fun(params, data) -> scalar``. Infinite or NaN values
            outside a region make the search step back.
        search: a line search; ``linesearch.wolfe()`` by default.
        patience: accepted steps without progress in value or error beyond rounding
            after which the run has stalled.
        damped: whether pairs of little curvature are damped as said; if not, those
            without positive curvature are left out and all others taken as they are.

    Returns:
        A solver. Its error is :math:`\|\nabla f(x)\|_\infty` at params, its residual
        :math:`\nabla f(x)`. The state's ``inverse_hessian`` is :math:`J J^\top`.

    Raises:
        ValueError: while tracing, for more than 20,000 unknowns, or if the objective
            is not a real scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> rosenbrock = lambda x, a: jnp.sum(
        ...     a * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)
        >>> solver = jaxsolve.smooth.bfgs(rosenbrock)
        >>> solution = jaxsolve.run(solver, jnp.zeros(5), 100.0)
        >>> print(solution.converged, jnp.round(solution.params, 2))
        True [1. 1. 1. 1. 1.]

    References:
        Nocedal and Wright, `Numerical Optimization
        <https://doi.org/10.1007/978-0-387-40065-5>`_, 2006, (6.17) and (6.20); for the
        damping, there of a Hessian and with 0.2, Procedure 18.2. Brodlie, Gourlay and
        Greenstadt, `Rank-one and Rank-two Corrections to Positive Definite Matrices
        Expressed in Product Form <https://doi.org/10.1093/imamat/11.1.73>`_, 1973.
    """
    search = wolfe() if search is None else search
    oracle = core.value_and_grad(fun)

    def init(params, data=None):
        del data
        x, _ = core.ravel(params)
        _check_size(x)
        zero, inf = jnp.zeros((), x.dtype), jnp.full((), jnp.inf, x.dtype)
        return BFGSState(
            count=jnp.zeros((), jnp.int32),
            error=inf,
            status=as_status(Status.RUNNING),
            value=inf,
            point=x,
            grad=jnp.zeros_like(x),
            direction=jnp.zeros_like(x),
            search=search.init(inf, zero, zero),  # the first trial is the start
            pairs=jnp.zeros((), jnp.int32),
            root=jnp.eye(x.size, dtype=x.dtype),
            reduced=jnp.zeros_like(x),
            progress=Progress.start(inf),
        )

    def update(params, state, data=None):
        x, unravel = core.ravel_fine(params, state.point)
        moved = jnp.any(x != state.point)
        t = jnp.where(moved, 0, state.search.stepsize)
        trial = x + t * state.direction
        value, grad = evaluate(oracle, unravel(trial), data)
        found = search.update(state.search, value, grad @ state.direction)
        found = settle(found, moved, value)

        def accept():
            ok = ~found.failed
            new_x = jnp.where(ok, trial, state.point)
            new_value = jnp.where(ok, value, state.value)
            new_grad = jnp.where(ok, grad, state.grad)
            s, y = new_x - state.point, new_grad - state.grad
            pair = _pair(state, s, y, t, found.failed, damped)
            reset = found.failed | (state.progress.idle == (patience + 1) // 2)
            pairs, root, reduced, d = _renew(state, s, new_grad, pair, reset)
            # Where a step kept over half the slope the matrix is too small, and grows
            # faster by longer steps.
            steep = grad @ state.direction < 0.5 * state.search.slope
            stepsize = jnp.where(steep & (pairs > 1), 2, 1)
            error, status, progress = judge(
                state, found, new_x, new_value, new_grad, state.pairs == 0, patience
            )
            return BFGSState(
                state.count + 1,
                error,
                status,
                new_value,
                new_x,
                new_grad,
                d,
                search.init(new_value, new_grad @ d, stepsize),
                pairs,
                root,
                reduced,
                progress,
            )

        def try_again():
            return state._replace(count=state.count + 1, search=found)

        state = jax.lax.cond(found.done, accept, try_again)
        return unravel(state.point), state

    def residual(params, data=None):
        return oracle(params, data)[1]

    return core.Solver(init, update, residual, core.implicit(psd=True))


def _check_size(x):
    if x.size > _LARGEST:
        size = x.size**2 * x.dtype.itemsize
        raise ValueError(
            f"bfgs takes up to {_LARGEST:,} unknowns, as it keeps an n by n matrix, "
            f"got n={x.size:,}, whose matrix takes {size:,} bytes; use smooth.lbfgs, "
            "which keeps a few vectors."
        )


def _pair(state, s, y, t, failed, damped):
    """Measures a pair by J: J' y, s' y, J^-1 s, and whether to take it.

    Damped, y is replaced by theta y + (1 - theta) B s, where B is the inverse of J J'.
    """
    jy = jnp.matmul(y, state.root, precision=_EXACT)
    v = -t * state.reduced  # as s = t d and d = -J J' g; of no use if params were moved
    sy, predicted = s @ y, v @ v
    known = (t > 0) & ~failed & (predicted > 0)
    low = jnp.zeros((), bool)
    if damped:
        least = 0.1 * predicted / jnp.maximum(t, 1)
        low = known & (state.pairs > 0) & (sy < least)
        theta = (predicted - least) / jnp.where(low, predicted - sy, 1)
        jy = jnp.where(low, theta * jy + (1 - theta) * v, jy)
        sy = jnp.where(low, least, sy)
    eps = float(jnp.finfo(s.dtype).eps)
    good = known & (low | (sy > eps * norm(s) * norm(y)))
    return jy, jnp.where(good, sy, 1), v, good


def _renew(state, s, grad, pair, reset):
    """Takes a pair into the matrix: the pairs it holds, J, J' g, and the direction."""
    jy, sy, v, good = pair
    first = good & (state.pairs == 0)
    sigma = jnp.where(first, jnp.sqrt(sy) / jnp.where(first, norm(jy), 1), 1)
    jy, v = sigma * jy, v / sigma
    tau = jnp.sqrt(sy) / jnp.where(good, norm(v), 1)
    p = jnp.where(good, (jy - tau * v) / sy, 0)
    root = sigma * state.root - s[:, None] * p[None, :]
    reduced = jnp.matmul(grad, root, precision=_EXACT)
    direction = -jnp.matmul(root, reduced, precision=_EXACT)

    descends = (grad @ direction < 0) & jnp.all(jnp.isfinite(direction))
    reset = reset | ~descends | ((state.pairs == 0) & ~good)
    size = norm(grad)
    unit = jnp.sqrt(jnp.minimum(1, 1 / jnp.where(size > 0, size, 1)))
    root = jnp.where(reset, unit * jnp.eye(s.size, dtype=s.dtype), root)
    reduced = jnp.where(reset, unit * grad, reduced)
    direction = jnp.where(reset, -unit * (unit * grad), direction)
    pairs = jnp.where(reset, 0, state.pairs + good.astype(jnp.int32))
    return pairs, root, reduced, direction
