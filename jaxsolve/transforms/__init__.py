"""Optax transformations that optax lacks: maps from gradients to updates.

They follow optax's conventions: what they need beside gradients comes as the extra
arguments ``value``, ``grad`` and ``value_fn``, or, where optax has no name for it, as
``hvp``, ``logits_fn``, ``margins``, ``target_fn``, and they compose with ``chain``,
``masked``, ``MultiSteps``, ``inject_hyperparams`` and schedules. `core.from_optax`
makes solvers of them; the perceptrons are solvers in the first place. With
``MultiSteps``, pass the value of all that is accumulated.

Within ``masked`` or ``partition`` a link sees the unmasked part of the params only, and
so must all that it is given: functions take that part, and trees such as ``grad`` are
masked by ``optax.masked(..., mask_compatible_extra_args=True)``::

    link = optax.masked(
        transforms.armijo_sgd(), {"w": True, "b": False},
        mask_compatible_extra_args=True)
    part = lambda some: loss({**some, "b": params["b"]})
    link.update(grad, state, params, value=value, grad=grad, value_fn=part)

Random keys in states are typed: a checkpoint that does not know them keeps
``jax.random.key_data``.
"""

from jaxsolve.transforms._adagrad_norm import (
    ScaleByAdagradNormState,
    adagrad_norm,
    scale_by_adagrad_norm,
)
from jaxsolve.transforms._adahessian import (
    ScaleByAdahessianState,
    adahessian,
    scale_by_adahessian,
)
from jaxsolve.transforms._armijo import ScaleByArmijoState, armijo_sgd, scale_by_armijo
from jaxsolve.transforms._gradient_normalized import (
    GradientNormalizedState,
)
from jaxsolve.transforms._gradient_normalized_fisher import (
    scale_by_gradient_normalized_diagonal,
    scale_by_gradient_normalized_fisher,
)
from jaxsolve.transforms._gradient_normalized_newton import (
    gradient_normalized_newton,
    scale_by_gradient_normalized_newton,
)
from jaxsolve.transforms._hessian_diagonal import (
    HessianDiagonalState,
    hessian_diagonal,
    spatial_average,
)
from jaxsolve.transforms._inverse_fisher import InverseFisher, inverse_fisher
from jaxsolve.transforms._kappa_norms import lp_kappa, top_k_kappa
from jaxsolve.transforms._kappa_nuclear import nuclear_kappa
from jaxsolve.transforms._kappas import (
    Kappa,
    half_square_kappa,
    huber_kappa,
    l1_kappa,
    per_leaf_kappa,
    smooth_kappa,
    sparse_kappa,
)
from jaxsolve.transforms._lanczos_momentum import (
    ScaleByLanczosMomentumState,
    lanczos_momentum,
    scale_by_lanczos_momentum,
)
from jaxsolve.transforms._lanczos_sgd import (
    ScaleByLanczosState,
    lanczos_sgd,
    scale_by_lanczos,
)
from jaxsolve.transforms._last_iterate import (
    RecordGradientNormsState,
    last_iterate,
    record_gradient_norms,
)
from jaxsolve.transforms._lion_k import (
    FenchelGap,
    ScaleByLionKState,
    fenchel_gap,
    lion_k,
    scale_by_lion_k,
)
from jaxsolve.transforms._m_fac import ScaleByMFACState, m_fac, scale_by_m_fac
from jaxsolve.transforms._mirror import MirrorState, mirror
from jaxsolve.transforms._normalized_logistic import (
    normalized_logistic,
    scale_by_normalized_logistic,
)
from jaxsolve.transforms._obs import obs_prune, obs_remove, obs_scores
from jaxsolve.transforms._perp_grad import perp_grad, scale_alignment
from jaxsolve.transforms._polyak import ScaleBySPSState, scale_by_sps, sps
from jaxsolve.transforms._proximal import ProximalState, projected, proximal
from jaxsolve.transforms._radius_controllers import (
    SoftmaxRadiusState,
    clip_by_softmax_radius,
    scale_by_logit_spread,
    scale_to_softmax_radius,
)
from jaxsolve.transforms._rayleigh import (
    ScaleByRayleighState,
    rayleigh_sgd,
    scale_by_rayleigh,
)
from jaxsolve.transforms._rolling_ball import RollingBallState, rolling_ball
from jaxsolve.transforms._separation import (
    SeparationState,
    batch_perceptron,
    logistic_perceptron,
    perceptron,
)
from jaxsolve.transforms._softmax_radius import binary_radius, softmax_radius
from jaxsolve.transforms._stablemax import (
    log_stablemax,
    softmax_collapse,
    stablemax_cross_entropy,
    stablemax_cross_entropy_with_integer_labels,
)
from jaxsolve.transforms._target_steps import (
    TargetStep,
    adagrad_target_step,
    armijo_target_step,
    bregman_divergence,
    logistic_divergence,
    softmax_divergence,
    squared_divergence,
)
from jaxsolve.transforms._target_surrogate import TargetSurrogateState, target_surrogate

__all__ = (
    "FenchelGap",
    "GradientNormalizedState",
    "HessianDiagonalState",
    "InverseFisher",
    "Kappa",
    "MirrorState",
    "ProximalState",
    "RecordGradientNormsState",
    "RollingBallState",
    "ScaleByAdagradNormState",
    "ScaleByAdahessianState",
    "ScaleByArmijoState",
    "ScaleByLanczosMomentumState",
    "ScaleByLanczosState",
    "ScaleByLionKState",
    "ScaleByMFACState",
    "ScaleByRayleighState",
    "ScaleBySPSState",
    "SeparationState",
    "SoftmaxRadiusState",
    "TargetStep",
    "TargetSurrogateState",
    "adagrad_norm",
    "adagrad_target_step",
    "adahessian",
    "armijo_sgd",
    "armijo_target_step",
    "batch_perceptron",
    "binary_radius",
    "bregman_divergence",
    "clip_by_softmax_radius",
    "fenchel_gap",
    "gradient_normalized_newton",
    "half_square_kappa",
    "hessian_diagonal",
    "huber_kappa",
    "inverse_fisher",
    "l1_kappa",
    "lanczos_momentum",
    "lanczos_sgd",
    "last_iterate",
    "lion_k",
    "log_stablemax",
    "logistic_divergence",
    "logistic_perceptron",
    "lp_kappa",
    "m_fac",
    "mirror",
    "normalized_logistic",
    "nuclear_kappa",
    "obs_prune",
    "obs_remove",
    "obs_scores",
    "per_leaf_kappa",
    "perceptron",
    "perp_grad",
    "projected",
    "proximal",
    "rayleigh_sgd",
    "record_gradient_norms",
    "rolling_ball",
    "scale_alignment",
    "scale_by_adagrad_norm",
    "scale_by_adahessian",
    "scale_by_armijo",
    "scale_by_gradient_normalized_diagonal",
    "scale_by_gradient_normalized_fisher",
    "scale_by_gradient_normalized_newton",
    "scale_by_lanczos",
    "scale_by_lanczos_momentum",
    "scale_by_lion_k",
    "scale_by_logit_spread",
    "scale_by_m_fac",
    "scale_by_normalized_logistic",
    "scale_by_rayleigh",
    "scale_by_sps",
    "scale_to_softmax_radius",
    "smooth_kappa",
    "softmax_collapse",
    "softmax_divergence",
    "softmax_radius",
    "sparse_kappa",
    "spatial_average",
    "sps",
    "squared_divergence",
    "stablemax_cross_entropy",
    "stablemax_cross_entropy_with_integer_labels",
    "target_surrogate",
    "top_k_kappa",
)
