"""Learners of many stepsizes, weighed against one another."""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsolve import core
from jaxsolve.online import _rounds
from jaxsolve.prox import MirrorMap


class EnsembleState(NamedTuple):
    """State of an ensemble of N learners."""

    count: chex.Array  # (), int32: rounds played.
    error: chex.Array  # (), real: how far the last point played was from optimal.
    status: chex.Array  # (), int32: running, or diverged.
    skipped: chex.Array  # (), int32: rounds that brought nothing finite.
    value: chex.Array  # (), real: the loss of the last point played.
    grad: core.Params  # like params, of at least 32 bits: its gradient, the hint.
    variation: chex.Array  # (), real: V, how much gradients have surprised.
    points: core.Params  # like grad, (N, ...): from which each learner's steps start.
    plays: core.Params  # likewise: what each would play.
    moved: chex.Array  # (N,): the squared length of each one's last move.
    losses: chex.Array  # (N,): what each has lost so far.
    lost: chex.Array  # (N,): what rounding has cut off from that.
    weights: chex.Array  # (N,): p, of the mixture that was played.


def ensemble_stepsizes(
    smoothness: float, diameter: float, gradient_bound: float, rounds: int
) -> chex.Array:
    r"""Makes the stepsizes of an ensemble: a geometric grid.

    .. math::

        \eta_i = \min \{1 / (8 L), 2^{i-1} \sqrt{D^2 / (8 G^2 T)}\}, \qquad
        i = 1, \dots, N, \quad
        N = \lceil \tfrac{1}{2} \log_2 (G^2 T / (8 L^2 D^2)) \rceil + 1

    Args:
        smoothness: :math:`L > 0`, of the losses' gradients.
        diameter: :math:`D > 0`, of the set.
        gradient_bound: :math:`G > 0`, of the gradients' norms.
        rounds: :math:`T \ge 1`, how many are to be played.

    Returns:
        The stepsizes, (N,), at least one; float64 where x64 is enabled, else float32.

    Raises:
        ValueError: if a number is not positive and finite, or traced, or a stepsize is
            beyond the range of floats.

    Examples:
        >>> from jaxsolve import online
        >>> print(len(online.ensemble_stepsizes(1.0, 2.0, 2.0, 1000)))
        5

    References:
        Zhao, Zhang, Zhang and Zhou, `Adaptivity and Non-stationarity: Problem-dependent
        Dynamic Regret for Online Convex Optimization
        <https://arxiv.org/abs/2112.14368>`_, 2024.
    """
    numbers = dict(
        smoothness=smoothness,
        diameter=diameter,
        gradient_bound=gradient_bound,
        rounds=rounds,
    )
    if not all(map(core.is_concrete, numbers.values())):
        raise ValueError("how many stepsizes there are must be known while tracing.")
    _rounds.check_positive(**numbers)
    if rounds < 1 or rounds != round(rounds):
        raise ValueError(f"rounds must be a positive integer, got {rounds!r}.")
    # By logarithms: squares and products of bounds may be beyond all numbers.
    least = math.log2(diameter) - math.log2(gradient_bound) - math.log2(8 * rounds) / 2
    size = max(1, math.ceil(-least - math.log2(smoothness) - 3) + 1)
    grid = np.exp2(least + np.arange(size))
    stepsizes = np.minimum(1 / (8 * smoothness), grid)
    info = jnp.finfo(core.real_dtype(0.0))
    if not (info.tiny <= stepsizes[0] and stepsizes[-1] <= info.max):
        raise ValueError(
            f"stepsizes from {stepsizes[0]:.0e} to {stepsizes[-1]:.0e} are beyond the "
            f"range of {info.dtype}: scale the losses or the params."
        )
    return jnp.asarray(stepsizes)


@core.memoise
def ensemble(
    fun: core.Objective,
    mirror_map: MirrorMap,
    stepsizes: chex.Array,
    diameter: chex.Numeric,
    smoothness: chex.Numeric,
) -> core.Solver:
    r"""Plays a mixture of learners of many stepsizes, against comparators that move.

    N learners :math:`i` take optimistic mirror steps of stepsize :math:`\eta_i`, all by
    the gradient at the mixture :math:`x_t = \sum_i p_i x_i` that is played, and are
    weighed by what they lose and how much they move. One update computes, with
    :math:`c = 2 L`,

    .. math::

        g &= \nabla f_t(x_t) \\
        V^+ &= V + \|g - g_{t-1}\|_2^2 \\
        s_i^+ &= s_i + \langle g, x_i \rangle + c \|x_i - x_i^-\|^2 \\
        \hat x_i^+ &= \arg\min_{x \in C} \langle g, x \rangle
            + D(x, \hat x_i) / \eta_i \\
        x_i^+ &= \arg\min_{x \in C} \langle g, x \rangle
            + D(x, \hat x_i^+) / \eta_i \\
        p_i &\propto \exp \bigl( -\epsilon (s_i^+ + \langle g, x_i^+ \rangle
            + c \|x_i^+ - x_i\|^2) \bigr), \qquad
        \epsilon = \min \Bigl\{ \frac{1}{8 D^2 L},
            \sqrt{\frac{\log N}{D^2 (1 + V^+)}} \Bigr\}

    so that the regret against comparators :math:`u_1, u_2, \dots` grows with the length
    of their path, none of which is known before. The learners are a vmap. The constants
    are reconstructed from the literature, with low confidence.

    Args:
        fun: :math:`f_t`, as ``fun(params, data) -> scalar``, convex and smooth; called
            once a round, whatever N is.
        mirror_map: the set and its distance, which is that of the 2-norm in the theory.
        stepsizes: :math:`\eta_i`, (N,), positive and finite; see
            :func:`ensemble_stepsizes`.
        diameter: :math:`D > 0`, of the set.
        smoothness: :math:`L > 0`, of the losses' gradients. Too large a value keeps
            weights nearly equal.

    Returns:
        A solver, whose error, residual and ``skipped`` are those of
        :func:`mirror_descent`.

    Raises:
        ValueError: if `mirror_map` is not a `MirrorMap`, `stepsizes` no vector of
            positive, finite numbers, or a known number not positive.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import online, prox
        >>> fun = lambda x, target: jnp.sum((x - target) ** 2) / 2
        >>> ball = prox.euclidean_map(prox.l2_ball(1.0))
        >>> learner = online.ensemble(fun, ball, jnp.array([0.01, 0.1]), 2.0, 1.0)
        >>> targets = jnp.repeat(jnp.array([[0.8], [-0.8]]), 100, 0)
        >>> print(jaxsolve.scan(learner, jnp.zeros(1), targets).params < -0.6)
        [ True]

    References:
        Zhao, Zhang, Zhang and Zhou, `Adaptivity and Non-stationarity: Problem-dependent
        Dynamic Regret for Online Convex Optimization
        <https://arxiv.org/abs/2112.14368>`_, 2024.
    """
    _rounds.check_map(mirror_map)
    _rounds.check_positive(diameter=diameter, smoothness=smoothness)
    shape = jnp.shape(stepsizes)
    known = core.is_concrete(stepsizes)
    sane = lambda etas: np.all((etas > 0) & (etas < np.inf))
    wrong = known and not sane(np.asarray(stepsizes))
    if len(shape) != 1 or not shape[0] or wrong:
        raise ValueError(
            "stepsizes must be a vector of positive, finite numbers, such as that of "
            f"online.ensemble_stepsizes, got {stepsizes!r}."
        )
    size = shape[0]
    oracle = core.value_and_grad(fun)
    step = jax.vmap(mirror_map.step, in_axes=(0, None, 0))
    against = jax.vmap(_rounds.inner, in_axes=(0, None))

    def lengths(change):
        return jax.vmap(lambda x: _rounds.inner(x, x))(change)

    def init(params, data=None):
        del data
        copy = lambda x: jnp.broadcast_to(x, (size, *x.shape))
        points = jax.tree.map(copy, _rounds.widen(params))
        none = jnp.zeros(size, core.real_dtype(params))
        state = EnsembleState(
            **_rounds.start(params),
            points=points,
            plays=points,
            moved=none,
            losses=none,
            lost=none,
            weights=none + 1 / size,
        )
        return _rounds.apart(state)

    def update(params, state, data=None):
        seen, ok = _rounds.observe(oracle, mirror_map, params, state, data)
        grad, real = seen["grad"], lambda x: core.real_scalar(x, params)
        penalty = 2 * real(smoothness)
        amount = against(state.plays, grad) + penalty * state.moved
        losses, lost = _rounds.add(state.losses, state.lost, amount)
        etas = jnp.asarray(stepsizes, losses.dtype)
        points = step(state.points, grad, etas)
        plays = step(points, grad, etas)
        moved = lengths(optax.tree.sub(plays, state.plays))
        expected = losses + against(plays, grad) + penalty * moved
        weights = jax.nn.softmax(-rate(seen["variation"]) * expected)
        play = jax.tree.map(lambda x: mix(weights, x), plays)
        ok = ok & core.all_finite((points, plays, losses, weights))
        new = dict(
            points=points,
            plays=plays,
            moved=moved,
            losses=losses,
            lost=lost,
            weights=weights,
        )
        return _rounds.settle(ok, params, play, state, **seen, **new)

    def rate(variation):
        like = lambda x: jnp.asarray(x, variation.dtype)
        squared = like(diameter) ** 2
        # With one learner there is nothing to weigh.
        grid = jnp.sqrt(like(math.log(size)) / (squared * (1 + variation)))
        return jnp.minimum(1 / (8 * squared * like(smoothness)), grid)

    residual = _rounds.residual_of(oracle, mirror_map)
    return core.Solver(init, update, residual, core.implicit())


def mix(weights, plays):
    """The mean of what learners play, for one leaf."""
    return jnp.tensordot(weights.astype(plays.dtype), plays, 1, precision="highest")
