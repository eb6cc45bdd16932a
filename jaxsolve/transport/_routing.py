"""Sparse transport as a layer: the routing of a mixture of experts."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import equinox as eqx
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.transport._sparse_problem import SparseTransportProblem
from jaxsolve.transport._sparse_transport import potentials_rule, sparse_transport

Method = Callable[[core.Objective], core.Solver]


class Routing(NamedTuple):
    """Which tokens every expert takes, and with which weight: m experts, k tokens."""

    tokens: chex.Array  # (m, k), int32: all different in a row.
    weights: chex.Array  # (m, k), real: not negative.
    row_error: chex.Array  # (), real: the mean over tokens of |sum of shares - 1|.
    status: chex.Array  # (), int32: how the solve of the potentials ended.

    def dispatch(self, tokens: chex.Array) -> chex.Array:
        """Gathers what every expert gets, of (n, ...): (m, k, ...)."""
        return tokens[self.tokens]

    def combine(self, outputs: chex.Array, tokens: int) -> chex.Array:
        """Adds up, by weights, what experts made of tokens: (m, k, ...) to (n, ...)."""
        weights = self.weights.astype(outputs.dtype)
        weights = weights.reshape(weights.shape + (1,) * (outputs.ndim - 2))
        zero = jnp.zeros((tokens, *outputs.shape[2:]), outputs.dtype)
        return zero.at[self.tokens].add(weights * outputs)


def sparse_routing(
    scores: chex.Array,
    capacity: int,
    method: Method,
    *,
    gamma: chex.Numeric = 1.0,
    max_steps: int = 100,
    tol: chex.Numeric | None = None,
) -> Routing:
    r"""Routes tokens to experts: exactly k tokens to each, all tokens alike.

    The `SparseTransportProblem` of the cost :math:`-s`, where every token has weight
    1 and every one of the m experts n / m. A token's *share* at an expert is the entry
    of the plan, zero but for k tokens of each expert, and shares of a token add up to 1
    as far as `row_error` says. With :math:`k = n / m` that is a balanced assignment:
    if tokens do not tie, every one goes to one expert. With more room, tokens on the
    border are divided. The higher :math:`\gamma`, the more evenly. Where tokens tie, as
    of padding or of a router that begins with zeros, experts choose the same ones, and
    `row_error` is large: add a little noise to such scores.

    The weights that are returned are shares. They are differentiable in the scores by
    the implicit rule, whether the solve has converged or not: routing goes on where
    tokens tie. Of an assignment the derivative is zero: to train the scores, multiply
    by a gate, as `SparseRouter` does. Vmap it over groups of tokens.

    Args:
        scores: how well experts suit tokens: (n, m), real.
        capacity: k, the tokens an expert takes, at least n / m, at most n.
        method: a factory of solvers, such as ``smooth.lbfgs``.
        gamma: in units of the scores, positive.
        max_steps: of the solve; each sorts the tokens of every expert once.
        tol: of the row error.

    Returns:
        A `Routing`.

    Raises:
        ValueError: as `SparseTransportProblem`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import smooth, transport
        >>> scores = jnp.array([[3.0, 0.0], [2.0, 0.0], [1.0, 0.0], [4.0, 0.0]])
        >>> out = transport.sparse_routing(scores, 2, smooth.lbfgs)
        >>> print([sorted(row) for row in out.tokens.tolist()])
        [[0, 3], [1, 2]]
        >>> print(out.weights.round(2))
        [[1. 1.]
         [1. 1.]]

    References:
        Liu, Puigcerver and Blondel, `Sparsity-Constrained Optimal Transport
        <https://arxiv.org/abs/2209.15466>`_, 2023. Section 5.
    """
    scores = jnp.asarray(scores)
    if scores.ndim != 2 or not jnp.issubdtype(scores.dtype, jnp.floating):
        raise ValueError(
            "scores are real, one row a token and one column an expert, got shape "
            f"{scores.shape} and dtype {scores.dtype}; vmap over groups of tokens."
        )
    n, m = scores.shape
    wide = scores.astype(core.real_dtype(scores))
    each = jnp.full((m,), n / m, wide.dtype)
    problem = SparseTransportProblem(
        -wide, jnp.ones(n, wide.dtype), each, k=capacity, gamma=gamma
    )
    out = core.run(
        sparse_transport(method),
        jnp.zeros(n, wide.dtype),
        problem,
        max_steps=max_steps,
        tol=tol,
        derivative=potentials_rule(inexact=True),
    )
    entries = problem.entries(out.params)
    row_error = jax.lax.stop_gradient(problem.row_error(out.params))
    weights = entries.share.astype(scores.dtype)
    return Routing(entries.rows, weights, row_error, out.status)


class SparseRouter(eqx.Module):
    r"""A linear router for a mixture of experts, trained through a gate.

    Scores are :math:`s = x W`; the weights of the `Routing` are the shares of
    `sparse_routing` times the softmax of a token's scores over the experts.

    Args:
        width: of a token.
        experts: how many.
        capacity: the tokens an expert takes.
        method: a factory of solvers, such as ``smooth.lbfgs``.
        gamma: as in `sparse_routing`.
        key: of the first weights.

    Examples:
        >>> import jax
        >>> from jaxsolve import smooth, transport
        >>> key, other = jax.random.split(jax.random.key(0))
        >>> router = transport.SparseRouter(4, 2, 3, smooth.lbfgs, key=key)
        >>> tokens = jax.random.normal(other, (6, 4))
        >>> out = router(tokens)
        >>> out.dispatch(tokens).shape, out.combine(out.dispatch(tokens), 6).shape
        ((2, 3, 4), (6, 4))
    """

    weight: chex.Array  # (width, experts), real.
    capacity: int = eqx.field(static=True)
    method: Method = eqx.field(static=True)
    gamma: float = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        experts: int,
        capacity: int,
        method: Method,
        *,
        gamma: float = 1.0,
        key: chex.PRNGKey,
    ):
        self.weight = jax.random.normal(key, (width, experts)) / width**0.5
        self.capacity, self.method, self.gamma = capacity, method, gamma

    def __call__(self, tokens: chex.Array) -> Routing:
        """Routes tokens, (n, width)."""
        weight = self.weight.astype(tokens.dtype)
        scores = jnp.matmul(tokens, weight, precision=jax.lax.Precision.HIGHEST)
        out = sparse_routing(scores, self.capacity, self.method, gamma=self.gamma)
        gates = jax.nn.softmax(scores, axis=1)
        expert = jnp.arange(scores.shape[1], dtype=jnp.int32)[:, None]
        return out._replace(weights=out.weights * gates[out.tokens, expert])
