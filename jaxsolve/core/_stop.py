"""Criteria for `run(stop=...)`."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve.core._memoise import memoise
from jaxsolve.core._tree import is_concrete, real_scalar


@memoise
def l2_below(tol: chex.Numeric) -> Callable:
    r"""Stops where the Euclidean norm of the gradient or residual is small.

    JAXopt's meaning of a tolerance: :math:`\|\nabla f(x)\|_2 \le \tau`, or
    :math:`\|T(x) - x\|_2 \le \tau` of fixed points. Of a solver whose state keeps no
    such vector it bounds :math:`\sqrt n` times the error, a sup-norm, which implies it.
    Pass ``tol=0.0`` beside it for JAXopt's behaviour, or the tighter of both decides.
    Derivatives are refused where the error is large all the same, which JAXopt's are
    not; ``derivative=core.implicit(inexact=True)`` takes them.

    Args:
        tol: :math:`\tau`, positive; JAXopt's default is 1e-3.

    Returns:
        A criterion, ``stop(params, state) -> bool``.

    Raises:
        ValueError: if `tol` is not positive.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> solver = jaxsolve.smooth.lbfgs(lambda x, a: jnp.sum((x - a) ** 4))
        >>> stop = jaxsolve.core.l2_below(1e-3)
        >>> out = jaxsolve.run(solver, jnp.zeros(2), 3.0, tol=0.0, stop=stop)
        >>> bool(jnp.linalg.norm(out.jac) <= 1e-3), bool(out.converged)
        (True, True)
    """
    if is_concrete(tol) and not tol > 0:
        raise ValueError(f"tol must be positive, got {tol!r}.")

    def stop(params, state):
        vectors = (getattr(state, name, None) for name in ("grad", "residual"))
        vector = next((v for v in vectors if v is not None), None)
        size = sum(np.size(leaf) for leaf in jax.tree.leaves(params))
        if vector is None:
            norm = size**0.5 * state.error
        else:
            norm = jnp.linalg.norm(vector)
        known = jnp.isfinite(state.error)
        return known & (norm <= real_scalar(tol, params).astype(norm.dtype))

    return stop
