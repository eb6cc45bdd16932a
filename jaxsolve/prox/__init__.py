r"""Proximal operators and projections: factories of `prox(params, stepsize) -> params`.

A proximal operator of a convex function :math:`g` computes, for a stepsize
:math:`t > 0` that is one unless given,

.. math::

    \operatorname{prox}_{t g}(x) = \arg\min_y g(y) + \tfrac{1}{2 t} \|y - x\|_2^2

The projection onto a set is that of its indicator, whatever the stepsize. Params are a
pytree of real floating-point arrays, whose dtypes are kept. Everything is
differentiable in params, stepsize, and the numbers given to the factories.

Where an operator treats groups of entries, `axis` says along which axes of every leaf
these lie; by default all entries of all leaves are one group. A batch of params with
numbers of their own is treated by `jax.vmap`.

JAXopt's names that are not found here: `projection_hypercube` is `box(0.0, u)`,
`prox_non_negative_lasso` is `add_linear(non_negative(), w)`, `prox_non_negative_ridge`
is `add_quadratic(non_negative(), w)`, `prox_elastic_net` is `elastic_net(w, w * c)`,
and `make_prox_from_projection` is `from_projection`.
"""

from jaxsolve.prox._affine import affine_set, halfspace, hyperplane
from jaxsolve.prox._balls import l1_ball, l2_ball, linf_ball
from jaxsolve.prox._barriers import entropy, huber, log_barrier
from jaxsolve.prox._calculus import (
    add_linear,
    add_quadratic,
    conjugate,
    scale,
    scale_argument,
    separable_sum,
    translate,
)
from jaxsolve.prox._cones import psd_cone, second_order_cone
from jaxsolve.prox._fenchel_young import fenchel_young_loss
from jaxsolve.prox._image_variation import image_variation
from jaxsolve.prox._isotonic import isotonic, isotonic_kl, permutahedron
from jaxsolve.prox._linear_oracles import (
    Corners,
    LinearOracle,
    box_vertex,
    l1_ball_vertex,
    l2_ball_vertex,
    nuclear_ball_vertex,
    simplex_vertex,
)
from jaxsolve.prox._mirror import (
    MirrorMap,
    entropy_map,
    euclidean_map,
    log_barrier_map,
    tsallis_map,
)
from jaxsolve.prox._norms import elastic_net, group_lasso, l1, linf, squared_l2
from jaxsolve.prox._of_data import of_data, resolve
from jaxsolve.prox._perturbed import perturbed_max
from jaxsolve.prox._polyhedron import polyhedron
from jaxsolve.prox._prox import Prox, from_projection, identity
from jaxsolve.prox._section import box_section
from jaxsolve.prox._sets import box, non_negative, simplex
from jaxsolve.prox._sorted import k_support, sorted_l1, sparse_simplex
from jaxsolve.prox._spectral import nuclear_norm
from jaxsolve.prox._spheres import l1_sphere, l2_sphere
from jaxsolve.prox._total_variation import total_variation
from jaxsolve.prox._transport import birkhoff, kl_birkhoff, kl_transport, transport

__all__ = (
    "Corners",
    "LinearOracle",
    "MirrorMap",
    "Prox",
    "add_linear",
    "add_quadratic",
    "affine_set",
    "birkhoff",
    "box",
    "box_section",
    "box_vertex",
    "conjugate",
    "elastic_net",
    "entropy",
    "entropy_map",
    "euclidean_map",
    "fenchel_young_loss",
    "from_projection",
    "group_lasso",
    "halfspace",
    "huber",
    "hyperplane",
    "identity",
    "image_variation",
    "isotonic",
    "isotonic_kl",
    "k_support",
    "kl_birkhoff",
    "kl_transport",
    "l1",
    "l1_ball",
    "l1_ball_vertex",
    "l1_sphere",
    "l2_ball",
    "l2_ball_vertex",
    "l2_sphere",
    "linf",
    "linf_ball",
    "log_barrier",
    "log_barrier_map",
    "non_negative",
    "nuclear_ball_vertex",
    "nuclear_norm",
    "of_data",
    "permutahedron",
    "perturbed_max",
    "polyhedron",
    "psd_cone",
    "resolve",
    "scale",
    "scale_argument",
    "second_order_cone",
    "separable_sum",
    "simplex",
    "simplex_vertex",
    "sorted_l1",
    "sparse_simplex",
    "squared_l2",
    "total_variation",
    "translate",
    "transport",
    "tsallis_map",
)
