"""Online mirror descent, optimistic and plain."""

from typing import NamedTuple

import chex
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.online import _rounds
from jaxsolve.online._stepsizes import VariationStepsize, law, usable
from jaxsolve.prox import MirrorMap


class MirrorDescentState(NamedTuple):
    """State of online mirror descent."""

    count: chex.Array  # (), int32: rounds played.
    error: chex.Array  # (), real: how far the last point played was from optimal.
    status: chex.Array  # (), int32: running, or diverged.
    skipped: chex.Array  # (), int32: rounds that brought nothing finite.
    value: chex.Array  # (), real: the loss of the last point played.
    grad: core.Params  # like params, of at least 32 bits: its gradient, the hint.
    variation: chex.Array  # (), real: V, how much gradients have surprised.
    point: core.Params  # like grad: the point from which steps start.


@core.memoise
def mirror_descent(
    fun: core.Objective,
    mirror_map: MirrorMap,
    stepsize: optax.ScalarOrSchedule | VariationStepsize,
    *,
    optimistic: bool = True,
) -> core.Solver:
    r"""Plays a point a round, by mirror steps that expect the last gradient again.

    In round :math:`t` the learner has played :math:`x_t`, and is shown a loss
    :math:`f_t`, the data of the update. From the point :math:`\hat x` and the surprises
    :math:`V`, one update computes

    .. math::

        g &= \nabla f_t(x_t) \\
        \hat x^+ &= \arg\min_{x \in C} \langle g, x \rangle
            + D(x, \hat x) / \eta_t \\
        V^+ &= V + \|g - g_{t-1}\|_2^2 \\
        x_{t+1} &= \arg\min_{x \in C} \langle g, x \rangle
            + D(x, \hat x^+) / \eta_{t+1}

    and :math:`x_{t+1} = \hat x^+` if not optimistic. Params are what is to be played
    next. The first play, and :math:`\hat x_1`, are the params of the start, which must
    lie in the set.

    For losses that are drawn from distributions which themselves drift, the regret is
    of the order of the root of what the noise and the drift add up to: for convex ones
    with :func:`variation_stepsize`, whose ``bound`` holds on every sequence. With
    :func:`strongly_convex_stepsize` it is logarithmic. Hints that are wrong every time
    cost a factor: on losses that alternate, plain steps can be several times better.
    With stepsizes that vary, the entropy and other distances which are not bounded on
    the set have no such guarantee: use :func:`ftrl` with them.

    Args:
        fun: :math:`f_t`, as ``fun(params, data) -> scalar``, of the data of the round;
            :func:`linear_loss` where the data are gradients.
        mirror_map: the set and its distance, such as
            ``prox.euclidean_map(prox.l2_ball(1.0))`` or ``prox.entropy_map()``; of
            composite losses, such as :func:`composite_map`.
        stepsize: :math:`\eta`, a number, a schedule of the update count, or
            :func:`variation_stepsize`. One below zero skips the round.
        optimistic: whether the last gradient is expected again.

    Returns:
        A solver whose data change from round to round, as in `jaxsolve.scan`. Its error
        is that of the point played before, for its own round: the sup-norm of
        :math:`x - P_C(x - g)`, or what the map has for a violation. On data that change
        it tells nothing and cannot stop a run; on one loss it falls to zero, and the
        residual :math:`x - P_C(x - \nabla f(x))` differentiates what that converges to.
        A stream is differentiated through its updates, as `jaxsolve.scan` does. A round
        with a value or gradient that is not finite is skipped: it is counted in
        ``skipped`` and the status is diverged from then on.

    Raises:
        ValueError: if `mirror_map` is not a `MirrorMap` or a known `stepsize` not
            positive; while tracing, if the loss is not a real scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import online, prox
        >>> losses = jnp.tile(jnp.array([1.0, 0.0, 1.0]), (50, 1))
        >>> learner = online.mirror_descent(online.linear_loss, prox.entropy_map(), 0.2)
        >>> solution = jaxsolve.scan(learner, jnp.ones(3) / 3, losses)
        >>> print(jnp.round(solution.params, 3))
        [0. 1. 0.]

    References:
        Chen, Zhang, Tu, Zhao and Zhang, `Optimistic Online Mirror Descent for Bridging
        Stochastic and Adversarial Online Convex Optimization
        <https://arxiv.org/abs/2302.04552>`_, 2024. Rakhlin and Sridharan, `Online
        Learning with Predictable Sequences
        <https://proceedings.mlr.press/v30/Rakhlin13.html>`_, 2013.
    """
    _rounds.check_map(mirror_map)
    stepsize_at = law(stepsize)
    oracle = core.value_and_grad(fun)

    def init(params, data=None):
        del data
        first = _rounds.start(params)
        return _rounds.apart(MirrorDescentState(**first, point=_rounds.widen(params)))

    def update(params, state, data=None):
        seen, ok = _rounds.observe(oracle, mirror_map, params, state, data)
        eta = stepsize_at(state.count, state.variation)
        # Without hints, the point is what was played, though somebody has changed it.
        start = state.point if optimistic else _rounds.follow(params, state.point)
        point = new_params = mirror_map.step(start, seen["grad"], eta)
        if optimistic:
            next_eta = stepsize_at(state.count + 1, seen["variation"])
            # A schedule may end with this round.
            next_eta = jnp.maximum(next_eta, 0)
            new_params = mirror_map.step(point, seen["grad"], next_eta)
        ok = ok & usable(eta) & core.all_finite((point, new_params))
        return _rounds.settle(ok, params, new_params, state, **seen, point=point)

    residual = _rounds.residual_of(oracle, mirror_map)
    return core.Solver(init, update, residual, core.implicit())
