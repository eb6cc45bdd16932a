"""Proximal operators made of proximal operators."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve.core import memoise
from jaxsolve.prox import _leaves, _of_data
from jaxsolve.prox._prox import Prox


@memoise
@_of_data.lifted
def conjugate(prox: Prox) -> Prox:
    r"""Make the proximal operator of the convex conjugate.

    From that of :math:`g`, by Moreau's identity, computes that of
    :math:`g^*(y) = \sup_x \langle x, y \rangle - g(x)`:

    .. math::

        \operatorname{prox}_{t g^*}(x)
        = x - t \operatorname{prox}_{g / t}(x / t)

    Args:
        prox: of :math:`g`, convex and lower semicontinuous.

    Returns:
        A proximal operator. Its stepsize must be positive.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.conjugate(prox.l1(1.0))(jnp.array([3.0, 0.5, -2.0]), 2.0)
        Array([ 1. ,  0.5, -1. ], dtype=float32)

    References:
        Parikh and Boyd, `Proximal Algorithms
        <https://doi.org/10.1561/2400000003>`_, 2014. Section 2.5.
    """

    def conjugate_prox(params, stepsize=1.0):
        wide = _leaves.widen(params)
        t = _stepsize(stepsize, wide)
        point = _leaves.leafwise(jnp.divide, wide, stepsize=t)
        point = prox(point, jax.tree.map(lambda t: 1 / t, t))
        return _leaves.leafwise(
            lambda x, y, t: x - t * y, params, point=point, stepsize=t
        )

    return conjugate_prox


@memoise
@_of_data.lifted
def scale(prox: Prox, weight: chex.ArrayTree) -> Prox:
    r"""Weigh a function: make the proximal operator of :math:`w g`.

    .. math::

        \operatorname{prox}_{t (w g)}(x) = \operatorname{prox}_{(t w) g}(x)

    Args:
        prox: of :math:`g`.
        weight: :math:`w \ge 0`, a scalar or whatever ``prox`` takes as a stepsize.

    Returns:
        A proximal operator.

    Raises:
        ValueError: if the weight is negative or does not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.scale(prox.l1(1.0), 0.5)(jnp.array([3.0, 0.5, -2.0]))
        Array([ 2.5,  0. , -1.5], dtype=float32)
    """
    _leaves.check_at_least_zero(weight=weight)

    def scaled_prox(params, stepsize=1.0):
        return prox(params, _times(stepsize, weight, params))

    return scaled_prox


@memoise
@_of_data.lifted
def translate(prox: Prox, shift: chex.ArrayTree) -> Prox:
    r"""Move a function: make the proximal operator of :math:`g(x - s)`.

    .. math::

        \operatorname{prox}_{t g(\cdot - s)}(x)
        = s + \operatorname{prox}_{t g}(x - s)

    Args:
        prox: of :math:`g`.
        shift: :math:`s`, a scalar, an array that broadcasts to every leaf, or a pytree
            like params.

    Returns:
        A proximal operator.

    Raises:
        ValueError: if the shift does not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.translate(prox.l1(1.0), 1.0)(jnp.array([3.0, 0.5, -2.0]))
        Array([ 2.,  1., -1.], dtype=float32)
    """

    def translated_prox(params, stepsize=1.0):
        wide = _leaves.widen(params)
        point = prox(_leaves.leafwise(jnp.subtract, wide, shift=shift), stepsize)
        return _leaves.leafwise(lambda _, y, s: y + s, params, point=point, shift=shift)

    return translated_prox


@memoise
@_of_data.lifted
def scale_argument(prox: Prox, factor: chex.Numeric) -> Prox:
    r"""Stretch a function: make the proximal operator of :math:`g(c x)`.

    .. math::

        \operatorname{prox}_{t g(c \, \cdot)}(x)
        = \tfrac{1}{c} \operatorname{prox}_{c^2 t g}(c x)

    Args:
        prox: of :math:`g`.
        factor: :math:`c \ne 0`, a scalar of any sign.

    Returns:
        A proximal operator.

    Raises:
        ValueError: if the factor is zero or not a scalar.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.scale_argument(prox.l1(1.0), 0.5)(jnp.array([3.0, 0.5, -2.0]))
        Array([ 2.5,  0. , -1.5], dtype=float32)
    """
    number = _leaves.known(factor) if _leaves.is_scalar(factor) else np.zeros(1)
    if number is not None and not np.all(number):
        raise ValueError(
            f"factor must be a scalar other than zero, but it is {factor}: give a "
            "number; where leaves differ, use prox.separable_sum."
        )

    def stretched_prox(params, stepsize=1.0):
        point = _leaves.leafwise(jnp.multiply, _leaves.widen(params), factor=factor)
        square = _times(factor, factor, params)
        point = prox(point, _times(stepsize, square, params))
        return _leaves.leafwise(
            lambda _, y, c: y / c, params, point=point, factor=factor
        )

    return stretched_prox


@memoise
@_of_data.lifted
def add_quadratic(prox: Prox, weight: chex.Numeric) -> Prox:
    r"""Make a function strongly convex: add :math:`\tfrac{w}{2} \|x\|_2^2` to it.

    .. math::

        \operatorname{prox}_{t (g + \frac{w}{2} \|\cdot\|^2)}(x)
        = \operatorname{prox}_{\frac{t}{1 + t w} g}\Bigl(\frac{x}{1 + t w}\Bigr)

    Args:
        prox: of :math:`g`.
        weight: :math:`w \ge 0`, a scalar or whatever ``prox`` takes as a stepsize.

    Returns:
        A proximal operator.

    Raises:
        ValueError: if the weight is negative or does not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.add_quadratic(prox.l1(1.0), 3.0)(jnp.array([3.0, 0.5, -2.0]))
        Array([ 0.5 ,  0.  , -0.25], dtype=float32)
    """
    _leaves.check_at_least_zero(weight=weight)

    def convex_prox(params, stepsize=1.0):
        wide = _leaves.widen(params)
        t = _stepsize(stepsize, wide)
        factor = jax.tree.map(lambda tw: 1 / (1 + tw), _times(t, weight, wide))
        point = _leaves.leafwise(jnp.multiply, wide, weight=factor)
        return _leaves.narrow(prox(point, _times(t, factor, wide)), params)

    return convex_prox


@memoise
@_of_data.lifted
def add_linear(prox: Prox, slope: chex.ArrayTree) -> Prox:
    r"""Tilt a function: add :math:`\langle a, x \rangle` to it.

    .. math::

        \operatorname{prox}_{t (g + \langle a, \cdot \rangle)}(x)
        = \operatorname{prox}_{t g}(x - t a)

    With the orthant it is the 1-norm of what may not be negative.

    Args:
        prox: of :math:`g`.
        slope: :math:`a`, a scalar, an array that broadcasts to every leaf, or a pytree
            like params.

    Returns:
        A proximal operator.

    Raises:
        ValueError: if the slope does not fit params.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> prox.add_linear(prox.non_negative(), 1.0)(jnp.array([3.0, 0.5, -2.0]))
        Array([2., 0., 0.], dtype=float32)
    """

    def tilted_prox(params, stepsize=1.0):
        wide = _leaves.widen(params)
        t = _stepsize(stepsize, wide)
        point = _leaves.leafwise(
            lambda x, t, a: x - t * a, wide, stepsize=t, slope=slope
        )
        return _leaves.narrow(prox(point, t), params)

    return tilted_prox


@memoise
@_of_data.lifted
def separable_sum(proxes: chex.ArrayTree) -> Prox:
    r"""Give each part of params its own proximal operator.

    For :math:`g(x) = \sum_i g_i(x_i)` over the parts :math:`x_i` of params, computes

    .. math::

        \operatorname{prox}_{t g}(x)_i = \operatorname{prox}_{t g_i}(x_i)

    Args:
        proxes: a pytree of proximal operators, of the structure of params or of its
            upper levels; each acts on the subtree of params in its place.

    Returns:
        A proximal operator. Its stepsize is a scalar or array given to all, or a
        pytree with one for each.

    Raises:
        ValueError: if a part of params has no operator or an operator has no part.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> both = prox.separable_sum({"w": prox.l1(1.0), "b": prox.identity()})
        >>> both({"w": jnp.array([3.0, -0.5]), "b": jnp.array([0.5])})
        {'b': Array([0.5], dtype=float32), 'w': Array([2., 0.], dtype=float32)}
    """
    if not all(map(callable, jax.tree.leaves(proxes))):
        raise ValueError(
            "proxes must be a pytree of proximal operators, but it has the leaves "
            f"{jax.tree.leaves(proxes)}: use prox.identity() where nothing is done."
        )

    def sum_prox(params, stepsize=1.0):
        parts = _parts("params", params, proxes)
        if _leaves.is_leaf(stepsize):
            steps = [stepsize] * len(parts)
        else:
            steps = _parts("stepsize", stepsize, proxes)
        treedef = jax.tree.structure(proxes)
        triples = zip(treedef.flatten_up_to(proxes), parts, steps, strict=True)
        return treedef.unflatten([prox(part, step) for prox, part, step in triples])

    return sum_prox


def _parts(name, tree, proxes):
    treedef = jax.tree.structure(proxes)
    try:
        return treedef.flatten_up_to(tree)
    except ValueError as error:
        raise ValueError(
            f"{name} must have one part for each proximal operator of {treedef}, but "
            f"it is {jax.tree.structure(tree)}: match them; use prox.identity() where "
            "nothing is done."
        ) from error


def _stepsize(stepsize, params):
    """The stepsize in the dtype of params: a scalar where it was one."""
    if _leaves.is_scalar(stepsize):
        return jnp.asarray(stepsize, _leaves.working_dtype(_leaves.real(params)))
    return _leaves.like("stepsize", stepsize, _leaves.real(params))


def _times(stepsize, weight, params):
    """Their product, which remains a scalar where both are."""
    if _leaves.is_scalar(stepsize) and _leaves.is_scalar(weight):
        dtype = _leaves.working_dtype(_leaves.real(params))
        return jnp.asarray(stepsize, dtype) * jnp.asarray(weight, dtype)
    params = _leaves.real(params)
    stepsize = _leaves.like("stepsize", stepsize, params)
    return jax.tree.map(jnp.multiply, stepsize, _leaves.like("weight", weight, params))
