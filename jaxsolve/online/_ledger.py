"""A ledger of regret, beside any learner."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.online import _rounds
from jaxsolve.prox import LinearOracle


class LedgerState(NamedTuple):
    """State of a learner with a ledger."""

    count: chex.Array  # (), int32: rounds played.
    error: chex.Array  # (), real: the learner's.
    status: chex.Array  # (), int32: the learner's.
    skipped: chex.Array  # (), int32: the learner's.
    learner: Any  # its state.
    regret: chex.Array  # (), real: of linearised losses, to the set's best point.
    excess: chex.Array  # (), real: of the losses, to the best comparator.
    loss: chex.Array  # (), real: the sum of what the plays lost.
    rivals: chex.Array  # (m,), real: the sum of what each comparator lost.
    path: chex.Array  # (), real: the length of the path of the plays.
    total: core.Params  # like params, of at least 32 bits: G, the sum of gradients.
    lost: dict  # what rounding has cut off from each of these sums.
    best: core.Params  # like total: v, the set's best point against it.
    variation: chex.Array  # (), real: V, the learner's.


@core.memoise
def ledger(
    learner: core.Solver,
    oracle: LinearOracle,
    fun: Callable | None = None,
    comparators: core.Params | None = None,
) -> core.Solver:
    r"""Books the regret of a learner, round by round.

    Plays what the learner plays. Beside it, for the plays :math:`x_t` and their
    gradients :math:`g_t`, with the sum :math:`G_t` of these and the best point of the
    set against it, :math:`v_t \in \arg\min_{v \in C} \langle G_t, v \rangle`, one
    update computes

    .. math::

        R_t &= R_{t-1} + \langle g_t, x_t - v_{t-1} \rangle
            + \langle G_t, v_{t-1} - v_t \rangle
            = \sum_{s \le t} \langle g_s, x_s - v_t \rangle \\
        E_t &= \max_j \sum_{s \le t} \bigl( f_s(x_s) - f_s(u_j) \bigr) \\
        P_t &= \sum_{s \le t} \|x_{s+1} - x_s\|_2

    R, the regret of the linearised losses, is to the best fixed point of the set, and
    bounds the regret of convex losses. E, that of the losses themselves, is to the best
    of the comparators given; it is zero if there are none, and leaves out those that
    have once lost what is not finite. Of a stream that is known, make the best point in
    hindsight one of them. Rounds that the learner skips are booked neither for it nor
    for its rivals; nor is the part h of composite losses :math:`f_t + h`, as with
    :func:`composite_map`. Sums are of twice the words of their parts, so that in
    float32 too a small regret is right after very many rounds.

    Args:
        learner: a learner of this room.
        oracle: the set C, such as ``prox.l2_ball_vertex(1.0)``,
            ``prox.simplex_vertex()`` or ``prox.box_vertex(-1.0, 1.0)``.
        fun: :math:`f_t`, the learner's; evaluated at the comparators by one call more
            an update.
        comparators: :math:`u_j`, a tree like params with one more axis in front, of
            size m.

    Returns:
        A solver, whose error and residual are the learner's. Its state has the sums, of
        which ``record`` of `jaxsolve.scan` may keep a history; with
        :func:`variation_stepsize`, ``stepsize.bound(state.variation)`` is the bound on
        ``state.regret``.

    Raises:
        ValueError: if the learner's state lacks what is booked, the set is no
            `LinearOracle`, or only one of `fun` and `comparators` is given.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import online, prox
        >>> hedge = online.ftrl(online.linear_loss, prox.entropy_map(), 0.5)
        >>> learner = online.ledger(hedge, prox.simplex_vertex())
        >>> losses = jnp.tile(jnp.array([[1.0, 0.0], [0.0, 0.5]]), (20, 1))
        >>> state = jaxsolve.scan(learner, jnp.ones(2) / 2, losses).state
        >>> print(state.loss.round(1), state.regret.round(1))
        12.8 2.8
    """
    if not isinstance(learner, core.Solver):
        raise ValueError(f"learner must be a Solver, got {type(learner).__name__}.")
    if not isinstance(oracle, LinearOracle):
        raise ValueError(
            "oracle must be a jaxsolve.prox.LinearOracle, such as "
            f"prox.l2_ball_vertex(1.0), got {type(oracle).__name__}."
        )
    if (fun is None) != (comparators is None):
        raise ValueError("fun and comparators are given both, or neither.")
    rivals_of = _rivals(fun, comparators)

    def init(params, data=None):
        state = learner.init(params, data)
        missing = {"grad", "value", "skipped", "variation"} - set(state._fields)
        if missing:
            raise ValueError(
                f"learner must be one of jaxsolve.online, but its state has no "
                f"{', '.join(sorted(missing))}."
            )
        zero = core.real_scalar(0, params)
        none = optax.tree.zeros_like(_rounds.widen(params))
        rivals = jnp.zeros(_size(comparators), zero.dtype)
        sums = dict(regret=zero, loss=zero, path=zero, rivals=rivals, total=none)
        first = LedgerState(
            **_mirrored(state),
            **sums,
            learner=state,
            excess=zero,
            lost=sums,
            best=oracle.vertex(none),
        )
        return _rounds.apart(first)

    def update(params, state, data=None):
        new_params, inner = learner.update(params, state.learner, data)
        played = inner.skipped == state.learner.skipped
        grad = core.where(played, inner.grad, optax.tree.zeros_like(inner.grad))
        total, rest = _rounds.add(state.total, state.lost["total"], grad)
        best = oracle.vertex(total)
        ahead, turn = _less(params, state.best), _less(state.best, best)
        move = _less(new_params, params)
        amounts = dict(
            regret=_rounds.inner(ahead, grad) + _rounds.inner(turn, total),
            loss=inner.value,
            path=jnp.sqrt(_rounds.inner(move, move)),
            rivals=rivals_of(params, data),
        )
        amounts = core.where(played, amounts, optax.tree.zeros_like(amounts))
        sums = {name: getattr(state, name) for name in amounts}
        lost = {name: state.lost[name] for name in amounts}
        sums, lost = _rounds.add(sums, lost, amounts)
        excess = (sums["loss"] - sums["rivals"]) + (lost["loss"] - lost["rivals"])
        state = LedgerState(
            **_mirrored(inner),
            **sums,
            learner=inner,
            excess=jnp.nanmax(excess) if excess.size else state.excess,
            total=total,
            lost=dict(lost, total=rest),
            best=best,
        )
        return new_params, state

    return core.Solver(init, update, learner.residual, learner.derivative)


def _less(a, b):
    """The difference of two trees, in at least 32 bits."""
    return optax.tree.sub(_rounds.widen(a), _rounds.widen(b))


def _mirrored(state):
    """The fields that a ledger shows of its learner's state."""
    names = ("count", "error", "status", "skipped", "variation")
    return {name: getattr(state, name) for name in names}


def _size(comparators):
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(comparators)}
    if comparators is None:
        return 0
    if len(sizes) != 1 or sizes & {(), (0,)}:
        raise ValueError(
            "comparators must be a tree like params whose leaves have one more axis in "
            f"front, all of one size, got {sorted(sizes)}."
        )
    return sizes.pop()[0]


def _rivals(fun, comparators):
    """What comparators lose in a round: (m,)."""
    if fun is None:
        return lambda params, data: jnp.zeros(0, core.real_dtype(params))
    _size(comparators)
    loss = core.objective(fun)

    def rivals(params, data):
        like = lambda u, x: jnp.asarray(u, jnp.result_type(x))
        points = jax.tree.map(like, comparators, params)
        return jax.vmap(loss, in_axes=(0, None))(points, data)

    return rivals
