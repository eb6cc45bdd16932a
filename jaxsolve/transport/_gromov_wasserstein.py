"""The door to Gromov-Wasserstein transport: two spaces in, a plan out."""

from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status
from jaxsolve.transport._geometry import Geometry
from jaxsolve.transport._gromov import gromov
from jaxsolve.transport._gromov_problem import GromovProblem


class GromovSolution(eqx.Module):
    """A solved problem of Gromov-Wasserstein transport.

    `plan()` and `cost` are differentiable by the implicit rule, `value` once, by
    Danskin's theorem without a linear solve, in costs, points, weights and temperature.
    Where the run has not converged, derivatives are not finite.
    """

    problem: GromovProblem
    matrix: chex.Array  # (n, m), real: the plan.
    frozen: tuple[chex.Array, chex.Array]  # the plan and f, constant to derivatives.
    error: chex.Array  # (), real: the solver's, at the end.
    status: chex.Array  # (), int32: how it ended.
    count: chex.Array  # (), int32: updates taken.

    @property
    def converged(self) -> chex.Array:
        """Whether the plan no longer changes, to the tolerance: (), bool."""
        return self.status == Status.CONVERGED

    def plan(self) -> chex.Array:
        """The plan: (n, m), real."""
        return self.matrix

    @property
    def cost(self) -> chex.Array:
        """The cost of the plan, without its entropy: (), real."""
        return self.problem.cost(self.matrix)

    @property
    def value(self) -> chex.Array:
        """The objective at the plan, entropy included: (), real."""
        problem, (plan, f) = self.problem, self.frozen
        epsilon, fixed = problem.epsilon, jax.lax.stop_gradient
        linear, gradient = problem.linearised(plan)
        value = linear + epsilon * problem.entropy(plan)
        # The plan is the best one for a cost that is fixed; there the dual value has
        # the derivatives in weights and temperature, but is a bound only before.
        dual = problem.linear(fixed(gradient), epsilon).dual_value(f)
        slopes = linear + jnp.where(epsilon > 0, dual, 0)
        return fixed(value - slopes) + slopes

    def __repr__(self):
        if isinstance(self.status, jax.core.Tracer) or jnp.shape(self.status) != ():
            return f"GromovSolution(shape={self.problem.shape})"
        name = Status(int(self.status)).name.lower().replace("_", " ")
        return (
            f"GromovSolution({name} after {int(self.count)} updates, error "
            f"{float(self.error):.1e}, cost {float(self.cost):.6g})"
        )


def gromov_wasserstein(
    problem: GromovProblem | Geometry | chex.Array,
    geometry_y: Geometry | chex.Array | None = None,
    *,
    start: chex.Array | None = None,
    tol: chex.Numeric | None = None,
    max_steps: chex.Numeric = 20_000,
    **options: Any,
) -> GromovSolution:
    r"""Solves entropic Gromov-Wasserstein transport, plain or fused.

    Runs `gromov`. It finds a stationary plan; which, depends on the start. At a low
    temperature a start from the solution at a higher one is often better.

    Args:
        problem: a `GromovProblem`; or the costs within the first space, as of one.
        geometry_y: those within the second, if `problem` is not a `GromovProblem`.
        start: a plan, (n, m); the product of the weights by default.
        tol: bound on the L1 change of the plan by one more linear problem, over the
            mass; by default the square root of the machine epsilon of the costs' dtype.
        max_steps: updates of the solver of linear problems, at most.
        **options: of a `GromovProblem`: ``a``, ``b``, ``epsilon``, ``cross`` and
            ``alpha``.

    Returns:
        A `GromovSolution`.

    Raises:
        ValueError: as `GromovProblem`; if `epsilon` is known to be zero.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> x = jnp.array([[0.0], [1.0], [3.0], [7.0]])
        >>> X, Y = transport.PointCloud(x), transport.PointCloud(5 - x[::-1])
        >>> out = transport.gromov_wasserstein(X, Y)
        >>> print(out.converged, out.plan().argmax(1))
        True [3 2 1 0]
    """
    if not isinstance(problem, GromovProblem):
        if geometry_y is None:
            raise ValueError(
                "gromov_wasserstein takes a transport.GromovProblem, or the costs "
                "within both spaces."
            )
        problem = GromovProblem(problem, geometry_y, **options)
    elif geometry_y is not None or options:
        raise ValueError(
            "a GromovProblem holds both spaces and all options: leave these out."
        )
    if core.is_concrete(problem.epsilon) and float(problem.epsilon) == 0:
        raise ValueError(
            "gromov_wasserstein needs epsilon > 0; without entropy run the solver "
            "transport.gromov(proximal=...), whose proximal weight is positive."
        )
    solver = gromov()
    if start is None:
        start = jnp.zeros(problem.shape, problem.a.dtype)
    out = core.run(solver, start, problem, tol=tol, max_steps=max_steps)
    frozen = jax.lax.stop_gradient((out.params, out.state.potential))
    ok = out.status == Status.CONVERGED
    frozen = _refusing(frozen, problem, ok)
    return GromovSolution(
        problem, out.params, frozen, out.state.error, out.status, out.state.count
    )


@jax.jit
def _refusing(frozen, problem, ok):
    """Constants to derivatives, which are refused where the run has not converged."""
    return core.envelope().attach(None, frozen, problem, ok)
