"""The Rolling Ball Optimizer."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.transforms._scaled import dot
from jaxsolve.transforms._wide import like, widened


class RollingBallState(NamedTuple):
    """State of the Rolling Ball Optimizer."""

    count: chex.Array  # (), int32: updates taken.
    residual: chex.Array  # (), real: slope of the distance to the center, last seen.


def rolling_ball(
    learning_rate: optax.ScalarOrSchedule,
    radius: optax.ScalarOrSchedule = 1.0,
    *,
    steps: int = 10,
    projection_stepsize: chex.Numeric = 0.1,
    normalize: bool = False,
    loss_scale: chex.Numeric = 1.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Rolls a ball over the graph of the objective, and irons out what is smaller.

    The ball rests on the graph of :math:`f` at :math:`(\theta, f(\theta))`. With the
    gradient :math:`g` there and the incoming updates :math:`u`, which are :math:`g` at
    the head of a chain, its center moves along the tangent of the graph above
    :math:`u`, and is projected onto the graph by K steps of gradient descent from
    :math:`z = \theta`:

    .. math::

        s &= \sqrt{1 + \|g\|^2}, \qquad \tau = (u, \langle g, u \rangle) \\
        (c, h) &= (\theta - \rho g / s, f(\theta) + \rho / s) - \eta \tau \\
        z &\leftarrow z - \gamma ((z - c) + (f(z) - h) \nabla f(z)) \\
        \theta^+ &= z

    or with :math:`\tau / \|\tau\|` if normalized. With :math:`\rho = 0` it is gradient
    descent, projected; for an affine f, gradient descent whatever the radius. Near a
    minimum of the curvature :math:`\sigma < 1 / \rho` errors shrink by the factor
    :math:`1 - \eta \sigma / (1 - \rho \sigma)`; minima that are more curved are never
    touched, which is the point. So radii of more than moderate size do harm.

    An update takes K + 1 gradients of f by the book. As the first projection step is
    made with the gradient at :math:`\theta`, which is passed, K - 1 are taken here,
    which no form can spare: mind the cost. It depends on the scale of f and of params.

    Args:
        learning_rate: :math:`\eta > 0`, a number or a schedule.
        radius: :math:`\rho \ge 0`, a number or a schedule.
        steps: K, at least 1. With few, or small, projection steps the true step is
            about :math:`1 - (1 - \gamma)^K` of the asked.
        projection_stepsize: :math:`\gamma > 0`, below :math:`2 / (1 + \|g\|^2 + |f -
            h| \|\nabla^2 f\|)`, or the projection diverges.
        normalize: whether :math:`\tau` has the length one. The authors' code has it as
            it is; whether the paper does is not certain.
        loss_scale: a factor on f, :math:`g` and :math:`u`.

    Returns:
        A transformation whose updates are to be added as they are, with the sign and
        the rate in them. It needs params and the extra arguments ``value``, ``grad``
        and ``value_fn``, as ``value_fn(params) -> scalar``, of one batch. Its state
        holds :math:`\|(z - c) + (f(z) - h) \nabla f(z)\|` at the last z but one, zero
        if the ball is as far from the graph as its radius.

    Raises:
        ValueError: on a number out of its range; in update, without params.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import transforms
        >>> fun = lambda x, data: jnp.sum((x - data) ** 2) / 2
        >>> ball = transforms.rolling_ball(0.5, 0.2)
        >>> solver = jaxsolve.from_optax(fun, ball)
        >>> print(jnp.round(jaxsolve.run(solver, 0.0, 2.0).params, 2))
        2.0

    References:
        Belgoumri, Bouadjenek, Hacid, Razzak and Aryal, `Rolling Ball Optimizer:
        Learning by ironing out loss landscape wrinkles
        <https://arxiv.org/abs/2505.19527>`_, 2025.
    """
    _check(learning_rate, radius, steps, projection_stepsize, loss_scale)
    rate_of, radius_of = core.as_schedule(learning_rate), core.as_schedule(radius)

    def init(params):
        return RollingBallState(jnp.zeros((), jnp.int32), core.real_scalar(0, params))

    def update(updates, state, params=None, *, value, grad, value_fn, **extra):
        del extra
        if params is None:
            raise ValueError(
                "the ball rests above the params: call "
                "`transform.update(updates, state, params, ...)`."
            )
        real = lambda number: core.real_scalar(number, params)
        eta, rho = real(rate_of(state.count)), real(radius_of(state.count))
        alpha, gamma = real(loss_scale), real(projection_stepsize)
        start = widened(params)
        scaled = lambda tree: _times(alpha, widened(tree))

        def oracle(z):
            height, slope = jax.value_and_grad(value_fn)(like(z, params))
            return alpha * (real(height) - real(value)), scaled(slope)

        slope = scaled(grad)
        goal = _center(start, slope, scaled(updates), eta, rho, normalize)

        def pull(z, height, slope):
            return core.axpy(height - goal[1], slope, optax.tree.sub(z, goal[0]))

        def moved(z, height, slope):
            force = pull(z, height, slope)
            return core.axpy(-gamma, force, z), jnp.sqrt(dot(force, force, eta.dtype))

        def project(carry, _):
            return moved(carry[0], *oracle(carry[0])), None

        carry = moved(start, real(0), slope)
        if steps > 1:
            carry, _ = jax.lax.scan(project, carry, length=steps - 1)
        end, residual = carry
        residual = residual.astype(state.residual.dtype)
        count = optax.safe_increment(state.count)
        new = like(optax.tree.sub(end, start), updates)
        return new, RollingBallState(count, residual)

    return optax.GradientTransformationExtraArgs(init, update)


def _center(point, slope, along, eta, radius, normalize):
    """Where the center of the ball goes: its place, and its height above the graph.

    Heights count from that of the point, beside which differences would be lost.
    """
    inner = lambda a, b: dot(a, b, eta.dtype)
    rise = inner(slope, along)
    if normalize:
        length = jnp.sqrt(inner(along, along) + rise**2)
        eta = eta / jnp.where(length == 0, 1, length)
    lean = radius / jnp.sqrt(1 + inner(slope, slope))
    place = core.axpy(-eta, along, core.axpy(-lean, slope, point))
    return place, lean - eta * rise


def _times(scalar, tree):
    return jax.tree.map(lambda x: scalar.astype(x.dtype) * x, tree)


def _check(learning_rate, radius, steps, projection_stepsize, loss_scale):
    if not callable(learning_rate):
        core.check_number("learning_rate", learning_rate)
    if not callable(radius):
        core.check_number("radius", radius, closed="[")
    core.check_number("projection_stepsize", projection_stepsize)
    core.check_number("loss_scale", loss_scale)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a positive integer, got {steps!r}.")
