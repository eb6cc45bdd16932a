"""What the lanes of a vmapped batch may tell one another."""

import chex
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh


def _reduced(reduce):
    """Makes an identity that, under vmap, reduces its argument over the lanes."""

    @jax.custom_batching.custom_vmap
    def reduced(x):
        return x

    @reduced.def_vmap
    def _(axis_size, in_batched, x):
        del axis_size
        return (reduced(reduce(x)) if in_batched[0] else reduced(x)), False

    return reduced


_any = _reduced(lambda x: jnp.any(x, axis=0))
_min = _reduced(lambda x: jnp.min(x, axis=0))


def any_lane(predicate: chex.Array) -> chex.Array:
    """Tells whether a predicate holds in any lane of the surrounding vmaps: (), bool.

    Outside a vmap this is the predicate itself. The answer is not batched, so a
    `lax.cond` on it stays a branch: rare heavy work runs only when a lane asks for it.
    Inside the branch mask by the lane's own predicate, or lanes change one another.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve import core
        >>> jax.vmap(lambda p: core.any_lane(p) | p)(jnp.array([False, True]))
        Array([ True,  True], dtype=bool)
    """
    return _any(predicate)


def least_lane(value: chex.Array) -> chex.Array:
    """Returns the least value over the lanes of the surrounding vmaps."""
    return _min(value)


def automatic(mesh: Mesh) -> Mesh:
    """The same mesh with automatic axes: plain arrays may be spread over these."""
    types = (AxisType.Auto,) * len(mesh.axis_names)
    return Mesh(mesh.devices, mesh.axis_names, axis_types=types)


def once(code: chex.Array) -> chex.Array:
    """Returns a small integer, in a way that XLA computes it once.

    XLA copies cheap arithmetic into every kernel that reads it; a decision by which a
    whole state is selected would be computed again for each field, which doubles the
    compile time of a batched search. A sort is never copied, while an optimisation
    barrier is dropped too early to help.
    """
    last = jnp.full_like(code, jnp.iinfo(code.dtype).max)
    return jnp.sort(jnp.stack([code, last]))[0]
