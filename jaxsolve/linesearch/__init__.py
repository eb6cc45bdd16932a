"""Line searches: small state machines that a solver embeds, one trial an update."""

from jaxsolve.linesearch._backtracking import backtracking
from jaxsolve.linesearch._search import ACCEPTED, FAILED, LineSearch, Search
from jaxsolve.linesearch._wolfe import wolfe

__all__ = ("ACCEPTED", "FAILED", "LineSearch", "Search", "backtracking", "wolfe")
