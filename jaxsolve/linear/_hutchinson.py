"""Traces and diagonals from random products."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.linear._operator import (
    HIGHEST,
    Operator,
    as_product,
    check_count,
    inner,
    rademacher,
    widened,
)
from jaxsolve.linear._samples import Estimate, map_samples, mean, ratio


def hutchinson_trace(
    operator: Operator,
    like: chex.ArrayTree | None = None,
    *,
    key: chex.PRNGKey,
    samples: int = 1,
    sampler: Callable = rademacher,
    chunk: int = 8,
) -> Estimate:
    r"""Estimates a trace by Hutchinson's method.

    With random vectors :math:`z_s` of independent entries, of mean zero and variance
    one, computes

    .. math::

        \frac1N \sum_{s=1}^N z_s^\top A z_s

    whose mean is :math:`\operatorname{tr} A`. For a symmetric matrix a sample has the
    variance :math:`2 (\|A\|_F^2 - \sum_i a_{ii}^2)` with signs, which are exact on
    diagonal ones, and :math:`2 \|A\|_F^2` with normal numbers. Derivatives are those of
    the samples, unbiased as they are.

    Args:
        operator: :math:`A`: a function ``v -> A v`` of trees, a lineax operator, or a
            matrix.
        like: a tree of the form of v, if the operator is a function.
        key: of the vectors.
        samples: :math:`N`, at least one.
        sampler: as ``sampler(key, like)``; ``linear.rademacher``, which draws signs, or
            ``linear.gaussian``.
        chunk: how many products are taken at a time, which bounds the memory; what is
            drawn does not depend on it.

    Returns:
        The estimate and its standard error, scalars.

    Raises:
        ValueError: if `like` is missing, or is not what a product returns; if `samples`
            or `chunk` is below one.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve import linear
        >>> scales = jnp.array([1.0, 2.0, 3.0])
        >>> trace = linear.hutchinson_trace(
        ...     lambda v: scales * v, scales, key=jax.random.key(0), samples=4)
        >>> print(trace.value, trace.error)
        6.0 0.0

    References:
        Hutchinson, `A Stochastic Estimator of the Trace of the Influence Matrix for
        Laplacian Smoothing Splines <https://doi.org/10.1080/03610918908812806>`_, 1989.
    """
    product, like = as_product(operator, like)

    def sample(key):
        z = sampler(key, like)
        return inner(z, product(z))

    return mean(map_samples(sample, key, samples, chunk))


def hutchinson_diagonal(
    operator: Operator,
    like: chex.ArrayTree | None = None,
    *,
    key: chex.PRNGKey,
    samples: int = 1,
    sampler: Callable = rademacher,
    chunk: int = 8,
) -> Estimate:
    r"""Estimates a diagonal by Hutchinson's method.

    With random vectors :math:`z_s` as for :func:`hutchinson_trace`, computes entry by
    entry

    .. math::

        \sum_{s=1}^N z_s \odot A z_s \Big/ \sum_{s=1}^N z_s \odot z_s

    With signs the denominator is N, the mean the diagonal, and the variance of a sample
    :math:`\sum_{j \ne i} a_{ij}^2` for the entry i.

    Args:
        operator: :math:`A`; see :func:`hutchinson_trace`, also for the others.
        like: a tree of the form of v, if the operator is a function.
        key: of the vectors.
        samples: :math:`N`, at least one.
        sampler: ``linear.rademacher`` or ``linear.gaussian``; with the latter the ratio
            has a bias of the order of 1/N.
        chunk: how many products are taken at a time.

    Returns:
        The estimate and its standard error, trees like v of at least 32 bits.

    Raises:
        ValueError: as :func:`hutchinson_trace`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve import linear
        >>> fun = lambda x: jnp.sum(x**3)
        >>> x = jnp.array([1.0, 2.0])
        >>> product = linear.hessian_product(fun, x)
        >>> print(linear.hutchinson_diagonal(product, x, key=jax.random.key(0)).value)
        [ 6. 12.]

    References:
        Bekas, Kokiopoulou and Saad, `An Estimator for the Diagonal of a Matrix
        <https://doi.org/10.1016/j.apnum.2007.01.003>`_, 2007.
    """
    check_count("samples", samples)
    product, like = as_product(operator, like)

    def sample(key):
        z = sampler(key, like)
        wide, image = widened(z), widened(product(z))
        return jax.tree.map(jnp.multiply, wide, image), jax.tree.map(jnp.square, wide)

    return ratio(sample, key, samples, chunk)


def hutch_plus_plus(
    operator: Operator,
    like: chex.ArrayTree | None = None,
    *,
    key: chex.PRNGKey,
    samples: int = 30,
    sampler: Callable = rademacher,
    chunk: int = 8,
) -> Estimate:
    r"""Estimates a trace, exactly on what a sketch finds of the range.

    With :math:`k = \lfloor N / 3 \rfloor` random vectors in the columns of S, and
    :math:`N - 2 k` further ones :math:`z_s`, computes

    .. math::

        Q &= \operatorname{orth}(A S) \\
        t &= \operatorname{tr}(Q^\top A Q) + \frac{1}{N - 2 k} \sum_s
        z_s^\top (I - Q Q^\top) A (I - Q Q^\top) z_s

    For positive semi-definite matrices its error falls like :math:`1 / N`, that of
    :func:`hutchinson_trace` like :math:`1 / \sqrt N`. It keeps k vectors. Derivatives
    are those for a fixed Q, unbiased as they are.

    Args:
        operator: :math:`A`; see :func:`hutchinson_trace`, also for the others.
        like: a tree of the form of v, if the operator is a function.
        key: of the vectors.
        samples: :math:`N`, the number of products, at least three.
        sampler: ``linear.rademacher`` or ``linear.gaussian``.
        chunk: how many products are taken at a time.

    Returns:
        The estimate and the standard error of its second term, scalars.

    Raises:
        ValueError: as :func:`hutchinson_trace`, or if `samples` is below three.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve import linear
        >>> trace = linear.hutch_plus_plus(
        ...     jnp.ones((8, 8)), key=jax.random.key(0), samples=6)  # of rank one
        >>> print(f"{trace.value:.3f}")
        8.000

    References:
        Meyer, Musco, Musco and Woodruff, `Hutch++: Optimal Stochastic Trace Estimation
        <https://arxiv.org/abs/2010.09649>`_, 2021. Algorithm 1.
    """
    check_count("samples", samples, 3)
    product, like = as_product(operator, like)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    unravel = core.ravel(zeros)[1]
    image = lambda v: core.ravel(product(unravel(v)))[0]
    draw = lambda key: core.ravel(sampler(key, like))[0]
    first, second = jax.random.split(key)
    rank = samples // 3

    sketch = map_samples(lambda key: image(draw(key)), first, rank, chunk)
    basis = jnp.linalg.qr(jax.lax.stop_gradient(sketch).T)[0]
    images = jax.lax.map(image, basis.T, batch_size=min(chunk, basis.shape[1]))
    known = jnp.sum(basis.T * images)

    def rest(key):
        z = draw(key)
        part = jnp.matmul(z, basis, precision=HIGHEST)
        z = z - jnp.matmul(basis, part, precision=HIGHEST)
        return jnp.sum(z * image(z))

    left = mean(map_samples(rest, second, samples - 2 * rank, chunk))
    return Estimate(known + left.value, left.error)
