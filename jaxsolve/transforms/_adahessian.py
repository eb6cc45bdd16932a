"""AdaHessian."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsolve import core
from jaxsolve.transforms._hessian_diagonal import hessian_diagonal, spatial_average
from jaxsolve.transforms._wide import like, wide, widened


class ScaleByAdahessianState(NamedTuple):
    """State of AdaHessian."""

    count: chex.Array  # (), int32: updates taken.
    mu: chex.ArrayTree  # like params, real: mean of gradients.
    nu: chex.ArrayTree  # like params, real: mean of squares of the diagonal.
    diagonal: Any  # the state of the diagonal: a key.


def scale_by_adahessian(
    b1: chex.Numeric = 0.9,
    b2: chex.Numeric = 0.999,
    eps: chex.Numeric = 1e-4,
    hessian_power: chex.Numeric = 1.0,
    *,
    update_each: int = 1,
    diagonal: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Scales gradients by a mean of the diagonal of the Hessian.

    From the means :math:`m` and :math:`v`, with the gradient :math:`g` and the smoothed
    diagonal :math:`D` of the Hessian of one batch, computes

    .. math::

        m^+ &= \beta_1 m + (1 - \beta_1) g \\
        v^+ &= \beta_2 v + (1 - \beta_2) D \odot D \\
        g &\mapsto \frac{m^+ / (1 - \beta_1^t)}{\sqrt{v^+ / (1 - \beta_2^s)}^{\,k}
        + \epsilon}

    It is Adam with the diagonal in place of the gradient. With ``update_each`` of r the
    diagonal is taken, and v changed, in each r-th update only, from the first on: t
    counts the updates, s these. The others cost no product with the Hessian.

    Rescaling the objective changes nothing where :math:`\epsilon = 0`. Negative
    curvature counts by its size, so saddles repel.

    Args:
        b1: :math:`\beta_1`, in [0, 1).
        b2: :math:`\beta_2`, in [0, 1); 0.98 for language.
        eps: :math:`\epsilon`, not negative; far smaller than 1e-4, flat coordinates,
            as biases behind ReLUs, take huge steps.
        hessian_power: :math:`k`, in [0, 1]: 1 is like Newton's method, 0 is descent
            with momentum.
        update_each: :math:`r`, at least one.
        diagonal: what estimates D: :func:`hessian_diagonal` with
            :func:`spatial_average` by default; another of several samples or other
            blocks, or any transformation whose updates are a diagonal.

    Returns:
        A transformation that needs what `diagonal` does: by default the extra argument
        ``hvp``, as ``hvp(v) -> H v``, on the batch of the gradient, or instead
        ``value_fn`` and params.

    Raises:
        ValueError: if a number is out of its range; in update, without ``hvp`` and
            ``value_fn``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> scales, x = jnp.array([1.0, 100.0]), jnp.array([3.0, 4.0])
        >>> transform = transforms.scale_by_adahessian(eps=0.0)
        >>> step, _ = transform.update(
        ...     scales * x, transform.init(x), x, hvp=lambda v: scales * v)
        >>> print(jnp.round(step))  # Newton's
        [3. 4.]

    References:
        Yao, Gholami, Shen, Mustafa, Keutzer and Mahoney, `ADAHESSIAN: An Adaptive
        Second Order Optimizer for Machine Learning
        <https://arxiv.org/abs/2006.00719>`_, 2021. Algorithm 1; the means are corrected
        by the number of terms that each has.
    """
    core.check_number("b1", b1, 0, 1, "[")
    core.check_number("b2", b2, 0, 1, "[")
    core.check_number("eps", eps, closed="[")
    core.check_number("hessian_power", hessian_power, 0, 1, "[]")
    if not isinstance(update_each, int | np.integer) or update_each < 1:
        raise ValueError(
            f"update_each must be an integer, at least 1, got {update_each!r}."
        )
    if diagonal is None:
        diagonal = hessian_diagonal(average=spatial_average())
    diagonal = optax.with_extra_args_support(diagonal)

    def init(params):
        zeros = lambda: jax.tree.map(jnp.zeros_like, widened(params))
        count = jnp.zeros((), jnp.int32)
        return ScaleByAdahessianState(count, zeros(), zeros(), diagonal.init(params))

    def update(updates, state, params=None, **extra):
        gradient = widened(updates)
        due = state.count % update_each == 0

        def renew():
            d, inner = diagonal.update(gradient, state.diagonal, params, **extra)
            squares = jax.tree.map(jnp.square, widened(d))
            lost = core.all_finite(d) & ~core.all_finite(squares)
            nu = _moved(b2, squares, state.nu)
            return core.where(due, (nu, inner, lost), kept)

        kept = state.nu, state.diagonal, jnp.zeros((), bool)
        if update_each == 1:
            nu, inner, lost = renew()
        else:  # the branch of no lane costs nothing
            nu, inner, lost = jax.lax.cond(core.any_lane(due), renew, lambda: kept)
        mu = _moved(b1, gradient, state.mu)
        count = optax.safe_increment(state.count)
        direction = jax.tree.map(
            _direction(b1, b2, eps, hessian_power, count, update_each), mu, nu
        )
        # Of a curvature whose square is beyond all numbers nothing is learnt: it would
        # stop all steps for ever.
        direction = core.where(lost, optax.tree.zeros_like(direction), direction)
        new_state = ScaleByAdahessianState(count, mu, nu, inner)
        new_state = core.where(lost, state, new_state)
        return like(direction, updates), new_state

    return optax.GradientTransformationExtraArgs(init, update)


def adahessian(
    learning_rate: optax.ScalarOrSchedule = 0.15,
    b1: chex.Numeric = 0.9,
    b2: chex.Numeric = 0.999,
    eps: chex.Numeric = 1e-4,
    hessian_power: chex.Numeric = 1.0,
    weight_decay: chex.Numeric = 0.0,
    *,
    mask: chex.ArrayTree | Callable | None = None,
    update_each: int = 1,
    diagonal: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""AdaHessian: Adam with the diagonal of the Hessian.

    With the direction :math:`u` of :func:`scale_by_adahessian`, computes

    .. math::

        \theta^+ = \theta - \eta (u + \lambda \theta)

    An update costs about two gradients, less with ``update_each``. The authors' rate,
    0.15 for images and 0.047 for transformers, is about a hundred times that of Adam,
    and decays by the same schedule.

    Args:
        learning_rate: :math:`\eta`, a number or a schedule.
        b1: :math:`\beta_1`; see :func:`scale_by_adahessian`, also for the next three.
        b2: :math:`\beta_2`.
        eps: :math:`\epsilon`.
        hessian_power: :math:`k`.
        weight_decay: :math:`\lambda`, not negative, decoupled; it needs params.
        mask: which leaves decay; see ``optax.add_decayed_weights``.
        update_each: how many updates use one diagonal.
        diagonal: what estimates the diagonal.

    Returns:
        A transformation that needs params, and the extra argument ``hvp`` or
        ``value_fn``.

    Raises:
        ValueError: as :func:`scale_by_adahessian`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import transforms
        >>> fun = lambda x, data: jnp.sum(jnp.array([1.0, 100.0]) * (x - data) ** 2)
        >>> solver = jaxsolve.from_optax(fun, transforms.adahessian(0.5, b1=0.5))
        >>> solution = jaxsolve.run(solver, jnp.zeros(2), jnp.array([1.0, 2.0]))
        >>> print(jnp.round(solution.params))
        [1. 2.]

    References:
        Yao, Gholami, Shen, Mustafa, Keutzer and Mahoney, `ADAHESSIAN: An Adaptive
        Second Order Optimizer for Machine Learning
        <https://arxiv.org/abs/2006.00719>`_, 2021.
    """
    if not callable(weight_decay):
        core.check_number("weight_decay", weight_decay, closed="[")
    scale = scale_by_adahessian(
        b1, b2, eps, hessian_power, update_each=update_each, diagonal=diagonal
    )
    decay = optax.add_decayed_weights(weight_decay, mask)
    return optax.chain(
        scale, wide(optax.chain(decay, optax.scale_by_learning_rate(learning_rate)))
    )


def _moved(decay, tree, mean):
    def leaf(x, m):
        b = jnp.asarray(decay, m.dtype)
        return b * m + jnp.asarray(1 - decay, m.dtype) * x.astype(m.dtype)

    return jax.tree.map(leaf, tree, mean)


def _direction(b1, b2, eps, power, count, update_each):
    """The direction of a leaf, as a function of its two means."""
    terms = (count - 1) // update_each + 1

    def leaf(m, v):
        real = lambda x: jnp.asarray(x, m.dtype)
        m = m / (1 - real(b1) ** real(count))
        v = v / (1 - real(b2) ** real(terms))
        return m / (jnp.sqrt(v) ** real(power) + real(eps))

    return leaf
