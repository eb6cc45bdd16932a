"""What the conformance suite needs to know of a solver, so that it never asks its name.

The files `tests/<room>/cases*.py` each hold a tuple `CASES`, one `Case` or more for
every public factory that returns a `Solver`. A case is a small problem (two or three
unknowns) that is smooth in its data, with a known answer::

    def quartic(x, data):
        return jnp.sum((x - data["center"]) ** 4 / 4 + (x - data["center"]) ** 2)

    CASES = (
        Case(
            factory="smooth.lbfgs",
            make=lambda form: smooth.lbfgs(form.function(quartic)),
            params=np.zeros(3),
            data={"center": np.array([1.0, -2.0, 0.5])},
            solution=lambda data: data["center"],
        ),
    )

All functions of the problem pass through the `Form`, which counts their calls and may
show them other params and data than the solver sees.
"""

import dataclasses
import importlib
import inspect
import pathlib
import pkgutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxsolve
from jaxsolve import core

TESTS = pathlib.Path(__file__).parent


class Form:
    """How the functions of a case see params and data; counts their calls.

    The plain form passes them on as they are.
    """

    def __init__(self):
        self.calls = 0

    def wrap(self, params):
        """Makes what the solver sees of the case's params."""
        return params

    def unwrap(self, params):
        """Makes the case's params of what the solver sees."""
        return params

    def wrap_data(self, data):
        """Makes what the solver sees of the case's data."""
        return data

    def unwrap_data(self, data):
        """Makes the case's data of what the solver sees."""
        return data

    def function(self, fun):
        """A function of (params, data) whose value is not like params: an objective."""

        def counted(params, data):
            self.calls += 1
            return fun(self.unwrap(params), self.unwrap_data(data))

        return counted

    def map(self, fun):
        """A function of (params, data) whose value is like params."""

        def counted(params, data):
            self.calls += 1
            return self.wrap(fun(self.unwrap(params), self.unwrap_data(data)))

        return counted

    def prox(self, prox):
        """A function (params, stepsize) -> params that needs all of params at once.

        One that works leaf by leaf need not pass through here. Not counted.
        """
        return lambda params, stepsize: self.wrap(prox(self.unwrap(params), stepsize))


class Dicts(Form):
    """Params and data are nested dictionaries; a vector is cut in two."""

    def wrap(self, params):
        if isinstance(params, jax.Array) and params.shape[:1] > (1,):
            return {"head": params[:1], "tail": {"rest": params[1:]}}
        return {"head": params}

    def unwrap(self, params):
        if not isinstance(params, dict):  # of a solver with a structure of its own
            return params
        if "tail" not in params:
            return params["head"]
        return jnp.concatenate([params["head"], params["tail"]["rest"]])

    def wrap_data(self, data):
        return {"problem": {"data": data}}

    def unwrap_data(self, data):
        return data["problem"]["data"]


class Half(Form):
    """The solver sees params of 16 bits, the functions 32."""

    def wrap(self, params):
        return cast(params, jnp.bfloat16)

    def unwrap(self, params):
        return cast(params, jnp.float32)


class Closed(Dicts):
    """As `Dicts`, but the functions close over the data, and are given none."""

    def __init__(self, data):
        super().__init__()
        self.data = data

    def wrap_data(self, data):
        return None

    def unwrap_data(self, data):
        assert data is None
        return self.data


def all_nan(data):
    """Makes data of the same form that hold nothing but NaN."""
    return jax.tree.map(lambda x: np.full_like(x, np.nan) if _real(x) else x, data)


def _real(leaf):
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A solver, a small problem, and what may be asked of it.

    Numbers are given as NumPy float64 trees (equinox modules are trees too) and cast.
    Whatever is left at its default promises the most: a case that switches something
    off says why in a comment.

    Attributes:
        factory: the public factory, as "room.name".
        make: as ``make(form) -> Solver``; every function of the problem passes through
            ``form.function``, ``form.map`` or ``form.prox``.
        params: where to start, so far away that `starved` steps do not suffice.
        data: of the problem; the solution is a smooth function of its float leaves.
        solution: as ``solution(data) -> params`` in NumPy float64; None if there is no
            closed form, then a long run in float64 stands for it.
        variant: tells apart several cases of one factory.
        direction: like data: along which derivatives are taken, and lanes differ (lane
            i has the data ``data + i * spread * direction``); random by default. Zero
            in leaves that must not change.
        spread: of the lanes.
        output: what of params the data determine, as ``output(params) -> tree``; all
            by default. (Potentials are determined up to a constant.)
        tol32, tol64: for `run`; None for its default. Tight in float64, as central
            differences are taken of the solution.
        answer32, answer64: relative and absolute tolerance of the output.
        slope64: tolerance of derivatives against central differences.
        max_steps: in which the run ends, in both precisions.
        starved: a number of steps that does not suffice.
        derivative: the rule of the derivative checks; None for the solver's own.
        differentiable: whether derivatives are promised. If not, asking for one with
            the solver's own rule is a ValueError.
        refuses: whether the derivatives of a starved run are refused.
        calls: Python calls of counted functions when one update is traced.
        low_precision: whether bfloat16 params are taken, and given back.
        dicts: whether params and data may be dictionaries: the solver works on any
            tree, not on one structure of its own.
        closes: whether the functions of the problem may close over the data.
        links: whether params belong to the user alone, so that `to_optax` applies.
        spoil: as ``spoil(data) -> data`` of NumPy trees: data on which a run must not
            end as converged, nor with params that are not finite; None if there are
            none such.
        usable: as ``usable(params) -> bool``, true of whatever an update returns
            (feasibility, where the method keeps it); finite by default.
    """

    factory: str
    make: Callable[[Form], core.Solver]
    params: Any
    data: Any
    solution: Callable[[Any], Any] | None = None
    variant: str = ""
    direction: Any = None
    spread: float = 0.1
    output: Callable[[Any], Any] = lambda params: params
    tol32: float | None = None
    tol64: float | None = 1e-10
    answer32: float = 2e-3
    answer64: float = 1e-7
    slope64: float = 1e-5
    max_steps: int = 500
    starved: int = 3
    derivative: core.Derivative | None = None
    differentiable: bool = True
    refuses: bool = True
    calls: int = 1
    low_precision: bool = True
    dicts: bool = True
    closes: bool = True
    links: bool = True
    spoil: Callable[[Any], Any] | None = all_nan
    usable: Callable[[Any], Any] = core.all_finite

    @property
    def name(self) -> str:
        """The id of its tests."""
        return f"{self.factory}-{self.variant}" if self.variant else self.factory

    def start(self, dtype) -> Any:
        """Where to start, in a dtype."""
        return cast(self.params, dtype)

    def toward(self) -> Any:
        """The direction in which data are moved, in NumPy float64."""
        if self.direction is not None:
            return self.direction
        rng = np.random.default_rng(0)
        pick = lambda x: rng.normal(size=np.shape(x)) if _real(x) else np.zeros_like(x)
        return jax.tree.map(pick, self.data)

    def moved(self, step: float) -> Any:
        """The data, a step away in the direction, in NumPy float64."""
        move = lambda x, d: x + step * d if _real(x) else x
        return jax.tree.map(move, self.data, self.toward())

    def lane(self, index: int, dtype) -> Any:
        """The data of a lane; those of lane 0 are the case's own."""
        return cast(self.moved(index * self.spread), dtype)

    def lanes(self, count: int, dtype) -> Any:
        """The data of the first lanes, stacked; every leaf is batched."""
        lanes = [self.moved(i * self.spread) for i in range(count)]
        return cast(jax.tree.map(lambda *leaves: np.stack(leaves), *lanes), dtype)

    def tol(self, dtype) -> float | None:
        """The tolerance of a run."""
        return self.tol64 if dtype == np.float64 else self.tol32

    def answer(self, dtype) -> float:
        """The tolerance of its answer."""
        return self.answer64 if dtype == np.float64 else self.answer32

    def run(self, solver, params, data, **options) -> core.Solution:
        """Runs as the case wants to be run, but for what is said otherwise."""
        dtype = core.real_dtype(params)
        settings = dict(max_steps=self.max_steps, tol=self.tol(dtype))
        return core.run(solver, params, data, **{**settings, **options})


def cast(tree, dtype):
    """Makes JAX arrays of a NumPy tree, its float leaves in the given dtype."""
    to = lambda x: jnp.asarray(x, dtype if _real(x) else jnp.result_type(x))
    return jax.tree.map(to, tree)


def all_cases() -> list[Case]:
    """Finds the cases of every room."""
    paths = sorted(TESTS.glob("*/cases*.py"))
    names = [f"tests.{path.parent.name}.{path.stem}" for path in paths]
    modules = [importlib.import_module(name) for name in names]
    return [case for module in modules for case in module.CASES]


def public_factories() -> set[str]:
    """Finds every public function that is declared to return a `Solver`."""
    found = set()
    for info in pkgutil.iter_modules(jaxsolve.__path__):
        if not info.ispkg:
            continue
        room = importlib.import_module(f"jaxsolve.{info.name}")
        for name in getattr(room, "__all__", ()):
            thing = getattr(room, name)
            if not inspect.isfunction(thing):
                continue
            returns = inspect.signature(thing).return_annotation
            if returns in (core.Solver, "core.Solver", "Solver"):
                found.add(f"{info.name}.{name}")
    return found
