"""Sums of exponentials over one side of a cost, shifted so that none overflows."""

import functools
import math

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

HIGHEST = jax.lax.Precision.HIGHEST
CAP = 0.45  # entries of kernels are at most the largest number to this power


def over(x: chex.Array, epsilon: chex.Array) -> chex.Array:
    """The quotient by a temperature; derivatives form no square of that either."""
    unit = jax.lax.stop_gradient(epsilon)
    return x / unit * (1 / (1 + (epsilon - unit) / unit))


@functools.partial(jax.custom_jvp, nondiff_argnums=(4,))
def shifted_sum(
    cost: chex.Array,
    potential: chex.Array,
    weights: chex.Array,
    epsilon: chex.Array,
    axis: int,
) -> tuple[chex.Array, chex.Array]:
    r"""Computes :math:`\sum_k w_k \exp((h_k - C_k) / \epsilon)` as :math:`s e^m`.

    Weights may be zero or negative; infinite costs are forbidden pairs, and count for
    nothing, in derivatives neither.

    Args:
        cost: :math:`C`; broadcasts with the others along all axes.
        potential: :math:`h`, finite.
        weights: :math:`w`.
        epsilon: the temperature: (), real.
        axis: of the sum.

    Returns:
        :math:`s` and :math:`m`; where there is nothing to sum both are zero.
    """
    # One array of that shape at a time, but for the exponentials.
    counts = (weights != 0) & (cost != jnp.inf)
    z = jnp.where(counts, (potential - cost) / epsilon, -jnp.inf)
    shift = jnp.max(z, axis=axis, keepdims=True)
    shift = jnp.where(shift == -jnp.inf, 0, shift)
    total = jnp.sum(weights * jnp.exp(z - shift), axis=axis)
    return total, jnp.squeeze(shift, axis)


@functools.partial(shifted_sum.defjvp, symbolic_zeros=True)
def _shifted_sum_jvp(axis, primals, tangents):
    moves = [not isinstance(t, SymbolicZero) for t in tangents]
    moved = lambda values: [v for v, m in zip(values, moves, strict=True) if m]

    def of_moving(*moving):
        moving = iter(moving)
        given = zip(primals, moves, strict=True)
        return _differentiable(*(next(moving) if m else x for x, m in given), axis)

    return jax.jvp(of_moving, moved(primals), moved(tangents))


def _differentiable(cost, potential, weights, epsilon, axis):
    """The same, so that all derivatives are finite, in weights of zero too."""
    fixed = jax.lax.stop_gradient((cost, potential, weights, epsilon))
    # An infinite largest one, of a cost of minus infinity, makes the sum NaN.
    _, shift = shifted_sum(*fixed, axis)
    terms = _terms(cost, potential, jnp.expand_dims(shift, axis), epsilon)
    return jnp.sum(weights * terms, axis=axis), shift


@jax.custom_jvp
def _terms(cost, potential, shift, epsilon):
    """The exponentials; what has no weight may be larger than all that has."""
    most = 0.5 * math.log(float(jnp.finfo(shift.dtype).max))
    z = _at_most((potential - cost) / epsilon - shift, most)
    return jnp.where(cost == jnp.inf, 0, jnp.exp(z))


@functools.partial(_terms.defjvp, symbolic_zeros=True)
def _terms_jvp(primals, tangents):
    # Of the exponentials alone, so that they are all that is kept of that shape.
    cost, potential, _, epsilon = primals
    d_cost, d_potential, _, d_epsilon = tangents  # the shift is held
    terms, change = _terms(*primals), jnp.zeros((), cost.dtype)
    if not isinstance(d_cost, SymbolicZero):
        change = change - over(d_cost, epsilon)
    if not isinstance(d_potential, SymbolicZero):
        change = change + over(d_potential, epsilon)
    if not isinstance(d_epsilon, SymbolicZero):
        gap = jnp.where(cost == jnp.inf, 0, potential - cost)
        change = change + jax.jvp(lambda e: over(gap, e), (epsilon,), (d_epsilon,))[1]
    return terms, terms * change


def softmin_of(total: chex.Array, shift: chex.Array, epsilon: chex.Array) -> chex.Array:
    r"""Computes :math:`-\epsilon \log(s e^m)`; infinity where the sum is empty."""
    empty = total <= 0
    value = -epsilon * (jnp.log(jnp.where(empty, 1, total)) + shift)
    return jnp.where(empty, jnp.inf, value)


def bounded_exp(z: chex.Array) -> chex.Array:
    """The exponential, at most as large as leaves its square finite."""
    return jnp.exp(_at_most(z, CAP * math.log(float(jnp.finfo(z.dtype).max))))


def _at_most(z, most):
    """The minimum, whose derivative needs no array of numbers."""
    return jnp.where(z > most, most, z)


def kernel_of(
    cost: chex.Array, f: chex.Array, g: chex.Array, epsilon: chex.Array
) -> chex.Array:
    r"""Computes :math:`\exp((f + g - C) / \epsilon)`, bounded; 0 at infinite costs."""
    forbidden = cost == jnp.inf
    z = over(f + g - jnp.where(forbidden, 0, cost), epsilon)
    return jnp.where(forbidden, 0, bounded_exp(z))


class StoredKernel(eqx.Module):
    """A matrix that is kept, and its products."""

    matrix: chex.Array  # (n, m), real.

    def times(self, v: chex.Array) -> chex.Array:
        """The product with what is over the columns: (m,) or (m, k) to (n,), (n, k)."""
        return jnp.matmul(self.matrix, v, precision=HIGHEST)

    def transposed(self, u: chex.Array) -> chex.Array:
        """The transpose's, with what is over the rows: to (m,) or (m, k)."""
        return jnp.matmul(u.T, self.matrix, precision=HIGHEST).T
