"""The door to transport: a problem in, a plan out."""

from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status
from jaxsolve.transport._derivative import potential_rule, residual
from jaxsolve.transport._geometry import Geometry
from jaxsolve.transport._newton import newton_transport
from jaxsolve.transport._problem import TransportProblem, rounding
from jaxsolve.transport._sinkhorn import sinkhorn


class TransportSolution(eqx.Module):
    """A solved problem of entropic transport, and what one asks of it.

    Everything is differentiable in costs, points, weights, temperature and penalties:
    `dual_value` without a linear solve, by Danskin's theorem (its second derivatives
    with one), all else through the implicit derivative of the potential. Where the run
    has not converged, derivatives are not finite.
    """

    problem: TransportProblem
    f: chex.Array  # (n,), real: the potential of the rows.
    frozen: chex.Array  # (n,), real: the same, constant to derivatives of the value.
    state: Any  # of the solver that ended the run.
    status: chex.Array  # (), int32: how it ended.
    count: chex.Array  # (), int32: pairs of kernel products taken.

    @property
    def converged(self) -> chex.Array:
        """Whether the marginals are right to the tolerance: (), bool."""
        return self.status == Status.CONVERGED

    @property
    def message(self) -> str:
        """How the run ended, in a sentence; only where it is known."""
        return Status(int(self.status)).message

    @property
    def g(self) -> chex.Array:
        """The potential of the columns: (m,), real."""
        problem, f = self._one()
        return problem.other(f)

    def _one(self):
        """The problem and f, unless there are many."""
        if self.f.ndim != 1:
            raise ValueError(
                f"this solution is a batch, of shape {self.f.shape[:-1]}: ask each of "
                "its lanes, as in jax.vmap(lambda s: s.cost)(solution)."
            )
        return self.problem, self.f

    @property
    def potentials(self) -> tuple[chex.Array, chex.Array]:
        """Both potentials, (n,) and (m,), relative to the weights."""
        return self.f, self.g

    def plan(self) -> chex.Array:
        """The plan: (n, m), real. Memory grows with n m, whatever the geometry."""
        problem, f = self._one()
        return problem.plan(f)

    def apply(self, values: chex.Array, axis: int = 1) -> chex.Array:
        """Multiplies the plan, or for axis 0 its transpose, by values.

        Args:
            values: (m,) or (m, k); for axis 0 (n,) or (n, k).
            axis: the side that is summed.

        Returns:
            (n,) or (n, k); for axis 0 (m,) or (m, k).
        """
        problem, f = self._one()
        return problem.apply(f, values, axis)

    def push(self, values: chex.Array, axis: int = 1) -> chex.Array:
        """The mean of values over the plan's rows: barycentric projection.

        Args:
            values: of the points of the other side, as of `apply`.
            axis: 1 for a mean over columns, one for each row.

        Returns:
            As `apply`; zero where the plan has no mass.
        """
        f, g = self.potentials
        rows = self.problem.rows(f, g) if axis == 1 else self.problem.wanted_columns(g)
        there = rows > 0
        inverse = jnp.where(there, 1 / jnp.where(there, rows, 1), 0)
        total = self.apply(values, axis)
        return total * (inverse if values.ndim == 1 else inverse[:, None])

    @property
    def cost(self) -> chex.Array:
        """The cost of the plan without its entropy: (), real."""
        problem, f = self._one()
        return problem.cost(f)

    @property
    def dual_value(self) -> chex.Array:
        """The optimal value, entropy and penalties included: (), real."""
        problem, f = self._one()
        return _optimal_value(f, self.frozen, problem)

    @property
    def marginal_error(self) -> chex.Array:
        """The L1 error of the rows over the mass; the columns are exact: (), real."""
        return _marginal_error(*self._one())

    def __repr__(self):
        if isinstance(self.status, jax.core.Tracer) or jnp.shape(self.status) != ():
            return f"TransportSolution(shape={self.problem.shape})"
        name = Status(int(self.status)).name.lower().replace("_", " ")
        return (
            f"TransportSolution({name} after {int(self.count)} updates, "
            f"marginal error {float(self.marginal_error):.1e}, "
            f"value {float(self.dual_value):.6g})"
        )


@jax.custom_jvp
def _optimal_value(f, frozen, problem):
    """The dual value, by Danskin's theorem at all orders of derivatives.

    The first takes f as constant, without a linear solve; it depends on f itself, so
    that the second is right, with one.
    """
    del f
    return problem.dual_value(frozen)


@_optimal_value.defjvp
def _(primals, tangents):
    f, _, problem = primals
    _, refusal, change = tangents  # not finite where the run has not converged, or 0
    value = lambda f, problem: problem.dual_value(f)
    return jax.jvp(value, (f, problem), (refusal, change))


def solve(
    geometry: Geometry | chex.Array | TransportProblem,
    a: chex.Array | None = None,
    b: chex.Array | None = None,
    *,
    epsilon: chex.Numeric | None = None,
    tau_a: chex.Numeric = 1.0,
    tau_b: chex.Numeric = 1.0,
    start: chex.Array | None = None,
    tol: chex.Numeric | None = None,
    max_steps: chex.Numeric = 5000,
) -> TransportSolution:
    r"""Solves entropic transport.

    Takes the data of a `TransportProblem`, and runs `newton_transport` on it, by a
    schedule of the temperature where that is below the spread of the cost; where it
    stalls, `sinkhorn` goes on in the log domain from there. The cost is kept as a
    matrix, unless the geometry is online or separable. The first call compiles for some
    seconds; others of the same shapes do not, but jit a loop around many small ones.

    Where forbidden pairs leave no plan, a run ends as infeasible if a row or column is
    out of reach, or if the potentials show, of a stored cost, that some rows reach too
    few columns; else as stalled.

    Args:
        geometry: the cost: a matrix (n, m), a `PointCloud`, a `GridCost`, ...; or the
            whole `TransportProblem`.
        a: weights of the rows, (n,); uniform by default.
        b: those of the columns, (m,).
        epsilon: the temperature, in units of the cost; by default a twentieth of the
            mean cost.
        tau_a: :math:`\rho_a / (\rho_a + \epsilon)`, in (0, 1]; at 1 rows are balanced.
        tau_b: the same, of the columns.
        start: the potential f to start from, (n,); zero by default. Where it is near a
            solution, its marginals half right, the run begins at the last temperature.
        tol: bound on the L1 error of the marginals over the mass; by default the square
            root of the machine epsilon of the cost's dtype.
        max_steps: pairs of kernel products, or sweeps, at most.

    Returns:
        A `TransportSolution`.

    Raises:
        ValueError: as `TransportProblem`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> x = jnp.linspace(0.0, 1.0, 30)[:, None]
        >>> cloud = transport.PointCloud(x, x**2)
        >>> out = transport.solve(cloud, epsilon=1e-3)
        >>> print(bool(out.converged), f"{out.cost:.4f}")
        True 0.0327
        >>> value = lambda y: transport.solve(
        ...     transport.PointCloud(x, y), epsilon=1e-3).dual_value
        >>> jax.grad(value)(x**2).shape
        (30, 1)
    """
    problem = geometry
    if not isinstance(problem, TransportProblem):
        problem = TransportProblem(
            geometry, a, b, epsilon=epsilon, tau_a=tau_a, tau_b=tau_b
        )
    elif not (a is b is epsilon is None and _is_one(tau_a) and _is_one(tau_b)):
        raise ValueError(
            "a TransportProblem has weights, temperature and prices of its own: give "
            "these to it."
        )
    n = problem.shape[0]
    dtype = problem.geometry.dtype
    f = jnp.zeros(n, dtype) if start is None else jnp.asarray(start, dtype)
    tol = float(jnp.finfo(dtype).eps) ** 0.5 if tol is None else tol
    solver = newton_transport()
    state = None if start is None else _near(f, problem)
    options = dict(tol=tol, derivative=core.stop())  # the rule comes at the end
    found = core.run(solver, f, problem, max_steps=max_steps, state=state, **options)
    params, status, state = found.params, found.status, found.state
    count = found.state.count
    stalled = (status == Status.STALLED) | (status == Status.BREAKDOWN)
    if not core.is_concrete(status) or jnp.any(stalled):
        last = sinkhorn(kernel=False, relaxation="adaptive")
        hopes = stalled & (_floor(params, problem) < jnp.asarray(tol).astype(dtype))
        left = jnp.where(hopes, max_steps - count, 0)
        more = core.run(last, params, problem, max_steps=left, **options)
        count = count + more.state.count
        better = stalled & (more.status == Status.CONVERGED)
        params, status = core.where(
            better, (more.params, more.status), (params, status)
        )
        state = (found.state, more.state)
    ok = status == Status.CONVERGED
    params, frozen = _attached(params, problem, ok)
    return TransportSolution(problem, params, frozen, state, status, count)


def _is_one(tau):
    return core.is_concrete(tau) and float(tau) == 1


@jax.jit
def _attached(params, problem, ok):
    """The potential with its implicit derivative, and as a constant to values."""
    params = potential_rule().attach(residual, params, problem, ok)
    frozen = jax.lax.stop_gradient(params)
    return params, core.envelope().attach(None, frozen, problem, ok)


@jax.jit
def _floor(params, problem):
    """The error that rounding leaves."""
    problem = jax.lax.stop_gradient(problem)
    return rounding(problem, params, problem.other(params), problem.epsilon)


def _marginal_error(problem, f):
    rows = problem.rows(f, problem.other(f))
    gap = jnp.where(problem.a > 0, rows - problem.wanted_rows(f), 0)
    return jnp.sum(jnp.abs(gap)) / jnp.sum(problem.b)


@jax.jit
def _near(f, problem):
    """The first state; at the last temperature, if f is near enough."""
    state = newton_transport().init(f, problem)
    near = _marginal_error(problem, f) < 0.5
    epsilon = jnp.where(near, problem.epsilon, state.epsilon)
    return jax.lax.stop_gradient(state._replace(epsilon=epsilon))
