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
