"""Objectives whose gradient one block at a time is cheap, for coordinate descent.

Blocks are the rows of one array of shape (blocks,) or (blocks, k).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve.composite._models import LinearModel, QuadraticModel

_tensordot = functools.partial(jnp.tensordot, precision=jax.lax.Precision.HIGHEST)


class Blocks(NamedTuple):
    """What a sweep over the blocks asks of an objective at given data.

    Products are whatever makes the gradient of one block cheap, kept up to date. Parts
    are what the steps read of the data: those of a sweep in order are a scan's input,
    which is several times as fast as to look each up by its index.
    """

    start: Callable  # x -> products
    parts: Any  # a tree of arrays with a row for each block
    block: Callable  # (products, part) -> gradient of the block
    whole: Callable  # products -> gradient
    move: Callable  # (products, change of the block, part) -> products
    curvature: chex.Array  # (blocks,): Lipschitz constants of the blocks' gradients


def at(fun: Any, gradient: Callable, params: chex.Array, data, stepsize) -> Blocks:
    """The blocks of an objective at data.

    Args:
        fun: a `LinearModel`, a `QuadraticModel`, or any objective.
        gradient: of its loss, as ``gradient(predictions, data)``; of any objective that
            is no model, as ``gradient(params)``.
        params: one array, for its shape and dtype.
        data: of the problem.
        stepsize: the reciprocal of the curvature of every block; None for the model's.
    """
    if isinstance(fun, LinearModel):
        blocks = _linear(fun, gradient, params, data)
    elif isinstance(fun, QuadraticModel):
        blocks = _quadratic(fun, params, data)
    else:
        whole = lambda x: gradient(x).astype(x.dtype)
        blocks = Blocks(
            start=lambda x: x,
            parts=jnp.arange(params.shape[0]),
            block=lambda x, i: whole(x)[i],
            whole=whole,
            move=lambda x, change, i: x.at[i].add(change),
            curvature=jnp.ones(params.shape[:1], params.dtype),
        )
    if stepsize is None:
        return blocks
    eta = jnp.asarray(stepsize, params.dtype)
    if eta.shape not in ((), params.shape[:1]):
        raise ValueError(
            f"stepsize must be one number or have shape {params.shape[:1]}, one for "
            f"each block, got shape {eta.shape}."
        )
    return blocks._replace(curvature=jnp.broadcast_to(1 / eta, params.shape[:1]))


def _linear(model, gradient, params, data):
    dtype = params.dtype
    # Rows of the transpose are columns in one piece.
    columns = jnp.asarray(model.matrix(data)).astype(dtype).T
    if columns.ndim != 2 or columns.shape[0] != params.shape[0]:
        raise ValueError(
            "matrix must return one column for each block of params, "
            f"{params.shape[0]}, got a matrix of shape {columns.shape[::-1]}."
        )
    linear = jnp.zeros_like(params)
    if model.linear is not None:
        linear = jnp.asarray(model.linear(data)).astype(dtype)
    slopes = lambda predictions: gradient(predictions, data).astype(dtype)
    # A sum of products is fused with the slopes; a call of BLAS would not be.
    beside = lambda column, p: column.reshape(-1, *(1,) * (p.ndim - 1))

    def block(predictions, part):
        column, tilt = part
        return jnp.sum(beside(column, predictions) * slopes(predictions), 0) + tilt

    def whole(predictions):
        return _tensordot(columns, slopes(predictions), 1) + linear

    def move(predictions, change, part):
        return predictions + beside(part[0], predictions) * change[None]

    scale = jnp.asarray(model.curvature(data), dtype)
    return Blocks(
        start=lambda x: _tensordot(columns, x, (0, 0)),
        parts=(columns, linear),
        block=block,
        whole=whole,
        move=move,
        curvature=scale * jnp.sum(columns**2, 1),
    )


def _quadratic(model, params, data):
    dtype = params.dtype
    matrix = jnp.asarray(model.matrix(data)).astype(dtype)
    linear = jnp.asarray(model.linear(data)).astype(dtype)
    if matrix.shape != params.shape[:1] * 2 or linear.shape != params.shape:
        raise ValueError(
            f"matrix and linear must have shapes {params.shape[:1] * 2} and "
            f"{params.shape}, got {matrix.shape} and {linear.shape}."
        )
    return Blocks(
        start=lambda x: _tensordot(matrix, x, 1),
        parts=(jnp.arange(params.shape[0]), matrix, linear),
        block=lambda product, part: product[part[0]] - part[2],
        whole=lambda product: product - linear,
        move=lambda product, change, part: product + _tensordot(part[1], change, 0),
        curvature=jnp.diagonal(matrix),
    )
