"""M-FAC, AdaGrad-Norm and perpGrad."""

import optax

from jaxsolve import transforms
from tests.transforms.link import Link

RATE = {"hyper": ("learning_rate", 0.5), "rate": "learning_rate"}


def m_fac(learning_rate=0.5, **options):
    return transforms.m_fac(learning_rate, 1.0, memory=4, **options)


def adagrad_norm(learning_rate=1.0, **options):
    return transforms.adagrad_norm(learning_rate, **options)


def descent(link, size):
    return optax.chain(link, optax.scale(-size))


LINKS = (
    Link("m_fac", m_fac, **RATE, per_param=4, rtol=1e-4),
    Link(
        "m_fac",
        lambda **o: m_fac(momentum=0.5, weight_decay=1e-4, **o),
        "momentum",
        **RATE,
        per_param=5,
        still=False,  # decays
        rtol=1e-4,
    ),
    Link(
        "scale_by_m_fac",
        lambda damping=1.0: descent(transforms.scale_by_m_fac(damping, memory=4), 0.5),
        hyper=("damping", 2.0),
        per_param=4,
        rtol=1e-4,
    ),
    Link("adagrad_norm", adagrad_norm, **RATE),
    Link(
        "adagrad_norm",
        lambda **o: adagrad_norm(weight_decay=1e-4, **o),
        "decay",
        **RATE,
        still=False,  # decays
    ),
    Link(
        "scale_by_adagrad_norm",
        lambda initial_accumulator_value=0.1: descent(
            transforms.scale_by_adagrad_norm(initial_accumulator_value), 1.0
        ),
        hyper=("initial_accumulator_value", 0.25),
    ),
    Link(
        "perp_grad",
        lambda: descent(transforms.perp_grad(), 0.1),
        converges=False,  # params only turn, and grow
    ),
    Link(
        "perp_grad",
        lambda: descent(transforms.perp_grad(keep_norm=False, per_leaf=False), 0.1),
        "global",
        converges=False,
    ),
)
