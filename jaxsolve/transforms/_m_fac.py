"""M-FAC: the inverse Fisher matrix of the last gradients as a preconditioner."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.transforms._inverse_fisher import HIGHEST, damped_factor
from jaxsolve.transforms._wide import like, wide, wide_dtype


class ScaleByMFACState(NamedTuple):
    """State of M-FAC."""

    position: chex.Array  # (), int32: where in the window the next gradient goes.
    window: chex.ArrayTree  # (m, ...) like params, of at least 32 bits: G.
    products: chex.Array  # (m, m), real: S = G G^T.


def scale_by_m_fac(
    damping: chex.Numeric = 1e-5, *, memory: int = 1024
) -> optax.GradientTransformationExtraArgs:
    r"""Multiplies gradients by the inverse Fisher matrix of the last ones.

    The gradient :math:`g` replaces the oldest row :math:`j` of a window :math:`G` of m
    gradients, zeros at first, whose products :math:`S = G G^\top` lose and gain a row
    and a column. Then

    .. math::

        c &= m (m \lambda I + S)^{-1} e_j \\
        g &\mapsto G^\top c

    which is :math:`(\lambda I + G^\top G / m)^{-1} g` by Woodbury's identity, as g is a
    row of :math:`G`. It takes two passes over the window and one Cholesky factor of
    size m: :math:`O(d m + m^3)` time. Products are summed with full precision, in at
    least 32 bits; a relative :math:`16 m` roundings are added to the diagonal of
    :math:`S`, without which a factor may not exist in float32.

    The divisor is m from the first update on: while the window fills, the curvature is
    underestimated by the zeros in it, and steps are longer, to which a warm-up of the
    learning rate is an answer. Where gradients are large beside :math:`\sqrt\lambda`,
    steps shrink as gradients grow.

    It acts on the gradients of minibatches, at the head of a chain, and leaves their
    sign: a descent needs ``optax.scale(-1)``, as in :func:`m_fac`. A gradient that is
    not finite, or whose square is not, gives a step that is not a number, and does not
    enter the window.

    Args:
        damping: :math:`\lambda > 0`. Below about :math:`2 \cdot 10^{-6}` times the
            squared norm of gradients it is lost in the rounding of float32.
        memory: m, how many gradients are kept, at least one: m floats a parameter.

    Returns:
        A transformation. Its state is as sharded as params if ``init`` is called
        outside of ``jit``, or within with ``out_shardings``.

    Raises:
        ValueError: if `damping` is not positive or `memory` not a positive integer.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> transform = transforms.scale_by_m_fac(damping=2.0, memory=2)
        >>> state = transform.init(jnp.zeros(2))
        >>> for gradient in jnp.array([[2.0, 0.0], [0.0, 4.0]]):
        ...     step, state = transform.update(gradient, state)
        >>> print(jnp.round(step, 3))  # F = diag(2 + 4 / 2, 2 + 16 / 2)
        [0.  0.4]

    References:
        Frantar, Kurtic and Alistarh, `M-FAC: Efficient Matrix-Free Approximations of
        Second-Order Information <https://arxiv.org/abs/2107.03356>`_, 2021. The dynamic
        algorithm, here with a Cholesky factor in place of an LU without pivots.
    """
    core.check_number("damping", damping)
    if isinstance(memory, bool) or not isinstance(memory, int) or memory < 1:
        raise ValueError(f"memory must be a positive integer, got {memory!r}.")

    def init(params):
        # Broadcast from zeros like the leaf, whose sharding is handed on.
        empty = lambda x: jnp.broadcast_to(
            jnp.zeros_like(x, wide_dtype(x)), (memory, *x.shape)
        )
        products = jnp.zeros((memory, memory), core.real_dtype(params))
        window = jax.tree.map(empty, params)
        return ScaleByMFACState(jnp.zeros((), jnp.int32), window, products)

    def update(updates, state, params=None, **extra):
        del params, extra
        last = state.position
        itself = jax.tree.map(lambda g: g.astype(wide_dtype(g))[None], updates)
        dtype = state.products.dtype
        square = _products(itself, updates, jnp.zeros(1, dtype))[0]
        row = _products(state.window, updates, jnp.zeros(memory, dtype))
        row = row.at[last].set(square)
        # What is not finite, or overflows, shows in this step and not in those after.
        good = core.all_finite(row)

        def put(window, g):
            old = jax.lax.dynamic_index_in_dim(window, last, 0, keepdims=False)
            new = jnp.where(good, g.astype(window.dtype), old)
            return jax.lax.dynamic_update_index_in_dim(window, new, last, 0)

        window = jax.tree.map(put, state.window, updates)
        products = state.products.at[last].set(row).at[:, last].set(row)
        products = jnp.where(good, products, state.products)
        unit = jnp.arange(memory, dtype=last.dtype) == last
        unit = jnp.where(good, unit.astype(row.dtype), jnp.nan)
        factor = damped_factor(products, damping)
        weights = memory * jax.scipy.linalg.cho_solve((factor, True), unit)
        combine = lambda window: jnp.tensordot(
            weights.astype(window.dtype), window, 1, precision=HIGHEST
        )
        steps = like(jax.tree.map(combine, window), updates)
        position = jnp.where(good, (last + 1) % memory, last)
        return steps, ScaleByMFACState(position, window, products)

    return optax.GradientTransformationExtraArgs(init, update)


def m_fac(
    learning_rate: optax.ScalarOrSchedule,
    damping: chex.Numeric = 1e-5,
    *,
    memory: int = 1024,
    momentum: chex.Numeric = 0.0,
    weight_decay: chex.Numeric = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""M-FAC: natural gradient descent by a window of gradients, without matrices.

    With :math:`F^{-1}` of :func:`scale_by_m_fac`, computes

    .. math::

        u &= F^{-1} (g + \omega x) \\
        b^+ &= \beta b + (1 - \beta) u \\
        x^+ &= x - \eta b^+

    The decay is part of the gradient that enters the window.

    Args:
        learning_rate: :math:`\eta`, a scalar or a schedule; published are 1e-3 for
            residual networks and 1e-4 for the fine-tuning of transformers.
        damping: :math:`\lambda > 0`; see :func:`scale_by_m_fac`.
        memory: m, how many gradients are kept.
        momentum: :math:`\beta`, at least 0 and below 1; none by default.
        weight_decay: :math:`\omega \ge 0`.

    Returns:
        A transformation, which needs params where there is a decay.

    Raises:
        ValueError: as :func:`scale_by_m_fac`, or if `momentum` is not in [0, 1).

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import transforms
        >>> fun = lambda x, data: jnp.sum(data * (x - 1) ** 2)
        >>> transform = transforms.m_fac(0.1, damping=0.1, memory=8)
        >>> solver = jaxsolve.from_optax(fun, transform)
        >>> solution = jaxsolve.run(solver, jnp.zeros(2), jnp.array([1.0, 0.1]))
        >>> print(jnp.round(solution.params, 2))
        [1. 1.]

    References:
        Frantar, Kurtic and Alistarh, `M-FAC: Efficient Matrix-Free Approximations of
        Second-Order Information <https://arxiv.org/abs/2107.03356>`_, 2021. Momentum
        and decay as in the authors' code.
    """
    core.check_number("momentum", momentum, 0, 1, "[")
    links = [scale_by_m_fac(damping, memory=memory)]
    if not core.is_zero(weight_decay):
        links = [wide(optax.add_decayed_weights(weight_decay)), *links]
    if not core.is_zero(momentum):
        links = [*links, wide(optax.ema(momentum, debias=False))]
    return optax.chain(*links, wide(optax.scale_by_learning_rate(learning_rate)))


def _products(rows, gradient, zeros):
    """The inner product of every one of some rows with the gradient."""
    inner = lambda rows, g: jnp.tensordot(
        rows, g.astype(rows.dtype), g.ndim, precision=HIGHEST
    ).astype(zeros.dtype)
    parts = jax.tree.leaves(jax.tree.map(inner, rows, gradient))
    return sum(parts, zeros)
