"""How a derivative is attached to a solution: a custom JVP around a linear solve."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxsolve.core import _linear
from jaxsolve.core._tree import ravel, real_dtype


class Linearisation(NamedTuple):
    """A residual near a solution, A t + J d = 0, with t of params and d of the data.

    All vectors are raveled. `solve` and `solve_transposed` return a solution and
    whether it can be trusted.
    """

    joint: Callable  # (t, d) -> A t + J d, differentiable in the point of linearisation
    push: Callable  # d -> J d
    pull: Callable  # w -> J^T w
    transposed: Callable  # w -> A^T w
    solve: Callable  # rhs -> A^-1 rhs, trusted
    solve_transposed: Callable  # rhs -> A^-T rhs, trusted


class Problem(NamedTuple):
    """What is linearised: a residual of params and of a flat list of leaves."""

    residual: Callable  # (params, leaves) -> like params
    operator: Callable | None  # (leaves, params) -> lineax operator: A, if structured


def constant(problem, params, leaves, active) -> Linearisation:
    """Linearises the residual x - const: the solution does not depend on the data."""
    del problem
    _, d, _ = split(params, leaves, active)
    trusted = jnp.ones((), bool)
    return Linearisation(
        joint=lambda t, d: t,
        push=lambda d: jnp.zeros_like(ravel(params)[0]),
        pull=lambda w: jnp.zeros_like(d),
        transposed=lambda w: w,
        solve=lambda rhs: (rhs, trusted),
        solve_transposed=lambda rhs: (rhs, trusted),
    )


def linearise(structure, problem, params, leaves, active) -> Linearisation:
    """Linearises a residual in params and in the active ones of the leaves."""
    x, d, merge = split(params, leaves, active)
    _, unravel = ravel(params)

    def at(x, d):
        value, _ = ravel(problem.residual(unravel(x), merge(d)))
        if value.size != x.size:
            raise ValueError(
                f"the residual must have as many entries as params, {x.size}, got "
                f"{value.size}; a solver with more unknowns than params needs a "
                "derivative rule of its own."
            )
        return value.astype(x.dtype)

    def joint(t, dd):
        return jax.jvp(at, (x, d), (t, dd))[1]

    if problem.operator is not None:
        system = _linear.operator_system(problem.operator(leaves, params))
    else:
        _, mv = jax.linearize(lambda x: at(x, d), x)
        transposed = jax.linear_transpose(mv, x)
        flipped = mv if structure.symmetric else lambda w: transposed(w)[0]
        system = _linear.System(mv, flipped)
    return Linearisation(
        joint=joint,
        push=lambda dd: jax.jvp(lambda d: at(x, d), (d,), (dd,))[1],
        pull=lambda w: jax.vjp(lambda d: at(x, d), d)[1](w)[0],
        transposed=system.transpose_mv,
        solve=lambda rhs: _linear.solve(system, rhs, structure),
        solve_transposed=lambda rhs: _linear.solve(system.transpose(), rhs, structure),
    )


def split(params, leaves, active) -> tuple[chex.Array, chex.Array, Callable]:
    """Ravels params, and the active leaves; also returns how to put these back."""
    x, _ = ravel(params)
    chosen = [leaf for leaf, a in zip(leaves, active, strict=True) if a]
    if any(jnp.iscomplexobj(leaf) for leaf in chosen):
        raise ValueError(
            "implicit derivatives in complex data are not defined here; pass the real "
            "and imaginary parts as two leaves."
        )
    dtype = real_dtype([x, *chosen])
    d, unravel = ravel([*chosen, jnp.zeros((0,), dtype)])

    def merge(d):
        values = iter(unravel(d))
        return [
            next(values) if a else leaf for leaf, a in zip(leaves, active, strict=True)
        ]

    return x, d, merge


def attach(
    linearise: Callable,
    residual: Callable,
    params: chex.ArrayTree,
    data: Any,
    ok: chex.Array,
    operator: Callable | None = None,
) -> chex.ArrayTree:
    """Returns `params` with the derivative that a linearised residual gives it.

    Where `ok` is false, a derivative is zero if what it multiplies is zero, else NaN.

    The rule is evaluated at the attached solution, so that it can be differentiated
    again; all that it needs are its arguments; and nothing here refers to the solver,
    so that a deleted solver is freed though compiled code lives on.
    """
    # Hoisting closures makes them arguments, and keeps user functions out of the rule.
    residual, consts = _linear.convert(residual, params, data)
    form = None
    if operator is not None:
        form, extra = _linear.convert(operator, params, data)
    else:
        extra = []
    data_leaves, treedef = jax.tree.flatten(data)
    ends = len(data_leaves), len(data_leaves) + len(consts)

    def tree(leaves):
        return jax.tree.unflatten(treedef, leaves[: ends[0]])

    problem = Problem(
        lambda params, leaves: residual(
            leaves[ends[0] : ends[1]], params, tree(leaves)
        ),
        form and (lambda leaves, params: form(leaves[ends[1] :], params, tree(leaves))),
    )

    @jax.custom_jvp
    def at(params, leaves, ok):
        return params

    @functools.partial(at.defjvp, symbolic_zeros=True)
    def _(primals, tangents):
        params, leaves, ok = primals
        params = at(params, leaves, ok)
        dots = tangents[1]
        active = [not isinstance(dot, SymbolicZero) for dot in dots]
        if not any(active):
            return params, jax.tree.map(jnp.zeros_like, params)
        # A refusing lane is linearised at ones: neither its data nor its own tangent
        # need be finite, and zero times NaN would undo a mask.
        system = linearise(problem, *_safe((params, leaves), ok), active)
        _, d, _ = split(params, dots, active)
        x = _safe(ravel(params)[0], ok)
        t = _solve_jointly(system, x, d, ok)
        return params, ravel(params)[1](t)

    return at(params, [*data_leaves, *consts, *extra], ok)


def _solve_jointly(system, x, d, ok):
    """Solves A t + J d = 0 for t, transposably, refusing where not `ok`.

    The unknowns are (t, d) and the equations A t + J d = 0 and d = d, so that the
    products with J lie inside the solve too: a refusing lane is cut off there from
    data that may hold NaN, in both directions.
    """
    n = x.size
    dtype = real_dtype([x, d])
    join = lambda t, d: jnp.concatenate([t.astype(dtype), d.astype(dtype)])
    cut = lambda v: (v[:n].astype(x.dtype), v[n:].astype(d.dtype))

    def matvec(v):
        t, d = cut(v)
        # The last term is zero, but not to JAX, which fails to differentiate a solve
        # whose matrix has no tangent where its right-hand side has none either.
        return join(system.joint(t, d) + (0 * x) * t, d)

    def guarded(b, out, trusted):
        nothing = jnp.where(jnp.all(b == 0), 0, jnp.nan).astype(dtype)
        return jnp.where(ok & trusted, out, nothing)

    def forward(_, b):
        rhs, d = cut(b)
        t, trusted = system.solve(_quiet(rhs - system.push(d), ok))
        return guarded(b, join(t, d), trusted)

    def backward(_, c):
        rhs, e = cut(c)
        w, trusted = system.solve_transposed(_quiet(rhs, ok))
        return guarded(c, join(w, e - system.pull(w)), trusted)

    b = join(jnp.zeros_like(x), d)
    v = jax.lax.custom_linear_solve(matvec, b, forward, transpose_solve=backward)
    return v[:n].astype(x.dtype)


def _safe(tree, ok):
    def safe(x):
        inexact = jnp.issubdtype(jnp.result_type(x), jnp.inexact)
        return jnp.where(ok, x, jnp.ones_like(x)) if inexact else x

    return jax.tree.map(safe, tree)


def _quiet(rhs, ok):
    """Silences a refusing lane, so that an iterative solver ends at once there."""
    return jnp.where(ok, rhs, jnp.zeros_like(rhs))
