"""Tests of whether a batch is large enough, by the samples it should have had."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.schedules._batch_statistics import BatchStatistics
from jaxsolve.schedules._check import check

BatchTest = Callable[[BatchStatistics], chex.Array]


def norm_test(eta: chex.Numeric = 0.1) -> BatchTest:
    r"""The test that gradients are short errors: :math:`\|V\|_1 / (\eta^2 \|g\|^2)`.

    A batch of b samples passes where that, the number of samples to have, is b at most:
    then the expected squared error of the gradient g is below :math:`\eta^2 \|g\|^2`.

    Args:
        eta: :math:`\eta`, in (0, 1): 0.1, up to 0.5 for images. A small one asks for
            the largest batch at once; from 1 on nothing is proved.

    Returns:
        A test: a function of :class:`BatchStatistics` to the samples to have: (), real;
        infinite where the gradient is zero and its variance is not.

    Raises:
        ValueError: if eta is not positive.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import schedules
        >>> batch = schedules.batch_statistics(jnp.array([[1.0, 4.0], [3.0, 4.0]]))
        >>> print(f"{schedules.norm_test(0.5)(batch):.1f}")  # 2 / (0.25 * 20)
        0.4

    References:
        Lau, Liu and Kolar, `AdAdaGrad: Adaptive Batch Size Schemes for Adaptive
        Gradient Methods <https://arxiv.org/abs/2402.11215>`_, 2024.
    """
    check("eta", eta)

    def test(batch):
        spread, squared = _spread(batch), _squared(batch)
        return _over(spread, jnp.asarray(eta, squared.dtype) ** 2 * squared)

    return test


def inner_product_test(theta: chex.Numeric = 0.1) -> BatchTest:
    r"""The test along the gradient: :math:`v / (\theta^2 \|g\|^4)`.

    With the variance v of :math:`\langle g_i, g \rangle` a batch that passes descends
    with high probability. Milder than :func:`norm_test`; see :func:`augmented_test`.

    Args:
        theta: :math:`\theta > 0`; 0.1, in experiments 0.5.

    Returns:
        A test, as of :func:`norm_test`.

    Raises:
        ValueError: if theta is not positive; in the test, if the statistics are without
            the variance along the mean.
    """
    check("theta", theta)

    def test(batch):
        along, squared = _along(batch), _squared(batch)
        # Divided twice: a fourth power would leave the range of float32.
        wanted = _over(along, jnp.asarray(theta, squared.dtype) ** 2 * squared)
        return _over(wanted, squared)

    return test


def orthogonality_test(nu: chex.Numeric = 0.1) -> BatchTest:
    r"""The test across the gradient: :math:`\|\mathrm{Var}(o)\|_1 / (\nu^2 \|g\|^2)`.

    The parts :math:`o_i = g_i - \langle g_i, g \rangle g / \|g\|^2` have the variance
    :math:`\|V\|_1 - v / \|g\|^2`, over all leaves together.

    Args:
        nu: :math:`\nu > 0`; 0.1, in experiments 1.

    Returns:
        A test, as of :func:`norm_test`.

    Raises:
        ValueError: as :func:`inner_product_test`.
    """
    check("nu", nu)

    def test(batch):
        squared = _squared(batch)
        across = jnp.maximum(_spread(batch) - _over(_along(batch), squared), 0)
        return _over(across, jnp.asarray(nu, squared.dtype) ** 2 * squared)

    return test


def augmented_test(theta: chex.Numeric = 0.1, nu: chex.Numeric = 0.1) -> BatchTest:
    """The larger demand of `inner_product_test` and `orthogonality_test`.

    Args:
        theta: of the first, positive.
        nu: of the second, positive.

    Returns:
        A test, as of :func:`norm_test`.

    Raises:
        ValueError: as :func:`inner_product_test`.
    """
    along, across = inner_product_test(theta), orthogonality_test(nu)
    return lambda batch: jnp.maximum(along(batch), across(batch))


def coordinate_test(eta: chex.Numeric = 0.1) -> BatchTest:
    r"""The norm test of every coordinate: :math:`\max_j V_j / (\eta^2 g_j^2)`.

    What the theory of AdaGrad asks for; it soon asks for the largest batch, and
    experiments use :func:`norm_test`. The demand is reconstructed from the theory.

    Args:
        eta: :math:`\eta`, in (0, 1).

    Returns:
        A test, as of :func:`norm_test`.

    Raises:
        ValueError: if eta is not positive.
    """
    check("eta", eta)

    def test(batch):
        def largest(variance, mean):
            wanted = _over(variance, jnp.asarray(eta, mean.dtype) ** 2 * mean**2)
            return jnp.max(wanted, initial=0).astype(dtype)

        dtype = core.real_dtype(batch.mean)
        found = jax.tree.map(largest, batch.variance, batch.mean)
        return jnp.max(jnp.stack(jax.tree.leaves(found)))

    return test


def standard_error(batch: BatchStatistics) -> chex.Array:
    r"""The standard error of the gradient of a batch: :math:`\sqrt{\|V\|_1 / b}`."""
    return jnp.sqrt(_spread(batch) / batch.count)


def is_settled(
    batch: BatchStatistics, tol: chex.Numeric, test: BatchTest
) -> chex.Array:
    """Tells whether the gradient is below a tolerance, and not by chance.

    Args:
        batch: its statistics.
        tol: of the Euclidean norm of the gradient.
        test: which the batch must pass.

    Returns:
        (), bool: what may stop a stochastic run.
    """
    small = jnp.sqrt(_squared(batch)) < tol
    return small & (test(batch) <= batch.count)


def _total(tree):
    dtype = core.real_dtype(tree)
    sums = [jnp.sum(leaf).astype(dtype) for leaf in jax.tree.leaves(tree)]
    return sum(sums, jnp.zeros((), dtype))


def _spread(batch):
    return _total(batch.variance)


def _squared(batch):
    return _total(jax.tree.map(jnp.square, batch.mean))


def _along(batch):
    if batch.along is None:
        raise ValueError(
            "this test needs the variance along the mean: use batch_statistics, or "
            "chunked_statistics with along=True; merged statistics are without it."
        )
    return batch.along


def _over(a, b):
    """The quotient, of which 0 / 0 is 0: without variance every batch is enough."""
    quotient = a / jnp.where(b > 0, b, 1)
    quotient = jnp.where(b > 0, quotient, jnp.where(a > 0, jnp.inf, 0))
    return jnp.where(jnp.isnan(a) | jnp.isnan(b), jnp.nan, quotient)
