"""Online Newton steps, for losses that are exp-concave."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.online import _rounds
from jaxsolve.online._metric import Quadratic, QuadraticDomain, minimise
from jaxsolve.prox import euclidean_map

HIGHEST = jax.lax.Precision.HIGHEST


class OnlineNewtonState(NamedTuple):
    """State of online Newton steps."""

    count: chex.Array  # (), int32: rounds played.
    error: chex.Array  # (), real: how far the last point played was from optimal.
    status: chex.Array  # (), int32: running, or diverged.
    skipped: chex.Array  # (), int32: rounds that brought nothing finite.
    value: chex.Array  # (), real: the loss of the last point played.
    grad: core.Params  # like params, of at least 32 bits: its gradient, the hint.
    variation: chex.Array  # (), real: how much gradients have surprised.
    point: chex.Array  # (n,): the point from which steps start.
    metric: chex.Array  # (n, n): H.
    inverse: chex.Array  # (n, n): of H.


@core.memoise
def online_newton(
    fun: core.Objective,
    domain: QuadraticDomain,
    curvature: chex.Numeric,
    gradient_bound: chex.Numeric,
    *,
    optimistic: bool = True,
) -> core.Solver:
    r"""Plays against exp-concave losses, in a metric that gradients build up.

    In round :math:`t` the learner has played :math:`x_t`, and is shown a loss
    :math:`f_t`, the data of the update. From the point :math:`\hat x` and the metric
    :math:`H`, which begins as :math:`(1 + \beta G^2 / 2) I`, one update computes

    .. math::

        g &= \nabla f_t(x_t) \\
        \hat x^+ &= \arg\min_{x \in C} \langle g, x \rangle
            + \tfrac{1}{2} \|x - \hat x\|_H^2 \\
        H^+ &= H + \tfrac{\beta}{2} g g^\top \\
        x_{t+1} &= \arg\min_{x \in C} \langle g, x \rangle
            + \tfrac{1}{2} \|x - \hat x^+\|_{H^+}^2

    and the same without its first term if not optimistic. The inverse of H is kept by
    the formula of Sherman and Morrison: a step inside of the set is of order
    :math:`n^2`. Params are what is to be played next. The regret is of the order of n
    times the logarithm of what losses vary. Metric and steps are taken from the
    literature with medium confidence.

    Args:
        fun: :math:`f_t`, as ``fun(params, data) -> scalar``, of the data of the round.
        domain: the set: :func:`quadratic_ball`, or :func:`quadratic_set` of any
            projection, which is evaluated many times an update then.
        curvature: :math:`\beta > 0`; for losses of which :math:`\exp(-\alpha f)` is
            concave, on a set of diameter D, it is
            :math:`\min \{1 / (4 G D), \alpha\} / 2`. One that is too large makes steps
            too short for good.
        gradient_bound: :math:`G > 0`, of the gradients' norms; with one that is too
            small the first steps are long, and the regret bound is not proved.
        optimistic: whether the last gradient is expected again.

    Returns:
        A solver, whose error, residual and ``skipped`` are those of
        :func:`mirror_descent` in the 2-norm. Its state holds :math:`2 n^2` numbers.

    Raises:
        ValueError: if `domain` is not a `QuadraticDomain` or a known number not
            positive.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import online
        >>> fun = lambda x, data: (data[0] @ x - data[1]) ** 2 / 2
        >>> rows = jnp.tile(jnp.array([[1.0, 2.0], [3.0, 1.0]]), (100, 1))
        >>> answers = rows @ jnp.array([0.5, -0.25])
        >>> learner = online.online_newton(fun, online.quadratic_ball(2.0), 0.1, 1.0)
        >>> out = jaxsolve.scan(learner, jnp.zeros(2), (rows, answers))
        >>> print(jnp.round(out.params, 2))
        [ 0.5  -0.25]

    References:
        Chen, Zhang, Tu, Zhao and Zhang, `Optimistic Online Mirror Descent for Bridging
        Stochastic and Adversarial Online Convex Optimization
        <https://arxiv.org/abs/2302.04552>`_, 2024. Hazan, Agarwal and Kale,
        `Logarithmic Regret Algorithms for Online Convex Optimization
        <https://doi.org/10.1007/s10994-007-5016-8>`_, 2007.
    """
    if not isinstance(domain, QuadraticDomain):
        raise ValueError(
            "domain must be a set such as online.quadratic_ball(1.0) or "
            f"online.quadratic_set(prox.box(-1.0, 1.0)), got {type(domain).__name__}."
        )
    _rounds.check_positive(curvature=curvature, gradient_bound=gradient_bound)
    geometry = euclidean_map(domain.projection)
    oracle = core.value_and_grad(fun)

    def floor(params):
        return core.real_scalar(1 + curvature * gradient_bound**2 / 2, params)

    def init(params, data=None):
        del data
        point, _ = core.ravel(params)
        eye, least = jnp.eye(point.size, dtype=point.dtype), floor(params)
        state = OnlineNewtonState(
            **_rounds.start(params),
            point=point,
            metric=least * eye,
            inverse=eye / least,
        )
        return _rounds.apart(state)

    def step(point, g, metric, inverse, unravel):
        onto = lambda x: core.ravel(domain.projection(unravel(x)))[0]
        move = -jnp.matmul(inverse, g, precision=HIGHEST)
        return minimise(domain, Quadratic(metric, point, g, floor(point), move), onto)

    def update(params, state, data=None):
        seen, ok = _rounds.observe(oracle, geometry, params, state, data)
        _, unravel = core.ravel(_rounds.widen(params))
        g, _ = core.ravel(seen["grad"])
        point = step(state.point, g, state.metric, state.inverse, unravel)
        metric, inverse = grown(state.metric, state.inverse, g, curvature)
        play = step(point, g, metric, inverse, unravel) if optimistic else point
        play = unravel(play)
        ok = ok & core.all_finite((point, metric, inverse, play))
        new = dict(seen, point=point, metric=metric, inverse=inverse)
        return _rounds.settle(ok, params, play, state, **new)

    residual = _rounds.residual_of(oracle, geometry)
    return core.Solver(init, update, residual, core.implicit())


def grown(metric, inverse, g, curvature):
    """The metric and its inverse, after a gradient."""
    half = jnp.asarray(curvature, g.dtype) / 2
    way = jnp.matmul(inverse, g, precision=HIGHEST)
    outer = lambda x: x[:, None] * x[None, :]
    less = outer(way) * (half / (1 + half * (g @ way)))
    return metric + half * outer(g), inverse - less
