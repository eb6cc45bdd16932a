"""The problem of Gromov and Wasserstein: two spaces, compared by their distances."""

import dataclasses

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve import core
from jaxsolve.transport._geometry import DenseCost, Geometry
from jaxsolve.transport._matrices import cost_products
from jaxsolve.transport._problem import TransportProblem, as_geometry
from jaxsolve.transport._states import mark_of


class GromovProblem(eqx.Module):
    r"""Entropic Gromov-Wasserstein transport between two spaces, plain or fused.

    .. math::

        \min_{P \ge 0} (1 - \alpha) \langle M, P \rangle
        + \alpha \sum_{ijkl} (X_{ik} - Y_{jl})^2 P_{ij} P_{kl}
        + \epsilon \, \mathrm{KL}(P | a b^\top)
        \quad \text{where} \quad P 1 = a, \; P^\top 1 = b

    with symmetric costs X and Y within the spaces and, if *fused*, a cost M between
    them. The sum over four indices takes two products of matrices; in O(n m r)
    operations where X and Y are of rank r (`LowRankCost`).

    Args:
        geometry_x: X: a `Geometry` or a matrix, (n, n), finite.
        geometry_y: Y: (m, m).
        a: weights of the first space, (n,), not negative; uniform by default.
        b: those of the second, (m,), of the same sum. Of any sum: the unfused cost
            grows with its square.
        epsilon: the temperature, not negative; by default a hundredth of the cost of
            the plan that is a product of the weights, or one where that is not
            positive. Zero is for a solver that takes proximal steps.
        cross: M: (n, m), finite; by default there is none, and :math:`\alpha = 1`.
        alpha: how much the spaces count beside M, in [0, 1]; one half by default.

    Raises:
        ValueError: if shapes or dtypes do not fit, `alpha` is given without `cross`,
            or, where values are known, if X or Y is not symmetric, a cost is not
            finite, weights are negative, not finite, or all zero, masses differ, or
            `epsilon` is negative.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> x = jnp.array([[0.0], [1.0], [3.0]])
        >>> X, Y = transport.PointCloud(x), transport.PointCloud(5 - x[::-1])
        >>> problem = transport.GromovProblem(X, Y)
        >>> print(abs(problem.cost(jnp.eye(3)[::-1] / 3)) < 1e-4)
        True

    References:
        Peyré, Cuturi and Solomon, `Gromov-Wasserstein Averaging of Kernel and Distance
        Matrices <https://proceedings.mlr.press/v48/peyre16.html>`_, 2016. Vayer,
        Chapel, Flamary, Tavenard and Courty, `Optimal Transport for structured data
        with application on graphs <https://arxiv.org/abs/1805.09114>`_, 2019.
    """

    geometry_x: Geometry
    geometry_y: Geometry
    cross: Geometry | None
    a: chex.Array  # (n,), real.
    b: chex.Array  # (m,), real.
    epsilon: chex.Array  # (), real.
    alpha: chex.Array  # (), real.
    mark: chex.Array  # (), real: of all this, so that states know their problem.

    def __init__(
        self,
        geometry_x: Geometry | chex.Array,
        geometry_y: Geometry | chex.Array,
        a: chex.Array | None = None,
        b: chex.Array | None = None,
        *,
        epsilon: chex.Numeric | None = None,
        cross: Geometry | chex.Array | None = None,
        alpha: chex.Numeric | None = None,
    ):
        x, y = (as_geometry(z).stored() for z in (geometry_x, geometry_y))
        between = None if cross is None else as_geometry(cross).stored()
        _check_spaces(x, y, between)
        if alpha is not None and cross is None:
            raise ValueError("alpha weighs the spaces against cross, and that is None.")
        self.geometry_x, self.geometry_y, self.cross = x, y, between
        # Weights are checked there.
        zero = jnp.zeros((x.shape[0], y.shape[0]), x.dtype)
        plain = TransportProblem(zero, a, b, epsilon=1.0)
        self.a, self.b = plain.a, plain.b
        if alpha is None:
            alpha = 1.0 if cross is None else 0.5
        if core.is_concrete(alpha) and not 0 <= float(alpha) <= 1:
            raise ValueError(f"alpha is in [0, 1], got {alpha!r}.")
        self.alpha = jnp.asarray(alpha, x.dtype)
        if epsilon is None:
            epsilon = jax.lax.stop_gradient(self._temperature())
        if core.is_concrete(epsilon) and not 0 <= float(epsilon) < np.inf:
            raise ValueError(f"epsilon must be finite, not negative, got {epsilon}.")
        self.epsilon = jnp.asarray(epsilon, x.dtype)
        spaces = [z for z in (x, y, between) if z is not None]
        sound = jnp.all(jnp.stack([z.sound() for z in spaces]))
        known = spaces, self.a, self.b, self.epsilon, self.alpha
        self.mark = mark_of(known, sound, x.dtype)

    def _temperature(self):
        """A hundredth of the cost of the product of the weights; one below rounding."""
        x, y, a, b = self.geometry_x, self.geometry_y, self.a, self.b
        cost = self.cost(a[:, None] * b[None] / jnp.sum(a))
        squares = a @ x.apply(a, 1, jnp.square) + b @ y.apply(b, 1, jnp.square)
        noise = 10 * float(jnp.finfo(cost.dtype).eps) * self.alpha * squares
        return jnp.where(cost > noise, 0.01 * cost / jnp.sum(a), 1)

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of points of both spaces."""
        return self.geometry_x.shape[0], self.geometry_y.shape[0]

    def linearised(self, plan: chex.Array) -> tuple[chex.Array, chex.Array]:
        """The cost of a plan, without its entropy, and the gradient of that.

        Args:
            plan: (n, m), real.

        Returns:
            (), real; and (n, m), real.
        """
        x, y = self.geometry_x, self.geometry_y
        rows, columns = jnp.sum(plan, 1), jnp.sum(plan, 0)
        squares = x.apply(rows, 1, jnp.square), y.apply(columns, 1, jnp.square)
        products = cost_products(y, cost_products(x, plan, 1).T, 1).T
        outer = squares[0][:, None] + squares[1][None]
        gradient = 2 * self.alpha * (outer - 2 * products)
        value = jnp.sum(plan * gradient) / 2
        if self.cross is None:
            return value, gradient
        between = (1 - self.alpha) * self.cross.matrix()
        value = value + jnp.sum(jnp.where(plan > 0, plan * between, 0))
        return value, gradient + between

    def cost(self, plan: chex.Array) -> chex.Array:
        """The cost of a plan without its entropy: (), real."""
        return self.linearised(plan)[0]

    def entropy(self, plan: chex.Array) -> chex.Array:
        r""":math:`\mathrm{KL}(P | a b^\top)`: (), real."""
        pairs = self.a[:, None] * self.b[None]
        total = jnp.sum(plan * self.log_ratio(plan)) - jnp.sum(plan)
        return total + jnp.sum(pairs)

    def log_ratio(self, plan: chex.Array) -> chex.Array:
        r""":math:`\log(P / a b^\top)`, no less than the dtype allows: (n, m), real."""
        pairs = self.a[:, None] * self.b[None]
        there = pairs > 0
        ratio = jnp.where(there, plan / jnp.where(there, pairs, 1), 1)
        return jnp.log(jnp.maximum(ratio, float(jnp.finfo(ratio.dtype).tiny)))

    def linear(self, cost: chex.Array, epsilon: chex.Array) -> TransportProblem:
        """The linear problem between the same weights, which are not checked again."""
        made = object.__new__(TransportProblem)
        fields = dict.fromkeys(field.name for field in dataclasses.fields(made))
        fields |= dict(geometry=DenseCost(cost), a=self.a, b=self.b, epsilon=epsilon)
        # Solvers are begun anew here, and need not know it by its mark.
        fields["mark"] = jnp.zeros((), cost.dtype)
        for name, value in fields.items():
            object.__setattr__(made, name, value)
        return made


def _check_spaces(x, y, between):
    for name, z in (("geometry_x", x), ("geometry_y", y)):
        if z.shape[0] != z.shape[1]:
            raise ValueError(
                f"{name} is the cost of a space to itself, (n, n), got shape "
                f"{z.shape}; the cost between the spaces is `cross`."
            )
        cost = z.cost if isinstance(z, DenseCost) else None
        if cost is not None and core.is_concrete(cost):
            cost = np.asarray(cost)
            close = 100 * np.finfo(cost.dtype).eps * np.max(np.abs(cost))
            if not np.all(np.isfinite(cost)):
                raise ValueError(f"the costs of {name} must be finite.")
            if not np.all(np.abs(cost - cost.T) <= close):
                raise ValueError(
                    f"{name} must be symmetric; symmetrise it, by (X + X.T) / 2."
                )
    wanted = x.shape[0], y.shape[0]
    if between is not None and between.shape != wanted:
        raise ValueError(
            f"cross is the cost between the spaces, {wanted}, got {between.shape}."
        )
    cost = between.cost if isinstance(between, DenseCost) else None
    if cost is not None and core.is_concrete(cost) and not np.all(np.isfinite(cost)):
        raise ValueError("cross must be finite: no pair can be forbidden.")
    dtypes = {z.dtype for z in (x, y, between) if z is not None}
    if len(dtypes) > 1:
        raise ValueError(
            f"all geometries have one dtype, got {sorted(map(str, dtypes))}."
        )
