"""BiP: bi-level pruning, over the scores of a mask and the weights that it keeps."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.bilevel._oracle import accept, begin, error_of
from jaxsolve.bilevel._phases import check_steps, when
from jaxsolve.bilevel._problem import Levels, check_levels, split
from jaxsolve.bilevel._selection import Selection, as_selection, mask_like, masked


class BipState(NamedTuple):
    """State of BiP."""

    count: chex.Array  # (), int32: updates taken.
    error: chex.Array  # (), real: of the last round; infinite where its mask changed.
    status: chex.Array  # (), int32: running or diverged.
    taken: chex.Array  # (), int32: lower steps of this round.
    value: chex.Array  # (), real: the loss of the masked weights, last evaluated.
    gap: chex.Array  # (), real: largest entry of m g + gamma theta, likewise.
    flips: chex.Array  # (), int32: entries of the mask changed by the last round.
    mask: Any  # like the weights: m, zeros and ones.
    upper: Any  # the state of the optimizer of the scores.
    lower: Any  # the state of the optimizer of the weights.


@core.memoise
def bip(
    fun: core.Objective,
    optimizer: optax.GradientTransformation,
    lower_optimizer: optax.GradientTransformation,
    keep: int | Selection,
    ridge: chex.Numeric = 1e-4,
    coefficient: chex.Numeric = 1e-4,
    *,
    lower_steps: int = 1,
) -> core.Solver:
    r"""Prunes a model: learns which weights to keep while it retrains them.

    With weights :math:`\theta`, scores :math:`s` and the mask :math:`m \in \{0, 1\}^n`
    of the best scores, seeks

    .. math::

        \min_m \ell(m \theta^\star(m)), \qquad
        \theta^\star(m) = \operatorname{argmin}_\theta \ell(m \theta)
        + \tfrac{\gamma}{2} \|\theta\|^2

    all products entry by entry. A round is `lower_steps` updates of the first line, on
    lower data, and one of the others, on upper data; with :math:`g = \nabla \ell(m
    \theta)`, on the data and at the weights of its update:

    .. math::

        \theta^+ &= \theta + \mathrm{lower\_optimizer}(m g + \gamma \theta) \\
        h &= (\theta - c \, m g) \, g \\
        s^+ &= P(s + \mathrm{optimizer}(h)) \\
        m^+ &= \mathrm{keep}(s^+)

    Every update is one backward pass. The hypergradient :math:`h` neglects the Hessian
    of the loss, and is exact where that vanishes and :math:`c = 1 / \gamma`; a smaller
    coefficient than that, as published, trusts the lower level's answer less. The two
    levels want independent minibatches, and the scores a rate at which they move before
    the weights have settled on the first mask. Nothing is proved of the masks that come
    out. On a sparse regression it beats pruning once by magnitude, but not in rounds.
    On a small network for digits (``bench/pruning.py``), at equal cost, scores that
    compete, ``keep=top_k(k, capped=True)``, are level with pruning in rounds down to a
    twentieth of the weights; at 3 % that takes a fifth of the published rate of the
    scores, and at 2 % both rates are far behind. Clipped scores, the default and the
    paper's, are 0.6 points behind at 5 % and 9 at 3 %. Train in float32: no master copy
    is kept of leaves of lower precision.

    Args:
        fun: :math:`\ell`, as ``fun(weights, data) -> scalar``. Data are a pair,
            ``(upper_data, lower_data)``, or None.
        optimizer: the step of the scores, any optax transformation; ``optax.sgd(0.1,
            momentum=0.9)`` in the paper.
        lower_optimizer: the step of the weights, likewise; the paper's rate decays from
            0.1 along a cosine.
        keep: k, of all weights together, or a selection: :func:`top_k`,
            :func:`top_groups`, or your own.
        ridge: :math:`\gamma \ge 0`. Weights that are not kept tend to zero by it.
        coefficient: :math:`c \ge 0`.
        lower_steps: weight steps in a round, at least 1.

    Returns:
        A solver of ``Levels(scores, weights)``, which :func:`prunable` begins; the
        pruned weights are ``pruned(params, keep)``. Its error, once a round, is the
        largest entry of :math:`m g + \gamma \theta`, before the last step of the
        weights, and of :math:`s - P(s - h)`, before that of the scores; infinite after
        a round that changed the mask. On minibatches it cannot stop a run;
        ``state.flips``, how many entries changed, tells whether the mask has settled.
        Derivatives are those of the weights with the mask held fixed, of the residual
        :math:`m g + \gamma \theta` on the lower data, and need :math:`\gamma > 0`;
        those of the scores are zero.

    Raises:
        ValueError: if numbers are negative or infinite, or do not fit the weights; if
            an optimizer is none of optax, or the data no pair.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from jaxsolve import bilevel, core
        >>> fun = lambda weights, target: jnp.sum((weights - target) ** 2)
        >>> keep = bilevel.top_k(1, capped=True)
        >>> solver = bilevel.bip(fun, optax.sgd(0.1), optax.sgd(0.2), keep, ridge=0.5)
        >>> target, start = jnp.array([1.0, 3.0]), bilevel.prunable(jnp.ones(2))
        >>> params = core.run(solver, start, (target, target), max_steps=200).params
        >>> print(jnp.round(bilevel.pruned(params, keep)))
        [0. 2.]

    References:
        Zhang, Yao, Ram, Zhao, Chen, Hong, Wang and Liu, `Advancing Model Pruning via
        Bi-level Optimization <https://arxiv.org/abs/2210.04092>`_, 2022. (7) and
        Algorithm 1; the published code squares another term of :math:`h`.
    """
    check_steps(lower_steps=lower_steps)
    core.check_number("ridge", ridge, closed="[")
    core.check_number("coefficient", coefficient, closed="[")
    selection = as_selection(keep)
    oracle = core.value_and_grad(fun)
    begin_upper, step_scores = core.transform_pair(optimizer)
    begin_lower, step_weights = core.transform_pair(lower_optimizer)

    def shrunk(mask, weights, gradient):
        return core.axpy(ridge, weights, masked(mask, gradient))

    def init(params, data=None):
        del data
        first, (scores, weights) = begin(params), params
        zero = jnp.zeros((), jnp.int32)
        return BipState(
            *first,
            taken=zero,
            value=core.real_scalar(0, weights),
            gap=core.real_scalar(0, params),
            flips=zero,
            mask=mask_like(selection, scores, weights),
            upper=begin_upper(scores),
            lower=begin_lower(weights),
        )

    def lower_phase(params, state, value, gradient):
        scores, weights = params
        slope = shrunk(state.mask, weights, gradient)
        weights, lower = step_weights(slope, state.lower, weights, value=value)
        return Levels(scores, weights), state._replace(
            taken=state.taken + 1,
            value=value,
            gap=_like(error_of(slope), state.gap),
            lower=lower,
        )

    def upper_phase(params, state, value, gradient):
        scores, weights = params
        slope = hypergradient(state.mask, weights, gradient, coefficient)
        slope = jax.tree.map(lambda h, s: h.astype(s.dtype), slope, scores)
        trial = selection.project(optax.tree.sub(scores, slope))
        moved = error_of(optax.tree.sub(scores, trial))
        new_scores, upper = step_scores(slope, state.upper, scores, value=value)
        new_scores = selection.project(new_scores)
        mask = mask_like(selection, new_scores, weights)
        flips = _flips(mask, state.mask)
        worst = jnp.maximum(_like(moved, state.gap), state.gap)
        return Levels(new_scores, weights), state._replace(
            error=jnp.where(flips == 0, worst, jnp.inf),
            taken=jnp.zeros_like(state.taken),
            value=value,
            flips=flips,
            mask=mask,
            upper=upper,
        )

    def update(params, state, data=None):
        upper_data, lower_data = split(data)
        weights = masked(state.mask, check_levels(params).lower)
        due = state.taken >= lower_steps

        def take(phase, data):
            return phase(params, state, *oracle(weights, data))

        moved = when(due, lambda: take(upper_phase, upper_data), (params, state))
        moved = when(~due, lambda: take(lower_phase, lower_data), moved)
        new_params, new_state = moved
        new_state = new_state._replace(count=state.count + 1)
        return accept(params, state, new_params, new_state, free=("upper", "lower"))

    def residual(params, data=None):
        scores, weights = check_levels(params)
        mask = mask_like(selection, scores, weights)
        _, gradient = oracle(masked(mask, weights), split(data)[1])
        still = optax.tree.sub(scores, jax.lax.stop_gradient(scores))
        return Levels(still, shrunk(mask, weights, gradient))

    return core.Solver(init, update, residual, core.implicit(symmetric=True))


def hypergradient(mask, weights, gradient, coefficient) -> chex.ArrayTree:
    """The slope of the upper loss in the mask, of one backward pass."""

    def entry(m, theta, g):
        return (theta - jnp.asarray(coefficient, g.dtype) * m * g) * g

    return jax.tree.map(entry, mask, weights, gradient)


def _flips(new, old):
    changed = jax.tree.map(lambda a, b: jnp.sum(a != b, dtype=jnp.int32), new, old)
    return sum(jax.tree.leaves(changed), jnp.zeros((), jnp.int32))


def _like(scalar, other):
    return scalar.astype(other.dtype)
