"""The problem of transport with few nonzeros in every column."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve import core, prox
from jaxsolve.transport import _column_regularisers as columns
from jaxsolve.transport._geometry import Geometry
from jaxsolve.transport._problem import TransportProblem, dot
from jaxsolve.transport._states import mark_of


class SparseTransportProblem(eqx.Module):
    r"""Transport with a quadratic regulariser and at most k nonzeros in a column.

    .. math::

        \min_{T \ge 0} \langle C, T \rangle + \tfrac{\gamma}{2} \|T\|^2
        \quad \text{where} \quad T 1 = a, \; T^\top 1 = b, \;
        \|T_{\cdot j}\|_0 \le k

    With k = n, the default, this is quadratically regularised transport. With fewer it
    is not convex; two concave dual problems bound it from below, of potentials
    :math:`\alpha` of the rows, or of the pair :math:`(\alpha, \beta)`:

    .. math::

        S(\alpha) &= \langle \alpha, a \rangle - \sum_j \max_{t \ge 0,\, \sum t = b_j,\,
            \|t\|_0 \le k} \langle \alpha - C_{\cdot j}, t \rangle
            - \tfrac{\gamma}{2} \|t\|^2 \\
        D(\alpha, \beta) &= \langle \alpha, a \rangle + \langle \beta, b \rangle
            - \tfrac{1}{2 \gamma} \sum_j \sum_{i \in \mathrm{top}_k}
            \max(\alpha_i + \beta_j - C_{ij}, 0)^2

    Both have the same maximum. The plan at potentials consists of the maximisers
    inside; where its row sums are a (and, of the pair, its column sums b) it solves the
    problem, and the gap is zero. So it is where k is as large as the quadratic solution
    needs. For smaller k entries may tie for the k-th place: then no plan of this form
    has the right sums, the row error remains, and the maximum is a lower bound.

    Params below are :math:`\alpha`, (n,), or the pair, as a tuple; only differences
    of :math:`\alpha` count. Where a weight is zero its row or column is empty and the
    potential there is not looked at. Costs may be infinite where a pair is forbidden.

    Args:
        cost: a matrix (n, m), or a `Geometry`, of which the matrix is kept.
        a: weights of the rows, (n,), not negative; uniform by default.
        b: those of the columns, (m,), of the same sum.
        k: how many rows a column may take; all by default.
        gamma: :math:`\gamma > 0`, in units of the cost over mass.

    Raises:
        ValueError: as `TransportProblem`; if k is not an integer in 1, ..., n; or if
            there are known to be more than k rows with weight to a column with weight.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> cost = jnp.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
        >>> problem = transport.SparseTransportProblem(cost, k=2, gamma=1.0)
        >>> print((6 * problem.plan(jnp.array([0.0, 0.0, -1 / 6]))).round(2))
        [[2. 0.]
         [0. 2.]
         [1. 1.]]

    References:
        Liu, Puigcerver and Blondel, `Sparsity-Constrained Optimal Transport
        <https://arxiv.org/abs/2209.15466>`_, 2023. Blondel, Seguy and Rolet, `Smooth
        and Sparse Optimal Transport <https://arxiv.org/abs/1710.06276>`_, 2018.
    """

    cost: chex.Array  # (n, m), real.
    a: chex.Array  # (n,), real.
    b: chex.Array  # (m,), real.
    gamma: chex.Array  # (), real.
    mark: chex.Array  # (), real: of all this, so that states know their problem.
    k: int = eqx.field(static=True)

    def __init__(
        self,
        cost: Geometry | chex.Array,
        a: chex.Array | None = None,
        b: chex.Array | None = None,
        *,
        k: int | None = None,
        gamma: chex.Numeric,
    ):
        shape = jnp.shape(gamma)
        known = core.is_concrete(gamma) and shape == ()
        if shape != () or (known and not 0 < float(gamma) < np.inf):
            raise ValueError(
                f"gamma is one number, positive and finite, got {gamma!r}: costs are "
                "of the order of gamma times an entry of the plan."
            )
        checked = TransportProblem(cost, a, b, epsilon=gamma)
        self.cost, self.gamma = checked.geometry.matrix(), checked.epsilon
        self.a, self.b = checked.a, checked.b
        rows = self.cost.shape[0]
        self.k = rows if k is None else k
        if (
            isinstance(k, bool)
            or not isinstance(self.k, int)
            or not 1 <= self.k <= rows
        ):
            raise ValueError(
                f"k is an integer from 1 to {rows}, the number of rows, got {k!r}."
            )
        if core.is_concrete(self.a) and core.is_concrete(self.b):
            n, m = (int(np.sum(np.asarray(w) > 0)) for w in (self.a, self.b))
            if self.k * m < n:
                raise ValueError(
                    f"{m} columns with at most k = {self.k} rows each cannot cover {n} "
                    f"rows: let k be at least {-(-n // m)}."
                )
        known = self.cost, self.a, self.b, self.gamma, jnp.asarray(self.k, jnp.int32)
        self.mark = mark_of(known, checked.geometry.sound(), self.cost.dtype)

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of rows and columns."""
        return self.cost.shape

    def entries(self, params: chex.ArrayTree) -> columns.Entries:
        """The plan at potentials, by its columns."""
        alpha, beta = self._potentials(params)
        top, rows = self._best_rows(alpha, beta)
        if beta is None:
            share = columns.share_of_mass(top, self.b, self.gamma)
        else:
            share = columns.share_at_price(top, self.gamma)
        return columns.Entries(rows, top, share)

    def plan(self, params: chex.ArrayTree) -> chex.Array:
        """The plan at potentials: (n, m), real."""
        return self.entries(params).matrix(self.shape[0])

    def semi_dual(self, alpha: chex.Array) -> chex.Array:
        """The objective S: (), real. Its derivative in a is alpha, in the cost T."""
        alpha, _ = self._potentials(alpha)
        top, _ = self._best_rows(alpha, None)
        inner = columns.conjugate_of_mass(top, self.b, self.gamma)
        return dot(self.a, alpha) - jnp.sum(inner)

    def dual(self, alpha: chex.Array, beta: chex.Array) -> chex.Array:
        """The objective D: (), real."""
        alpha, beta = self._potentials((alpha, beta))
        top, _ = self._best_rows(alpha, beta)
        inner = columns.conjugate_at_price(top, self.gamma)
        return dot(self.a, alpha) + dot(self.b, beta) - jnp.sum(inner)

    def dual_value(self, params: chex.ArrayTree) -> chex.Array:
        """S or D at potentials: a lower bound of the problem's value, (), real.

        At a solution it is that of the problem, and by Danskin's theorem its derivative
        with potentials held fixed is the value's: to hold them fixed, run with
        ``derivative=core.envelope()``. In a weight that is zero it is one-sided.
        """
        alpha, beta = self._potentials(params)
        if beta is None:
            value = self.semi_dual(alpha)
        else:
            value = self.dual(alpha, beta)
        # What the weight of an empty row or column would be worth.
        row, column = jax.lax.stop_gradient(self._worth_of_empty(params))
        empty = lambda w, worth: jnp.sum(w * jnp.where(w == 0, worth, 0))
        value = value + empty(self.a, row)
        return value if beta is None else value + empty(self.b, column)

    def repaired(self, params: chex.ArrayTree, slack: chex.Numeric) -> chex.Array:
        """A plan of the right sums, near the one at potentials: (n, m), real.

        For potentials at which entries tie, so that the row error remains: the nearest
        plan in least squares that has the sums a and b and uses no other entries than
        those whose score is within `slack`, in units of the cost, of what it takes to
        be chosen. Columns in which entries tie may have more than k then. All of it is
        NaN where these entries cannot carry the sums.
        """
        entries = self.entries(params)
        alpha, beta = self._potentials(params)
        level = jnp.zeros_like(self.b)
        if beta is None:
            level = columns.multiplier(entries.top, entries.share, self.gamma)
        level = jnp.maximum(level, jnp.min(entries.top, 1))
        near = self._scores(alpha, beta) >= (level - slack)[:, None]
        usable = near.T & self.legal()
        plan = entries.matrix(self.shape[0])
        far = -100 * jnp.sum(self.a)  # so that what may not be used is the last resort
        plan = prox.transport(self.a, self.b)(jnp.where(usable, plan, far))
        return jnp.where(jnp.any(~usable & (plan > 0)), jnp.nan, plan)

    def primal_value(self, plan: chex.Array) -> chex.Array:
        """The cost of a plan with its regulariser: (), real."""
        paid = jnp.where(plan == 0, 0, plan * self.cost)
        return jnp.sum(paid) + 0.5 * self.gamma * jnp.sum(plan**2)

    def row_error(self, params: chex.ArrayTree) -> chex.Array:
        """The L1 error of the rows of the plan, over the mass: (), real."""
        gap = self.entries(params).row_sums(self.shape[0]) - self.a
        return jnp.sum(jnp.abs(gap)) / jnp.sum(self.a)

    def column_error(self, params: chex.ArrayTree) -> chex.Array:
        """The same of the columns: zero but for rounding, unless params are a pair."""
        gap = jnp.sum(self.entries(params).share, 1) - self.b
        return jnp.sum(jnp.abs(gap)) / jnp.sum(self.b)

    def gap(self, params: chex.ArrayTree) -> chex.Array:
        """The value of the plan less that of the dual: (), real.

        Of a plan whose sums are right it is not negative, and bounds what a better plan
        might save; of others it says nothing.
        """
        return self.primal_value(self.plan(params)) - self.dual_value(params)

    def gradient(self, params: chex.ArrayTree) -> tuple[chex.Array, ...]:
        """The sums of rows, of a pair of columns too, less what they ought to be."""
        entries = self.entries(params)
        rows = entries.row_sums(self.shape[0]) - self.a
        if self._potentials(params)[1] is None:
            return (rows,)
        return rows, jnp.sum(entries.share, 1) - self.b

    def legal(self) -> chex.Array:
        """Which pairs a plan may use: (n, m), bool. Where a cost is NaN, all."""
        return (self.a != 0)[:, None] & (self.b != 0)[None] & (self.cost != jnp.inf)

    def _potentials(self, params):
        alpha, beta = params if isinstance(params, tuple) else (params, None)
        n, m = self.shape
        got = jnp.shape(alpha), jnp.shape(beta) if beta is not None else (m,)
        if got != ((n,), (m,)):
            raise ValueError(
                f"potentials are alpha, ({n},), or the pair of alpha and beta, ({m},), "
                f"got shapes {got}."
            )
        cast = lambda x: jnp.asarray(x).astype(self.cost.dtype)
        return cast(alpha), None if beta is None else cast(beta)

    def _scores(self, alpha, beta):
        """What is gained by a unit of every pair, before it is regularised: (m, n)."""
        score = alpha[:, None] - jnp.where(self.cost == jnp.inf, 0, self.cost)
        return (score if beta is None else score + beta[None]).T

    def _best_rows(self, alpha, beta):
        """The k best scores of every column and where they are: (m, k) both."""
        legal = (self.a != 0)[:, None] & (self.cost != jnp.inf)
        score = jnp.where(legal.T, self._scores(alpha, beta), -jnp.inf)
        if beta is not None:
            score = jnp.where((self.b != 0)[:, None], score, -jnp.inf)
        if self.k == self.shape[0]:
            return score, jax.lax.broadcasted_iota(jnp.int32, score.shape, 1)
        return jax.lax.top_k(score, self.k)

    def _worth_of_empty(self, params):
        """The potentials at which rows and columns without weight begin to fill."""
        alpha, beta = self._potentials(params)
        if beta is None:
            entries = self.entries(params)
            beta = -columns.multiplier(entries.top, entries.share, self.gamma)
        cost = self.cost
        finite = lambda x: jnp.where(jnp.isfinite(x), x, 0)
        filled = lambda w, x: jnp.where(w == 0, -jnp.inf, x)
        row = jnp.min(cost - filled(self.b, beta)[None], 1)
        column = jnp.min(cost - filled(self.a, alpha)[:, None], 0)
        return finite(row), finite(column)
