"""How rates grow with the batch, by the spectra of random matrices."""

import chex
import jax.numpy as jnp
import numpy as np
import optax

from jaxsolve import core
from jaxsolve.schedules._check import check


def batch_eigenvalue(
    eigenvalue: chex.Numeric,
    noise: chex.Numeric,
    batch_size: chex.Numeric,
    dataset_size: chex.Numeric = np.inf,
) -> chex.Array:
    r"""Predicts an extremal eigenvalue of the Hessian of a batch.

    The Hessian of B of N samples is that of all of them and a symmetric noise, whose
    entries have the variance :math:`\sigma^2 / b` with :math:`1/b = 1/B - 1/N`. With P
    params, and :math:`s = P \sigma^2 / b`, an eigenvalue :math:`\lambda` of the whole
    appears in the batch as

    .. math::

        \lambda' = \lambda + s / \lambda \quad \text{if } |\lambda| > \sqrt s, \qquad
        \pm 2 \sqrt s \quad \text{otherwise},

    the latter being the edge of the noise, in which it drowns.

    Args:
        eigenvalue: :math:`\lambda`; of zero, the upper edge is given.
        noise: :math:`P \sigma^2`, not negative: the mean square of the Frobenius norm
            of a sample's Hessian less the whole, over P.
        batch_size: :math:`B`, positive; it may be an array, as may the others.
        dataset_size: :math:`N`, at least B; infinite by default.

    Returns:
        :math:`\lambda'`.

    Examples:
        >>> from jaxsolve import schedules
        >>> print(schedules.batch_eigenvalue(3.0, 4.0, batch_size=1))
        4.3333335

    References:
        Granziol, Zohren and Roberts, `Learning Rates as a Function of Batch Size: A
        Random Matrix Theory Approach to Neural Network Training
        <https://arxiv.org/abs/2006.09092>`_, 2022.
    """
    check("noise", noise, closed="[")
    check("batch_size", batch_size)
    check("dataset_size", dataset_size, closed="]")
    dtype = core.real_dtype((eigenvalue, noise, batch_size))
    value, noise, size, all_of_them = (
        jnp.asarray(x, dtype) for x in (eigenvalue, noise, batch_size, dataset_size)
    )
    s = noise * jnp.maximum(1 / size - 1 / all_of_them, 0)
    magnitude = jnp.abs(value)
    outlier = ~(magnitude <= jnp.sqrt(s))  # and so what is not a number
    shifted = magnitude + s / jnp.where(outlier, magnitude, 1)
    return jnp.where(value < 0, -1, 1) * jnp.where(outlier, shifted, 2 * jnp.sqrt(s))


def max_learning_rate(
    eigenvalue: chex.Numeric,
    noise: chex.Numeric,
    batch_size: chex.Numeric,
    dataset_size: chex.Numeric = np.inf,
    *,
    momentum: chex.Numeric = 0.0,
) -> chex.Array:
    r"""Predicts the largest learning rate at which descent on batches is stable.

    With :math:`\lambda'` of :func:`batch_eigenvalue` computes :math:`2 (1 + \beta) /
    \lambda'`, which grows linearly with small batches and saturates at that of the
    whole. Where :math:`\lambda` is not positive, :math:`\lambda'` is the upper edge of
    the noise; the rate is infinite where there is none.

    Args:
        eigenvalue: the largest of the Hessian of all samples.
        noise: :math:`P \sigma^2`; see :func:`batch_eigenvalue`, also for the next two.
        batch_size: :math:`B`.
        dataset_size: :math:`N`.
        momentum: :math:`\beta`, of the heavy ball, in [0, 1).

    Returns:
        The rate.

    Examples:
        >>> from jaxsolve import schedules
        >>> print(schedules.max_learning_rate(4.0, 0.0, batch_size=32))
        0.5

    References:
        Granziol, Zohren and Roberts, `Learning Rates as a Function of Batch Size: A
        Random Matrix Theory Approach to Neural Network Training
        <https://arxiv.org/abs/2006.09092>`_, 2022.
    """
    check("momentum", momentum, 0, 1, "[")
    dtype = core.real_dtype((eigenvalue, noise, batch_size))
    outlier = jnp.maximum(jnp.asarray(eigenvalue, dtype), 0)  # of zero: the upper edge
    largest = batch_eigenvalue(outlier, noise, batch_size, dataset_size)
    positive = largest > 0
    rate = 2 * (1 + _real(momentum, largest)) / jnp.where(positive, largest, 1)
    rate = jnp.where(positive, rate, jnp.inf)
    return jnp.where(jnp.isnan(largest + outlier), jnp.nan, rate)


def stability_margin(
    learning_rate: chex.Numeric, momentum: chex.Numeric, eigenvalue: chex.Numeric
) -> chex.Array:
    r"""Returns how much of the stable range of the heavy ball a rate takes.

    Computes :math:`\eta \lambda / (2 (1 + \beta))`; above one, the ball diverges along
    the eigenvector of :math:`\lambda`.

    Args:
        learning_rate: :math:`\eta`.
        momentum: :math:`\beta`, in [0, 1).
        eigenvalue: :math:`\lambda`, the largest, of the batches that are used.

    Returns:
        The ratio.

    Examples:
        >>> from jaxsolve import schedules
        >>> print(schedules.stability_margin(0.1, 0.5, 15.0))
        0.5
    """
    check("learning_rate", learning_rate, closed="[")
    check("momentum", momentum, 0, 1, "[")
    dtype = core.real_dtype((learning_rate, momentum, eigenvalue))
    eta, beta, value = (
        jnp.asarray(x, dtype) for x in (learning_rate, momentum, eigenvalue)
    )
    return eta * value / (2 * (1 + beta))


def heavy_ball(
    largest: chex.Numeric, least: chex.Numeric, max_momentum: chex.Numeric = 1.0
) -> tuple[chex.Array, chex.Array]:
    r"""Returns the best constants of the heavy ball on a quadratic.

    For eigenvalues between :math:`l` and :math:`L` computes

    .. math::

        \sqrt\beta &= \min \left\{ \frac{\sqrt L - \sqrt l}{\sqrt L + \sqrt l},
        \sqrt{\bar\beta} \right\} \\
        \eta &= (1 + \sqrt\beta)^2 / L

    Below its bound this is Polyak's :math:`\eta = (2 / (\sqrt L + \sqrt l))^2`; with a
    bounded momentum, the largest rate at which all directions still oscillate, which is
    stable.

    Args:
        largest: :math:`L > 0`.
        least: :math:`l`, positive, at most L.
        max_momentum: :math:`\bar\beta`, in [0, 1].

    Returns:
        The learning rate and the momentum.

    Examples:
        >>> from jaxsolve import schedules
        >>> rate, momentum = schedules.heavy_ball(4.0, 1.0)
        >>> print(f"{rate:.4f} {momentum:.4f}")
        0.4444 0.1111

    References:
        Polyak, `Some Methods of Speeding up the Convergence of Iteration Methods
        <https://doi.org/10.1016/0041-5553(64)90137-5>`_, 1964.
    """
    check("largest", largest)
    check("max_momentum", max_momentum, 0, 1, "[]")
    if core.is_concrete(largest) and core.is_concrete(least):
        check("least", least, 0, float(np.max(largest)), "[]")
    dtype = core.real_dtype((largest, least))
    top, low, bound = (jnp.asarray(x, dtype) for x in (largest, least, max_momentum))
    ratio = (jnp.sqrt(top) - jnp.sqrt(low)) / (jnp.sqrt(top) + jnp.sqrt(low))
    root = jnp.minimum(ratio, jnp.sqrt(bound))
    return (1 + root) ** 2 / top, root**2


def linear_scaling(
    learning_rate: optax.ScalarOrSchedule,
    batch_size: chex.Numeric,
    reference: chex.Numeric,
    *,
    cap: chex.Numeric = np.inf,
) -> optax.ScalarOrSchedule:
    r"""Transfers a learning rate to another batch size, in proportion to it.

    Computes :math:`\min \{\eta_0 B / B_0, \bar\eta\}`: the rule for descent without
    preconditioning, while the noise of batches is what limits it.

    Args:
        learning_rate: :math:`\eta_0`, a number or a schedule.
        batch_size: :math:`B`, positive.
        reference: :math:`B_0`, the batch size that :math:`\eta_0` was found for.
        cap: :math:`\bar\eta`: two over the largest eigenvalue, as of
            :func:`max_learning_rate` for an infinite batch.

    Returns:
        The rate, a schedule if it was one.

    Examples:
        >>> from jaxsolve import schedules
        >>> print(schedules.linear_scaling(0.1, 256, 64, cap=0.3))
        0.3

    References:
        Granziol, Zohren and Roberts, `Learning Rates as a Function of Batch Size: A
        Random Matrix Theory Approach to Neural Network Training
        <https://arxiv.org/abs/2006.09092>`_, 2022.
    """
    _check_sizes(batch_size, reference)
    return _scaled(learning_rate, lambda real: real(batch_size) / real(reference), cap)


def square_root_scaling(
    learning_rate: optax.ScalarOrSchedule,
    batch_size: chex.Numeric,
    reference: chex.Numeric,
    *,
    cap: chex.Numeric = np.inf,
) -> optax.ScalarOrSchedule:
    r"""Transfers a learning rate to another batch size, by the root of their ratio.

    Computes :math:`\min \{\eta_0 \sqrt{B / B_0}, \bar\eta\}`: the rule for adaptive
    methods, which divide by about the curvature of the batch, such as Adam.

    Args:
        learning_rate: :math:`\eta_0`, a number or a schedule.
        batch_size: :math:`B`, positive.
        reference: :math:`B_0`, the batch size that :math:`\eta_0` was found for.
        cap: :math:`\bar\eta`.

    Returns:
        The rate, a schedule if it was one.

    Examples:
        >>> from jaxsolve import schedules
        >>> print(schedules.square_root_scaling(0.1, 256, 64))
        0.2

    References:
        Granziol, Zohren and Roberts, `Learning Rates as a Function of Batch Size: A
        Random Matrix Theory Approach to Neural Network Training
        <https://arxiv.org/abs/2006.09092>`_, 2022.
    """
    _check_sizes(batch_size, reference)
    ratio = lambda real: jnp.sqrt(real(batch_size) / real(reference))
    return _scaled(learning_rate, ratio, cap)


def spectral_scaling(
    learning_rate: optax.ScalarOrSchedule,
    batch_size: chex.Numeric,
    reference: chex.Numeric,
    eigenvalue: chex.Numeric,
    noise: chex.Numeric,
    dataset_size: chex.Numeric = np.inf,
) -> optax.ScalarOrSchedule:
    r"""Transfers a learning rate to another batch size, by predicted eigenvalues.

    With :math:`\lambda'` of :func:`batch_eigenvalue` computes :math:`\eta_0
    \lambda'(B_0) / \lambda'(B)`: linear for small batches, no more than a constant for
    large ones, where :math:`\lambda` is the largest eigenvalue. With :math:`\lambda =
    0` the edge of the noise decides, and the rule is that of square roots.

    Args:
        learning_rate: :math:`\eta_0`, a number or a schedule.
        batch_size: :math:`B`, positive.
        reference: :math:`B_0`, the batch size that :math:`\eta_0` was found for.
        eigenvalue: :math:`\lambda`, of the Hessian of all samples, not negative.
        noise: :math:`P \sigma^2`; one of it and the eigenvalue must be positive.
        dataset_size: :math:`N`.

    Returns:
        The rate, a schedule if it was one.

    Examples:
        >>> from jaxsolve import schedules
        >>> print(schedules.spectral_scaling(0.1, 256, 64, eigenvalue=0.0, noise=1.0))
        0.2

    References:
        Granziol, Zohren and Roberts, `Learning Rates as a Function of Batch Size: A
        Random Matrix Theory Approach to Neural Network Training
        <https://arxiv.org/abs/2006.09092>`_, 2022.
    """
    _check_sizes(batch_size, reference)
    check("eigenvalue", eigenvalue, closed="[")
    check("noise", noise, closed="[")

    def ratio(real):
        value, spread, size = real(eigenvalue), real(noise), real(dataset_size)
        at = lambda batch: batch_eigenvalue(value, spread, real(batch), size)
        return at(reference) / at(batch_size)

    return _scaled(learning_rate, ratio, np.inf)


def _check_sizes(batch_size, reference):
    check("batch_size", batch_size)
    check("reference", reference)


def _scaled(learning_rate, ratio, cap):
    if callable(learning_rate):
        return lambda count: _scaled(learning_rate(count), ratio, cap)
    real = lambda x: _real(x, learning_rate)
    return jnp.minimum(real(learning_rate) * ratio(real), real(cap))


def _real(value, beside):
    return jnp.asarray(value, core.real_dtype(beside))
