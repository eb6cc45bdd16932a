"""Random directions about a mean: the von Mises-Fisher distribution."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve import core
from jaxsolve.transport._products import HIGHEST
from jaxsolve.transport._sliced import check_slices, unit

ROUNDS = 200  # of rejection; more than about two thirds of the draws are accepted


class Noise(NamedTuple):
    """Directions about a pole, not yet about their mean; constants."""

    tilt: chex.Array  # (l,), real: one minus the cosine with the pole, in [0, 2].
    around: chex.Array  # (l, d - 1), real: unit vectors across.


def von_mises_fisher(
    key: chex.PRNGKey, loc: chex.Array, kappa: chex.Numeric, count: int
) -> chex.Array:
    r"""Draws directions from the von Mises-Fisher distribution.

    Its density on the sphere is proportional to :math:`\exp(\kappa \langle \mu, \theta
    \rangle)`: uniform at :math:`\kappa = 0`, the point :math:`\mu` at infinity. The
    cosine :math:`w` with :math:`\mu` is drawn first, for :math:`d = 3` by

    .. math::

        w = 1 + \tfrac1\kappa \log(1 - u (1 - e^{-2 \kappa})), \quad u \sim U(0, 1)

    and else by rejection: with :math:`c` the first coordinate of a uniform direction,

    .. math::

        w &= (\rho + c) / (1 + \rho c), \quad
            \rho = 2 \kappa / (d - 1 + \sqrt{4 \kappa^2 + (d - 1)^2}) \\
        &\text{accepted if } (d - 1) (\tfrac{s}{1 + s} - \log(1 + s)) \ge \log u,
            \quad s = \rho c

    Then :math:`\xi = (\pm w, \sqrt{1 - w^2} v)` with :math:`v` uniform is reflected,
    from whichever pole :math:`\pm e_1` is far from :math:`\mu`, to :math:`\mu`. Through
    this reflection directions are differentiable in :math:`\mu`, with bounded
    derivatives; the derivative in :math:`\kappa` is zero.

    Args:
        key: a key of `jax.random`.
        loc: :math:`\mu`, (d,), real, :math:`d \ge 2`; its length does not matter.
        kappa: :math:`\kappa \ge 0`, the concentration; infinite too.
        count: how many directions.

    Returns:
        (count, d), real: unit vectors.

    Raises:
        ValueError: if `loc` is not a vector of at least two entries, `count` is not
            positive, or `kappa` is known to be negative or NaN.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> loc = jnp.array([0.0, 0.0, 1.0])
        >>> draws = transport.von_mises_fisher(jax.random.key(0), loc, 10.0, 5000)
        >>> print(f"{jnp.mean(draws @ loc):.2f}")  # coth(10) - 1 / 10
        0.90

    References:
        Wood, `Simulation of the von Mises Fisher distribution
        <https://doi.org/10.1080/03610919408813161>`_, 1994. Ulrich, `Computer
        Generation of Distributions on the m-Sphere <https://doi.org/10.2307/2347441>`_,
        1984.
    """
    loc = jnp.asarray(loc)
    if loc.ndim != 1 or loc.size < 2:
        raise ValueError(
            f"loc is a vector of at least two entries, got shape {loc.shape}."
        )
    check_slices(count)
    core.check_number("kappa", kappa, closed="[]")
    return _draw(key, loc.astype(core.real_dtype(loc)), kappa, count)


@functools.partial(jax.jit, static_argnames="count", inline=True)
def _draw(key, loc, kappa, count):
    return about(unit(loc), noise(key, kappa, count, loc.size, loc.dtype))


def noise(key, kappa, count, size, dtype) -> Noise:
    """Draws what does not depend on the mean; alike in every precision."""
    kappa = jax.lax.stop_gradient(jnp.asarray(kappa).astype(dtype))
    return (_noise_3d if size == 3 else _noise)(key, kappa, count, size, dtype)


def about(loc, noise: Noise):
    """Turns noise into directions about loc: (l, d), differentiable in loc."""
    loc = loc / jnp.sqrt(jnp.sum(loc**2))
    # The far pole: reflected from the near one, directions would turn ever faster as
    # loc comes near it.
    pole = jnp.where(loc[0] > 0, -1, 1).astype(loc.dtype)
    mirror = (-loc).at[0].add(pole)
    across = jnp.sqrt(jnp.maximum(noise.tilt * (2 - noise.tilt), 0))
    along = pole * (1 - noise.tilt)
    xi = jnp.concatenate([along[:, None], across[:, None] * noise.around], axis=1)
    length = jnp.matmul(xi, mirror, precision=HIGHEST) / jnp.sum(mirror**2)
    return xi - 2 * length[:, None] * mirror[None]


def _noise_3d(key, kappa, count, size, dtype):
    kappa = jnp.maximum(kappa, 1e-30)  # where the limit is reached to rounding
    u, turn = jax.random.uniform(key, (2, count), jnp.float32).astype(dtype)
    angle = 2 * np.pi * turn
    around = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    return Noise(-jnp.log1p(u * jnp.expm1(-2 * kappa)) / kappa, around)


def _noise(key, kappa, count, size, dtype):
    across = size - 1
    ratio = across / (2 * jnp.maximum(kappa, 1e-9))
    root = jnp.sqrt(1 + ratio**2)
    rho = 1 / (ratio + root)
    rest = rho * (ratio + ratio**2 / (1 + root))  # 1 - rho, without cancellation

    def more(carry):
        _, _, _, accepted, rounds = carry
        return ~jnp.all(accepted) & (rounds < ROUNDS)

    def propose(carry):
        key, cosine, around, accepted, rounds = carry
        key, first, second = jax.random.split(key, 3)
        vectors = jax.random.normal(first, (count, size), jnp.float32).astype(dtype)
        c = unit(vectors)[:, 0]
        s = rho * c
        u = jax.random.uniform(second, (count,), jnp.float32).astype(dtype)
        good = across * (s / (1 + s) - jnp.log1p(s)) >= jnp.log(u)
        cosine = jnp.where(accepted, cosine, c)
        around = jnp.where(accepted[:, None], around, vectors[:, 1:])
        return key, cosine, around, accepted | good, rounds + 1

    nothing = jnp.zeros((count,), dtype), jnp.zeros((count, across), dtype)
    start = (key, *nothing, jnp.zeros((count,), bool), jnp.zeros((), jnp.int32))
    _, cosine, around, _, _ = jax.lax.while_loop(more, propose, start)
    return Noise(rest * (1 - cosine) / (1 + rho * cosine), unit(around))
