"""Proximal operators whose numbers come from the data of the problem."""

import functools
import inspect
from collections.abc import Callable

import chex
import jax

from jaxsolve.core import memoise
from jaxsolve.prox._prox import Prox


@memoise
def of_data(make: Callable[[chex.ArrayTree], Prox]) -> Prox:
    r"""Take a function's numbers from data: the proximal operator of :math:`g(x, d)`.

    A solver that is given the operator asks ``make`` for the one at the data :math:`d`
    of its update. So weights, radii and bounds may change from run to run without
    a new trace, may differ between the lanes of a batch, and a solution can be
    differentiated in them. :func:`conjugate` and its kin take such an operator as any
    other; elsewhere :func:`resolve` gives the operator at data.

    Args:
        make: the operator at data, as ``make(data) -> prox``, of the data that a solver
            is run on.

    Returns:
        A proximal operator for solvers. Called by itself, without data, it raises.

    Raises:
        ValueError: if ``make`` is not a function.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import composite, prox
        >>> fun = lambda x, data: 0.5 * jnp.sum((x - data["b"]) ** 2)
        >>> weighed = prox.of_data(lambda data: prox.l1(data["weight"]))
        >>> solver = composite.proximal_gradient(fun, weighed, 0.5)
        >>> data = {"b": jnp.array([3.0, 0.5]), "weight": 1.0}
        >>> print(jnp.round(jaxsolve.run(solver, jnp.zeros(2), data).params, 3))
        [2. 0.]
    """
    if not callable(make):
        raise ValueError(
            f"make must be a function of data, but it is {make!r}: write, for example, "
            "of_data(lambda data: prox.l1(data.weight))."
        )

    def prox(params, stepsize=1.0):
        del params, stepsize
        raise ValueError(
            f"this proximal operator depends on data, by {make!r}: give it to a solver "
            "that is run on data, or use prox.resolve(operator, data)."
        )

    prox.at = make
    return prox


def resolve(prox: Prox, data: chex.ArrayTree) -> Prox:
    """Give a proximal operator at data; one that does not depend on it as it is.

    Args:
        prox: any operator, made by :func:`of_data` or not.
        data: of the problem.

    Returns:
        A proximal operator of params and stepsize alone.

    Raises:
        ValueError: if ``prox`` is no function, or one of this room's that first makes
            an operator, such as ``prox.l1`` where ``prox.l1(weight)`` is meant.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> weighed = prox.of_data(prox.l1)
        >>> prox.resolve(weighed, 1.0)(jnp.array([3.0, 0.5, -2.0]))
        Array([ 2.,  0., -1.], dtype=float32)
    """
    if not callable(prox):
        raise ValueError(
            "a proximal operator is a function of (params, stepsize), such as "
            f"prox.l1(0.1), got {prox!r}."
        )
    if _makes_operators(prox):
        call = f"prox.{prox.__name__}({', '.join(inspect.signature(prox).parameters)})"
        raise ValueError(
            f"prox.{prox.__name__} makes a proximal operator: call it first, as {call}."
        )
    return prox.at(data) if _waits(prox) else prox


def lifted(factory: Callable) -> Callable:
    """Let a factory that takes operators take those of data, and make one of data."""

    @functools.wraps(factory)
    def factory_of_data(*args, **kwargs):
        if not any(map(_waits, jax.tree.leaves((args, kwargs)))):
            return factory(*args, **kwargs)

        def make(data):
            at = lambda leaf: resolve(leaf, data) if _waits(leaf) else leaf
            here, there = jax.tree.map(at, (args, kwargs))
            return factory(*here, **there)

        return of_data(make)

    return factory_of_data


def _makes_operators(function):
    annotations = getattr(function, "__annotations__", {})
    return annotations.get("return") in (Prox, "Prox")


def _waits(leaf):
    return callable(leaf) and hasattr(leaf, "at")
