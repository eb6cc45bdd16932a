"""Projection onto a polyhedron."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve.core import memoise
from jaxsolve.prox import _leaves
from jaxsolve.prox._dual_newton import line_minimum, product, repeat
from jaxsolve.prox._prox import Prox

START = 10.0  # the first penalty.
LAST = 0.3  # the last, times the root of epsilon.
MAX_STEPS = 300


@memoise
def polyhedron(
    A: chex.Array | None = None,
    b: chex.Array | None = None,
    G: chex.Array | None = None,
    h: chex.Array | None = None,
) -> Prox:
    r"""Project onto a polyhedron.

    For :math:`C = \{x : A x = b, G x \le h\}`, computes

    .. math::

        P_C(x) = \arg\min_y \tfrac{1}{2} \|y - x\|_2^2
        \quad \text{subject to} \quad A y = b, \; G y \le h

    by the method of multipliers: from the multipliers :math:`\lambda` of all rows, with
    :math:`M` the rows of :math:`A` and :math:`G` scaled to unit length and :math:`d`
    their right-hand sides, it repeats

    .. math::

        y &= \arg\min_y \tfrac{1}{2} \|y - x\|^2
        + \tfrac{1}{2 \sigma} \|[\lambda + \sigma (M y - d)]_+\|^2 \\
        \lambda^+ &= [\lambda + \sigma (M y - d)]_+

    until what is left is rounding; :math:`[\cdot]_+` leaves the rows of :math:`A` as
    they are. The minimisations are semismooth Newton steps, each one Cholesky
    factorisation of the size of the number of rows, or of unknowns where these are less
    than half as many. Rows may be zero, repeated or dependent, and more than the
    unknowns. Where no point of :math:`C` exists, or none
    within :math:`\epsilon^{-1/2}` times the size of :math:`x` and :math:`d`, all of the
    projection is NaN, so that a solver around it ends as diverged.

    Derivatives are those of the projection onto the affine hull of the active rows,
    those with a positive multiplier, whose rank may be deficient: exact wherever the
    projection is differentiable. Where a row is tight without a multiplier, it is as if
    it were absent; rows that say the same twice share the derivative.

    Args:
        A: of shape :math:`(p, n)`, with one column for each entry of params, leaf after
            leaf, each in row-major order; None, with b, if there are no equations.
        b: of shape :math:`(p,)`.
        G: of shape :math:`(q, n)`; None, with h, if there are no inequalities.
        h: of shape :math:`(q,)`, maybe infinite where a row does not count.

    Returns:
        A proximal operator. It ignores its stepsize.

    Raises:
        ValueError: if the shapes of the arguments and of params do not fit together, or
            if b is known to be infinite, h to be minus infinity, or either NaN.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import prox
        >>> A, b, G, h = jnp.ones((1, 3)), jnp.ones(1), jnp.eye(3), jnp.full(3, 0.5)
        >>> print(prox.polyhedron(A, b, G, h)(jnp.array([3.0, 0.5, 0.25])).round(4))
        [0.5   0.375 0.125]

    References:
        Li, Sun and Toh, `A Highly Efficient Semismooth Newton Augmented Lagrangian
        Method for Solving Lasso Problems <https://doi.org/10.1137/16M1097572>`_, 2018:
        the same scheme for another problem. Rockafellar, `Augmented Lagrangians and
        Applications of the Proximal Point Algorithm in Convex Programming
        <https://doi.org/10.1287/moor.1.2.97>`_, 1976.
    """
    blocks = [_block("A", A, "b", b), _block("G", G, "h", h)]
    if blocks[0] is None and blocks[1] is None:
        raise ValueError(
            "a polyhedron must have equations A, b or inequalities G, h, but it has "
            "neither: use prox.identity()."
        )
    equations = 0 if blocks[0] is None else len(blocks[0][1])
    given = [block for block in blocks if block is not None]
    if len({block[0].shape[1] for block in given}) > 1:
        raise ValueError(
            "A and G must have one column for each entry of params, but they have "
            f"{A.shape[1]} and {G.shape[1]}: give both the other columns."
        )

    def prox(params, stepsize=1.0):
        del stepsize
        x, unravel = _leaves.ravel(params)
        rows = jnp.concatenate([m.astype(x.dtype) for m, _ in given])
        offset = jnp.concatenate([v.astype(x.dtype) for _, v in given])
        if x.size != rows.shape[1]:
            raise ValueError(
                "params must have one entry for each column of the matrices, but they "
                f"have {x.size} and these have {rows.shape[1]}: give the other columns."
            )
        if not rows.size:
            return unravel(x)
        rows, offset = _unit_rows(rows, offset)
        # Projections keep a common scale: with this one no square under- or overflows.
        finite = jnp.where(jnp.isfinite(offset), jnp.abs(offset), 0)
        unit = _leaves.power_of_two(jnp.maximum(jnp.max(jnp.abs(x)), jnp.max(finite)))
        return unravel(unit * _project(equations, x / unit, rows, offset / unit)[0])

    return prox


def _block(name, matrix, offset_name, offset):
    if matrix is None and offset is None:
        return None
    if matrix is None or offset is None:
        raise ValueError(
            f"{name} and {offset_name} must be given together, but one is None: give "
            "both or none."
        )
    matrix, offset = jnp.asarray(matrix), jnp.asarray(offset)
    if matrix.ndim != 2 or offset.shape != matrix.shape[:1]:
        raise ValueError(
            f"{name} and {offset_name} must have the shapes (m, n) and (m,), but they "
            f"have {matrix.shape} and {offset.shape}: give one row for each condition."
        )
    real = lambda v: v if jnp.issubdtype(v.dtype, jnp.inexact) else v.astype(float)
    matrix, offset = _leaves.real(real(matrix)), _leaves.real(real(offset))
    known = _leaves.known(offset)
    # Of bounds, infinity is one that does not count.
    if known is not None and not np.all(
        (known > -np.inf) & ((known < np.inf) | (offset_name == "h"))
    ):
        raise ValueError(
            f"{offset_name} must be finite{' or infinity' * (offset_name == 'h')}, but "
            f"it is {known}: no point meets such a condition; leave the row out."
        )
    return matrix, offset


def _unit_rows(rows, offset):
    """Rows of unit length: the set does not change where a condition is scaled."""
    # First near unit length, by powers of two, so that squares neither under- nor
    # overflow.
    top = _leaves.power_of_two(jnp.max(jnp.abs(rows), 1))
    rows, offset = rows / top[:, None], offset / top
    squares = jnp.sum(rows**2, axis=1)
    norm = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 1)
    return rows / norm[:, None], offset / norm


class _Point(NamedTuple):
    y: chex.Array  # (n,): where Newton's method is.
    multipliers: chex.Array  # (m,): the last ones; they give the projection.
    centre: chex.Array  # (m,): those that y is sought with.
    sigma: chex.Array  # (): the penalty.


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=(0,))
def _project(equations, x, rows, offset):
    """The projection and its multipliers; rows have unit length, equations first."""
    equal = np.arange(len(offset)) < equations
    eps = float(jnp.finfo(x.dtype).eps)
    # A row that never binds is left out: infinity must not enter.
    idle = ~equal & (offset == jnp.inf)
    rows, offset = jnp.where(idle[:, None], 0, rows), jnp.where(idle, 0, offset)
    size = jnp.linalg.norm(x) + jnp.max(jnp.abs(offset))
    step = functools.partial(_newton_step, equal, x, rows, offset, size)
    none = jnp.zeros_like(offset)
    start = _Point(x, none, none, jnp.array(START, x.dtype))
    end, error = repeat(step, start, x.dtype, MAX_STEPS)
    # A bound of minus infinity, like an equation with infinity, is met by no point.
    found = (error <= eps**0.5 * size) & jnp.isfinite(size)
    multipliers = jnp.where(found, end.multipliers, jnp.nan)
    return x - product(multipliers, rows), multipliers


def _newton_step(equal, x, rows, offset, size, point):
    """One semismooth Newton step in y, and one of the multipliers where y is found."""
    eps = float(jnp.finfo(x.dtype).eps)
    y, _, centre, sigma = point
    positive = lambda s: jnp.where(equal, s, jax.nn.relu(s))
    gap = lambda y: product(rows, y) - offset
    shifted = centre + sigma * gap(y)
    # Where Newton's method leads, by its multipliers: were they sigma times the gap,
    # they would be sigma times as inaccurate.
    active = equal | (shifted > 0)
    multipliers = _least(rows, active, sigma, jnp.where(active, centre, 0), x, gap)
    aim = x - product(multipliers, rows)
    excess = gap(aim) + (centre - multipliers) / sigma
    wrong = jnp.where(equal, 0, jnp.where(active, -multipliers, excess))
    multipliers = positive(multipliers)
    sure = x - product(multipliers, rows)
    direction = aim - y
    change = product(rows, direction)

    def slope(t):
        moved = shifted + t * sigma * change
        linear = product(direction, y + t * direction - x)
        bent = jnp.where(equal | (moved > 0), change**2, 0)
        value = linear + product(positive(moved), change)
        return value, product(direction, direction) + sigma * jnp.sum(bent)

    noise = jnp.linalg.norm(direction) + sigma * jnp.linalg.norm(change)
    noise = eps * size * noise
    slack = -gap(sure)
    error = jnp.max(jnp.abs(jnp.where(equal, slack, jnp.minimum(multipliers, slack))))
    floor = 2 * eps * (size + jnp.linalg.norm(multipliers))
    # Rounding may leave nothing to descend before that.
    held = slope(jnp.zeros_like(sigma))[0] >= -noise
    settled = held | (jnp.max(wrong) <= jnp.maximum(error / 10, floor))
    # By Farkas no point of the set is closer to zero than this.
    ray = positive(multipliers - centre)
    distance = -product(offset, ray) / jnp.linalg.norm(product(ray, rows))
    empty = settled & (error > 40 * floor) & (distance > size / eps**0.5)
    point = _Point(
        y=jnp.where(settled, sure, y + line_minimum(slope, noise) * direction),
        multipliers=multipliers,
        centre=jnp.where(settled, multipliers, centre),
        sigma=jnp.where(settled, jnp.minimum(10 * sigma, LAST * eps**-0.5), sigma),
    )
    return point, jnp.where(empty, jnp.nan, error), floor


def _least(rows, active, sigma, centre, x, gap):
    """The multipliers of the active rows that Newton's method asks for."""
    m, n = rows.shape
    left = jnp.where(active, gap(x - product(centre, rows)), 0)
    solve = lambda a, v: jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(a), v)
    if m <= 2 * n:
        # The products of all rows do not change: the compiler takes them from the loop.
        both = active[:, None] & active[None, :]
        gram = jnp.where(both, product(rows, rows.T), 0)
        return centre + solve(gram + jnp.eye(m, dtype=rows.dtype) / sigma, left)
    # Woodbury's formula, for a smaller system.
    kept = jnp.where(active[:, None], rows, 0)
    gram = product(kept.T, kept) + jnp.eye(n, dtype=rows.dtype) / sigma
    return centre + sigma * (left - product(kept, solve(gram, product(left, kept))))


@_project.defjvp
def _project_jvp(equations, primals, tangents):
    (x, rows, offset), (dx, drows, doffset) = primals, tangents
    y, multipliers = _project(equations, x, rows, offset)
    eps = float(jnp.finfo(x.dtype).eps)
    size = jnp.linalg.norm(x) + jnp.max(jnp.abs(multipliers))
    active = (np.arange(len(offset)) < equations) | (multipliers > 100 * eps * size)
    keep = lambda v: jnp.where(active.reshape(-1, *(1,) * (v.ndim - 1)), v, 0)
    inverse = jnp.linalg.pinv(keep(rows))
    # Along the face, and with it where it moves.
    free = dx - product(multipliers, keep(drows))
    moved = keep(doffset) - product(keep(drows), y)
    dy = free + product(inverse, moved - product(keep(rows), free))
    return (y, multipliers), (dy, product(free - dy, inverse))
