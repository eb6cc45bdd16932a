"""Optax transformations that optax lacks: maps from gradients to updates.

They follow optax's conventions: what they need beside gradients comes as the extra
arguments ``value``, ``grad`` and ``value_fn``, and they compose with ``chain``,
``masked``, ``MultiSteps``, ``inject_hyperparams`` and schedules. `core.from_optax`
makes solvers of them. Within ``masked`` a ``value_fn`` is shown the unmasked params
only; with ``MultiSteps``, pass the value of all that is accumulated.
"""

from jaxsolve.transforms._armijo import ScaleByArmijoState, armijo_sgd, scale_by_armijo
from jaxsolve.transforms._polyak import ScaleBySPSState, scale_by_sps, sps

__all__ = (
    "ScaleByArmijoState",
    "ScaleBySPSState",
    "armijo_sgd",
    "scale_by_armijo",
    "scale_by_sps",
    "sps",
)
