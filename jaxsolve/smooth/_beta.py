"""Rules of nonlinear conjugate gradients: how much of the last direction to keep."""

from collections.abc import Callable

import chex
import jax.numpy as jnp

Beta = Callable[[chex.Array, chex.Array, chex.Array], chex.Array]


def hager_zhang(
    new_grad: chex.Array, grad: chex.Array, direction: chex.Array
) -> chex.Array:
    r"""The beta of Hager and Zhang, truncated from below.

    With :math:`y = g^+ - g`,

    .. math::

        \beta = \max\left(\frac{1}{d^\top y} \left(y - 2 d \frac{y^\top y}{d^\top y}
            \right)^\top g^+, \ 0.4 \frac{d^\top g}{d^\top d}\right)

    Its directions descend whatever the line search.

    Args:
        new_grad: :math:`g^+`, the gradient at the new iterate: (n,).
        grad: :math:`g`, at the one before.
        direction: :math:`d`, that led from the one to the other.

    Returns:
        :math:`\beta`, a scalar.

    References:
        Hager and Zhang, `A New Conjugate Gradient Method with Guaranteed Descent
        <https://doi.org/10.1137/030601880>`_, 2005, (1.3); the truncation of `The
        Limited Memory Conjugate Gradient Method <https://doi.org/10.1137/120898097>`_,
        2013, which does not depend on units.
    """
    y = new_grad - grad
    dy = direction @ y
    beta = (y @ new_grad - 2 * (y @ y) * (direction @ new_grad) / dy) / dy
    return jnp.maximum(beta, 0.4 * (direction @ grad) / (direction @ direction))


def polak_ribiere(
    new_grad: chex.Array, grad: chex.Array, direction: chex.Array
) -> chex.Array:
    r"""The beta of Polak and Ribiere, and of Polyak, where it is positive: PR+.

    .. math::

        \beta = \max\left(\frac{y^\top g^+}{g^\top g}, \ 0\right), \quad y = g^+ - g

    Arguments and result are those of `hager_zhang`.

    References:
        Gilbert and Nocedal, `Global Convergence Properties of Conjugate Gradient
        Methods for Optimization <https://doi.org/10.1137/0802003>`_, 1992.
    """
    del direction
    return jnp.maximum((new_grad - grad) @ new_grad / (grad @ grad), 0)


def hestenes_stiefel(
    new_grad: chex.Array, grad: chex.Array, direction: chex.Array
) -> chex.Array:
    r"""The beta of Hestenes and Stiefel, where it is positive.

    .. math::

        \beta = \max\left(\frac{y^\top g^+}{d^\top y}, \ 0\right), \quad y = g^+ - g

    Arguments and result are those of `hager_zhang`.

    References:
        Hestenes and Stiefel, `Methods of Conjugate Gradients for Solving Linear Systems
        <https://doi.org/10.6028/jres.049.044>`_, 1952.
    """
    y = new_grad - grad
    return jnp.maximum(y @ new_grad / (direction @ y), 0)


def dai_yuan(
    new_grad: chex.Array, grad: chex.Array, direction: chex.Array
) -> chex.Array:
    r"""The beta of Dai and Yuan.

    .. math::

        \beta = \frac{g^{+\top} g^+}{d^\top y}, \quad y = g^+ - g

    Its directions descend after any Wolfe search. Without restarts it can creep.
    Arguments and result are those of `hager_zhang`.

    References:
        Dai and Yuan, `A Nonlinear Conjugate Gradient Method with a Strong Global
        Convergence Property <https://doi.org/10.1137/S1052623497318992>`_, 1999.
    """
    return new_grad @ new_grad / (direction @ (new_grad - grad))
