"""Optimal transport: entropic, sparse, sliced; layers for learning."""

from jaxsolve.transport._assignment import AssignmentLayer, hard_assignment
from jaxsolve.transport._barycenter import BarycenterState, barycenter
from jaxsolve.transport._barycenter_problem import BarycenterProblem
from jaxsolve.transport._continuation import Continuation
from jaxsolve.transport._distributional_sliced import (
    DistributionalSlicedState,
    distributional_sliced,
    distributional_sliced_wasserstein,
)
from jaxsolve.transport._divergence import SinkhornDivergence, sinkhorn_divergence
from jaxsolve.transport._geometry import BlockedGeometry, DenseCost, Geometry
from jaxsolve.transport._grid import GridCost
from jaxsolve.transport._gromov import GromovState, gromov
from jaxsolve.transport._gromov_problem import GromovProblem
from jaxsolve.transport._gromov_wasserstein import GromovSolution, gromov_wasserstein
from jaxsolve.transport._low_rank_cost import LowRankCost, low_rank
from jaxsolve.transport._low_rank_plan import LowRankPlan
from jaxsolve.transport._low_rank_sinkhorn import (
    LowRankSinkhornState,
    low_rank_sinkhorn,
)
from jaxsolve.transport._low_rank_value import low_rank_value
from jaxsolve.transport._max_sliced import (
    MaxSlicedState,
    max_sliced,
    max_sliced_wasserstein,
)
from jaxsolve.transport._modules import (
    SinkhornLayer,
    SoftQuantile,
    SoftRank,
    SoftSort,
    SoftTopK,
)
from jaxsolve.transport._newton import newton_transport
from jaxsolve.transport._newton_state import NewtonTransportState
from jaxsolve.transport._one_dimension import Coupling1D, coupling_1d, wasserstein_1d
from jaxsolve.transport._point_cloud import (
    PointCloud,
    cosine,
    euclidean,
    p_norm,
    squared_euclidean,
)
from jaxsolve.transport._problem import TransportProblem
from jaxsolve.transport._routing import Routing, SparseRouter, sparse_routing
from jaxsolve.transport._sinkhorn import SinkhornState, sinkhorn
from jaxsolve.transport._sinkhorn_newton_sparse import (
    SparseNewtonState,
    sinkhorn_newton_sparse,
)
from jaxsolve.transport._sliced import (
    PointPair,
    projected_wasserstein,
    sliced_wasserstein,
)
from jaxsolve.transport._soft import (
    sinkhorn_layer,
    soft_quantile,
    soft_rank,
    soft_sort,
    soft_top_k,
)
from jaxsolve.transport._solve import TransportSolution, solve
from jaxsolve.transport._solve_barycenter import BarycenterSolution, solve_barycenter
from jaxsolve.transport._sparse_problem import SparseTransportProblem
from jaxsolve.transport._sparse_transport import SparseTransportState, sparse_transport
from jaxsolve.transport._von_mises_fisher import von_mises_fisher

__all__ = (
    "AssignmentLayer",
    "BarycenterProblem",
    "BarycenterSolution",
    "BarycenterState",
    "BlockedGeometry",
    "Continuation",
    "Coupling1D",
    "DenseCost",
    "DistributionalSlicedState",
    "Geometry",
    "GridCost",
    "GromovProblem",
    "GromovSolution",
    "GromovState",
    "LowRankCost",
    "LowRankPlan",
    "LowRankSinkhornState",
    "MaxSlicedState",
    "NewtonTransportState",
    "PointCloud",
    "PointPair",
    "Routing",
    "SinkhornDivergence",
    "SinkhornLayer",
    "SinkhornState",
    "SoftQuantile",
    "SoftRank",
    "SoftSort",
    "SoftTopK",
    "SparseNewtonState",
    "SparseRouter",
    "SparseTransportProblem",
    "SparseTransportState",
    "TransportProblem",
    "TransportSolution",
    "barycenter",
    "cosine",
    "coupling_1d",
    "distributional_sliced",
    "distributional_sliced_wasserstein",
    "euclidean",
    "hard_assignment",
    "gromov",
    "gromov_wasserstein",
    "low_rank",
    "low_rank_sinkhorn",
    "low_rank_value",
    "max_sliced",
    "max_sliced_wasserstein",
    "newton_transport",
    "p_norm",
    "projected_wasserstein",
    "sinkhorn",
    "sinkhorn_divergence",
    "sinkhorn_layer",
    "sinkhorn_newton_sparse",
    "sliced_wasserstein",
    "soft_quantile",
    "soft_rank",
    "soft_sort",
    "soft_top_k",
    "solve",
    "solve_barycenter",
    "sparse_routing",
    "sparse_transport",
    "squared_euclidean",
    "von_mises_fisher",
    "wasserstein_1d",
)
