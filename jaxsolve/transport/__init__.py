"""Optimal transport: entropic, sparse, sliced; layers for learning."""

from jaxsolve.transport._continuation import Continuation
from jaxsolve.transport._distributional_sliced import (
    DistributionalSlicedState,
    distributional_sliced,
    distributional_sliced_wasserstein,
)
from jaxsolve.transport._divergence import SinkhornDivergence, sinkhorn_divergence
from jaxsolve.transport._geometry import BlockedGeometry, DenseCost, Geometry
from jaxsolve.transport._grid import GridCost
from jaxsolve.transport._low_rank_cost import LowRankCost, low_rank
from jaxsolve.transport._max_sliced import (
    MaxSlicedState,
    max_sliced,
    max_sliced_wasserstein,
)
from jaxsolve.transport._newton import NewtonTransportState, newton_transport
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
from jaxsolve.transport._sparse_problem import SparseTransportProblem
from jaxsolve.transport._sparse_transport import SparseTransportState, sparse_transport
from jaxsolve.transport._von_mises_fisher import von_mises_fisher

__all__ = (
    "BlockedGeometry",
    "Continuation",
    "Coupling1D",
    "DenseCost",
    "DistributionalSlicedState",
    "Geometry",
    "GridCost",
    "LowRankCost",
    "MaxSlicedState",
    "NewtonTransportState",
    "PointCloud",
    "PointPair",
    "Routing",
    "SinkhornDivergence",
    "SinkhornState",
    "SparseNewtonState",
    "SparseRouter",
    "SparseTransportProblem",
    "SparseTransportState",
    "TransportProblem",
    "TransportSolution",
    "cosine",
    "coupling_1d",
    "distributional_sliced",
    "distributional_sliced_wasserstein",
    "euclidean",
    "low_rank",
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
    "sparse_routing",
    "sparse_transport",
    "squared_euclidean",
    "von_mises_fisher",
    "wasserstein_1d",
)
