"""AdaGrad-Norm: one adaptive stepsize for all params."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.transforms._scaled import scaled_squares
from jaxsolve.transforms._wide import wide


class ScaleByAdagradNormState(NamedTuple):
    """State of AdaGrad-Norm."""

    root: chex.Array  # (), real: that of v, the sum of squared norms of gradients.


def scale_by_adagrad_norm(
    initial_accumulator_value: chex.Numeric = 1e-2,
) -> optax.GradientTransformationExtraArgs:
    r"""Divides gradients by the root of the sum of their squared norms so far.

    .. math::

        v^+ &= v + \|g\|^2 \\
        g &\mapsto g / \sqrt{v^+}

    with one number :math:`v` for all params, where ``optax.scale_by_rss`` has one for
    each. On a smooth function, convex or not, :math:`\min_{k < K} \|g_k\|^2` falls as
    :math:`O(1/K)`, whatever the learning rate and whatever the Lipschitz constant.

    It leaves the sign of gradients: a descent needs ``optax.scale(-1)``, as in
    :func:`adagrad_norm`. Gradients that are not finite give such steps, and are not
    added. The state holds :math:`\sqrt{v}`, which huge gradients do not overflow.

    Args:
        initial_accumulator_value: :math:`v > 0` at first. Small, the first step has the
            length of the learning rate; it matters little after.

    Returns:
        A transformation with one number of state.

    Raises:
        ValueError: if the first value is not positive and finite.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> transform = transforms.scale_by_adagrad_norm(11.0)
        >>> g = jnp.array([3.0, 4.0])
        >>> step, _ = transform.update(g, transform.init(g))
        >>> print(step)  # over the root of 11 + 25
        [0.5        0.6666667]

    References:
        Ward, Wu and Bottou, `AdaGrad stepsizes: Sharp convergence over nonconvex
        landscapes <https://arxiv.org/abs/1806.01811>`_, 2019. Algorithm 1. Lau, Liu and
        Kolar, `AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods
        <https://arxiv.org/abs/2402.11215>`_, 2024.
    """
    first = initial_accumulator_value
    core.check_number("initial_accumulator_value", first)

    def init(params):
        return ScaleByAdagradNormState(jnp.sqrt(core.real_scalar(first, params)))

    def update(updates, state, params=None, **extra):
        del params, extra
        unit, total = scaled_squares(updates, state.root)
        length, root = jnp.sqrt(total), unit * jnp.sqrt(total)
        scaled = lambda g: (g.astype(root.dtype) / unit / length).astype(g.dtype)
        kept = jnp.where(jnp.isfinite(root), root, state.root)
        return jax.tree.map(scaled, updates), ScaleByAdagradNormState(kept)

    return optax.GradientTransformationExtraArgs(init, update)


def adagrad_norm(
    learning_rate: optax.ScalarOrSchedule,
    initial_accumulator_value: chex.Numeric = 1e-2,
    *,
    weight_decay: chex.Numeric = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Gradient descent with the stepsize of AdaGrad-Norm.

    With :math:`v^+` of :func:`scale_by_adagrad_norm`, computes

    .. math::

        x^+ = x - \eta (g / \sqrt{v^+} + \omega x)

    Args:
        learning_rate: :math:`\eta`, a scalar or a schedule: the length of the first
            step, about.
        initial_accumulator_value: :math:`v > 0` at first.
        weight_decay: :math:`\omega \ge 0`.

    Returns:
        A transformation, which needs params where there is a decay.

    Raises:
        ValueError: if the first value is not positive and finite.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import transforms
        >>> fun = lambda x, data: jnp.sum((x - data) ** 2)
        >>> solver = jaxsolve.from_optax(fun, transforms.adagrad_norm(1.0))
        >>> solution = jaxsolve.run(solver, jnp.zeros(2), jnp.array([1.0, 2.0]))
        >>> print(jnp.round(solution.params, 2))
        [1. 2.]

    References:
        Ward, Wu and Bottou, `AdaGrad stepsizes: Sharp convergence over nonconvex
        landscapes <https://arxiv.org/abs/1806.01811>`_, 2019.
    """
    links = [scale_by_adagrad_norm(initial_accumulator_value)]
    if not core.is_zero(weight_decay):
        links = [*links, wide(optax.add_decayed_weights(weight_decay))]
    return optax.chain(*links, wide(optax.scale_by_learning_rate(learning_rate)))
