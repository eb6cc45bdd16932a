"""The forward-backward step of this room, and what is measured of it."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.prox import Prox, resolve


def widen(params: core.Params) -> core.Params:
    """Params with leaves of at least 32 bits: the form of a master copy."""
    return jax.tree.map(lambda x: jnp.asarray(x, core.real_dtype(x)), params)


def narrow(fine: core.Params, params: core.Params) -> core.Params:
    """A tree like `fine` in the dtypes of `params`: what user functions are shown."""
    return jax.tree.map(lambda f, x: f.astype(jnp.result_type(x)), fine, params)


def follow(params: core.Params, point: core.Params) -> tuple[core.Params, chex.Array]:
    """Returns the iterate in full precision, and whether it is not the last one.

    Params are the last iterate `point`, rounded, unless another link of a chain or the
    user has changed them by more than rounding.
    """
    shown = narrow(point, params)

    def far(x, y):
        slack = 8 * jnp.finfo(y.dtype).eps * jnp.max(jnp.abs(y), initial=0)
        return jnp.any(~(jnp.abs(x - y) <= slack))

    apart = jax.tree.leaves(jax.tree.map(far, params, shown))
    moved = jnp.any(jnp.stack(apart))
    return core.where(moved, widen(params), point), moved


def forward_backward(
    prox: Prox,
    point: core.Params,
    grad: Any,
    stepsize: chex.Array,
    data: core.Data = None,
) -> core.Params:
    """Computes a gradient step from `point`, then the proximal one at `data`."""
    moved = resolve(prox, data)(core.axpy(-stepsize, grad, point), stepsize)
    form = lambda tree: jax.tree.map(jnp.shape, tree)
    real = all(
        jnp.issubdtype(jnp.result_type(x), jnp.floating) for x in jax.tree.leaves(moved)
    )
    if not real or form(moved) != form(point):
        raise ValueError(
            "prox must return a tree of real arrays like params, of shapes "
            f"{form(point)}, got {form(moved)}."
        )
    return jax.tree.map(lambda m, x: jnp.asarray(m, x.dtype), moved, point)


def mapping_error(
    step: core.Params, grad: core.Params, point: core.Params, stepsize: chex.Array
) -> chex.Array:
    """The error of this room: the sup-norm of the gradient mapping.

    An entry whose gradient step is lost in the rounding of the point counts with its
    gradient: a stepsize so small that nothing moves is no convergence. Nor is one so
    large that a bounded step looks small beside it: it divides as at most one.

    Args:
        step: from the point to the next iterate.
        grad: at the point.
        point: where the step began.
        stepsize: of the step.
    """

    def entries(d, g, x):
        eta = stepsize.astype(x.dtype)
        lost = jnp.abs(eta * g) <= jnp.finfo(x.dtype).eps * jnp.abs(x)
        size = jnp.abs(d) / jnp.minimum(eta, 1)
        return jnp.maximum(size, jnp.where(lost, jnp.abs(g), 0))

    return core.sup_norm(jax.tree.map(entries, step, grad, point))


def at_rounding(step: core.Params, point: core.Params) -> chex.Array:
    """Tells whether a step is within the rounding of every entry of its end."""
    tiny = lambda d, x: jnp.all(jnp.abs(d) <= jnp.finfo(x.dtype).eps * jnp.abs(x))
    return jnp.all(jnp.stack(jax.tree.leaves(jax.tree.map(tiny, step, point))))


def inner(a: core.Params, b: core.Params) -> chex.Array:
    """The inner product of two trees, in their `real_dtype`."""
    dtype = core.real_dtype(a)
    products = jax.tree.map(lambda x, y: jnp.sum(x * y).astype(dtype), a, b)
    return jnp.sum(jnp.stack(jax.tree.leaves(products)))


def extrapolate(
    old: core.Params,
    new: core.Params,
    anchor: core.Params,
    momentum: chex.Array,
    ratio: chex.Numeric,
    accelerate: bool,
    restart: bool,
) -> tuple[core.Params, chex.Array, chex.Array]:
    """Nesterov's extrapolation, restarted where it points uphill.

    Args:
        old: the iterate before: x.
        new: the new one, found from `anchor`: x+.
        anchor: z.
        momentum: t.
        ratio: of the stepsize at `anchor` to the next one.
        accelerate: whether there is any.
        restart: whether it is restarted.

    Returns:
        The next anchor, the next momentum, and whether the anchor is `new` itself.
    """
    if not accelerate:
        return new, momentum, jnp.ones((), bool)
    change = optax.tree.sub(new, old)
    uphill = inner(optax.tree.sub(anchor, new), change) > 0
    fresh = uphill if restart else jnp.zeros((), bool)
    t = (1 + jnp.sqrt(1 + 4 * ratio * momentum**2)) / 2
    beta = jnp.where(fresh, 0, (momentum - 1) / t)
    return core.axpy(beta, change, new), jnp.where(fresh, 1, t), beta == 0
