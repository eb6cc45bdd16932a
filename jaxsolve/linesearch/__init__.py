"""Line searches and trust regions: small state machines, one trial an update."""

from jaxsolve.linesearch._backtracking import backtracking
from jaxsolve.linesearch._damping import Damping, DampingRule, nielsen
from jaxsolve.linesearch._search import ACCEPTED, FAILED, LineSearch, Search
from jaxsolve.linesearch._subproblem import dogleg_step, exact_step, spectral_step
from jaxsolve.linesearch._trust_region import Region, TrustRegion, trust_region
from jaxsolve.linesearch._wolfe import wolfe

__all__ = (
    "ACCEPTED",
    "Damping",
    "DampingRule",
    "FAILED",
    "LineSearch",
    "Region",
    "Search",
    "TrustRegion",
    "backtracking",
    "dogleg_step",
    "exact_step",
    "nielsen",
    "spectral_step",
    "trust_region",
    "wolfe",
)
