"""Following the regularised leader, optimistic and plain."""

from typing import NamedTuple

import chex
import optax

from jaxsolve import core, prox
from jaxsolve.online import _rounds
from jaxsolve.online._stepsizes import VariationStepsize, law, usable
from jaxsolve.prox import MirrorMap


class FtrlState(NamedTuple):
    """State of following the regularised leader."""

    count: chex.Array  # (), int32: rounds played.
    error: chex.Array  # (), real: how far the last point played was from optimal.
    status: chex.Array  # (), int32: running, or diverged.
    skipped: chex.Array  # (), int32: rounds that brought nothing finite.
    value: chex.Array  # (), real: the loss of the last point played.
    grad: core.Params  # like params, of at least 32 bits: its gradient, the hint.
    variation: chex.Array  # (), real: V, how much gradients have surprised.
    center: core.Params  # like grad: the first play.
    total: core.Params  # like grad: the sum of all gradients.
    lost: core.Params  # like grad: what rounding has cut off from that sum.


@core.memoise
def ftrl(
    fun: core.Objective,
    mirror_map: MirrorMap,
    stepsize: optax.ScalarOrSchedule | VariationStepsize,
    *,
    optimistic: bool = True,
) -> core.Solver:
    r"""Plays the point that is best against all losses so far, regularised.

    In round :math:`t` the learner has played :math:`x_t`, and is shown a loss
    :math:`f_t`, the data of the update. From the sum :math:`L` of gradients and the
    surprises :math:`V`, one update computes

    .. math::

        g &= \nabla f_t(x_t) \\
        L^+ &= L + g \\
        V^+ &= V + \|g - g_{t-1}\|_2^2 \\
        x_{t+1} &= \arg\min_{x \in C} \langle L^+ + m, x \rangle
            + D(x, x_1) / \eta_{t+1}

    where :math:`m = g` expects the last gradient again if optimistic, and is zero
    otherwise. Params are what is to be played next. The center :math:`x_1` is the first
    play, the params of the start: the middle of the set, unless something is known.

    Beside :func:`mirror_descent` it asks nothing of the distance but that it is bounded
    from the center, so that stepsizes may vary with the entropy too; and where losses
    change for good, it remembers the old ones longer.

    Args:
        fun: :math:`f_t`, as ``fun(params, data) -> scalar``, of the data of the round;
            :func:`linear_loss` where the data are gradients.
        mirror_map: the set and its distance, such as ``prox.entropy_map()`` or
            ``prox.euclidean_map(prox.l2_ball(1.0))``. Not one of composite losses,
            whose second part would count in the last round only.
        stepsize: :math:`\eta`, a number, a schedule of the update count, or
            :func:`variation_stepsize`. It does not increase, in the theory.
        optimistic: whether the last gradient is expected again.

    Returns:
        A solver, whose error, residual and ``skipped`` are those of
        :func:`mirror_descent`.

    Raises:
        ValueError: as :func:`mirror_descent`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import online, prox
        >>> losses = jnp.tile(jnp.array([1.0, 0.0, 1.0]), (50, 1))
        >>> learner = online.ftrl(online.linear_loss, prox.entropy_map(), 0.2)
        >>> solution = jaxsolve.scan(learner, jnp.ones(3) / 3, losses)
        >>> print(jnp.round(solution.params, 3))
        [0. 1. 0.]

    References:
        Sachs, Hadiji, van Erven and Guzman, `Between Stochastic and Adversarial Online
        Convex Optimization: Improved Regret Bounds via Smoothness
        <https://arxiv.org/abs/2202.07554>`_, 2022.
    """
    _rounds.check_map(mirror_map)
    stepsize_at = law(stepsize)
    oracle = core.value_and_grad(fun)

    def init(params, data=None):
        del data
        center = _rounds.widen(params)
        none = optax.tree.zeros_like(center)
        first = _rounds.start(params)
        return _rounds.apart(FtrlState(**first, center=center, total=none, lost=none))

    def update(params, state, data=None):
        seen, ok = _rounds.observe(oracle, mirror_map, params, state, data)
        grad = seen["grad"]
        total, lost = _rounds.add(state.total, state.lost, grad)
        ahead = optax.tree.add(total, grad) if optimistic else total
        eta = stepsize_at(state.count + 1, seen["variation"])
        new_params = mirror_map.step(state.center, ahead, eta)
        ok = ok & usable(eta) & core.all_finite((total, new_params))
        new = dict(seen, total=total, lost=lost)
        return _rounds.settle(ok, params, new_params, state, **new)

    residual = _rounds.residual_of(oracle, mirror_map)
    return core.Solver(init, update, residual, core.implicit())


@core.memoise
def log_barrier_ftrl(
    fun: core.Objective,
    stepsize: optax.ScalarOrSchedule,
    *,
    axis: int | tuple[int, ...] | None = None,
) -> core.Solver:
    r"""Plays probabilities against losses of any size and sign: the bandit learner.

    This is :func:`ftrl` with the logarithmic barrier, without hints. Started from equal
    probabilities, the play after losses of L in all is

    .. math::

        p = \arg\min_{p \in \Delta} \langle p, L \rangle
            + \frac{1}{\eta} \sum_i \log \frac{1}{p_i}

    which is :func:`log_barrier_simplex`. On every sequence of gradients :math:`c_t`, of
    whatever size and sign, and against every y inside of the simplex,

    .. math::

        \sum_t \langle p_t - y, c_t \rangle \le
            \frac{1}{\eta} \sum_i \log \frac{1}{K y_i}
            + \eta \sum_t \sum_i p_{t, i} c_{t, i}^2

    so that estimates may be large and negative, where exponential weights break. As
    long as no :math:`\eta p_{t, i} c_{t, i}` is below :math:`-1/2`, as with
    :func:`importance_weighted` and losses that are not negative, the last sum is of
    :math:`p_{t, i}^2 c_{t, i}^2`.

    Args:
        fun: :math:`f_t`, as ``fun(params, data) -> scalar``; :func:`linear_loss` where
            the data are the estimates :math:`c_t`.
        stepsize: :math:`\eta > 0`, a number or a schedule; about
            :math:`\sqrt{K \log T / T}` for K arms and T rounds.
        axis: the axis, or axes, of every leaf along which probabilities sum to one;
            None where all entries of all leaves do.

    Returns:
        A solver, as :func:`ftrl`. On one loss that a vertex minimises, its error falls
        like one over the rounds.

    Raises:
        ValueError: if a known `stepsize` is not positive.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import online
        >>> learner = online.log_barrier_ftrl(online.linear_loss, 0.5)
        >>> losses = jnp.tile(jnp.array([1.0, 0.0, -50.0]), (4, 1))
        >>> solution = jaxsolve.scan(learner, jnp.ones(3) / 3, losses)
        >>> print(jnp.round(100 * solution.params))
        [ 1.  1. 98.]

    References:
        Dai, Luo, Wei and Zimmert, `Refined Regret for Adversarial MDPs with Linear
        Function Approximation <https://arxiv.org/abs/2301.12942>`_, 2023.
    """
    return ftrl(fun, prox.log_barrier_map(axis=axis), stepsize, optimistic=False)
