"""How potentials depend on cost, weights and temperature: the implicit rule."""

import dataclasses

import jax
import jax.numpy as jnp
import lineax as lx

from jaxsolve import core
from jaxsolve.transport._geometry import DenseCost
from jaxsolve.transport._problem import TransportProblem, dot
from jaxsolve.transport._products import over

DENSE_LIMIT = 300  # rows up to which the system of the rows is factorised


def potential_of(params, data: TransportProblem, point=None):
    """The potential as a vector, checked, and how to put it back."""
    if not isinstance(data, TransportProblem):
        raise ValueError(
            "the data of a transport solver is a transport.TransportProblem, got "
            f"{core.describe(data)}."
        )
    f, unravel = core.ravel(params) if point is None else core.ravel_fine(params, point)
    if f.size != data.shape[0]:
        raise ValueError(
            f"params are the potential of the rows, ({data.shape[0]},), got {f.size} "
            "numbers."
        )
    return f.astype(data.geometry.dtype), unravel


def residual(params, data):
    r"""What is zero at the potential: the rows' error, and the mean of f.

    Where a row has no weight nothing but its own entry is zero there; what the entry
    is, the rule tells.
    """
    f, unravel = potential_of(params, data)
    data, _ = data.normalised()
    gap = data.rows(f, data.other(f)) - data.wanted_rows(f)
    mass = jnp.sum(data.a)
    if data.balanced:
        gap = gap + data.a * over(dot(data.a, f) / mass, data.epsilon)
    weight = jax.lax.stop_gradient(mass / (f.size * data.epsilon))
    return unravel(jnp.where(data.a > 0, gap, weight * (f - jax.lax.stop_gradient(f))))


def jacobian(params, data):
    r"""The derivative of the residual: symmetric, with the columns eliminated.

    .. math::

        \tfrac1\epsilon (\mathrm{diag}(P 1) - \tau_b P \, \mathrm{diag}(P^\top 1)^{-1}
        P^\top) + \tfrac1{\rho_a} \mathrm{diag}(a e^{-f / \rho_a})

    and in a balanced problem :math:`a a^\top / \epsilon` over the mass.
    """
    f, _ = potential_of(params, data)
    data, _ = data.normalised()
    epsilon, a = data.epsilon, data.a
    g = data.other(f)
    kernel = data.geometry.kernel(f, g, epsilon)
    share = 1 if data.rho_b is None else data.rho_b / (data.rho_b + epsilon)
    total = kernel.transposed(a)
    inner = share * jnp.where(total > 0, data.b / jnp.where(total > 0, total, 1), 0)
    diagonal = a * kernel.times(data.b) / epsilon
    if data.rho_a is not None:
        diagonal = diagonal + data.wanted_rows(f) / data.rho_a
    mass = jnp.sum(a)
    diagonal = jnp.where(a > 0, diagonal, mass / (f.size * epsilon))
    gauge = a / jnp.sqrt(mass * epsilon) if data.balanced else jnp.zeros_like(a)
    tags = lx.positive_semidefinite_tag
    if isinstance(data.geometry, DenseCost) and f.size <= DENSE_LIMIT:
        root = a[:, None] * kernel.matrix * jnp.sqrt(inner / epsilon)[None, :]
        pairs = jnp.matmul(root, root.T, precision=jax.lax.Precision.HIGHEST)
        pairs = jnp.where(jnp.eye(f.size, dtype=bool), 0, pairs)
        # What a row has beyond the pairs, which cancels where that is little.
        beyond = (1 - share) * a * kernel.times(data.b) / epsilon
        if data.rho_a is not None:
            beyond = beyond + data.wanted_rows(f) / data.rho_a
        own = jnp.where(a > 0, jnp.sum(pairs, 1) + beyond, diagonal)
        matrix = jnp.diag(own) - pairs + gauge[:, None] * gauge[None]
        return lx.MatrixLinearOperator(matrix, tags)

    def rest(z):
        column = inner * kernel.transposed(a * z)
        return gauge * jnp.sum(gauge * z) - a * kernel.times(column) / epsilon

    shape = jax.eval_shape(lambda: f)
    minus = lx.FunctionLinearOperator(rest, shape, lx.symmetric_tag)
    both = lx.DiagonalLinearOperator(diagonal) + minus
    return lx.TaggedLinearOperator(both, tags)


class _Solve(lx.AbstractLinearSolver):
    """Cholesky's factorisation of a matrix; else CG, preconditioned by the diagonal."""

    def init(self, operator, options):
        del options
        return operator

    def compute(self, state, vector, options):
        del options
        if isinstance(state, lx.MatrixLinearOperator):
            out = _by_cholesky(state.matrix, vector)
            return out, lx.RESULTS.successful, {}
        else:
            eps = float(jnp.finfo(vector.dtype).eps)
            solver = lx.CG(eps**0.8, 0.0, max_steps=10 * vector.size)
            inverse = lx.DiagonalLinearOperator(1 / state.operator.operator1.diagonal)
            inverse = lx.TaggedLinearOperator(inverse, lx.positive_semidefinite_tag)
            settings = {"preconditioner": inverse}
        out, result, stats = solver.compute(
            solver.init(state, settings), vector, settings
        )
        failed = result != lx.RESULTS.successful
        return jnp.where(failed, jnp.nan, out), lx.RESULTS.successful, stats

    def transpose(self, state, options):
        return state, options

    def conj(self, state, options):
        return state, options

    def assume_full_rank(self):
        return True


def _by_cholesky(matrix, vector):
    """Solves with a matrix of units of its own, singular to rounding or not.

    A plan that is nearly a permutation has parts that hardly know of one another; what
    their potentials differ by matters as little. A ridge of a few roundings keeps them
    in place, and one step of refinement takes out what else it has done.
    """
    size = jnp.sqrt(jnp.diag(matrix))
    size = jnp.where(size > 0, size, 1)
    scaled = matrix / (size[:, None] * size[None])
    ridge = 4 * len(vector) * float(jnp.finfo(vector.dtype).eps)
    factor = jnp.linalg.cholesky(
        scaled + ridge * jnp.eye(len(vector), dtype=vector.dtype)
    )
    solve = lambda b: jax.scipy.linalg.cho_solve((factor, True), b)
    b = vector / size
    x = solve(b)
    x = x + solve(b - jnp.matmul(scaled, x, precision=jax.lax.Precision.HIGHEST))
    return x / size


@dataclasses.dataclass(frozen=True)
class _PotentialRule(core.Derivative):
    """The implicit rule; the entries of rows without weight follow from the others."""

    def attach(self, residual, params, data, ok):
        rule = core.implicit(_Solve(), jacobian, symmetric=True)
        _, unravel = core.ravel(params)

        def filled(params, data):
            f, _ = potential_of(params, data)
            best = data.best(data.other(f))
            best = jnp.where(jnp.isfinite(best), best, f)
            return unravel(jnp.where(data.a > 0, f, jnp.where(data.a > 0, 0, best)))

        # Twice: what depends on weights that are zero depends on what is there.
        needed = core.any_lane(jnp.any(data.a == 0))
        same = lambda params, data: params
        fixed = jax.lax.stop_gradient(data)
        params = jax.lax.cond(needed, filled, same, params, fixed)
        params = rule.attach(residual, jax.lax.stop_gradient(params), data, ok)
        return jax.lax.cond(needed, filled, same, params, data)


def potential_rule() -> core.Derivative:
    """The derivative of a potential, by rows: for every solver of this room."""
    return _PotentialRule()
