"""The conversion to last iterates, the record of norms, gradient-normalised Newton."""

import jax
import jax.numpy as jnp
import optax

from jaxsolve import transforms
from tests.transforms.link import Link, extras


def with_diagonal(fun, params):
    """The Hessian of the suite's objective is twice the identity."""
    given = extras(fun, params)
    diagonal = jax.tree.map(lambda g: jnp.full_like(g, 2), given["grad"])
    return {**given, "diagonal": diagonal}


def with_samples(fun, params):
    """Two samples, whose mean is the gradient."""
    given = extras(fun, params)
    samples = jax.tree.map(lambda g: jnp.stack([g / 2, 3 * g / 2]), given["grad"])
    return {**given, "sample_grads": samples}


def descending(scale):
    return lambda **options: optax.chain(scale(**options), optax.scale(-1.0))


NORMALIZED = {"hyper": ("gamma", 0.5), "rate": "gamma", "converges": False}
ADAPTIVE = {"hyper": ("gamma", 0.5), "converges": False}  # from_optax has no curvature
LINKS = (
    Link(
        "last_iterate",
        lambda steps=100: transforms.last_iterate(optax.sgd(0.25), steps),
        hyper=("steps", 100.0),
    ),
    Link(
        "last_iterate",
        lambda: transforms.last_iterate(
            optax.sgd(0.25), 64, weights=jnp.linspace(1.0, 2.0, 64)
        ),
        "weights",
    ),
    Link(
        "record_gradient_norms",
        lambda: optax.chain(transforms.record_gradient_norms(8), optax.sgd(0.25)),
    ),
    Link(
        "gradient_normalized_newton",
        transforms.gradient_normalized_newton,
        **NORMALIZED,
        needs=("hvp",),
    ),
    Link(
        "gradient_normalized_newton",
        lambda **o: transforms.gradient_normalized_newton(0.5, adaptive=True, **o),
        "adaptive",
        **ADAPTIVE,
        needs=("hvp", "value"),
    ),
    Link(
        "scale_by_gradient_normalized_newton",
        descending(transforms.scale_by_gradient_normalized_newton),
        **NORMALIZED,
        needs=("hvp",),
    ),
    Link(
        "scale_by_gradient_normalized_diagonal",
        descending(transforms.scale_by_gradient_normalized_diagonal),
        **NORMALIZED,
        needs=("diagonal",),
        extras=with_diagonal,
    ),
    Link(
        "scale_by_gradient_normalized_fisher",
        descending(transforms.scale_by_gradient_normalized_fisher),
        **NORMALIZED,
        needs=("sample_grads",),
        extras=with_samples,
    ),
)
