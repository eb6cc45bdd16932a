"""The transformations that choose stepsizes."""

import optax

from jaxsolve import transforms
from tests.transforms.link import Link

CAP = {"hyper": ("max_stepsize", 0.25)}
SEARCH = {**CAP, "needs": ("value", "grad", "value_fn")}
LINKS = (
    Link("sps", transforms.sps, **CAP, needs=("value",)),
    Link(
        "sps",
        lambda **o: transforms.sps(momentum=0.5, growth=1.5, **o),
        "momentum",
        **CAP,
        needs=("value",),
        per_param=1,
    ),
    Link(
        "scale_by_sps",
        lambda **o: optax.chain(transforms.scale_by_sps(**o), optax.scale(-1.0)),
        **CAP,
        needs=("value",),
    ),
    Link("armijo_sgd", transforms.armijo_sgd, **SEARCH),
    Link(
        "armijo_sgd",
        lambda **o: transforms.armijo_sgd(goldstein=True, momentum=0.5, **o),
        "goldstein",
        **SEARCH,
        per_param=1,
    ),
    Link(
        "scale_by_armijo",
        lambda **o: optax.chain(optax.scale(-1.0), transforms.scale_by_armijo(**o)),
        **SEARCH,
    ),
)
