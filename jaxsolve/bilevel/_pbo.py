"""PBO: the penalty method with proximal centres, in two loops and in one."""

import chex
import optax

from jaxsolve import core
from jaxsolve.bilevel._double_loop import double_loop
from jaxsolve.bilevel._penalty import Numbers, check_positive, check_steps
from jaxsolve.bilevel._problem import BilevelProblem, check_problem
from jaxsolve.bilevel._single_loop import single_loop


@core.memoise
def pbo(
    problem: BilevelProblem,
    optimizer: optax.GradientTransformation,
    stepsize: optax.ScalarOrSchedule,
    penalty: optax.ScalarOrSchedule,
    rho: chex.Numeric,
    damping: chex.Numeric = 1.0,
    *,
    steps: int = 10,
) -> core.Solver:
    r"""Minimises over both levels by gradients alone, with proximal inner problems.

    Solves :math:`\min_{x \in X} \psi(x)` with :math:`\psi(x)` the least :math:`f(x, y)`
    over :math:`y \in \operatorname{argmin}_{y \in Y} g(x, y)`, of which there may be
    many, and g need not be convex. With :math:`\sigma = 1 / \lambda` it descends on

    .. math::

        \psi_\sigma(x) = \min_{y \in Y} \max_{z \in Y}
        f(x, y) + (g(x, y) - g(x, z)) / \sigma

    A round k is `steps` updates of :math:`u` and :math:`v`, from :math:`u = y` and
    :math:`v = z`,

    .. math::

        u &\leftarrow P_Y(u - \gamma (\sigma f_y(x, u) + g_y(x, u) + (u - y) / \rho)) \\
        v &\leftarrow P_Y(v - \gamma (g_y(x, v) + (v - z) / \rho))

    after the last of which the centres follow, and one update of x at these:

    .. math::

        y &\leftarrow (1 - \beta) y + \beta u, \quad
        z \leftarrow (1 - \beta) z + \beta v \\
        x &\leftarrow P_X(x + \mathrm{optimizer}(d_x)), \quad
        d_x = f_x(x, y) + (g_x(x, y) - g_x(x, z)) / \sigma

    Where a proximal error bound holds, as for a strongly convex g, :math:`\psi_\sigma`
    and its gradient are within :math:`O(\sigma)` of :math:`\psi` and its own. Without
    it they need not be near: with :math:`f = x^2 + y^2`, :math:`g = x y` on
    :math:`[-1, 1]` the slope at zero is :math:`1 / \sigma`. In the limit of a large
    :math:`\rho`, with :math:`\beta = 1`, this is :func:`f2sa`.

    The order of the steps within a round is reconstructed from the paper's abstract and
    reviews, and checked to converge.

    Args:
        problem: both objectives; upper and lower sets are kept by projection, also of a
            start outside; other parts are refused.
        optimizer: the step of x, any optax transformation, which sees the rounds only.
            A step above the order of :math:`\sigma` may run ahead of y and z, whose
            lag :math:`d_x` multiplies by :math:`1 / \sigma`.
        stepsize: :math:`\gamma`, at most :math:`1 / (L_g + \sigma L_f + 1 / \rho)`, a
            scalar or a schedule of the rounds.
        penalty: :math:`\lambda = 1 / \sigma > 0`, a scalar or a schedule of the rounds.
            In single precision rounding keeps the error above about :math:`10^{-6}
            \lambda`: from 1e3 on, give `run` a tolerance.
        rho: :math:`\rho > 0`; for a nonconvex g :math:`1 / \rho` above :math:`2 (L_g +
            \sigma L_f)`, so that the inner problems are convex.
        damping: :math:`\beta` in (0, 1].
        steps: updates of u and v in a round, a positive integer.

    Returns:
        A solver of ``Levels(upper, lower)``. Its error is the largest entry of
        :math:`(d_x, f_y + \lambda g_y(x, y), \lambda g_y(x, z))` before the last step
        of x, where there are sets how far a unit step back moves x, y or z; on
        minibatches it cannot stop a run. Its residual, in params and z, is the same;
        with a schedule of penalties it has none, and is not differentiable.

    Raises:
        ValueError: if the problem has a constraint; on numbers that are not positive
            and finite, a damping outside of (0, 1].

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from jaxsolve import bilevel, core, prox
        >>> upper = lambda levels, data: jnp.sum((levels.lower - data) ** 2)
        >>> lower = lambda levels, data: jnp.sum((levels.lower - 2 * levels.upper) ** 2)
        >>> problem = bilevel.BilevelProblem(upper, lower, prox.box(-1.0, 1.0))
        >>> solver = bilevel.pbo(problem, optax.sgd(0.01), 0.1, penalty=10.0, rho=0.2)
        >>> start = bilevel.Levels(jnp.zeros(()), jnp.zeros(()))
        >>> print(f"{core.run(solver, start, (3.0, None)).params.upper:.2f}")
        1.00

    References:
        Kwon, Kwon, Wright and Nowak, `On Penalty Methods for Nonconvex Bilevel
        Optimization and First-Order Stochastic Approximation
        <https://arxiv.org/abs/2309.01753>`_, 2023. Algorithm 1.
    """
    numbers = _numbers(problem, "pbo", stepsize, penalty, rho, damping)
    check_steps(steps)
    return double_loop(problem, optimizer, numbers, steps)


@core.memoise
def pbo_momentum(
    problem: BilevelProblem,
    optimizer: optax.GradientTransformation,
    stepsize: optax.ScalarOrSchedule,
    penalty: optax.ScalarOrSchedule,
    rho: chex.Numeric,
    momentum: optax.ScalarOrSchedule,
    damping: chex.Numeric = 1.0,
) -> core.Solver:
    r"""PBO in a single loop, with momentum that reduces variance.

    As :func:`pbo`, but every update moves x, u, v and both centres at once: the inner
    iterates go on from where they were, and

    .. math::

        u^+ &= P_Y(u - \gamma (e_u + (u - y) / \rho)), \quad
        v^+ = P_Y(v - \gamma (e_v + (v - z) / \rho)) \\
        y^+ &= (1 - \beta) y + \beta u^+, \quad z^+ = (1 - \beta) z + \beta v^+ \\
        x^+ &= P_X(x + \mathrm{optimizer}(e_x))

    where :math:`e_u, e_v, e_x` are estimates of :math:`\sigma f_y(x, u) + g_y(x, u)`,
    :math:`g_y(x, v)` and :math:`f_x(x, u) + (g_x(x, u) - g_x(x, v)) / \sigma`, each
    carried over from the previous point by STORM:

    .. math::

        e_k = q_k + (1 - \eta_k) (e_{k-1} - q_{k-1})

    with both values of the same data, evaluated in one call, and :math:`e_0 = q`. On
    fixed data all momenta take the same steps. In the limit of a large :math:`\rho`,
    with :math:`\beta = 1`, this is :func:`f3sa`. Where each gradient is evaluated is
    reconstructed from the paper's abstract and reviews, and checked to converge.

    Args:
        problem: both objectives; upper and lower sets are kept by projection, other
            parts are refused.
        optimizer: the step of x, any optax transformation; see :func:`pbo` for its
            size.
        stepsize: :math:`\gamma` as in :func:`pbo`, a scalar or a schedule of the update
            count.
        penalty: :math:`\lambda = 1 / \sigma > 0`, a scalar or a schedule of the update
            count.
        rho: :math:`\rho > 0` as in :func:`pbo`.
        momentum: :math:`\eta` in (0, 1], the weight of the new sample, a scalar or a
            schedule of the update count; one is no momentum.
        damping: :math:`\beta` in (0, 1].

    Returns:
        A solver of ``Levels(upper, lower)``. Its error is that of :func:`pbo` at
        (x, u, v), of the data alone, without momentum, and of :math:`\lambda (u - y) /
        \rho` and :math:`\lambda (v - z) / \rho`; on minibatches it cannot stop a run.
        Its residual is that of :func:`pbo`.

    Raises:
        ValueError: if the problem has a constraint; on numbers that are not positive
            and finite, a momentum or a damping outside of (0, 1].

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from jaxsolve import bilevel, core
        >>> upper = lambda levels, data: jnp.sum((levels.lower - data) ** 2)
        >>> lower = lambda levels, data: jnp.sum((levels.lower - 2 * levels.upper) ** 2)
        >>> problem = bilevel.BilevelProblem(upper, lower)
        >>> numbers = dict(stepsize=0.1, penalty=10.0, rho=0.2, momentum=0.5)
        >>> solver = bilevel.pbo_momentum(problem, optax.sgd(0.002), **numbers)
        >>> start = bilevel.Levels(jnp.zeros(()), jnp.zeros(()))
        >>> print(f"{core.run(solver, start, (3.0, None)).params.upper:.2f}")
        1.50

    References:
        Kwon, Kwon, Wright and Nowak, `On Penalty Methods for Nonconvex Bilevel
        Optimization and First-Order Stochastic Approximation
        <https://arxiv.org/abs/2309.01753>`_, 2023. Algorithm 2.
    """
    numbers = _numbers(problem, "pbo_momentum", stepsize, penalty, rho, damping)
    check_positive("momentum", momentum, 1)
    return single_loop(problem, optimizer, numbers, momentum)


def _numbers(problem, name, stepsize, penalty, rho, damping):
    check_problem(problem, name, takes=("upper_set", "lower_set"))
    core.check_stepsize(stepsize)
    check_positive("penalty", penalty)
    if rho is None or callable(rho) or callable(damping):
        raise ValueError("rho and damping must be numbers, not schedules.")
    check_positive("rho", rho)
    check_positive("damping", damping, 1)
    return Numbers(stepsize, stepsize, penalty, rho, damping)
