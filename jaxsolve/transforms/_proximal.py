"""Proximal and projection steps as the last link of a chain."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.prox import Prox, from_projection, resolve
from jaxsolve.transforms._wide import widened


class ProximalState(NamedTuple):
    """State of a proximal link."""

    count: chex.Array  # (), int32: updates taken.


def proximal(
    prox: Prox, learning_rate: optax.ScalarOrSchedule
) -> optax.GradientTransformationExtraArgs:
    r"""Ends a chain by a proximal step, for objectives that are not smooth.

    The incoming updates :math:`u` are steps that are to be added to params :math:`x`,
    with their learning rate and sign. They become

    .. math::

        u \mapsto \operatorname{prox}_{\eta g}(x + u) - x

    After ``optax.sgd(eta)`` it is the proximal gradient method. After a preconditioner,
    such as Adam's, it is to the penalty g what a decoupled weight decay is to the
    square: the penalty acts beside rescaled gradients, so that iterates settle where
    *these* balance it, and not at a minimum of the objective plus g. Of the indicator
    of a box nothing changes by that; of other sets the same holds.

    Args:
        prox: of :math:`g`, as ``prox(params, stepsize) -> params``: any of
            ``jaxsolve.prox``, also ``prox.of_data``. It is shown leaves of at least 32
            bits.
        learning_rate: :math:`\eta`, that of the chain: a scalar or a schedule.

    Returns:
        A transformation that needs params, and the extra argument ``data`` where the
        operator depends on data. It belongs at the end of a chain: what comes after it
        undoes the step. Where an update is not finite, in one entry of one leaf, all
        leaves pass as they are, without a proximal step: ``optax.apply_if_finite``
        around the chain drops them.

    Raises:
        ValueError: if `prox` is not a proximal operator; in update, without params, or
            without data that the operator needs.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from jaxsolve import prox, transforms
        >>> link = transforms.proximal(prox.l1(1.0), 0.5)
        >>> transform = optax.chain(optax.scale_by_sign(), optax.scale(-0.5), link)
        >>> x = jnp.array([3.0, 0.1])
        >>> step, _ = transform.update(jnp.ones(2), transform.init(x), x)
        >>> print(x + step)
        [2. 0.]

    References:
        Parikh and Boyd, `Proximal Algorithms <https://doi.org/10.1561/2400000003>`_,
        2014. Section 4.2.
    """
    of_data = callable(prox) and hasattr(prox, "at")
    if not of_data:
        resolve(prox, None)  # says what is wrong with it
    schedule = core.as_schedule(learning_rate)

    def init(params):
        del params
        return ProximalState(jnp.zeros((), jnp.int32))

    def update(updates, state, params=None, *, data=None, **extra):
        del extra
        check_params(params)
        if of_data and data is None:
            raise ValueError(
                "this proximal operator depends on data: call "
                "`transform.update(updates, state, params, data=data)`."
            )
        start = widened(params)
        eta = core.real_scalar(schedule(state.count), params)
        moved = core.axpy(1, widened(updates), start)
        steps = steps_to(resolve(prox, data)(moved, eta), start, updates)
        return steps, ProximalState(optax.safe_increment(state.count))

    return optax.GradientTransformationExtraArgs(init, update)


def projected(
    projection: Callable[[chex.ArrayTree], chex.ArrayTree],
) -> optax.GradientTransformationExtraArgs:
    r"""Ends a chain by a projection, so that params stay in a set.

    .. math::

        u \mapsto P_C(x + u) - x

    After a preconditioner the caveat of :func:`proximal` holds.

    Args:
        projection: :math:`P_C`, as ``projection(params) -> params``: any of
            ``optax.projections``, with its numbers fixed, or a projection of
            ``jaxsolve.prox``.

    Returns:
        A transformation that needs params, for the end of a chain. Adding its updates
        to params may miss a bound by rounding, though never the bound zero. Where an
        update is not finite, in one entry of one leaf, all leaves pass as they are and
        may leave the set: ``optax.apply_if_finite`` around the chain drops them.

    Raises:
        ValueError: if `projection` is not a function; in update, without params.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from jaxsolve import transforms
        >>> link = transforms.projected(optax.projections.projection_non_negative)
        >>> transform = optax.chain(optax.sgd(1.0), link)
        >>> x = jnp.array([0.5, 0.5])
        >>> step, _ = transform.update(jnp.array([1.0, 0.0]), transform.init(x), x)
        >>> print(x + step)
        [0.  0.5]

    References:
        Goldstein, `Convex programming in Hilbert space
        <https://doi.org/10.1090/S0002-9904-1964-11178-2>`_, 1964.
    """
    if not callable(projection):
        raise ValueError(f"projection must be a function, got {projection!r}.")
    if hasattr(projection, "at"):
        return proximal(projection, 1.0)
    return proximal(from_projection(resolve(projection, None)), 1.0)


def steps_to(
    end: chex.ArrayTree, start: chex.ArrayTree, updates: chex.ArrayTree
) -> chex.ArrayTree:
    """The updates that lead from start to end; given ones that are not finite as is."""
    steps = jax.tree.map(
        lambda y, x, u: (jnp.asarray(y, x.dtype) - x).astype(u.dtype),
        end,
        start,
        updates,
    )
    # A prox or projection of an infinite step may be finite, and is wrong.
    return core.where(core.all_finite(updates), steps, updates)


def check_params(params: chex.ArrayTree | None) -> None:
    """Raises a `ValueError` where an update was called without params."""
    if params is None:
        raise ValueError(
            "this link moves the params: call "
            "`transform.update(updates, state, params, ...)`."
        )
