"""Solvers of a smooth function plus a simple one."""

from jaxsolve.composite._admm import ADMMState, admm
from jaxsolve.composite._block_coordinate_descent import (
    BlockCoordinateDescentState,
    block_coordinate_descent,
)
from jaxsolve.composite._davis_yin import davis_yin
from jaxsolve.composite._douglas_rachford import douglas_rachford
from jaxsolve.composite._frank_wolfe import FrankWolfeState, frank_wolfe
from jaxsolve.composite._mirror_descent import MirrorDescentState, mirror_descent
from jaxsolve.composite._models import (
    LinearModel,
    QuadraticModel,
    least_squares_model,
    logistic_model,
    softmax_model,
    svm_dual_model,
)
from jaxsolve.composite._pairwise_frank_wolfe import (
    away_frank_wolfe,
    pairwise_frank_wolfe,
)
from jaxsolve.composite._projected_gradient import projected_gradient
from jaxsolve.composite._proximal_gradient import (
    ProximalGradientState,
    proximal_gradient,
)
from jaxsolve.composite._splitting import SplittingState
from jaxsolve.composite._x_update import Quadratic

__all__ = (
    "ADMMState",
    "BlockCoordinateDescentState",
    "FrankWolfeState",
    "LinearModel",
    "MirrorDescentState",
    "ProximalGradientState",
    "Quadratic",
    "QuadraticModel",
    "SplittingState",
    "admm",
    "away_frank_wolfe",
    "block_coordinate_descent",
    "davis_yin",
    "douglas_rachford",
    "frank_wolfe",
    "least_squares_model",
    "logistic_model",
    "mirror_descent",
    "pairwise_frank_wolfe",
    "projected_gradient",
    "proximal_gradient",
    "softmax_model",
    "svm_dual_model",
)
