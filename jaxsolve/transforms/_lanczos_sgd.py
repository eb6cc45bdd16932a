"""Descent with the outer eigenvalues of the Hessian damped away."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core, linear
from jaxsolve.transforms._curvature import curvature, first_key
from jaxsolve.transforms._lanczos_momentum import check_period
from jaxsolve.transforms._wide import like, wide, widened


class ScaleByLanczosState(NamedTuple):
    """State of descent preconditioned by Ritz pairs."""

    count: chex.Array  # (), int32: updates taken.
    values: chex.Array  # (m,), real: Ritz values.
    vectors: chex.ArrayTree  # (m, ...) leaves, real: Ritz vectors.
    key: chex.PRNGKey  # (), key: of the next start.


def scale_by_lanczos(
    steps: int = 10,
    refresh: int = 100,
    damping: chex.Numeric = 100.0,
    *,
    from_gradient: bool = False,
    key: chex.PRNGKey | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Divides gradients by the curvature in the directions of Ritz vectors.

    With the Ritz pairs :math:`(\lambda_i, u_i)` of m steps of ``linear.lanczos``, taken
    anew in each K-th update, computes

    .. math::

        g \mapsto \frac{g}{\delta} + \sum_i \left( \frac{1}{|\lambda_i| + \delta} -
        \frac{1}{\delta} \right) \langle u_i, g \rangle u_i

    which is the inverse of :math:`|H| + \delta` were H no more than these pairs. A
    refresh that is not finite, or starts from a gradient of zero, leaves the pairs as
    they are.

    Args:
        steps: :math:`m`, 5 to 10; as many copies of params are kept.
        refresh: :math:`K`.
        damping: :math:`\delta > 0`.
        from_gradient: whether Lanczos' method starts from the gradient of the update,
            rather than from random signs.
        key: of the first start; ``jax.random.key(0)`` by default.

    Returns:
        A transformation that needs the extra argument ``hvp``, as ``hvp(v) -> H v``, or
        instead ``value_fn`` and params.

    Raises:
        ValueError: if a number is out of its range; in update, without ``hvp`` and
            ``value_fn``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> scales, x = jnp.array([1.0, 3.0]), jnp.array([2.0, 4.0])
        >>> transform = transforms.scale_by_lanczos(steps=2, damping=1.0)
        >>> step, _ = transform.update(
        ...     scales * x, transform.init(x), x, hvp=lambda v: scales * v)
        >>> print(jnp.round(step))  # scales * x / (scales + 1)
        [1. 3.]

    References:
        Granziol, Wan, Albanie and Roberts, `Explaining the Adaptive Generalisation Gap
        <https://arxiv.org/abs/2011.08181>`_, 2020; the rule as in the authors' code.
    """
    check_period(steps, refresh)
    core.check_number("damping", damping)

    def init(params):
        wide_params = widened(params)
        rows = lambda x: jnp.zeros((steps, *x.shape), x.dtype)
        values = jnp.zeros((steps,), core.real_dtype(params))
        vectors = jax.tree.map(rows, wide_params)
        return ScaleByLanczosState(
            jnp.zeros((), jnp.int32), values, vectors, first_key(key)
        )

    def update(updates, state, params=None, *, hvp=None, value_fn=None, **extra):
        del extra
        gradient = widened(updates)
        due = state.count % refresh == 0

        def renew():
            name = "descent preconditioned by Ritz pairs"
            product, form = curvature(name, params, updates, hvp, value_fn)
            new_key, now = jax.random.split(state.key)
            start = linear.rademacher(now, form)
            start = like(gradient, form) if from_gradient else start
            krylov = linear.lanczos(product, start, steps)
            new = krylov.values, linear.ritz_vectors(krylov)
            new = like(new, (state.values, state.vectors))
            sound = due & jnp.all(jnp.isfinite(krylov.values)) & (krylov.rank > 0)
            pairs = core.where(sound, new, (state.values, state.vectors))
            return *pairs, jnp.where(due, new_key, state.key)

        values, vectors, new_key = jax.lax.cond(
            core.any_lane(due), renew, lambda: tuple(state[1:])
        )
        direction = _preconditioned(gradient, values, vectors, damping)
        count = optax.safe_increment(state.count)
        new_state = ScaleByLanczosState(count, values, vectors, new_key)
        return like(direction, updates), new_state

    return optax.GradientTransformationExtraArgs(init, update)


def lanczos_sgd(
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: chex.Numeric = 0.0,
    *,
    steps: int = 10,
    refresh: int = 100,
    damping: chex.Numeric = 100.0,
    mask: chex.ArrayTree | Callable | None = None,
    key: chex.PRNGKey | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Descends with the outer eigenvalues of the Hessian damped away: LanczosSGD.

    With the direction :math:`u` of :func:`scale_by_lanczos`, computes

    .. math::

        \theta^+ = \theta - \eta (u + w \theta)

    Args:
        learning_rate: :math:`\eta`, a number or a schedule: that of plain descent,
            times the damping.
        weight_decay: :math:`w`, not negative, decoupled; it needs params.
        steps: Ritz pairs; see :func:`scale_by_lanczos`, also for the next two.
        refresh: updates from one set of pairs to the next.
        damping: :math:`\delta`.
        mask: which leaves decay; see ``optax.add_decayed_weights``.
        key: of the first start.

    Returns:
        A transformation that needs the extra argument ``hvp`` or ``value_fn``, and
        params.

    Raises:
        ValueError: as :func:`scale_by_lanczos`.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import transforms
        >>> fun = lambda x, data: jnp.sum(jnp.array([0.1, 50.0]) * (x - data) ** 2)
        >>> newton = transforms.lanczos_sgd(1.0, steps=2, damping=0.1)
        >>> solver = jaxsolve.from_optax(fun, newton)
        >>> solution = jaxsolve.run(solver, jnp.zeros(2), jnp.array([1.0, 2.0]))
        >>> print(jnp.round(solution.params))
        [1. 2.]

    References:
        Granziol, Wan, Albanie and Roberts, `Explaining the Adaptive Generalisation Gap
        <https://arxiv.org/abs/2011.08181>`_, 2020.
    """
    core.check_number("weight_decay", weight_decay, closed="[")
    scale = scale_by_lanczos(steps, refresh, damping, key=key)
    decay = optax.add_decayed_weights(weight_decay, mask)
    return optax.chain(
        scale, wide(optax.chain(decay, optax.scale_by_learning_rate(learning_rate)))
    )


def _preconditioned(gradient, values, vectors, damping):
    highest = jax.lax.Precision.HIGHEST

    def dots(rows, g):
        found = jnp.tensordot(rows, g, axes=g.ndim, precision=highest)
        return found.astype(values.dtype)

    terms = jax.tree.leaves(jax.tree.map(dots, vectors, gradient))
    delta = jnp.asarray(damping, values.dtype)
    factors = 1 / (jnp.abs(values) + delta) - 1 / delta
    part = factors * sum(terms, jnp.zeros_like(values))

    def leaf(rows, g):
        share = jnp.tensordot(part.astype(g.dtype), rows, axes=1, precision=highest)
        return g / delta.astype(g.dtype) + share

    return jax.tree.map(leaf, vectors, gradient)
