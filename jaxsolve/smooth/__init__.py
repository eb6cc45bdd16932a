"""Solvers of smooth problems, unconstrained or in a box."""

from jaxsolve.smooth._beta import dai_yuan, hager_zhang, hestenes_stiefel, polak_ribiere
from jaxsolve.smooth._bfgs import BFGSState, bfgs
from jaxsolve.smooth._curvature import (
    Curvature,
    Diagonal,
    Evaluation,
    Rows,
    diagonal_hessian,
    exact_hessian,
    factored_hessian,
    fisher_hessian,
    gauss_newton_hessian,
    rank_one_hessian,
)
from jaxsolve.smooth._dogleg import DoglegState, dogleg
from jaxsolve.smooth._gauss_newton import GaussNewtonState, gauss_newton
from jaxsolve.smooth._gauss_newton_cg import gauss_newton_cg
from jaxsolve.smooth._gradient_descent import GradientDescentState, gradient_descent
from jaxsolve.smooth._gradient_normalized_newton import (
    GradientNormalizedNewtonState,
    gradient_normalized_newton,
)
from jaxsolve.smooth._lbfgs import LBFGSState, lbfgs
from jaxsolve.smooth._lbfgsb import LBFGSBState, lbfgsb
from jaxsolve.smooth._levenberg_marquardt import (
    LevenbergMarquardtState,
    levenberg_marquardt,
)
from jaxsolve.smooth._loss import (
    Loss,
    arctan_loss,
    cauchy_loss,
    huber_loss,
    soft_l1_loss,
)
from jaxsolve.smooth._memory import Memory
from jaxsolve.smooth._newton import NewtonState, newton
from jaxsolve.smooth._newton_cg import NewtonCGState, newton_cg
from jaxsolve.smooth._nonlinear_cg import NonlinearCGState, nonlinear_cg
from jaxsolve.smooth._regularized_newton import (
    RegularizedNewtonState,
    regularized_newton,
)

__all__ = (
    "BFGSState",
    "Curvature",
    "Diagonal",
    "DoglegState",
    "Evaluation",
    "GaussNewtonState",
    "GradientDescentState",
    "GradientNormalizedNewtonState",
    "LBFGSBState",
    "LBFGSState",
    "LevenbergMarquardtState",
    "Loss",
    "Memory",
    "NewtonCGState",
    "NewtonState",
    "NonlinearCGState",
    "RegularizedNewtonState",
    "Rows",
    "arctan_loss",
    "bfgs",
    "cauchy_loss",
    "dai_yuan",
    "diagonal_hessian",
    "dogleg",
    "exact_hessian",
    "factored_hessian",
    "fisher_hessian",
    "gauss_newton",
    "gauss_newton_cg",
    "gauss_newton_hessian",
    "gradient_descent",
    "gradient_normalized_newton",
    "hager_zhang",
    "hestenes_stiefel",
    "huber_loss",
    "lbfgs",
    "lbfgsb",
    "levenberg_marquardt",
    "newton",
    "newton_cg",
    "nonlinear_cg",
    "polak_ribiere",
    "rank_one_hessian",
    "regularized_newton",
    "soft_l1_loss",
)
