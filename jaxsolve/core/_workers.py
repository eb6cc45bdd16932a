"""Workers as a named axis: per-worker code, seen from outside as one solver."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from jaxsolve.core._lanes import automatic
from jaxsolve.core._memoise import memoise
from jaxsolve.core._solver import Params, Solver, check_solver
from jaxsolve.core._status import Status, as_status


class WorkersState(NamedTuple):
    """State of a solver spread over workers."""

    count: chex.Array  # (), int32: updates taken.
    error: chex.Array  # (), real: the largest of the workers' errors.
    status: chex.Array  # (), int32: of the first worker that is not running.
    inner: Any  # (workers, ...) leaves: the workers' states.


def per_worker(params: Params, axis: str) -> Params:
    """Makes each worker's own copy of replicated params.

    Inside `jax.shard_map` the gradient with respect to replicated params is already
    summed over the workers. Taken at the copy it is this worker's alone, there and
    under ``vmap(axis_name=axis)``; sum or average it explicitly.

    Args:
        params: a tree that is the same on all workers.
        axis: the name of the workers' axis.

    Returns:
        The same values, varying over the axis.
    """
    zero = 0 * jax.lax.axis_index(axis)
    return jax.tree.map(lambda x: x + zero.astype(x.dtype), params)


@memoise
def workers(
    solver: Solver, axis: str, common: bool = True, mesh: Mesh | None = None
) -> Solver:
    """Turns a per-worker solver into an ordinary solver of global arrays.

    The functions of `solver` see one worker's data and speak to the others by
    collectives over `axis` (`jax.lax.psum` and its kin), so it is a solver written for
    this: one that averages gradients taken `per_worker`, say. The result is driven,
    batched and differentiated from outside like any solver. An ordinary solver needs
    none of this: run it under `jax.jit` on data sharded over a mesh.

    Args:
        solver: written for one worker.
        axis: the name of the workers' axis.
        common: whether the workers share their params, which then have no workers'
            axis; otherwise every leaf of the global params has it as leading axis.
        mesh: devices with an axis of that name, one worker each, by `jax.shard_map`;
            by default the workers are simulated on one device by `jax.vmap`.

    Returns:
        A solver whose data have the workers as leading axis of every leaf.

    Raises:
        ValueError: if the mesh has no such axis, or not as many devices as workers.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import core
        >>> fun = lambda x, batch: jnp.mean((x - batch) ** 2)
        >>> def gradient(x, batch):
        ...     x = core.per_worker(x, "workers")
        ...     return jax.lax.pmean(jax.grad(fun)(x, batch), "workers")
        >>> picard = jaxsolve.fixed_point.picard(lambda x, b: x - 0.4 * gradient(x, b))
        >>> solver = core.workers(picard, "workers")
        >>> solution = jaxsolve.run(solver, 0.0, jnp.arange(8.0).reshape(4, 2))
        >>> print(f"{solution.params:.2f}")
        3.50
    """
    check_solver(solver)
    if mesh is not None and axis not in mesh.axis_names:
        raise ValueError(f"the mesh has axes {mesh.axis_names}, and no {axis!r}.")

    def spread(function, data, ins, outs):
        """Maps over workers; `None` for what is common, 0 for a leading axis."""
        if mesh is None:
            return jax.vmap(function, ins, outs, axis_name=axis)
        count = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(data)}
        if count != {(mesh.shape[axis],)}:
            raise ValueError(
                f"data must have the {mesh.shape[axis]} workers of the mesh as leading "
                f"axis of every leaf, got leading axes {sorted(count)}."
            )
        spec = lambda axes: tuple(
            PartitionSpec() if a is None else PartitionSpec(axis) for a in axes
        )
        first = lambda tree: jax.tree.map(lambda x: x[0], tree)
        lead = lambda tree: jax.tree.map(lambda x: jnp.asarray(x)[None], tree)

        def local(*args):
            args = [
                x if a is None else first(x) for x, a in zip(args, ins, strict=True)
            ]
            results = function(*args)
            results = results if isinstance(outs, tuple) else (results,)
            wrapped = outs if isinstance(outs, tuple) else (outs,)
            results = tuple(
                x if a is None else lead(x)
                for x, a in zip(results, wrapped, strict=True)
            )
            return results if isinstance(outs, tuple) else results[0]

        out_specs = spec(outs) if isinstance(outs, tuple) else spec((outs,))[0]
        return jax.shard_map(local, mesh=mesh, in_specs=spec(ins), out_specs=out_specs)

    place = None if common else 0
    mesh = mesh and automatic(mesh)

    def wrap(inner):
        own_status = getattr(inner, "status", None)
        status = as_status(Status.RUNNING)
        if own_status is not None:
            first = jnp.argmax(own_status != Status.RUNNING)
            status = own_status[first]
        return WorkersState(inner.count[0], jnp.max(inner.error), status, inner)

    def init(params, data):
        return wrap(spread(solver.init, data, (place, 0), 0)(params, data))

    def update(params, state, data):
        go = spread(solver.update, data, (place, 0, 0), (place, 0))
        params, inner = go(params, state.inner, data)
        return params, wrap(inner)

    def residual(params, data):
        return spread(solver.residual, data, (place, 0), place)(params, data)

    # Unknowns beside params are each worker's own: then no rule is defined.
    own = getattr(solver.derivative, "further", None) is not None
    if own or solver.residual is None:
        return Solver(init, update, None, None if own else solver.derivative)
    return Solver(init, update, residual, solver.derivative)
