"""Mirror maps: distances that fit a set, for mirror descent and its kin."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve.core import memoise
from jaxsolve.prox import _leaves, _power
from jaxsolve.prox._prox import Prox, identity
from jaxsolve.prox._sets import check_group, non_negative, simplex


class MirrorMap(NamedTuple):
    r"""A distance D that fits a set C, by what solvers ask of it.

    Anyone may make one of functions of his own.

    Attributes:
        step: as ``step(point, grad, stepsize) -> params``, the minimiser over C of
            :math:`\langle g, x \rangle + D(x, z) / t`.
        divergence: as ``divergence(x, point) -> scalar``, :math:`D(x, z) \ge 0`.
        projection: onto C in the 2-norm, as ``projection(params) -> params``, by which
            solvers differentiate a solution; None where it is not known.
        violation: as ``violation(params, grad)``, like params: zero where params
            minimise :math:`\langle g, x \rangle` over C, and there only, by which
            solvers certify a solution; None where the projection, or else the step, is
            to do that.
    """

    step: Callable
    divergence: Callable
    projection: Prox | None = None
    violation: Callable | None = None


@memoise
def euclidean_map(projection: Prox | None = None) -> MirrorMap:
    r"""Make the mirror map of the 2-norm: mirror descent is projected gradient.

    For :math:`D(x, z) = \tfrac{1}{2} \|x - z\|_2^2` its step is

    .. math::

        x^+ = P_C(z - t g)

    Args:
        projection: :math:`P_C`; by default the set is the whole space.

    Returns:
        A `MirrorMap`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> mirror = prox.euclidean_map(prox.non_negative())
        >>> mirror.step(jnp.array([1.0, 2.0]), jnp.array([2.0, 2.0]), 0.5)
        Array([0., 1.], dtype=float32)
    """
    project = identity() if projection is None else projection

    def step(point, grad, stepsize=1.0):
        move = lambda z, g, t: z - t * g
        return project(
            _leaves.leafwise(move, point, grad=grad, stepsize=_scalar(stepsize))
        )

    def divergence(params, point):
        return _total(lambda x, z: (x - z) ** 2 / 2, params, point)

    return MirrorMap(step, divergence, project)


@memoise
def entropy_map(
    radius: chex.Numeric | None = 1.0, *, axis: _leaves.Axis = None
) -> MirrorMap:
    r"""Make the mirror map of Shannon's entropy, for the simplex or the orthant.

    For the Kullback-Leibler divergence :math:`D(x, z) = \sum_i x_i \log(x_i / z_i) -
    x_i + z_i` its step on the simplex is multiplicative, found in the log domain:

    .. math::

        x^+ = r \operatorname{softmax}(\log z - t g)

    and :math:`x^+ = z \exp(-t g)` on the orthant. Zeros stay zero; other entries never
    become zero by underflow, but stay at the least normal number of their dtype.

    Args:
        radius: :math:`r > 0`, to which entries sum on the simplex; None for the
            non-negative orthant.
        axis: the axis, or axes, of every leaf along which entries sum to the radius;
            None where all entries of all leaves do.

    Returns:
        A `MirrorMap`. Negative entries of a point count as zero; a group of zeros, as
        one of equals on the simplex.

    Raises:
        ValueError: if the radius is not positive and finite.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> mirror = prox.entropy_map()
        >>> x = mirror.step(jnp.array([0.5, 0.5, 0.0]), jnp.array([0.0, 1.0, 2.0]), 1.0)
        >>> print(jnp.round(100 * x))
        [73. 27.  0.]

    References:
        Beck and Teboulle, `Mirror descent and nonlinear projected subgradient methods
        <https://doi.org/10.1016/S0167-6377(02)00231-6>`_, 2003. Section 5.
    """
    return _separable(_power.entropy(), radius, axis)


@memoise
def tsallis_map(
    q: chex.Numeric, radius: chex.Numeric | None = 1.0, *, axis: _leaves.Axis = None
) -> MirrorMap:
    r"""Make the mirror map of Tsallis' entropy, for the simplex or the orthant.

    For the divergence of :math:`h(x) = \sum_i \frac{x_i^q}{q (q - 1)}` its step is

    .. math::

        x^+_i = (z_i^{q - 1} + (1 - q) (t g_i - \lambda))^{-1 / (1 - q)}

    where :math:`\lambda` makes the entries sum to :math:`r`, found by Newton's method;
    on the orthant it is zero, and entries are infinite where no minimiser exists.
    Between the entropy (:math:`q \to 1`) and the logarithmic barrier (:math:`q \to 0`):
    small entries fall like :math:`k^{-1 / (1 - q)}` over k steps, not exponentially,
    and come back sooner.

    Args:
        q: the exponent, in (0, 1).
        radius: :math:`r > 0`, to which entries sum on the simplex; None for the
            non-negative orthant.
        axis: the axis, or axes, of every leaf along which entries sum to the radius;
            None where all entries of all leaves do.

    Returns:
        A `MirrorMap`. Zeros and negative entries are as in `entropy_map`.

    Raises:
        ValueError: if q is not in (0, 1), or the radius not positive and finite.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> mirror = prox.tsallis_map(0.5)
        >>> mirror.step(jnp.array([0.25, 0.75]), jnp.zeros(2), 1.0)
        Array([0.25, 0.75], dtype=float32)

    References:
        Zimmert and Seldin, `Tsallis-INF: An Optimal Algorithm for Stochastic and
        Adversarial Bandits <https://jmlr.org/papers/v22/19-753.html>`_, 2021.
        Algorithm 1 and Section 3.3.
    """
    known = _leaves.known(q)
    if np.ndim(q) or (known is not None and not 0 < known < 1):
        raise ValueError(
            f"q must be one number in (0, 1), got {q}; use prox.entropy_map for 1 and "
            "prox.log_barrier_map for 0."
        )
    return _separable(_power.power(q), radius, axis)


@memoise
def log_barrier_map(
    radius: chex.Numeric | None = 1.0, *, axis: _leaves.Axis = None
) -> MirrorMap:
    r"""Make the mirror map of the logarithmic barrier, for the simplex or the orthant.

    For the Itakura-Saito divergence :math:`D(x, z) = \sum_i x_i / z_i - \log(x_i / z_i)
    - 1` its step is

    .. math::

        x^+_i = \frac{1}{1 / z_i + t g_i - \lambda}

    where :math:`\lambda` makes the entries sum to :math:`r`, found by Newton's method;
    on the orthant it is zero, and entries are infinite where no minimiser exists. Fits
    objectives with logarithms of linear functions, such as Poisson likelihoods and
    optimal designs, whose gradients have no Lipschitz constant. Entries that vanish at
    the solution do so as one over the number of steps.

    Args:
        radius: :math:`r > 0`, to which entries sum on the simplex; None for the
            non-negative orthant.
        axis: the axis, or axes, of every leaf along which entries sum to the radius;
            None where all entries of all leaves do.

    Returns:
        A `MirrorMap`. Zeros and negative entries are as in `entropy_map`.

    Raises:
        ValueError: if the radius is not positive and finite.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> mirror = prox.log_barrier_map(radius=None)
        >>> mirror.step(jnp.array([1.0, 0.5]), jnp.array([1.0, -1.0]), 1.0)
        Array([0.5, 1. ], dtype=float32)

    References:
        Bauschke, Bolte and Teboulle, `A Descent Lemma Beyond Lipschitz Gradient
        Continuity <https://doi.org/10.1287/moor.2016.0817>`_, 2017. Section 5.
    """
    return _separable(_power.power(0.0), radius, axis)


def _separable(distance, radius, axis):
    """The mirror map of a distance on the simplex, or on the orthant."""
    known = None if radius is None else _leaves.known(radius)
    if np.ndim(radius) or (known is not None and not 0 < known < np.inf):
        raise ValueError(
            f"radius must be one positive, finite number, got {radius}; pass "
            "radius=None for the non-negative orthant."
        )

    def step(point, grad, stepsize=1.0):
        wide = _leaves.widen(point)
        scaled = lambda z, g, t: distance.shift(z, t * g)
        dual = _leaves.leafwise(scaled, wide, grad=grad, stepsize=_scalar(stepsize))
        if radius is None:
            new = jax.tree.map(distance.primal, dual)
        else:
            new = _leaves.groupwise(distance.normalise, dual, axis, radius=radius)
        return _leaves.narrow(jax.tree.map(_floor, new, wide), point)

    def divergence(params, point):
        return _total(distance.divergence, params, point)

    def violation(params, grad):
        wide = _leaves.widen(params)
        if radius is None:
            # Not x - max(x - g, 0), where a small gradient is lost in a large entry.
            return _leaves.leafwise(jnp.minimum, wide, grad=grad)
        entries = {"grad": grad}
        return _leaves.groupwise(_complementarity, wide, axis, entries, radius=radius)

    projection = non_negative() if radius is None else simplex(radius, axis=axis)
    return MirrorMap(step, divergence, projection, violation)


def _complementarity(x, g, radius):
    """Each entry is zero or its gradient the least: a simplex, without a sort."""
    check_group(x)
    slack = g - jnp.min(g, -1, keepdims=True)
    outside = jnp.abs(jnp.sum(x, -1, keepdims=True) - radius)
    return jnp.maximum(jnp.abs(jnp.minimum(x, slack)), outside)


def _floor(x, z):
    # A positive entry that underflows could never come back.
    return jnp.where((z > 0) & (x == x), jnp.maximum(x, jnp.finfo(x.dtype).tiny), x)


def _scalar(stepsize):
    if not _leaves.is_scalar(stepsize):
        raise ValueError(
            "stepsize must be one number for a mirror step, got "
            f"{jax.tree.map(jnp.shape, stepsize)}: the set couples all entries."
        )
    return stepsize


def _total(entries, params, point):
    """The sum of entries(x, z) over all leaves, in the widest dtype among them."""
    wide = _leaves.widen(params)
    dtype = _leaves.working_dtype(wide)
    point = jax.tree.map(lambda z: jnp.asarray(z, dtype), _leaves.real(point))
    sums = jax.tree.map(lambda x, z: jnp.sum(entries(x, z)), wide, point)
    return sum(jax.tree.leaves(sums), start=jnp.zeros((), dtype))
