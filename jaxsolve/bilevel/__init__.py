"""Bilevel optimisation: hypergradients with an error estimate, and algorithms."""

from jaxsolve.bilevel._alternating_descent import (
    AlternatingDescentState,
    alternating_descent,
)
from jaxsolve.bilevel._amigo import amigo
from jaxsolve.bilevel._bip import BipState, bip
from jaxsolve.bilevel._block_machine import BsvrbState
from jaxsolve.bilevel._blocks import BlockSampling
from jaxsolve.bilevel._bo_rep import bo_rep
from jaxsolve.bilevel._bsvrb import bsvrb_v1, bsvrb_v2
from jaxsolve.bilevel._double_loop import PenaltyState
from jaxsolve.bilevel._epoch_sgd import EpochSgd, epoch_sgd
from jaxsolve.bilevel._f2sa import f2sa, f3sa
from jaxsolve.bilevel._hypergradient import Hypergradient, implicit_hypergradient
from jaxsolve.bilevel._implicit_descent import implicit_descent
from jaxsolve.bilevel._linear_solves import (
    conjugate_gradient,
    dense,
    gmres,
    neumann,
    normal_cg,
)
from jaxsolve.bilevel._lv_hba import LvHbaState, lv_hba
from jaxsolve.bilevel._msvr import Estimator, msvr, storm
from jaxsolve.bilevel._normalized_momentum import normalized_momentum
from jaxsolve.bilevel._pbo import pbo, pbo_momentum
from jaxsolve.bilevel._penalty_hypergradient import penalty_hypergradient
from jaxsolve.bilevel._phases import PhasesState
from jaxsolve.bilevel._problem import BilevelProblem, Levels
from jaxsolve.bilevel._proximal_lagrangian import (
    ProximalLagrangian,
    proximal_lagrangian,
)
from jaxsolve.bilevel._saba import SabaState, saba
from jaxsolve.bilevel._selection import (
    Selection,
    prunable,
    pruned,
    top_groups,
    top_k,
)
from jaxsolve.bilevel._single_loop import PenaltyMomentumState
from jaxsolve.bilevel._soba import SobaState, soba
from jaxsolve.bilevel._stocbio import stocbio
from jaxsolve.bilevel._topo import TopoState, topo
from jaxsolve.bilevel._topo_graphs import (
    complete_dag,
    exp_acyclicity,
    logdet_acyclicity,
    polynomial_acyclicity,
    topological_order,
)
from jaxsolve.bilevel._topo_scores import (
    Scores,
    linear_scores,
    node_scores,
    solver_scores,
)
from jaxsolve.bilevel._unrolled import unrolled_hypergradient
from jaxsolve.bilevel._value_and_duals import Optimum, value_and_duals

__all__ = (
    "AlternatingDescentState",
    "BilevelProblem",
    "BipState",
    "BlockSampling",
    "BsvrbState",
    "EpochSgd",
    "Estimator",
    "Hypergradient",
    "Levels",
    "LvHbaState",
    "Optimum",
    "PenaltyMomentumState",
    "PenaltyState",
    "PhasesState",
    "ProximalLagrangian",
    "SabaState",
    "Scores",
    "Selection",
    "SobaState",
    "TopoState",
    "alternating_descent",
    "amigo",
    "bip",
    "bo_rep",
    "bsvrb_v1",
    "bsvrb_v2",
    "complete_dag",
    "conjugate_gradient",
    "dense",
    "epoch_sgd",
    "exp_acyclicity",
    "f2sa",
    "f3sa",
    "gmres",
    "implicit_descent",
    "implicit_hypergradient",
    "linear_scores",
    "logdet_acyclicity",
    "lv_hba",
    "msvr",
    "neumann",
    "node_scores",
    "normal_cg",
    "normalized_momentum",
    "pbo",
    "pbo_momentum",
    "penalty_hypergradient",
    "polynomial_acyclicity",
    "proximal_lagrangian",
    "prunable",
    "pruned",
    "saba",
    "soba",
    "solver_scores",
    "stocbio",
    "storm",
    "top_groups",
    "top_k",
    "topo",
    "topological_order",
    "unrolled_hypergradient",
    "value_and_duals",
)
