"""Any solver made stochastic: one wrapper that draws minibatches."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve.core._derivative import of_inner
from jaxsolve.core._memoise import memoise
from jaxsolve.core._solver import Solver, check_solver
from jaxsolve.core._status import Status, as_status


class MinibatchState(NamedTuple):
    """State of a solver on minibatches."""

    count: chex.Array  # (), int32: updates taken.
    error: chex.Array  # (), real: largest error on a batch over the last whole epoch.
    status: chex.Array  # (), int32: the inner solver's own.
    inner: Any  # the inner solver's state.
    worst: chex.Array  # (), real: largest error in this epoch.
    key: chex.PRNGKey  # (): for the next shuffles.
    orders: list  # (n,) int32 each: the order of the examples.
    positions: list  # (), int32 each: where the next batch begins.


@memoise
def minibatch(solver: Solver, sizes: Any, *, key: chex.PRNGKey) -> Solver:
    """Makes a solver take each of its updates on the next minibatch of the data.

    The data are the whole set; every epoch has a new order, and the remainder that
    fills no batch is left out of it. Solvers that need the index of the batch, such as
    variance-reduced ones, sample by themselves instead.

    The error is the largest one on a batch of the last whole epoch, infinite in the
    first: it stops a run only if every batch agrees (an interpolating model). The
    residual is the inner solver's, on the whole data.

    Args:
        solver: the inner solver.
        sizes: examples in a batch, an integer, or a tree of integers that is a prefix
            of the data: ``(64, 32)`` draws independently from the two parts of a pair.
            The leaves below one integer share their leading axis and are drawn alike.
        key: a key of `jax.random`.

    Returns:
        A solver of the same params.

    Raises:
        ValueError: if a part has no example axis, unequal ones, or fewer examples than
            its batch.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import jaxsolve
        >>> fun = lambda x, batch: jnp.mean((x - batch) ** 2)
        >>> solver = jaxsolve.smooth.gradient_descent(fun, stepsize=0.1)
        >>> solver = jaxsolve.core.minibatch(solver, 10, key=jax.random.key(0))
        >>> out = jaxsolve.run(solver, 0.0, jnp.linspace(0.0, 2.0, 100), max_steps=300)
        >>> print(f"{out.params:.0f}")
        1
    """
    check_solver(solver)
    chosen, prefix = jax.tree.flatten(sizes)
    if not chosen or any(not isinstance(s, int) or s < 1 for s in chosen):
        raise ValueError(f"sizes must be positive Python integers, got {sizes!r}.")

    def draw(data, orders, positions):
        parts = [
            jax.tree.map(
                lambda x, order=order, at=at, size=size: jnp.asarray(x)[
                    jax.lax.dynamic_slice(order, (at,), (size,))
                ],
                part,
            )
            for part, order, at, size in zip(
                prefix.flatten_up_to(data), orders, positions, chosen, strict=True
            )
        ]
        return jax.tree.unflatten(prefix, parts)

    def examples(data):
        try:
            parts = prefix.flatten_up_to(data)
        except ValueError as error:
            raise ValueError(
                f"sizes, {sizes!r}, must be one integer or a prefix of the tree of the "
                f"data, {jax.tree.structure(data)}."
            ) from error
        return [_examples(p, s) for p, s in zip(parts, chosen, strict=True)]

    def init(params, data):
        counts = examples(data)
        first, *keys = jax.random.split(key, 1 + len(chosen))
        orders = [_shuffled(k, n) for k, n in zip(keys, counts, strict=True)]
        positions = [jnp.zeros((), jnp.int32) for _ in counts]
        inner = solver.init(params, draw(data, orders, positions))
        inf = jnp.full_like(inner.error, jnp.inf)
        running = as_status(Status.RUNNING)
        count = jnp.zeros((), jnp.int32)
        return MinibatchState(
            count, inf, running, inner, jnp.zeros_like(inf), first, orders, positions
        )

    def update(params, state, data):
        counts = examples(data)
        epoch = max(n // s for n, s in zip(counts, chosen, strict=True))
        batch = draw(data, state.orders, state.positions)
        params, inner = solver.update(params, state.inner, batch)
        worst = jnp.maximum(state.worst, inner.error)
        complete = (state.count + 1) % epoch == 0
        error = jnp.where(complete, worst, state.error)
        worst = jnp.where(complete, jnp.zeros_like(worst), worst)
        new_key, *keys = jax.random.split(state.key, 1 + len(chosen))
        moved = [
            _advance(*part)
            for part in zip(keys, state.orders, state.positions, chosen, strict=True)
        ]
        orders, positions = [m[0] for m in moved], [m[1] for m in moved]
        status = getattr(inner, "status", state.status)
        return params, MinibatchState(
            state.count + 1, error, status, inner, worst, new_key, orders, positions
        )

    return Solver(init, update, solver.residual, of_inner(solver.derivative))


def _shuffled(key, n):
    return jax.random.permutation(key, jnp.arange(n, dtype=jnp.int32))


def _advance(key, order, position, size):
    """Moves on to the next batch, in a new order when this one is used up."""
    position = position + size
    spent = position + size > order.size
    order = jax.lax.cond(spent, lambda: _shuffled(key, order.size), lambda: order)
    return order, jnp.where(spent, jnp.zeros_like(position), position)


def _examples(part, size):
    leading = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(part)}
    if len(leading) != 1 or () in leading:
        raise ValueError(
            "the data of a minibatch must share one leading axis of examples, got "
            f"leading axes {sorted(leading)}."
        )
    (n,) = leading.pop()
    if n < size:
        raise ValueError(f"a batch of {size} examples cannot be drawn from {n}.")
    return n
