"""Steps kept within the radius where softmax cross-entropy is analytic."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.transforms._scaled import dot, scaled_squares
from jaxsolve.transforms._softmax_radius import TINY, quantile_of, spread_of
from jaxsolve.transforms._wide import like, widened


class SoftmaxRadiusState(NamedTuple):
    """State of the controllers by the radius of softmax."""

    spreads: chex.Array  # (window,), real: the spreads of slopes of the last updates.
    ratio: chex.Array  # (), real: the norm of the incoming updates over the radius.


def clip_by_softmax_radius(
    target: chex.Numeric = 0.5,
    *,
    quantile: chex.Numeric = 1.0,
    window: int = 1,
    difference: chex.Numeric | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Shortens updates to a part of the radius where cross-entropy is analytic.

    Along the updates :math:`p`, of the norm :math:`\tau` and the direction :math:`v`,
    the cross-entropy of logits :math:`z + s a` with the slopes :math:`a = J_z v` has no
    singularity for complex :math:`|s| < \rho`, so that steps below :math:`\rho` are
    where its Taylor series speaks. Computes, over samples i and classes k,

    .. math::

        \Delta &= \max_i (\max_k a_{ik} - \min_k a_{ik}) \\
        \rho &= \pi / (\Delta + 10^{-12}) \\
        p &\mapsto p \min \{1, r \rho / \tau\}

    It goes last in a chain, after the learning rate, momentum and weight decay: what it
    shortens is the step that is taken. It costs one product with the Jacobian of the
    logits. Its ratio :math:`\tau / \rho`, safe below one, stays in the state.

    Args:
        target: :math:`r > 0`: 0.5 is on the safe side, 1 the boundary of the theory, 2
            survives often; infinity is the identity, and measures.
        quantile: in [0, 1]: which quantile of the spreads of the samples stands for
            their maximum; 0.95 to 0.99 forgive outliers.
        window: over how many updates, this one included, the least radius counts: as
            many as batches in an epoch cover all samples.
        difference: :math:`h > 0` for a difference quotient :math:`(z(\theta + h v) -
            z(\theta)) / h` in place of the product; None for that. It must be above
            the rounding of params: of a change that is rounded, what is left counts,
            and if nothing is, updates are not a number.

    Returns:
        A transformation that needs params and the extra argument ``logits_fn``, as
        ``logits_fn(params) -> logits``, whose last axis is that of the classes, two or
        more, on the batch of the gradient, without dropout. The scale is a constant to
        derivatives.

    Raises:
        ValueError: on a number out of its range; in update, without params, or if the
            logits are of one class.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from jaxsolve import transforms
        >>> clip = transforms.clip_by_softmax_radius(target=1.0)
        >>> logits_fn = lambda x: jnp.stack([x, -x], axis=-1)
        >>> x = jnp.array([0.5])
        >>> step, _ = clip.update(100 + x, clip.init(x), x, logits_fn=logits_fn)
        >>> print(step)  # half of pi, as logits part twice as fast as x moves
        [1.5707964]

    References:
        Sao, `Ghosts of Softmax: Complex Singularities That Limit Safe Step Sizes in
        Cross-Entropy <https://arxiv.org/abs/2603.13552>`_, 2026.
    """

    def rule(wanted, tau, real):
        del real
        return ~(tau <= wanted), wanted

    return _controller(rule, target, quantile, window, difference)


def scale_to_softmax_radius(
    target: chex.Numeric = 0.5,
    *,
    max_norm: chex.Numeric = jnp.inf,
    quantile: chex.Numeric = 1.0,
    window: int = 1,
    difference: chex.Numeric | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Gives updates a length that is a part of the radius of softmax.

    With :math:`\rho` and :math:`\tau` of :func:`clip_by_softmax_radius`, computes

    .. math::

        p \mapsto p \min \{r \rho, M\} / \tau

    which needs no learning rate, only a direction of descent. Updates of zero stay.

    Args:
        target: :math:`r > 0`.
        max_norm: :math:`M > 0`, a bound on the step, which would be :math:`10^{12} r
            \pi` long in a direction that moves no logits.
        quantile: see :func:`clip_by_softmax_radius`, also for the next two.
        window: over how many updates the least radius counts.
        difference: of a difference quotient.

    Returns:
        A transformation that needs params and the extra argument ``logits_fn``.

    Raises:
        ValueError: as :func:`clip_by_softmax_radius`.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from jaxsolve import transforms
        >>> scale = transforms.scale_to_softmax_radius()
        >>> logits_fn = lambda x: jnp.stack([x, -x], axis=-1)
        >>> x = jnp.array([0.5])
        >>> step, _ = scale.update(0.01 * x, scale.init(x), x, logits_fn=logits_fn)
        >>> print(step)
        [0.7853982]

    References:
        Sao, `Ghosts of Softmax: Complex Singularities That Limit Safe Step Sizes in
        Cross-Entropy <https://arxiv.org/abs/2603.13552>`_, 2026.
    """
    core.check_number("max_norm", max_norm, closed="]")

    def rule(wanted, tau, real):
        return ~(tau == 0), jnp.minimum(wanted, real(max_norm))

    return _controller(rule, target, quantile, window, difference)


def scale_by_logit_spread(
    floor: chex.Numeric = 0.01, cap: chex.Numeric = 1.0
) -> optax.GradientTransformationExtraArgs:
    r"""Scales updates by what the spread of the logits leaves of a half turn.

    For the logits z of samples i and classes k, computes

    .. math::

        p \mapsto p \operatorname{clip} \left( \frac{\pi}{\operatorname{mean}_i (\max_k
        z_{ik} - \min_k z_{ik})}, f, c \right)

    A cheap stand-in for :func:`clip_by_softmax_radius`, without a product: it reads the
    logits themselves, not their slopes, and no theorem speaks of it.

    Args:
        floor: :math:`f \ge 0`.
        cap: :math:`c \ge f`.

    Returns:
        A transformation that needs params and the extra argument ``logits_fn``.

    Raises:
        ValueError: on a bound out of its range; in update, without params, or if the
            logits are of one class.

    References:
        Sao, `Ghosts of Softmax: Complex Singularities That Limit Safe Step Sizes in
        Cross-Entropy <https://arxiv.org/abs/2603.13552>`_, 2026; its repository.
    """
    core.check_number("floor", floor, closed="[")
    core.check_number("cap", cap, floor, closed="[]")

    def init(params):
        del params
        return optax.EmptyState()

    def update(updates, state, params=None, *, logits_fn, **extra):
        del extra
        real = lambda number: core.real_scalar(number, updates)
        spread = jnp.mean(spread_of(_logits(logits_fn, params)(params)))
        factor = jnp.pi / jnp.maximum(real(spread), TINY)
        factor = jax.lax.stop_gradient(jnp.clip(factor, real(floor), real(cap)))
        return _times(factor, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _controller(rule, target, quantile, window, difference):
    """Gives updates another length, by a rule of theirs and what is wanted of rho."""
    core.check_number("target", target, closed="]")
    core.check_number("quantile", quantile, 0, 1, "[]")
    if difference is not None:
        core.check_number("difference", difference)
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise ValueError(f"window must be a positive integer, got {window!r}.")

    def init(params):
        zero = core.real_scalar(0, params)
        return SoftmaxRadiusState(jnp.zeros(window, zero.dtype), zero)

    def update(updates, state, params=None, *, logits_fn, **extra):
        del extra
        fun = _logits(logits_fn, params)
        real = lambda number: core.real_scalar(number, updates)
        unit, square = jax.lax.stop_gradient(scaled_squares(updates, real(0)))
        length, tau = (
            jnp.sqrt(jnp.where(square == 0, 1, square)),
            unit * jnp.sqrt(square),
        )
        # Not over tau, which may overflow, nor times its inverse, which may vanish.
        direction = lambda u: u.astype(tau.dtype) / unit / length
        # In the dtypes of params: what a product with the Jacobian asks for.
        v = jax.tree.map(lambda u, x: direction(u).astype(x.dtype), updates, params)
        slopes = _slopes(fun, params, v, difference, square == 0)
        spread = real(quantile_of(spread_of(slopes), quantile))
        known = jnp.where(jnp.isfinite(spread), spread, 0)
        spreads = jnp.roll(state.spreads, 1).at[0].set(known.astype(state.ratio.dtype))
        # The maximum passes on what is not a number in this batch.
        top = jnp.maximum(jnp.max(spreads).astype(tau.dtype), spread)
        wanted = real(target) * (jnp.pi / (top + TINY))
        changed, wanted = jax.lax.stop_gradient(rule(wanted, tau, real))
        wanted = jnp.where(changed, wanted, 0)
        given = lambda u: (direction(u) * wanted).astype(u.dtype)
        steps = jax.tree.map(lambda u: jnp.where(changed, given(u), u), updates)
        most = jnp.finfo(tau.dtype).max
        ratio = jnp.minimum(tau * ((top + TINY) / jnp.pi), most)
        ratio = jnp.where(jnp.isfinite(top) & jnp.isfinite(square), ratio, 0)
        return steps, SoftmaxRadiusState(spreads, ratio.astype(state.ratio.dtype))

    return optax.GradientTransformationExtraArgs(init, update)


def _logits(logits_fn, params):
    if params is None:
        raise ValueError(
            "the logits are those of the params: call "
            "`transform.update(updates, state, params, logits_fn=...)`."
        )

    def fun(params):
        logits = logits_fn(params)
        if jnp.ndim(logits) == 0 or jnp.shape(logits)[-1] < 2:
            raise ValueError(
                "logits_fn must return logits whose last axis is of two classes or "
                f"more, got shape {jnp.shape(logits)}; one logit z of two classes is "
                "`jnp.stack([z, 0 * z], axis=-1)`."
            )
        return logits

    return fun


def _slopes(fun, params, v, difference, still):
    if difference is None:
        return jax.jvp(fun, (params,), (v,))[1]
    start = widened(params)
    end = jax.tree.map(_rounded, core.axpy(difference, v, start), params)
    here, there = widened(fun(params)), widened(fun(like(end, params)))
    # What is left of h by the rounding of params: if nothing, zero over zero.
    product = lambda a: dot(a, v, core.real_dtype(params))
    taken = product(optax.tree.sub(end, start)) / jnp.where(still, 1, product(v))
    return (there - here) / jnp.where(still, 1, taken).astype(here.dtype)


def _rounded(wide, x):
    """Rounds to what the dtype of x can hold, which a compiler could leave out."""
    kind = jnp.finfo(x.dtype)
    return jax.lax.reduce_precision(wide, kind.nexp, kind.nmant)


def _times(scalar, tree):
    return jax.tree.map(
        lambda x: (scalar * x.astype(scalar.dtype)).astype(x.dtype), tree
    )
