"""The conformance cases of TOPO: four nodes, small enough to try all orders."""

import itertools

import jax.numpy as jnp
import numpy as np

from jaxsolve import bilevel
from tests.case import Case

EDGES = np.array([[0, 1.5, 0, -1], [0, 0, 0.8, 0], [0, 0, 0, 1.2], [0, 0, 0, 0]], float)
HIDDEN = [2, 0, 3, 1]  # the order in which the nodes are shown
MIX = np.linalg.inv(np.eye(4) - EDGES)
DATA = (MIX.T @ MIX)[np.ix_(HIDDEN, HIDDEN)]
TURN = np.diag([0.3, -0.2, 0.1, 0.2]) + 0.05
START = np.triu(np.ones((4, 4)), 1)[::-1, ::-1]  # the order 3, 2, 1, 0


def masked(moments, node, before):
    """Least squares of one node on those before it: its score, its weights."""
    kept = np.where(before)[0]
    weights = np.zeros(len(moments))
    weights[kept] = np.linalg.solve(moments[np.ix_(kept, kept)], moments[kept, node])
    return (moments[node, node] - moments[node] @ weights) / 2, weights


def best(moments):
    """The weights of the best of all orders."""

    def fit(order):
        before = [[i in order[: order.index(j)] for i in range(4)] for j in range(4)]
        columns = [masked(moments, j, before[j]) for j in range(4)]
        values, weights = zip(*columns, strict=True)
        return sum(values), np.stack(weights, axis=1)

    fits = map(fit, itertools.permutations(range(4)))
    return min(fits, key=lambda pair: pair[0])[1]


def score_of(form):
    """The same, as a function of one node that counts its calls."""

    def least_squares(node_and_mask, moments):
        node, mask = node_and_mask
        both = mask[:, None] & mask[None, :]
        matrix = jnp.where(both, moments, jnp.eye(4, dtype=moments.dtype))
        weights = jnp.linalg.solve(matrix, jnp.where(mask, moments[node], 0))
        return (moments[node, node] - moments[node] @ weights) / 2, weights

    counted = form.function(least_squares)
    return lambda moments, node, mask: counted((node, mask), moments)


COMMON = dict(
    factory="bilevel.topo",
    params=START,
    data=DATA,
    direction=TURN,
    solution=best,
    differentiable=False,  # an order has no derivative
    dicts=False,  # one matrix is all there is
    tol64=None,
    tol32=0.0,
)
SIZES = dict(size_small=2, size_large=6)

CASES = (
    Case(
        make=lambda form: bilevel.topo(bilevel.linear_scores(), **SIZES),
        calls=0,
        **COMMON,
    ),
    Case(
        make=lambda form: bilevel.topo(bilevel.node_scores(score_of(form)), **SIZES),
        variant="nodes",
        calls=2,  # the candidates, and the order that is accepted
        **COMMON,
    ),
)
