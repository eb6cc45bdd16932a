"""The transformations that ask for products with the Hessian."""

import optax

from jaxsolve import transforms
from tests.transforms.link import Link, extras


def with_product(fun, params):
    known = extras(fun, params)
    return {name: known[name] for name in ("grad", "value", "hvp")}


def with_function(fun, params):
    known = extras(fun, params)
    return {name: known[name] for name in ("grad", "value", "value_fn")}


def descending(factory):
    return lambda **o: optax.chain(factory(**o), optax.scale(-1.0))


PRODUCT = {"extras": with_product, "needs": ("hvp",)}
FUNCTION = {"extras": with_function, "needs": ("value_fn",)}
RATE = {"hyper": ("learning_rate", 0.25), "rate": "learning_rate"}
LINKS = (
    Link("adahessian", transforms.adahessian, **RATE, **FUNCTION, per_param=2),
    Link(
        "adahessian",
        lambda **o: transforms.adahessian(
            update_each=3,
            weight_decay=0.01,
            diagonal=transforms.hessian_diagonal(2),
            **o,
        ),
        "every third",
        **RATE,
        **PRODUCT,
        still=False,  # it decays
        converges=False,  # elsewhere
        per_param=2,
    ),
    Link(
        "scale_by_adahessian",
        descending(transforms.scale_by_adahessian),
        hyper=("b1", 0.5),
        **PRODUCT,
        per_param=2,
        converges=False,  # steps of one, with momentum: slowly
    ),
    Link(
        "hessian_diagonal",
        transforms.hessian_diagonal,
        **PRODUCT,
        descends=False,  # it is no direction
        still=False,
        converges=False,
    ),
    Link(
        "lanczos_momentum",
        lambda **o: transforms.lanczos_momentum(steps=3, refresh=2, **o),
        **RATE,
        **FUNCTION,
        per_param=1,
    ),
    Link(
        "scale_by_lanczos_momentum",
        descending(lambda **o: transforms.scale_by_lanczos_momentum(3, 2, **o)),
        hyper=("damping", 0.5),
        **PRODUCT,
        per_param=1,
    ),
    Link(
        "lanczos_sgd",
        lambda learning_rate=1.0: transforms.lanczos_sgd(
            learning_rate, steps=2, refresh=2, damping=1.0
        ),
        **RATE,
        **FUNCTION,
        per_param=2,
    ),
    Link(
        "scale_by_lanczos",
        descending(lambda **o: transforms.scale_by_lanczos(2, 2, **o)),
        hyper=("damping", 0.5),
        **PRODUCT,
        per_param=2,
        converges=False,  # a hundredth of the gradient
    ),
    Link(
        "rayleigh_sgd",
        lambda **o: transforms.rayleigh_sgd(refresh=2, **o),
        **RATE,
        **FUNCTION,
    ),
    Link(
        "scale_by_rayleigh",
        descending(lambda **o: transforms.scale_by_rayleigh(2, **o)),
        hyper=("max_learning_rate", 0.25),
        **PRODUCT,
    ),
)
