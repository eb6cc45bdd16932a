"""Mirror descent, plain and accelerated."""

from typing import NamedTuple

import chex
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.composite import _mirror_search
from jaxsolve.composite._forward_backward import (
    at_rounding,
    follow,
    inner,
    mapping_error,
    narrow,
    widen,
)
from jaxsolve.composite._mirror_search import (
    MirrorSearch,
    couple,
    coupling,
    mirror_step,
)
from jaxsolve.core import Status, as_status
from jaxsolve.prox import MirrorMap


class MirrorDescentState(NamedTuple):
    """State of mirror descent."""

    count: chex.Array  # (), int32: updates taken, one oracle call each.
    error: chex.Array  # (), real: how far params are from optimal.
    status: chex.Array  # (), int32: running, stalled or diverged.
    point: core.Params  # like params, of at least 32 bits: x.
    mirror: core.Params  # likewise: z, where mirror steps start, if accelerated.
    weight: chex.Array  # (), real: A, the weight of x beside z; zero if plain.
    trial: core.Params  # likewise: what a search evaluates next.
    search: MirrorSearch | None  # what a searched stepsize needs beside.


@core.memoise
def mirror_descent(
    fun: core.Objective,
    mirror_map: MirrorMap,
    stepsize: optax.ScalarOrSchedule | None = None,
    *,
    accelerate: bool = False,
    restart: bool = True,
    max_trials: int = 40,
) -> core.Solver:
    r"""Minimises a smooth function over a set, by steps in a distance that fits it.

    Solves :math:`\min_{x \in C} f(x)`. From the iterate :math:`x`, the point :math:`z`,
    the weight :math:`A` and the stepsize :math:`\eta`, one iteration computes

    .. math::

        \theta &= 2 / (1 + \sqrt{1 + 4 A / \eta}) \\
        y &= (1 - \theta) x + \theta z \\
        z^+ &= \arg\min_{u \in C} \langle \nabla f(y), u \rangle
               + \tfrac{\theta}{\eta} D(u, z) \\
        x^+ &= (1 - \theta) x + \theta z^+ \\
        A^+ &= \eta / \theta^2

    if accelerated; otherwise :math:`A = 0`, so that :math:`\theta = 1` and :math:`x =
    y = z`. Where :math:`\langle \nabla f(y), x^+ - x \rangle > 0` the acceleration
    begins anew, :math:`A^+ = 0, z^+ = x^+`.

    Plain, the gap falls as :math:`O(1/k)` where :math:`f` is convex and
    :math:`1/\eta`-smooth relative to :math:`D`, though its gradient may have no
    Lipschitz constant. Accelerated, it falls as :math:`O(1/k^2)` as long as

    .. math::

        f(x^+) \le f(y) + \langle \nabla f(y), x^+ - y \rangle
        + \tfrac{\theta^2}{\eta} D(z^+, z),

    always so if :math:`1/\eta` bounds the Lipschitz constant in a norm in which
    :math:`D` is strongly convex: the 1-norm for the entropy on the unit simplex. These
    rates are of the gap. Accelerated, entries that vanish fall like :math:`1/k^2` only,
    averages as they are, so that the reported error can lag far behind that of plain
    steps.

    Without a given stepsize it is searched for such that this test holds, which is
    backtracking on relative smoothness if plain and gain adaptation if accelerated.
    An update is then one evaluation: plain iterations take one unless a test fails,
    accelerated ones two, at :math:`y` and at :math:`x^+`. The stepsize grows again.

    Args:
        fun: :math:`f`, as ``fun(params, data) -> scalar``, smooth; convex for the
            rates.
        mirror_map: the set and its distance, such as ``prox.entropy_map()``. It is
            shown leaves of at least 32 bits. Start in the interior of the set: what is
            zero may stay zero, and such a run stalls.
        stepsize: :math:`\eta > 0`, a scalar or a schedule of the update count; searched
            for by default.
        accelerate: whether to couple the iterates so.
        restart: whether the acceleration begins anew where it points uphill.
        max_trials: how many times in a row a search may shrink before it has stalled.

    Returns:
        A solver. Its error does not depend on the distance: on the orthant it is the
        sup-norm of :math:`\min(x, \nabla f(x))`, on a simplex that of :math:`\min(x,
        \nabla f(x) - \lambda)` with :math:`\lambda` the least entry of the gradient.
        Its residual is :math:`x - P_C(x - \nabla f(x))`. For a map that tells no
        violation, the error is the sup-norm of this too; for one without projection,
        both are of :math:`x - u` with the mirror step :math:`u` of unit stepsize. With
        a given stepsize, the error is measured before the step that gave params; on
        minibatches it cannot stop a run.

    Raises:
        ValueError: if `mirror_map` is not a `MirrorMap`, `stepsize` or `max_trials` not
            positive; while tracing, if the objective is not a real scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import composite, prox
        >>> fun = lambda x, b: 0.5 * jnp.sum((x - b) ** 2)
        >>> solver = composite.mirror_descent(fun, prox.entropy_map())
        >>> solution = jaxsolve.run(solver, jnp.ones(3) / 3, jnp.array([0.5, 0.4, 0.7]))
        >>> print(solution.converged, jnp.round(10 * solution.params))
        True [3. 2. 5.]

    References:
        Beck and Teboulle, `Mirror descent and nonlinear projected subgradient methods
        <https://doi.org/10.1016/S0167-6377(02)00231-6>`_, 2003. Lu, Freund and
        Nesterov, `Relatively Smooth Convex Optimization by First-Order Methods, and
        Applications <https://doi.org/10.1137/16M1099546>`_, 2018. Hanzely, Richtarik
        and Xiao, `Accelerated Bregman proximal gradient methods for relatively smooth
        convex optimization <https://doi.org/10.1007/s10589-021-00273-8>`_, 2021,
        BPG and ABPG-g with exponent two, where gains and the smoothness constant are
        one number here.
    """
    core.check_stepsize(stepsize)
    if not isinstance(mirror_map, MirrorMap):
        raise ValueError(
            "mirror_map must be a jaxsolve.prox.MirrorMap, such as prox.entropy_map(), "
            f"got {type(mirror_map).__name__}."
        )
    if not isinstance(max_trials, int) or max_trials < 1:
        raise ValueError(f"max_trials must be a positive integer, got {max_trials!r}.")
    oracle = core.value_and_grad(fun)

    def mapping(point, grad):
        """From a point to where the gradient mapping of unit stepsize leads."""
        if mirror_map.projection is None:
            there = mirror_step(mirror_map, point, grad, core.real_scalar(1, point))
        else:
            there = mirror_map.projection(optax.tree.sub(point, grad))
        return optax.tree.sub(there, point)

    def certify(point, grad):
        if mirror_map.violation is not None:
            return core.sup_norm(mirror_map.violation(point, grad))
        one = core.real_scalar(1, point)
        return mapping_error(mapping(point, grad), grad, point, one)

    def init(params, data=None):
        del data
        point, inf = widen(params), core.real_scalar(jnp.inf, params)
        return MirrorDescentState(
            count=jnp.zeros((), jnp.int32),
            error=inf,
            status=as_status(Status.RUNNING),
            point=point,
            mirror=point,
            weight=jnp.zeros_like(inf),
            trial=point,
            search=_mirror_search.start(point, inf) if stepsize is None else None,
        )

    def residual(params, data=None):
        step = mapping(widen(params), widen(oracle(params, data)[1]))
        return narrow(optax.tree.scale(-1, step), params)

    if stepsize is None:
        update = _mirror_search.searched(
            oracle, certify, mirror_map, accelerate, restart, max_trials
        )
    else:
        schedule = core.as_schedule(stepsize)
        update = _stepped(oracle, certify, mirror_map, schedule, accelerate, restart)
    return core.Solver(init, update, residual, core.implicit())


def _stepped(oracle, certify, mirror, schedule, accelerate, restart):
    def update(params, state, data=None):
        x, moved = follow(params, state.point)
        eta = core.real_scalar(schedule(state.count), params)
        if accelerate:
            z = core.where(moved, x, state.mirror)
            theta = coupling(jnp.where(moved, 0, state.weight), eta)
            y = couple(theta, x, z)
        else:
            y, z, theta = x, x, jnp.ones_like(eta)
        value, grad = oracle(narrow(y, params), data)
        grad = widen(grad)
        new_z = mirror_step(mirror, z, grad, eta / theta)
        new_x = couple(theta, x, new_z) if accelerate else new_z
        step = optax.tree.sub(new_x, x)
        bottom = -(float(jnp.finfo(value.dtype).max) ** 0.5)
        ok = jnp.isfinite(value) & (value > bottom) & (eta > 0) & jnp.isfinite(eta)
        ok = ok & core.all_finite((grad, narrow(new_x, params), new_z))
        stalled = jnp.where(at_rounding(step, new_x), Status.STALLED, state.status)
        new_x = core.where(ok, new_x, x)
        state = state._replace(
            count=state.count + 1,
            error=jnp.where(ok, certify(y, grad), state.error),
            status=jnp.where(ok, stalled, as_status(Status.DIVERGED)),
            point=new_x,
        )
        if accelerate:
            goes_on = ok & ~(restart & (inner(grad, step) > 0))
            state = state._replace(
                mirror=core.where(goes_on, new_z, new_x),
                weight=jnp.where(goes_on, eta / theta**2, 0),
            )
        return narrow(new_x, params), state

    return update
