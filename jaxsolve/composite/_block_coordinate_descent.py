"""Block coordinate descent with a proximal step."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve import core
from jaxsolve.composite import _blocks
from jaxsolve.composite._forward_backward import (
    at_rounding,
    follow,
    mapping_error,
    narrow,
    widen,
)
from jaxsolve.composite._models import (
    LinearModel,
    QuadraticModel,
    like_rows,
    rows,
)
from jaxsolve.core import Status, as_status
from jaxsolve.prox import Prox, resolve


class BlockCoordinateDescentState(NamedTuple):
    """State of block coordinate descent."""

    count: chex.Array  # (), int32: updates taken, one sweep over all blocks each.
    error: chex.Array  # (), real: sup-norm of the proximal-gradient mapping.
    status: chex.Array  # (), int32: running, stalled or diverged.
    point: core.Params  # like params, of at least 32 bits.
    key: chex.PRNGKey | None  # (): of the orders to come, if they are random.


@core.memoise
def block_coordinate_descent(
    fun: LinearModel | QuadraticModel | core.Objective,
    prox: Prox,
    stepsize: chex.Numeric | None = None,
    *,
    key: chex.PRNGKey | None = None,
    greedy: bool = False,
) -> core.Solver:
    r"""Minimises a smooth function plus one of each block, block after block.

    Solves :math:`\min_x f(x) + \sum_i g(x_i)`, where the blocks :math:`x_i` are the
    rows of params, (n,) or (n, k), or of a tree of such arrays, one after the other.
    One update is one sweep: for n blocks in turn,

    .. math::

        x_i \leftarrow \operatorname{prox}_{g / L_i} (x_i - \nabla_i f(x) / L_i)

    with :math:`L_i` the Lipschitz constant of :math:`\nabla_i f` in that block, so that
    no step increases the objective. The order is cyclic; anew at random in each sweep
    if there is a key; or greedy, the block with the largest :math:`\sqrt{L_i}
    \|\Delta x_i\|` coming next, by the rule of Gauss and Southwell.

    Of a `LinearModel`, :math:`f(x) = \ell(A x) + \langle b, x \rangle`, predictions are
    kept up to date, so that a step costs one column of A, and :math:`L_i` is known from
    the column's norm; of a `QuadraticModel`, the product :math:`Q x`. A sweep then
    costs about two gradients. Any other objective is evaluated once for each
    block: give it a structure, or use `proximal_gradient`, unless n is small. A greedy
    step reads the gradient of all blocks: a sweep costs as much as n gradients, but of
    a `QuadraticModel` no more than a cyclic one.

    Args:
        fun: :math:`f`, a model, or any smooth function ``fun(params, data) -> scalar``.
        prox: of :math:`g`, for one block, (k,) or a scalar, as ``prox(block, stepsize)
            -> block``, or made by :func:`prox.of_data <jaxsolve.prox.of_data>`.
        stepsize: :math:`1 / L_i`, one number or one for each block; known of a model,
            must be given otherwise.
        key: of random orders.
        greedy: whether the order is greedy.

    Returns:
        A solver. Its error is the sup-norm of :math:`x - \operatorname{prox}_g(x -
        \nabla f(x))` after the sweep, its residual the same vector. The loss of a model
        is traced once an update, though it is evaluated in every step.

    Raises:
        ValueError: if a general objective has no stepsize, if the stepsize is not
            positive, or if there is a key and `greedy`; while tracing, if params are
            not arrays with rows, or the model's arrays do not fit it.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import composite, prox
        >>> fun = composite.least_squares_model()
        >>> solver = composite.block_coordinate_descent(fun, prox.l1(0.5))
        >>> data = jnp.eye(2), jnp.array([3.0, -0.5])
        >>> print(jaxsolve.run(solver, jnp.zeros(2), data).params)
        [2. 0.]

    References:
        Tseng and Yun, `A coordinate gradient descent method for nonsmooth separable
        minimization <https://doi.org/10.1007/s10107-007-0170-0>`_, 2009. Nutini,
        Schmidt, Laradji, Friedlander and Koepke, `Coordinate Descent Converges Faster
        with the Gauss-Southwell Rule Than Random Selection
        <https://proceedings.mlr.press/v37/nutini15.html>`_, 2015, Section 8.
    """
    _check(fun, stepsize, key, greedy)
    smooth = fun.loss if isinstance(fun, LinearModel) else fun
    # Jitted, so that it is traced once for the sweep and the error.
    gradient = jax.jit(jax.grad(core.objective(smooth)), inline=True)

    def init(params, data=None):
        del data
        if rows(params).shape[0] == 0:
            raise ValueError(
                "params must have at least one row, the blocks, got "
                f"{jax.tree.map(jnp.shape, params)}; without any nothing is solved for."
            )
        return BlockCoordinateDescentState(
            count=jnp.zeros((), jnp.int32),
            error=core.real_scalar(jnp.inf, params),
            status=as_status(Status.RUNNING),
            point=widen(params),
            key=key,
        )

    def update(params, state, data=None):
        point, _ = follow(params, state.point)
        x = rows(point)
        whole = lambda x: rows(gradient(narrow(like_rows(x, point), params), data))
        slopes = gradient if isinstance(fun, LinearModel) else whole
        blocks = _blocks.at(fun, slopes, x, data, stepsize)
        here = resolve(prox, data)
        step, bend = jax.vmap(here), blocks.curvature
        eta = jnp.where(bend > 0, 1 / jnp.where(bend > 0, bend, 1), 1)
        products = blocks.start(x)

        def visit(products, turn):
            old, t, part = turn
            new = here(old - t * blocks.block(products, part), t).astype(x.dtype)
            return blocks.move(products, new - old, part), new

        def visit_best(carry, _):
            x, products = carry
            moved = step(_move(x, eta, blocks.whole(products)), eta)
            far = jnp.sum((moved - x).reshape(x.shape[0], -1) ** 2, 1) / eta
            i = jnp.argmax(far)
            part = jax.tree.map(lambda leaf: leaf[i], blocks.parts)
            products = blocks.move(products, (moved[i] - x[i]).astype(x.dtype), part)
            return (x.at[i].set(moved[i].astype(x.dtype)), products), None

        turns, new_key = (x, eta, blocks.parts), state.key
        if greedy:
            (new_x, products), _ = jax.lax.scan(
                visit_best, (x, products), None, x.shape[0]
            )
        elif key is None:
            products, new_x = jax.lax.scan(visit, products, turns)
        else:
            new_key, draw = jax.random.split(state.key)
            order = jax.random.permutation(draw, x.shape[0])
            turns = jax.tree.map(lambda leaf: leaf[order], turns)
            products, new_x = jax.lax.scan(visit, products, turns)
            new_x = x.at[order].set(new_x)

        grad = blocks.whole(products)
        ones = jnp.ones_like(eta)
        mapping = step(new_x - grad, ones) - new_x
        error = mapping_error(mapping, grad, new_x, core.real_scalar(1, params))
        top = float(jnp.finfo(x.dtype).max) ** 0.5
        new_point = like_rows(new_x, point)
        ok = core.all_finite((grad, narrow(new_point, params)))
        ok = ok & (core.sup_norm(new_x) < top)
        still = at_rounding(new_x - x, new_x)
        stalled = jnp.where(still, as_status(Status.STALLED), state.status)
        new_point = core.where(ok, new_point, point)
        return narrow(new_point, params), BlockCoordinateDescentState(
            count=state.count + 1,
            error=jnp.where(ok, error, state.error),
            status=jnp.where(ok, stalled, as_status(Status.DIVERGED)),
            point=new_point,
            key=new_key,
        )

    total = jax.grad(core.objective(fun))

    def residual(params, data=None):
        point = widen(params)
        x, grad = rows(point), rows(widen(total(params, data)))
        ones = jnp.ones(x.shape[:1], x.dtype)
        step = jax.vmap(resolve(prox, data))(x - grad, ones)
        return narrow(like_rows(x - step, point), params)

    return core.Solver(init, update, residual, core.implicit())


def _move(x, eta, grad):
    return x - eta.reshape(-1, *(1,) * (x.ndim - 1)) * grad


def _check(fun, stepsize, key, greedy):
    if key is not None and greedy:
        raise ValueError("a greedy order is not random: give either a key, or greedy.")
    if stepsize is None:
        if not isinstance(fun, LinearModel | QuadraticModel):
            raise ValueError(
                "the curvature of a general objective is not known: give a stepsize, "
                "or a model such as composite.least_squares_model()."
            )
    elif np.ndim(stepsize) == 0:
        core.check_stepsize(stepsize)
    elif not isinstance(stepsize, jax.core.Tracer):
        if not np.all((np.asarray(stepsize) > 0) & np.isfinite(np.asarray(stepsize))):
            raise ValueError(
                f"stepsize must be positive and finite in every block, got {stepsize}."
            )
