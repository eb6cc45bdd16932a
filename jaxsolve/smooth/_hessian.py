"""The Hessian in full, for methods of few unknowns."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core

LIMIT = 2**31  # bytes: the largest Hessian that is made without being asked twice


class Spectrum(NamedTuple):
    """The eigendecomposition of a Hessian."""

    values: chex.Array  # (n,), real: from the least.
    vectors: chex.Array  # (n, n), real: in columns.


def start(x: chex.Array, name: str) -> Spectrum:
    """The identity, to begin with.

    Raises:
        ValueError: if the Hessian does not fit.
    """
    size = x.size**2 * x.dtype.itemsize
    if size > LIMIT:
        raise ValueError(
            f"{name} keeps a Hessian of {x.size} x {x.size}, {size:,} bytes, and needs "
            "a few times that; use smooth.newton_cg, which only multiplies by it, or "
            "smooth.lbfgs."
        )
    return Spectrum(jnp.ones_like(x), jnp.eye(x.size, dtype=x.dtype))


def refresh(
    product: Callable,
    wanted: chex.Array,
    old: Spectrum,
    scale: chex.Array | None = None,
) -> Spectrum:
    """Decomposes the Hessian given by its products, where wanted; else keeps the old.

    With a scale S it is that of S H S, the Hessian in these units. In a batch the
    products are taken if any lane wants them. A Hessian that is not finite is replaced
    by the identity.
    """
    eye = jnp.eye(old.values.size, dtype=old.values.dtype)

    def renew():
        hessian = jax.vmap(product)(eye)
        hessian = (hessian + hessian.T) / 2
        if scale is not None:
            hessian = scale[:, None] * hessian * scale[None, :]
        hessian = jnp.where(core.all_finite(hessian), hessian, eye)
        values, vectors = jnp.linalg.eigh(hessian)
        return core.where(wanted, Spectrum(values, vectors), old)

    return jax.lax.cond(core.any_lane(wanted), renew, lambda: old)
