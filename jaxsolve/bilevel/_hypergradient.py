"""Hypergradients by the implicit function theorem, with an estimate of their error."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.bilevel._estimate import Equations, Estimate, Linear, estimate, linear
from jaxsolve.bilevel._linear_solves import LinearSolve, as_linear_solve
from jaxsolve.bilevel._problem import (
    BilevelProblem,
    Levels,
    check_levels,
    split,
)
from jaxsolve.core import Status, as_status


class Hypergradient(NamedTuple):
    """A hypergradient, and how far it can be trusted.

    Its `contraction` is the share of the lower residual that one Newton step leaves:
    above 1/8 nothing is known of the error, near zero the estimate is nearly exact.
    """

    value: chex.Array  # (), real: the upper objective at the lower point found.
    gradient: Any  # like x; not a number where it was refused.
    error: chex.Array  # (), real: of the gradient, Euclidean; inf: nothing is known.
    lower: Any  # like y: the lower point, where the next call may start.
    adjoint: Any  # like y: w, where the next call may start; None if there is none.
    inner_residual: chex.Array  # (), real: norm of the lower equations at `lower`.
    adjoint_residual: chex.Array  # (), real: |A^T w - f_y| over |f_y|.
    contraction: chex.Array  # (), real: of that residual by one Newton step.
    status: chex.Array  # (), int32: CONVERGED if it was not refused.

    @property
    def converged(self) -> chex.Array:
        """Whether the gradient is trusted: (), bool."""
        return self.status == Status.CONVERGED


@core.memoise
def implicit_hypergradient(
    upper: Callable[[Levels, Any], chex.Array] | BilevelProblem,
    inner: core.Solver,
    *,
    linear_solve: LinearSolve | None = None,
    ridge: chex.Numeric = 0.0,
    corrected: bool = False,
    estimated: bool = True,
    rtol: float = 0.1,
) -> Callable[..., Hypergradient]:
    r"""Makes the hypergradient of an upper objective at an inner solver's solution.

    With :math:`R(x, y)` the inner solver's residual, zero at :math:`y^\star(x)`, and
    :math:`y` what the solver returned, computes

    .. math::

        \partial_y R^\top w &= f_y \\
        h &= f_x - \partial_x R^\top w

    which is the gradient of :math:`F(x) = f(x, y^\star(x))` if :math:`y = y^\star(x)`
    and an approximation else, how good depends on the problem: a small residual proves
    nothing. So a Newton step :math:`y_2 = y - d`, :math:`\partial_y R \, d = R`, is
    taken, and the gradient :math:`h_2` there compared. Where the step leaves a share
    :math:`\theta = |R(x, y_2)| / |R(x, y)| < 1/8` of the residual,

    .. math::

        \text{error} = |h_2 - h| / (1 - \theta),

    else infinite. A gradient whose error is above `rtol` of itself is **refused**: it
    is not a number. The estimate costs about as much as the gradient. It is no bound:
    what a norm of the residual hides, a small nonlinear part beside a large one, or
    directions softer by 1e4 than others in a Krylov solve, is not judged.

    Args:
        upper: :math:`f`, as ``upper(levels, upper_data) -> scalar``, or the problem
            that it is part of.
        inner: a solver of the lower level, of params y and data ``(x, lower_data)``,
            such as ``smooth.lbfgs(problem.inner)``. Its residual is differentiated, and
            its derivative rule tells whether the Jacobian is symmetric, or psd.
        linear_solve: how the linear systems are solved: :func:`dense`,
            :func:`conjugate_gradient`, :func:`gmres`, :func:`normal_cg`,
            :func:`neumann`. By default LU while the matrix is small (50 unknowns where
            psd, else 1,000), CG or BiCGStab above.
        ridge: added to the diagonal of the Jacobian; where that is singular, a small
            one gives the gradient of least norm. Error and residuals are those of the
            system with it: they do not know by how much it changes the gradient.
        corrected: whether to return :math:`h_2`, 10 to 10,000 times more accurate,
            instead of :math:`h`; the error is then what such a step is said to leave,
            most often far too much.
        estimated: whether to estimate. Without, the error is infinite, and a gradient
            is refused if the inner run did not converge, or the adjoint solve failed.
        rtol: share of its gradient that an error may have; infinity refuses nothing
            that is finite. Where the two parts of h cancel, rounding is allowed for.

    Returns:
        A function ``hypergradient(levels, data=None, *, start=None, max_steps=1000,
        tol=None)``, compiled once per shape. It runs the inner solver from
        ``levels.lower`` (with ``max_steps=0`` it takes that as it is), starts the
        adjoint solve at `start`, like y, or at the best combination of several
        adjoints, each leaf with a leading axis for these, and returns a
        :class:`Hypergradient`. Its gradient is differentiable: its derivative is the
        Hessian of F; all else in it is constant. Under vmap every lane is judged by
        itself.

        The status is CONVERGED if the gradient is trusted; DIVERGED if the lower
        problem has no minimiser; BREAKDOWN if its Jacobian is singular or shows
        negative curvature; MAX_STEPS if the inner solver stopped too early; STALLED if
        it could not do better, or the estimate says so. On minibatches of the lower
        level its residual is noise: use a bilevel algorithm.

    Raises:
        ValueError: if `upper`, `inner` or `linear_solve` is something else, or `inner`
            has no residual; while tracing, if shapes of the levels do not fit, their
            leaves are no floats, or a batch is empty.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import bilevel, smooth
        >>> lower = lambda y, data: jnp.sum((y - data[0]) ** 2 + y**2)
        >>> upper = lambda levels, data: jnp.sum((levels.lower - 3.0) ** 2)
        >>> h = bilevel.implicit_hypergradient(upper, smooth.lbfgs(lower))
        >>> print(h(bilevel.Levels(jnp.ones(1), jnp.zeros(1))).gradient)
        [-2.5]

    References:
        Pedregosa, `Hyperparameter optimization with approximate gradient
        <https://arxiv.org/abs/1602.02355>`_, 2016; Grazzi, Franceschi, Pontil and
        Salzo, `On the Iteration Complexity of Hypergradient Computation
        <https://arxiv.org/abs/2006.16218>`_, 2020. The estimate is ours.
    """
    structure = structure_of(inner)
    check_numbers(rtol, ridge)
    upper, method = as_upper(upper), as_linear_solve(linear_solve)

    @jax.jit
    def compiled(levels, data, start, max_steps, tol):
        x, begin = levels
        upper_data, lower_data = data
        out = core.run(inner, begin, (x, lower_data), max_steps=max_steps, tol=tol)
        levels = Levels(x, out.params)
        equations = equations_of(
            upper, inner, upper_data, lower_data, method, structure, ridge
        )
        found = implicit_at(equations, levels, start)
        judged = None
        if estimated or corrected:
            judged = jax.lax.stop_gradient(
                estimate(equations, found.point, levels, *found[1:3])
            )
        return finish(found, judged, levels, out.status, corrected, rtol)

    def hypergradient(levels, data=None, *, start=None, max_steps=1000, tol=None):
        levels, data = arguments(levels, data)
        return compiled(levels, data, start, *limits(levels, max_steps, tol))

    return hypergradient


def as_upper(upper):
    """The upper objective, of a problem or as it is given."""
    if isinstance(upper, BilevelProblem):
        return upper.upper
    if not callable(upper) or isinstance(upper, core.Solver):
        raise ValueError(
            "upper is a function upper(levels, upper_data) -> scalar, or a "
            f"BilevelProblem, got {core.describe(upper)}."
        )
    return upper


def arguments(levels, data):
    """Checks levels and data, and gives Python's numbers dtypes: they trace alike."""
    return jax.tree.map(_strong, (check_levels(levels), split(data)))


def limits(levels, max_steps, tol):
    """The limits of a run as arrays: named or left out, they trace alike."""
    max_steps = jnp.asarray(max_steps, jnp.int32)
    return max_steps, jnp.asarray(core.as_tol(tol, levels.lower))


def _strong(leaf):
    weak = isinstance(leaf, bool | int | float) or getattr(leaf, "weak_type", False)
    return jnp.asarray(leaf, jnp.result_type(leaf)) if weak else leaf


def check_numbers(rtol, ridge=0.0):
    """Raises a `ValueError` unless shares and ridges, where known, are not negative."""
    for name, value in (("rtol", rtol), ("ridge", ridge)):
        core.check_number(name, value, closed="[]")


class Found(NamedTuple):
    """An implicit hypergradient, not yet judged."""

    point: Linear
    gradient: chex.Array
    adjoint: chex.Array
    gap: chex.Array  # (), real: |A^T w - f_y|.


def structure_of(inner):
    """The declared structure of an inner solver's residual."""
    if not isinstance(inner, core.Solver) or inner.residual is None:
        raise ValueError(
            "an inner solver with a residual is wanted: the implicit function theorem "
            "needs equations; give it one by `solver._replace(residual=...)`."
        )
    return getattr(inner.derivative, "structure", None) or core.implicit().structure


def equations_of(
    upper, inner, upper_data, lower_data, linear_solve, structure, ridge=0.0
) -> Equations:
    """What is solved at a point: the upper objective, and the inner residual."""
    return Equations(
        lambda levels: upper(levels, upper_data),
        lambda levels: inner.residual(levels.lower, (levels.upper, lower_data)),
        linear_solve,
        structure,
        ridge,
    )


def implicit_at(equations, levels, start) -> Found:
    """The implicit hypergradient at a point, differentiable in it."""
    point = linear(equations, levels)
    system, rhs = point.system, point.rhs
    eps = float(jnp.finfo(rhs.dtype).eps)
    first = None if start is None else _first(start, levels.lower, system, rhs)
    known = jax.lax.stop_gradient(rhs)

    def backward(_, b):
        near = None
        if first is not None:  # for this right-hand side only, not for its tangents
            near = jnp.where(jnp.all(b == known), first, 0)
        return point.solves.transposed(b, near, eps**0.75)

    def forward(_, b):
        return point.solves.solve(b, None, eps**0.75)

    adjoint = jax.lax.custom_linear_solve(
        system.vm, rhs, backward, forward, symmetric=system.symmetric
    )
    gradient, gap = point.gradient(adjoint)
    return Found(point, gradient, adjoint, jnp.linalg.norm(jax.lax.stop_gradient(gap)))


def _first(start, y, system, rhs):
    """Where the adjoint solve starts: an adjoint, or the best of several combined."""
    size = sum(jnp.size(leaf) for leaf in jax.tree.leaves(y))
    if jax.tree.structure(start) != jax.tree.structure(y):
        raise ValueError(
            f"start must have the tree structure of y, {jax.tree.structure(y)}, got "
            f"{jax.tree.structure(start)}."
        )
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(start)]
    if shapes == [jnp.shape(leaf) for leaf in jax.tree.leaves(y)]:
        return jax.lax.stop_gradient(core.ravel(start)[0].astype(rhs.dtype))
    if len({shape[:1] for shape in shapes}) != 1 or () in shapes:
        raise ValueError("start must be like y, or have one leading axis more.")
    basis = jax.vmap(lambda w: core.ravel(w)[0])(start).astype(rhs.dtype)
    if basis.shape[1] != size:
        raise ValueError("start must be like y, or have one leading axis more.")
    images = jax.vmap(system.vm)(basis)
    weights = jnp.linalg.lstsq(images.T, rhs)[0]
    return jax.lax.stop_gradient(weights @ basis)


def finish(
    found: Found, judged: Estimate | None, levels, inner_status, corrected, rtol
) -> Hypergradient:
    """Judges a gradient, refuses it if need be, and gives everything its form."""
    gradient, stop = found.gradient, jax.lax.stop_gradient
    if corrected:
        # The value of the one, the derivative of the other.
        gradient = judged.corrected + (gradient - stop(gradient))
    size, split_size = _sizes(found, stop(gradient))
    scale = jnp.linalg.norm(stop(found.point.rhs))
    relative = stop(found.gap) / jnp.where(scale > 0, scale, 1)
    inf = jnp.asarray(jnp.inf, size.dtype)
    eps = float(jnp.finfo(size.dtype).eps)
    if judged is None:
        error, theta, concave = inf, inf, jnp.zeros((), bool)
        ended = (inner_status == Status.CONVERGED) | (inner_status == Status.STALLED)
        trusted = ended & (relative <= rtol)
    else:
        error = judged.corrected_error if corrected else judged.error
        theta, concave = judged.contraction, judged.concave
        allowed = rtol * size + eps**0.5 * split_size
        trusted = (error <= allowed) & jnp.isfinite(error)
    trusted = trusted | (rtol == jnp.inf)  # infinity times zero is no number
    point = found.point
    finite = core.all_finite(stop((point.value, point.direct, point.rhs)))
    finite = finite & core.all_finite(stop(point.residual))
    failed = (inner_status == Status.DIVERGED) | ~finite
    status = as_status(Status.CONVERGED)
    early = inner_status == Status.MAX_STEPS
    late = jnp.where(early, as_status(Status.MAX_STEPS), as_status(Status.STALLED))
    status = jnp.where(trusted, status, late)
    broken = (concave | ~(relative <= 0.5)) & (rtol < jnp.inf)
    broken = broken | ~core.all_finite(stop(gradient))
    status = jnp.where(broken, as_status(Status.BREAKDOWN), status)
    status = jnp.where(failed, as_status(Status.DIVERGED), status)
    _, unravel_x = core.ravel(levels.upper)
    _, unravel_y = core.ravel(levels.lower)
    return Hypergradient(
        stop(found.point.value),
        unravel_x(refused(gradient, status)),
        error,
        stop(levels.lower),
        unravel_y(stop(found.adjoint)),
        jnp.linalg.norm(stop(found.point.residual)),
        relative,
        theta,
        status,
    )


def refused(gradient, status):
    """A gradient that is not trusted is not a number; its derivatives neither."""
    ok = status == Status.CONVERGED
    poison = jnp.where(ok, 1, jnp.finfo(gradient.dtype).max).astype(gradient.dtype)
    nothing = jnp.where(ok, 0, jnp.nan).astype(gradient.dtype)
    return gradient * poison * poison + nothing


def _sizes(found, gradient):
    """The norm of a gradient, and of the parts that may cancel in it."""
    direct = jax.lax.stop_gradient(found.point.direct)
    through = jnp.linalg.norm(gradient - direct)
    return jnp.linalg.norm(gradient), jnp.linalg.norm(direct) + through
