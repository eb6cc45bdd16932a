"""The proximal operator of total variation in two dimensions, by that in one."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve.core import memoise
from jaxsolve.prox import _leaves, _spectral
from jaxsolve.prox._prox import Prox
from jaxsolve.prox._total_variation import taut_string


class _Dual(NamedTuple):
    columns: chex.Array  # q, of the columns.
    ahead: chex.Array  # its extrapolation.
    momentum: chex.Array  # ()
    error: chex.Array  # (): the largest change of q in the last step.
    count: chex.Array  # (), int32


@memoise
def image_variation(
    weight: chex.ArrayTree, *, tol: float | None = None, max_steps: int = 2000
) -> Prox:
    r"""Make images piecewise constant: the operator of total variation along two axes.

    For the anisotropic
    :math:`g(x) = w \sum |x_{i+1,j} - x_{i,j}| + |x_{i,j+1} - x_{i,j}|`, that is
    :math:`w` times the total variation :math:`R` of rows and :math:`C` of columns,
    iterates on a dual :math:`q`, extrapolated to :math:`\bar q` with restarts,

    .. math::

        x = \operatorname{prox}_{t w R}(y - \bar q), \qquad
        q^+ = \bar q + x - \operatorname{prox}_{t w C}(\bar q + x)

    with :func:`total_variation` of all rows, then of all columns. It is no closed form:
    ``tol`` bounds the last change of :math:`q`, not the error, which may be larger.
    An image for which ``max_steps`` ran out is NaN, so that a solver around it ends as
    diverged.

    The derivative is the limit's, if the pieces are those found: means over the
    connected pieces of pixels that differ by less than ``100 tol`` of the range of
    :math:`y`, plus what the weight adds along their borders.

    Args:
        weight: :math:`w \ge 0`, a scalar, an array that broadcasts to every leaf with
            size 1 along its last two axes, or a pytree of such arrays.
        tol: relative to the largest distance of :math:`y` from its mean, where the
            largest change of :math:`q` in a step ends the iteration; 32 times the
            machine epsilon by default.
        max_steps: the most steps, after which the image is given up.

    Returns:
        A proximal operator. Each leaf of params is an image, or a stack of images in
        its last two axes. Its stepsize has the form of the weight.

    Raises:
        ValueError: if the weight is negative or does not fit params, or if a leaf has
            fewer than two axes.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> image = jnp.array([[0.0, 0.0, 8.0], [0.0, 4.0, 8.0], [0.0, 0.0, 8.0]])
        >>> print(prox.image_variation(0.5)(image))
        [[0.5 0.5 7.5]
         [0.5 3.  7.5]
         [0.5 0.5 7.5]]

    References:
        Chambolle, Tan and Vaiter, `Accelerated Alternating Descent Methods for
        Dykstra-Like Problems <https://doi.org/10.1007/s10851-017-0724-6>`_, 2017.
        Barbero and Sra, `Modular Proximal Optimization for Multidimensional
        Total-Variation Regularization <https://arxiv.org/abs/1411.0589>`_, 2018.
    """
    _leaves.check_at_least_zero(weight=weight)

    def flatten(x, t, w):
        images = x.reshape(-1, *x.shape[-2:])
        tubes = jnp.broadcast_to(t * w, (*x.shape[:-2], 1, 1)).reshape(-1)
        return jax.vmap(smooth)(images, tubes).reshape(x.shape)

    def smooth(y, tube):
        if y.size == 0:
            return y
        closeness = 32 * float(jnp.finfo(y.dtype).eps) if tol is None else tol
        fixed, thick = jax.lax.stop_gradient((y, tube))
        mean = jnp.mean(fixed)
        centred = fixed - mean  # so that rounding, too, is relative to the span.
        span = closeness * jnp.max(jnp.abs(centred))
        x, done = _iterate(centred, thick, span, max_steps)
        exact = _of_pieces(y, tube, x, 100 * span)
        x = mean + x + (exact - jax.lax.stop_gradient(exact))
        return x * jnp.where(done, 1, jnp.nan).astype(y.dtype)

    def prox(params, stepsize=1.0):
        params = jax.tree.map(_spectral.check_matrix, _leaves.real(params))
        per_image = lambda name, v: _leaves.per_group(name, v, params, _spectral.MATRIX)
        return _leaves.leafwise(
            flatten,
            params,
            stepsize=per_image("stepsize", stepsize),
            weight=per_image("weight", weight),
        )

    return prox


def _iterate(y, tube, tol, max_steps):
    rows = lambda v: jax.vmap(taut_string, (0, None))(v, tube)
    columns = lambda v: rows(v.T).T

    def step(s):
        point = s.ahead + rows(y - s.ahead)
        new = point - columns(point)
        change = new - s.columns
        uphill = jnp.sum((s.ahead - new) * change) > 0
        t = (1 + jnp.sqrt(1 + 4 * s.momentum**2)) / 2
        pace = jnp.where(uphill, 0, (s.momentum - 1) / t)
        return _Dual(
            columns=new,
            ahead=new + pace * change,
            momentum=jnp.where(uphill, 1, t),
            error=jnp.max(jnp.abs(new - s.ahead)),
            count=s.count + 1,
        )

    zero, one = jnp.zeros_like(y), jnp.ones((), y.dtype)
    start = _Dual(zero, zero, one, one * jnp.inf, jnp.zeros((), jnp.int32))
    unfinished = lambda s: (s.error > tol) & (s.count < max_steps)
    s = jax.lax.while_loop(unfinished, step, start)
    return rows(y - s.columns), s.error <= tol


def _of_pieces(y, tube, x, tol):
    """The minimiser that has the pieces of `x`: their means, with their borders."""
    sums = lambda v, axis: jnp.diff(v, axis=axis, prepend=0, append=0)
    joined, signs = [], jnp.zeros_like(x)
    for axis in (0, 1):
        jump = jnp.diff(x, axis=axis)
        joined.append(jnp.abs(jump) <= tol)
        # Of a border, the lower side is lifted and the upper one is lowered.
        signs = signs + sums(jnp.where(joined[-1], 0, jnp.sign(jump)), axis)
    piece = _label(joined, x.shape).ravel()
    total = lambda v: jax.ops.segment_sum(v.ravel(), piece, x.size)[piece]
    mean = total(y + tube * signs) / total(jnp.ones_like(x))
    return mean.reshape(x.shape)


def _label(joined, shape):
    """Number the connected pieces of an image, each by its first pixel."""

    def spread(carry):
        label, _ = carry
        new = label
        for axis, link in enumerate(joined):
            before, after = (
                jax.lax.slice_in_dim(new, i, shape[axis] - 1 + i, axis=axis)
                for i in (0, 1)
            )
            # What an earlier pixel takes from a later one, and the other way round.
            for take, side in ((after, (0, 1)), (before, (1, 0))):
                pad = [side if a == axis else (0, 0) for a in (0, 1)]
                take = jnp.pad(jnp.where(link, take, count), pad, constant_values=count)
                new = jnp.minimum(new, take)
        # Once more from the pixel that gave the label its number: steps grow.
        new = jnp.minimum(new, new.ravel()[new])
        return new, jnp.any(new != label)

    count = shape[0] * shape[1]
    label = jnp.arange(count, dtype=jnp.int32).reshape(shape)
    carry = label, jnp.ones((), bool)
    return jax.lax.while_loop(lambda carry: carry[1], spread, carry)[0]
