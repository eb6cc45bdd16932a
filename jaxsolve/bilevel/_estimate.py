"""How wrong a hypergradient is, by one Newton step of the lower level."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.bilevel._linear_solves import LinearSolve, Solves, System
from jaxsolve.bilevel._problem import Levels

LOOSE = 1e-4  # to which the estimate solves its systems, of their own right-hand sides
LEAST = 1e-2  # share of its own error that a corrected gradient is said to keep
CONTRACTION = 0.125  # of the residual, above which nothing is known of the error


class Equations(NamedTuple):
    """The upper objective, the lower equations, and who solves with their Jacobian."""

    upper: Callable  # (levels) -> scalar
    residual: Callable  # (levels) -> like y
    linear_solve: LinearSolve
    structure: Any  # `symmetric` and `psd` of the Jacobian
    ridge: chex.Numeric


class Linear(NamedTuple):
    """Everything of first order at one point, on raveled vectors."""

    value: chex.Array  # (), real: f.
    direct: chex.Array  # (dx,): f_x.
    rhs: chex.Array  # (dy,): f_y.
    residual: chex.Array  # (dy,): R.
    system: System  # of A = R_y, with the ridge.
    pull: Callable  # w -> R_x^T w, A^T w, in one pull-back
    solves: Solves

    def gradient(self, adjoint):
        """The hypergradient that an adjoint gives, f_x - R_x^T w, and A^T w - f_y."""
        across, image = self.pull(adjoint)
        return self.direct - across, image - self.rhs


def linear(equations: Equations, levels: Levels) -> Linear:
    """Linearises both levels at a point: one evaluation of each."""
    (x, unravel_x), (y, unravel_y) = core.ravel(levels.upper), core.ravel(levels.lower)
    at = lambda x, y: Levels(unravel_x(x), unravel_y(y))
    value, (direct, rhs) = jax.value_and_grad(
        lambda x, y: core.objective(lambda p, _: equations.upper(p))(at(x, y)), (0, 1)
    )(x, y)

    def residual(x, y):
        found, _ = core.ravel(equations.residual(at(x, y)))
        if found.size != y.size:
            raise ValueError(
                "the inner solver's residual must have as many entries as its params, "
                f"{y.size}, got {found.size}."
            )
        return found.astype(y.dtype)

    found, push = jax.linearize(residual, x, y)
    pull = jax.linear_transpose(push, x, y)
    ridge = jnp.asarray(equations.ridge, y.dtype)
    mv = lambda v: push(jnp.zeros_like(x), v) + ridge * v
    both = lambda w: (pull(w)[0], pull(w)[1] + ridge * w)
    vm = lambda w: both(w)[1]
    symmetric = equations.structure.symmetric
    system = System(mv, mv if symmetric else vm, symmetric, equations.structure.psd)
    return Linear(
        value,
        direct,
        rhs,
        found,
        system,
        both,
        equations.linear_solve(system, y),
    )


class Estimate(NamedTuple):
    """What one Newton step of the lower level tells of a hypergradient."""

    error: chex.Array  # (), real: of the gradient, in the Euclidean norm; may be inf.
    corrected: chex.Array  # (dx,): the gradient after that step.
    corrected_error: chex.Array  # (), real: of that one.
    contraction: chex.Array  # (), real: of the residual.
    concave: chex.Array  # (), bool: a psd system has shown negative curvature.


def estimate(
    equations: Equations, point: Linear, levels: Levels, gradient, adjoint
) -> Estimate:
    r"""Compares a gradient with that at :math:`y_2 = y - d`, where :math:`A d = R(y)`.

    With :math:`\theta = |R(y_2)| / |R(y)|` the step has left a share :math:`\theta` of
    the error, so the gradient :math:`h` is off by :math:`|h_2 - h| / (1 - \theta)`.
    Where :math:`R(y_2)` is nothing but rounding no share can be told; the error is then
    twice the difference. What a poor linear solve leaves of its right-hand side counts
    as such a share too.
    """
    eps = float(jnp.finfo(adjoint.dtype).eps)
    y, unravel = core.ravel(levels.lower)
    d = point.solves.solve(point.residual, None, LOOSE)
    there = levels._replace(lower=unravel(y - d))
    second = linear(equations, there)
    rest = second.rhs - second.system.vm(adjoint)
    correction = second.solves.transposed(rest, None, LOOSE)
    corrected, gap = second.gradient(adjoint + correction)

    wanted, rounding = _norm(rest), 10 * eps * _norm(second.rhs)
    left = jnp.maximum(_norm(gap) - rounding, 0) / jnp.where(wanted > 0, wanted, 1)
    before, after = _norm(point.residual), _norm(second.residual)
    floor = jax.lax.cond(
        core.any_lane(after > CONTRACTION * before),
        lambda: after <= 10 * eps * (_norm(point.system.mv(y)) + before),
        lambda: jnp.zeros((), bool),
    )
    negligible = jnp.all(jnp.abs(d) <= 100 * eps * jnp.abs(y))
    theta = after / jnp.where(before > 0, before, 1)
    theta = jnp.where(negligible, 0, theta)
    known = jnp.isfinite(theta) & ((theta < CONTRACTION) | floor) & (left <= 0.5)
    difference = _norm(corrected - gradient)
    share = jnp.maximum(jnp.where(theta < CONTRACTION, theta, 0.5), left)
    share = share.astype(difference.dtype)  # of x; y may have another
    error = difference / (1 - share)
    inf = jnp.asarray(jnp.inf, error.dtype)
    known = known & jnp.isfinite(error)
    concave = jnp.zeros((), bool)
    if equations.structure.psd:
        slack = 100 * eps
        concave = jnp.vdot(d, point.residual) < -slack * _norm(d) * before
        size = _norm(adjoint) * _norm(point.rhs)
        concave = concave | (jnp.vdot(adjoint, point.rhs) < -slack * size)
        concave = concave | jnp.logical_not(point.solves.definite)
    return Estimate(
        jnp.where(known, error, inf),
        corrected,
        jnp.where(known, error * jnp.maximum(share, LEAST), inf),
        theta,
        concave,
    )


def _norm(vector):
    return jnp.linalg.norm(vector)
