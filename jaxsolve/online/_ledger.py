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
    linear: chex.Array  # (), real: the sum of <g_t, x_t>.
    total: core.Params  # like params, of at least 32 bits: the sum of gradients.
    rivals: chex.Array  # (m,), real: the sum of what each comparator lost.
    path: chex.Array  # (), real: the length of the path of the plays.
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
    gradients :math:`g_t`, one update computes

    .. math::

        R_T &= \sum_t \langle g_t, x_t \rangle
            - \min_{u \in C} \sum_t \langle g_t, u \rangle \\
        E_T &= \sum_t f_t(x_t) - \min_j \sum_t f_t(u_j) \\
        P_T &= \sum_t \|x_{t+1} - x_t\|_2

    R, the regret of the linearised losses, is to the best fixed point of the set, and
    bounds the regret of convex losses. E, that of the losses themselves, is to the best
    of the comparators given; it is zero if there are none. Of a stream that is known,
    make the best point in hindsight one of them. Rounds that the learner skips are
    booked neither for it nor for its rivals.

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
        names = ("regret", "excess", "loss", "linear", "path")
        return LedgerState(
            **_mirrored(state),
            **dict.fromkeys(names, zero),
            learner=state,
            total=optax.tree.zeros_like(_rounds.widen(params)),
            rivals=jnp.zeros(_size(comparators), zero.dtype),
        )

    def update(params, state, data=None):
        new_params, inner = learner.update(params, state.learner, data)
        played = inner.skipped == state.learner.skipped
        book = lambda amount: jnp.where(played, amount, 0)
        grad = core.where(played, inner.grad, optax.tree.zeros_like(inner.grad))
        total = optax.tree.add(state.total, grad)
        linear = state.linear + _rounds.inner(params, grad)
        loss = state.loss + book(inner.value)
        rivals = state.rivals + book(rivals_of(params, data))
        move = optax.tree.sub(_rounds.widen(new_params), _rounds.widen(params))
        state = LedgerState(
            **_mirrored(inner),
            learner=inner,
            regret=linear - _rounds.inner(oracle.vertex(total), total),
            excess=loss - jnp.min(rivals) if rivals.size else state.excess,
            loss=loss,
            linear=linear,
            total=total,
            rivals=rivals,
            path=state.path + jnp.sqrt(_rounds.inner(move, move)),
        )
        return new_params, state

    return core.Solver(init, update, learner.residual, learner.derivative)


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
