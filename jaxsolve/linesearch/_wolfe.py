"""The Wolfe conditions by bracketing and safeguarded cubic interpolation."""

import jax.numpy as jnp

from jaxsolve.core import memoise
from jaxsolve.linesearch._search import (
    ACCEPTED,
    FAILED,
    UNBOUNDED,
    LineSearch,
    Search,
    observed_noise,
    start,
)


@memoise
def wolfe(
    decrease: float = 1e-4,
    curvature: float = 0.9,
    *,
    approximate: bool = True,
    max_trials: int = 40,
    max_stepsize: float = 1e15,
) -> LineSearch:
    r"""Finds a stepsize that satisfies the strong Wolfe conditions.

    With :math:`\phi(t) = f(x + t d)`, accepts :math:`t` when

    .. math::

        \phi(t) &\le \phi(0) + c_1 t \phi'(0) \\
        |\phi'(t)| &\le -c_2 \phi'(0)

    or, as values may no longer resolve the decrease, when :math:`\phi(t) \le \phi(0) +
    \nu` and :math:`\phi'(t) \le (2 c_1 - 1) \phi'(0)` in place of the first: Hager and
    Zhang's approximate condition, by which a solver reaches the floor of its precision.
    The noise :math:`\nu` is :math:`10 \varepsilon |\phi(0)|`, or twice what a trial
    with a slope between :math:`\phi'(0)` and half of it was off the mean slope's line,
    where that is at most :math:`\sqrt\varepsilon |\phi(0)|`: terms that cancel are
    rounded more. Before a minimum is bracketed the stepsize grows, up to tenfold a
    trial; then it is the minimum of a cubic, kept inside the bracket, every third time
    its middle. A trial with an infinite value shrinks the bracket.

    A search that runs out of trials, or of precision, or is still descending at its
    limit, takes its best point if that decreases the objective, and otherwise fails.

    Args:
        decrease: :math:`c_1`, in (0, 1/2).
        curvature: :math:`c_2`, between :math:`c_1` and 1; small is nearly exact.
        approximate: whether the approximate condition is accepted too.
        max_trials: how many stepsizes to try.
        max_stepsize: no stepsize is larger; still descending there is `unbounded`.

    Returns:
        A line search.

    Raises:
        ValueError: unless ``decrease`` and ``curvature`` are in these ranges.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import linesearch
        >>> phi = lambda t: ((t - 1000.0) ** 2, 2 * (t - 1000.0))
        >>> init, update = linesearch.wolfe(curvature=0.1)
        >>> search = init(jnp.asarray(1e6), jnp.asarray(-2e3), 1.0)
        >>> while not search.done:
        ...     search = update(search, *phi(search.stepsize))
        >>> bool(abs(search.stepsize - 1000) < 100)
        True

    References:
        Nocedal and Wright, `Numerical Optimization
        <https://doi.org/10.1007/978-0-387-40065-5>`_, 2006, Section 3.5. Hager and
        Zhang, `A New Conjugate Gradient Method with Guaranteed Descent
        <https://doi.org/10.1137/030601880>`_, 2005, (4.1).
    """
    if not 0 < decrease < min(0.5, curvature) or not curvature < 1:
        raise ValueError(
            "wolfe needs 0 < decrease < 1/2 and decrease < curvature < 1, got "
            f"decrease={decrease} and curvature={curvature}."
        )

    def update(search, value, slope):
        t = search.stepsize
        zero, low, high = search.ends
        noise = observed_noise(search, value, slope, approximate)
        finite = jnp.isfinite(value) & jnp.isfinite(slope)
        sufficient = value <= zero[1] + decrease * t * zero[2]
        level = (value <= zero[1] + noise) if approximate else sufficient
        flat = jnp.abs(slope) <= -curvature * zero[2]
        gentle = slope <= (2 * decrease - 1) * zero[2]
        accepted = finite & flat & (sufficient | (level & gentle))

        # The best end `low` always decreases the objective and descends towards `high`.
        good = finite & (sufficient | level)
        best = good & (value <= low[1] + noise)
        passed = slope * (high[0] - low[0]) >= 0
        trial = jnp.stack([t, value, slope])
        new_high = jnp.where(best, jnp.where(passed, low, high), trial)
        new_low = jnp.where(best, trial, low)

        bracketed = jnp.isfinite(new_high[0])
        inside = _inside(new_low, new_high, search.trials)
        largest = jnp.minimum(search.limit, max_stepsize)
        outside = jnp.minimum(_outside(low, trial), largest)
        trials = search.trials + 1

        width = jnp.abs(new_high[0] - new_low[0])
        eps = float(jnp.finfo(value.dtype).eps)
        narrow = bracketed & (width <= eps * jnp.maximum(new_high[0], new_low[0]))
        at_limit = ~bracketed & (t >= largest)
        over = ~accepted & ((trials >= max_trials) | narrow | at_limit)
        failed = over & (~(new_low[0] > 0) | (trials > max_trials + 1))
        arrived = over & good & (t == new_low[0])
        outcome = jnp.where(accepted, ACCEPTED, 0)
        unbounded = at_limit & (t >= max_stepsize)
        outcome = jnp.where(arrived, jnp.where(unbounded, UNBOUNDED, ACCEPTED), outcome)
        outcome = jnp.where(failed, FAILED, outcome).astype(jnp.int32)
        proposal = jnp.where(over, new_low[0], jnp.where(bracketed, inside, outside))
        stepsize = jnp.where(outcome > 0, t, proposal)
        ends = jnp.stack([zero, new_low, new_high])
        return Search(stepsize, outcome, trials, search.limit, ends, noise)

    return LineSearch(start, update)


def _cubic(a, b):
    """The minimiser of the cubic through two trials; NaN where there is none."""
    # Masked before, not only after: an infinite end must leave no NaN derivative.
    known = jnp.all(jnp.isfinite(a) & jnp.isfinite(b)) & (a[0] != b[0])
    (ta, fa, da), (tb, fb, db) = (
        jnp.where(known, end, z) for end, z in ((a, 0), (b, 1))
    )
    d1 = da + db - 3 * (fa - fb) / (ta - tb)
    square = d1**2 - da * db
    known = known & (square >= 0)
    d2 = jnp.sign(tb - ta) * jnp.sqrt(jnp.where(square > 0, square, 1))
    d2 = jnp.where(square > 0, d2, 0)
    below = db - da + 2 * d2
    known = known & (below != 0)
    step = (tb - ta) * (db + d2 - d1) / jnp.where(below != 0, below, 1)
    return jnp.where(known, tb - step, jnp.nan)


def _inside(low, high, trials):
    """A point well inside the bracket: the cubic's minimum, or the middle."""
    width = high[0] - low[0]
    guess = _cubic(low, high)
    guess = jnp.where(jnp.isfinite(guess), guess, low[0] + 0.5 * width)
    guess = jnp.where(jnp.isfinite(high[1]), guess, low[0] + 0.1 * width)
    share = jnp.where(trials % 3 == 2, 0.5, 0.1).astype(width.dtype)
    left, right = jnp.minimum(low[0], high[0]), jnp.maximum(low[0], high[0])
    pad = share * (right - left)
    return jnp.clip(guess, left + pad, right - pad)


def _outside(low, trial):
    """A larger stepsize: the cubic's minimum, at least twice and at most ten times."""
    guess = _cubic(low, trial)
    guess = jnp.where(jnp.isfinite(guess), guess, jnp.inf)
    guess = jnp.where(guess > trial[0], guess, jnp.inf)
    return jnp.clip(guess, 2 * trial[0], 10 * trial[0])
