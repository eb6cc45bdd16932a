"""The problem of entropic barycenters of measures on fixed supports."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve import core
from jaxsolve.core import Status, as_status
from jaxsolve.transport._geometry import Geometry
from jaxsolve.transport._problem import as_geometry
from jaxsolve.transport._states import mark_of


class BarycenterProblem(eqx.Module):
    r"""The barycenter of K measures, on points that are given.

    With :math:`\mathrm{OT}(\alpha, b)` the least :math:`\langle C, P \rangle + \epsilon
    \, \mathrm{KL}(P | 1 b^\top)` over plans :math:`P` from :math:`\alpha` to :math:`b`,

    .. math::

        \min_\alpha \sum_k \lambda_k \mathrm{OT}(\alpha, b_k)
        \quad \text{or, debiased,} \quad
        \min_\alpha \sum_k \lambda_k \mathrm{OT}(\alpha, b_k)
        - \tfrac12 \mathrm{OT}'(\alpha, \alpha)

    where the reference of :math:`\mathrm{OT}'` is :math:`1 1^\top`. The plans of a
    solution are

    .. math::

        P_{k, ij} = \alpha_i \exp((f_{k, i} + g_{k, j} - C_{ij}) / \epsilon) b_{k, j}

    with potentials that stay finite where measures are zero. What solvers look for are
    the :math:`g_k`; the best :math:`f_k` and the barycenter follow from these, by

    .. math::

        f_k = -\epsilon \log \sum_j b_{k, j} \exp((g_{k, j} - C_{\cdot j}) / \epsilon),
        \quad
        \alpha \propto d \exp(-\textstyle\sum_k \lambda_k f_k / \epsilon)

    with :math:`d = 1`, or, debiased, the solution of :math:`d \, (K d) = \alpha` with
    :math:`K = \exp(-C / \epsilon)`. Each :math:`g_k` is determined up to a constant:
    solvers return :math:`\langle b_k, g_k \rangle = 0`.

    Args:
        geometry: the cost between the points of the barycenter, its rows, and those of
            the measures, its columns: a `Geometry`, a matrix (n, m), or an OTT
            geometry. If debiased, it is symmetric: both stand on the same points.
        measures: their weights, (K, m), not negative, all of the same sum; that is the
            barycenter's sum too.
        weights: :math:`\lambda`, (K,), not negative, of sum one; equal by default.
        epsilon: the temperature, positive, in units of the cost. The plain barycenter
            is blurred by it: the variance of one measure, or of equal ones, grows by
            :math:`\epsilon / 2` an axis, of squared distances.

    Raises:
        ValueError: if shapes do not fit, or, where values are known, if measures are
            negative, not finite, or of different sums, weights are not on the simplex,
            `epsilon` is not positive, or a cost is NaN or minus infinity.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> line = jnp.linspace(0.0, 1.0, 3)[:, None]
        >>> problem = transport.BarycenterProblem(
        ...     transport.PointCloud(line), jnp.eye(3)[::2], epsilon=0.1)
        >>> print(problem.barycenter(problem.start()).round(3))
        [0.071 0.859 0.071]

    References:
        Agueh and Carlier, `Barycenters in the Wasserstein Space
        <https://doi.org/10.1137/100805741>`_, 2011. Benamou, Carlier, Cuturi, Nenna and
        Peyré, `Iterative Bregman Projections for Regularized Transportation Problems
        <https://arxiv.org/abs/1412.5154>`_, 2015. Janati, Cuturi and Gramfort,
        `Debiased Sinkhorn barycenters <https://arxiv.org/abs/2006.02575>`_, 2020.
    """

    geometry: Geometry
    measures: chex.Array  # (K, m), real.
    weights: chex.Array  # (K,), real.
    epsilon: chex.Array  # (), real.
    mark: chex.Array  # (), real: of all this, so that states know their problem.

    def __init__(
        self,
        geometry: Geometry | chex.Array,
        measures: chex.Array,
        weights: chex.Array | None = None,
        *,
        epsilon: chex.Numeric,
    ):
        self.geometry = geometry = as_geometry(geometry).stored()
        m, dtype = geometry.shape[1], geometry.dtype
        measures = jnp.asarray(measures)
        if measures.ndim != 2 or measures.shape[1] != m or not measures.shape[0]:
            raise ValueError(
                "measures have one row each and one weight for each column of the "
                f"cost, (K, {m}), got shape {measures.shape}."
            )
        size = measures.shape[0]
        weights = jnp.full((size,), 1 / size) if weights is None else weights
        weights = jnp.asarray(weights)
        if weights.shape != (size,):
            raise ValueError(
                f"weights are one number for each measure, ({size},), got shape "
                f"{weights.shape}."
            )
        epsilon = jnp.asarray(epsilon)
        if epsilon.shape != ():
            raise ValueError(f"epsilon is one number, got shape {epsilon.shape}.")
        self.measures, self.weights = measures.astype(dtype), weights.astype(dtype)
        self.epsilon = epsilon.astype(dtype)
        known = geometry, self.measures, self.weights, self.epsilon
        self.mark = mark_of(known, geometry.sound(), dtype)
        # Inside jit, what is known there is computed with as it is traced.
        with jax.ensure_compile_time_eval():
            _check(self)

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of points of the barycenter and of the measures."""
        return self.geometry.shape

    @property
    def mass(self) -> chex.Array:
        """The sum of each measure, and of the barycenter: (), real."""
        return jnp.sum(self.measures) / self.measures.shape[0]

    def start(self, debiased: bool = False) -> chex.ArrayTree:
        """Where solvers start if nothing better is known: their params."""
        g = jnp.zeros_like(self.measures)
        return (g, jnp.ones(self.shape[0], g.dtype)) if debiased else g

    def barycenter(self, params: chex.ArrayTree) -> chex.Array:
        """The barycenter at a solver's params, plain or debiased: (n,), real."""
        return _barycenter_at(self, params)

    def plan(self, params: chex.ArrayTree, index: int) -> chex.Array:
        """The plan from the barycenter at params to one of the measures: (n, m)."""
        size = self.measures.shape[0]
        if core.is_concrete(index) and not -size <= index < size:
            raise ValueError(f"there are {size} measures, got the index {index}.")
        return _plan_at(self, params, index)

    def row_passes(self, g, d=None):
        """The best f at g: (K, n). And the logarithm of K d, if debiased: (n,)."""
        one = lambda h, w: self.geometry.softmin(h, w, self.epsilon, 1)
        return self.parted(jax.vmap(one)(*self.stacked(g, d)), d)

    def stacked(self, g, d):
        """Potentials and weights, where debiased d is one more measure."""
        if d is None:
            return g, self.measures
        h = jnp.concatenate([g, jnp.zeros_like(d)[None]])
        return h, jnp.concatenate([self.measures, d[None]])

    def parted(self, f, d):
        """What a pass makes of these: f, and the logarithm of K d."""
        return (f, None) if d is None else (f[:-1], -f[-1] / self.epsilon)

    def column_passes(self, f, there):
        """The best g at f, log-weights of the barycenter included: (K, m)."""
        rows = there.astype(f.dtype)
        one = lambda f: self.geometry.softmin(f, rows, self.epsilon, 0)
        return jax.vmap(one)(f)

    def log_weights(self, f, d=None):
        """Logarithms of the barycenter's weights at f, zero where it has no mass.

        Returns:
            (n,), real, and where they count: (n,), bool.
        """
        # A measure of weight zero pulls at nothing, but must be within reach.
        there = jnp.all(jnp.isfinite(f), 0)
        f = jnp.where(there[None], f, 0)
        logs = -jnp.sum(self.weights[:, None] * f, 0) / self.epsilon
        if d is not None:
            there = there & (d > 0)
            logs = logs + jnp.log(jnp.where(there, d, 1))
        total = jax.nn.logsumexp(jnp.where(there, logs, -jnp.inf))
        total = jnp.where(jnp.any(there), total, 0)
        mass = self.mass
        total = total - jnp.log(jnp.where(mass > 0, mass, 1))
        return jnp.where(there, logs - total, 0), there

    def absolute(self, f, logs, there):
        """The potentials f with the barycenter's log-weights, where these count."""
        return jnp.where(there[None], f + self.epsilon * logs[None], 0)

    def weights_of(self, logs, there):
        """The barycenter of the logarithms of its weights: (n,)."""
        return jnp.where(there, jnp.exp(logs), 0)

    def centres(self, g):
        """The mean of each g over its measure: (K, 1)."""
        there = self.measures > 0
        total = jnp.sum(jnp.where(there, self.measures * g, 0), 1, keepdims=True)
        mass = jnp.sum(self.measures, 1, keepdims=True)
        mean = total / jnp.where(mass > 0, mass, 1)
        return jnp.where(jnp.isfinite(mean), mean, 0)


@jax.jit
def _barycenter_at(problem, params):
    g, d, _ = potentials_of(params, problem)
    f, _ = problem.row_passes(g, d)
    return problem.weights_of(*problem.log_weights(f, d))


@jax.jit
def _plan_at(problem, params, index):
    g, d, _ = potentials_of(params, problem)
    f, _ = problem.row_passes(g, d)
    logs, there = problem.log_weights(f, d)
    cost = problem.geometry.matrix()
    total = problem.absolute(f, logs, there)[index]
    forbidden = (cost == jnp.inf) | ~there[:, None]
    z = total[:, None] + g[index][None] - jnp.where(forbidden, 0, cost)
    kernel = jnp.where(forbidden, 0, jnp.exp(z / problem.epsilon))
    return kernel * problem.measures[index][None]


def potentials_of(params, data: BarycenterProblem, point=None):
    """The potentials g (K, m), the vector d (n,) or None, and how to put them back."""
    if not isinstance(data, BarycenterProblem):
        raise ValueError(
            "the data of barycenters are a transport.BarycenterProblem, got "
            f"{core.describe(data)}."
        )
    x, unravel = core.ravel(params) if point is None else core.ravel_fine(params, point)
    size, n = data.measures.size, data.shape[0]
    if x.size not in (size, size + n):
        raise ValueError(
            f"params are the potentials of the measures, {data.measures.shape}, and, "
            f"debiased, the vector d, ({n},), got {x.size} numbers; "
            "problem.start(debiased) makes some."
        )
    x = x.astype(data.geometry.dtype)
    g = x[:size].reshape(data.measures.shape)
    return g, x[size:] if x.size > size else None, unravel


def status_of_problem(data: BarycenterProblem, status: chex.Array) -> chex.Array:
    """A solver's status, unless the problem itself makes no sense: (), int32."""
    infeasible = jnp.where(_equal_masses(data), status, as_status(_INFEASIBLE))
    return jnp.where(_sane(data), infeasible, as_status(Status.DIVERGED))


_INFEASIBLE = Status.PRIMAL_INFEASIBLE


def _tolerance(dtype):
    return max(float(jnp.finfo(dtype).eps) ** 0.5, 1e-6)


def _sane(data):
    """Whether all numbers make sense: (), bool."""
    b, weights, epsilon = data.measures, data.weights, data.epsilon
    measures = jnp.all(jnp.isfinite(b)) & jnp.all(b >= 0) & jnp.all(jnp.sum(b, 1) > 0)
    costs = ~jnp.isnan(data.mark)
    temperature = (epsilon > 0) & jnp.isfinite(epsilon)
    return measures & _on_simplex(weights) & temperature & costs


def _on_simplex(weights):
    close = jnp.abs(jnp.sum(weights) - 1) <= _tolerance(weights.dtype)
    return close & jnp.all(weights >= 0)


def _equal_masses(data):
    sums = jnp.sum(data.measures, 1)
    return jnp.ptp(sums) <= _tolerance(sums.dtype) * jnp.max(sums)


def _check(problem):
    b, weights, epsilon = problem.measures, problem.weights, problem.epsilon
    sound = problem.geometry.sound()
    if core.is_concrete(sound) and not bool(sound):
        raise ValueError("costs must be numbers, or infinity for forbidden pairs.")
    if core.is_concrete(b):
        b = np.asarray(b)
        if not np.all(np.isfinite(b)) or np.any(b < 0) or not np.all(b.sum(1) > 0):
            raise ValueError(
                "measures must be finite, nowhere negative, and none zero all over."
            )
        if not bool(_equal_masses(problem)):
            raise ValueError(
                f"measures must have equal masses, got {b.sum(1)}: no plan has two "
                "marginals of different ones. Divide each by its sum."
            )
    if core.is_concrete(weights) and not bool(_on_simplex(weights)):
        raise ValueError(
            f"weights must not be negative, and sum to one, got {np.asarray(weights)}."
        )
    if core.is_concrete(epsilon) and not 0 < float(epsilon) < np.inf:
        raise ValueError(f"epsilon must be positive and finite, got {float(epsilon)}.")
