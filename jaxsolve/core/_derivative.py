"""Rules by which a solution depends on its data."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import lineax as lx

from jaxsolve.core._attach import Problem, attach, constant, linearise, split
from jaxsolve.core._linear import Structure
from jaxsolve.core._tree import ravel, sup_norm

ALL = -1  # as `unroll`: every update is differentiated


@dataclasses.dataclass(frozen=True)
class Derivative:
    """A rule: how many updates JAX differentiates, and what is attached to the end.

    Attributes:
        unroll: how many last updates are left to JAX to differentiate; -1 for all.
    """

    unroll: int = dataclasses.field(default=0, init=False)

    def attach(self, residual, params, data, ok):
        """Returns `params` with this rule's derivative in `data` and in closures.

        Args:
            residual: as ``residual(params, data)``, or None.
            params: the solution, free of derivatives.
            data: whatever the residual depends on.
            ok: (), bool: whether the solution is one. Where it is not, derivatives
                that are not zero by themselves are not finite.
        """
        del residual, data, ok
        return params


@dataclasses.dataclass(frozen=True)
class _Stop(Derivative):
    pass


@dataclasses.dataclass(frozen=True)
class _Unroll(Derivative):
    unroll: int = ALL


@dataclasses.dataclass(frozen=True)
class _Undefined(Derivative):
    def attach(self, residual, params, data, ok):
        def refuse(*_):
            raise ValueError(
                "this solver has no residual, so the derivative of its solution is not "
                "defined by default; pass `derivative=` one of unrolled(), "
                "truncated(k), one_step(), envelope() or stop() of jaxsolve.core."
            )

        return attach(refuse, lambda params, data: params, params, data, ok)


@dataclasses.dataclass(frozen=True)
class _Envelope(Derivative):
    def attach(self, residual, params, data, ok):
        residual = residual or (lambda params, data: params)
        return attach(constant, residual, params, data, ok)


@dataclasses.dataclass(frozen=True)
class _Implicit(Derivative):
    linear_solve: Any = None
    jacobian: Callable | None = None
    psd: bool = False
    symmetric: bool = False
    inexact: bool = False
    further: Callable | None = None

    def attach(self, residual, params, data, ok):
        if residual is None:
            raise ValueError(
                "the implicit rule reads the solver's residual, and this solver has "
                "none; give it one by `solver._replace(residual=...)`, or choose "
                "another rule, such as jaxsolve.core.unrolled()."
            )
        rule = functools.partial(linearise, self.structure)
        ok = jnp.ones((), bool) if self.inexact else ok
        return attach(rule, residual, params, data, ok, self.jacobian)

    @property
    def structure(self):
        return Structure(self.linear_solve, self.symmetric, self.psd)


def implicit(
    linear_solve: lx.AbstractLinearSolver | Callable | None = None,
    jacobian: Callable | None = None,
    *,
    psd: bool = False,
    symmetric: bool = False,
    inexact: bool = False,
    further: Callable | None = None,
) -> Derivative:
    r"""Differentiates a solution by the implicit function theorem.

    Where :math:`r(x^\star(\theta), \theta) = 0`,

    .. math::

        \partial_x r \, \dot x = - \partial_\theta r \, \dot\theta,

    whatever the path to the solution was; :math:`\theta` is the data and all that the
    solver's functions close over. Works in forward and reverse mode, under vmap, and
    any number of times. Memory does not grow with the number of updates.

    A run that did not converge **refuses**: those of its derivatives that are not zero
    by themselves are not finite. So does a linear solve that failed. First derivatives
    may be masked, by ``where(solution.converged, ..., 0)``; second ones of a refusing
    lane are not finite all the same.

    Args:
        linear_solve: a lineax solver, or a function ``(matvec, vector) -> vector``
            that closes over no traced value. By default LU up to 1,000 unknowns and
            BiCGStab above; where ``psd``, CG above 50. Where these fail, LU up to 2,000
            unknowns. A NaN derivative of a converged run means that this failed too:
            `adjoint` tells by how much.
        jacobian: the Jacobian of the residual where it has structure, as ``(params,
            data) -> operator``, a lineax operator on raveled vectors; by default it is
            known by its products.
        psd: whether the Jacobian is symmetric positive semi-definite.
        symmetric: whether the Jacobian is symmetric.
        inexact: whether runs that did not converge are differentiated as if they had.
        further: what is unknown beside params, as ``further(state) -> tree``: for a
            solver whose equations are those of params and multipliers, or of a
            governing point. Its residual is one of the pair, ``residual((params,
            further), data)``, and has its form. Rules given to `run` take over that of
            the solver's own.

    Returns:
        A rule for ``run(..., derivative=rule)``.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import jaxsolve
        >>> fun = lambda x, b: jnp.sum((x - b) ** 4 + (x - b) ** 2)
        >>> solver = jaxsolve.smooth.lbfgs(fun)
        >>> rule = jaxsolve.core.implicit(psd=True)
        >>> solve = lambda b: jaxsolve.run(solver, 0.0, b, derivative=rule).params
        >>> print(f"{jax.grad(solve)(3.0):.4f}")
        1.0000

    References:
        Krantz and Parks, `The Implicit Function Theorem
        <https://doi.org/10.1007/978-1-4614-5981-1>`_, 2003.
    """
    symmetric = psd or symmetric
    return _Implicit(linear_solve, jacobian, psd, symmetric, inexact, further)


def of_inner(rule: Derivative | None) -> Derivative | None:
    """The rule of a solver, for a wrapper whose state keeps the solver's as `inner`."""
    further = getattr(rule, "further", None)
    if further is None:
        return rule
    return dataclasses.replace(rule, further=lambda state: further(state.inner))


def one_step() -> Derivative:
    """Differentiates one update at the solution, as if it began at a constant.

    For solvers whose update is a contraction of params that reads the data directly:
    gradient descent and proximal gradient with a given stepsize, Picard. Exact as the
    contraction factor goes to zero; needs no linear solve. Never refuses: it is an
    approximation by name. Solvers with a line search, and Anderson, return the point
    they evaluated, so one update of them is a constant and its derivative is zero.

    References:
        Bolte, Pauwels and Vaiter, `One-step differentiation of iterative algorithms
        <https://arxiv.org/abs/2305.13768>`_, 2023.
    """
    return truncated(1)


def truncated(steps: int) -> Derivative:
    """Differentiates the last `steps` updates, as if they began at a constant.

    The run converges first; then `steps` more updates are taken and left to JAX to
    differentiate. The error decays with the contraction factor to the power `steps`.
    Never refuses: it is an approximation by name.

    Args:
        steps: how many, at least 1.

    Raises:
        ValueError: if `steps` is not a positive Python integer.

    References:
        Shaban, Cheng, Hatch and Boots, `Truncated Back-propagation for Bilevel
        Optimization <https://arxiv.org/abs/1810.10667>`_, 2019.
    """
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a positive Python integer, got {steps!r}.")
    return _Unroll(steps)


def unrolled() -> Derivative:
    """Differentiates every update of the run.

    The derivative of the iterate that was computed, converged or not, so it never
    refuses. Stepsizes that `composite.proximal_gradient` searches for count as
    constants. `max_steps` must be a Python integer. Reverse mode keeps about twice the
    square root of `max_steps` states and takes one more forward pass.
    """
    return _Unroll(ALL)


def envelope() -> Derivative:
    r"""Treats a solution as constant, for values at it (Danskin's theorem).

    The derivative of :math:`\min_x f(x, \theta)` in :math:`\theta` is that of
    :math:`f(x^\star, \theta)` with :math:`x^\star` held fixed: no linear solve. It is
    right for first derivatives of the optimal value only. A run that did not converge
    refuses, unlike with `stop`.

    References:
        Danskin, `The Theory of Max-Min <https://doi.org/10.1007/978-3-642-46092-0>`_,
        1967.
    """
    return _Envelope()


def stop() -> Derivative:
    """Gives a solution no derivative at all: zero, converged or not."""
    return _Stop()


def implicit_function(
    residual: Callable,
    derivative: Derivative | None = None,
    *,
    tol: chex.Numeric | None = None,
) -> Callable:
    """Gives a black-box solve the derivative of its residual: a decorator.

    For a solve that JAX cannot or should not differentiate: SciPy, a simulator, another
    library. It is called on values without derivatives.

    Args:
        residual: as ``residual(params, data)``, zero at a solution.
        derivative: a rule; by default ``implicit()``.
        tol: the sup-norm of the residual above which derivatives are refused; by
            default the solve is trusted.

    Returns:
        A decorator of functions ``solve(params, data) -> params``.

    Raises:
        ValueError: if the rule is one that needs a solver's updates.

    Examples:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from jaxsolve import core
        >>> @core.implicit_function(lambda x, a: x**3 - a)
        ... def cube_root(x, a):
        ...     return jnp.asarray(np.cbrt(a))
        >>> print(f"{jax.grad(cube_root, argnums=1)(1.0, 8.0):.4f}")
        0.0833
    """
    rule = implicit() if derivative is None else derivative
    if rule.unroll:
        raise ValueError(
            "a black-box solve has no updates to differentiate; use implicit(), "
            "envelope() or stop()."
        )

    def decorate(solve):
        @functools.wraps(solve)
        def differentiable(params, data):
            solution = solve(*jax.lax.stop_gradient((params, data)))
            solution = jax.tree.map(jnp.asarray, jax.lax.stop_gradient(solution))
            ok = jnp.ones((), bool)
            if tol is not None:
                ok = sup_norm(residual(solution, jax.lax.stop_gradient(data))) <= tol
                ok = jax.lax.stop_gradient(ok)
            return rule.attach(residual, solution, data, ok)

        return differentiable

    return decorate


class Adjoint(NamedTuple):
    """A vector-Jacobian product of a solution, with what it cost in accuracy."""

    cotangent: chex.ArrayTree  # like data (zero for integers): the product.
    solution: chex.ArrayTree  # like params: w, of (d residual / d params)^T w = v.
    residual: chex.Array  # (), real: norm of (d residual / d params)^T w - v.


def adjoint(
    residual: Callable,
    params: chex.ArrayTree,
    data: Any,
    cotangent: chex.ArrayTree,
    *,
    derivative: Derivative | None = None,
    start: chex.ArrayTree | None = None,
) -> Adjoint:
    r"""Solves the adjoint system of an implicit derivative, in the open.

    With :math:`A = \partial_x r` and :math:`v` the cotangent of the solution, solves
    :math:`A^\top w = v` and returns :math:`-(\partial_\theta r)^\top w`, the solution
    :math:`w`, and the residual that reverse-mode differentiation keeps to itself.

    Args:
        residual: as ``residual(params, data)``; a solver's ``solver.residual``.
        params: the solution; the pair ``(params, further(state))`` of a solver whose
            rule has a `further`.
        data: of the residual.
        cotangent: like params, or like that pair.
        derivative: an ``implicit`` rule, for its linear solver and structure.
        start: where the linear solve starts, such as the last ``solution``: a warm
            start saves products where problems change little.

    Returns:
        An ``Adjoint``.
    """
    rule = implicit() if derivative is None else derivative
    if not isinstance(rule, _Implicit):
        raise ValueError("the adjoint system is that of an `implicit` rule.")
    leaves, treedef = jax.tree.flatten(data)
    active = [jnp.issubdtype(jnp.result_type(leaf), jnp.inexact) for leaf in leaves]
    tree = functools.partial(jax.tree.unflatten, treedef)
    operator = rule.jacobian and (lambda leaves, x: rule.jacobian(x, tree(leaves)))
    problem = Problem(lambda x, leaves: residual(x, tree(leaves)), operator)
    system = linearise(rule.structure, problem, params, leaves, active)
    v, unravel = ravel(cotangent)
    w = jnp.zeros_like(v) if start is None else ravel(start)[0]
    change, _ = system.solve_transposed(v - system.transposed(w))
    w = w + change
    gap = jnp.linalg.norm(system.transposed(w) - v)
    _, _, merge = split(params, leaves, active)
    zero = [
        leaf if a else jnp.zeros_like(leaf)
        for leaf, a in zip(merge(-system.pull(w)), active, strict=True)
    ]
    return Adjoint(tree(zero), unravel(w), gap)
