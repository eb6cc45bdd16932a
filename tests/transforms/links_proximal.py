"""Proximal, projection and mirror steps, at the end of gradient descent."""

import optax

from jaxsolve import prox, transforms
from tests.transforms.link import Link

BOX = prox.box(-10.0, 10.0)  # holds the minimiser


def descent(link):
    return optax.chain(optax.sgd(0.25), link)


LINKS = (
    Link(
        "proximal",
        lambda learning_rate=0.25: descent(transforms.proximal(BOX, learning_rate)),
        hyper=("learning_rate", 0.25),
        rate="learning_rate",
    ),
    Link(
        "proximal",
        lambda learning_rate=0.25: descent(
            transforms.proximal(prox.l1(0.5), learning_rate)
        ),
        "l1",
        hyper=("learning_rate", 0.25),
        rate="learning_rate",
        still=False,  # shrinks
        converges=False,  # to where the penalty balances the gradient
    ),
    Link("projected", lambda: descent(transforms.projected(BOX))),
    Link(
        "mirror",
        lambda: descent(transforms.mirror(prox.euclidean_map())),
        per_param=2,
    ),
    Link(
        "mirror",
        lambda: descent(transforms.mirror(prox.entropy_map(radius=None))),
        "entropy",
        per_param=2,
        converges=False,  # an entry that starts negative stays at zero
    ),
)
