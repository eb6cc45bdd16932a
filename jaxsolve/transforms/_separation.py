"""Perceptrons: solvers that separate data, and gradient descent as one of them."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.core import Status, as_status


class SeparationState(NamedTuple):
    """State of the perceptrons."""

    count: chex.Array  # (), int32: updates taken.
    error: chex.Array  # (), real: margins at the start of the update not above zero.
    status: chex.Array  # (), int32: running, or diverged.
    fine: chex.Array  # (n,), 32 bits or more: params before they were rounded.
    key: chex.PRNGKey | None  # (): for the next choice, where there is one.


@core.memoise
def logistic_perceptron(
    margins: Callable[[core.Params, core.Data], chex.Array],
    stepsize: optax.ScalarOrSchedule,
    *,
    normalize: bool = True,
) -> core.Solver:
    r"""Make a solver that separates data by gradient descent on the logistic loss.

    Finds :math:`\theta` with all margins :math:`m_i(\theta) > 0`. With the gradients
    :math:`z_i` of the margins and :math:`p_i = 1 / (1 + e^{m_i})` one update computes

    .. math::

        \theta^+ = \theta + \gamma \frac{\sum_i p_i z_i}{\sum_i p_i}

    which is Normalized LR+GD, or LR+GD, with :math:`n` in place of :math:`\sum_i p_i`,
    if not normalized. For linear margins, separable by :math:`\mu`, with :math:`\|z_i\|
    \le R` and from :math:`\theta = 0`, the first takes at most :math:`R^2 / \mu^2 + 2
    \log(2 n - 1) / (\gamma \mu^2)` updates; as :math:`\gamma` grows, :math:`\theta /
    \gamma` of the second tends to `batch_perceptron`. Weights are found in the log
    domain, so none underflow.

    Args:
        margins: m, as ``margins(params, data) -> (n,)``, positive where a sample is
            classified correctly: for labels of ±1, ``y * (a @ params)``.
        stepsize: :math:`\gamma > 0`, a number or a schedule: large ones do best.
        normalize: whether weights sum to one.

    Returns:
        A solver. Its error is the number of margins that are not above zero, for the
        params at the start of the update; at zero it stays, so the last update of a run
        only finds that nothing is left to do. It has no derivative: solutions are an
        open set, and which one is found says nothing.

    Raises:
        ValueError: on a stepsize that is not positive; while tracing, if margins are
            not a vector.

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import transforms
        >>> points = jnp.array([[0.5, -1.0], [0.5, 1.0]])  # times their labels
        >>> margins = lambda x, points: points @ x
        >>> solver = transforms.logistic_perceptron(margins, 10.0)
        >>> print(jaxsolve.run(solver, jnp.zeros(2), points).params)
        [5. 0.]

    References:
        Tyurin, `From Logistic Regression to the Perceptron Algorithm: Exploring
        Gradient Descent with Large Step Sizes <https://arxiv.org/abs/2412.08424>`_,
        2025.
    """
    core.check_stepsize(stepsize)
    schedule = core.as_schedule(stepsize)

    def weigh(m, wrong, count, key):
        del wrong, key
        logs = jax.nn.log_sigmoid(-m)
        weights = jax.nn.softmax(logs) if normalize else jnp.exp(logs) / m.size
        return jnp.asarray(schedule(count), m.dtype) * weights

    return _separate(margins, weigh)


@core.memoise
def batch_perceptron(
    margins: Callable[[core.Params, core.Data], chex.Array],
    *,
    normalize: bool = False,
) -> core.Solver:
    r"""Make the perceptron that learns from all its errors at once.

    Finds :math:`\theta` with all margins :math:`m_i(\theta) > 0`. With the gradients
    :math:`z_i` of the margins and the set S of those that are not above zero, one
    update computes

    .. math::

        \theta^+ = \theta + \frac{1}{n} \sum_{i \in S} z_i

    and half of that where all margins are zero, as at :math:`\theta = 0`; if
    normalized, :math:`|S|` is in place of :math:`n`, and nothing is halved. It is what
    gradient descent on the logistic loss tends to as steps grow; see
    `logistic_perceptron`.

    Args:
        margins: m, as ``margins(params, data) -> (n,)``, positive where a sample is
            classified correctly.
        normalize: whether weights sum to one.

    Returns:
        A solver, with the error of `logistic_perceptron`, and no derivative.

    Raises:
        ValueError: while tracing, if margins are not a vector.

    References:
        Tyurin, `From Logistic Regression to the Perceptron Algorithm: Exploring
        Gradient Descent with Large Step Sizes <https://arxiv.org/abs/2412.08424>`_,
        2025.
    """

    def weigh(m, wrong, count, key):
        del count, key
        if normalize:
            return wrong / jnp.maximum(jnp.sum(wrong), 1)
        return wrong / m.size * jnp.where(jnp.all(m == 0), 0.5, 1).astype(m.dtype)

    return _separate(margins, weigh)


@core.memoise
def perceptron(
    margins: Callable[[core.Params, core.Data], chex.Array],
    *,
    key: chex.PRNGKey | None = None,
) -> core.Solver:
    r"""Make Rosenblatt's perceptron, which learns from one error at a time.

    Finds :math:`\theta` with all margins :math:`m_i(\theta) > 0`. One update draws
    :math:`j` among those that are not above zero, and computes

    .. math::

        \theta^+ = \theta + z_j

    for its gradient :math:`z_j`. For linear margins, separable by :math:`\mu` and with
    :math:`\|z_i\| \le R`, it takes at most :math:`R^2 / \mu^2` updates from zero.

    Args:
        margins: m, as ``margins(params, data) -> (n,)``, positive where a sample is
            classified correctly.
        key: a key of `jax.random`; ``jax.random.key(0)`` by default.

    Returns:
        A solver, with the error of `logistic_perceptron`, and no derivative.

    Raises:
        ValueError: while tracing, if margins are not a vector.

    References:
        Novikoff, `On convergence proofs on perceptrons
        <https://apps.dtic.mil/sti/citations/AD0298258>`_, 1962.
    """

    def weigh(m, wrong, count, key):
        del count
        scores = jnp.where(wrong > 0, jax.random.uniform(key, m.shape, m.dtype), -1)
        return jax.nn.one_hot(jnp.argmax(scores), m.size, dtype=m.dtype)

    return _separate(margins, weigh, lambda: jax.random.key(0) if key is None else key)


def _separate(margins, weigh, new_key=lambda: None):
    """A solver that adds gradients of margins, weighed, until all are positive."""

    def init(params, data=None):
        del data
        inf = core.real_scalar(jnp.inf, params)
        count, running = jnp.zeros((), jnp.int32), as_status(Status.RUNNING)
        return SeparationState(count, inf, running, core.ravel(params)[0], new_key())

    def update(params, state, data=None):
        x, unravel = core.ravel_fine(params, state.fine)
        m, pull_back = jax.vjp(lambda x: margins(x, data), params)
        if m.ndim != 1:
            raise ValueError(
                f"margins must return a vector, one of each sample, got shape {m.shape}"
            )
        key, last = state.key, state.key
        if key is not None:
            key, last = jax.random.split(key)
        wide = m.astype(x.dtype)
        wrong = (wide <= 0).astype(x.dtype)
        weights = weigh(wide, wrong, state.count, last)
        step, _ = core.ravel(pull_back(weights.astype(m.dtype))[0])
        finite = core.all_finite(wide)
        new = x + jnp.where(jnp.any(wrong > 0), step.astype(x.dtype), 0)
        sound = finite & core.all_finite(new)
        new = jnp.where(sound, new, x)
        status = jnp.where(sound, state.status, as_status(Status.DIVERGED))
        error = jnp.where(finite, jnp.sum(wrong), state.error)
        new_state = SeparationState(state.count + 1, error, status, new, key)
        return unravel(new), new_state

    return core.Solver(init, update)
