"""The loss of a round of which only a gradient is known."""

import chex

from jaxsolve import core
from jaxsolve.online._rounds import inner


def linear_loss(params: core.Params, data: core.Params) -> chex.Array:
    r"""The loss :math:`\langle x, c \rangle`, whose data are its gradient.

    It makes a learner of gradients, of expert's losses, or of estimates, out of any
    learner of this room: each update is given what came up as its data.

    Args:
        params: :math:`x`, what was played.
        data: :math:`c`, a tree like params.

    Returns:
        The product, a scalar of at least 32 bits.

    Examples:
        An optax transformation of a learner, given gradients:

        >>> import jax.numpy as jnp, optax
        >>> import jaxsolve
        >>> from jaxsolve import online, prox
        >>> plane = prox.euclidean_map()
        >>> learner = online.mirror_descent(online.linear_loss, plane, 0.1)
        >>> transform = jaxsolve.to_optax(learner)
        >>> x, state = jnp.ones(2), transform.init(jnp.ones(2))
        >>> for _ in range(100):
        ...     step, state = transform.update(2 * x, state, x, data=2 * x)
        ...     x = optax.apply_updates(x, step)
        >>> print(bool(jnp.max(jnp.abs(x)) < 1e-6))
        True
    """
    return inner(params, data)
