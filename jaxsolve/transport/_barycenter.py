"""Entropic barycenters by iterative Bregman projections, plain or debiased."""

from typing import Any, Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.transport import _barycenter_sweep as _sweep
from jaxsolve.transport._barycenter_derivative import barycenter_rule, residual
from jaxsolve.transport._barycenter_problem import potentials_of
from jaxsolve.transport._products import bounded_exp as _exp
from jaxsolve.transport._shared_kernel import shared_kernel
from jaxsolve.transport._sinkhorn import adapted
from jaxsolve.transport._states import anew, owned


class BarycenterState(NamedTuple):
    """State of iterative Bregman projections."""

    count: chex.Array  # (), int32: updates taken, one pass each way each.
    error: chex.Array  # (), real: the largest L1 error of a plan before the update.
    status: chex.Array  # (), int32: running, stalled, diverged or infeasible.
    point: chex.Array  # (K m,) or (K m + n,), real: params, in full precision.
    f: chex.Array | None  # (K, n), real: the other potentials, with log-weights.
    push: chex.Array | None  # (n,), real: where log d is tried next, less where it is.
    relaxation: chex.Array  # (), real: the next factor; of debiased ones Nesterov's t.
    last: chex.Array  # (), real: the error one update before.
    steps: chex.Array  # (), int32: updates on this problem.
    best: chex.Array  # (), real: the least error.
    idle: chex.Array  # (), int32: updates since.
    symmetric: chex.Array  # (), bool: whether the cost is, as far as is needed.
    kernel: Any  # exp(-C / epsilon), by its factors; or None.
    mark: chex.Array  # (), real: of the problem that this is a state of.


@core.memoise
def barycenter(
    *,
    debiased: bool = False,
    kernel: bool = True,
    relaxation: float | Literal["adaptive"] = 1.0,
    start: int = 20,
    patience: int = 200,
) -> core.Solver:
    r"""Finds the entropic barycenter of measures on fixed supports.

    Solves the `BarycenterProblem` that is the data; params are the potentials
    :math:`g`, (K, m), or, debiased, the pair of these and of the vector :math:`d > 0`,
    (n,): ``problem.start(debiased)`` if nothing better is known.
    ``problem.barycenter(params)`` is the barycenter. One update computes

    .. math::

        f_k &= -\epsilon \log \sum_j b_{k, j} \exp((g_{k, j} - C_{\cdot j}) / \epsilon)
        \\
        \alpha &\propto d \exp(-\textstyle\sum_k \lambda_k f_k / \epsilon) \\
        g_k &\leftarrow -\epsilon \log \sum_i \alpha_i \exp((f_{k, i} - C_{i \cdot}) /
            \epsilon) \\
        d &\leftarrow \sqrt{d \alpha / (K d)}

    with :math:`d = 1` if not debiased: alternating maximisation of the dual, which is
    concave in g. Relaxed by :math:`\omega`, new potentials :math:`g_k` and :math:`f_k +
    \epsilon \log \alpha` are :math:`(1 - \omega)` old :math:`+ \; \omega` new. Debiased
    ones are relaxed by Nesterov's momentum: from the last two vectors :math:`d_-` and
    :math:`d` the next update begins with :math:`d \, (d / d_-)^\beta`, where
    :math:`\beta` grows to 1, from zero again when a step turns back or the error is
    twice the least.

    On a *kernel* these are products of :math:`K = \exp(-C / \epsilon)`, kept in the
    state, with all measures at once: of matrices, or for a `GridCost` of one small
    matrix an axis. Where anything underflows, that update is taken in the log domain. A
    state given another problem begins there anew from its potentials.

    The debiased barycenter of equal measures is that measure. But it is an inverse
    problem: what the kernel blurs away of it converges last, the error as 1 / count,
    with momentum as its square.

    Args:
        debiased: whether the blur of the temperature is taken away, which needs a
            symmetric cost.
        kernel: whether the kernel is kept; not of geometries that are never stored.
        relaxation: :math:`\omega` in (0, 2); "adaptive" is 1 for `start` updates and
            then :math:`2 / (1 + \sqrt{1 - \theta})`, with :math:`\theta` the ratio of
            the last two errors, until an error is ten times the least. Debiased it is
            1, or "adaptive", momentum.
        start: of the adaptive rule, at least 2.
        patience: updates without a smaller error after which the run has stalled.

    Returns:
        A solver. Its error is the largest of :math:`\|P_k 1 - \alpha\|_1 + \|P_k^\top 1
        - b_k\|_1` over the measures and, debiased, of :math:`\|d (K d) - \alpha\|_1`,
        over the mass, of what the last update began with (d with its momentum) and the
        :math:`f_k` that it found. Unrelaxed the first term is zero: the plans agree in
        the barycenter. Its residual is the change of params by an unrelaxed update,
        and, debiased, solved to the digits that are determined. Rules that
        differentiate updates need ``kernel=False``.

    Raises:
        ValueError: if a number is out of its range; by
            `init`, if params do not fit, or a debiased cost is not square.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import transport
        >>> line = jnp.linspace(0.0, 1.0, 5)[:, None]
        >>> problem = transport.BarycenterProblem(
        ...     transport.PointCloud(line), jnp.eye(5)[::4], epsilon=0.05)
        >>> out = jaxsolve.run(transport.barycenter(), problem.start(), problem)
        >>> print(out.converged, f"{problem.barycenter(out.params).max():.2f}")
        True 0.63

    References:
        Benamou, Carlier, Cuturi, Nenna and Peyré, `Iterative Bregman Projections for
        Regularized Transportation Problems <https://arxiv.org/abs/1412.5154>`_, 2015,
        proposition 2. Janati, Cuturi and Gramfort, `Debiased Sinkhorn barycenters
        <https://arxiv.org/abs/2006.02575>`_, 2020, algorithm 1. O'Donoghue and Candès,
        `Adaptive Restart for Accelerated Gradient Schemes
        <https://arxiv.org/abs/1204.3982>`_, 2015.
    """
    adaptive = relaxation == "adaptive"
    if not adaptive and not 0 < relaxation < 2:
        raise ValueError(f'relaxation is in (0, 2) or "adaptive", got {relaxation!r}.')
    if debiased and not adaptive and relaxation != 1:
        raise ValueError(
            'a debiased barycenter is relaxed by 1 or "adaptive" only, got '
            f"{relaxation!r}."
        )
    if not isinstance(start, int) or start < 2 or patience < 1:
        raise ValueError(
            "barycenter needs start >= 2 and patience >= 1, got "
            f"{start!r} and {patience!r}."
        )

    def init(params, data):
        g, d = _checked(params, data, debiased)[:2]
        g, d = _usable(g, d, _joined(*data.start(debiased=True)))
        dtype, count = g.dtype, jnp.zeros((), jnp.int32)
        inf = jnp.full((), jnp.inf, dtype)
        kept = shared_kernel(data.geometry, data.epsilon) if kernel else None
        f = jnp.zeros((g.shape[0], data.shape[0]), dtype)
        symmetric = _sweep.is_symmetric(data.geometry) if debiased else True
        state = BarycenterState(
            count=count,
            error=inf,
            status=as_status(Status.RUNNING),
            point=_joined(g, d),
            f=None if debiased or relaxation == 1 else f,
            push=jnp.zeros_like(d) if debiased and adaptive else None,
            relaxation=jnp.asarray(1 if adaptive else relaxation, dtype),
            last=inf,
            steps=count,
            best=inf,
            idle=count,
            symmetric=jnp.asarray(symmetric),
            kernel=kept,
            mark=data.mark,
        )
        return owned(state)

    def update(params, state, data):
        g, d, unravel = _checked(params, data, debiased, state.point)
        g, d = _usable(g, d, state.point)
        state = _forgotten(data, state, debiased, adaptive)
        tried = d if state.push is None else d * _exp(state.push)
        fresh = state.steps == 0

        def relaxed(old, new):
            if state.f is None:
                return new
            omega = jnp.where(fresh, 1, state.relaxation)
            return jnp.where(omega == 1, new, old + omega * (new - old))

        relaxed_f = lambda f: relaxed(state.f, f)
        new = _sweep.sweep(data, state.kernel, g, tried, relaxed_f)
        error = _sweep.error_of(data, new, g, tried)
        new_g = relaxed(g, new.g_raw)
        new_g = jnp.where(jnp.isfinite(new_g), new_g, g)
        centre = data.centres(new_g)
        new_g, f = new_g - centre, new.f + centre
        new_d = d
        if debiased:
            new_d = _exp((jnp.log(_sweep.positive(tried)) + new.logs - new.log_kd) / 2)
            new_d = jnp.where(new.there, new_d, 0)
            new_d = jnp.where(jnp.all(jnp.isfinite(new_d)), new_d, d)

        better = error < state.best
        idle = jnp.where(better, 0, state.idle + 1)
        stalled = (idle >= patience) & (state.status == Status.RUNNING)
        status = jnp.where(stalled, as_status(Status.STALLED), state.status)
        best = jnp.minimum(error, state.best)
        factor, push = state.relaxation, state.push
        if push is not None:
            factor, push = _pushed(state, new, d, new_d, error > 2 * best)
        elif adaptive:
            factor = adapted(state, error, best, state.steps == start)
        point = _joined(new_g, new_d)
        return unravel(point), state._replace(
            count=state.count + 1,
            error=error,
            status=_sweep.status_of(data, new, status, state.symmetric),
            point=point,
            f=None if state.f is None else jnp.where(jnp.isfinite(f), f, 0),
            push=push,
            relaxation=factor,
            last=error,
            steps=state.steps + 1,
            best=best,
            idle=idle,
        )

    return core.Solver(init, update, residual, barycenter_rule(debiased))


def _forgotten(data, state, debiased, adaptive):
    """The state, on another problem without what it knew of the last."""
    stale = data.mark != state.mark
    known = state.kernel, state.symmetric

    def computed():
        kernel, symmetric = known
        if kernel is not None:
            kernel = shared_kernel(data.geometry, data.epsilon)
        if debiased:
            symmetric = _sweep.is_symmetric(data.geometry)
        return core.where(stale, (kernel, symmetric), known)

    kernel, symmetric = jax.lax.cond(core.any_lane(stale), computed, lambda: known)
    factor = anew(stale, 1, state.relaxation) if adaptive else state.relaxation
    return state._replace(
        status=anew(stale, as_status(Status.RUNNING), state.status),
        push=None if state.push is None else anew(stale, 0, state.push),
        relaxation=factor,
        last=anew(stale, jnp.inf, state.last),
        steps=anew(stale, 0, state.steps),
        best=anew(stale, jnp.inf, state.best),
        idle=anew(stale, 0, state.idle),
        symmetric=symmetric,
        kernel=kernel,
        mark=data.mark,
    )


def _checked(params, data, debiased, point=None):
    """Params by their parts, which must be those of the method."""
    g, d, unravel = potentials_of(params, data, point)
    n, m = data.shape
    if (d is not None) != debiased:
        raise ValueError(
            f"params of barycenter(debiased={debiased}) are "
            f"problem.start({debiased}) or alike, got those of the other."
        )
    if debiased and n != m:
        raise ValueError(
            "a debiased barycenter stands on the points of the measures, with one "
            f"symmetric cost between them, got a cost {data.shape}."
        )
    return g, d, unravel


def _joined(g, d):
    return g.reshape(-1) if d is None else jnp.concatenate([g.reshape(-1), d])


def _usable(g, d, instead):
    """Params, where these are no numbers or d is negative those of another vector."""
    g = jnp.where(jnp.isfinite(g), g, instead[: g.size].reshape(g.shape))
    if d is not None:
        d = jnp.where(jnp.isfinite(d) & (d >= 0), d, instead[g.size :])
    return g, d


def _pushed(state, new, d, new_d, worse):
    """Nesterov's next t, and how far log d is taken on: not at all after a setback."""
    there = (d > 0) & (new_d > 0)
    step = jnp.log(jnp.where(there, new_d, 1)) - jnp.log(jnp.where(there, d, 1))
    # The last push, less the step that it led to, points back along that step.
    back = jnp.where(there, jnp.exp(new.logs) * (state.push - step) * step, 0)
    t = jnp.where(worse | (jnp.sum(back) > 0), 1, state.relaxation)
    new_t = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
    return new_t, (t - 1) / new_t * step
