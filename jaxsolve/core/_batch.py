"""Many problems at once: frozen finished lanes, compaction, a mesh."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsolve.core._derivative import Derivative
from jaxsolve.core._lanes import automatic
from jaxsolve.core._linear import convert
from jaxsolve.core._observe import bar
from jaxsolve.core._run import (
    _default_rule,
    _identity,
    attach_rule,
    cached,
    ended,
    finite_start,
    first_status,
)
from jaxsolve.core._solution import Solution
from jaxsolve.core._solver import Data, Params, Solver, begin, check_solver, step
from jaxsolve.core._status import Status, status_of
from jaxsolve.core._tree import as_count, as_params, as_tol, is_concrete

_SMALLEST = 32  # lanes: below this a batch is not packed further
_SHRINK = 4  # a batch is packed when this share of its lanes is still running


def solve_batch(
    solver: Solver,
    params: Params,
    data: Data = None,
    *,
    in_axes: Any = 0,
    max_steps: int = 1000,
    tol: chex.Numeric | None = None,
    derivative: Derivative | None = None,
    check_every: int = 1,
    mesh: Mesh | None = None,
    progress: bool = False,
) -> Solution:
    """Runs a solver on a batch of problems, whose lanes may end at different times.

    Equal to ``jax.vmap(run)`` to rounding, lane by lane, and faster where step counts
    differ: whenever three quarters of the lanes have ended, the others are packed into
    a batch a quarter the size, so that one straggler does not keep a thousand lanes
    busy. What is equal in all lanes (counts, phases, schedules) is computed once.

    Packing is decided on the host, so this is a Python-level function: differentiate it
    as you like, but inside jit or vmap use ``jax.vmap(run)``. Compiles one program for
    each size of batch on the way.

    Args:
        solver: a `Solver`.
        params: where to start; every leaf has the batch as its leading axis.
        data: of the problems.
        in_axes: of `data`, as in `jax.vmap`: which axis is the batch, None for what
            all lanes share.
        max_steps: how many updates a lane takes at most.
        tol: as in `run`, the same for all lanes.
        derivative: a rule instead of the solver's own; not one that unrolls.
        check_every: updates between two looks at the whole batch (each lane is stopped
            exactly all the same); more than 1 pays on a mesh.
        mesh: devices over which the batch is sharded, along all axes of the mesh.
        progress: whether to show a progress bar on standard error.

    Returns:
        A `Solution` whose every leaf, status included, has the batch as leading axis.

    Raises:
        ValueError: on an empty batch, unequal batch sizes, traced arguments.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> fun = lambda x, a: jnp.sum((x - a) ** 2)
        >>> solver = jaxsolve.smooth.gradient_descent(fun, stepsize=0.25)
        >>> jaxsolve.solve_batch(solver, jnp.zeros(3), jnp.arange(3.0)).state.count
        Array([ 1, 14, 15], dtype=int32)
    """
    check_solver(solver)
    params = as_params(params)
    tol = as_tol(tol, params)
    check_every = as_count("check_every", check_every, 1)
    rule = _default_rule(solver) if derivative is None else derivative
    if rule.unroll:
        raise ValueError(
            "solve_batch cannot differentiate single updates; use jax.vmap over "
            "`run(..., derivative=...)`."
        )
    leaves, treedef = jax.tree.flatten(data)
    leaves, mapped = _batch_first(leaves, treedef.flatten_up_to(_spread(in_axes, data)))
    _check_width(params, leaves, mapped)
    free = jax.lax.stop_gradient((params, leaves))
    if not all(map(is_concrete, jax.tree.leaves((free, tol)))):
        raise ValueError(
            "solve_batch is driven from Python and cannot be traced by jit or vmap; "
            "inside them use jax.vmap(run)."
        )

    def make(solver, _):
        programs: dict = {}

        def attached(params, state, status, leaves, tol, mapped):
            def one(params, state, status, leaves):
                solution = Solution(params, state, status)
                data = jax.tree.unflatten(treedef, leaves)
                return attach_rule(rule, solver, solution, data, [], tol).params

            axes = [0 if m else None for m in mapped]
            return jax.vmap(one, (0, 0, 0, axes))(params, state, status, leaves)

        return programs, jax.jit(attached, static_argnames="mapped")

    key = ("batch", treedef, _identity(rule))
    programs, attached = cached(solver, (), key, make)
    shapes = tuple((x.shape, x.dtype) for x in map(jnp.asarray, jax.tree.leaves(free)))
    key = (jax.tree.structure(params), shapes, mapped, check_every, mesh)
    if key not in programs:
        programs[key] = _Programs(solver, *free, treedef, mapped, check_every, mesh)
    limit = as_count("max_steps", max_steps, 0)
    params, state, status = programs[key].drive(*free, limit, tol, progress)
    params = attached(params, state, status, leaves, tol, mapped=mapped)
    return Solution(params, state, status)


def _spread(in_axes, data):
    """Spreads a prefix tree of axes over the leaves of the data."""
    is_none = lambda x: x is None
    return jax.tree.map(
        lambda axis, part: jax.tree.map(lambda _: _Axis(axis), part),
        in_axes,
        data,
        is_leaf=is_none,
    )


class _Axis:
    """One leaf's batch axis; an object, so that None is a leaf of a tree."""

    def __init__(self, value):
        self.value = value


def _batch_first(leaves, axes):
    mapped = tuple(axis.value is not None for axis in axes)
    moved = []
    for leaf, axis in zip(leaves, axes, strict=True):
        if axis.value is None:
            moved.append(leaf)
            continue
        if jnp.ndim(leaf) == 0:
            raise ValueError(
                "a scalar in data has no batch axis; give it None in in_axes."
            )
        moved.append(leaf if axis.value == 0 else jnp.moveaxis(leaf, axis.value, 0))
    return moved, mapped


def _check_width(params, leaves, mapped):
    batched = [leaf for leaf, m in zip(leaves, mapped, strict=True) if m]
    leading = {jnp.shape(leaf)[:1] for leaf in [*jax.tree.leaves(params), *batched]}
    if len(leading) != 1 or () in leading:
        raise ValueError(
            "params, and data along in_axes, must share one leading batch axis, got "
            f"sizes {sorted(leading)}."
        )
    if leading == {(0,)}:
        raise ValueError("the batch is empty.")


class _Lanes(NamedTuple):
    """A batch under way."""

    params: Any  # (w, ...) leaves
    state: list  # leaves: (w, ...), or unbatched where equal in all lanes
    shots: list  # (w, ...): the unbatched leaves of the state when a lane ended
    status: chex.Array  # (w,), int32
    leaves: list  # of data, the mapped ones (w, ...)


class _Programs:
    """The compiled parts of one solver's batches, for one form of problem."""

    def __init__(self, solver, params, leaves, treedef, mapped, check_every, mesh):
        self.mapped, self.check_every = mapped, check_every
        self.mesh = mesh and automatic(mesh)
        axes = [0 if m else None for m in mapped]
        self.axes = axes
        lane = lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
        one = jax.tree.map(lane, params)
        data = [
            lane(x) if m else jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))
            for x, m in zip(leaves, mapped, strict=True)
        ]
        unflatten = lambda leaves: jax.tree.unflatten(treedef, leaves)
        self.init, self.init_consts = convert(
            lambda params, leaves: begin(solver, params, unflatten(leaves)), one, data
        )
        state = jax.eval_shape(self.init, self.init_consts, one, data)
        self.state_leaves, self.state_tree = jax.tree.flatten(state)
        # One trace of the user's functions, whatever the number of batch sizes.
        self.update, self.consts = convert(
            lambda params, state, leaves: step(
                solver, params, state, unflatten(leaves)
            ),
            one,
            state,
            data,
        )
        self.batched = self._find_batched(one, data)
        self._init = jax.jit(self._initialise)
        self._go = jax.jit(self._advance, static_argnames=("threshold",))
        self._pack, self._put = self._repack, self._scatter
        if not self._on_host():  # there a copy by NumPy needs no compilation
            self._pack, self._put = jax.jit(self._repack), jax.jit(self._scatter)

    def _find_batched(self, one, data):
        """Finds which leaves of the state differ between lanes, a least fixed point."""
        state = jax.tree.unflatten(self.state_tree, self.state_leaves)
        init = lambda params, leaves: self.init(self.init_consts, params, leaves)
        update = lambda *args: self.update(self.consts, *args)[1]
        before, now = None, _batched_outputs(init, (0, self.axes), (one, data))
        while now != before:
            axes = [0 if b else None for b in now]
            axes = (0, jax.tree.unflatten(self.state_tree, axes), self.axes)
            after = _batched_outputs(update, axes, (one, state, data))
            before, now = now, [a or b for a, b in zip(now, after, strict=True)]
        return now

    def _state_axes(self):
        axes = [0 if b else None for b in self.batched]
        return jax.tree.unflatten(self.state_tree, axes)

    def _initialise(self, params, leaves):
        consts = jax.lax.stop_gradient(self.init_consts)
        width = jax.tree.leaves(params)[0].shape[0]
        state = jax.vmap(
            lambda params, leaves: self.init(consts, params, leaves),
            (0, self.axes),
            self._state_axes(),
        )(params, leaves)
        state = jax.tree.leaves(state)
        shots = [
            jnp.broadcast_to(leaf, (width, *leaf.shape))
            for leaf, b in zip(state, self.batched, strict=True)
            if not b
        ]
        status = jax.vmap(first_status)(params)
        return _Lanes(jax.vmap(finite_start)(params), state, shots, status, leaves)

    def _advance(self, lanes, taken, limit, tol, *, threshold):
        """Updates until at most `threshold` lanes are running, or to the limit."""
        consts = jax.lax.stop_gradient(self.consts)
        axes = self._state_axes()
        leaves = lanes.leaves

        def one(params, state, leaves):
            params, state = self.update(consts, params, state, leaves)
            return params, state, status_of(state, tol)

        def advance(_, carry):
            params, state, shots, status, taken = carry
            running = status == Status.RUNNING
            new_params, new_state, new_status = jax.vmap(
                one, (0, axes, self.axes), (0, axes, 0)
            )(params, jax.tree.unflatten(self.state_tree, state), leaves)
            keep = lambda new, old: jnp.where(
                running.reshape(-1, *[1] * (old.ndim - 1)), new, old
            )
            new_state = jax.tree.leaves(new_state)
            common = [x for x, b in zip(new_state, self.batched, strict=True) if not b]
            shots = [keep(x[None], shot) for x, shot in zip(common, shots, strict=True)]
            state = [
                keep(new, old) if b else new
                for new, old, b in zip(new_state, state, self.batched, strict=True)
            ]
            params = jax.tree.map(keep, new_params, params)
            return params, state, shots, keep(new_status, status), taken + 1

        def running(carry):
            count = jnp.sum(carry[3] == Status.RUNNING)
            return (count > threshold) & (carry[4] < limit)

        def body(carry):
            if self.check_every == 1:
                return advance(0, carry)
            chunk = jnp.minimum(limit - carry[4], self.check_every)
            return jax.lax.fori_loop(0, chunk, advance, carry)

        carry = lanes.params, lanes.state, lanes.shots, lanes.status, taken
        *lanes, taken = jax.lax.while_loop(running, body, carry)
        return _Lanes(*lanes, leaves), taken

    def _whole(self, lanes):
        """Params, full state and status, every leaf with its lanes."""
        shots = iter(lanes.shots)
        state = [
            leaf if b else next(shots)
            for leaf, b in zip(lanes.state, self.batched, strict=True)
        ]
        return lanes.params, jax.tree.unflatten(self.state_tree, state), lanes.status

    def _on_host(self):
        return self.mesh is None and jax.default_backend() == "cpu"

    def _scatter(self, out, where, lanes):
        def put(old, new):
            if self._on_host() and _is_plain(old):
                old, real = np.array(old), where < len(old)
                old[where[real]] = np.asarray(new)[real]
                return jnp.asarray(old)
            return old.at[where].set(new, mode="drop")

        return jax.tree.map(put, out, self._whole(lanes))

    def _repack(self, lanes, index, live):
        def pick(x):
            if self._on_host() and _is_plain(x):
                return jnp.asarray(np.asarray(x)[index])
            return self._shard(x[index])

        take = lambda tree: jax.tree.map(pick, tree)
        those = lambda values, flags: [
            take(x) if f else x for x, f in zip(values, flags, strict=True)
        ]
        status = jnp.where(live, pick(lanes.status), int(Status.MAX_STEPS))
        return _Lanes(
            take(lanes.params),
            those(lanes.state, self.batched),
            take(lanes.shots),
            self._shard(status),
            those(lanes.leaves, self.mapped),
        )

    def _shard(self, x):
        if self.mesh is None:
            return x
        spec = PartitionSpec(self.mesh.axis_names)
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec))

    def _place(self, params, leaves):
        """Spreads a batch over the mesh, padded to a multiple of the devices."""
        if self.mesh is None:
            return params, leaves
        width = jax.tree.leaves(params)[0].shape[0]
        pad = -width % self.mesh.size
        spread = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))
        shared = NamedSharding(self.mesh, PartitionSpec())

        def lead(x):
            x = jnp.asarray(x)
            x = jnp.concatenate([x, jnp.repeat(x[:1], pad, axis=0)]) if pad else x
            return jax.device_put(x, spread)

        placed = [
            lead(x) if m else jax.device_put(x, shared)
            for x, m in zip(leaves, self.mapped, strict=True)
        ]
        return jax.tree.map(lead, params), placed

    def _narrower(self, width):
        """The width to pack to, or None where packing would not pay for compiling."""
        devices = 1 if self.mesh is None else self.mesh.size
        narrow = max(_SMALLEST, -(-width // _SHRINK))
        narrow = -(-narrow // devices) * devices
        return narrow if 2 * narrow < width else None

    def drive(self, params, leaves, limit, tol, progress):
        """Runs the batch from the host: advance, write down, pack, repeat."""
        size = jax.tree.leaves(params)[0].shape[0]
        lanes = self._init(*self._place(params, leaves))
        width = lanes.status.shape[0]
        if width > size:
            live = np.arange(width) < size
            lanes = self._pack(lanes, np.arange(width), live)
        where = np.arange(width)
        out, taken = None, np.int32(0)
        stride = max(1, limit // 50) if progress else limit
        while True:
            narrow = self._narrower(width)
            threshold = narrow or 0
            until = np.int32(min(limit, int(taken) + stride))
            lanes, taken = self._go(lanes, taken, until, tol, threshold=threshold)
            running = np.flatnonzero(np.asarray(lanes.status) == Status.RUNNING)
            over = len(running) == 0 or int(taken) >= limit
            if progress:
                bar(taken, limit, f"{len(running)} of {size} lanes left", over)
            if over or len(running) <= threshold:
                out = (
                    jax.tree.map(lambda x: x[:size], self._whole(lanes))
                    if out is None
                    else self._put(out, where, lanes)
                )
            if over:
                params, state, status = out
                return params, state, ended(status)
            if len(running) <= threshold:
                fill = np.zeros(narrow - len(running), running.dtype)
                live = np.arange(narrow) < len(running)
                index = np.concatenate([running, fill])
                lanes = self._pack(lanes, index, live)
                where = np.where(live, where[index], size)
                width = narrow


def _is_plain(x):
    """Tells whether NumPy can hold an array: random keys it cannot."""
    return not jnp.issubdtype(x.dtype, jax.dtypes.extended)


def _batched_outputs(function: Callable, in_axes, shapes) -> list[bool]:
    """Finds which output leaves of a vmapped function depend on the lane."""
    flags: list[bool] = []

    @jax.custom_batching.custom_vmap
    def probe(leaves):
        return leaves

    @probe.def_vmap
    def _(axis_size, in_batched, leaves):
        del axis_size
        flags[:] = in_batched[0]
        return leaves, in_batched[0]

    def widen(axis, shape):
        return jax.tree.map(
            lambda s: (
                s if axis is None else jax.ShapeDtypeStruct((2, *s.shape), s.dtype)
            ),
            shape,
        )

    wide = jax.tree.map(widen, in_axes, shapes, is_leaf=lambda x: x is None)
    out = jax.eval_shape(
        jax.vmap(lambda *args: probe(jax.tree.leaves(function(*args))), in_axes), *wide
    )
    return list(flags) or [False] * len(out)  # not called where nothing is batched
