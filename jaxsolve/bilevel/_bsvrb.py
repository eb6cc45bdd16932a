"""BSVRB: bilevel problems of many lower blocks, a few of which are sampled."""

import chex
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.bilevel._block_machine import machine
from jaxsolve.bilevel._blocks import BlockSampling, check_sampling
from jaxsolve.bilevel._msvr import Estimator, check_estimators, msvr, storm
from jaxsolve.bilevel._penalty import check_positive
from jaxsolve.bilevel._problem import BilevelProblem, check_problem
from jaxsolve.bilevel._tracks import adjoints, hessians

ALL = BlockSampling()
ESTIMATORS = (msvr(0.1), storm(0.1))


@core.memoise
def bsvrb_v1(
    problem: BilevelProblem,
    optimizer: optax.GradientTransformation,
    lower_stepsize: optax.ScalarOrSchedule,
    floor: chex.Numeric,
    *,
    sampling: BlockSampling = ALL,
    estimators: tuple[Estimator, Estimator] = ESTIMATORS,
    key: chex.PRNGKey | None = None,
) -> core.Solver:
    r"""Solves bilevel problems of many small lower blocks, by their Hessians.

    Solves :math:`\min_x \tfrac{1}{m} \sum_i f_i(x, y_i(x))` with :math:`y_i(x)` the
    minimiser of :math:`g_i(x, \cdot)`, each strongly convex. The problem's functions
    are those of *one* block, ``upper(Levels(x, y_i), data_i)``; all leaves of the lower
    params, and of the data, have a leading axis of :math:`m` blocks, and
    ``Levels(x, y_i)`` has the rows of block i. From the iterate, the estimates
    :math:`S_i` of the lower slopes, :math:`\hat H_i` of the Hessians and :math:`Z` of
    the hypergradient, one update draws :math:`I` blocks, and of these computes, now and
    at the point before, with the same examples,

    .. math::

        G_i &= f_{i,x} - J_i^\top \hat H_i^{-1} f_{i,y} \\
        S_i^+ &= \mathrm{msvr}(S_i; g_{i,y}) \\
        \hat H_i^+ &= P_{\succeq \mu}(\mathrm{msvr}(\hat H_i; g_{i,yy})) \\
        Z^+ &= \mathrm{storm}(Z; \operatorname{mean}_i G_i) \\
        x^+ &= P_X(x + \mathrm{optimizer}(Z^+))

    with the estimators :func:`msvr` and :func:`storm`; :math:`G_i` has the
    :math:`\hat H_i` of before. Of *all* blocks, it computes

    .. math::

        y_i^+ = y_i - \tau S_i^+

    The first :math:`\lceil m / I \rceil` updates visit every block once, in turn, for
    first estimates of everything, and move nothing. To reach a gradient of
    :math:`\epsilon` it takes :math:`O(m \epsilon^{-3} / (I \sqrt I))` updates: the
    speed-up in I is more than linear. Blocks and examples are drawn here, not by
    :func:`jaxsolve.core.minibatch`. The axis of blocks may be sharded: put params and
    data on a mesh, or, where it does not divide the axis, constrain them inside of a
    jit. Train in float32: no master copy is kept of leaves of lower precision.

    Args:
        problem: of one block; an upper set is honoured.
        optimizer: the step of the upper level, any optax transformation.
        lower_stepsize: :math:`0 < \tau < 1 / L` for the lower smoothness, a scalar or a
            schedule of the moves; where few of the blocks are sampled,
            :math:`\gamma \tau L` with the :math:`\gamma` of msvr must be about 1/2 at
            most, or blocks that are rarely sampled diverge.
        floor: :math:`\mu > 0`, least eigenvalue of the estimates, at most that of the
            Hessians, or the hypergradient is biased.
        sampling: how many blocks, how many examples of each, and whether the blocks
            that are not drawn stay behind: see :class:`BlockSampling`.
        estimators: of what belongs to blocks, and of the hypergradient.
        key: a key of `jax.random`, if blocks or examples are drawn.

    Returns:
        A solver. Its error is the largest entry of :math:`Z^+` (projected), of
        :math:`g_{i,y}` and of :math:`g_{i,yy} w_i - f_{i,y}` of each block at its last
        visit, with :math:`w_i = \hat H_i^{-1} f_{i,y}`; infinite until all were visited
        by moves. It is zero at a solution if all blocks and examples are used; with
        sampling it seldom stops a run. Its residual is the mean hypergradient and the
        slope of each block.

    Raises:
        ValueError: if the leading axes of the lower params and data differ, sizes
            exceed them, or a number is out of its range.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxsolve import bilevel, core
        >>> f = lambda levels, target: jnp.sum((levels.lower - target) ** 2)
        >>> g = lambda levels, data: jnp.sum((levels.lower - levels.upper) ** 2)
        >>> problem = bilevel.BilevelProblem(f, g)
        >>> solver = bilevel.bsvrb_v1(problem, optax.sgd(0.2), 0.3, 1.0)
        >>> levels = bilevel.Levels(jnp.zeros(2), jnp.zeros((3, 2)))
        >>> targets = jnp.arange(6.0).reshape(3, 2)
        >>> print(core.run(solver, levels, (targets, None)).params.upper.round(2))
        [2. 3.]

    References:
        Hu, Qiu, Guo, Zhang and Yang, `Blockwise Stochastic Variance-Reduced Methods
        with Parallel Speedup for Multi-Block Bilevel Optimization
        <https://arxiv.org/abs/2305.18730>`_, 2023, Algorithm 1. The schedules of its
        theory are not built in.
    """
    _check("bsvrb_v1", problem, lower_stepsize, sampling, estimators, key)
    check_positive("floor", floor)
    memory = hessians(floor, estimators[0])
    return machine(
        problem, optimizer, lower_stepsize, memory, sampling, estimators, key
    )


@core.memoise
def bsvrb_v2(
    problem: BilevelProblem,
    optimizer: optax.GradientTransformation,
    lower_stepsize: optax.ScalarOrSchedule,
    adjoint_stepsize: optax.ScalarOrSchedule,
    *,
    sampling: BlockSampling = ALL,
    estimators: tuple[Estimator, Estimator] = ESTIMATORS,
    radius: chex.Numeric = jnp.inf,
    key: chex.PRNGKey | None = None,
) -> core.Solver:
    r"""Solves bilevel problems of many lower blocks of many unknowns, without Hessians.

    As :func:`bsvrb_v1`, where the problem, the sampling and the other lines are
    described, but it follows :math:`v_i = H_i^{-1} f_{i,y}` by descent, with one
    Hessian-vector product for each sampled block:

    .. math::

        G_i &= f_{i,x} - J_i^\top v_i \\
        U_i^+ &= \mathrm{msvr}(U_i; H_i v_i - f_{i,y}) \\
        v_i^+ &= P_{\|v\| \le C}(v_i - \tau_v U_i^+)

    the last of all blocks, from :math:`v = 0` at first. The correction of msvr matters
    more than in v1: runs that converge with it diverge without it.

    Args:
        problem: of one block; an upper set is honoured.
        optimizer: the step of the upper level, any optax transformation.
        lower_stepsize: :math:`\tau`, as in :func:`bsvrb_v1`.
        adjoint_stepsize: :math:`\tau_v`, within the same bounds.
        sampling: as in :func:`bsvrb_v1`.
        estimators: likewise.
        radius: :math:`C > 0`, at least the norm of every :math:`v_i`.
        key: likewise.

    Returns:
        A solver. Its error is the largest entry of :math:`Z^+` (projected), of
        :math:`g_{i,y}` and of :math:`H_i v_i - f_{i,y}` of each block at its last
        visit; what it can stop, and its residual, are those of :func:`bsvrb_v1`.

    Raises:
        ValueError: as :func:`bsvrb_v1`.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxsolve import bilevel, core
        >>> f = lambda levels, target: jnp.sum((levels.lower - target) ** 2)
        >>> g = lambda levels, data: jnp.sum((levels.lower - levels.upper) ** 2)
        >>> problem = bilevel.BilevelProblem(f, g)
        >>> few = bilevel.BlockSampling(blocks=2)
        >>> numbers = dict(sampling=few, key=jax.random.key(0))
        >>> solver = bilevel.bsvrb_v2(problem, optax.sgd(0.02), 0.1, 0.1, **numbers)
        >>> levels = bilevel.Levels(jnp.zeros(2), jnp.zeros((3, 2)))
        >>> targets = jnp.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
        >>> print(core.run(solver, levels, (targets, None)).params.upper.round(2))
        [1. 2.]

    References:
        Hu, Qiu, Guo, Zhang and Yang, `Blockwise Stochastic Variance-Reduced Methods
        with Parallel Speedup for Multi-Block Bilevel Optimization
        <https://arxiv.org/abs/2305.18730>`_, 2023, Algorithm 2.
    """
    _check("bsvrb_v2", problem, lower_stepsize, sampling, estimators, key)
    core.check_stepsize(adjoint_stepsize)
    if core.is_concrete(radius) and not radius > 0:
        raise ValueError(f"radius must be positive, got {radius!r}.")
    tau = core.as_schedule(adjoint_stepsize)
    memory = adjoints(tau, radius, estimators[0], sampling.lazy)
    return machine(
        problem, optimizer, lower_stepsize, memory, sampling, estimators, key
    )


def _check(name, problem, stepsize, sampling, estimators, key):
    check_problem(problem, name, takes=("upper_set",))
    core.check_stepsize(stepsize)
    check_sampling(sampling, key)
    check_estimators(estimators)
