r"""Proximal operators and projections: factories of `prox(params, stepsize) -> params`.

A proximal operator of a convex function :math:`g` computes, for a stepsize
:math:`t > 0` that is one unless given,

.. math::

    \operatorname{prox}_{t g}(x) = \arg\min_y g(y) + \tfrac{1}{2 t} \|y - x\|_2^2

The projection onto a set is that of its indicator, whatever the stepsize. Params are a
pytree of real floating-point arrays, whose dtypes are kept. Everything is
differentiable in params, stepsize, and the numbers given to the factories.
"""

from jaxsolve.prox._affine import affine_set, halfspace, hyperplane
from jaxsolve.prox._balls import l1_ball, l2_ball, linf_ball
from jaxsolve.prox._calculus import (
    add_quadratic,
    conjugate,
    scale,
    scale_argument,
    separable_sum,
    translate,
)
from jaxsolve.prox._norms import elastic_net, group_lasso, l1, linf, squared_l2
from jaxsolve.prox._prox import Prox, identity
from jaxsolve.prox._sets import box, non_negative, simplex

__all__ = (
    "Prox",
    "add_quadratic",
    "affine_set",
    "box",
    "conjugate",
    "elastic_net",
    "group_lasso",
    "halfspace",
    "hyperplane",
    "identity",
    "l1",
    "l1_ball",
    "l2_ball",
    "linf",
    "linf_ball",
    "non_negative",
    "scale",
    "scale_argument",
    "separable_sum",
    "simplex",
    "squared_l2",
    "translate",
)
