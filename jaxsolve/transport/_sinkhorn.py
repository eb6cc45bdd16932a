"""Sinkhorn's algorithm, in the log domain or on a stabilised kernel."""

from typing import Literal, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.transport import _continuation
from jaxsolve.transport._continuation import Continuation
from jaxsolve.transport._derivative import potential_of, potential_rule, residual
from jaxsolve.transport._infeasible import certified
from jaxsolve.transport._problem import (
    damped,
    is_stored,
    rounding,
    status_of_problem,
)
from jaxsolve.transport._products import StoredKernel
from jaxsolve.transport._products import bounded_exp as _exp
from jaxsolve.transport._states import owned


class SinkhornState(NamedTuple):
    """State of Sinkhorn's algorithm."""

    count: chex.Array  # (), int32: updates taken, one pass over rows and columns each.
    error: chex.Array  # (), real: L1 error of both marginals before it, over the mass.
    status: chex.Array  # (), int32: running, stalled, diverged or infeasible.
    epsilon: chex.Array  # (), real: the temperature of the next update.
    point: chex.Array  # (n,), real: params, raveled, in full precision.
    g: chex.Array  # (m,), real: the other one, relaxed like f, of masses near one.
    relaxation: chex.Array  # (), real: the factor of the next update.
    last: chex.Array  # (), real: the error one update before, at this temperature.
    steps: chex.Array  # (), int32: updates at this temperature.
    best: chex.Array  # (), real: the least error at this temperature.
    idle: chex.Array  # (), int32: updates since.
    mark: chex.Array  # (), real: of the problem that this is a state of.
    kernel: chex.Array | None  # (n, m): exp((f + g - C) / epsilon) at the anchors.
    anchor_f: chex.Array | None  # (n,), real.
    anchor_g: chex.Array | None  # (m,), real.


@core.memoise
def sinkhorn(
    *,
    kernel: bool = True,
    relaxation: float | Literal["adaptive"] = 1.0,
    start: int = 20,
    continuation: Continuation | None = None,
    recentre: bool = True,
    radius: float = 50.0,
    patience: int = 200,
) -> core.Solver:
    r"""Solves entropic transport by Sinkhorn's algorithm.

    Solves the `TransportProblem` that is the data; params are the potential
    :math:`f`, (n,), from zero if nothing better is known. One update computes

    .. math::

        g &\leftarrow (1 - \omega) g - \omega \tau_b \epsilon
            \log \sum_i a_i \exp((f_i - C_{ij}) / \epsilon) \\
        f &\leftarrow (1 - \omega) f - \omega \tau_a \epsilon
            \log \sum_j b_j \exp((g_j - C_{ij}) / \epsilon)

    On a *kernel* these are two matrix-vector products with :math:`\exp((\bar f_i + \bar
    g_j - C_{ij}) / \epsilon)`, kept in the state; when a potential is `radius` times
    :math:`\epsilon` from its anchor, or anything under- or overflows, that update is
    taken in the log domain instead, and the kernel is computed anew; and so when the
    state is given another problem.

    Balanced potentials are centred, :math:`\langle a, f \rangle = 0`. Where both
    marginals are unbalanced, an update ends with the best shift :math:`(f + s, g - s)`,
    which makes slow problems of large :math:`\rho` fast. The unbalanced penalties stay
    what they are while the temperature falls. To accelerate by Anderson's method, wrap
    it: ``fixed_point.accelerate(transport.sinkhorn())``.

    Args:
        kernel: whether a kernel is kept; not of geometries that are never stored, which
            compute in the log domain whatever this is. To the rules `core.unrolled` and
            `core.truncated` it may be a constant: differentiate by these without it.
        relaxation: :math:`\omega` in (0, 2); "adaptive" is 1 for `start` updates at the
            last temperature and then :math:`2 / (1 + \sqrt{1 - \theta})`, with
            :math:`\theta` the ratio of the last two errors, until an error is ten times
            the least.
        start: of the adaptive rule, at least 2.
        continuation: a schedule of the temperature; none by default.
        recentre: whether unbalanced problems are shifted.
        radius: in temperatures, how far from its anchor a kernel is used.
        patience: updates without a smaller error after which the run has stalled.

    Returns:
        A solver. Its error is :math:`(\|P 1 - a\|_1 + \|P^\top 1 - b\|_1)` over the
        mass of b (:math:`a e^{-f / \rho_a}` in place of a, if unbalanced), at the
        problem's temperature, of the potentials that the last update began with;
        infinite before. No less than rounding makes it, as of `newton_transport`. Its
        residual is that of the rows at the best g.

    Raises:
        ValueError: if a number is out of its range.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import transport
        >>> cost = jnp.array([[0.0, 1.0, 3.0], [2.0, 0.0, 1.0]])
        >>> problem = transport.TransportProblem(cost, epsilon=0.5)
        >>> out = jaxsolve.run(transport.sinkhorn(), jnp.zeros(2), problem)
        >>> print(out.converged, problem.plan(out.params).sum(1).round(3))
        True [0.5 0.5]

    References:
        Cuturi, `Sinkhorn Distances <https://arxiv.org/abs/1306.0895>`_, 2013.
        Schmitzer, `Stabilized Sparse Scaling Algorithms for Entropy Regularized
        Transport Problems <https://arxiv.org/abs/1610.06519>`_, 2019, for the kernel
        and the schedule.
        Thibault, Chizat, Dossal and Papadakis, `Overrelaxed Sinkhorn-Knopp Algorithm
        for Regularized Optimal Transport <https://arxiv.org/abs/1711.01851>`_, 2021.
        Lehmann, von Renesse, Sambale and Uschmajew, `A note on overrelaxation in the
        Sinkhorn algorithm <https://arxiv.org/abs/2012.12562>`_, 2022, for the adaptive
        rule. Séjourné, Vialard and Peyré, `Faster Unbalanced Optimal Transport
        <https://arxiv.org/abs/2201.00730>`_, 2022, for the shift.
    """
    adaptive = relaxation == "adaptive"
    if not adaptive and not 0 < relaxation < 2:
        raise ValueError(f'relaxation is in (0, 2) or "adaptive", got {relaxation!r}.')
    if not isinstance(start, int) or start < 2 or not radius > 0 or patience < 1:
        raise ValueError(
            "sinkhorn needs start >= 2, radius > 0 and patience >= 1, got "
            f"{start!r}, {radius!r} and {patience!r}."
        )
    _continuation.check(continuation)

    def init(params, data):
        f, _ = potential_of(params, data)
        dtype = data.geometry.dtype
        inf, one = jnp.full((), jnp.inf, dtype), jnp.ones((), dtype)
        count = jnp.zeros((), jnp.int32)
        stores = kernel and is_stored(data)
        n, m = data.shape
        state = SinkhornState(
            count=count,
            error=inf,
            status=as_status(Status.RUNNING),
            epsilon=_continuation.first(continuation, data),
            point=f,
            g=jnp.zeros(m, dtype),
            relaxation=one if adaptive else jnp.asarray(relaxation, dtype),
            last=inf,
            steps=count,
            best=inf,
            idle=count,
            mark=data.mark,
            # Zero is no kernel of anything: the first update computes one.
            kernel=jnp.zeros((n, m), dtype) if stores else None,
            anchor_f=jnp.zeros(n, dtype) if stores else None,
            anchor_g=jnp.zeros(m, dtype) if stores else None,
        )
        return owned(state)

    def update(params, state, data):
        f, unravel = potential_of(params, data, state.point)
        f = jnp.where(jnp.isfinite(f), f, 0)
        data, _ = data.normalised()
        # On another problem, which may be hotter, all is computed anew.
        stale = data.mark != state.mark
        state = _forgotten(state, data, stale, continuation, adaptive)
        epsilon = state.epsilon
        fresh = state.steps == 0

        def relaxed(old, new):
            omega = state.relaxation
            return jnp.where(omega == 1, new, old + omega * (new - old))

        def sweep(column, row):
            """New potentials, and before damping and relaxation, of two softmins."""
            g_raw = column(f)
            g_new = damped(g_raw, data.rho_b, epsilon)
            g = jnp.where(fresh, g_new, relaxed(state.g, g_new))
            f_raw = row(g)
            f_new = relaxed(f, damped(f_raw, data.rho_a, epsilon))
            return f_new, f_raw, g, g_raw

        def in_logs():
            column = lambda f: data.geometry.softmin(f, data.a, epsilon, 0)
            row = lambda g: data.geometry.softmin(g, data.b, epsilon, 1)
            return sweep(column, row)

        if state.kernel is None:
            f_new, f_raw, g, g_raw = in_logs()
            anchors = state.kernel, state.anchor_f, state.anchor_g
        else:
            swept, anchors = _by_kernel(data, state, f, sweep, in_logs, radius)
            f_new, f_raw, g, g_raw = swept

        rows = data.a * (_exp((f - f_raw) / epsilon)) - data.wanted_rows(f)
        columns = data.b * (_exp((g - g_raw) / epsilon)) - data.wanted_columns(g)
        total = _absolute(data.a, rows) + _absolute(data.b, columns)
        error = jnp.maximum(total / jnp.sum(data.b), rounding(data, f, g, epsilon))
        error = jnp.where(jnp.isfinite(error), error, jnp.inf)

        if recentre and data.rho_a is not None and data.rho_b is not None:
            shift = data.best_shift(f_new, g)
            f_new, g = f_new + shift, g - shift
        centre = data.centre(f_new)
        f_new, g = f_new - centre, g + centre

        supported = lambda w, h: jnp.all(jnp.isfinite(h) | (w == 0))
        feasible = supported(data.a, f_raw) & supported(data.b, g_raw)
        f_new = jnp.where(jnp.isfinite(f_new), f_new, f)
        g = jnp.where(jnp.isfinite(g), g, 0)
        status = _judge(data, feasible, f_raw, g_raw, state.status)

        final = epsilon <= data.epsilon
        new_epsilon, onward = _continuation.following(
            continuation, data, epsilon, error
        )
        better = error < state.best
        idle = jnp.where(better, 0, state.idle + 1)
        stalled = (idle >= patience) & (status == Status.RUNNING)
        status = jnp.where(stalled, as_status(Status.STALLED), status)
        status = certified(data, f_new, error, status)
        steps = jnp.where(onward, 0, state.steps + 1)
        best = jnp.minimum(error, state.best)
        omega = state.relaxation
        if adaptive:
            omega = adapted(state, error, best, final & (steps == start))
        reset = lambda x: jnp.where(onward, jnp.inf, x)
        return unravel(f_new), SinkhornState(
            state.count + 1,
            jnp.where(final, error, jnp.inf),
            status,
            new_epsilon,
            f_new,
            g,
            omega,
            reset(error),
            steps,
            reset(best),
            jnp.where(onward, 0, idle),
            data.mark,
            *anchors,
        )

    return core.Solver(init, update, residual, potential_rule())


def _forgotten(state, data, stale, continuation, adaptive):
    """The state, on another problem without what it knew of the last."""
    none = lambda new, old: jnp.where(stale, new, old).astype(old.dtype)
    epsilon = _continuation.resumed(continuation, data, state.epsilon)
    return state._replace(
        status=none(as_status(Status.RUNNING), state.status),
        epsilon=none(epsilon, state.epsilon),
        relaxation=none(1, state.relaxation) if adaptive else state.relaxation,
        last=none(jnp.inf, state.last),
        steps=none(0, state.steps),
        best=none(jnp.inf, state.best),
        idle=none(0, state.idle),
    )


def _by_kernel(data, state, f, sweep, in_logs, radius):
    """A sweep by products with the kernel; in the log domain where it is not safe."""
    epsilon = state.epsilon
    matrix, f0, g0 = state.kernel, state.anchor_f, state.anchor_g
    kernel = StoredKernel(matrix)

    def logarithm(total):
        there = total > float(jnp.finfo(total.dtype).tiny)
        return jnp.where(there, jnp.log(jnp.where(there, total, 1)), -jnp.inf)

    def column(f):
        u = _exp((f - f0) / epsilon)
        return g0 - epsilon * logarithm(kernel.transposed(data.a * u))

    def row(g):
        v = _exp((g - g0) / epsilon)
        return f0 - epsilon * logarithm(kernel.times(data.b * v))

    cheap = sweep(column, row)
    f_new, f_raw, g, g_raw = cheap
    far = lambda new, anchor, w: jnp.any(
        (w > 0) & ~(jnp.abs(new - anchor) <= radius * epsilon)
    )
    need = far(f_new, f0, data.a) | far(g, g0, data.b) | (state.steps == 0)
    need = need | far(f_raw, f0, data.a) | far(g_raw, g0, data.b)
    need = need | far(f, f0, data.a)

    def anew():
        swept = in_logs()
        finite = lambda h: jnp.where(jnp.isfinite(h), h, 0)
        f1, g1 = finite(swept[0]), finite(swept[2])
        kept = data.geometry.kernel(f1, g1, epsilon).matrix, f1, g1
        return core.where(need, (swept, kept), (cheap, (matrix, f0, g0)))

    return jax.lax.cond(core.any_lane(need), anew, lambda: (cheap, (matrix, f0, g0)))


def _absolute(weights, gap):
    return jnp.sum(jnp.where(weights > 0, jnp.abs(gap), 0))


def _judge(data, feasible, f_raw, g_raw, before):
    """The status, but for stalls."""
    number = ~(jnp.any(jnp.isnan(f_raw)) | jnp.any(jnp.isnan(g_raw)))
    status = jnp.where(feasible, before, as_status(Status.PRIMAL_INFEASIBLE))
    status = status_of_problem(data, status)
    return jnp.where(number, status, as_status(Status.DIVERGED))


def adapted(state, error, best, now):
    """The relaxation that suits the rate seen so far; none after it has misled."""
    theta = jnp.clip(error / state.last, 0, 0.99)
    theta = jnp.where(jnp.isfinite(theta), theta, 0)
    chosen = jnp.where(now, 2 / (1 + jnp.sqrt(1 - theta)), state.relaxation)
    wild = (error > 10 * best) & (state.relaxation != 1)
    return jnp.where(wild, 1, chosen).astype(error.dtype)
