"""How the linear system of the adjoint is solved, one product with H an update."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.bilevel._phases import AdjointLoop


def neumann_loop(eta: optax.ScalarOrSchedule, terms: int) -> AdjointLoop:
    """Sums a Neumann series anew in every round, one term an update."""
    schedule = core.as_schedule(eta)

    def begin(adjoint, power, slope, outer):
        del adjoint, power
        zero = optax.tree.zeros_like(slope)
        return core.axpy(schedule(outer), slope, zero), slope

    def step(state, product):
        eta = schedule(state.outer)
        power = core.axpy(-eta, product, state.search)
        adjoint = core.axpy(eta, power, state.adjoint)
        return adjoint, power, state.taken + 2 >= terms

    return AdjointLoop(
        init=optax.tree.zeros_like,
        begin=begin,
        probe=lambda adjoint, power, taken: power,
        step=step,
        empty=terms == 1,
    )


def sgd_loop(stepsize: optax.ScalarOrSchedule, steps: int) -> AdjointLoop:
    """Gradient steps on w^T H w / 2 - w^T f_y, from where the last round ended."""
    schedule = core.as_schedule(stepsize)

    def step(state, product):
        gap = optax.tree.sub(product, state.grad.lower)
        adjoint = core.axpy(-schedule(state.outer), gap, state.adjoint)
        return adjoint, None, state.taken + 1 >= steps

    return AdjointLoop(
        begin=lambda adjoint, memory, slope, outer: (adjoint, None),
        probe=lambda adjoint, memory, taken: adjoint,
        step=step,
    )


class Krylov(NamedTuple):
    """Where conjugate gradients stand, beside w."""

    direction: Any  # like y: p.
    residual: Any  # like y: r = f_y - H w.


def cg_loop(steps: int, tol: optax.ScalarOrSchedule = 0.0) -> AdjointLoop:
    """Conjugate gradients, from where the last round ended.

    The first product of a round is that of w, for its residual; then come `steps` more,
    or fewer, until no entry of the residual is above `tol`, or a direction has no
    curvature: then w stays, and the error tells.
    """
    schedule = core.as_schedule(tol)

    def init(y):
        zero = optax.tree.zeros_like(y)
        return Krylov(zero, zero)

    def probe(adjoint, memory, taken):
        return core.where(taken == 0, adjoint, memory.direction)

    def step(state, product):
        first = state.taken == 0
        start = optax.tree.sub(state.grad.lower, product)
        found = _cg_step(state.adjoint, state.search, product)
        begun = state.adjoint, Krylov(start, start), jnp.zeros((), bool)
        adjoint, memory, stuck = core.where(first, begun, found)
        size = core.sup_norm(memory.residual)
        small = size <= core.real_scalar(schedule(state.outer), size)
        return adjoint, memory, small | stuck | (state.taken >= steps)

    return AdjointLoop(
        init=init,
        begin=lambda adjoint, memory, slope, outer: (adjoint, memory),
        probe=probe,
        step=step,
    )


def _cg_step(adjoint, memory, product):
    """One step of conjugate gradients, if there is curvature; and whether not."""
    p, r = memory
    squared, curvature = _dot(r, r), _dot(p, product)
    convex = curvature > 0
    alpha = jnp.where(convex, squared / jnp.where(convex, curvature, 1), 0)
    new_r = core.axpy(-alpha, product, r)
    beta = _dot(new_r, new_r) / jnp.where(squared > 0, squared, 1)
    memory = Krylov(core.axpy(beta, p, new_r), new_r)
    return core.axpy(alpha, p, adjoint), memory, ~convex


def _dot(left: chex.ArrayTree, right: chex.ArrayTree) -> chex.Array:
    """The inner product, in at least 32 bits."""
    dtype = core.real_dtype(left)
    wide = lambda x: x.astype(dtype).ravel()
    leaves = jax.tree.map(lambda a, b: wide(a) @ wide(b), left, right)
    return jnp.sum(jnp.stack(jax.tree.leaves(leaves)))
