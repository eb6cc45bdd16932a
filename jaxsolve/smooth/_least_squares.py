"""What the solvers of nonlinear least squares share: model, error, stall."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from jaxsolve import core
from jaxsolve.smooth._loss import Loss

Residuals = Callable[[core.Params, core.Data], Any]

_FORWARD_LIMIT = 32  # unknowns up to which a Jacobian comes with the residuals


class Trial(NamedTuple):
    """The objective at a point, and the linear model of the residuals there."""

    value: chex.Array  # (), real: half the sum of the losses; inf if not usable.
    columns: chex.Array  # (n + 1, m), real: of [J, r].
    products: chex.Array  # (n + 1, n + 1), real: of these columns with one another.
    bend: chex.Array | None = None  # (n,), real: J' of the second derivative along v.

    @property
    def grad(self) -> chex.Array:
        """The gradient J'r: (n,), real."""
        return self.products[-1, :-1]

    @property
    def norms(self) -> chex.Array:
        """The norms of the columns of J: (n,), real."""
        return jnp.sqrt(jnp.diagonal(self.products)[:-1])


def residual_vector(fun: Residuals) -> Residuals:
    """Makes a function of (params, data) whose value is one vector of residuals."""

    def vector(params, data=None):
        tree = fun(params, data)
        leaves = jax.tree.leaves(tree)
        kinds = [jnp.result_type(leaf) for leaf in leaves]
        if not all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
            raise ValueError(
                "the residuals must be a tree of real float arrays, got dtypes "
                f"{sorted({str(kind) for kind in kinds})}; give the real and imaginary "
                "parts of complex ones as two leaves."
            )
        if not sum(jnp.size(leaf) for leaf in leaves):
            raise ValueError(
                "there are no residuals: fun(params, data) must return at least one."
            )
        return core.ravel(tree)[0].astype(core.real_dtype(params))

    return vector


def objective(residuals: Residuals, loss: Loss | None) -> core.Objective:
    """Half the sum of squares of residuals, or of their losses."""

    def value(params, data=None):
        z = residuals(params, data) ** 2
        return jnp.sum(z if loss is None else loss(z)) / 2

    return value


def weigh(r: chex.Array, loss: Loss | None):
    """The objective of residuals, and the factor of each in the model: (), (m,).

    With the roots of the loss's slopes the model has the gradient of the objective,
    and lies above it where the loss is concave: Triggs' correction by the second
    derivative leaves none of the curvature of an outlier, and steps run away.
    """
    z = r**2
    if loss is None:
        return jnp.sum(z) / 2, jnp.ones_like(r)
    rho, slope = jax.jvp(loss, (z,), (jnp.ones_like(z),))
    if rho.shape != z.shape:
        raise ValueError(
            "a loss must be a function of the squared residuals, entry by entry, got "
            f"shape {rho.shape} of shape {z.shape}."
        )
    return jnp.sum(rho) / 2, jnp.sqrt(slope)


def linear_model(residuals: Residuals, loss: Loss | None):
    """Makes `(x, unravel, data) -> Trial`: one linearisation, at one site.

    With a direction `along`, the second derivative of the residuals along it is part of
    the linearisation.
    """

    def oracle(x, unravel, data, along=None):
        vector = lambda z: residuals(unravel(z), data)
        if along is None:
            r, rows = with_jacobian(vector, x)
        else:
            both = lambda z: jax.jvp(vector, (z,), (along,))
            (r, _), (rows, seconds) = forward(both, x)
        value, weight = weigh(r, loss)
        value = jnp.where(core.all_finite(unravel(x)), value, jnp.inf)
        columns = jnp.concatenate([rows, r[None, :]]) * weight[None, :]
        products = products_of(columns)
        usable = jnp.isfinite(value) & core.all_finite(products)
        value = jnp.where(usable, value, jnp.inf)
        trial = Trial(value, columns, jnp.where(usable, products, 0))
        if along is None:
            return trial
        second = along @ seconds
        return trial._replace(bend=rows @ (weight**2 * second))

    return oracle


def with_jacobian(fun: Callable, x: chex.Array):
    """A vector and its Jacobian transposed, (n, m), from one trace of the function."""
    if x.size <= _FORWARD_LIMIT:
        return forward(fun, x)
    r, push = jax.linearize(fun, x)
    basis = lambda size: jnp.eye(size, dtype=x.dtype)
    if x.size <= r.size:
        return r, jax.vmap(push)(basis(x.size))
    pull = jax.linear_transpose(push, x)
    return r, jax.vmap(lambda v: pull(v)[0], out_axes=1)(basis(r.size))


def forward(fun: Callable, x: chex.Array):
    """Vectors and their Jacobians transposed, in one sweep that keeps nothing.

    On differential equations it takes a fraction of the time of a linearisation and
    its products.
    """
    push = lambda v: jax.jvp(fun, (x,), (v,))
    return jax.vmap(push, out_axes=(None, 0))(jnp.eye(x.size, dtype=x.dtype))


def products_of(columns: chex.Array) -> chex.Array:
    """The products of columns, given as rows, with one another."""
    return jnp.matmul(columns, columns.T, precision=jax.lax.Precision.HIGHEST)


def positive(scale: chex.Array) -> chex.Array:
    """The scale, with ones where a column has always been zero."""
    return jnp.where(scale > 0, scale, 1)


def damp(products: chex.Array, columns: Callable, below: chex.Array) -> chex.Array:
    """The triangle [R q] of a damped model: R'R = J'J + B^2 and R'q = J'r.

    By Cholesky's factorisation where the columns are independent to a quarter of the
    digits, as QR takes three times as long in a batch; by QR where not, if any lane
    needs it.

    Args:
        products: of the columns of [J, r]: (n + 1, n + 1).
        columns: a function that returns them, (n + 1, m) with any m, for QR.
        below: the diagonal of B, (n,).

    Returns:
        [R q], (n, n + 1), up to signs of its rows.
    """
    n = below.size
    products = products + jnp.diag(jnp.pad(below**2, (0, 1)))
    norms = positive(jnp.sqrt(jnp.diagonal(products)))
    last = jnp.arange(n + 1, dtype=jnp.int32) == n
    unit = products / norms[:, None] / norms[None, :]
    # The residuals may depend on the other columns: their own pivot does not matter.
    unit = unit + jnp.diag(last.astype(unit.dtype))
    lower = jnp.linalg.cholesky(unit, symmetrize_input=False)
    sure = jnp.all(jnp.diagonal(lower) > float(jnp.finfo(unit.dtype).eps) ** 0.25)
    triangle = lower.T[:n] * norms[None, :]

    def by_qr():
        rows = jnp.concatenate(
            [columns().T, jnp.pad(jnp.diag(below), ((0, 0), (0, 1)))]
        )
        return jnp.where(sure, triangle, jnp.linalg.qr(rows, mode="r")[:n])

    return jax.lax.cond(core.any_lane(~sure), by_qr, lambda: triangle)


def solve(triangle: chex.Array) -> chex.Array:
    """The step that a triangle [R q] leads to, of R p = -q."""
    return solve_triangular(triangle[:, :-1], -triangle[:, -1])


def gauss_newton_step(trial: Trial) -> chex.Array:
    """The least-squares solution of the model, the shortest where it is not unique.

    Shortest in units in which the columns of J have length one. The damping is so weak
    that it only tells which singular values are zero up to rounding.
    """
    eps = float(jnp.finfo(trial.grad.dtype).eps)
    below = eps**0.75 * positive(trial.norms)
    return solve(damp(trial.products, lambda: trial.columns, below))


def box_of(bounds, params, data):
    """The box, infinite where it makes no sense, or None; and whether it does."""
    if bounds is None:
        return None, jnp.ones((), bool)
    lower, upper, feasible = core.box(bounds, params, data)
    return (lower, upper), feasible


def scaled_gradient(trial: Trial, x: chex.Array, box: tuple | None) -> chex.Array:
    """What the error of all solvers of least squares is the sup-norm of: (n,), real."""
    small = jnp.minimum(1, jnp.sqrt(2 * trial.value))
    size = jnp.maximum(trial.norms, jnp.where(jnp.isfinite(small), small, 1))
    size = positive(size)
    if box is None:
        return trial.grad / size
    width = jnp.minimum(box[1] - box[0], 1)
    reach = size * core.box_step(-trial.grad / size**2, x, *box)
    return reach / jnp.where(width > 0, width, 1)


def least_squares_residual(residuals, loss, bounds=None):
    """The gradient of the objective, or what is zero in its place in a box."""
    gradient = jax.grad(objective(residuals, loss))

    def residual(params, data=None):
        grad = gradient(params, data)
        if bounds is None:
            return grad
        x, unravel = core.ravel(params)
        box, _ = box_of(bounds, params, data)
        return unravel(-core.box_step(-core.ravel(grad)[0], x, *box))

    return residual
