"""Steps of Levenberg-Marquardt: damped, bent, and within a box."""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from jaxsolve import core
from jaxsolve.smooth._least_squares import damp, positive, products_of, solve

_ROUNDS = 8  # in which variables may meet their bounds within one step


def renew_triangle(state, tried, found, scale):
    """The triangle of the next damped model: at the trial, or with more damping.

    After a rejection only what the damping has grown by is to be added to the old one.
    """
    pick = lambda new, old: jnp.where(found.accepted, new, old)
    old = state.triangle.T
    products = pick(tried.products, products_of(old))
    columns = lambda: jnp.concatenate([pick(tried.columns, 0), pick(0, old)], axis=1)
    more = jnp.maximum(found.factor - pick(0, state.damping.factor), 0)
    return damp(products, columns, jnp.sqrt(more) * positive(scale))


def damped_step(triangle, grad, scale, factor, x, box):
    """Minimises the damped model of the residuals, in a box if there is one.

    Returns:
        The step, and the reduction that the model without damping predicts of it.
    """
    scale = positive(scale)

    def reduction(step):
        change = triangle[:, :-1] @ step
        damped = factor * jnp.sum((scale * step) ** 2)
        return -(grad @ step) - (change @ change - damped) / 2

    if box is None:
        step = solve(triangle)
        return step, reduction(step)
    # Columns of length one at most: their number bounds the curvature.
    cauchy = core.box_step(-grad / (scale**2 * (x.size + factor)), x, *box)
    step = _step_in_box(triangle, grad, scale, factor, x, box)
    good = reduction(step) >= reduction(cauchy)
    step = jnp.where(good, step, cauchy)
    return step, reduction(step)


def _step_in_box(triangle, grad, scale, factor, x, box):
    """Holds what is pressed against a bound, and then what would leave the box."""
    lower, upper = box
    columns, target = triangle[:, :-1], triangle[:, -1]
    scaled = -grad / (scale**2 * (1 + factor))
    near = jnp.minimum(
        1e-3, jnp.max(jnp.abs(core.box_step(scaled, x, *box)), initial=0)
    )
    pressed = ((x <= lower + near) & (grad > 0)) | ((x >= upper - near) & (grad < 0))
    pressed = pressed & ((x + scaled <= lower) | (x + scaled >= upper))

    def advance(carry):
        held, step, _ = carry
        right = target + columns @ jnp.where(held, step, 0)
        free = jnp.where(held[None, :], 0, columns)
        rows = jnp.concatenate([free.T, right[None, :]])
        part = damp(products_of(rows), lambda: rows, held.astype(x.dtype))
        new = jnp.where(held, step, solve(part))
        out = ~held & ((x + new < lower) | (x + new > upper))
        return held | out, core.box_step(new, x, *box), jnp.any(out)

    def one(_, carry):
        held, step, more = carry
        new = jax.lax.cond(core.any_lane(more), advance, lambda c: c, carry)
        return core.where(more, new, carry)

    held = pressed | (lower >= upper)
    first = (held, core.box_step(scaled, x, *box), jnp.ones((), bool))
    return jax.lax.fori_loop(0, min(x.size, _ROUNDS), one, first)[1]


def geodesic_step(state, bend):
    """Bends the state's step by the residuals' second derivative along it.

    Returns:
        The step, and whether the acceleration is small enough to be believed.
    """
    scale, factor = positive(state.scale), state.triangle[:, :-1]
    right = solve_triangular(factor, -bend, trans=1)
    acceleration = solve_triangular(factor, right)
    size = jnp.linalg.norm(scale * acceleration)
    most = 0.75 * jnp.linalg.norm(scale * state.step)
    small = jnp.isfinite(size) & (2 * size <= most)
    return state.step + jnp.where(small, acceleration, 0) / 2, small
