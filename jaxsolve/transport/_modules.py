"""The soft operators as layers of an equinox network."""

import math
from collections.abc import Sequence

import chex
import equinox as eqx
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.transport._soft import (
    sinkhorn_layer,
    soft_quantile,
    soft_rank,
    soft_sort,
    soft_top_k,
)


class Tempered(eqx.Module):
    """What the layers share: a temperature, fixed or trained, and a tolerance."""

    log_epsilon: chex.Array | None  # (), real: where the temperature is trained.
    fixed: float | None = eqx.field(static=True)  # the temperature, where it is not.
    tol: float | None = eqx.field(static=True)

    def __init__(self, epsilon: float, trained: bool, tol: float | None):
        if not 0 < epsilon < math.inf:
            raise ValueError(f"epsilon must be positive and finite, got {epsilon!r}.")
        log = math.log(epsilon)
        self.log_epsilon = jnp.asarray(log, jnp.result_type(float)) if trained else None
        self.fixed, self.tol = None if trained else float(epsilon), tol

    @property
    def epsilon(self) -> chex.Numeric:
        """The temperature."""
        return self.fixed if self.log_epsilon is None else jnp.exp(self.log_epsilon)


class SinkhornLayer(Tempered):
    """Turns scores into a matching: `sinkhorn_layer` as a layer.

    Args:
        epsilon: the temperature, in units of the scores.
        trained: whether it is a parameter. It is trained by its logarithm, and so stays
            positive.
        a: the sums of the rows, constants: (n,), ones by default.
        b: those of the columns: (m,), each n / m by default.
        tol: as of `sinkhorn_layer`.

    Raises:
        ValueError: if `epsilon` is not positive; where it is called, as
            `sinkhorn_layer`.

    Examples:
        >>> import equinox as eqx, jax, jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> layer = transport.SinkhornLayer(epsilon=0.5, trained=True)
        >>> loss = lambda layer, scores: jnp.sum(layer(scores) ** 2)
        >>> eqx.filter_grad(loss)(layer, jnp.eye(3)).log_epsilon.shape
        ()

    References:
        As `sinkhorn_layer`.
    """

    a: tuple[float, ...] | None = eqx.field(static=True)
    b: tuple[float, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        *,
        epsilon: float = 1.0,
        trained: bool = False,
        a: Sequence[float] | None = None,
        b: Sequence[float] | None = None,
        tol: float | None = None,
    ):
        super().__init__(epsilon, trained, tol)
        # Tuples: arrays would be taken for parameters, and trained.
        self.a, self.b = (w if w is None else tuple(map(float, w)) for w in (a, b))

    def __call__(self, scores: chex.Array, *, key: chex.PRNGKey | None = None):
        """Matches: scores (..., n, m), real, to a matching of that shape."""
        dtype = core.real_dtype(scores)
        a, b = (None if w is None else jnp.asarray(w, dtype) for w in (self.a, self.b))
        return sinkhorn_layer(scores, epsilon=self.epsilon, a=a, b=b, tol=self.tol)


class SoftSort(Tempered):
    """Sorts in increasing order, softly: `soft_sort` as a layer.

    Args:
        epsilon: the temperature, relative to a unit interval squared.
        trained: as of `SinkhornLayer`.
        targets: how many numbers to return; as many as come in by default.
        axis: along which to sort.
        tol: as of `sinkhorn_layer`.

    Raises:
        ValueError: if `epsilon` is not positive; where it is called, as `soft_sort`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> layer = transport.SoftSort(epsilon=1e-3)
        >>> print(layer(jnp.array([3.0, 1.0, 2.0])).round(2))
        [1. 2. 3.]

    References:
        As `soft_sort`.
    """

    targets: int | None = eqx.field(static=True)
    axis: int = eqx.field(static=True)

    def __init__(
        self,
        *,
        epsilon: float = 1e-2,
        trained: bool = False,
        targets: int | None = None,
        axis: int = -1,
        tol: float | None = None,
    ):
        super().__init__(epsilon, trained, tol)
        self.targets, self.axis = targets, axis

    def __call__(self, x: chex.Array, *, key: chex.PRNGKey | None = None):
        """Sorts x, (..., n, ...), real."""
        return soft_sort(
            x,
            epsilon=self.epsilon,
            targets=self.targets,
            axis=self.axis,
            tol=self.tol,
        )


class SoftRank(Tempered):
    """Ranks from 0 to n - 1, softly: `soft_rank` as a layer.

    Args:
        epsilon: as of `SoftSort`.
        trained: as of `SinkhornLayer`.
        axis: along which to rank.
        tol: as of `sinkhorn_layer`.

    Raises:
        ValueError: if `epsilon` is not positive; where it is called, as `soft_rank`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> layer = transport.SoftRank(epsilon=1e-3)
        >>> print(layer(jnp.array([3.0, 1.0, 2.0])).round(2))
        [2. 0. 1.]

    References:
        As `soft_sort`.
    """

    axis: int = eqx.field(static=True)

    def __init__(
        self,
        *,
        epsilon: float = 1e-2,
        trained: bool = False,
        axis: int = -1,
        tol: float | None = None,
    ):
        super().__init__(epsilon, trained, tol)
        self.axis = axis

    def __call__(self, x: chex.Array, *, key: chex.PRNGKey | None = None):
        """Ranks x, (..., n, ...), real."""
        return soft_rank(x, epsilon=self.epsilon, axis=self.axis, tol=self.tol)


class SoftQuantile(Tempered):
    """A quantile, softly: `soft_quantile` as a layer.

    Args:
        level: of the quantile, a constant.
        width: the share of the values that are averaged; 1 / n by default.
        epsilon: as of `SoftSort`.
        trained: as of `SinkhornLayer`.
        axis: along which the values lie.
        tol: as of `sinkhorn_layer`.

    Raises:
        ValueError: if `epsilon` is not positive; where it is called, as
            `soft_quantile`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> layer = transport.SoftQuantile(0.5, epsilon=1e-3)
        >>> print(layer(jnp.array([3.0, 1.0, 2.0, 9.0, 4.0])).round(2))
        3.0

    References:
        As `soft_quantile`.
    """

    level: float = eqx.field(static=True)
    width: float | None = eqx.field(static=True)
    axis: int = eqx.field(static=True)

    def __init__(
        self,
        level: float,
        *,
        width: float | None = None,
        epsilon: float = 1e-2,
        trained: bool = False,
        axis: int = -1,
        tol: float | None = None,
    ):
        super().__init__(epsilon, trained, tol)
        self.level, self.width, self.axis = level, width, axis

    def __call__(self, x: chex.Array, *, key: chex.PRNGKey | None = None):
        """Computes the quantile of x, (..., n, ...), real."""
        return soft_quantile(
            x,
            self.level,
            width=self.width,
            epsilon=self.epsilon,
            axis=self.axis,
            tol=self.tol,
        )


class SoftTopK(Tempered):
    """Marks the k largest values, softly: `soft_top_k` as a layer.

    Args:
        k: how many.
        epsilon: as of `SoftSort`.
        trained: as of `SinkhornLayer`.
        axis: along which to choose.
        tol: as of `sinkhorn_layer`.

    Raises:
        ValueError: if `epsilon` is not positive; where it is called, as `soft_top_k`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transport
        >>> layer = transport.SoftTopK(2, epsilon=1e-3)
        >>> print(layer(jnp.array([3.0, 1.0, 2.0, 9.0])).round(2))
        [1. 0. 0. 1.]

    References:
        As `soft_top_k`.
    """

    k: int = eqx.field(static=True)
    axis: int = eqx.field(static=True)

    def __init__(
        self,
        k: int,
        *,
        epsilon: float = 1e-2,
        trained: bool = False,
        axis: int = -1,
        tol: float | None = None,
    ):
        super().__init__(epsilon, trained, tol)
        self.k, self.axis = k, axis

    def __call__(self, x: chex.Array, *, key: chex.PRNGKey | None = None):
        """Marks the largest of x, (..., n, ...), real."""
        return soft_top_k(x, self.k, epsilon=self.epsilon, axis=self.axis, tol=self.tol)
