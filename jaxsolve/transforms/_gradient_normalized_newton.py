"""Newton steps that are no longer than gamma, by products with the Hessian."""

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.transforms._gradient_normalized import inner, normalized
from jaxsolve.transforms._scaled import scaled
from jaxsolve.transforms._wide import like, wide, widened


def scale_by_gradient_normalized_newton(
    gamma: optax.ScalarOrSchedule = 1.0,
    *,
    adaptive: bool = False,
    max_products: int = 10,
) -> optax.GradientTransformationExtraArgs:
    r"""Scales gradients by a regularised Hessian, given by its products.

    For the gradient :math:`g` and the Hessian :math:`H` of a batch, computes

    .. math::

        \lambda = \|g\| / (\gamma + 10^{-8}), \quad g \mapsto (H + \lambda I)^{-1} g

    by conjugate gradients, which stop at a direction in which :math:`H + \lambda I` is
    not positive: at once, they give :math:`g / \lambda`. No update is longer than
    :math:`\gamma`. With a positive approximation of H, such as Gauss-Newton products,
    the steps are those of ``smooth.gradient_normalized_newton`` without its test.

    With ``adaptive`` that test is made after the event: with the value f and the
    gradient g after a step of :math:`\lambda`, :math:`\gamma` is doubled where

    .. math::

        f^- - f \ge \|g\|^2 / (8 \lambda)

    and halved elsewhere; no step is taken back, so the solver is better where all
    data are at hand. It needs steps of learning rate one and values of equal meaning.

    Args:
        gamma: :math:`\gamma > 0`, or a schedule of it; with `adaptive` the first one.
        adaptive: whether it follows the values.
        max_products: products with H in an update, at least 1.

    Returns:
        A transformation that needs the extra argument ``hvp``, as ``hvp(v) -> H v`` for
        trees like params, and with `adaptive` also ``value``. It leaves the sign: a
        descent needs ``optax.scale(-1)``.

    Raises:
        ValueError: if gamma is not positive, or a schedule that is to adapt; in update,
            without the extra arguments.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> transform = transforms.scale_by_gradient_normalized_newton(gamma=5.0)
        >>> x = jnp.array([3.0, 4.0])  # of half its square
        >>> step, _ = transform.update(x, transform.init(x), hvp=lambda v: v)
        >>> print([f"{x:.3f}" for x in step])  # half of it, as lambda is one
        ['1.500', '2.000']

    References:
        Semenov, Jaggi and Doikov, `Gradient-Normalized Smoothness for Optimization with
        Approximate Hessians <https://arxiv.org/abs/2506.13710>`_, 2025. Adaptation
        without rejection, and conjugate gradients, are ours.
    """
    if not isinstance(max_products, int) or max_products < 1:
        raise ValueError(f"max_products must be at least 1, got {max_products!r}.")

    def solve(grad, shift, hvp, updates):
        product = lambda v: widened(hvp(like(v, updates)))
        return _conjugate_gradients(product, grad, shift, max_products)

    hint = "a function that multiplies by the Hessian of the batch, hvp(v) -> H v"
    return normalized(gamma, adaptive, solve, "hvp", hint)


def gradient_normalized_newton(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    gamma: optax.ScalarOrSchedule = 1.0,
    *,
    adaptive: bool = False,
    max_products: int = 10,
    weight_decay: chex.Numeric = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Descends by regularised Newton steps no longer than gamma.

    With :math:`d` of :func:`scale_by_gradient_normalized_newton`, computes

    .. math::

        x^+ = x - \eta (d + w x)

    Args:
        learning_rate: :math:`\eta`, a number or a schedule; one is Newton's step.
        gamma: :math:`\gamma > 0`; see the link, also for the next two.
        adaptive: whether gamma follows the values.
        max_products: products with the Hessian in an update.
        weight_decay: :math:`w \ge 0`.

    Returns:
        A transformation that needs params, the extra argument ``hvp``, and with
        `adaptive` also ``value``.

    Raises:
        ValueError: as the link.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import transforms
        >>> transform = transforms.gradient_normalized_newton(gamma=5.0)
        >>> x = jnp.array([3.0, 4.0])
        >>> step, _ = transform.update(x, transform.init(x), x, hvp=lambda v: v)
        >>> print([f"{x:.3f}" for x in step])
        ['-1.500', '-2.000']

    References:
        Semenov, Jaggi and Doikov, `Gradient-Normalized Smoothness for Optimization with
        Approximate Hessians <https://arxiv.org/abs/2506.13710>`_, 2025.
    """
    return optax.chain(
        scale_by_gradient_normalized_newton(
            gamma, adaptive=adaptive, max_products=max_products
        ),
        wide(optax.add_decayed_weights(weight_decay)),
        wide(optax.scale_by_learning_rate(learning_rate)),
    )


def _conjugate_gradients(product, grad, shift, steps):
    """Solves with the product plus the shift; stops where that is not positive."""
    whole = grad
    grad, unit = scaled(grad, core.real_dtype(grad))
    grad = like(grad, whole)
    size = inner(grad, grad)
    tiny = float(jnp.finfo(size.dtype).eps) ** 2

    def going_on(carry):
        *_, count, active = carry
        return active & (count < steps)

    def step(carry):
        found, rest, direction, left, count, _ = carry
        image = core.axpy(shift, direction, product(direction))
        curvature = inner(direction, image)
        ok = curvature > 0
        alpha = jnp.where(ok, left / jnp.where(ok, curvature, 1), 0)
        # Finds steepest descent where the first direction is not of positive curvature.
        alpha = jnp.where(~ok & (count == 0), 1 / shift, alpha)
        found = core.axpy(alpha, direction, found)
        rest = core.axpy(-jnp.where(ok, alpha, 0), image, rest)
        new_left = inner(rest, rest)
        beta = jnp.where(ok, new_left / jnp.where(left > 0, left, 1), 0)
        direction = core.axpy(beta, direction, rest)
        return (
            found,
            rest,
            direction,
            new_left,
            count + 1,
            ok & (new_left > tiny * size),
        )

    none = jax.tree.map(jnp.zeros_like, grad)
    zero = jnp.zeros((), jnp.int32)
    first = (none, grad, grad, size, zero, size > 0)
    found = jax.lax.while_loop(going_on, step, first)[0]
    return jax.tree.map(lambda x: (x.astype(unit.dtype) * unit).astype(x.dtype), found)
