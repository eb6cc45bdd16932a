"""Identity: equal factory calls give the same solver, and nothing outlives its user."""

import collections
import dataclasses
import functools
import inspect
import types
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import jax

_ATTRIBUTE = "__jaxsolve_memo__"
_BOUND = 32  # results kept per function, and per factory that is given no function


def memoise(factory: Callable) -> Callable:
    """Makes a factory return the same object for the same hashable arguments.

    Compiled loops are cached by the identity of a solver, so equal calls of a factory
    should give one solver. What is built around a user's function is kept on that
    function and dies with it; what is built of numbers alone is kept in a small table.
    Arrays, tracers and functions that close over tracers are never kept.
    """
    signature = inspect.signature(factory)
    table: collections.OrderedDict = collections.OrderedDict()

    @functools.wraps(factory)
    def memoised(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        values = tuple(bound.arguments.values())
        try:
            key = (memoised, tuple(map(_key, values)))
            hash(key)
        except TypeError:
            return factory(*args, **kwargs)
        functions = _functions(values)
        if any(map(closes_over_tracer, values)):
            return factory(*args, **kwargs)
        memo = _memo_of(functions) if functions else table
        if memo is None:
            return factory(*args, **kwargs)
        if key in memo:
            memo.move_to_end(key)
        else:
            memo[key] = factory(*args, **kwargs)
            if len(memo) > _BOUND:
                memo.popitem(last=False)
        return memo[key]

    return memoised


def _key(value: Any) -> Hashable:
    # 1, 1.0 and True are equal and hash alike, but make solvers of different dtypes.
    if isinstance(value, tuple):
        return (type(value), *map(_key, value))
    return (type(value), value)


def _functions(values):
    """The functions among the arguments; a problem counts as its own functions."""
    found = []
    for leaf in jax.tree.leaves(values):
        if callable(leaf):
            found.append(leaf)
        elif dataclasses.is_dataclass(leaf):
            parts = [getattr(leaf, field.name) for field in dataclasses.fields(leaf)]
            found += filter(callable, parts)
    return found


def _memo_of(functions):
    """Finds the table that lives as long as one of the functions does, or None."""
    for function in functions:
        owner = getattr(function, "__self__", function)
        if isinstance(owner, types.ModuleType | type):
            continue
        try:
            return owner.__dict__.setdefault(_ATTRIBUTE, collections.OrderedDict())
        except (AttributeError, TypeError):
            continue
    return None


def closes_over_tracer(value: Any, seen: set[int] | None = None) -> bool:
    """Tells whether a function holds a traced value: in closures, defaults, fields."""
    if isinstance(value, jax.core.Tracer):
        return True
    seen = set() if seen is None else seen
    if id(value) in seen:
        return False
    seen.add(id(value))
    return any(closes_over_tracer(part, seen) for part in _parts(value))


def _parts(value):
    if isinstance(value, types.FunctionType):
        cells = [
            cell.cell_contents for cell in value.__closure__ or () if _filled(cell)
        ]
        defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        return [*cells, *defaults]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, tuple | list):
        return list(value)
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, types.ModuleType | type | jax.Array):
        return []
    wrapped = getattr(value, "__wrapped__", None)
    fields = [v for k, v in getattr(value, "__dict__", {}).items() if k != _ATTRIBUTE]
    return [wrapped, *fields]


def _filled(cell):
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:  # a name that is not bound yet
        return False
    return True


class WeakIdentityDict:
    """A table from objects to values, by identity, that keeps no object alive."""

    def __init__(self):
        self._entries = {}

    def setdefault(self, key: Any, make: Callable[[], Any]) -> Any:
        """Returns the value of `key`, made if there is none."""
        entry = self._entries.get(id(key))
        if entry is None or entry[0]() is not key:
            index = id(key)

            def forget(ref, entries=self._entries):
                if index in entries and entries[index][0] is ref:
                    del entries[index]

            entry = self._entries[index] = (weakref.ref(key, forget), make())
        return entry[1]
