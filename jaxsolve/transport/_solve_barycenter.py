"""The door to barycenters: measures in, their barycenter out."""

from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.core import Status
from jaxsolve.transport._barycenter import barycenter
from jaxsolve.transport._barycenter_problem import BarycenterProblem
from jaxsolve.transport._geometry import Geometry


class BarycenterSolution(eqx.Module):
    """A barycenter, and where it comes from.

    Differentiable in costs, points, measures, weights and temperature. Where the run
    has not converged, derivatives are not finite.
    """

    problem: BarycenterProblem
    barycenter: chex.Array  # (n,), real: its weights on the rows of the cost.
    params: chex.ArrayTree  # of the solver: to start from on a problem nearby.
    state: Any  # of the solver.
    status: chex.Array  # (), int32: how the run ended.

    @property
    def converged(self) -> chex.Array:
        """Whether all plans agree to the tolerance: (), bool."""
        return self.status == Status.CONVERGED

    @property
    def message(self) -> str:
        """How the run ended, in a sentence; only where it is known."""
        return Status(int(self.status)).message

    def plan(self, index: int) -> chex.Array:
        """The plan from the barycenter to one of the measures: (n, m), real."""
        return self.problem.plan(self.params, index)

    def __repr__(self):
        if isinstance(self.status, jax.core.Tracer) or jnp.shape(self.status) != ():
            return f"BarycenterSolution(shape={self.problem.shape})"
        name = Status(int(self.status)).name.lower().replace("_", " ")
        return (
            f"BarycenterSolution({name} after {int(self.state.count)} updates, "
            f"marginal error {float(self.state.error):.1e})"
        )


def solve_barycenter(
    geometry: Geometry | chex.Array,
    measures: chex.Array,
    weights: chex.Array | None = None,
    *,
    epsilon: chex.Numeric,
    debiased: bool = False,
    start: chex.ArrayTree | None = None,
    tol: chex.Numeric | None = None,
    max_steps: chex.Numeric = 5000,
) -> BarycenterSolution:
    r"""Finds the entropic barycenter of measures on points that are given.

    Takes the data of a `BarycenterProblem`, and runs `barycenter` on it, with adaptive
    relaxation.

    Args:
        geometry: the cost between the points of the barycenter and those of the
            measures: a matrix (n, m), a `PointCloud`, a `GridCost` for images, ...
        measures: their weights, (K, m), of equal sums.
        weights: of the measures, (K,), of sum one; equal by default.
        epsilon: the temperature, in units of the cost.
        debiased: whether the blur of the temperature is taken away; the cost is then
            symmetric.
        start: the params of an earlier solution; none by default.
        tol: bound on the error, as of `barycenter`; by default the square root of the
            machine epsilon of the cost's dtype.
        max_steps: passes each way, at most.

    Returns:
        A `BarycenterSolution`.

    Raises:
        ValueError: as `BarycenterProblem` and `barycenter`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> line = jnp.linspace(0.0, 1.0, 5)
        >>> cloud = transport.PointCloud(line[:, None])
        >>> def mean(t):
        ...     weights = jnp.stack([1 - t, t])
        ...     out = transport.solve_barycenter(
        ...         cloud, jnp.eye(5)[::4], weights, epsilon=0.05)
        ...     return out.barycenter @ line
        >>> print(f"{mean(0.25):.2f} {jax.grad(mean)(0.25):.2f}")
        0.25 0.95
    """
    problem = BarycenterProblem(geometry, measures, weights, epsilon=epsilon)
    solver = barycenter(debiased=debiased, relaxation="adaptive")
    start = problem.start(debiased) if start is None else start
    out = core.run(solver, start, problem, tol=tol, max_steps=max_steps)
    found = problem.barycenter(out.params)
    return BarycenterSolution(problem, found, out.params, out.state, out.status)
