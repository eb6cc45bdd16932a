"""Frank-Wolfe methods that can take weight off a vertex again."""

from collections.abc import Callable

from jaxsolve import core
from jaxsolve.composite._frank_wolfe import as_oracle, searching
from jaxsolve.composite._frank_wolfe_search import among_vertices
from jaxsolve.prox import LinearOracle


@core.memoise
def pairwise_frank_wolfe(
    fun: core.Objective,
    oracle: LinearOracle | Callable,
    *,
    capacity: int = 100,
    max_trials: int = 40,
) -> core.Solver:
    r"""Minimises a smooth function over a polytope, moving weight between vertices.

    Solves :math:`\min_{x \in C} f(x)` over a polytope :math:`C`. The iterate is a
    combination :math:`x = \sum_i w_i v_i` of vertices; one iteration computes

    .. math::

        s &= \arg\min_{v \in C} \langle \nabla f(x), v \rangle, \quad
        a = \arg\max_{v_i : w_i > 0} \langle \nabla f(x), v_i \rangle \\
        \gamma &= \min\Bigl(\frac{\eta \langle \nabla f(x), a - s \rangle}
                  {\|s - a\|^2}, w_a\Bigr) \\
        x^+ &= x + \gamma (s - a)

    where :math:`\eta` is searched for and tested as in `frank_wolfe`, one evaluation an
    update. At :math:`\gamma = w_a` the vertex a is dropped. The gap falls linearly
    where :math:`f` is strongly convex, wherever the solution lies. The first update
    evaluates the start, which need not lie in the set, and the second goes to a vertex.

    Args:
        fun: :math:`f`, as ``fun(params, data) -> scalar``, smooth; convex for the rate.
        oracle: of :math:`C`, such as ``prox.simplex_vertex()``, or a function ``grad ->
            params``. It is shown leaves of at least 32 bits.
        capacity: how many vertices are kept, each a copy of params, where the oracle
            does not number them. If more are wanted, the two with the least weights are
            replaced by their mean: the iterate stays where it is, and in the set, but
            the linear rate is not proved any more.
        max_trials: how many times in a row a search may shrink before it has stalled.

    Returns:
        A solver. Its error is the Frank-Wolfe gap :math:`\langle \nabla f(x), x - s
        \rangle`, its residual :math:`x - P_C(x - \nabla f(x))` if the oracle has a
        projection, else none.

    Raises:
        ValueError: if `oracle` is no oracle, `capacity` less than two, or `max_trials`
            not positive; while tracing, if the objective is not a real scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import composite, prox
        >>> fun = lambda x, b: 0.5 * jnp.sum((x - b) ** 2)
        >>> solver = composite.pairwise_frank_wolfe(fun, prox.simplex_vertex())
        >>> solution = jaxsolve.run(solver, jnp.zeros(3), jnp.array([0.5, 0.4, 0.7]))
        >>> print(solution.converged, jnp.round(10 * solution.params))
        True [3. 2. 5.]

    References:
        Lacoste-Julien and Jaggi, `On the Global Linear Convergence of Frank-Wolfe
        Optimization Variants <https://arxiv.org/abs/1511.05932>`_, 2015, Algorithm 2.
        Pedregosa, Negiar, Askari and Jaggi, `Linearly Convergent Frank-Wolfe with
        Backtracking Line-Search <https://proceedings.mlr.press/v108/pedregosa20a.html>`_,
        2020.
    """
    return _method(fun, oracle, capacity, max_trials, pairwise=True)


@core.memoise
def away_frank_wolfe(
    fun: core.Objective,
    oracle: LinearOracle | Callable,
    *,
    capacity: int = 100,
    max_trials: int = 40,
) -> core.Solver:
    r"""Minimises a smooth function over a polytope, also by steps away from vertices.

    Solves :math:`\min_{x \in C} f(x)` over a polytope :math:`C`. As
    `pairwise_frank_wolfe`, but an iteration goes along

    .. math::

        s - x, \; \gamma \le 1 \quad \text{or} \quad
        x - a, \; \gamma \le w_a / (1 - w_a),

    whichever descends more steeply. The gap falls linearly where :math:`f` is strongly
    convex, and by a rate without the many swaps that pairwise steps may take in theory;
    in practice these are mostly faster.

    Args:
        fun: :math:`f`, as ``fun(params, data) -> scalar``, smooth; convex for the rate.
        oracle: of :math:`C`, as in `pairwise_frank_wolfe`.
        capacity: how many vertices are kept, as in `pairwise_frank_wolfe`.
        max_trials: how many times in a row a search may shrink before it has stalled.

    Returns:
        A solver. Its error and residual are those of `pairwise_frank_wolfe`.

    Raises:
        ValueError: as in `pairwise_frank_wolfe`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import composite, prox
        >>> fun = lambda x, b: 0.5 * jnp.sum((x - b) ** 2)
        >>> solver = composite.away_frank_wolfe(fun, prox.l1_ball_vertex(), capacity=10)
        >>> solution = jaxsolve.run(solver, jnp.zeros(2), jnp.array([3.0, 2.5]))
        >>> print(solution.converged, jnp.round(solution.params, 2))
        True [0.75 0.25]

    References:
        Lacoste-Julien and Jaggi, `On the Global Linear Convergence of Frank-Wolfe
        Optimization Variants <https://arxiv.org/abs/1511.05932>`_, 2015, Algorithm 1.
    """
    return _method(fun, oracle, capacity, max_trials, pairwise=False)


def _method(fun, oracle, capacity, max_trials, pairwise):
    if not isinstance(capacity, int) or capacity < 2:
        raise ValueError(f"capacity must be an integer above one, got {capacity!r}.")
    oracle = as_oracle(oracle)
    directions = among_vertices(oracle, capacity, pairwise)
    return searching(fun, oracle, directions, max_trials)
