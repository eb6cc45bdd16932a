"""Max-sliced Wasserstein: the direction in which two clouds differ most."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.transport._one_dimension import check_power, check_weights
from jaxsolve.transport._sliced import PointPair, along, prepared, unit
from jaxsolve.transport._sphere_ascent import ascent, climb, fresh, start_of
from jaxsolve.transport._states import owned


class MaxSlicedState(NamedTuple):
    """State of the ascent to a max-sliced direction."""

    count: chex.Array  # (), int32: updates taken, one oracle call each.
    error: chex.Array  # (), real: sup-norm of the Riemannian gradient at params.
    status: chex.Array  # (), int32: running, stalled or diverged.
    value: chex.Array  # (), real: W_p^p at params, the largest so far.
    point: chex.Array  # (d,), real: params, raveled, in full precision.
    trial: chex.Array  # (d,), real: where the next update evaluates.
    inner: Any  # the transformation's own state.
    top: chex.Array  # (), real: the value when it last rose beyond rounding.
    least: chex.Array  # (), real: the error when it last fell by a tenth.
    idle: chex.Array  # (), int32: updates since either.


@core.memoise
def max_sliced(
    transform: optax.GradientTransformation | None = None,
    *,
    p: float = 2,
    patience: int = 50,
) -> core.Solver:
    r"""Maximises the transport between the projections of two clouds on a line.

    Solves :math:`\max_{\|\theta\| = 1} W_p^p(\theta)`, the cost of `wasserstein_1d`
    between :math:`\langle x, \theta \rangle` and :math:`\langle y, \theta \rangle`. The
    data are a `PointPair`, params are :math:`\theta`, (d,), of any length. One update
    computes, at the trial direction,

    .. math::

        g &= \nabla W_p^p(\theta) \\
        r &= g - \langle g, \theta \rangle \theta \\
        \theta^+ &= \frac{\theta + \mathrm{transform}(-r)}
            {\|\theta + \mathrm{transform}(-r)\|}

    Params are the best direction evaluated so far, so that their value never falls. It
    is a local maximum that is found, and with it its antipode; start from several
    directions where it matters. Params changed by another link of a chain are evaluated
    and gone on from.

    The radial part of g, kept in the source, is left out: it shortens a plain step by
    :math:`1 + \eta p W_p^p`, and makes coordinate-wise scalings, such as Adam's,
    converge to directions that are no maxima.

    The cost has a ridge wherever projections of two points of a cloud coincide, and
    maxima may lie on one. There the gradient does not vanish: steps must shrink, as
    they do by default, and the run ends as stalled.

    Args:
        transform: any optax transformation that descends, such as ``optax.sgd(0.1)`` or
            ``optax.adam(0.1)``; by default :math:`-r \mapsto \alpha r / (2 p W_p^p)`,
            which knows the scale of the problem; :math:`\alpha`, at first one, is
            halved after the cost fell and grows by a fifth, up to one, else.
        p: the power of the cost, a Python number, at least 1.
        patience: updates without progress in value or error after which the run has
            stalled.

    Returns:
        A solver. Its error is :math:`\|r\|_\infty` at params, its residual
        :math:`\langle g, \theta \rangle \theta - g`; so the direction has an implicit
        derivative. That of the *value* needs none: see `max_sliced_wasserstein`.

    Raises:
        ValueError: if `p` is less than 1, or `transform` is not of optax; while
            tracing, if the data are not a `PointPair` or shapes do not fit.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import transport
        >>> x, shift = jnp.eye(3), jnp.array([[3.0, 4.0, 0.0]])
        >>> pair = transport.PointPair(x, x + shift)
        >>> out = jaxsolve.run(transport.max_sliced(), jnp.ones(3), pair)
        >>> print(out.converged, jnp.round(out.params, 1), f"{out.state.value:.2f}")
        True [0.6 0.8 0. ] 25.00

    References:
        Deshpande et al., `Max-Sliced Wasserstein Distance and its use for GANs
        <https://arxiv.org/abs/1904.05877>`_, 2019. Nguyen, Nguyen and Ho,
        `Self-Attention Amortized Distributional Projection Optimization for Sliced
        Wasserstein Point-Cloud Reconstruction <https://arxiv.org/abs/2301.04791>`_,
        2023.
    """
    check_power(p)
    climber = ascent(transform, p, exact=True)
    oracle = jax.value_and_grad(lambda theta, pair: along(theta[None], pair, p))

    def init(params, data):
        theta, _, _ = start_of(params, data, p)
        inf = jnp.full((), jnp.inf, theta.dtype)
        state = MaxSlicedState(
            count=jnp.zeros((), jnp.int32),
            error=inf,
            status=as_status(Status.RUNNING),
            value=-inf,
            point=theta,
            trial=unit(theta),
            inner=fresh(climber, theta),
            top=-inf,
            least=inf,
            idle=jnp.zeros((), jnp.int32),
        )
        return owned(state)

    def update(params, state, data):
        theta, unravel, pair = start_of(params, data, p, state.point)
        moved = jnp.any(theta != state.point)
        trial = jnp.where(moved, unit(theta), state.trial)
        value, grad = oracle(trial, pair)
        tangent = grad - jnp.sum(grad * trial) * trial
        new_trial, inner, ok = climb(climber, trial, value, tangent, state.inner)
        new = _judged(state, trial, value, tangent, moved, patience)
        bad = ~jnp.isfinite(value) | ~core.all_finite(grad) | ~ok
        status = jnp.where(bad, as_status(Status.DIVERGED), new.status)
        new = new._replace(status=status, trial=new_trial, inner=inner)
        return unravel(new.point), new

    def residual(params, data):
        theta, unravel, pair = start_of(params, data, p)
        _, grad = oracle(theta, pair)
        return unravel(jnp.sum(grad * theta) * theta - grad)

    return core.Solver(init, update, residual, core.implicit(psd=True))


def _judged(state, trial, value, tangent, moved, patience):
    """The state with the trial as its point, if that is better."""
    eps = float(jnp.finfo(value.dtype).eps)
    before = jnp.where(moved, -jnp.inf, state.value)
    reached = jnp.where(moved, jnp.inf, state.error)
    top = jnp.where(moved, -jnp.inf, state.top)
    least = jnp.where(moved, jnp.inf, state.least)
    error = jnp.max(jnp.abs(tangent))
    finite = jnp.isfinite(value) & jnp.isfinite(error)
    noise = 4 * eps * jnp.abs(value)
    higher = value > before + noise
    # At the top values are flat long before gradients are.
    level = (value >= before - noise) & (error < reached)
    accepted = finite & (higher | level)
    rose = accepted & (value > top + noise)
    better = accepted & (error < 0.9 * least)
    idle = jnp.where(rose | better, 0, state.idle + 1)
    stalled = idle >= patience
    return state._replace(
        count=state.count + 1,
        error=jnp.where(accepted, error, state.error),
        status=jnp.where(stalled, as_status(Status.STALLED), state.status),
        value=jnp.where(accepted, value, state.value),
        point=jnp.where(accepted, trial, state.point),
        top=jnp.where(rose, value, top),
        least=jnp.where(better, error, least),
        idle=idle,
    )


def max_sliced_wasserstein(
    x: chex.Array,
    y: chex.Array,
    a: chex.Array | None = None,
    b: chex.Array | None = None,
    *,
    key: chex.PRNGKey,
    steps: int = 50,
    p: float = 2,
) -> chex.Array:
    r"""Estimates the max-sliced Wasserstein distance, to its power p, from below.

    .. math::

        \text{Max-SW}_p^p = \max_{\|\theta\| = 1}
            W_p^p(\langle x, \theta \rangle, \langle y, \theta \rangle)

    at the best direction of a run of `max_sliced` from a random one. Derivatives in
    points and weights are those at this direction held constant (Danskin's theorem),
    also where the run did not converge: then they are those of the lower bound.

    Args:
        x: points, (n, d), real.
        y: points, (m, d), real.
        a: weights of x, (n,), as in `wasserstein_1d`.
        b: those of y, (m,).
        key: a key of `jax.random`, of the first direction.
        steps: how many updates at most; the value does not fall with them.
        p: the power of the cost, a Python number, at least 1.

    Returns:
        (), real: the largest cost that was found.

    Raises:
        ValueError: as `wasserstein_1d`, or if `steps` is not a positive integer.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> x, shift = jnp.eye(3), jnp.array([[3.0, 4.0, 0.0]])
        >>> key = jax.random.key(0)
        >>> print(f"{transport.max_sliced_wasserstein(x, x + shift, key=key):.3f}")
        25.000

    References:
        As `max_sliced`.
    """
    check_power(p)
    check_weights(a, b)
    check_steps(steps)
    return _value(x, y, a, b, key, steps, p)


def check_steps(steps):
    """Raises a `ValueError` unless `steps` is a positive integer."""
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a positive integer, got {steps!r}.")


@functools.partial(jax.jit, static_argnames=("steps", "p"), inline=True)
def _value(x, y, a, b, key, steps, p):
    pair = prepared(PointPair(x, y, a, b), p)
    start = unit(jax.random.normal(key, pair.x.shape[1:], pair.x.dtype))
    constant = jax.lax.stop_gradient(pair)
    out = core.run(max_sliced(p=p), start, constant, max_steps=steps)
    return along(jax.lax.stop_gradient(out.params)[None], pair, p)
