"""Transport with few nonzeros in every column, by any solver of smooth problems."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import lineax as lx

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.transport._sparse_problem import SparseTransportProblem
from jaxsolve.transport._states import owned

DENSE_LIMIT = 300  # unknowns up to which the matrix of the implicit rule is formed


class SparseTransportState(NamedTuple):
    """State of sparse transport."""

    count: chex.Array  # (), int32: updates taken, one of the method's each.
    error: chex.Array  # (), real: L1 error of the plan's sums, over the mass.
    status: chex.Array  # (), int32: the method's own, diverged or infeasible.
    inner: Any  # the method's state.
    mark: chex.Array  # (), real: of the problem that this is a state of.


@core.memoise
def sparse_transport(
    method: Callable[[core.Objective], core.Solver], *, dual: bool = False
) -> core.Solver:
    r"""Solves transport with at most k nonzeros in a column, in its potentials.

    Solves the `SparseTransportProblem` that is the data, which has the definitions.
    One update is one of the solver ``method(fun)``, with :math:`f = -S(\alpha)`, or
    :math:`-D(\alpha, \beta)`; its derivative is

    .. math::

        \nabla f = (T 1 - a, \; T^\top 1 - b)

    without the second part in the semi-dual, of which the columns are always exact.
    With all rows allowed to a column these functions are smooth, and the more rows, the
    fewer updates it takes; with few there are kinks, where a method may stall: then the
    state's error is the row error that remains.

    Params are :math:`\alpha`, from zero if nothing better is known; their mean stays
    what it was, if the method only ever adds multiples of gradients. A state given
    another problem begins there anew from its potentials.

    Args:
        method: a factory of solvers, as ``method(fun) -> Solver``, such as
            ``smooth.lbfgs``. Define it once: each new function compiles anew. Of
            solvers whose state has no `grad` an update takes one evaluation more.
        dual: whether params are the pair of potentials, ``(alpha, beta)``.

    Returns:
        A solver. Its error is :math:`\|T 1 - a\|_1` over the mass, with
        :math:`\|T^\top 1 - b\|_1` added in the dual; infinite until a value was
        accepted. Its residual is :math:`\nabla f`, with the mean of :math:`\alpha`. If
        the support of the plan falls into parts, or rows or columns have no weight,
        derivatives of :math:`\alpha` are the shortest; those of the plan are exact,
        where entries do not tie for the k-th place and masses need not move between
        parts.

    Raises:
        ValueError: if `method` makes no solver, the data are no
            `SparseTransportProblem`, or params do not have its size.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import smooth, transport
        >>> cost = jnp.array([[0.0, 1.0, 3.0], [2.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
        >>> problem = transport.SparseTransportProblem(cost, k=2, gamma=2.0)
        >>> solver = transport.sparse_transport(smooth.lbfgs)
        >>> out = jaxsolve.run(solver, jnp.zeros(3), problem)
        >>> print(out.converged, (6 * problem.plan(out.params)).round(2).sum(1))
        True [2. 2. 2.]

    References:
        Liu, Puigcerver and Blondel, `Sparsity-Constrained Optimal Transport
        <https://arxiv.org/abs/2209.15466>`_, 2023. Blondel, Seguy and Rolet, `Smooth
        and Sparse Optimal Transport <https://arxiv.org/abs/1710.06276>`_, 2018.
    """
    solver = method(_negative_dual if dual else _negative_semi_dual)
    if not isinstance(solver, core.Solver):
        raise ValueError(
            "method is a factory of solvers such as jaxsolve.smooth.lbfgs, got one "
            f"that returns {core.describe(solver)}."
        )

    def init(params, data):
        potentials(params, data, dual)
        state = SparseTransportState(
            jnp.zeros((), jnp.int32),
            core.real_scalar(jnp.inf, params),
            as_status(Status.RUNNING),
            solver.init(params, data),
            data.mark,
        )
        return owned(state)

    def update(params, state, data):
        # On another problem the method begins anew.
        stale = data.mark != state.mark
        started = lambda: core.where(stale, solver.init(params, data), state.inner)
        inner = jax.lax.cond(core.any_lane(stale), started, lambda: state.inner)
        new_params, inner = solver.update(params, inner, data)
        grad = getattr(inner, "grad", None)
        if grad is None:
            grad = jnp.concatenate(data.gradient(potentials(new_params, data, dual)[0]))
        gap = core.real_scalar(jnp.sum(jnp.abs(core.ravel(grad)[0])), params)
        gap = gap / core.real_scalar(jnp.sum(data.a), params)
        known = jnp.isfinite(inner.error) & jnp.isfinite(gap)
        status = getattr(inner, "status", as_status(Status.RUNNING))
        senseless, infeasible = impossible(data)
        status = jnp.where(infeasible, as_status(Status.PRIMAL_INFEASIBLE), status)
        status = jnp.where(senseless, as_status(Status.DIVERGED), status)
        return new_params, SparseTransportState(
            state.count + 1,
            jnp.where(known, gap, jnp.inf),
            status,
            inner,
            data.mark,
        )

    def residual(params, data):
        pair, unravel = potentials(params, data, dual)
        weights = jnp.concatenate([data.a, data.b]) if dual else data.a
        x = jnp.concatenate(pair) if dual else pair
        # Of the size of the Jacobian's diagonal, so that its spectrum stays as it is.
        scale = jax.lax.stop_gradient(data.k * data.b.size / (data.a.size * data.gamma))
        moved = x - jax.lax.stop_gradient(x)
        centre = jnp.sum(jnp.where(data.a == 0, 0, moved[: data.a.size])) / data.a.size
        gauge = scale * centre * (jnp.arange(x.size) < data.a.size).astype(x.dtype)
        gap = jnp.concatenate(data.gradient(pair)) + gauge
        return unravel(jnp.where(weights == 0, scale * moved, gap))

    return core.Solver(init, update, residual, potentials_rule())


def potentials_rule(inexact: bool = False) -> core.Derivative:
    """The derivative of the potentials of a sparse plan."""
    return core.implicit(least_squares_solve, psd=True, inexact=inexact)


def potentials(params, data, dual):
    """Params as alpha or the pair, checked, and how to put back a vector of these."""
    if not isinstance(data, SparseTransportProblem):
        raise ValueError(
            "the data of sparse transport is a transport.SparseTransportProblem, got "
            f"{core.describe(data)}."
        )
    x, unravel = core.ravel(params)
    n, m = data.shape
    if x.size != (n + m if dual else n):
        what = f"the pair of potentials, ({n},) and ({m},)" if dual else f"({n},)"
        raise ValueError(
            f"params are the potentials of the rows, {what}, got {x.size} numbers; "
            "whether they are a pair is the option `dual`."
        )
    x = x.astype(data.cost.dtype)
    return ((x[:n], x[n:]) if dual else x), unravel


def impossible(problem: SparseTransportProblem) -> tuple[chex.Array, chex.Array]:
    """Whether numbers make no sense, and whether there is certainly no plan."""
    a, b = problem.a, problem.b
    real = core.all_finite((a, b, problem.gamma)) & ~jnp.any(jnp.isnan(problem.cost))
    signs = jnp.all(a >= 0) & jnp.all(b >= 0) & jnp.all(problem.cost != -jnp.inf)
    there = (jnp.sum(a) > 0) & (jnp.sum(b) > 0) & (problem.gamma > 0)
    legal = problem.legal()
    met = jnp.all(jnp.any(legal, 1) | (a == 0)) & jnp.all(jnp.any(legal, 0) | (b == 0))
    rows, seats = jnp.sum(a > 0), problem.k * jnp.sum(b > 0)
    slack = max(float(jnp.finfo(a.dtype).eps) ** 0.5, 1e-6)
    total, other = jnp.sum(a), jnp.sum(b)
    equal = jnp.abs(total - other) <= slack * jnp.maximum(total, other)
    senseless = ~(real & signs & there)
    return senseless, ~senseless & ~(met & equal & (rows <= seats))


def _negative_semi_dual(params, data):
    return -data.semi_dual(potentials(params, data, False)[0])


def _negative_dual(params, data):
    return -data.dual(*potentials(params, data, True)[0])


def least_squares_solve(matvec: Callable, vector: chex.Array) -> chex.Array:
    """Solves with a symmetric positive semi-definite matrix, singular or not.

    Up to `DENSE_LIMIT` unknowns the solution is the shortest of those with the least
    residual. Above it is that of conjugate gradients, where there is one that is exact;
    else it is NaN.
    """
    eps = float(jnp.finfo(vector.dtype).eps)
    if vector.size <= DENSE_LIMIT:
        matrix = jax.vmap(matvec)(jnp.eye(vector.size, dtype=vector.dtype))
        values, vectors = jnp.linalg.eigh(matrix, symmetrize_input=True)
        real = values > vector.size * eps * jnp.max(values)
        inverse = jnp.where(real, 1 / jnp.where(real, values, 1), 0)
        times = lambda a, x: jnp.matmul(a, x, precision=jax.lax.Precision.HIGHEST)
        return times(vectors, inverse * times(vector, vectors))
    form = jax.eval_shape(lambda: vector)
    operator = lx.FunctionLinearOperator(matvec, form, lx.positive_semidefinite_tag)
    method = lx.CG(eps**0.8, 0.0, max_steps=10 * vector.size)
    out = lx.linear_solve(operator, vector, method, throw=False).value
    gap = jnp.linalg.norm(matvec(out) - vector)
    exact = gap <= eps**0.5 * jnp.linalg.norm(vector)
    return jnp.where(exact, out, jnp.nan)
