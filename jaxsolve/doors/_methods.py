"""What the doors share: methods one after the other, until one of them is done."""

import enum
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve import core
from jaxsolve.core import Status

SMALL = 30  # unknowns up to which a Hessian is worth its n products
LARGE = 2000  # unknowns from which no Jacobian is formed

OPTIONS = {"tol", "derivative", "state", "stop", "check_every", "progress"}
HINTS = {
    "maxiter": "say max_steps=",
    "args": "pass what the function depends on as `data`",
    "method": "a door chooses; for one algorithm run its solver, such as smooth.bfgs",
    "jac": "derivatives are JAX's own",
    "f_scale": "say loss=jaxsolve.smooth.huber_loss(scale)",
    "bound": "say bounds=",
    "bounds": "this door takes none",
}


class Method(enum.IntEnum):
    """The algorithm that found a door's solution: read ``solution.method``."""

    LBFGS = 0
    BFGS = 1
    NEWTON = 2
    NEWTON_CG = 3
    LBFGSB = 4
    LEVENBERG_MARQUARDT = 5
    GAUSS_NEWTON = 6
    DOGLEG = 7
    NEWTON_ROOT = 8
    NEWTON_KRYLOV = 9
    BROYDEN = 10
    BRENT = 11
    ANDERSON = 12


class DoorState(NamedTuple):
    """What a door tells of the methods that it tried."""

    count: chex.Array  # (), int32: updates taken by all of them.
    error: chex.Array  # (), real: as the last one measures it.
    status: chex.Array  # (), int32: how the last one ended.
    value: chex.Array  # (), real: the objective at params; for roots sup-norm of F.
    calls: chex.Array  # (), int32: oracle calls; one Hessian product counts one.
    method: chex.Array  # (), int32: the `Method` that found params.
    grad: chex.Array | None  # (n,), real: the gradient there; None of roots.

    @property
    def name(self) -> str:
        """The method's name, in lower case; of a batch, those that occur in it."""
        if not _known(self.method):
            return "traced"
        names = [Method(m).name.lower() for m in np.unique(np.asarray(self.method))]
        return ", ".join(names)


class Stage(NamedTuple):
    """One method of a door, and how much of the budget it may spend."""

    method: Method
    solver: core.Solver
    cost: int = 1  # oracle calls an update
    share: float = 1.0  # of the calls that are left
    least: int = 0  # calls that it may spend, if there are as many
    value: Callable[[Any], chex.Array] = lambda state: state.value
    grad: bool = True  # whether its state keeps the gradient
    restart: bool = False  # whether it starts where the user did
    relay: bool = False  # whether it only hands its end to the next as a start


def solve(
    stages: Sequence[Stage],
    params: core.Params,
    data: core.Data,
    *,
    max_steps: chex.Numeric = 1000,
    record: Callable | None = None,
    **options: Any,
) -> core.Solution:
    """Runs the first method, and the next where it stalls or spends its share.

    Where the outcome is known, that is outside of jit, grad and vmap, the next method
    is not even compiled unless it is needed. Inside, all are compiled, and those that
    no lane needs take no step.

    Args:
        stages: the methods; each starts where the one before has ended, or anew.
        params: where to start.
        data: of the problem.
        max_steps: oracle calls in all.
        record: as `run`'s; with it the first method has to do alone.
        **options: of `run`.

    Returns:
        A solution whose state is a `DoorState`.

    Raises:
        TypeError: on options that there are none of.
        ValueError: if a saved state is given: it belongs to one solver.
    """
    for name in set(options) - OPTIONS:
        hint = HINTS.get(name, f"there are {', '.join(sorted(OPTIONS))}")
        raise TypeError(f"a door knows no option {name}: {hint}.")
    if options.get("state") is not None:
        raise ValueError(
            "a door takes no saved state, which belongs to one solver; give it to "
            "jaxsolve.run(solver, params, data, state=...)."
        )
    if record is not None:
        only = stages[0]._replace(share=1.0)
        solution = core.run(
            only.solver, params, data, max_steps=max_steps, record=record, **options
        )
        return solution._replace(state=_described(only, solution))
    solution, left, start, needed = None, max_steps, params, True
    for stage in stages:
        budget = _budget(left, stage)
        if solution is not None and _known(budget) and budget == 0:
            continue
        if not _known(needed):
            budget = jnp.where(needed, budget, 0)
        begin = params if stage.restart else start
        found = core.run(stage.solver, begin, data, max_steps=budget, **options)
        found = found._replace(state=_described(stage, found))
        left = left - found.state.calls
        if stage.relay:  # what it finds is judged by the next
            solution = _spent(solution, found)
            start = jax.lax.stop_gradient(found.params)
            continue
        more = _needs_more(found.status)
        if solution is None:
            solution, worse = found, False
        else:
            solution, worse = _better(solution, found, needed)
        needed = _both(needed, _either(more, worse))
        if _known(needed) and not needed:
            break
        start = jax.lax.stop_gradient(solution.params)
    return solution


def check_function(fun: Callable) -> None:
    """Raises a `ValueError` unless a function takes params and data."""
    try:
        inspect.signature(fun).bind(None, None)
    except TypeError as error:
        raise ValueError(
            "functions are called as fun(params, data); write `lambda x, data: ...`, "
            f"and pass what changes as `data` ({error})."
        ) from error
    except ValueError:  # one without a signature
        pass


def size_of(params: core.Params) -> int:
    """The number of unknowns."""
    return sum(np.size(leaf) for leaf in jax.tree.leaves(params))


def _known(x):
    return not isinstance(x, jax.core.Tracer)


def _budget(left, stage):
    """The updates that a method may take: its share, or at least one that fits."""
    if _known(left):
        calls = max(int(int(left) * stage.share), min(stage.least, int(left)))
        return max(calls // stage.cost, int(left >= stage.cost))
    calls = (left.astype(jnp.float32) * stage.share).astype(jnp.int32)
    calls = jnp.maximum(calls, jnp.minimum(stage.least, left))
    return jnp.maximum(calls // stage.cost, (left >= stage.cost).astype(jnp.int32))


def _needs_more(status):
    """A stall or a spent share asks for the next method; divergence does not."""
    bad = [Status.STALLED, Status.MAX_STEPS, Status.BREAKDOWN]
    if _known(status):
        return int(status) in bad
    return jnp.any(jnp.stack([status == int(s) for s in bad]))


def _both(a, b):
    return a and b if _known(a) and _known(b) else jnp.logical_and(a, b)


def _either(a, b):
    return a or b if _known(a) and _known(b) else jnp.logical_or(a, b)


def _described(stage, solution):
    state = solution.state
    return DoorState(
        count=state.count,
        error=state.error,
        status=solution.status,
        value=stage.value(state),
        calls=state.count if stage.cost == 1 else state.count * stage.cost,
        method=np.asarray(int(stage.method), np.int32),
        grad=state.grad if stage.grad else None,
    )


def _spent(solution, relay):
    """The same solution, with what a relay took added to its cost."""
    a, b = solution.state, relay.state
    return solution._replace(
        state=a._replace(count=a.count + b.count, calls=a.calls + b.calls)
    )


def _better(first, second, needed):
    """The better of two by value, and whether the second, if needed, was worse.

    A stationary point that lies higher is no answer, even if it has converged.
    """
    a, b = first.state, second.state
    noise = 100 * float(jnp.finfo(a.value.dtype).eps) * jnp.abs(a.value)
    worse = ~(b.value <= a.value + jnp.where(jnp.isfinite(noise), noise, 0))
    if _known(worse) and _known(needed):
        worse = bool(worse)
        best = first if worse else second
    else:
        best = core.where(worse | ~jnp.asarray(needed), first, second)
    total = best.state._replace(count=a.count + b.count, calls=a.calls + b.calls)
    return best._replace(state=total), worse
