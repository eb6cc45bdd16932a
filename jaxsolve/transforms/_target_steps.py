"""What surrogates in the space of targets are made of: stepsizes and distances."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.transforms._scaled import dot, scaled_squares

_SOFT = 1e-5  # added to the weights of Newton-like distances.


class TargetStep(NamedTuple):
    """A rule for the stepsize in the space of targets.

    Attributes:
        init: as ``init(like) -> memory``, of the dtype of scalars beside a tree.
        update: as ``update(memory, count, targets, grad, value_fn) -> (stepsize,
            memory)``, where ``value_fn(targets)`` is the loss, or None.
    """

    init: Callable
    update: Callable


def adagrad_target_step(scale: chex.Numeric) -> TargetStep:
    r"""Make the AdaGrad rule: :math:`\eta_t = \eta_0 / \sqrt{\sum_s \|G_s\|^2}`.

    Args:
        scale: :math:`\eta_0 > 0`.

    Returns:
        A `TargetStep`, for `target_surrogate`.

    Raises:
        ValueError: if the scale is not positive.
    """
    core.check_number("scale", scale)

    def update(memory, count, targets, grad, value_fn):
        del count, targets, value_fn
        unit, total = scaled_squares(grad, memory)  # the memory is the root of the sum
        root = unit * jnp.sqrt(jnp.where(total == 0, 1, total))
        known = jnp.isfinite(root) & (total > 0)
        stepsize = jnp.asarray(scale, memory.dtype) / root
        return stepsize, jnp.where(known, root, memory)

    return TargetStep(lambda like: core.real_scalar(0, like), update)


def armijo_target_step(
    first: chex.Numeric = 1.0,
    decrease: chex.Numeric = 0.5,
    *,
    shrink: chex.Numeric = 0.9,
    growth: chex.Numeric = 1.8,
    least: chex.Numeric = 1e-4,
    most: chex.Numeric = 1e4,
) -> TargetStep:
    r"""Make the line search in the space of targets: SLS.

    From :math:`\eta = \gamma \eta_{-1}` on, shrinks :math:`\eta` by :math:`\beta` until

    .. math::

        l(z - \eta G) \le l(z) - c \eta \|G\|^2

    or :math:`\eta` is at its least. It evaluates the loss, but no gradient.

    Args:
        first: :math:`\eta_{-1} > 0` of the first update.
        decrease: :math:`c`, in (0, 1).
        shrink: :math:`\beta`, in (0, 1).
        growth: :math:`\gamma \ge 1`.
        least: the least stepsize, positive.
        most: the largest, at least `least`.

    Returns:
        A `TargetStep`, for `target_surrogate`, which then needs the extra argument
        ``target_value_fn``.

    Raises:
        ValueError: on a number out of its range.
    """
    core.check_number("first", first)
    core.check_number("decrease", decrease, 0, 1)
    core.check_number("shrink", shrink, 0, 1)
    core.check_number("least", least)
    core.check_number("growth", growth, 1, closed="[]")
    core.check_number("most", most, least, closed="[]")

    def update(memory, count, targets, grad, value_fn):
        del count
        if value_fn is None:
            raise ValueError(
                "the line search in the space of targets needs the extra argument "
                "target_value_fn, as target_value_fn(targets) -> loss."
            )
        real = lambda number: jnp.asarray(number, memory.dtype)
        low, high, c = real(least), real(most), real(decrease)
        start, square = real(value_fn(targets)), dot(grad, grad, memory.dtype)

        def going_on(search):
            eta, enough = search
            return ~enough & (eta > low)

        def trial(search):
            eta, _ = search
            value = real(value_fn(core.axpy(-eta, grad, targets)))
            enough = value <= start - c * eta * square
            shorter = jnp.clip(real(shrink) * eta, low, high)
            return jnp.where(enough, eta, shorter), enough

        first_trial = jnp.clip(real(growth) * memory, low, high)
        eta, _ = jax.lax.while_loop(going_on, trial, (first_trial, jnp.array(False)))
        return eta, eta

    return TargetStep(lambda like: core.real_scalar(first, like), update)


def as_target_step(stepsize: Any) -> TargetStep:
    """Makes a rule of a number, or of a schedule of the updates."""
    if isinstance(stepsize, TargetStep):
        return stepsize
    core.check_stepsize(stepsize)
    schedule = core.as_schedule(stepsize)

    def update(memory, count, targets, grad, value_fn):
        del targets, grad, value_fn
        return jnp.asarray(schedule(count), memory.dtype), memory

    return TargetStep(lambda like: core.real_scalar(0, like), update)


def squared_divergence(new: chex.ArrayTree, old: chex.ArrayTree) -> chex.Array:
    r"""Half of the squared distance, :math:`\|f - z\|^2 / 2`, for any smooth loss."""
    change = optax.tree.sub(new, old)
    return dot(change, change, core.real_dtype(new)) / 2


def logistic_divergence(new: chex.ArrayTree, old: chex.ArrayTree) -> chex.Array:
    r"""The distance by the curvature of the logistic loss, Newton-like.

    :math:`\sum_i w_i (f_i - z_i)^2 / 2` with :math:`w = \sigma(z) (1 - \sigma(z)) +
    10^{-5}`.
    """

    def weigh(f, z):
        p = jax.nn.sigmoid(z)
        return (p * (1 - p) + _SOFT) * (f - z)

    return (
        dot(
            jax.tree.map(weigh, new, old),
            optax.tree.sub(new, old),
            core.real_dtype(new),
        )
        / 2
    )


def softmax_divergence(new: chex.ArrayTree, old: chex.ArrayTree) -> chex.Array:
    r"""The distance by the curvature of softmax cross-entropy, Newton-like.

    With :math:`d = f - z` and :math:`p` the softmax of z along the last axis, the sum
    of :math:`(\langle p, d^2 \rangle - \langle p, d \rangle^2 + 10^{-5} \|d\|^2) / 2`.
    """

    def weigh(f, z):
        p, change = jax.nn.softmax(z, axis=-1), f - z
        mean = jnp.sum(p * change, axis=-1, keepdims=True)
        return p * (change - mean) + _SOFT * change

    return (
        dot(
            jax.tree.map(weigh, new, old),
            optax.tree.sub(new, old),
            core.real_dtype(new),
        )
        / 2
    )


def bregman_divergence(potential: Callable) -> Callable:
    r"""Make the divergence of a convex function of targets.

    .. math::

        D(f, z) = \phi(f) - \phi(z) - \langle \nabla \phi(z), f - z \rangle

    Args:
        potential: :math:`\phi`, as ``potential(targets) -> scalar``; logsumexp along
            the classes, summed, gives that of softmax cross-entropy itself.

    Returns:
        A function ``divergence(new, old) -> scalar``.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> divergence = transforms.bregman_divergence(lambda z: jnp.sum(z**2))
        >>> print(divergence(jnp.array([3.0]), jnp.array([1.0])))
        4.0
    """

    def divergence(new, old):
        height, slope = jax.value_and_grad(potential)(old)
        linear = dot(slope, optax.tree.sub(new, old), height.dtype)
        return potential(new) - height - linear

    return divergence
