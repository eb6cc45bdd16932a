"""Line searches: small state machines that a solver embeds, one trial an update."""

from jaxsolve.linesearch._backtracking import backtracking
from jaxsolve.linesearch._search import LineSearch, Search
from jaxsolve.linesearch._wolfe import wolfe

__all__ = ("LineSearch", "Search", "backtracking", "wolfe")
