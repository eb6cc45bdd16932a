"""TOPO: directed acyclic graphs from data, by swaps in a topological order."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.bilevel._oracle import accept
from jaxsolve.bilevel._topo_graphs import (
    check_square,
    logdet_acyclicity,
    topological_order,
)
from jaxsolve.bilevel._topo_scores import Scores
from jaxsolve.bilevel._topo_search import apply, candidates, fit_of, gains_of
from jaxsolve.core import Status, as_status


class TopoState(NamedTuple):
    """State of TOPO."""

    count: chex.Array  # (), int32: updates taken.
    error: chex.Array  # (), real: the best decrease last found; zero at the end.
    status: chex.Array  # (), int32: running, converged or diverged.
    score: chex.Array  # (), real: Q at params; infinite before the first update.
    order: chex.Array  # (d,), int32: the nodes, first to last.
    values: chex.Array  # (d,), real: the score of each node.
    weights: chex.Array  # (d, d), real: W, in full precision.
    large: chex.Array  # (), bool: whether the next search is a large one.
    searches: chex.Array  # (), int32: large searches done.


@core.memoise
def topo(
    scores: Scores,
    min_slope: chex.Numeric = 0.0,
    *,
    acyclicity: Callable[[chex.Array], chex.Array] = logdet_acyclicity,
    size_small: int = 100,
    size_large: int = 400,
    large_searches: int = 1,
    first: bool = False,
) -> core.Solver:
    r"""Learns an acyclic graph by swaps of two nodes in its topological order.

    Solves :math:`\min_W Q(W)` over weighted graphs W without cycles, as the two levels
    :math:`\min_\pi \min_W \{Q(W) : W_{ij} = 0 \text{ unless } i \text{ precedes } j
    \text{ in } \pi\}`, where :math:`Q` is a sum over the nodes and the lower level a
    regression of each node on those before it. One update computes

    .. math::

        G &= \nabla h(|W|) \\
        Y &= \{(i, j) : j \text{ precedes } i, \; G_{ij} \le \tau, \;
              |\nabla Q(W)_{ij}| > \xi\} \\
        Q_{ij} &= \min_W Q(W) \text{ in the order with } i \text{ and } j
              \text{ swapped}, \quad (i, j) \in Y \\
        \pi^+ &= \text{the order after the improving swaps, the best first, each if its
              interval is still free} \\
        W^+ &= \operatorname{argmin}_W Q(W) \text{ in } \pi^+

    where :math:`h` measures cycles, so that :math:`G_{ij}` is the weight of the walks
    from j to i, which an edge from i to j would close. The threshold :math:`\tau` makes
    Y the `size_small` pairs of least :math:`G`, ties to the larger slope. If none of
    these improves, the next update searches the pairs up to `size_large`, as long as
    there are large searches left. The first update fits the start.

    The score falls with every swap, so a run ends. It ends where no candidate improves,
    which is a local minimum and often a global one; start from several orders, or that
    of another method, for the best. Candidates are evaluated `size_small` at a time, in
    one vmapped call of ``scores.fit``; the order that is accepted takes a second call.

    Args:
        scores: the lower level: `linear_scores` of second moments, `solver_scores`,
            `node_scores`, or a `Scores` of your own.
        min_slope: :math:`\xi \ge 0`; above zero it needs ``scores.slope``. The weight
            of the penalty with a lasso, zero otherwise.
        acyclicity: :math:`h`, as ``h(A) -> scalar`` with A = \|W\|:
            `logdet_acyclicity`, `exp_acyclicity`, `polynomial_acyclicity`, or any
            function that is differentiable on acyclic graphs.
        size_small: candidates of a small search, at least 1; all pairs, where there are
            fewer. With networks 10.
        size_large: candidates of a large search together with those of a small one;
            likewise. With networks 40.
        large_searches: how many large searches a run may take.
        first: whether to take the first improving swap alone, in the order of G, as the
            paper does with networks.

    Returns:
        A solver. Its params are W, (d, d); where to start is read of them once, by
        `topological_order`: zeros for 0, ..., d - 1, ``complete_dag(order)`` for any
        order, or the output of another method. Afterwards the order is in the state,
        and params are output only. Its error is the best decrease of the score that the
        last search found, infinite before one, and zero when no candidate improves and
        no large search is left: ``tol=0.0`` searches to the very end. A score that is
        not a number ends a run as diverged. Weights below 0.3 are set to zero
        afterwards, by custom. A permutation has no derivative, and so there is no
        residual; in a given order that of ``scores.fit(data, order)`` is meaningful.

    Raises:
        ValueError: if `scores` is not a `Scores`, if sizes are not positive or the
            large one is below the small one, if `min_slope` is negative, or above zero
            without a slope; while tracing, if params are not one square matrix.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import bilevel, core
        >>> moments = jnp.array([[5.0, 2.0], [2.0, 1.0]])  # node 0 = 2 node 1 + noise
        >>> solver = bilevel.topo(bilevel.linear_scores())
        >>> print(core.run(solver, jnp.zeros((2, 2)), moments).params)
        [[0. 0.]
         [2. 0.]]

    References:
        Deng, Bello, Aragam and Ravikumar, `Optimizing NOTEARS Objectives via
        Topological Swaps <https://arxiv.org/abs/2305.17277>`_, 2023.
    """
    _check(scores, min_slope, size_small, size_large, large_searches)
    sizes = size_small, size_large

    def init(params, data=None):
        del data
        check_square("params of topo, the weights", params)
        weights = params.astype(core.real_dtype(params))
        inf = core.real_scalar(jnp.inf, params)
        return TopoState(
            count=jnp.zeros((), jnp.int32),
            error=inf,
            status=as_status(Status.RUNNING),
            score=inf,
            order=topological_order(weights),
            values=jnp.zeros(params.shape[:1], weights.dtype),
            weights=weights,
            large=jnp.zeros((), bool),
            searches=jnp.zeros((), jnp.int32),
        )

    def update(params, state, data=None):
        fitted = jnp.isfinite(state.score)
        swaps = candidates(scores, acyclicity, min_slope, sizes, state, data)
        swaps = swaps._replace(wanted=swaps.wanted & fitted)
        gains = gains_of(scores, swaps, state, data)
        order = apply(state.order, swaps, gains, first)
        values, weights = fit_of(scores, state, data, order)
        moved = jnp.any(gains > 0)
        searches = state.searches + state.large.astype(jnp.int32)
        # The large search has candidates of its own, unless the small one has all.
        left = (searches < large_searches) & (len(gains) > 1)
        large = fitted & ~moved & ~state.large & left
        done = fitted & ~moved & ~large
        running = as_status(Status.RUNNING)
        new_state = TopoState(
            count=state.count + 1,
            error=jnp.where(moved | done, jnp.max(gains), state.error),
            status=jnp.where(done, as_status(Status.CONVERGED), running),
            score=jnp.sum(values),
            order=order,
            values=values,
            weights=weights,
            large=large,
            searches=searches,
        )
        return accept(params, state, weights.astype(params.dtype), new_state)

    return core.Solver(init, update)


def _check(scores, min_slope, small, large, searches):
    if not isinstance(scores, Scores):
        raise ValueError(
            "topo wants Scores, such as bilevel.linear_scores(), got "
            f"{type(scores).__name__}."
        )
    counts = dict(
        size_small=(small, 1), size_large=(large, 1), large_searches=(searches, 0)
    )
    for name, (value, least) in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be an integer from {least}, got {value!r}.")
    if large < small:
        raise ValueError(f"size_large, {large}, is less than size_small, {small}.")
    if not core.is_concrete(min_slope):
        return
    if not min_slope >= 0 or (min_slope > 0 and scores.slope is None):
        raise ValueError(
            f"min_slope must not be negative, and is zero for scores without a slope; "
            f"got {min_slope!r}."
        )
