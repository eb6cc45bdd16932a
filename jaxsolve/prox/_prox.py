"""The type of a proximal operator, and the simplest one."""

from collections.abc import Callable

import chex

from jaxsolve.core import memoise
from jaxsolve.prox import _leaves

# Called as ``prox(params, stepsize)``; those of this room also as ``prox(params)``,
# where the stepsize is one.
Prox = Callable[..., chex.ArrayTree]


@memoise
def identity() -> Prox:
    r"""Leave params as they are: the proximal operator of zero.

    Computes :math:`\operatorname{prox}_{t g}(x) = x` for :math:`g = 0`: the part of a
    :func:`separable_sum` that is not regularised.

    Returns:
        A proximal operator. It ignores its stepsize.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.identity()(jnp.array([1.0, -2.0]))
        Array([ 1., -2.], dtype=float32)
    """

    def prox(params, stepsize=1.0):
        del stepsize
        return _leaves.real(params)

    return prox


@memoise
def from_projection(
    projection: Callable[[chex.ArrayTree], chex.ArrayTree],
) -> Prox:
    r"""Make a proximal operator of a function that projects.

    Computes :math:`\operatorname{prox}_{t g}(x) = P_C(x)`, whatever the stepsize. For
    a projection with numbers of its own, see :func:`of_data`.

    Args:
        projection: :math:`P_C`, as ``projection(params) -> params``.

    Returns:
        A proximal operator. It ignores its stepsize.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.from_projection(jnp.round)(jnp.array([1.2, -2.0]), 0.1)
        Array([ 1., -2.], dtype=float32)
    """

    def prox(params, stepsize=1.0):
        del stepsize
        return projection(_leaves.real(params))

    return prox
