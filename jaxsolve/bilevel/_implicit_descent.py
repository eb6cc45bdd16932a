"""AID-BiO and HOAG: any inner solver, then conjugate gradients, then a step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsolve import core
from jaxsolve.bilevel._adjoint_loops import cg_loop
from jaxsolve.bilevel._phases import LOWER, LowerLoop, check_steps, phases, when
from jaxsolve.bilevel._problem import BilevelProblem, check_problem, split
from jaxsolve.core import Status


def exponential(outer):
    """The paper's exponential rule for tolerances: 0.1 * 0.9**k."""
    return 0.1 * jnp.asarray(0.9, jnp.float32) ** outer.astype(jnp.float32)


@core.memoise
def implicit_descent(
    problem: BilevelProblem,
    inner: core.Solver,
    optimizer: optax.GradientTransformation,
    tol: optax.ScalarOrSchedule = exponential,
    *,
    inner_steps: int,
    adjoint_steps: int,
) -> core.Solver:
    r"""Minimises over both levels by any inner solver and implicit hypergradients.

    Solves :math:`\min_x f(x, y^\star(x))`, where :math:`y^\star(x)` minimises
    :math:`g(x, \cdot)`. With :math:`H = g_{yy}` and :math:`J = g_{xy}` at
    :math:`(x, y)`, round k takes the inner solver from y until its error is at most
    :math:`\epsilon_k`, then conjugate gradients from w until

    .. math::

        \|H w - f_y\|_\infty \le \epsilon_k,

    each of them for a number of updates at most, and then

    .. math::

        x \leftarrow P_X(x + \mathrm{optimizer}(f_x - J^\top w)).

    One product, or one update of the inner solver, is one update here: g is called at
    two sites, the inner solver's and that of the linearisation, of which one update
    runs one. With tolerances that decrease this is HOAG; with ``tol=0.0`` and fixed
    numbers of steps it is AID-BiO. It converges where :math:`\sum_k \epsilon_k` is
    finite and the optimizer's steps are small. (HOAG's search for these is left to the
    optimizer.)

    Args:
        problem: both objectives; an upper set is kept by projection, other parts are
            refused.
        inner: a solver of the lower level, of params y and data ``(x, lower_data)``,
            such as ``smooth.lbfgs(problem.inner)``. It begins anew in every round, at
            the last y. Where it fails, so does the run.
        optimizer: the step of x, any optax transformation.
        tol: :math:`\epsilon_k \ge 0`, a scalar or a schedule of the upper steps taken;
            by default the paper's :math:`0.1 \cdot 0.9^k`. Steps that shrink faster
            than the tolerance have to wait for it.
        inner_steps: updates of the inner solver in a round at most, at least 1.
        adjoint_steps: steps of conjugate gradients in a round at most, at least 1. The
            first residual takes one product more.

    Returns:
        A solver of ``Levels(upper, lower)``. Its error is the largest entry of
        :math:`(f_x - J^\top w, g_y, H w - f_y)` before the last step of x, infinite
        before the first, with an upper set :math:`x - P_X(x - \cdot)` of the first
        part. Its residual is :math:`(f_x - J^\top H^{-1} f_y, g_y)`. On minibatches the
        error cannot stop a run, and both the inner solver and conjugate gradients would
        need one batch for a round: use :func:`amigo` there.

    Raises:
        ValueError: if the problem has a lower set or a constraint; if `inner` is no
            solver; on a negative `tol`, or steps that are not positive integers.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from jaxsolve import bilevel, core, smooth
        >>> upper = lambda levels, data: jnp.sum((levels.lower - data) ** 2)
        >>> lower = lambda levels, data: jnp.sum((levels.lower - 2 * levels.upper) ** 2)
        >>> problem = bilevel.BilevelProblem(upper, lower)
        >>> solver = bilevel.implicit_descent(
        ...     problem, smooth.lbfgs(problem.inner), optax.sgd(0.1),
        ...     inner_steps=20, adjoint_steps=5,
        ... )
        >>> start = bilevel.Levels(jnp.zeros(()), jnp.zeros(()))
        >>> print(f"{core.run(solver, start, (3.0, None)).params.upper:.3f}")
        1.500

    References:
        Pedregosa, `Hyperparameter optimization with approximate gradient
        <https://arxiv.org/abs/1602.02355>`_, 2016, Algorithm 1 (HOAG); Ji, Yang and
        Liang, `Bilevel Optimization: Convergence Analysis and Enhanced Design
        <https://arxiv.org/abs/2010.07962>`_, 2021, Algorithm 1 (AID-BiO).
    """
    check_problem(problem, "implicit_descent", takes=("upper_set",))
    check_steps(inner_steps=inner_steps, adjoint_steps=adjoint_steps)
    if not isinstance(inner, core.Solver):
        raise ValueError(
            "inner must be a solver of the lower level, such as "
            f"smooth.lbfgs(problem.inner), got {type(inner).__name__}."
        )
    if not callable(tol) and core.is_concrete(tol) and not np.asarray(tol) >= 0:
        raise ValueError(f"tol must be at least zero, got {tol!r}.")
    lower_loop = solver_loop(inner, inner_steps, tol)
    solver = phases(problem, lower_loop, cg_loop(adjoint_steps, tol), optimizer)

    def update(params, state, data=None):
        params, new = solver.update(params, state, data)
        failure = getattr(new.lower, "status", new.status)
        failed = (failure >= Status.DIVERGED) & (new.status == Status.RUNNING)
        return params, new._replace(status=jnp.where(failed, failure, new.status))

    return core.Solver(solver.init, update, solver.residual, solver.derivative)


def solver_loop(
    inner: core.Solver, steps: int, tol: optax.ScalarOrSchedule
) -> LowerLoop:
    """Lets a solver of the lower level take some updates in every round."""
    schedule = core.as_schedule(tol)

    def view(levels, data):
        return levels.upper, split(data)[1]

    def init(levels, data):
        return inner.init(levels.lower, view(levels, data))

    def step(levels, state, slope, data):
        del slope
        y, here = levels.lower, view(levels, data)

        def go():
            begin = lambda: inner.init(y, here)
            memory = jax.lax.cond(state.taken == 0, begin, lambda: state.lower)
            return inner.update(y, memory, here)

        new_y, memory = when(state.phase == LOWER, go, (y, state.lower))
        small = memory.error <= core.real_scalar(schedule(state.outer), memory.error)
        done = small | (state.taken + 1 >= steps)
        if hasattr(memory, "status"):
            done = done | (memory.status != Status.RUNNING)
        return new_y, memory, done

    return LowerLoop(init, lambda outer: jnp.ones((), bool), step, reads_slope=False)
