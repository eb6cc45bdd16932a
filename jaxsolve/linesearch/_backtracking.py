"""Backtracking to sufficient decrease."""

import jax.numpy as jnp

from jaxsolve.core import memoise
from jaxsolve.linesearch._search import (
    ACCEPTED,
    FAILED,
    LineSearch,
    Search,
    observed_noise,
    start,
)


@memoise
def backtracking(
    decrease: float = 1e-4,
    *,
    approximate: bool = True,
    max_trials: int = 40,
) -> LineSearch:
    r"""Shrinks a stepsize until the objective decreases enough.

    With :math:`\phi(t) = f(x + t d)`, accepts :math:`t` when

    .. math::

        \phi(t) \le \phi(0) + c_1 t \phi'(0)

    or, as values may no longer resolve the decrease, when :math:`\phi(t) \le \phi(0) +
    \nu` and :math:`\phi'(t) \le (2 c_1 - 1) \phi'(0)`, with the noise :math:`\nu` of
    `wolfe`. Otherwise the next trial is the minimum of the parabola through the values
    and the slope at zero, at least a tenth and at most half of the last; a tenth where
    the value is not finite. The stepsize never grows: whoever embeds the search begins
    each one with a larger stepsize than the last accepted.

    Args:
        decrease: :math:`c_1`, in (0, 1/2).
        approximate: whether the approximate condition is accepted too.
        max_trials: how many stepsizes to try before the search fails.

    Returns:
        A line search. It reads the slope at a trial for the approximate condition only;
        pass infinity where it is not known.

    Raises:
        ValueError: unless ``0 < decrease < 1/2``.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import linesearch
        >>> phi = lambda t: ((t - 1.0) ** 2, 2 * (t - 1.0))
        >>> init, update = linesearch.backtracking()
        >>> search = init(jnp.asarray(1.0), jnp.asarray(-2.0), 8.0)
        >>> while not search.done:
        ...     search = update(search, *phi(search.stepsize))
        >>> print(search.stepsize, search.trials)
        1.0 2

    References:
        Armijo, `Minimization of functions having Lipschitz continuous first partial
        derivatives <https://doi.org/10.2140/pjm.1966.16.1>`_, 1966.
    """
    if not 0 < decrease < 0.5:
        raise ValueError(f"backtracking needs 0 < decrease < 1/2, got {decrease}.")

    def update(search, value, slope):
        t = search.stepsize
        zero, low, high = search.ends
        noise = observed_noise(search, value, slope, approximate)
        finite = jnp.isfinite(value)
        sufficient = value <= zero[1] + decrease * t * zero[2]
        level = (value <= zero[1] + noise) if approximate else sufficient
        gentle = slope <= (2 * decrease - 1) * zero[2]
        # Only the start itself may be accepted at zero, not an underflow.
        moves = (t > 0) | ~jnp.isfinite(zero[1])
        accepted = finite & moves & (sufficient | (level & gentle))

        excess = value - zero[1] - t * zero[2]
        parabola = -0.5 * zero[2] * t * t / jnp.where(excess > 0, excess, 1)
        shrunk = jnp.where(finite, jnp.clip(parabola, 0.1 * t, 0.5 * t), 0.1 * t)
        trials = search.trials + 1
        tiny = t <= float(jnp.finfo(value.dtype).tiny)
        failed = ~accepted & ((trials >= max_trials) | tiny)
        outcome = jnp.where(accepted, ACCEPTED, jnp.where(failed, FAILED, 0))
        outcome = outcome.astype(jnp.int32)
        trial = jnp.stack([t, value, slope])
        low, high = jnp.where(accepted, trial, low), jnp.where(accepted, high, trial)
        stepsize = jnp.where(outcome > 0, t, shrunk)
        ends = jnp.stack([zero, low, high])
        return Search(stepsize, outcome, trials, search.limit, ends, noise)

    return LineSearch(start, update)
