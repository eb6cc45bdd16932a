"""The first half of an ADMM update: how x is found where z and u are held fixed.

All vectors are raveled. The slope is that of the augmented Lagrangian at x, without the
function whose prox is taken.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.composite._forward_backward import forward_backward, widen
from jaxsolve.prox import Prox

POWER_STEPS = 30  # of the estimate of a norm
MARGIN = 1.05  # by which an estimate from below is enlarged
_product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Quadratic(NamedTuple):
    """A convex quadratic objective, whose Hessian may be formed and inverted."""

    fun: core.Objective  # as fun(params, data) -> scalar.


class Products(NamedTuple):
    """What an operator gives at a point: its value, and products with it."""

    image: Any  # (m,), real: A x + b.
    mv: Callable  # d -> A d
    pull: Callable  # w -> A^T w
    back: Callable  # (m,) -> what the operator returns


class XUpdate(NamedTuple):
    """How x is found, as pure functions around a cache."""

    empty: Callable  # x -> cache
    step: Callable  # (cache, x, slope, rho, unravel, data) -> new x
    gradient: Callable  # (x, unravel, data) -> gradient, its linear map: of a quadratic
    subgradient: Callable  # (cache, x, new x, slope, rho, gradient) -> of f at new x
    refresh: Callable  # (cache, first, changed, moves, rho, products, hv) -> cache
    residual: Callable  # (x, A^T y, unravel, data) -> zero where x is the best for y


def products(operator: Callable, x, unravel, data) -> Products:
    """Evaluates an operator on trees once, as one on vectors."""
    back = []

    def image(x):
        out = operator(unravel(x), data)
        dtypes = [jnp.result_type(leaf) for leaf in jax.tree.leaves(out)]
        if not dtypes or not all(jnp.issubdtype(d, jnp.floating) for d in dtypes):
            raise ValueError(
                "operator must return a tree of real float arrays, got leaves of "
                f"{dtypes}."
            )
        vector, unravel_image = core.ravel(widen(out))
        back.append(unravel_image)
        return vector.astype(x.dtype)

    value, mv = jax.linearize(image, x)
    transposed = jax.linear_transpose(mv, x)
    return Products(value, mv, lambda w: transposed(w)[0], back[-1])


def prox_of(prox: Prox, point, stepsize, data):
    """A prox of a tree, checked, and raveled."""
    nothing = optax.tree.zeros_like(point)
    return core.ravel(forward_backward(prox, point, nothing, stepsize, data))[0]


def x_update(f: Prox | Quadratic, plain: bool) -> XUpdate:
    """Chooses by the form of f, and by whether the operator is the identity."""
    if isinstance(f, Quadratic):
        return _inverted(core.objective(f.fun))
    if not callable(f):
        raise ValueError(
            "f must be a prox or a `composite.Quadratic` of an objective, got "
            f"{type(f).__name__}."
        )
    return _proximal(f, plain)


def _inverted(objective) -> XUpdate:
    """Newton's step with an inverse that is kept: it is exact, and mends its errors."""

    def gradient(x, unravel, data):
        return jax.linearize(jax.grad(lambda x: objective(unravel(x), data)), x)

    def refresh(cache, first, changed, moves, rho, operator, hv):
        del moves
        stale = first | changed

        def inverse():
            eye = jnp.eye(len(cache), dtype=cache.dtype)
            column = lambda e: hv(e) + rho * operator.pull(operator.mv(e))
            matrix = jax.vmap(column)(eye)
            factor = jnp.linalg.cholesky((matrix + matrix.T) / 2)
            root = jax.scipy.linalg.solve_triangular(factor, eye, lower=True)
            return jnp.where(stale, _product(root.T, root), cache)

        return jax.lax.cond(core.any_lane(stale), inverse, lambda: cache)

    return XUpdate(
        empty=lambda x: jnp.zeros((x.size, x.size), x.dtype),
        step=lambda cache, x, slope, rho, unravel, data: x - _product(cache, slope),
        gradient=gradient,
        subgradient=lambda cache, x, new_x, slope, rho, grad: grad,
        refresh=refresh,
        residual=lambda x, pulled, *rest: gradient(x, *rest)[0] + pulled,
    )


def _proximal(prox: Prox, plain: bool) -> XUpdate:
    """A proximal step along the slope: exact where the operator is the identity."""

    def stepsize(norm, rho):
        return 1 / (rho * jnp.where(norm > 0, norm, 1))

    def step(norm, x, slope, rho, unravel, data):
        tau = stepsize(norm, rho)
        return prox_of(prox, unravel(x - tau * slope), tau, data)

    def subgradient(norm, x, new_x, slope, rho, grad):
        del grad
        return (x - new_x) / stepsize(norm, rho) - slope

    def refresh(norm, first, changed, moves, rho, operator, hv):
        del changed, rho, hv
        if plain:
            return jnp.ones_like(norm)
        d, image_d = moves
        squared, fine = _product(d, d), jnp.finfo(d.dtype).eps
        seen = _product(image_d, image_d) / jnp.where(squared > 0, squared, 1)
        # Of a step that is all rounding nothing can be told.
        told = squared > fine * _product(operator.image, operator.image)
        larger = jnp.where(told & (seen > norm), MARGIN * seen, norm)
        largest = lambda: jnp.where(first, MARGIN * _squared_norm(operator, d), larger)
        norm = jax.lax.cond(core.any_lane(first), largest, lambda: larger)
        return jax.lax.stop_gradient(norm)

    def residual(x, pulled, unravel, data):
        return x - prox_of(prox, unravel(x - pulled), jnp.ones((), x.dtype), data)

    return XUpdate(
        empty=lambda x: jnp.zeros((), x.dtype),
        step=step,
        gradient=lambda x, unravel, data: (jnp.zeros_like(x), None),
        subgradient=subgradient,
        refresh=refresh,
        residual=residual,
    )


def _squared_norm(operator, like):
    """Estimates the largest eigenvalue of A^T A, from below, by power iterations."""
    start = jnp.cos(1.0 + jnp.arange(like.size, dtype=like.dtype))

    def body(_, carry):
        v, _ = carry
        w = operator.pull(operator.mv(v))
        size = jnp.linalg.norm(w)
        return w / jnp.where(size > 0, size, 1), size

    start = start / jnp.linalg.norm(start)
    return jax.lax.fori_loop(0, POWER_STEPS, body, (start, jnp.zeros_like(like[0])))[1]
