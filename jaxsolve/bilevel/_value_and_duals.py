"""Values of optimisation problems, differentiable by their duals."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from jaxsolve import core
from jaxsolve.core import Status

ONCE = (
    "the duals give first derivatives of a value only; for second ones differentiate a "
    "solution, `core.run(...).params`, by its own rule."
)
CONSTANT = (
    "a value is differentiable in its right-hand sides only; for what else the problem "
    "depends on there are no duals: make it a right-hand side, or stop its gradient."
)


class Optimum(NamedTuple):
    """What an optimiser says of a problem."""

    value: chex.Array  # (), real: the optimal value.
    duals: chex.ArrayTree  # like the right-hand sides: what the value gains by each.
    status: chex.Array = Status.CONVERGED  # (), int32: whether to believe it.
    aux: Any = None  # whatever else, such as the decisions.


def value_and_duals(solve: Callable[..., Optimum | tuple]) -> Callable[..., Optimum]:
    r"""Makes the value of an optimiser differentiable by the duals that it returns.

    For the value :math:`Q(b) = \min_x \{c(x) : x \in X, A(x) = b : \lambda\}` of
    whatever problem, by the envelope theorem

    .. math::

        \partial Q / \partial b = \lambda

    so that nothing is differentiated but the right-hand sides, and the optimiser may be
    any: a `jaxsolve` solver, whose multipliers are in its state, or a foreign one. This
    trains two-stage decision rules, a policy whose targets are the right-hand sides:
    then the gradient in the policy's parameters is the product of the policy's Jacobian
    with the duals, by one backward pass through the policy alone.

    Where the duals are not unique, as for linear programs at a kink of their value, it
    is a subgradient if the problem is convex. A solve that is not `CONVERGED`, or whose
    value or duals are not finite, **refuses**: its derivatives are not finite, unless
    it is masked by its status: ``jnp.where(status == CONVERGED, value, 0)``. A product
    with zero masks reverse mode alone. Second derivatives, and derivatives in `data` or
    in what `solve` closes over, are refused while tracing.

    Args:
        solve: as ``solve(rhs, data) -> Optimum(value, duals, status, aux)``, or the
            pair ``(value, duals)`` of a solver that never fails. Duals are like `rhs`,
            with the sign of the derivative: many solvers have the other one. It is
            called once, on constants, and need not be differentiable; one that JAX
            cannot trace works outside of `jit`, or in a `jax.pure_callback`.

    Returns:
        A function ``(rhs, data=None) -> Optimum``. Its value has the derivative; the
        rest is constant.

    Raises:
        ValueError: while tracing, if the duals do not have the form of `rhs`, or a
            derivative is asked for that the duals do not give.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsolve import bilevel
        >>> @bilevel.value_and_duals
        ... def nearest(rhs, data):  # min |x|^2 where x is at least rhs
        ...     x = jnp.maximum(rhs, 0)
        ...     return jnp.sum(x**2), 2 * x
        >>> jax.grad(lambda rhs: nearest(rhs).value)(jnp.array([1.0, -1.0, 2.0]))
        Array([2., 0., 4.], dtype=float32)

    References:
        Rosemberg, Street, Valladão and Van Hentenryck, `Efficiently Training
        Deep-Learning Parametric Policies using Lagrangian Duality
        <https://arxiv.org/abs/2405.14973>`_, 2024. Milgrom and Segal, `Envelope
        Theorems for Arbitrary Choice Sets
        <https://doi.org/10.1111/1468-0262.00296>`_, 2002.
    """
    if not callable(solve):
        raise ValueError(
            f"solve must be a function of (rhs, data), got {type(solve).__name__}."
        )

    @functools.wraps(solve)
    def differentiable(rhs, data=None):
        rhs = jax.tree.map(_real, rhs)
        data = _held(CONSTANT, data, data)
        optimum = Optimum(*solve(*jax.lax.stop_gradient((rhs, data))))
        optimum = jax.tree.map(jnp.asarray, optimum)
        optimum = _held(CONSTANT, optimum, optimum)  # it may close over what it likes
        value, duals, status, _ = optimum
        _check(value, duals, rhs)
        status = status.astype(jnp.int32)
        finite, broken = core.all_finite((value, duals)), jnp.int32(Status.BREAKDOWN)
        status = jnp.where(finite | (status != Status.CONVERGED), status, broken)
        ok = status == Status.CONVERGED
        optimum = optimum._replace(status=status)
        return optimum._replace(value=_attached(value, duals, rhs, ok))

    return differentiable


@jax.custom_jvp
def _attached(value, duals, rhs, ok):
    """The value, whose derivative in the right-hand sides are the duals."""
    del duals, rhs, ok
    return value


@_attached.defjvp
def _(primals, tangents):
    value, duals, rhs, ok = primals
    change, _ = core.ravel(tangents[2])
    slope, _ = core.ravel(duals)
    slope = _held(ONCE, slope.astype(change.dtype), rhs)
    slope = jnp.where(ok, slope, 1)  # zero times NaN would undo a mask
    rate = slope @ _refused(change, ok)
    return _attached(value, duals, rhs, ok), rate.astype(value.dtype)


def _refused(change, ok):
    """The change itself; where not `ok` NaN, unless it is zero. In both modes."""

    def solve(_, rhs):
        nothing = jnp.where(jnp.all(rhs == 0), 0, jnp.nan).astype(rhs.dtype)
        return jnp.where(ok, rhs, nothing)

    identity = lambda change: change
    return jax.lax.custom_linear_solve(
        identity, change, solve, transpose_solve=solve, symmetric=True
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _held(what, tree, of):
    """The tree, which must not be differentiated along a second one."""
    del what, of
    return tree


@functools.partial(_held.defjvp, symbolic_zeros=True)
def _(what, primals, tangents):
    tree, of = primals
    pairs = zip(jax.tree.leaves(of), jax.tree.leaves(tangents[1]), strict=True)
    real = [dot for x, dot in pairs if jnp.issubdtype(x.dtype, jnp.inexact)]
    if not all(isinstance(dot, SymbolicZero) for dot in real):
        raise ValueError(what)
    return tree, jax.tree.map(_no_change, tree)


def _no_change(x):
    inexact = jnp.issubdtype(jnp.result_type(x), jnp.inexact)
    return (
        jnp.zeros_like(x) if inexact else SymbolicZero(jax.typeof(x).to_tangent_aval())
    )


def _real(leaf):
    leaf = jnp.asarray(leaf)
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise ValueError(
            "the right-hand sides must be a tree of real float arrays, got a leaf of "
            f"dtype {leaf.dtype}."
        )
    return leaf


def _check(value, duals, rhs):
    form = lambda tree: jax.tree.map(jnp.shape, tree)
    if value.shape or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"the value must be one real scalar, got shape {value.shape} and dtype "
            f"{value.dtype}."
        )
    if form(duals) != form(rhs):
        raise ValueError(
            "duals must have the form of the right-hand sides, one each, which is "
            f"{form(rhs)}, got {form(duals)}."
        )
