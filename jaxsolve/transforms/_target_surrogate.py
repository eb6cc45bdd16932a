"""Several updates per expensive gradient, by surrogates in the space of targets."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.transforms._scaled import dot
from jaxsolve.transforms._target_steps import (
    TargetStep,
    as_target_step,
    squared_divergence,
)
from jaxsolve.transforms._wide import like, widened


class TargetSurrogateState(NamedTuple):
    """State of the updates on surrogates in the space of targets."""

    count: chex.Array  # (), int32: updates, and so expensive gradients, taken.
    stepsize: chex.Array  # (), real: the last in the space of targets.
    steps: chex.Array  # (), int32: how many inner updates the last update took.
    memory: Any  # of the rule for the stepsize.


def target_surrogate(
    inner: optax.GradientTransformation,
    stepsize: optax.ScalarOrSchedule | TargetStep = 1.0,
    *,
    steps: int = 10,
    divergence: Callable = squared_divergence,
    tol: chex.Numeric = 1e-6,
) -> optax.GradientTransformationExtraArgs:
    r"""Takes several updates of a transformation for each expensive gradient.

    For objectives :math:`l(f(\theta))`, a loss l that is expensive, such as a
    simulator, of the targets of a model f that is cheap. From the targets :math:`z =
    f(\theta)` and the gradient :math:`G = \nabla l(z)`, once an update and frozen, up
    to m updates of the inner transformation from :math:`\theta` go down

    .. math::

        s(\theta') = \langle G, f(\theta') - z \rangle
        + \frac{1}{\eta} D(f(\theta'), z)

    with :math:`D(f, z) = \|f - z\|^2 / 2` or another distance, and end early where
    :math:`\|\nabla s\| \le` ``tol``. The inner state begins anew in every update.

    On the whole data, :math:`l(z) + s` bounds the objective from above for an L-smooth
    loss and :math:`\eta \le 1 / L`, so it falls as s does. On minibatches take
    :math:`\eta_0 / \sqrt{t}`, AdaGrad's rule, or a constant where the model can
    interpolate. With one step of gradient descent it is gradient descent on the
    objective, whatever :math:`\eta`.

    It begins from ``target_grad`` alone and ignores the incoming updates, so it belongs
    at the head of a chain; pass params for them where there are none. The model is
    evaluated m + 1 times on one batch: nothing in it may be drawn anew, as by dropout.

    Args:
        inner: any optax transformation or chain, its learning rate included; it is
            given ``value``, ``grad`` and ``value_fn`` of s.
        stepsize: :math:`\eta > 0`, a number, a schedule, or a rule such as
            `adagrad_target_step` or `armijo_target_step`. It must fit the scale of l, a
            sum or a mean.
        steps: m, at least 1.
        divergence: D, as ``divergence(new, old) -> scalar``: `squared_divergence`,
            `logistic_divergence`, `softmax_divergence`, a `bregman_divergence`, or that
            of a mirror map.
        tol: of the inner updates, at least 0.

    Returns:
        A transformation whose updates are to be added as they are. It needs params and
        the extra arguments ``target_fn``, as ``target_fn(params) -> targets``, and
        ``target_grad``, like the targets; ``target_value_fn``, the loss as a function
        of targets, if the rule of the stepsize does.

    Raises:
        ValueError: on a number out of its range; in update, without params, or if
            `target_grad` is not like the targets.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from jaxsolve import transforms
        >>> transform = transforms.target_surrogate(optax.sgd(0.2), steps=100)
        >>> model, x = lambda x: 2 * x, jnp.zeros(2)
        >>> extra = dict(target_fn=model, target_grad=model(x) - jnp.array([2.0, 4.0]))
        >>> step, _ = transform.update(x, transform.init(x), x, **extra)
        >>> print(step.round(3))  # a squared loss is fitted with one gradient
        [1. 2.]

    References:
        Lavington, Vaswani, Babanezhad, Schmidt and Le Roux, `Target-based Surrogates
        for Stochastic Optimization <https://arxiv.org/abs/2302.02607>`_, 2023.
    """
    begin, advance = core.transform_pair(inner)
    rule = as_target_step(stepsize)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a positive integer, got {steps!r}.")
    core.check_number("tol", tol, closed="[]")

    def init(params):
        none = lambda: jnp.zeros((), jnp.int32)  # two arrays, which may be donated
        zero = core.real_scalar(0, params)
        return TargetSurrogateState(none(), zero, none(), rule.init(params))

    def update(updates, state, params=None, *, target_fn, target_grad, **extra):
        start = _start(params)
        model = lambda theta: target_fn(like(theta, params))
        targets = jax.lax.stop_gradient(model(start))
        grad = jax.lax.stop_gradient(_fit(target_grad, targets))
        real = lambda number: core.real_scalar(number, params)
        value_fn = extra.get("target_value_fn")
        eta, memory = rule.update(state.memory, state.count, targets, grad, value_fn)
        eta = jnp.where(eta > 0, eta, jnp.nan)  # s would have no minimum

        def surrogate(theta):
            new = model(theta)
            linear = dot(grad, optax.tree.sub(new, targets), eta.dtype)
            return real(linear) + real(divergence(new, targets)) / real(eta)

        def step(carry):
            theta, memory, taken, _ = carry
            value, slope = jax.value_and_grad(surrogate)(theta)
            given = dict(value=value, grad=slope, value_fn=surrogate)
            new, new_memory = advance(slope, memory, theta, **given)
            done = jnp.sqrt(dot(slope, slope, value.dtype)) <= real(tol)
            theta, memory = core.where(done, (theta, memory), (new, new_memory))
            return theta, memory, jnp.where(done, taken, taken + 1), done

        def going_on(carry):
            _, _, taken, done = carry
            return ~done & (taken < steps)

        none = jnp.zeros((), jnp.int32)
        carry = start, begin(start), none, jnp.zeros((), bool)
        theta, _, taken, _ = jax.lax.while_loop(going_on, step, carry)
        eta = eta.astype(state.stepsize.dtype)
        count = optax.safe_increment(state.count)
        moved = like(optax.tree.sub(theta, start), updates)
        return moved, TargetSurrogateState(count, eta, taken, memory)

    return optax.GradientTransformationExtraArgs(init, update)


def _start(params):
    if params is None:
        raise ValueError(
            "inner updates start from the params: call "
            "`transform.update(updates, state, params, ...)`."
        )
    return widened(params)


def _fit(grad, targets):
    """The gradient in the dtypes of the targets, if it is like them."""
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    same = jax.tree.structure(grad) == jax.tree.structure(targets)
    if not same or shapes(grad) != shapes(targets):
        raise ValueError(
            "target_grad must be like target_fn(params), whose shapes are "
            f"{shapes(targets)}, but its are {shapes(grad)}."
        )
    return jax.tree.map(lambda g, z: jnp.asarray(g, z.dtype), grad, targets)
