"""Mirror maps of composite losses, and of gradients with heavy tails."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve import core, prox
from jaxsolve.online import _rounds
from jaxsolve.prox import MirrorMap, Prox


@core.memoise
def composite_map(operator: Prox) -> MirrorMap:
    r"""Makes the mirror map of losses with a second part, in the 2-norm.

    For losses :math:`f_t + h`, of which only the first parts change, its step is

    .. math::

        x^+ = \operatorname{prox}_{t h}(z - t g)

    Args:
        operator: the proximal operator of :math:`h`, as ``prox(params, stepsize)``; it
            is shown leaves of at least 32 bits. Not one of `prox.of_data`.

    Returns:
        A `MirrorMap` for :func:`mirror_descent` and its kin. Its projection, by which
        learners measure their error and differentiate, is the proximal step of length
        one.

    Raises:
        ValueError: if it is no operator, or waits for data.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import online, prox
        >>> mirror = online.composite_map(prox.l1(1.0))
        >>> mirror.step(jnp.array([1.0, 2.0]), jnp.array([1.0, -2.0]), 0.5)
        Array([0. , 2.5], dtype=float32)

    References:
        Liu and Zhou, `Revisiting the Last-Iterate Convergence of Stochastic Gradient
        Methods <https://arxiv.org/abs/2312.08531>`_, 2024.
    """
    operator = prox.resolve(operator, None)

    def step(point, grad, stepsize=1.0):
        eta = core.real_scalar(stepsize, point)
        return operator(core.axpy(-eta, grad, point), eta)

    def divergence(params, point):
        return prox.euclidean_map().divergence(params, point)

    def projection(params, stepsize=1.0):
        del stepsize
        return operator(params, core.real_scalar(1, params))

    return MirrorMap(step, divergence, projection)


@core.memoise
def power_map(
    tail: chex.Numeric,
    weight: chex.Numeric = 0.0,
    *,
    lower: chex.Numeric = -np.inf,
    upper: chex.Numeric = np.inf,
) -> MirrorMap:
    r"""Makes the mirror map for gradients with heavy tails, without clipping.

    For noise of which only moments up to :math:`p \in (1, 2]` exist, and its conjugate
    :math:`q = p / (p - 1)`, the distance is that of

    .. math::

        \psi(x) = \frac{2^{q - 2}}{q} \sum_i |x_i|^q, \qquad
        D(x, z) \ge \tfrac{1}{q} \|x - z\|_q^q

    and its step is, entry by entry,

    .. math::

        u &= \operatorname{soft}(2^{q - 2} \operatorname{sign}(z) |z|^{q - 1} - t g,
            t w) \\
        x^+ &= \min(\max(\operatorname{sign}(u) (2^{2 - q} |u|)^{1 / (q - 1)}, l), r)

    A large gradient so moves a point by a power below one of its size. Unlike the
    2-norm, the distance knows where zero is: it suits solutions near it.

    Args:
        tail: :math:`p`, above 1 and at most 2, where it is the 2-norm. Near one, powers
            are so high that numbers overflow: 1.1 means eleventh powers.
        weight: :math:`w \ge 0`, of a second part :math:`w \|x\|_1` of every loss.
        lower: :math:`l`, a number; none by default.
        upper: :math:`r`, a number; none by default.

    Returns:
        A `MirrorMap` for :func:`mirror_descent` and its kin; its projection is the
        proximal step of length one in the 2-norm.

    Raises:
        ValueError: if a known tail is not in (1, 2], the weight is negative, or bounds
            cross.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import online
        >>> mirror = online.power_map(1.5)
        >>> mirror.step(jnp.zeros(2), jnp.array([2.0, -200.0]), 1.0)
        Array([-1., 10.], dtype=float32)

    References:
        Liu and Zhou, `Revisiting the Last-Iterate Convergence of Stochastic Gradient
        Methods <https://arxiv.org/abs/2312.08531>`_, 2024. Its Section 6; the constant
        before the power is derived here.
    """
    for name, value, low, high in (("tail", tail, 1, 2), ("weight", weight, 0, np.inf)):
        if not core.is_concrete(value):
            continue
        inside = low <= value <= high if name == "weight" else low < value <= high
        if np.ndim(value) or not inside or value == np.inf:
            wanted = "above 1 and at most 2" if name == "tail" else "at least zero"
            raise ValueError(f"{name} must be one number {wanted}, got {value!r}.")
    box = prox.box(lower, upper)
    soft = prox.l1(weight)

    def dual(z):
        q = _conjugate(tail, z)
        return 2 ** (q - 2) * jnp.sign(z) * _power(jnp.abs(z), q - 1)

    def primal(u):
        q = _conjugate(tail, u)
        return jnp.sign(u) * _power(2 ** (2 - q) * jnp.abs(u), 1 / (q - 1))

    def step(point, grad, stepsize=1.0):
        eta = core.real_scalar(stepsize, point)
        moved = core.axpy(-eta, grad, jax.tree.map(dual, point))
        return box(jax.tree.map(primal, soft(moved, eta)))

    def divergence(params, point):
        def entries(x, z):
            q = _conjugate(tail, x)
            psi = lambda v: 2 ** (q - 2) * _power(jnp.abs(v), q) / q
            return jnp.sum(psi(x) - psi(z) - dual(z) * (x - z))

        wide = jax.tree.map(entries, _rounds.widen(params), _rounds.widen(point))
        sums = [core.real_scalar(leaf, params) for leaf in jax.tree.leaves(wide)]
        return sum(sums, core.real_scalar(0, params))

    def projection(params, stepsize=1.0):
        del stepsize
        return box(soft(params, core.real_scalar(1, params)))

    return MirrorMap(step, divergence, projection)


def _conjugate(tail, x):
    tail = jnp.asarray(tail, x.dtype)
    return tail / (tail - 1)


def _power(x, exponent):
    """Powers of magnitudes; at zero they are zero, and so is their derivative."""
    some = x > 0
    return jnp.where(some, jnp.where(some, x, 1) ** exponent, x)
