"""Traces of functions, and spectra: stochastic Lanczos quadrature."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.linear._lanczos import function_times_start, lanczos, quadrature
from jaxsolve.linear._operator import (
    Operator,
    as_product,
    check_count,
    inner,
    rademacher,
)
from jaxsolve.linear._samples import Estimate, map_samples, mean


class Spectrum(NamedTuple):
    """Ritz values of several random starts, with the weights of a quadrature."""

    values: chex.Array  # (N, m), real: from the least in each row.
    weights: chex.Array  # (N, m), real: not negative; those of a row sum to about one.
    size: chex.Array  # (), real: n, the trace of the identity.


def trace_of_function(
    fun: Callable[[chex.Array], chex.Array],
    operator: Operator,
    like: chex.ArrayTree | None = None,
    *,
    steps: int,
    key: chex.PRNGKey,
    samples: int = 10,
    sampler: Callable = rademacher,
    chunk: int = 16,
) -> Estimate:
    r"""Estimates the trace of a function of a symmetric operator: Lanczos quadrature.

    For random vectors :math:`v_s` with the Ritz values :math:`\theta_{sk}` and weights
    :math:`\tau_{sk}` of :func:`lanczos`, computes

    .. math::

        \operatorname{tr} f(A) \approx \frac1N \sum_s \|v_s\|^2 \sum_k \tau_{sk}
        f(\theta_{sk})

    With the logarithm it is that of the determinant. The quadrature is exact for
    polynomials of a degree below 2 m.

    It is differentiable, in both modes, in what `operator` and `fun` close over. For a
    change E of the operator the same vectors estimate the derivative
    :math:`\operatorname{tr} f'(A) E` by the mean of :math:`\langle f'(A) v_s, E v_s
    \rangle`, at the price of one product. It has no bias, but it is not the derivative
    of the samples. There is no second derivative in the operator: it is refused.

    Args:
        fun: :math:`f`, smooth on the spectrum, as ``fun(number) -> number``.
        operator: :math:`A`, symmetric; see :func:`hutchinson_trace`, also for the
            others.
        like: a tree of the form of v, if the operator is a function.
        steps: :math:`m`, the products of a sample.
        key: of the vectors.
        samples: :math:`N`, at least one.
        sampler: ``linear.rademacher`` or ``linear.gaussian``.
        chunk: how many samples are taken at a time.

    Returns:
        The estimate and its standard error, scalars.

    Raises:
        ValueError: as :func:`hutchinson_trace` and :func:`lanczos`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve import linear
        >>> matrix = jnp.diag(jnp.array([1.0, 2.0, 8.0]))
        >>> log_det = linear.trace_of_function(
        ...     jnp.log2, matrix, steps=3, key=jax.random.key(0), samples=2)
        >>> print(f"{log_det.value:.3f}")
        4.000

    References:
        Ubaru, Chen and Saad, `Fast Estimation of tr(f(A)) via Stochastic Lanczos
        Quadrature <https://doi.org/10.1137/16M1104974>`_, 2017.
    """
    check_count("steps", steps)
    product, like = as_product(operator, like)
    dtype = core.real_dtype(like)
    example = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
    fun, numbers = jax.closure_convert(fun, jnp.zeros((), dtype))
    product, weights = jax.closure_convert(product, example)

    @jax.custom_jvp
    def sample(numbers, weights, vector):
        krylov = lanczos(lambda v: product(v, *weights), vector, steps)
        return quadrature(krylov, jax.vmap(lambda x: fun(x, *numbers))(krylov.values))

    @sample.defjvp
    def _(primals, tangents):
        numbers, weights, vector = primals
        krylov = _once(lanczos(lambda v: product(v, *weights), vector, steps))
        at = lambda x: fun(x, *numbers)
        images, slopes = jax.vmap(jax.value_and_grad(at))(krylov.values)
        along = lambda weights: product(vector, *weights)
        change = jax.jvp(along, (weights,), (tangents[1],))[1]
        change = inner(function_times_start(krylov, slopes), change)
        if numbers:
            every = lambda numbers: jax.vmap(lambda x: fun(x, *numbers))(krylov.values)
            bend = jax.jvp(every, (numbers,), (tangents[0],))[1]
            change = change + quadrature(krylov, bend)
        return quadrature(krylov, images), change

    draw = lambda key: jax.lax.stop_gradient(sampler(key, like))
    each = lambda key: sample(numbers, weights, draw(key))
    # A rule that is to refuse its own derivative does not within a scan.
    return mean(map_samples(each, key, samples, chunk, unrolled=True))


def lanczos_spectrum(
    operator: Operator,
    like: chex.ArrayTree | None = None,
    *,
    steps: int,
    key: chex.PRNGKey,
    samples: int = 10,
    sampler: Callable = rademacher,
    chunk: int = 16,
) -> Spectrum:
    r"""Samples the spectrum of a symmetric operator by Lanczos' method.

    The measure that has the weight :math:`\|v_s\|^2 \tau_{sk} / (n N)` at each Ritz
    value :math:`\theta_{sk}` approximates the one that has :math:`1 / n` at each
    eigenvalue.

    Args:
        operator: :math:`A`; see :func:`trace_of_function`, also for the others.
        like: a tree of the form of v, if the operator is a function.
        steps: :math:`m`, the products of a sample.
        key: of the vectors.
        samples: :math:`N`, at least one.
        sampler: ``linear.rademacher`` or ``linear.gaussian``.
        chunk: how many samples are taken at a time.

    Returns:
        The Ritz values and weights of all samples, for :func:`spectral_sum` of many
        functions and :func:`spectral_density`.

    Raises:
        ValueError: as :func:`trace_of_function`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve import linear
        >>> matrix = jnp.diag(jnp.array([1.0, 2.0, 8.0]))
        >>> spectrum = linear.lanczos_spectrum(
        ...     matrix, steps=3, key=jax.random.key(0), samples=1)
        >>> print(jnp.round(spectrum.values, 3))
        [[1. 2. 8.]]

    References:
        Ghorbani, Krishnan and Xiao, `An Investigation into Neural Net Optimization via
        Hessian Eigenvalue Density <https://arxiv.org/abs/1901.10159>`_, 2019.
    """
    product, like = as_product(operator, like)
    dtype = core.real_dtype(like)
    size = jnp.asarray(sum(x.size for x in jax.tree.leaves(like)), dtype)

    def sample(key):
        krylov = lanczos(product, sampler(key, like), steps)
        return krylov.values, krylov.weights * krylov.norm**2 / jnp.maximum(size, 1)

    values, weights = map_samples(sample, key, samples, chunk)
    return Spectrum(values, weights, size)


def spectral_sum(
    spectrum: Spectrum, fun: Callable[[chex.Array], chex.Array]
) -> Estimate:
    """Estimates the trace of a function of the operator that a spectrum is of.

    Args:
        spectrum: of :func:`lanczos_spectrum`.
        fun: as ``fun(number) -> number``.

    Returns:
        The estimate and its standard error, scalars.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve import linear
        >>> spectrum = linear.lanczos_spectrum(
        ...     jnp.diag(jnp.array([1.0, 2.0])), steps=2, key=jax.random.key(0))
        >>> print(f"{linear.spectral_sum(spectrum, lambda x: x**3).value:.3f}")
        9.000
    """
    images = jax.vmap(jax.vmap(fun))(spectrum.values)
    images = jnp.where(spectrum.weights > 0, images, 0)
    sums = jnp.sum(spectrum.weights * images, axis=1)
    return mean(sums * spectrum.size)


def spectral_density(
    spectrum: Spectrum, points: chex.Array, width: chex.Numeric | None = None
) -> chex.Array:
    r"""Evaluates the density of a spectrum, smoothed by a Gaussian.

    Args:
        spectrum: of :func:`lanczos_spectrum`.
        points: where to, an array of any shape.
        width: the standard deviation, positive; a hundredth of the range of the Ritz
            values by default.

    Returns:
        The density, like `points`; over the line it integrates to one.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve import linear
        >>> spectrum = linear.lanczos_spectrum(
        ...     jnp.eye(2), steps=1, key=jax.random.key(0), samples=1)
        >>> print(f"{linear.spectral_density(spectrum, 1.0, 0.5):.3f}")
        0.798
    """
    values, weights = spectrum.values.ravel(), spectrum.weights
    points = jnp.asarray(points, values.dtype)
    if width is None:
        reach = jnp.max(values) - jnp.min(values)
        fallback = 0.01 * jnp.maximum(jnp.max(jnp.abs(values)), 1)
        width = jnp.where(reach > 0, 0.01 * reach, fallback)
    width = jnp.asarray(width, values.dtype)
    shares = (weights / jnp.sum(weights)).ravel()

    def at(point):
        bells = jnp.exp(-(((point - values) / width) ** 2) / 2)
        return jnp.sum(shares * bells) / (width * (2 * jnp.pi) ** 0.5)

    return jax.lax.map(at, points.ravel(), batch_size=256).reshape(points.shape)


@jax.custom_jvp
def _once(krylov):
    return krylov


@_once.defjvp
def _(primals, tangents):
    raise ValueError(
        "trace_of_function is differentiable once in its operator: for more, write its "
        "derivative as the mean of inner products of linear.matrix_function(f', A, v) "
        "with E v, and differentiate that in reverse mode."
    )
