"""Columns of sparse plans: conjugates of the quadratic regulariser, maximisers."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp

from jaxsolve import prox


class Entries(eqx.Module):
    """A plan by its columns: k rows of each, best first, and what they are given."""

    rows: chex.Array  # (m, k), int32.
    top: chex.Array  # (m, k), real: alpha - cost (+ beta) there.
    share: chex.Array  # (m, k), real.

    def row_sums(self, size: int) -> chex.Array:
        """The sums of the rows of the plan: (n,), real."""
        zero = jnp.zeros((size,), self.share.dtype)
        return zero.at[self.rows].add(self.share)

    def matrix(self, size: int) -> chex.Array:
        """The plan: (n, m), real."""
        column = jnp.arange(self.rows.shape[0], dtype=jnp.int32)[:, None]
        zero = jnp.zeros((size, self.rows.shape[0]), self.share.dtype)
        return zero.at[self.rows, column].set(self.share)


def share_of_mass(top: chex.Array, mass: chex.Array, gamma: chex.Array) -> chex.Array:
    r"""The best division of the mass of every column among its chosen rows.

    Computes :math:`\arg\max_t \langle s, t \rangle - \tfrac{\gamma}{2} \|t\|^2` over
    :math:`t \ge 0`, :math:`\sum t = b`: the projection of :math:`s / \gamma`.

    Args:
        top: :math:`s`: (m, k), real; minus infinity where a pair is forbidden.
        mass: :math:`b`: (m,), real; where it is zero, a column may be all forbidden.
        gamma: (), real, positive.

    Returns:
        (m, k), real.
    """
    mass = mass[:, None]
    return prox.simplex(mass, axis=1)(jnp.where(mass == 0, 0, top / gamma))


@jax.custom_jvp
def conjugate_of_mass(
    top: chex.Array, mass: chex.Array, gamma: chex.Array
) -> chex.Array:
    r"""The value of that maximum, of every column: (m,), real.

    Its derivatives are the maximiser in :math:`s`, the multiplier of the mass in
    :math:`b`, and :math:`-\tfrac12 \|t\|^2` in :math:`\gamma`, exactly; they can be
    differentiated again.
    """
    return _value(top, share_of_mass(top, mass, gamma), gamma)


@conjugate_of_mass.defjvp
def _conjugate_of_mass_jvp(primals, tangents):
    top, mass, gamma = primals
    top_dot, mass_dot, gamma_dot = tangents
    share = share_of_mass(top, mass, gamma)
    price = multiplier(top, share, gamma)
    price = jnp.where(jnp.isfinite(price), price, 0)
    along = jnp.sum(share * top_dot, 1) + price * mass_dot
    return (
        _value(top, share, gamma),
        along - 0.5 * jnp.sum(share**2, 1) * gamma_dot,
    )


def multiplier(top: chex.Array, share: chex.Array, gamma: chex.Array) -> chex.Array:
    r"""What a little more mass would be worth to every column: (m,), real.

    It is :math:`s_i - \gamma t_i` where :math:`t_i > 0`, and no less elsewhere.
    """
    return jnp.max(top - gamma * share, 1)


def share_at_price(top: chex.Array, gamma: chex.Array) -> chex.Array:
    r"""The same without a given mass, its price being part of s: (m, k), real.

    Computes :math:`\max(s, 0) / \gamma`.
    """
    return jax.nn.relu(top) / gamma


def conjugate_at_price(top: chex.Array, gamma: chex.Array) -> chex.Array:
    r"""The value :math:`\|\max(s, 0)\|^2 / (2 \gamma)` of every column: (m,), real."""
    return jnp.sum(jax.nn.relu(top) ** 2, 1) / (2 * gamma)


def _value(top, share, gamma):
    # Not where the share is positive: what is NaN must be seen.
    gain = jnp.where(share == 0, 0, top * share)
    return jnp.sum(gain - 0.5 * gamma * share**2, 1)
