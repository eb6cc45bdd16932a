"""The alternating direction method of multipliers, exact and linearised."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.composite import _penalty
from jaxsolve.composite._forward_backward import at_rounding, follow, narrow, widen
from jaxsolve.composite._splitting import check_relaxation
from jaxsolve.composite._x_update import Quadratic, products, prox_of, x_update
from jaxsolve.core import Status, as_status
from jaxsolve.prox import Prox


class ADMMState(NamedTuple):
    """State of the alternating direction method of multipliers."""

    count: chex.Array  # (), int32: updates taken.
    error: chex.Array  # (), real: the larger sup-norm of the two residuals.
    status: chex.Array  # (), int32: running, stalled, diverged or breakdown.
    point: core.Params  # like params, of at least 32 bits: x.
    image: chex.Array  # (m,), real: A x.
    split: chex.Array  # (m,), real: z.
    dual: chex.Array  # (m,), real: u, the multipliers over the penalty.
    slope: chex.Array  # (n,), real: of the augmented Lagrangian at x, without prox_f.
    penalty: chex.Array  # (), real: rho.
    due: chex.Array  # (), int32: the update after which it may change next.
    cache: Any  # what the update of x keeps: an inverse, (n, n), or a norm, ().


RULE = core.implicit(further=lambda s: s.split + s.penalty * s.dual)


@core.memoise
def admm(
    f: Prox | Quadratic,
    prox_g: Prox,
    operator: Callable[[core.Params, core.Data], Any] | None = None,
    penalty: chex.Numeric = 1.0,
    *,
    relaxation: chex.Numeric = 1.6,
    balance: bool = True,
) -> core.Solver:
    r"""Minimises the sum of two functions of variables tied by a linear operator.

    Solves :math:`\min_{x, z} f(x) + g(z)` where :math:`A x = z`. From :math:`z`, the
    scaled multipliers :math:`u` and the penalty :math:`\rho` one update computes

    .. math::

        x^+ &= \arg\min_x f(x) + \tfrac{\rho}{2} \|A x - z + u\|^2 \\
        v &= \alpha A x^+ + (1 - \alpha) z + u \\
        z^+ &= \operatorname{prox}_{g / \rho}(v) \\
        u^+ &= v - z^+

    How :math:`x^+` is found depends on :math:`f`. Of a ``composite.Quadratic`` it
    solves a linear system, whose inverse is kept until the penalty changes: for up to
    some thousand unknowns. Of a prox, and without operator, it is that prox. Of a prox
    and an operator it is linearised,

    .. math::

        x^+ = \operatorname{prox}_{\tau f}(x - \tau \rho A^\top (A x - z + u)),
        \qquad \tau = 1 / (\rho \|A\|^2)

    which takes products with :math:`A` and :math:`A^\top` only; the norm is found by
    power iterations at the start, and enlarged if a step shows a larger one. For convex
    functions all three converge with any penalty. Residuals that differ more than
    tenfold, relative to what they are differences of, change the penalty, ever more
    rarely, unless the larger one is the smaller one in absolute terms. The first update
    evaluates the start: its :math:`z` is :math:`A x`.

    Args:
        f: as ``prox(params, stepsize) -> params``, or made by :func:`prox.of_data
            <jaxsolve.prox.of_data>`, or ``composite.Quadratic(fun)`` of a convex
            quadratic objective ``fun(params, data) -> scalar``.
        prox_g: of :math:`g`, on what the operator returns.
        operator: :math:`A`, as ``operator(params, data) -> tree``, affine: a shift
            :math:`A x + b = z` is allowed; the identity by default. All functions are
            shown leaves of at least 32 bits.
        penalty: :math:`\rho > 0`, with which it starts.
        relaxation: :math:`\alpha`, between 0 and 2; 1 is plain.
        balance: whether the penalty changes.

    Returns:
        A solver. Its params are :math:`x`; :math:`z` is ``state.split``, raveled, and
        the multipliers of :math:`A x = z` are ``state.penalty * state.dual``. Its error
        is the larger of :math:`\|A x^+ - z^+\|_\infty` and
        :math:`\|p + A^\top y\|_\infty` with :math:`p \in \partial f(x^+)` and
        :math:`y = \rho u^+ \in \partial g(z^+)`.
        Its residual, of :math:`x` and :math:`z + y`, is that of the conditions of
        optimality; derivatives are refused where multipliers are not unique.
        A quadratic with Hessian :math:`H` ends as a breakdown where :math:`H + \rho
        A^\top A` is not positive definite: so, too, where its minimisers are not unique
        along what the kernels of :math:`H` and :math:`A` share. That :math:`H` itself
        is positive semidefinite is not checked; if it is not, a point where it has
        converged is stationary, and maybe no minimiser.

    Raises:
        ValueError: if `penalty` is not one positive number or `relaxation` not between
            0 and 2; while tracing, if a function returns the wrong form.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import composite, prox
        >>> near = composite.Quadratic(lambda x, b: 0.5 * jnp.sum((x - b) ** 2))
        >>> solver = composite.admm(near, prox.l1(1.0), lambda x, b: jnp.diff(x))
        >>> solution = jaxsolve.run(solver, jnp.zeros(4), jnp.array([0.0, 0, 4, 4]))
        >>> print(jnp.round(solution.params, 2))
        [0.5 0.5 3.5 3.5]

    References:
        Boyd, Parikh, Chu, Peleato and Eckstein, `Distributed Optimization and
        Statistical Learning via the Alternating Direction Method of Multipliers
        <https://doi.org/10.1561/2200000016>`_, 2011, 3.1.1, 3.4.1, 3.4.3 and 4.2.
        Parikh and Boyd, `Proximal Algorithms <https://doi.org/10.1561/2400000003>`_,
        2014, 4.4.2, linearised. Wohlberg, `ADMM Penalty Parameter Selection by Residual
        Balancing <https://arxiv.org/abs/1704.06209>`_, 2017, 3.3.
    """
    _penalty.check(penalty)
    check_relaxation(relaxation)
    if operator is not None and not callable(operator):
        raise ValueError(
            "operator must be a function of (params, data); for a matrix write "
            f"lambda x, data: matrix @ x. Got {type(operator).__name__}."
        )
    minimise = x_update(f, operator is None)
    linear = (lambda params, data: params) if operator is None else operator
    linear = jax.jit(linear, inline=True)  # init, too, traces it for its shape

    def init(params, data=None):
        point = widen(params)
        x, unravel = core.ravel(point)
        image = jax.eval_shape(lambda x: products(linear, x, unravel, data).image, x)
        image = jnp.zeros(image.shape, x.dtype)
        return ADMMState(
            count=jnp.zeros((), jnp.int32),
            error=jnp.full((), jnp.inf, x.dtype),
            status=as_status(Status.RUNNING),
            point=point,
            image=image,
            split=image,
            dual=image,
            slope=jnp.zeros_like(x),
            penalty=jnp.asarray(penalty, x.dtype),
            due=jnp.full((), _penalty.FIRST, jnp.int32),
            cache=minimise.empty(x),
        )

    def update(params, state, data=None):
        seen, moved = follow(params, state.point)
        first = state.count == 0
        fresh = first | moved
        x, unravel = core.ravel(seen)
        rho, alpha = state.penalty, jnp.asarray(relaxation, x.dtype)
        new_x = minimise.step(state.cache, x, state.slope, rho, unravel, data)
        new_x = jnp.where(fresh, x, new_x)
        at = products(linear, new_x, unravel, data)
        grad, hv = minimise.gradient(new_x, unravel, data)

        z = jnp.where(fresh, at.image, state.split)
        v = alpha * at.image + (1 - alpha) * z + state.dual
        new_z = prox_of(prox_g, at.back(v), 1 / rho, data).astype(v.dtype)
        dual = v - new_z
        primal, push = at.image - new_z, at.pull(rho * dual)
        own = minimise.subgradient(state.cache, x, new_x, state.slope, rho, grad)
        sizes = _penalty.Sizes(primal, own + push, at.image, new_z, push)
        error = jnp.maximum(_sup(sizes.primal), _sup(sizes.dual))
        shown = narrow(unravel(new_x), params)
        ok = core.all_finite((shown, grad, at.image, new_z, push))
        ok = ok & (jnp.isfinite(error) | fresh)

        due = jnp.logical_and(balance, ~fresh & (state.count >= state.due) & ok)
        new_rho = _penalty.balanced(rho, sizes, due)
        cache = minimise.refresh(
            state.cache,
            first,
            new_rho != rho,
            (new_x - x, at.image - state.image),
            new_rho,
            at,
            hv,
        )
        dual = dual * (rho / new_rho)
        still = at_rounding((new_x - x, new_z - z, primal), (new_x, new_z, dual))
        status = jnp.where(still & ~fresh, as_status(Status.STALLED), state.status)
        sound = ok & core.all_finite(cache)
        broken = jnp.where(ok, as_status(Status.BREAKDOWN), as_status(Status.DIVERGED))
        new = state._replace(
            # The start minimises nothing yet.
            error=jnp.where(fresh, jnp.inf, error),
            point=unravel(new_x),
            image=at.image,
            split=new_z,
            dual=dual,
            slope=grad + push + new_rho * at.pull(primal),
            penalty=new_rho,
            due=jnp.where(due, _penalty.next_due(state.count), state.due),
            cache=cache,
        )
        new = core.where(sound, new, state._replace(point=seen))
        new = new._replace(
            count=state.count + 1, status=jnp.where(sound, status, broken)
        )
        return narrow(new.point, params), new

    def residual(unknowns, data):
        # The conditions of optimality; v = z + y with the multipliers y of A x = z.
        params, v = unknowns
        x, unravel = core.ravel(widen(params))
        at = products(linear, x, unravel, data)
        z = prox_of(prox_g, at.back(v), jnp.ones((), x.dtype), data).astype(v.dtype)
        return narrow(
            unravel(minimise.residual(x, at.pull(v - z), unravel, data)), params
        ), at.image - z

    return core.Solver(init, update, residual, RULE)


def _sup(vector):
    return jnp.max(jnp.abs(vector), initial=0)
