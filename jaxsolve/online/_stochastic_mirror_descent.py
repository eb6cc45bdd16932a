"""Composite stochastic mirror descent, whose last iterate is the answer."""

import optax

from jaxsolve import core
from jaxsolve.online._mirror_descent import mirror_descent
from jaxsolve.prox import MirrorMap


@core.memoise
def stochastic_mirror_descent(
    fun: core.Objective,
    mirror_map: MirrorMap,
    stepsize: optax.ScalarOrSchedule,
) -> core.Solver:
    r"""Minimises an expectation plus a second part; the last iterate is the answer.

    Solves :math:`\min_{x \in C} E f(x) + h(x)` from gradients on samples. One update
    computes

    .. math::

        g &= \nabla f_t(x_t) \\
        x_{t+1} &= \arg\min_{x \in C} h(x) + \langle g, x \rangle
            + D(x, x_t) / \eta_t

    which is :func:`mirror_descent` without hints. What makes the last iterate good is
    the stepsize. Let :math:`f` be :math:`L`-smooth up to a part that is Lipschitz, with
    noise of size :math:`\sigma`, T the rounds, t from 1, and :math:`\eta` a number of
    the order of the distance to the solution over the size of gradients:

    * convex: :math:`\min(1 / (2 L), \eta / \sqrt t)`, the gap falls like
      :math:`\log T / \sqrt T`;
    * convex, not smooth, T known: :math:`\eta (T - t + 1) / T^{3/2}`, and the gap falls
      like :math:`1 / \sqrt T`, which is the best there is;
    * :math:`f` strongly convex relative to D by :math:`\mu`, with :math:`\kappa = L /
      \mu`: :math:`1 / (\mu (t + 2 \kappa))`; if it is h instead, :math:`2 / (\mu (t + 4
      \kappa))`: about :math:`1 / T`. The two offsets are of medium confidence;
    * noise of which only moments up to p exist: :math:`\eta / t^{1/p}` and
      :func:`power_map`, about :math:`T^{-(1 - 1/p)}`.

    A schedule sees the count of updates, which is :math:`t - 1`. Those that know T must
    be run for T updates, no fewer.

    Args:
        fun: :math:`f_t`, as ``fun(params, data) -> scalar``, convex, on the sample or
            minibatch ``data``: of `jaxsolve.scan`, or of `core.minibatch`.
        mirror_map: the set, its distance and h: :func:`composite_map`,
            :func:`power_map`, or one of `prox` where h is zero.
        stepsize: :math:`\eta_t`, a number or a schedule of the update count. Zero is
            a step that goes nowhere; one below zero is skipped.

    Returns:
        A solver, whose error, residual and ``skipped`` are those of
        :func:`mirror_descent`: on samples the error cannot stop a run. The solution of
        a whole data set is differentiated by the residual on all data, a noisy path is
        not worth it.

    Raises:
        ValueError: as :func:`mirror_descent`.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import online, prox
        >>> fun = lambda x, sample: jnp.sum((x - sample) ** 2) / 2
        >>> lasso = online.composite_map(prox.l1(1.0))
        >>> decay = lambda count: 1 / (jnp.float32(count) + 1)
        >>> solver = online.stochastic_mirror_descent(fun, lasso, decay)
        >>> noise = jax.random.normal(jax.random.key(0), (4000, 2))
        >>> samples = jnp.array([[3.0, 0.5]]) + noise
        >>> print(jnp.round(jaxsolve.scan(solver, jnp.zeros(2), samples).params, 1))
        [2. 0.]

    References:
        Liu and Zhou, `Revisiting the Last-Iterate Convergence of Stochastic Gradient
        Methods <https://arxiv.org/abs/2312.08531>`_, 2024.
    """
    return mirror_descent(fun, mirror_map, stepsize, optimistic=False)
