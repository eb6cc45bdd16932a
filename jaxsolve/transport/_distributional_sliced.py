"""Distributional sliced Wasserstein: the best distribution of directions."""

import functools
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.transport._max_sliced import check_steps
from jaxsolve.transport._one_dimension import check_power, check_weights
from jaxsolve.transport._sliced import PointPair, along, check_slices, prepared, unit
from jaxsolve.transport._sphere_ascent import ascent, climb, fresh, start_of
from jaxsolve.transport._states import owned
from jaxsolve.transport._von_mises_fisher import about, noise


class DistributionalSlicedState(NamedTuple):
    """State of the ascent to a distribution of directions."""

    count: chex.Array  # (), int32: updates taken, one oracle call each.
    error: chex.Array  # (), real: sup-norm of the gradient at the params before.
    status: chex.Array  # (), int32: running or diverged.
    value: chex.Array  # (), real: the mean of W_p^p over the slices there.
    point: chex.Array  # (d,), real: params, raveled, in full precision.
    inner: Any  # the transformation's own state.
    key: chex.PRNGKey  # (): of the slices to come.


@core.memoise
def distributional_sliced(
    kappa: chex.Numeric,
    transform: optax.GradientTransformation | None = None,
    *,
    key: chex.PRNGKey,
    slices: int = 100,
    resample: bool = True,
    p: float = 2,
) -> core.Solver:
    r"""Maximises the mean transport over slices about a location on the sphere.

    Solves :math:`\max_{\|\mu\| = 1} \mathbb{E}_\theta W_p^p(\theta)` with directions
    :math:`\theta` of the von Mises-Fisher distribution about :math:`\mu`, v-DSW. The
    data are a `PointPair`, params are :math:`\mu`, (d,), of any length. One update
    draws slices :math:`\theta_l(\mu)`, as `von_mises_fisher` does, and computes

    .. math::

        g &= \nabla_\mu \tfrac1L \sum_l W_p^p(\theta_l(\mu)) \\
        \mu^+ &= \frac{\mu + \mathrm{transform}(-g)}{\|\mu + \mathrm{transform}(-g)\|}

    As :math:`\kappa \to 0` all locations are as good, and the value is the sliced
    distance; as :math:`\kappa \to \infty` this is `max_sliced`. For every finite
    :math:`\kappa` the maximum is a metric, to its power p. The gradient is tangent to
    the sphere, as slices do not depend on the length of :math:`\mu`.

    With new slices at every update the error is that of a sample, and cannot stop a
    run: take a fixed number of updates, by ``tol=0.0`` and `max_steps`. Without, the
    mean over one sample is maximised, a deterministic problem that converges.

    Args:
        kappa: :math:`\kappa \ge 0`, the concentration; between 0.01 and 1000 in use.
        transform: any optax transformation that descends, such as ``optax.sgd(0.1)``;
            by default one that knows the scale of the problem, :math:`-g \mapsto g / (2
            p J)`, with :math:`J` the mean; without `resample` as in `max_sliced`.
        key: a key of `jax.random`.
        slices: :math:`L`, directions in an update.
        resample: whether every update draws new slices.
        p: the power of the cost, a Python number, at least 1.

    Returns:
        A solver. Its error is :math:`\|g\|_\infty` where it was last taken. Without
        `resample` its residual is :math:`(\|\mu\|^2 - 1) J \mu - g`; with it, it has
        none and the location counts as constant, which is right for the value at it
        (Danskin's theorem): see `distributional_sliced_wasserstein`.

    Raises:
        ValueError: if a number is out of its range, or `transform` is not of optax;
            while tracing, if the data are not a `PointPair` or shapes do not fit.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import transport
        >>> x, shift = jnp.eye(3), jnp.array([[3.0, 4.0, 0.0]])
        >>> pair = transport.PointPair(x, x + shift)
        >>> solver = transport.distributional_sliced(50.0, key=jax.random.key(0))
        >>> out = jaxsolve.run(solver, jnp.ones(3), pair, max_steps=50, tol=0.0)
        >>> print(jnp.round(out.params, 1))
        [0.6 0.8 0. ]

    References:
        Nguyen, Nguyen and Ho, `Self-Attention Amortized Distributional Projection
        Optimization for Sliced Wasserstein Point-Cloud Reconstruction
        <https://arxiv.org/abs/2301.04791>`_, 2023. Nguyen, Ho, Pham and Bui,
        `Distributional Sliced-Wasserstein and Applications to Generative Modeling
        <https://arxiv.org/abs/2002.07367>`_, 2021.
    """
    check_power(p)
    core.check_number("kappa", kappa, closed="[]")
    check_slices(slices)
    climber = ascent(transform, p, exact=not resample)

    @jax.value_and_grad
    def oracle(loc, pair, key):
        draws = noise(key, kappa, slices, loc.size, loc.dtype)
        return along(about(loc, draws), pair, p)

    def init(params, data):
        loc, _, _ = _location(params, data, p)
        inf = jnp.full((), jnp.inf, loc.dtype)
        state = DistributionalSlicedState(
            count=jnp.zeros((), jnp.int32),
            error=inf,
            status=as_status(Status.RUNNING),
            value=inf,
            point=loc,
            inner=fresh(climber, loc),
            key=key,
        )
        return owned(state)

    def update(params, state, data):
        loc, unravel, pair = _location(params, data, p, state.point)
        new_key, draw = jax.random.split(state.key) if resample else (state.key,) * 2
        loc = unit(loc)
        value, grad = oracle(loc, pair, draw)
        point, inner, ok = climb(climber, loc, value, grad, state.inner)
        new = DistributionalSlicedState(
            count=state.count + 1,
            error=jnp.where(ok, jnp.max(jnp.abs(grad)), state.error),
            status=jnp.where(ok, state.status, as_status(Status.DIVERGED)),
            value=jnp.where(ok, value, state.value),
            point=point,
            inner=inner,
            key=new_key,
        )
        return unravel(point), new

    def residual(params, data):
        loc, unravel, pair = _location(params, data, p)
        value, grad = oracle(loc, pair, key)
        return unravel((jnp.sum(loc**2) - 1) * value * loc - grad)

    if resample:
        return core.Solver(init, update, None, core.stop())
    return core.Solver(init, update, residual, core.implicit(psd=True))


def _location(params, data, p, point=None):
    loc, unravel, pair = start_of(params, data, p, point)
    if loc.size < 2:
        raise ValueError("distributions of slices need points of two dimensions.")
    return loc, unravel, pair


def distributional_sliced_wasserstein(
    x: chex.Array,
    y: chex.Array,
    a: chex.Array | None = None,
    b: chex.Array | None = None,
    *,
    key: chex.PRNGKey,
    kappa: chex.Numeric = 1.0,
    slices: int = 100,
    steps: int = 50,
    p: float = 2,
) -> chex.Array:
    r"""Estimates the distributional sliced Wasserstein distance v-DSW, to its power p.

    .. math::

        \text{v-DSW}_p^p = \max_{\|\mu\| = 1} \mathbb{E}_{\theta \sim
            \mathrm{vMF}(\mu, \kappa)} W_p^p(\langle x, \theta \rangle, \langle y,
            \theta \rangle)

    by the mean over new slices about the location after a run of
    `distributional_sliced` from a random one. Derivatives in points and weights are
    those at these slices held constant (Danskin's theorem).

    Args:
        x: points, (n, d), real.
        y: points, (m, d), real.
        a: weights of x, (n,), as in `wasserstein_1d`.
        b: those of y, (m,).
        key: a key of `jax.random`, of the first location and of all slices.
        kappa: :math:`\kappa \ge 0`, the concentration: from the sliced distance at 0 to
            the max-sliced distance at infinity.
        slices: directions in an update, and of the estimate.
        steps: how many updates.
        p: the power of the cost, a Python number, at least 1.

    Returns:
        (), real: the estimate.

    Raises:
        ValueError: as `wasserstein_1d`, or if a number is out of its range.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> x, shift = jnp.eye(3), jnp.array([[3.0, 4.0, 0.0]])
        >>> dsw = transport.distributional_sliced_wasserstein
        >>> value = dsw(x, x + shift, key=jax.random.key(0), kappa=1e4)
        >>> print(f"{value:.1f}")
        25.0

    References:
        As `distributional_sliced`.
    """
    check_power(p)
    check_weights(a, b)
    core.check_number("kappa", kappa, closed="[]")
    check_slices(slices)
    check_steps(steps)
    return _value(x, y, a, b, key, kappa, slices, steps, p)


@functools.partial(jax.jit, static_argnames=("slices", "steps", "p"), inline=True)
def _value(x, y, a, b, key, kappa, slices, steps, p):
    pair = prepared(PointPair(x, y, a, b), p)
    first, second, last = jax.random.split(key, 3)
    size, dtype = pair.x.shape[1], pair.x.dtype
    start = unit(jax.random.normal(first, (size,), dtype))
    solver = distributional_sliced(kappa, key=second, slices=slices, p=p)
    constant = jax.lax.stop_gradient(pair)
    out = core.run(solver, start, constant, max_steps=steps, tol=0.0)
    draws = noise(last, kappa, slices, size, dtype)
    return along(about(jax.lax.stop_gradient(out.params), draws), pair, p)
