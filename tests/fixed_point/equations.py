"""Systems of equations from the literature, for JAX and NumPy alike."""

import jax.numpy as jnp
import numpy as np


def tridiagonal(x, data=None):
    """Broyden's tridiagonal function (Moré, Garbow and Hillstrom, 30)."""
    lib = np if isinstance(x, np.ndarray) else jnp
    left, right = lib.pad(x[:-1], (1, 0)), lib.pad(x[1:], (0, 1))
    return (3 - 2 * x) * x - left - 2 * right + 1


def freudenstein(x, data=None):
    """Freudenstein and Roth's: a root at (5, 4), a minimum of |F| elsewhere."""
    lib = np if isinstance(x, np.ndarray) else jnp
    a, b = x
    return lib.stack(
        [-13 + a + ((5 - b) * b - 2) * b, -29 + a + ((b + 1) * b - 14) * b]
    )


def rosenbrock(x, data=None):
    """Rosenbrock's, as two equations."""
    lib = np if isinstance(x, np.ndarray) else jnp
    return lib.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def powell(x, data=None):
    """Powell's singular function: its Jacobian is singular at the root, zero."""
    lib = np if isinstance(x, np.ndarray) else jnp
    a, b, c, d = x
    return lib.stack(
        [a + 10 * b, 5**0.5 * (c - d), (b - 2 * c) ** 2, 10**0.5 * (a - d) ** 2]
    )


def rootless(x, data=None):
    """The norm of this is least, and one, at zero."""
    return jnp.stack([x[0] ** 2 + 1, x[1]])
