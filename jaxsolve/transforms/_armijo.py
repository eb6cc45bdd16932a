"""The stochastic Armijo line search."""

import inspect
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from jaxsolve import core
from jaxsolve.transforms._scaled import dot, scaled
from jaxsolve.transforms._wide import wide


class ScaleByArmijoState(NamedTuple):
    """State of the stochastic Armijo line search."""

    stepsize: chex.Array  # (), real: the last that was tried.
    value: chex.Array  # (), real: the objective there, on the batch of that update.
    trials: chex.Array  # (), int32: how many were tried in the last update.
    failed: chex.Array  # (), bool: whether none of them was accepted.


def scale_by_armijo(
    decrease: chex.Numeric = 0.1,
    max_stepsize: chex.Numeric = 1.0,
    *,
    shrink: chex.Numeric = 0.8,
    growth: chex.Numeric = 1.5,
    goldstein: bool = False,
    max_trials: int = 40,
) -> optax.GradientTransformationExtraArgs:
    r"""Scales updates by a stepsize that lowers the objective of their own batch.

    For the value :math:`f` and the gradient :math:`g` of a batch at :math:`x`, and the
    incoming updates :math:`d`, tries from :math:`\eta = \min(\gamma \eta_{-1},
    \bar\eta)` on, where :math:`\eta_{-1}` is the last one, :math:`\beta \eta, \beta^2
    \eta, \dots` until

    .. math::

        f(x + \eta d) \le f(x) + c \eta \langle g, d \rangle

    With ``goldstein`` a stepsize that is too short, :math:`f(x + \eta d) < f(x) + (1 -
    c) \eta \langle g, d \rangle`, grows by :math:`\gamma` meanwhile.

    The options to reset of Vaswani et al. are values of :math:`\gamma`: 1 keeps the
    stepsize (0), infinity begins at the largest (1), :math:`\tau^{b/n}` for batches of
    b of n samples, usually with :math:`\tau = 2`, lets it grow slowly (2).

    Beside ``optax.scale_by_backtracking_linesearch`` it has Goldstein's condition, and
    a search that fails is harmless: it gives a step of zero, and the next one begins
    where it left off, or, where value or gradient of the batch were not finite, where
    it began.

    Args:
        decrease: :math:`c`, in (0, 1); below one half with `goldstein`. JAXopt's
            aggressiveness is :math:`1 - c`.
        max_stepsize: :math:`\bar\eta > 0`, which is also the first.
        shrink: :math:`\beta`, in (0, 1).
        growth: :math:`\gamma`, at least 1; above and finite with `goldstein`.
        goldstein: whether a stepsize must not be too short either.
        max_trials: how many stepsizes are tried in one update.

    Returns:
        A transformation that needs params and the extra arguments ``value``, ``grad``
        and ``value_fn``, as ``value_fn(params) -> scalar``, on one batch; further extra
        arguments that ``value_fn`` names are passed to it. Its updates must descend,
        which those of ``optax.scale(-1)`` do.

    Raises:
        ValueError: if a constant is out of its range; in update, without params.

    Examples:
        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxsolve import transforms
        >>> transform = optax.chain(optax.scale(-1.0), transforms.scale_by_armijo())
        >>> fun, x = lambda x: jnp.sum(x**2), jnp.array([3.0, 4.0])
        >>> value, grad = jax.value_and_grad(fun)(x)
        >>> extra = dict(value=value, grad=grad, value_fn=fun)
        >>> step, state = transform.update(grad, transform.init(x), x, **extra)
        >>> print(f"{state[1].stepsize:.1f} {state[1].value:.2f}")
        0.8 9.00

    References:
        Vaswani, Mishkin, Laradji, Schmidt, Gidel and Lacoste-Julien, `Painless
        Stochastic Gradient: Interpolation, Line-Search, and Convergence Rates
        <https://arxiv.org/abs/1905.09997>`_, 2019. Algorithms 1 and 2; the first trial
        is the reset stepsize itself, as in the authors' code.
    """
    core.check_number("decrease", decrease, 0, 0.5 if goldstein else 1)
    core.check_number("shrink", shrink, 0, 1)
    core.check_number("max_stepsize", max_stepsize)
    core.check_number("growth", growth, 1, closed="" if goldstein else "[]")

    def init(params):
        inf, no = core.real_scalar(jnp.inf, params), jnp.zeros((), bool)
        first = core.real_scalar(max_stepsize, params)
        return ScaleByArmijoState(first, inf, jnp.zeros((), jnp.int32), no)

    def update(updates, state, params=None, *, value, grad, value_fn, **extra):
        if params is None:
            raise ValueError(
                "the line search starts from the params: call "
                "`transform.update(updates, state, params, ...)`."
            )
        real = lambda number: core.real_scalar(number, params)
        fun = _given(value_fn, extra)
        start = real(value)
        (g, rise), (u, run) = scaled(grad, start.dtype), scaled(updates, start.dtype)
        slope = dot(g, u, start.dtype)  # in units: beside their product it may vanish
        c, top, grow = real(decrease), real(max_stepsize), real(growth)

        def trial(search):
            eta, _, _, trials = search
            new = real(fun(core.axpy(eta, updates, params)))
            fall = eta * rise * slope * run
            enough = new <= start + c * fall
            short = enough & (new < start + (1 - c) * fall) & (eta < top)
            short = short if goldstein else jnp.zeros((), bool)
            done = enough & ~short
            longer = jnp.minimum(grow * eta, top)
            next_eta = jnp.where(short, longer, real(shrink) * eta)
            done_or_last = done | (trials + 1 >= max_trials)
            return jnp.where(done_or_last, eta, next_eta), new, done, trials + 1

        sound = jnp.isfinite(start) & jnp.isfinite(slope) & (slope < 0)

        def going_on(search):
            _, _, done, trials = search
            return sound & ~done & (trials < max_trials)

        last = state.stepsize.astype(start.dtype)
        first = jnp.minimum(grow * last, top)
        none = jnp.zeros((), jnp.int32)
        search = first, start, jnp.zeros((), bool), none
        eta, new, done, trials = jax.lax.while_loop(going_on, trial, search)
        steps = jax.tree.map(
            lambda u: jnp.where(done, eta.astype(u.dtype) * u, 0), updates
        )
        still = sound & jnp.isfinite(eta) & (eta > 0)
        stepsize = jnp.where(still, eta, last).astype(state.stepsize.dtype)
        new = jnp.where(done, new, start).astype(state.value.dtype)
        return steps, ScaleByArmijoState(stepsize, new, trials, ~done)

    return optax.GradientTransformationExtraArgs(init, update)


def armijo_sgd(
    decrease: chex.Numeric = 0.1,
    max_stepsize: chex.Numeric = 1.0,
    *,
    shrink: chex.Numeric = 0.8,
    growth: chex.Numeric = 1.5,
    goldstein: bool = False,
    max_trials: int = 40,
    momentum: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
    r"""Stochastic gradient descent with an Armijo line search, with momentum or not.

    With the stepsize :math:`\eta` of :func:`scale_by_armijo` along :math:`-g`, computes

    .. math::

        x^+ = x - \eta g + \mu (x - x^-)

    Args:
        decrease: :math:`c`; see :func:`scale_by_armijo`, also for the next five.
        max_stepsize: the largest stepsize, and the first.
        shrink: the factor of the search.
        growth: by which factor the stepsize grows between searches.
        goldstein: whether a stepsize must not be too short either.
        max_trials: how many stepsizes are tried in one update.
        momentum: :math:`\mu`, at least 0 and below 1.

    Returns:
        A transformation that needs params and the extra arguments ``value``, ``grad``
        and ``value_fn``.

    Raises:
        ValueError: as :func:`scale_by_armijo`, or if `momentum` is not in [0, 1).

    Examples:
        >>> import jax.numpy as jnp
        >>> import jaxsolve
        >>> from jaxsolve import transforms
        >>> fun = lambda x, data: jnp.sum((x - data) ** 4)
        >>> solver = jaxsolve.from_optax(fun, transforms.armijo_sgd(growth=jnp.inf))
        >>> print(bool(jaxsolve.run(solver, 0.0, 2.0).converged))
        True

    References:
        Vaswani, Mishkin, Laradji, Schmidt, Gidel and Lacoste-Julien, `Painless
        Stochastic Gradient: Interpolation, Line-Search, and Convergence Rates
        <https://arxiv.org/abs/1905.09997>`_, 2019.
    """
    core.check_number("momentum", momentum, 0, 1, "[")
    search = scale_by_armijo(
        decrease,
        max_stepsize,
        shrink=shrink,
        growth=growth,
        goldstein=goldstein,
        max_trials=max_trials,
    )
    links = [optax.scale(-1.0), search, wide(optax.trace(momentum))]
    return optax.chain(*(links[:2] if core.is_zero(momentum) else links))


def _given(value_fn, extra):
    """The objective with those of the extra arguments that it names."""
    parameters = inspect.signature(value_fn).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return lambda params: value_fn(params, **extra)
    named = {p.name: extra[p.name] for p in parameters if p.name in extra}
    return lambda params: value_fn(params, **named)
