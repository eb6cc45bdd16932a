"""How the penalty of an augmented Lagrangian follows its residuals."""

from typing import NamedTuple

import chex
import jax.numpy as jnp

from jaxsolve import core

FIRST = 10  # updates before the penalty may change
UNEQUAL = 10  # the ratio of residuals from which on it does: Boyd's mu
MOST = 100  # by which factor at most: Wohlberg's tau_max


class Sizes(NamedTuple):
    """The residuals, and what they are differences of."""

    primal: chex.Array  # (m,), real: A x - z.
    dual: chex.Array  # (n,), real: p + A^T y.
    image: chex.Array  # (m,), real: A x.
    split: chex.Array  # (m,), real: z.
    pulled: chex.Array  # (n,), real: A^T y.


def check(penalty) -> None:
    """Raises a `ValueError` unless a penalty, where known, is one positive number."""
    try:
        if callable(penalty) or penalty is None:
            raise ValueError
        core.check_stepsize(penalty)
    except ValueError:
        raise ValueError(
            f"penalty must be one positive, finite number, got {penalty!r}."
        ) from None


def balanced(penalty: chex.Array, sizes: Sizes, due: chex.Array) -> chex.Array:
    """The penalty after an update: another one where it is due and wanted.

    Residuals count relative to what they are differences of, so that the units of
    objective and params play no part; the factor is the square root of their ratio.
    What they are differences of may vanish at the solution, and the ratio would not
    settle: so the one to be made smaller must be the larger one by itself, too.
    """
    norm = jnp.linalg.norm
    primal = norm(sizes.primal) * norm(sizes.pulled)
    dual = norm(sizes.dual) * jnp.maximum(norm(sizes.image), norm(sizes.split))
    known = (primal > 0) & (dual > 0) & jnp.isfinite(primal) & jnp.isfinite(dual)
    ratio = jnp.where(known, primal, 1) / jnp.where(known, dual, 1)
    higher = norm(sizes.primal) > norm(sizes.dual)
    unequal = jnp.where(higher, ratio > UNEQUAL, ratio * UNEQUAL < 1)
    factor = jnp.clip(jnp.sqrt(ratio), 1 / MOST, MOST)
    new = penalty * jnp.where(due & unequal, factor, 1)
    return jnp.where((new > 0) & jnp.isfinite(new), new, penalty)


def next_due(count: chex.Array) -> chex.Array:
    """When it may change again: ever more rarely, or convergence would be lost."""
    return count + jnp.maximum(FIRST, count // 2)
