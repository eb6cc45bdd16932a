"""F2SA and F3SA: bilevel optimisation by gradients alone, with a growing penalty."""

import optax

from jaxsolve import core
from jaxsolve.bilevel._double_loop import double_loop
from jaxsolve.bilevel._penalty import Numbers, check_positive, check_steps
from jaxsolve.bilevel._problem import BilevelProblem, check_problem
from jaxsolve.bilevel._single_loop import single_loop


@core.memoise
def f2sa(
    problem: BilevelProblem,
    optimizer: optax.GradientTransformation,
    stepsize: optax.ScalarOrSchedule,
    penalty: optax.ScalarOrSchedule,
    *,
    shadow_stepsize: optax.ScalarOrSchedule | None = None,
    steps: int = 10,
) -> core.Solver:
    r"""Minimises over both levels by gradients alone: no Hessian, no adjoint.

    Solves :math:`\min_x f(x, y^\star(x))` up to :math:`O(1 / \lambda)`, as the saddle
    point of :math:`f(x, y) + \lambda (g(x, y) - \min_z g(x, z))`. A round k is `steps`
    lower updates, then one of x:

    .. math::

        y &\leftarrow y - \alpha_k (f_y(x, y) / \lambda_k + g_y(x, y)) \\
        z &\leftarrow z - \gamma_k g_y(x, z) \\
        x &\leftarrow P_X(x + \mathrm{optimizer}(d_x)), \quad
        d_x = f_x(x, y) + \lambda_k (g_x(x, y) - g_x(x, z))

    Both trajectories are evaluated in one call, on the same data; z is in the state. A
    constant penalty converges to a stationary point of the penalised problem, where the
    hypergradient is of the order of :math:`1 / \lambda`; a growing one to a solution,
    slowly.

    Keep the time scales apart: until y and z have followed, the direction of x has a
    Lipschitz constant of the order of :math:`\lambda`, so that its steps should be a
    part of :math:`1 / \lambda_k`. With :math:`\lambda_k = \sqrt{k + 1}`, steps of x
    :math:`0.2 / \lambda_k` and :math:`\alpha = \gamma = 0.1` a quadratic problem was
    solved on which the steps of the paper's benchmark, of x and of z like
    :math:`k^{-4/7}` and :math:`\lambda_k` like :math:`k^{6/7}`, diverged.

    Args:
        problem: both objectives; an upper set is kept by projection, other parts are
            refused.
        optimizer: the step of x, any optax transformation, which sees the rounds only.
        stepsize: :math:`\alpha` of y, the paper's times :math:`\lambda`, below
            :math:`2 / (L_g + L_f / \lambda)`; a scalar or a schedule of the rounds.
        penalty: :math:`\lambda > 0`, a scalar or a schedule of the rounds. In single
            precision rounding keeps the error above about :math:`10^{-6} \lambda`: from
            1e3 on, give `run` a tolerance.
        shadow_stepsize: :math:`\gamma` of z, below :math:`2 / L_g`, in the same forms;
            the stepsize by default. Where they differ, noise of the two trajectories
            does not cancel.
        steps: lower updates in a round, a positive integer.

    Returns:
        A solver of ``Levels(upper, lower)``. Its error is the largest entry of
        :math:`(d_x, f_y + \lambda g_y(x, y), \lambda g_y(x, z))` before the last step
        of x, with an upper set :math:`x - P_X(x - d_x)` for :math:`d_x`; on minibatches
        it cannot stop a run. Its residual, in params and z, is the same; with a
        schedule of penalties it has none, and is not differentiable.

    Raises:
        ValueError: if the problem has a lower set or a constraint; on numbers that are
            not positive and finite.

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from jaxsolve import bilevel, core
        >>> upper = lambda levels, data: jnp.sum((levels.lower - data) ** 2)
        >>> lower = lambda levels, data: jnp.sum((levels.lower - 2 * levels.upper) ** 2)
        >>> problem = bilevel.BilevelProblem(upper, lower)
        >>> solver = bilevel.f2sa(problem, optax.sgd(0.01), 0.4, penalty=10.0)
        >>> start = bilevel.Levels(jnp.zeros(()), jnp.zeros(()))
        >>> print(f"{core.run(solver, start, (3.0, None)).params.upper:.2f}")
        1.50

    References:
        Kwon, Kwon, Wright and Nowak, `A Fully First-Order Method for Stochastic
        Bilevel Optimization <https://arxiv.org/abs/2301.10945>`_, 2023. Algorithm 1,
        (F2SA).
    """
    numbers = _numbers(problem, "f2sa", stepsize, shadow_stepsize, penalty)
    check_steps(steps)
    return double_loop(problem, optimizer, numbers, steps)


@core.memoise
def f3sa(
    problem: BilevelProblem,
    optimizer: optax.GradientTransformation,
    stepsize: optax.ScalarOrSchedule,
    penalty: optax.ScalarOrSchedule,
    momentum: optax.ScalarOrSchedule,
    *,
    shadow_stepsize: optax.ScalarOrSchedule | None = None,
) -> core.Solver:
    r"""F2SA in a single loop, with momentum that reduces variance.

    As :func:`f2sa`, but every update moves x, y and z at once, each along an estimate
    of its gradients. Each of the five, :math:`q` among :math:`f_x, f_y, g_y(x, y),
    g_y(x, z)` and :math:`g_x(x, y) - g_x(x, z)`, is estimated by

    .. math::

        e_k = q(x_k, y_k, z_k) + (1 - \eta_k) (e_{k-1} - q(x_{k-1}, y_{k-1}, z_{k-1}))

    where both values are of the same data, evaluated in one call (STORM);
    :math:`e_0 = q`. On fixed data all momenta take the same steps. The paper evaluates
    the gradients in x at the new y and z, which costs a second call; here all are taken
    at the old ones.

    Args:
        problem: both objectives; an upper set is kept by projection, other parts are
            refused.
        optimizer: the step of x, any optax transformation; see :func:`f2sa` for its
            size.
        stepsize: :math:`\alpha` of y as in :func:`f2sa`, a scalar or a schedule of the
            update count.
        penalty: :math:`\lambda > 0`, a scalar or a schedule of the update count.
        momentum: :math:`\eta` in (0, 1], the weight of the new sample, a scalar or a
            schedule of the update count; one is no momentum.
        shadow_stepsize: :math:`\gamma` of z, the stepsize by default.

    Returns:
        A solver of ``Levels(upper, lower)``. Its error is that of :func:`f2sa` at the
        last update, of the data alone, without momentum; on minibatches it cannot stop
        a run. Its residual is that of :func:`f2sa`.

    Raises:
        ValueError: if the problem has a lower set or a constraint; on numbers that are
            not positive and finite, a momentum outside of (0, 1].

    Examples:
        >>> import jax.numpy as jnp, optax
        >>> from jaxsolve import bilevel, core
        >>> upper = lambda levels, data: jnp.sum((levels.lower - data) ** 2)
        >>> lower = lambda levels, data: jnp.sum((levels.lower - 2 * levels.upper) ** 2)
        >>> problem = bilevel.BilevelProblem(upper, lower)
        >>> solver = bilevel.f3sa(problem, optax.sgd(0.005), 0.4, 10.0, momentum=0.5)
        >>> start = bilevel.Levels(jnp.zeros(()), jnp.zeros(()))
        >>> print(f"{core.run(solver, start, (3.0, None)).params.upper:.2f}")
        1.50

    References:
        Kwon, Kwon, Wright and Nowak, `A Fully First-Order Method for Stochastic
        Bilevel Optimization <https://arxiv.org/abs/2301.10945>`_, 2023. Algorithm 2,
        (F3SA).
    """
    numbers = _numbers(problem, "f3sa", stepsize, shadow_stepsize, penalty)
    check_positive("momentum", momentum, 1)
    return single_loop(problem, optimizer, numbers, momentum)


def _numbers(problem, name, stepsize, shadow_stepsize, penalty):
    check_problem(problem, name, takes=("upper_set",))
    shadow_stepsize = stepsize if shadow_stepsize is None else shadow_stepsize
    core.check_stepsize(stepsize)
    core.check_stepsize(shadow_stepsize)
    check_positive("penalty", penalty)
    return Numbers(stepsize, shadow_stepsize, penalty)
