"""Solvers of equations: fixed points, x = T(x), and roots, F(x) = 0."""

from jaxsolve.fixed_point._accelerate import AccelerateState, accelerate
from jaxsolve.fixed_point._anderson import AndersonState, anderson
from jaxsolve.fixed_point._arnoldi import Arnoldi
from jaxsolve.fixed_point._bisection import bisection
from jaxsolve.fixed_point._bracket import BracketState, End, Ends
from jaxsolve.fixed_point._brent import brent
from jaxsolve.fixed_point._broyden import BroydenState, broyden
from jaxsolve.fixed_point._chord import ChordState, chord
from jaxsolve.fixed_point._itp import itp
from jaxsolve.fixed_point._mixing import Mixing
from jaxsolve.fixed_point._newton_krylov import NewtonKrylovState, newton_krylov
from jaxsolve.fixed_point._newton_root import NewtonRootState, newton_root
from jaxsolve.fixed_point._picard import PicardState, picard
from jaxsolve.fixed_point._secants import Secants

__all__ = (
    "AccelerateState",
    "AndersonState",
    "Arnoldi",
    "BracketState",
    "BroydenState",
    "ChordState",
    "End",
    "Ends",
    "Mixing",
    "NewtonKrylovState",
    "NewtonRootState",
    "PicardState",
    "Secants",
    "accelerate",
    "anderson",
    "bisection",
    "brent",
    "broyden",
    "chord",
    "itp",
    "newton_krylov",
    "newton_root",
    "picard",
)
