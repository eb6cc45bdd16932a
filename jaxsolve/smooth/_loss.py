"""Robust losses: functions of the squared residual that grow more slowly than it."""

from collections.abc import Callable

import chex
import jax.numpy as jnp

from jaxsolve.core import memoise

Loss = Callable[[chex.Array], chex.Array]


def _scaled(loss: Loss, scale: chex.Numeric) -> Loss:
    def scaled(z):
        squared = jnp.asarray(scale, z.dtype) ** 2
        return squared * loss(z / squared)

    return scaled


@memoise
def huber_loss(scale: chex.Numeric = 1.0) -> Loss:
    r"""Squares small residuals and takes the absolute value of large ones.

    .. math:: \rho(z) = z \text{ if } z \le c^2, \quad 2 c \sqrt z - c^2 \text{ if not.}

    Args:
        scale: :math:`c > 0`: residuals beyond count as outliers.

    Returns:
        :math:`\rho`, a function of the squared residual.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import smooth
        >>> print(smooth.huber_loss(2.0)(jnp.array([1.0, 9.0])))
        [1. 8.]

    References:
        Huber, `Robust Estimation of a Location Parameter
        <https://doi.org/10.1214/aoms/1177703732>`_, 1964.
    """
    root = lambda z: 2 * jnp.sqrt(jnp.maximum(z, 1)) - 1  # no infinite slope at zero
    return _scaled(lambda z: jnp.where(z <= 1, z, root(z)), scale)


@memoise
def soft_l1_loss(scale: chex.Numeric = 1.0) -> Loss:
    r"""A smooth form of the absolute value.

    .. math:: \rho(z) = 2 c^2 (\sqrt{1 + z / c^2} - 1)

    Args:
        scale: :math:`c > 0`: residuals beyond count as outliers.

    Returns:
        :math:`\rho`, a function of the squared residual.

    References:
        Charbonnier, Blanc-Féraud, Aubert and Barlaud, `Two deterministic half-quadratic
        regularization algorithms for computed imaging
        <https://doi.org/10.1109/ICIP.1994.413553>`_, 1994.
    """
    return _scaled(lambda z: 2 * z / (1 + jnp.sqrt(1 + z)), scale)


@memoise
def cauchy_loss(scale: chex.Numeric = 1.0) -> Loss:
    r"""Grows with the logarithm of the residual; may have more than one minimum.

    .. math:: \rho(z) = c^2 \log(1 + z / c^2)

    Args:
        scale: :math:`c > 0`: residuals beyond count as outliers.

    Returns:
        :math:`\rho`, a function of the squared residual.

    References:
        Triggs, McLauchlan, Hartley and Fitzgibbon, `Bundle Adjustment -- A Modern
        Synthesis <https://doi.org/10.1007/3-540-44480-7_21>`_, 2000, Section 3.3.
    """
    return _scaled(jnp.log1p, scale)


@memoise
def arctan_loss(scale: chex.Numeric = 1.0) -> Loss:
    r"""Limits what one residual can contribute; may have more than one minimum.

    .. math:: \rho(z) = c^2 \arctan(z / c^2)

    Args:
        scale: :math:`c > 0`: residuals beyond count as outliers.

    Returns:
        :math:`\rho`, a function of the squared residual.

    References:
        The name and the scale are those of `scipy.optimize.least_squares
        <https://docs.scipy.org/doc/scipy/reference/generated/scipy.optimize.least_squares.html>`_.
    """
    return _scaled(jnp.arctan, scale)
