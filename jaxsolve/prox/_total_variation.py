"""The proximal operator of total variation: taut strings, exact in one dimension."""

import chex
import jax
import jax.numpy as jnp

from jaxsolve.core import memoise
from jaxsolve.prox import _leaves, _pool
from jaxsolve.prox._prox import Prox


@memoise
def total_variation(weight: chex.ArrayTree, *, axis: _leaves.Axis = None) -> Prox:
    r"""Make piecewise constant: the proximal operator of total variation.

    For :math:`g(x) = w \sum_i |x_{i+1} - x_i|`, computes it exactly. On a piece between
    two jumps

    .. math::

        \operatorname{prox}_{t g}(x)
        = \operatorname{mean}(x) + \frac{t w}{n} (\sigma_{right} - \sigma_{left})

    with the signs :math:`\sigma` of the jumps at the ends of its :math:`n` entries,
    upwards one. The jumps are those of the taut string through the sums of :math:`x`,
    which is cut where the sums are furthest from its chord, piece by piece and all
    pieces at once, until no cut is needed: about :math:`\log n` rounds as a rule, and
    never more than :math:`n`.

    Args:
        weight: :math:`w \ge 0`, a scalar; with an axis also an array that broadcasts to
            every leaf with size 1 along that axis, or a pytree of such arrays.
        axis: the axis of every leaf along which a signal runs (several are one signal,
            in row-major order); None for one signal of all entries of all leaves.

    Returns:
        A proximal operator. Its stepsize has the form of the weight. Its derivatives
        are those of the formula.

    Raises:
        ValueError: if the weight is negative or the weight or axis does not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.total_variation(0.5)(jnp.array([1.0, 2.0, 6.0, 8.0]))
        Array([1.5, 2. , 6. , 7.5], dtype=float32)

    References:
        Davies and Kovac, `Local Extremes, Runs, Strings and Multiresolution
        <https://doi.org/10.1214/aos/996986501>`_, 2001. Condat, `A Direct Algorithm for
        1-D Total Variation Denoising <https://doi.org/10.1109/LSP.2013.2278339>`_,
        2013.
    """
    _leaves.check_at_least_zero(weight=weight)

    def flatten(x, t, w):
        if x.size == 0:
            return x
        rows = x.reshape(-1, x.shape[-1])
        tubes = jnp.broadcast_to(t * w, (*x.shape[:-1], 1)).reshape(-1)
        return jax.vmap(taut_string)(rows, tubes).reshape(x.shape)

    def prox(params, stepsize=1.0):
        return _leaves.groupwise(
            flatten, params, axis, stepsize=stepsize, weight=weight
        )

    return prox


def taut_string(x: chex.Array, tube: chex.Array) -> chex.Array:
    """The slopes of the taut string through the sums of `x`, in a tube about them."""
    if x.size < 2:
        return x
    constant = jax.lax.stop_gradient((x, tube))
    start = jnp.zeros(x.size - 1, x.dtype), jnp.ones((), bool)
    side, _ = jax.lax.while_loop(
        lambda carry: carry[1], lambda carry: _cut(*constant, carry[0]), start
    )
    return _slopes(x, tube, side)[0]


def _slopes(x, tube, side):
    """Of the string that touches the tube's lower (1) or upper (-1) side between."""
    cuts = side != 0
    begins = jnp.concatenate([jnp.zeros(1, bool), cuts])
    block = jnp.cumsum(begins, dtype=jnp.int32)
    # The string lies below the sums by as much of the tube.
    ends = jnp.pad(side, 1)
    count = _pool.block_sums(jnp.ones_like(x), block)
    base = jax.lax.stop_gradient(_pool.block_max(x, block))
    total = _pool.block_sums(x - base - tube * (ends[1:] - ends[:-1]), block)
    return base + total / count, block


def _cut(x, tube, side):
    """Cuts every piece where it leaves the tube furthest, upwards and downwards.

    The string has its highest point above a chord where the tube's lower side has its,
    if that is above the chord at all: whatever else, it touches there.
    """
    slopes, block = _slopes(x, tube, side)
    above = jnp.cumsum(x - slopes)[:-1]
    inner = side == 0
    size = x.size - 1
    leaves = jnp.stack([above, -above], 1)
    reach = jnp.where(inner[:, None], leaves, -jnp.inf)
    most = jax.ops.segment_max(reach, block[:-1], x.size, indices_are_sorted=True)
    new = inner[:, None] & (leaves >= tube) & (leaves >= most[block[:size]])
    upper = jnp.where(new[:, 1], -1, 0)
    side = side + jnp.where(new[:, 0], 1, upper).astype(x.dtype)
    return side, jnp.any(new)
