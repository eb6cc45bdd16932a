"""Cases of the projections onto polyhedra and transport polytopes."""

import jax.numpy as jnp
import numpy as np

from jaxsolve import prox
from tests.prox.block import ROWS, Case, inside

RNG = np.random.default_rng(8)
A, G = RNG.normal(size=(2, 7)), RNG.normal(size=(5, 7))
B = np.array([0.5, -1.0])
# A point of small norm lies inside, so that every draw meets several rows.
H = G @ np.linalg.lstsq(A, B, rcond=None)[0] + np.array([0.1, 0.2, 0.5, 1.0, 0.3])
MASSES = np.array([0.3, 0.9, 1.5, 0.6])


def balanced(factory):
    """The operator of given row sums, and equal column sums."""
    return lambda a: factory(a, jnp.full(3, jnp.sum(a) / 3))


def in_polyhedron(x, a, b, g, h):
    return inside(max(np.max(np.abs(a @ x - b)), np.max(g @ x - h)))


def in_transport(x, a):
    sums = np.abs(x.sum(1) - a), np.abs(x.sum(0) - np.sum(a) / x.shape[1])
    return inside(max(np.max(sums[0]), np.max(sums[1]), np.max(-x)))


def in_birkhoff(x):
    return in_transport(x, np.ones(len(x)))


CASES = [
    Case("polyhedron", "polyhedron", prox.polyhedron, (A, B, G, H), in_polyhedron,
         projection=True),
    Case("transport", "transport", balanced(prox.transport), (MASSES,), in_transport,
         params=ROWS, projection=True),
    Case("birkhoff", "birkhoff", prox.birkhoff, (), in_birkhoff, params=(3, 3),
         projection=True),
    # Not in the 2-norm: neither an inequality nor nonexpansive.
    Case("kl transport", "kl_transport", balanced(prox.kl_transport), (MASSES,),
         in_transport, params=ROWS, convex=False),
    Case("kl birkhoff", "kl_birkhoff", prox.kl_birkhoff, (), in_birkhoff,
         params=(3, 3), convex=False),
]  # fmt: skip
