"""Lion-K: momentum seen through the gradient of a convex function."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.transforms._kappas import Kappa, l1_kappa
from jaxsolve.transforms._wide import wide, wide_dtype, widened


class ScaleByLionKState(NamedTuple):
    """State of Lion-K."""

    count: chex.Array  # (), int32: updates taken.
    mu: Any  # like params, of 32 bits or more: the mean of gradients.


class FenchelGap(NamedTuple):
    """How far a point is from what Lion-K converges to."""

    gap: chex.Array  # (), real: the Fenchel gap of params scaled back into the ball.
    violation: chex.Array  # (), real: by how much decayed params are outside of it.


def scale_by_lion_k(
    kappa: Kappa | None = None,
    b1: chex.Numeric = 0.9,
    b2: chex.Numeric = 0.99,
    *,
    mu_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Replaces gradients by a subgradient of K at their momentum.

    From the mean :math:`m` of gradients, zero at first, and the gradient :math:`g`,
    computes

    .. math::

        g &\mapsto -\partial K(-(\beta_1 m + (1 - \beta_1) g)) \\
        m^+ &= \beta_2 m + (1 - \beta_2) g

    where both signs cancel if K is even, as all in this room are. With the 1-norm it is
    ``optax.scale_by_lion``. It leaves the sign of gradients: a descent needs
    ``optax.scale(-1)``, as in :func:`lion_k`.

    Args:
        kappa: K, such as ``l1_kappa()``, which is the default.
        b1: :math:`\beta_1`, at least 0 and below 1; for b1 below b2 it looks ahead.
        b2: :math:`\beta_2`, at least 0 and below 1.
        mu_dtype: the dtype of m; by default that of params, but at least 32 bits.

    Returns:
        A transformation, whose memory is one number for each of params.

    Raises:
        ValueError: on a rate out of its range, or if K is not a `Kappa`.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> transform = transforms.scale_by_lion_k(transforms.lp_kappa(2.0))
        >>> x = jnp.zeros(2)
        >>> print(transform.update(jnp.array([3.0, 4.0]), transform.init(x))[0])
        [0.6 0.8]

    References:
        L. Chen, B. Liu, Liang and Q. Liu, `Lion Secretly Solves Constrained
        Optimization: As Lyapunov Predicts <https://arxiv.org/abs/2310.05898>`_, 2024.
    """
    kappa = l1_kappa() if kappa is None else kappa
    if not isinstance(kappa, Kappa):
        raise ValueError(
            f"kappa must be a Kappa, such as transforms.l1_kappa(), got {kappa!r}."
        )
    core.check_number("b1", b1, 0, 1, "[")
    core.check_number("b2", b2, 0, 1, "[")

    def init(params):
        zeros = lambda x: jnp.zeros_like(x, dtype=mu_dtype or wide_dtype(x))
        return ScaleByLionKState(jnp.zeros((), jnp.int32), jax.tree.map(zeros, params))

    def mean(decay, grads, mu):
        # One minus the rate before it is rounded to the dtype, as optax does.
        number = lambda value, m: jnp.asarray(value, m.dtype)
        return jax.tree.map(
            lambda g, m: number(1.0 - decay, m) * g + number(decay, m) * m, grads, mu
        )

    def update(updates, state, params=None, **extra):
        del params, extra
        grads, mu = widened(updates), widened(state.mu)
        ahead = jax.tree.map(jnp.negative, mean(b1, grads, mu))
        new = jax.tree.map(
            lambda u, g: (-u).astype(g.dtype), kappa.subgradient(ahead), updates
        )
        mu = jax.tree.map(
            lambda m, old: m.astype(old.dtype), mean(b2, grads, mu), state.mu
        )
        return new, ScaleByLionKState(optax.safe_increment(state.count), mu)

    return optax.GradientTransformationExtraArgs(init, update)


def lion_k(
    learning_rate: optax.ScalarOrSchedule,
    kappa: Kappa | None = None,
    b1: chex.Numeric = 0.9,
    b2: chex.Numeric = 0.99,
    weight_decay: chex.Numeric = 1e-3,
    *,
    implicit: bool = False,
    mask: Any = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Lion-K: Lion, normalised momentum, Muon and their kin, by a convex function.

    Minimises :math:`f(x) + K^*(\lambda x) / \lambda`, which for a norm K is f under the
    constraint that the dual norm of :math:`\lambda x` is at most one. With the
    direction :math:`u` of :func:`scale_by_lion_k`, computes

    .. math::

        x^+ = x - \eta (u + \lambda x)
        \qquad \text{or, if implicit,} \qquad
        x^+ = \frac{x - \eta u}{1 + \eta \lambda}

    From outside of the ball the distance to it shrinks by the factor :math:`1 - \eta
    \lambda`, or :math:`1 / (1 + \eta \lambda)`, an update; inside of it a Lyapunov
    function of x and m falls. Where K has kinks, coordinates that the constraint does
    not hold chatter at the height of :math:`\eta`: let it decay, or take a smooth K.

    A solution is differentiated by :math:`\lambda x = \nabla K(-\nabla f(x))` for a
    smooth K, by the residual of a projection for a norm; never through these steps.

    Args:
        learning_rate: :math:`\eta > 0`, a number or a schedule.
        kappa: K; see :func:`scale_by_lion_k`, also for the next two.
        b1: :math:`\beta_1`.
        b2: :math:`\beta_2`.
        weight_decay: :math:`\lambda \ge 0`, with :math:`\eta \lambda < 1`; zero for no
            constraint. A decay of 0.1 is a ball of the radius 10.
        implicit: whether decay is implicit, which is stable for any :math:`\lambda`.
        mask: which leaves decay, as in ``optax.adamw``; all by default.

    Returns:
        A transformation that needs params.

    Raises:
        ValueError: on a number out of its range.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> transform = transforms.lion_k(0.125, transforms.nuclear_kappa())
        >>> x = jnp.eye(2)
        >>> step, _ = transform.update(3 * x, transform.init(x), x)
        >>> print(f"{step[0, 0]:.6f}")  # - 0.125 (1 + 0.001)
        -0.125125

    References:
        L. Chen, B. Liu, Liang and Q. Liu, `Lion Secretly Solves Constrained
        Optimization: As Lyapunov Predicts <https://arxiv.org/abs/2310.05898>`_, 2024.
        X. Chen and others, `Symbolic Discovery of Optimization Algorithms
        <https://arxiv.org/abs/2302.06675>`_, 2023.
    """
    _check_decay(learning_rate, weight_decay, implicit)
    decay = optax.add_decayed_weights(weight_decay)
    if implicit:
        rate, weight = core.as_schedule(learning_rate), core.as_schedule(weight_decay)
        shrink = lambda count: 1 / (1 + rate(count) * weight(count))
        scheduled = callable(learning_rate) or callable(weight_decay)
        by = optax.scale_by_schedule(shrink) if scheduled else optax.scale(shrink(0))
        decay = optax.chain(decay, by)
    decay = decay if mask is None else optax.masked(decay, mask)
    last = optax.chain(decay, optax.scale_by_learning_rate(learning_rate))
    return optax.chain(scale_by_lion_k(kappa, b1, b2), wide(last))


def fenchel_gap(
    kappa: Kappa,
    params: chex.ArrayTree,
    grad: chex.ArrayTree,
    weight_decay: chex.Numeric,
) -> FenchelGap:
    r"""Measures how far params are from a solution of what Lion-K minimises.

    For the gradient :math:`g` at :math:`x`, the norm :math:`\|\cdot\|` of the ball in
    which :math:`K^*` is finite, and :math:`y = \lambda x / \max\{1, \|\lambda x\|\}`,

    .. math::

        K(-g) + K^*(y) + \langle y, g \rangle \ge 0, \qquad (\|\lambda x\| - 1)_+

    Both are zero exactly at stationary points, and a gap that rounding makes negative
    counts as zero. For a norm K the first is, in the ball,
    :math:`\lambda` times the Frank-Wolfe gap.

    Args:
        kappa: K.
        params: x.
        grad: the gradient of the objective at x.
        weight_decay: :math:`\lambda \ge 0`.

    Returns:
        The gap and the violation of the constraint.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> corner, grad = jnp.array([-10.0, 10.0]), jnp.array([0.5, -2.0])
        >>> gap = transforms.fenchel_gap(transforms.l1_kappa(), corner, grad, 0.1)
        >>> print(gap.gap, gap.violation)
        0.0 0.0
    """
    decay = core.real_scalar(weight_decay, params)
    scaled = lambda factor: jax.tree.map(
        lambda x: factor.astype(decay.dtype) * x.astype(decay.dtype), params
    )
    size = jnp.zeros_like(decay)
    if kappa.dual_norm is not None:
        size = kappa.dual_norm(scaled(decay))
    inside = scaled(decay / jnp.maximum(size, 1))
    grad = jax.tree.map(lambda g: g.astype(decay.dtype), grad)
    linear = jnp.asarray(optax.tree.vdot(inside, grad), decay.dtype)
    down = jax.tree.map(jnp.negative, grad)
    gap = kappa.value(down) + kappa.penalty(inside) + linear
    return FenchelGap(jnp.maximum(gap, 0), jnp.maximum(size - 1, 0))


def _check_decay(learning_rate, weight_decay, implicit):
    if not callable(learning_rate):
        core.check_number("learning_rate", learning_rate)
    if not callable(weight_decay):
        core.check_number("weight_decay", weight_decay, closed="[")
    known = lambda value: not callable(value) and core.is_concrete(value)
    both = known(learning_rate) and known(weight_decay)
    if both and not implicit and not float(learning_rate) * float(weight_decay) < 1:
        raise ValueError(
            "learning_rate times weight_decay must be below 1, got "
            f"{learning_rate!r} times {weight_decay!r}; lower one, or take "
            "implicit=True."
        )
