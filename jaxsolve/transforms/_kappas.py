"""Convex functions that choose what Lion-K does: those of single entries."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core

_ROUNDINGS = 64  # by how many units of rounding a point may lie outside of the ball.


class Kappa(NamedTuple):
    r"""A convex function K of a tree with its minimum zero at zero, and its conjugate.

    The conjugate :math:`K^*(x) = \sup_m \langle x, m \rangle - K(m)` is finite on the
    unit ball of a norm, or everywhere. Anyone may make one of functions of his own.

    Attributes:
        value: K, as ``value(tree) -> scalar``.
        subgradient: as ``subgradient(tree) -> tree``: a subgradient of K, the gradient
            where there is one; it lies in the ball.
        penalty: :math:`K^*` in the ball, as ``penalty(tree) -> scalar``.
        dual_norm: the norm of the ball, as ``dual_norm(tree) -> scalar``; None where
            the conjugate is finite everywhere.
    """

    value: Callable
    subgradient: Callable
    penalty: Callable
    dual_norm: Callable | None = None

    def conjugate(self, tree: chex.ArrayTree) -> chex.Array:
        """The conjugate of K: infinite outside of the ball, roundings forgiven."""
        penalty = self.penalty(tree)
        if self.dual_norm is None:
            return penalty
        slack = _ROUNDINGS * float(jnp.finfo(penalty.dtype).eps)
        return jnp.where(self.dual_norm(tree) <= 1 + slack, penalty, jnp.inf)


def l1_kappa() -> Kappa:
    r"""Make the 1-norm, by which Lion-K is Lion: a box.

    .. math::

        K(m) = \|m\|_1, \qquad \nabla K(m) = \operatorname{sign} m, \qquad
        K^*(x) = 0 \text{ where } \|x\|_\infty \le 1

    Returns:
        A `Kappa`, the same whether of leaves or of the whole tree.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> print(transforms.l1_kappa().subgradient(jnp.array([3.0, 0.0, -0.1])))
        [ 1.  0. -1.]
    """
    return _entrywise(jnp.abs, jnp.sign, jnp.zeros_like)


def half_square_kappa() -> Kappa:
    r"""Make half of the squared 2-norm: heavy-ball or Nesterov momentum with decay.

    .. math::

        K(m) = \tfrac{1}{2} \|m\|_2^2, \qquad \nabla K(m) = m, \qquad
        K^*(x) = \tfrac{1}{2} \|x\|_2^2

    Returns:
        A `Kappa`, the same whether of leaves or of the whole tree.
    """
    half = lambda x: x**2 / 2
    return _entrywise(half, lambda m: m, half, bounded=False)


def sparse_kappa(threshold: chex.Numeric) -> Kappa:
    r"""Make what of the entries exceeds a threshold: Lion with sparse params.

    .. math::

        K(m) = \sum_i (|m_i| - e)_+, \qquad
        \nabla K(m)_i = \operatorname{sign}(m_i) [|m_i| > e], \qquad
        K^*(x) = e \|x\|_1 \text{ where } \|x\|_\infty \le 1

    Args:
        threshold: :math:`e \ge 0`, on the scale of the momentum.

    Returns:
        A `Kappa`, the same whether of leaves or of the whole tree.

    Raises:
        ValueError: on a negative threshold.
    """
    core.check_number("threshold", threshold, closed="[]")
    e = lambda x: jnp.asarray(threshold, x.dtype)
    return _entrywise(
        lambda m: jnp.maximum(jnp.abs(m) - e(m), 0),
        lambda m: jnp.where(jnp.abs(m) > e(m), jnp.sign(m), m * 0),
        lambda x: e(x) * jnp.abs(x),
    )


def huber_kappa(width: chex.Numeric) -> Kappa:
    r"""Make Huber's function: Lion whose sign is linear near zero.

    .. math::

        K(m) = \sum_i \begin{cases} m_i^2 / 2 e & |m_i| \le e \\ |m_i| - e / 2
        \end{cases}, \qquad
        \nabla K(m) = \operatorname{clip}(m, -e, e) / e, \qquad
        K^*(x) = \tfrac{e}{2} \|x\|_2^2 \text{ where } \|x\|_\infty \le 1

    Args:
        width: :math:`e > 0`, on the scale of the momentum.

    Returns:
        A `Kappa`, the same whether of leaves or of the whole tree.

    Raises:
        ValueError: on a width that is not positive.
    """
    core.check_number("width", width)
    e = lambda x: jnp.asarray(width, x.dtype)

    def value(m):
        linear = jnp.abs(m) - e(m) / 2
        return jnp.where(jnp.abs(m) <= e(m), m * (m / (2 * e(m))), linear)

    return _entrywise(
        value, lambda m: jnp.clip(m / e(m), -1, 1), lambda x: e(x) * x**2 / 2
    )


def smooth_kappa(width: chex.Numeric) -> Kappa:
    r"""Make the 1-norm with its edges rounded: Lion with a smooth sign.

    .. math::

        K(m) = \sum_i \sqrt{m_i^2 + e^2} - e, \qquad
        \nabla K(m) = m / \sqrt{m^2 + e^2}, \qquad
        K^*(x) = e \sum_i 1 - \sqrt{1 - x_i^2} \text{ where } \|x\|_\infty \le 1

    Args:
        width: :math:`e > 0`, on the scale of the momentum.

    Returns:
        A `Kappa`, the same whether of leaves or of the whole tree.

    Raises:
        ValueError: on a width that is not positive.
    """
    core.check_number("width", width)
    e = lambda x: jnp.asarray(width, x.dtype)

    # None of the three subtracts numbers that are nearly the same.

    def legs(m):
        """Both m and e over the larger, and the root of the sum of their squares."""
        unit = jax.lax.stop_gradient(jnp.maximum(jnp.abs(m), e(m)))
        a, b = m / unit, e(m) / unit
        return a, b, jnp.sqrt(a**2 + b**2)

    def value(m):
        a, b, root = legs(m)
        return m * (a / (root + b))

    def slope(m):
        a, _, root = legs(m)
        return a / root

    def penalty(x):
        x = jnp.clip(x, -1, 1)
        return e(x) * x**2 / (1 + jnp.sqrt((1 - x) * (1 + x)))

    return _entrywise(value, slope, penalty)


def per_leaf_kappa(kappa: Kappa) -> Kappa:
    r"""Make the sum over leaves of a function of each, instead of one of the tree.

    .. math::

        K(m) = \sum_l K_0(m_l), \qquad K^*(x) = \sum_l K_0^*(x_l)

    whose ball is that of :math:`\max_l \|x_l\|`. It changes functions of all leaves
    together, such as those of `lp_kappa` and `top_k_kappa`.

    Args:
        kappa: :math:`K_0`.

    Returns:
        A `Kappa`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> kappa = transforms.per_leaf_kappa(transforms.lp_kappa(2.0))
        >>> print(kappa.subgradient([jnp.array(2.0), jnp.array([3.0, 4.0])])[1])
        [0.6 0.8]
    """
    each = lambda fun: lambda tree: [fun(leaf) for leaf in jax.tree.leaves(tree)]
    added = lambda fun: lambda tree: add(each(fun)(tree), tree)
    top = lambda tree: largest(each(kappa.dual_norm)(tree), tree)
    return Kappa(
        added(kappa.value),
        lambda tree: jax.tree.map(kappa.subgradient, tree),
        added(kappa.penalty),
        None if kappa.dual_norm is None else top,
    )


def _entrywise(value, slope, penalty, bounded=True):
    def total(fun):
        def sums(tree):
            dtype = core.real_dtype(tree)
            leaves = jax.tree.leaves(tree)
            return add([jnp.sum(fun(x.astype(dtype))) for x in leaves], tree)

        return sums

    def sup_norm(tree):
        tops = [jnp.max(jnp.abs(x), initial=0) for x in jax.tree.leaves(tree)]
        return largest(tops, tree)

    subgradient = lambda tree: jax.tree.map(slope, tree)
    return Kappa(
        total(value), subgradient, total(penalty), sup_norm if bounded else None
    )


def add(parts: list, tree: chex.ArrayTree) -> chex.Array:
    """The sum of scalars, of the dtype of scalars beside a tree."""
    zero = core.real_scalar(0, tree)
    return sum([part.astype(zero.dtype) for part in parts], zero)


def largest(parts: list, tree: chex.ArrayTree) -> chex.Array:
    """The largest of non-negative scalars, zero of none."""
    zero = core.real_scalar(0, tree)
    return jnp.max(jnp.stack([zero, *[part.astype(zero.dtype) for part in parts]]))
