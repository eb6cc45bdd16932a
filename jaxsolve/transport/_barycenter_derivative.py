"""How a barycenter depends on cost, measures, weights and temperature."""

import jax
import jax.numpy as jnp
import lineax as lx

from jaxsolve import core
from jaxsolve.transport._barycenter_problem import potentials_of

DENSE_LIMIT = 1000  # unknowns up to which a system may be decomposed
_BLOCK = 64  # columns of it formed at a time


def residual(params, data):
    """The change of params by an unrelaxed update, zero at a solution."""
    g, d, unravel = potentials_of(params, data)
    f, log_kd = data.row_passes(g, d)
    logs, there = data.log_weights(f, d)
    new = data.column_passes(data.absolute(f, logs, there), there)
    new = jnp.where(jnp.isfinite(new), new, g)
    # The mean is taken away, as potentials are determined up to constants.
    gap = (g - new + data.centres(new)).reshape(-1)
    if d is None:
        return unravel(gap)
    new_d = jnp.exp((jnp.log(jnp.where(there, d, 1)) + logs - log_kd) / 2)
    return unravel(jnp.concatenate([gap, d - jnp.where(there, new_d, 0)]))


def contraction(matvec, vector):
    """Solves with the identity less a contraction: a few products, or many.

    The residual of plain barycenters is that of a map whose eigenvalues are real and
    in [0, 1): they stop the run and the linear solve alike.
    """
    eps = float(jnp.finfo(vector.dtype).eps)
    solution = _krylov(matvec, vector, eps**0.8)
    gap = jnp.linalg.norm(matvec(solution) - vector)
    good = gap <= eps**0.5 * jnp.linalg.norm(vector)
    if vector.size > DENSE_LIMIT:
        return jnp.where(good, solution, jnp.nan)
    return jax.lax.cond(
        core.any_lane(~good),
        lambda: jnp.where(good, solution, least_squares(matvec, vector)),
        lambda: solution,
    )


def least_squares(matvec, vector):
    """Solves a system as far as it is determined: the rest of the solution is zero.

    The equations of a debiased barycenter hold the kernel, of which a smooth cost
    leaves some digits only.
    """
    n, eps = vector.size, float(jnp.finfo(vector.dtype).eps)
    if n > DENSE_LIMIT:
        return _krylov(matvec, vector, eps**0.5)
    eye = jnp.eye(n, dtype=vector.dtype)
    matrix = jax.lax.map(matvec, eye, batch_size=_BLOCK).T
    size = jnp.max(jnp.abs(matrix), axis=1, keepdims=True)
    row = jnp.where(size > 0, size, 1)
    matrix = matrix / row
    size = jnp.max(jnp.abs(matrix), axis=0, keepdims=True)
    column = jnp.where(size > 0, size, 1)
    u, s, vt = jnp.linalg.svd(matrix / column)
    there = s > eps**0.5 * jnp.max(s)
    inverse = jnp.where(there, 1 / jnp.where(there, s, 1), 0)
    high = jax.lax.Precision.HIGHEST
    image = jnp.matmul(vector / row[:, 0], u, precision=high)
    return jnp.matmul(inverse * image, vt, precision=high) / column[0]


def _krylov(matvec, vector, tolerance):
    operator = lx.FunctionLinearOperator(matvec, jax.eval_shape(lambda: vector))
    method = lx.BiCGStab(tolerance, tolerance)
    out = lx.linear_solve(operator, vector, method, throw=False)
    return jnp.where(out.result == lx.RESULTS.successful, out.value, jnp.nan)


def barycenter_rule(debiased: bool) -> core.Derivative:
    """The derivative of params, for every solver of barycenters."""
    return core.implicit(least_squares if debiased else contraction)
