"""Mirror steps as the last link of a chain."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.prox import MirrorMap
from jaxsolve.transforms._proximal import check_params, steps_to
from jaxsolve.transforms._wide import like, widened


class MirrorState(NamedTuple):
    """State of a mirror link."""

    exact: chex.ArrayTree  # like params, of at least 32 bits: where the last step led.
    rounded: chex.ArrayTree  # likewise: the same, as params plus an update give it.


def mirror(mirror_map: MirrorMap) -> optax.GradientTransformationExtraArgs:
    r"""Ends a chain by a mirror step: the distance of a set in place of the 2-norm.

    The incoming updates :math:`u` are steps, with their learning rate and sign, of
    which a Euclidean descent would add them to params :math:`x`. They become

    .. math::

        u \mapsto \arg\min_{y \in C} \{ D(y, x) - \langle u, y \rangle \} - x

    After ``optax.sgd`` it is mirror descent, with ``prox.entropy_map()`` multiplicative
    weights.

    Small entries of params would be lost where an update is added to larger ones, and
    an entry that has become zero so would stay zero. The link therefore goes on from
    the unrounded iterate, which it keeps, unless params were changed otherwise.

    Args:
        mirror_map: the set C and its distance D, such as ``prox.entropy_map()``. Start
            in the interior of the set.

    Returns:
        A transformation that needs params, for the end of a chain. Updates that are
        not finite pass as they are.

    Raises:
        ValueError: if `mirror_map` is not a `MirrorMap`; in update, without params.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from jaxsolve import prox, transforms
        >>> link = transforms.mirror(prox.entropy_map())
        >>> transform, x = optax.chain(optax.sgd(1.0), link), jnp.array([0.5, 0.5])
        >>> gradient = jnp.log(jnp.array([1.0, 3.0]))
        >>> step, _ = transform.update(gradient, transform.init(x), x)
        >>> print(jnp.round(x + step, 4))
        [0.75 0.25]

    References:
        Beck and Teboulle, `Mirror descent and nonlinear projected subgradient methods
        <https://doi.org/10.1016/S0167-6377(02)00231-6>`_, 2003.
    """
    if not isinstance(mirror_map, MirrorMap):
        raise ValueError(
            "mirror_map must be a jaxsolve.prox.MirrorMap, such as prox.entropy_map(), "
            f"got {type(mirror_map).__name__}."
        )

    def init(params):
        # Copies, as params may be donated together with the state.
        copied = lambda: jax.tree.map(jnp.copy, widened(params))
        return MirrorState(copied(), copied())

    def update(updates, state, params=None, **extra):
        del extra
        check_params(params)
        shown = widened(params)
        follow = lambda x, rounded, exact: jnp.where(x == rounded, exact, x)
        start = jax.tree.map(follow, shown, state.rounded, state.exact)
        grads = optax.tree.scale(-1, widened(updates))
        exact = like(mirror_map.step(start, grads, 1.0), start)
        steps = steps_to(exact, shown, updates)
        rounded = widened(optax.apply_updates(params, steps))
        good = core.all_finite(updates)
        return steps, core.where(good, MirrorState(exact, rounded), state)

    return optax.GradientTransformationExtraArgs(init, update)
