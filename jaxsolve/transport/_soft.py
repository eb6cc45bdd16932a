"""Sorting, ranking and choosing, made differentiable by transport."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status
from jaxsolve.transport._geometry import DenseCost
from jaxsolve.transport._solve import TransportSolution, solve

# Their solutions agree to this; layers are trained to far less.
TOL = 1e-6


def sinkhorn_layer(
    scores: chex.Array,
    *,
    epsilon: chex.Numeric = 1.0,
    a: chex.Array | None = None,
    b: chex.Array | None = None,
    tol: chex.Numeric | None = None,
) -> chex.Array:
    r"""Turns scores into a matching: a matrix with prescribed sums of rows and columns.

    Solves :math:`\max_P \langle S, P \rangle - \epsilon \, \mathrm{KL}(P | a b^\top)`
    for :math:`P 1 = a`, :math:`P^\top 1 = b`, and differentiates it exactly, by the
    implicit function theorem: in the scores, the sums and the temperature, forward and
    backward, as often as wanted. Small :math:`\epsilon` is a near permutation.

    Args:
        scores: :math:`S`: (..., n, m), real; minus infinity forbids a pair. Leading
            axes are a batch.
        epsilon: the temperature, in units of the scores.
        a: the sums of the rows: (n,), ones by default.
        b: those of the columns: (m,), each n / m by default.
        tol: bound on the relative L1 error of the sums; by default 1e-6, or what can be
            reached: four machine epsilons of the spread of scores over `epsilon`.

    Returns:
        P: (..., n, m). NaN, with its derivatives, where its sums are off by more than
        one per cent of the mass, or `tol` if that is more: where scores are NaN or
        infinity, no matching is allowed, or `epsilon` is below what rounding resolves,
        about 1e-5 of the spread of scores in float32. Derivatives alone are NaN where
        they are off by less, but by more than `tol`. Its dtype is the widest of scores
        and sums.

    Raises:
        ValueError: as `TransportProblem`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> scores = jnp.array([[3.0, 1.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
        >>> matching = transport.sinkhorn_layer(scores, epsilon=0.1)
        >>> print(matching.round(2))
        [[1. 0. 0.]
         [0. 1. 0.]
         [0. 0. 1.]]

    References:
        Adams and Zemel, `Ranking via Sinkhorn Propagation
        <https://arxiv.org/abs/1106.1925>`_, 2011. Mena, Belanger, Linderman and Snoek,
        `Learning Latent Permutations with Gumbel-Sinkhorn Networks
        <https://arxiv.org/abs/1802.08665>`_, 2018.
    """
    scores = jnp.asarray(scores)
    if scores.ndim < 2:
        raise ValueError(f"scores are (..., n, m), got shape {scores.shape}.")
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise ValueError(f"scores are floats, got dtype {scores.dtype}.")
    n, m = scores.shape[-2:]
    sums = [jnp.asarray(w) for w in (a, b) if w is not None]
    dtype = core.real_dtype([scores, *sums])
    a = jnp.ones(n, dtype) if a is None else jnp.asarray(a).astype(dtype)
    full = jnp.full(m, jnp.sum(a) / m, dtype)
    b = full if b is None else jnp.asarray(b).astype(dtype)

    def one(scores):
        # In units of the mass, which is no matter of the temperature.
        mass = jnp.sum(a)
        within = _tol(tol, scores, epsilon)
        solution = solve(
            DenseCost(-scores), a / mass, b / mass, epsilon=epsilon, tol=within
        )
        return _refused(mass * solution.plan(), solution, within)

    return jnp.vectorize(one, signature="(n,m)->(n,m)")(scores.astype(dtype))


def soft_sort(
    x: chex.Array,
    *,
    epsilon: chex.Numeric = 1e-2,
    targets: int | None = None,
    axis: int = -1,
    tol: chex.Numeric | None = None,
) -> chex.Array:
    r"""Sorts in increasing order, softly: the means of x over the columns of a plan.

    The values, squashed into (0, 1), are transported to as many equally spaced targets;
    the smallest go to the first. As :math:`\epsilon` falls this becomes `jnp.sort`,
    with fewer targets the means of as many groups.

    Values are squashed by the sigmoid of their distance from the mean, in standard
    deviations: one outlier flattens all others, which then need a smaller
    :math:`\epsilon`; clip it. Entries must be finite: of a vector with one that is not,
    all results are NaN, as are results and derivatives where :math:`\epsilon` is below
    what rounding resolves, about 1e-6 in float32, so that masses are off by more than
    one per cent.

    Args:
        x: (..., n, ...), real and finite.
        epsilon: the temperature, relative to a unit interval squared.
        targets: how many numbers to return; n by default.
        axis: along which to sort.
        tol: as of `sinkhorn_layer`.

    Returns:
        Like x, with `targets` entries along the axis.

    Raises:
        ValueError: if there is nothing to sort.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> x = jnp.array([3.0, 1.0, 2.0])
        >>> print(transport.soft_sort(x, epsilon=1e-3).round(2))
        [1. 2. 3.]

    References:
        Cuturi, Teboul and Vert, `Differentiable Ranking and Sorting using Optimal
        Transport <https://arxiv.org/abs/1905.11885>`_, 2019.
    """

    def one(x):
        count = x.size if targets is None else targets
        solution, within = _to_line(x, count, None, epsilon, tol)
        return _refused(solution.apply(x, 0) * count, solution, within)

    return _along(one, x, axis)


def soft_rank(
    x: chex.Array,
    *,
    epsilon: chex.Numeric = 1e-2,
    axis: int = -1,
    tol: chex.Numeric | None = None,
) -> chex.Array:
    """Ranks from 0 to n - 1, softly: where in the line each value is transported to.

    As of `soft_sort`, one outlier flattens the others, and results are NaN where values
    are not finite, or `epsilon` is below what rounding resolves.

    Args:
        x: (..., n, ...), real.
        epsilon: as of `soft_sort`.
        axis: along which to rank.
        tol: as of `sinkhorn_layer`.

    Returns:
        Like x.

    Raises:
        ValueError: if there is nothing to rank.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> x = jnp.array([3.0, 1.0, 2.0])
        >>> print(transport.soft_rank(x, epsilon=1e-3).round(2))
        [2. 0. 1.]

    References:
        As `soft_sort`.
    """

    def one(x):
        places = jnp.arange(x.size, dtype=x.dtype)
        solution, within = _to_line(x, x.size, None, epsilon, tol)
        return _refused(solution.apply(places, 1) * x.size, solution, within)

    return _along(one, x, axis)


def soft_quantile(
    x: chex.Array,
    level: chex.Numeric,
    *,
    width: float | None = None,
    epsilon: chex.Numeric = 1e-2,
    axis: int = -1,
    tol: chex.Numeric | None = None,
) -> chex.Array:
    """A quantile, softly: the mean of the values that are transported to its slot.

    Outliers, values that are not finite and small temperatures: as of `soft_sort`.

    Args:
        x: (..., n, ...), real.
        level: of the quantile, in [0, 1]; the same beyond half a `width` from an end.
        width: the share of the values that are averaged; 1 / n by default.
        epsilon: as of `soft_sort`.
        axis: along which the values lie.
        tol: as of `sinkhorn_layer`.

    Returns:
        x without the axis.

    Raises:
        ValueError: if `level` is out of its range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> x = jnp.array([3.0, 1.0, 2.0, 9.0, 4.0])
        >>> print(transport.soft_quantile(x, 0.5, epsilon=1e-3).round(2))
        3.0

    References:
        As `soft_sort`, Section 4.
    """
    if jnp.ndim(level) or (core.is_concrete(level) and not 0 <= float(level) <= 1):
        raise ValueError(f"level is one number in [0, 1], got {level!r}.")
    if width is not None and not 0 < width < 1:
        raise ValueError(f"width is in (0, 1), got {width!r}.")

    def one(x):
        share = 1 / x.size if width is None else width
        middle = jnp.clip(jnp.asarray(level, x.dtype), share / 2, 1 - share / 2)
        below = middle - share / 2
        slots = jnp.stack([below, jnp.full_like(below, share), 1 - share - below])
        solution, within = _to_line(x, 3, slots, epsilon, tol)
        return _refused(solution.apply(x, 0)[1] / share, solution, within)

    return _along(one, x, axis)


def soft_top_k(
    x: chex.Array,
    k: int,
    *,
    epsilon: chex.Numeric = 1e-2,
    axis: int = -1,
    tol: chex.Numeric | None = None,
) -> chex.Array:
    """Marks the k largest values, softly: how much of each goes to the upper of two.

    Outliers, values that are not finite and small temperatures: as of `soft_sort`.

    Args:
        x: (..., n, ...), real.
        k: how many, from 1 to n - 1.
        epsilon: as of `soft_sort`.
        axis: along which to choose.
        tol: as of `sinkhorn_layer`.

    Returns:
        Like x, from 0 to 1, of sum k.

    Raises:
        ValueError: if `k` is out of its range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> x = jnp.array([3.0, 1.0, 2.0, 9.0])
        >>> print(transport.soft_top_k(x, 2, epsilon=1e-3).round(2))
        [1. 0. 0. 1.]

    References:
        Xie, Dai, Chen, Dai, Zhao, Zha, Wei and Pfister, `Differentiable Top-k Operator
        with Optimal Transport <https://arxiv.org/abs/2002.06504>`_, 2020.
    """

    def one(x):
        if not isinstance(k, int) or not 0 < k < x.size:
            raise ValueError(f"k is an integer from 1 to {x.size - 1}, got {k!r}.")
        share = jnp.array([1 - k / x.size, k / x.size], x.dtype)
        upper = jnp.array([0, 1], x.dtype)
        solution, within = _to_line(x, 2, share, epsilon, tol)
        return _refused(solution.apply(upper, 1) * x.size, solution, within)

    return _along(one, x, axis)


def _along(function: Callable, x: chex.Array, axis: int) -> chex.Array:
    """Applies a function of vectors along an axis of a real array."""
    x = jnp.asarray(x)
    if x.ndim == 0 or x.shape[axis] == 0:
        raise ValueError(f"there must be values along axis {axis}, got {x.shape}.")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"values are floats, got dtype {x.dtype}.")
    x = x.astype(core.real_dtype(x))
    moved = jnp.moveaxis(x, axis, -1)
    out = jax.vmap(function)(moved.reshape(-1, moved.shape[-1]))
    out = out.reshape(moved.shape[:-1] + out.shape[1:])
    return out if out.ndim < x.ndim else jnp.moveaxis(out, -1, axis)


def _to_line(x, count, weights, epsilon, tol) -> tuple[TransportSolution, chex.Numeric]:
    """Transports values, squashed into (0, 1), to equally spaced targets there.

    Returns the solution, and the tolerance that it was asked for.
    """
    centred = x - jnp.mean(x)
    # Of any unit, whose square need not be a number.
    unit = jax.lax.stop_gradient(jnp.max(jnp.abs(centred)))
    centred = centred / jnp.where(unit > 0, unit, 1)
    variance = jnp.mean(centred**2)
    spread = jnp.sqrt(jnp.where(variance > 0, variance, 1))
    squashed = jax.nn.sigmoid(centred / spread)
    line = jnp.linspace(0, 1, count, dtype=x.dtype)
    cost = (squashed[:, None] - line[None, :]) ** 2
    within = _tol(tol, cost, epsilon)
    solution = solve(DenseCost(cost), None, weights, epsilon=epsilon, tol=within)
    return solution, within


@jax.jit
def _refused(value, solution, tol):
    """A layer's value; NaN, with its derivatives, where the plan is none.

    Layers have no status. Derivatives are those of something that has not converged.
    """
    problem, f = jax.lax.stop_gradient((solution.problem, solution.f))
    a, b = problem.a, problem.b
    rows = problem.apply(f, jnp.ones_like(b), 1)
    columns = problem.apply(f, jnp.ones_like(a), 0)
    gap = jnp.sum(jnp.abs(rows - a)) + jnp.sum(jnp.abs(columns - b))
    most = jnp.maximum(1e-2, 2 * jnp.asarray(tol, a.dtype)) * jnp.sum(a)
    ended = (Status.CONVERGED, Status.STALLED, Status.MAX_STEPS)
    good = jnp.isin(solution.status, jnp.asarray(ended, jnp.int32)) & (gap <= most)
    nothing = jnp.full(value.shape, jnp.where(good, 0, jnp.nan), value.dtype)
    return value + core.envelope().attach(None, nothing, solution.problem, good)


def _tol(tol, cost, epsilon):
    """The tolerance; by default what can be reached and differentiated at."""
    if tol is not None:
        return tol
    digit = float(jnp.finfo(cost.dtype).eps)
    cost = jax.lax.stop_gradient(jnp.where(jnp.isfinite(cost), cost, 0))
    epsilon = jax.lax.stop_gradient(jnp.asarray(epsilon).astype(cost.dtype))
    spread = (jnp.max(cost) - jnp.min(cost)) / epsilon
    return jnp.clip(4 * digit * spread, max(TOL, 20 * digit), 1e-2).astype(cost.dtype)
