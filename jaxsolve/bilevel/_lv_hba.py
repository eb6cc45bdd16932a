"""LV-HBA: bilevel problems whose lower constraints see the upper variables."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.bilevel._oracle import accept, begin, error_of, upper_oracle
from jaxsolve.bilevel._penalty import check_positive
from jaxsolve.bilevel._problem import (
    BilevelProblem,
    Levels,
    check_levels,
    check_problem,
    split,
)
from jaxsolve.bilevel._proximal_lagrangian import (
    TAKES,
    check_numbers,
    lower_parts,
    multiplier_box,
    proximal_terms,
)
from jaxsolve.bilevel._saddle import at_both, descent, lagrangian, looks, times


class LvHbaState(NamedTuple):
    """State of LV-HBA."""

    count: chex.Array  # (), int32: updates taken.
    error: chex.Array  # (), real: largest entry of what should be zero.
    status: chex.Array  # (), int32: running, or diverged.
    gap: chex.Array  # (), real: g - v, with theta+, lambda+ for the saddle point of v.
    shadow: Any  # like y: theta, the minimiser in v.
    multiplier: Any  # like the constraint: lambda, the maximiser in v.
    anchor: Any  # like the constraint: z, what lambda is kept near.
    penalty: chex.Array  # (), real: rho of the last update.
    inner: Any  # the optimizer's own state.


@core.memoise
def lv_hba(
    problem: BilevelProblem,
    optimizer: optax.GradientTransformation,
    lower_stepsize: optax.ScalarOrSchedule,
    anchor_stepsize: optax.ScalarOrSchedule,
    penalty: optax.ScalarOrSchedule,
    *,
    gamma: tuple = (1.0, 1.0),
    radius: chex.Numeric = 1000.0,
) -> core.Solver:
    r"""Solves bilevel problems with coupled lower constraints, by first derivatives.

    Solves :math:`\min f(x, y)` over :math:`x \in X` and the minimisers :math:`y \in Y`
    of :math:`g(x, \cdot)` under a constraint :math:`c(x, y) \le 0`, or
    :math:`c(x, y) = 0`. With :math:`v` the value of :func:`proximal_lagrangian`, it
    penalises :math:`g - v \ge 0` on :math:`C`, the points of :math:`X \times Y` that
    satisfy the constraint, in one loop, without second derivatives or inner solves.
    From :math:`(x, y)`, the pair :math:`(\theta, \lambda)` that follows the saddle
    point in :math:`v`, and the anchor :math:`z`, at first :math:`y, 0` and 0, one
    update computes

    .. math::

        \theta^+ &= P_Y(\theta - \eta [g_y(x, \theta) + c_y(x, \theta)^\top \lambda
        + (\theta - y) / \gamma_1]) \\
        \lambda^+ &= P_Z(\lambda + \eta [c(x, \theta) - (\lambda - z) / \gamma_2]) \\
        d_x &= f_x / \rho_k + g_x - g_x(x, \theta^+)
        - c_x(x, \theta^+)^\top \lambda^+ \\
        d_y &= f_y / \rho_k + g_y - (y - \theta^+) / \gamma_1 \\
        (x, y)^+ &= P_C((x, y) + \mathrm{optimizer}(d_x, d_y)) \\
        z^+ &= P_Z(z + \beta (\lambda^+ - z) / \gamma_2)

    where what has no argument is taken at :math:`(x, y)`, and :math:`Z` is
    :math:`[0, r]^p`, or :math:`[-r, r]^p` for an equality. For :math:`g` and :math:`c`
    smooth and convex in y, and :math:`\rho_k = \rho (k+1)^p` with :math:`0 < p < 1/2`,
    the least stationarity so far is :math:`O(K^{-(1 - 2p)/2})` and the gap
    :math:`O(K^{-p})`: a slow method, and a constant penalty ends, sooner, at a biased
    point (the rates are recalled from the paper, not rederived). The penalised problem
    is not convex: which solution it finds depends on the start. The saddle steps are
    stable if :math:`\eta < 2 d / (L + \|c_y\|)^2` with :math:`L = \max(1/\gamma_1 +
    l, 1/\gamma_2)` and :math:`d = \min(1/\gamma_1 + \mu, 1/\gamma_2)`, for curvatures
    from :math:`\mu` to :math:`l` of :math:`g + \langle \lambda, c \rangle` in y; larger
    ones may diverge.

    The lower objective and the constraint are called twice an update: at once at
    :math:`(x, \theta)` and :math:`(x, y)`, then at :math:`(x, \theta^+)`, which the
    first call decides. Train in float32: no master copy is kept of leaves of lower
    precision.

    Args:
        problem: with a constraint and its `joint_set`, the projection onto :math:`C`,
            such as ``prox.hyperplane`` or ``prox.polyhedron`` on both levels; or with
            neither. The lower set is that of theta; both must be part of C.
        optimizer: the step of both levels, any optax transformation of ``Levels``, such
            as ``optax.sgd(2e-3)``.
        lower_stepsize: :math:`\eta > 0`, a scalar or a schedule; divergence outside of
            the bound.
        anchor_stepsize: :math:`\beta > 0`, likewise, at most :math:`\gamma_2`.
        penalty: :math:`\rho_k > 0`, a scalar or a schedule such as
            ``lambda k: (k + 1.0) ** 0.3``.
        gamma: :math:`(\gamma_1, \gamma_2)`, from 0.1 to 10.
        radius: :math:`r`, above the multipliers, or the run does not converge; 1 to
            1000.

    Returns:
        A solver that stays in C from its first update on, wherever it starts. Its error
        is the largest of :math:`\rho_k` times what steps of length one move each of
        :math:`(x, y), \theta, \lambda, z`, of the violation of the constraint at both
        :math:`\theta` and :math:`y`, where the oracles were called, and of the distance
        of x and y from their own sets: neither an infeasible constraint nor a joint set
        that forgets one of these ends as converged. With a growing penalty the factor
        :math:`\rho_k` makes it fall slowly, and on minibatches it cannot stop a run.
        The state's gap tells how much of the lower level the penalty still gives away,
        once :math:`\theta` and :math:`\lambda` have settled.
        The residual is that of all unknowns at the last penalty; derivatives are those
        of the penalised solution.

    Raises:
        ValueError: if the problem has a constraint and no `joint_set`, or a number is
            out of its range.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from jaxsolve import core, prox
        >>> from jaxsolve.bilevel import BilevelProblem, Levels, lv_hba
        >>> problem = BilevelProblem(
        ...     upper=lambda levels, data: (levels.upper - 1) ** 2 + levels.lower**2,
        ...     lower=lambda levels, data: levels.lower**2,
        ...     constraint=lambda levels, data: levels.upper - levels.lower,
        ...     joint_set=prox.halfspace(Levels(1.0, -1.0), 0.0),
        ... )
        >>> solver = lv_hba(problem, optax.sgd(0.1), 0.1, 0.1, 10.0)
        >>> out = core.run(solver, Levels(0.0, 3.0), max_steps=2000)
        >>> print(f"{out.params.upper:.2f} {out.params.lower:.2f}")
        0.50 0.50

    References:
        Yao, Yu, Zeng and Zhang, `Constrained Bi-Level Optimization: Proximal Lagrangian
        Value Function Approach and Hessian-free Algorithm
        <https://arxiv.org/abs/2401.16164>`_, 2024, Algorithm 1; it writes F and f for
        our f and g, g for our c, and c for our penalty.
    """
    check_problem(problem, "lv_hba", takes=TAKES)
    onto_each, project = _onto_each_set(problem), _onto_joint_set(problem)
    core.check_stepsize(lower_stepsize)
    core.check_stepsize(anchor_stepsize)
    check_positive("penalty", penalty)
    check_numbers(gamma, radius)
    eta, beta = core.as_schedule(lower_stepsize), core.as_schedule(anchor_stepsize)
    schedule = core.as_schedule(penalty)
    start, advance = core.transform_pair(optimizer)
    upper, oracle = upper_oracle(problem), lagrangian(problem)
    look, parts = looks(oracle, gamma), lower_parts(problem)
    box = multiplier_box(problem, radius)
    onto_y = problem.lower_set or (lambda y: y)

    def moves(seen, params, near, theta, near_theta, multiplier, anchor, turn):
        """How far steps of length one go: nowhere, at a stationary point."""
        return minus(params, near), (
            minus(theta, near_theta),
            minus(multiplier, box(plus(multiplier, seen.up))),
            minus(anchor, box(plus(anchor, turn))),
        )

    def init(params, data=None):
        params, lower_data = check_levels(params), split(data)[1]
        # Shapes alone: nothing is evaluated.
        c = jax.eval_shape(lambda levels: parts(levels, lower_data)[1], params)
        zeros = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), c)
        count, inf, status = begin(params)
        rho, inner = core.real_scalar(schedule(count), params), start(params)
        duals = zeros, zeros
        return LvHbaState(count, inf, status, inf, params.lower, *duals, rho, inner)

    def update(params, state, data=None):
        (x, y), lower_data = check_levels(params), split(data)[1]
        k, theta, multiplier, anchor = state.count, *further(state)[:3]
        rho = core.real_scalar(schedule(k), params)
        seen = look(params, theta, multiplier, anchor, lower_data)
        new_theta, near_theta = at_both(
            onto_y, core.axpy(-eta(k), seen.down, theta), minus(theta, seen.down)
        )
        new_multiplier = box(core.axpy(eta(k), seen.up, multiplier))
        (least, _), there = oracle(Levels(x, new_theta), new_multiplier, lower_data)
        away, pulled = minus(y, new_theta), minus(new_multiplier, anchor)
        grad = upper(params, data)[1]
        d = descent(seen, grad, there.upper, away, rho, gamma)
        penalties = proximal_terms(away, pulled, gamma)
        real = lambda number: core.real_scalar(number, params)
        turn = times(1 / gamma[1], pulled)
        stepped, inner = advance(d, state.inner, params)
        new_params, near = at_both(project, stepped, minus(params, d))
        moved = moves(seen, params, near, theta, near_theta, multiplier, anchor, turn)
        new_state = LvHbaState(
            count=k + 1,
            error=error_of(times(rho, moved), violation(seen.values), outside(params)),
            status=state.status,
            gap=real(seen.value) - real(least) - real(penalties),
            shadow=new_theta,
            multiplier=new_multiplier,
            anchor=box(core.axpy(beta(k), turn, anchor)),
            penalty=rho,
            inner=inner,
        )
        return accept(params, state, new_params, new_state, free=("inner",))

    def violation(values):
        return jax.tree.map(jnp.abs if problem.equality else jax.nn.relu, values)

    def outside(params):
        """How far outside of their own sets: nowhere, if the joint set is right."""
        return minus(params, onto_each(params))

    def further(state):
        return state.shadow, state.multiplier, state.anchor, state.penalty

    def residual(unknowns, data=None):
        params, (theta, multiplier, anchor, rho) = unknowns
        # A schedule has ended: its last value stays as it is.
        given = jax.lax.stop_gradient(rho) if callable(penalty) else penalty
        seen = look(params, theta, multiplier, anchor, split(data)[1])
        grad, away = upper(params, data)[1], minus(params.lower, theta)
        d = descent(seen, grad, seen.slope, away, rho, gamma)
        turn = times(1 / gamma[1], minus(multiplier, anchor))
        near, near_theta = project(minus(params, d)), onto_y(minus(theta, seen.down))
        pair, rest = moves(
            seen, params, near, theta, near_theta, multiplier, anchor, turn
        )
        return pair, (*rest, rho - core.real_scalar(given, params))

    return core.Solver(init, update, residual, core.implicit(further=further))


plus, minus = optax.tree.add, optax.tree.sub


def _onto_joint_set(problem):
    if problem.joint_set is not None:
        return problem.joint_set
    if problem.constraint is not None:
        raise ValueError(
            "lv_hba stays where the constraint holds: give the BilevelProblem its "
            "joint_set, the projection onto those levels."
        )
    return _onto_each_set(problem)


def _onto_each_set(problem):
    keep = lambda part: part
    onto_x, onto_y = problem.upper_set or keep, problem.lower_set or keep
    return lambda levels: Levels(onto_x(levels.upper), onto_y(levels.lower))
