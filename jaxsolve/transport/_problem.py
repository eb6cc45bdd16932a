"""The problem of entropic transport, balanced or not."""

from typing import Any

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.transport._geometry import DenseCost, Geometry
from jaxsolve.transport._point_cloud import PointCloud, squared_euclidean
from jaxsolve.transport._products import CAP, StoredKernel, over
from jaxsolve.transport._states import mark_of


class TransportProblem(eqx.Module):
    r"""Entropic transport between two weighted sets of points.

    .. math::

        \min_{P \ge 0} \langle C, P \rangle + \epsilon \, \mathrm{KL}(P | a b^\top)
        \quad \text{where} \quad P 1 = a, \; P^\top 1 = b

    or, unbalanced, with :math:`\rho_a \mathrm{KL}(P 1 | a)` in place of the one
    condition, :math:`\rho_b \mathrm{KL}(P^\top 1 | b)` of the other, or both. The
    solution is

    .. math::

        P_{ij} = a_i b_j \exp((f_i + g_j - C_{ij}) / \epsilon)

    with potentials that stay finite where weights are zero. What solvers look for is
    :math:`f`; the best :math:`g` follows from it by `other`. In a balanced problem
    :math:`f` is determined up to a constant: solvers return :math:`\langle a, f \rangle
    = 0`. For other numbers make another problem: by a checksum that is taken here, the
    state of a solver knows whose it is.

    Args:
        geometry: the cost: a `Geometry`, a matrix (n, m), or an OTT geometry.
        a: weights of the rows, (n,), not negative; uniform by default. Where they are
            zero, costs must be numbers all the same.
        b: those of the columns, (m,), of the same sum.
        epsilon: the temperature, positive, in units of the cost; by default a twentieth
            of the mean cost, a constant to derivatives.
        tau_a: :math:`\rho_a / (\rho_a + \epsilon)`, in (0, 1]; at 1 rows are balanced.
        tau_b: the same, of the columns.

    Raises:
        ValueError: if shapes do not fit, or, where values are known, if weights are
            negative, not finite, or all zero, if masses differ in a balanced problem,
            if `epsilon` is not positive, or a cost is NaN or minus infinity; or if an
            unbalanced problem has masses below 1e-15 (1e-135 in float64). Where these
            are traced instead, runs end as diverged or infeasible.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> cost = jnp.array([[0.0, 1.0], [1.0, 0.0]])
        >>> problem = transport.TransportProblem(cost, epsilon=0.1)
        >>> print(problem.plan(jnp.zeros(2)).round(3))
        [[0.5 0. ]
         [0.  0.5]]

    References:
        Cuturi, `Sinkhorn Distances <https://arxiv.org/abs/1306.0895>`_, 2013. Chizat,
        Peyré, Schmitzer and Vialard, `Scaling Algorithms for Unbalanced Optimal
        Transport Problems <https://doi.org/10.1090/mcom/3303>`_, 2018.
    """

    geometry: Geometry
    a: chex.Array  # (n,), real.
    b: chex.Array  # (m,), real.
    epsilon: chex.Array  # (), real.
    rho_a: chex.Array | None  # (), real; None where rows are balanced.
    rho_b: chex.Array | None  # (), real; None where columns are balanced.
    # (), real: of all the above, so that states know their problem; NaN where a cost
    # that is known makes no sense.
    mark: chex.Array

    def __init__(
        self,
        geometry: Geometry | chex.Array,
        a: chex.Array | None = None,
        b: chex.Array | None = None,
        *,
        epsilon: chex.Numeric | None = None,
        tau_a: chex.Numeric = 1.0,
        tau_b: chex.Numeric = 1.0,
    ):
        geometry = as_geometry(geometry).stored()
        n, m = geometry.shape
        dtype = geometry.dtype
        self.geometry = geometry
        self.a, self.b = _weights("a", a, n, dtype), _weights("b", b, m, dtype)
        default = epsilon is None
        if default:
            mean = jax.lax.stop_gradient(geometry.scale())
            epsilon = jnp.where(mean == 0, 1, 0.05 * mean)
        epsilon = jnp.asarray(epsilon)
        if epsilon.shape != () or not jnp.issubdtype(epsilon.dtype, jnp.number):
            raise ValueError(f"epsilon is one number, got shape {epsilon.shape}.")
        self.epsilon = epsilon.astype(dtype)
        self.rho_a = _rho("tau_a", tau_a, self.epsilon)
        self.rho_b = _rho("tau_b", tau_b, self.epsilon)
        known = geometry, self.a, self.b, self.epsilon, self.rho_a, self.rho_b
        self.mark = mark_of(known, geometry.sound(), dtype)
        # Inside jit, what is known there is computed with as it is traced.
        with jax.ensure_compile_time_eval():
            _check(self, default)

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of rows and columns."""
        return self.geometry.shape

    @property
    def balanced(self) -> bool:
        """Whether both marginals are prescribed, and f is free up to a constant."""
        return self.rho_a is None and self.rho_b is None

    def other(self, f: chex.Array, epsilon: chex.Array | None = None) -> chex.Array:
        """The best g at f: (m,). With it the columns are exact."""
        epsilon = self.epsilon if epsilon is None else epsilon
        g = self.geometry.softmin(f, self.a, epsilon, 0)
        return damped(g, self.rho_b, epsilon)

    def best(self, g: chex.Array, epsilon: chex.Array | None = None) -> chex.Array:
        """The best f at g: (n,). With it the rows are exact."""
        epsilon = self.epsilon if epsilon is None else epsilon
        f = self.geometry.softmin(g, self.b, epsilon, 1)
        return damped(f, self.rho_a, epsilon)

    def rows(
        self, f: chex.Array, g: chex.Array, epsilon: chex.Array | None = None
    ) -> chex.Array:
        """The sums of the rows of the plan: (n,)."""
        epsilon = self.epsilon if epsilon is None else epsilon
        total, shift = self.geometry.sums(g, self.b, epsilon, 1)
        return self.a * (total * jnp.exp(shift + over(f, epsilon)))

    def wanted_rows(self, f: chex.Array) -> chex.Array:
        """What the sums of the rows are at a solution: a, if balanced."""
        return self.a if self.rho_a is None else self.a * jnp.exp(-over(f, self.rho_a))

    def wanted_columns(self, g: chex.Array) -> chex.Array:
        """What the sums of the columns are at a solution: b, if balanced."""
        return self.b if self.rho_b is None else self.b * jnp.exp(-over(g, self.rho_b))

    def centre(self, f: chex.Array) -> chex.Array:
        """The mean of f where it may be anything, else zero: (), real."""
        if not self.balanced:
            return jnp.zeros((), f.dtype)
        mass = jnp.sum(self.a)
        return dot(self.a, f) / jnp.where(mass > 0, mass, 1)

    def best_shift(self, f: chex.Array, g: chex.Array) -> chex.Array:
        """The s for which (f + s, g - s) is best, or centred if all are: (), real."""
        if self.balanced:
            return -self.centre(f)
        shift = self._priced_shift(f, g)
        return jnp.where(jnp.isfinite(shift), shift, 0)

    def _priced_shift(self, f, g):
        mass = lambda w, h, rho: jax.scipy.special.logsumexp(-h / rho, b=w)
        if self.rho_b is None:
            a = mass(self.a, f, self.rho_a)
            return self.rho_a * (a - jnp.log(jnp.sum(self.b)))
        b = mass(self.b, g, self.rho_b)
        if self.rho_a is None:
            return self.rho_b * (jnp.log(jnp.sum(self.a)) - b)
        price = self.rho_a * self.rho_b / (self.rho_a + self.rho_b)
        return price * (mass(self.a, f, self.rho_a) - b)

    def dual_value(self, f: chex.Array) -> chex.Array:
        """The dual objective at f and the best g, the optimal value at a solution."""
        g = self.other(f)
        mass = jnp.sum(self.wanted_columns(g))
        pairs = self.epsilon * (mass - jnp.sum(self.a) * jnp.sum(self.b))
        return dual(self.a, f, self.rho_a) + dual(self.b, g, self.rho_b) - pairs

    def cost(self, f: chex.Array) -> chex.Array:
        """The cost of the plan at f, without its entropy: (), real."""
        return dot(self.a, self.apply_cost(f))

    def apply_cost(self, f: chex.Array) -> chex.Array:
        """The cost that leaves each unit of a: (n,), real."""
        same, _ = self.normalised()
        g, epsilon = same.other(f), same.epsilon
        if is_stored(same):
            cost, kernel = same.geometry.cost, same.geometry.kernel(f, g, epsilon)
            costs = kernel.matrix * jnp.where(cost == jnp.inf, 0, cost)
            return StoredKernel(costs).times(same.b)

        # <C, P> of a lazy geometry by differentiation of sums in the temperature:
        # d/ds sum_j b_j exp((g_j - C_ij + s C_ij) / eps) at s = 0.

        def sums(s):
            # The exponent is (g / (1 - s) - C) / eps' with eps' = eps / (1 - s).
            hotter = epsilon / (1 - s)
            total, shift = same.geometry.sums(g / (1 - s), same.b, hotter, 1)
            return total * jnp.exp(shift + over(f, epsilon))

        zero = jnp.zeros_like(epsilon)
        return epsilon * jax.jvp(sums, (zero,), (jnp.ones_like(zero),))[1]

    def plan(self, f: chex.Array) -> chex.Array:
        """The plan at f: (n, m), real."""
        same, unit = self.normalised()
        dense = DenseCost(same.geometry.matrix())
        kernel = dense.kernel(f, same.other(f), same.epsilon)
        return unit * (same.a[:, None] * kernel.matrix * same.b[None, :])

    def apply(self, f: chex.Array, values: chex.Array, axis: int = 1) -> chex.Array:
        """Multiplies the plan at f by values, without forming it where it is lazy.

        Args:
            f: the potential: (n,).
            values: (m,) or (m, k) for axis 1; (n,) or (n, k) for axis 0.
            axis: 1 for P v, 0 for its transpose.

        Returns:
            (n,) or (n, k); for axis 0 (m,) or (m, k).
        """
        same, unit = self.normalised()
        kernel = same.geometry.kernel(f, same.other(f), same.epsilon)
        wide = lambda weights: weights if values.ndim == 1 else weights[:, None]
        a, b = wide(same.a), wide(same.b)
        if axis == 1:
            return unit * (a * kernel.times(b * values))
        return unit * (b * kernel.transposed(a * values))

    def normalised(self) -> tuple["TransportProblem", chex.Array]:
        """A problem with the same f, and the mass that its own is in units of.

        Where the mass of a balanced problem is far from one, entries of its kernel, one
        over the mass, would not be numbers; the g of what is returned is higher by
        epsilon times the logarithm of the unit. Unbalanced problems stay as they are.
        """
        one = jnp.ones((), self.a.dtype)
        if not self.balanced:
            return self, one
        mass = jax.lax.stop_gradient(jnp.sum(self.a))
        far = ((mass < 1e-3) | (mass > 1e3)) & (mass > 0) & jnp.isfinite(mass)
        unit = jnp.where(far, mass, one)
        weights = self.a / unit, self.b / unit
        return eqx.tree_at(lambda p: (p.a, p.b), self, weights), unit


def damped(potential, rho, epsilon):
    """The best potential where its marginal is only asked for at the price rho."""
    return potential if rho is None else potential / (1 + over(epsilon, rho))


def dot(weights, values):
    """The sum of products, of what is finite: potentials without weight need not be."""
    finite = lambda z: jnp.where(jnp.isfinite(z), z, 0)
    return jnp.sum(finite(weights) * finite(values))


def dual(weights, potential, rho):
    """What one potential adds to the dual objective."""
    if rho is None:
        return dot(weights, potential)
    return -rho * dot(weights, jnp.expm1(-over(potential, rho)))


def is_stored(problem: TransportProblem) -> bool:
    """Whether the cost is a matrix, and so may be a kernel."""
    return isinstance(problem.geometry, DenseCost)


def rounding(
    problem: TransportProblem, f: chex.Array, g: chex.Array, epsilon: chex.Array
) -> chex.Array:
    """The L1 error of marginals, over the mass, that no rounding can tell from zero."""
    digit = float(jnp.finfo(f.dtype).eps)
    size = dot(problem.a, jnp.abs(f)) / jnp.sum(problem.a)
    size = size + dot(problem.b, jnp.abs(g)) / jnp.sum(problem.b)
    return 0.25 * digit * size / epsilon


def sane(problem: TransportProblem) -> chex.Array:
    """Whether weights, temperature and stored costs make sense: (), bool."""
    a, b = problem.a, problem.b
    real = jnp.all(jnp.isfinite(a)) & jnp.all(jnp.isfinite(b))
    signs = jnp.all(a >= 0) & jnp.all(b >= 0)
    there = (jnp.sum(a) > 0) & (jnp.sum(b) > 0)
    good = real & signs & there & (problem.epsilon > 0) & ~jnp.isnan(problem.mark)
    for price in (problem.rho_a, problem.rho_b):
        good = good if price is None else good & (price > 0)
    return good & jnp.isfinite(problem.epsilon) & massive(problem)


def massive(problem: TransportProblem) -> chex.Array:
    """Whether entries of the kernel, one over the mass, are numbers: (), bool."""
    if problem.balanced:
        return jnp.ones((), bool)
    least = jnp.minimum(jnp.sum(problem.a), jnp.sum(problem.b))
    return least > 100 / float(jnp.finfo(least.dtype).max) ** CAP


def equal_masses(problem: TransportProblem) -> chex.Array:
    """Whether there is a plan as far as sums tell: (), bool."""
    if not problem.balanced:
        return jnp.ones((), bool)
    a, b = jnp.sum(problem.a), jnp.sum(problem.b)
    eps = float(jnp.finfo(a.dtype).eps)
    return jnp.abs(a - b) <= max(eps**0.5, 1e-6) * jnp.maximum(a, b)


def status_of_problem(problem: TransportProblem, status: chex.Array) -> chex.Array:
    """A solver's status, unless the problem itself makes no sense: (), int32."""
    good = sane(problem)
    infeasible = good & ~equal_masses(problem)
    status = jnp.where(infeasible, as_status(Status.PRIMAL_INFEASIBLE), status)
    return jnp.where(good, status, as_status(Status.DIVERGED))


def as_geometry(geometry: Any) -> Geometry:
    """Makes a geometry of a matrix, or of one of OTT's."""
    if isinstance(geometry, Geometry):
        return geometry
    if type(geometry).__module__.startswith("ott."):
        points = (getattr(geometry, name, None) for name in ("x", "y", "cost_fn"))
        x, y, cost = points
        online = getattr(geometry, "is_online", False)
        if not online or x is None:
            return DenseCost(geometry.cost_matrix)
        if type(cost).__name__ == "SqEuclidean":
            return PointCloud(x, y, cost=squared_euclidean, block=256)
        return PointCloud(x, y, cost=cost, block=256)
    if isinstance(geometry, jax.Array | np.ndarray):
        return DenseCost(geometry)
    raise ValueError(
        "a geometry is a matrix of costs (n, m) or a Geometry such as "
        f"transport.PointCloud(x, y), got {core.describe(geometry)}."
    )


def _weights(name, weights, size, dtype):
    if weights is None:
        return jnp.full((size,), 1 / size, dtype)
    if jnp.ndim(weights) == 0:
        raise ValueError(
            f"{name} has one weight for each point, ({size},), got one number: a "
            "temperature is given by name, `epsilon=`."
        )
    weights = jnp.asarray(weights)
    if weights.shape != (size,):
        raise ValueError(
            f"{name} has one weight for each point, ({size},), got shape "
            f"{weights.shape}. Two clouds of points are transport.PointCloud(x, y)."
        )
    return weights.astype(dtype)


def _rho(name, tau, epsilon):
    if core.is_concrete(tau):
        if not 0 < float(tau) <= 1:
            raise ValueError(f"{name} is in (0, 1], got {tau!r}.")
        if float(tau) == 1:
            return None
    tau = jnp.asarray(tau, epsilon.dtype)
    # A traced 1 is as good as balanced, and finite.
    rho = epsilon * tau / jnp.maximum(1 - tau, float(jnp.finfo(tau.dtype).eps))
    return jnp.where((tau > 0) & (tau <= 1), rho, jnp.nan)


def _check(problem, default):
    _check_costs(problem, default)
    a, b, epsilon = problem.a, problem.b, problem.epsilon
    for name, w in (("a", a), ("b", b)):
        if not core.is_concrete(w):
            continue
        w = np.asarray(w)
        if not np.all(np.isfinite(w)) or np.any(w < 0) or not np.sum(w) > 0:
            raise ValueError(
                f"{name} must be finite weights, none negative and not all zero."
            )
    if core.is_concrete(epsilon) and not 0 < float(epsilon) < np.inf:
        raise ValueError(f"epsilon must be positive and finite, got {float(epsilon)}.")
    if core.is_concrete(a) and core.is_concrete(b) and not bool(equal_masses(problem)):
        raise ValueError(
            f"masses differ, {float(jnp.sum(a)):g} and {float(jnp.sum(b)):g}: no plan "
            "has both marginals. Scale one, or let tau_a or tau_b be less than 1."
        )
    if core.is_concrete(a) and core.is_concrete(b) and not bool(massive(problem)):
        raise ValueError(
            f"masses {float(jnp.sum(a)):g} and {float(jnp.sum(b)):g} are too small for "
            f"an unbalanced problem in {a.dtype}: scale the weights, or use float64."
        )


def _check_costs(problem, default):
    """What is known of costs, before the temperature that is made of them."""
    sound = problem.geometry.sound()
    if core.is_concrete(sound) and not bool(sound):
        raise ValueError("costs must be numbers, or infinity for forbidden pairs.")
    epsilon = problem.epsilon
    if default and core.is_concrete(epsilon) and not 0 < float(epsilon) < np.inf:
        raise ValueError(
            "by default epsilon is a twentieth of the mean cost, which must be finite "
            f"and not negative; here it is {float(epsilon):g}. Give `epsilon=`."
        )
