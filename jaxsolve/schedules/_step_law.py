"""The Step Law: learning rates and batch sizes of language models, and its fit."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsolve import core
from jaxsolve.schedules._check import check, real


class StepLaw(NamedTuple):
    """The coefficients of a law of stepsizes and batch sizes."""

    factor: chex.Numeric = 1.79  # of the stepsize.
    parameters: chex.Numeric = -0.713  # its exponent of the number of parameters.
    tokens: chex.Numeric = 0.307  # its exponent of the number of tokens.
    batch_factor: chex.Numeric = 0.58  # of the batch, in tokens.
    batch_tokens: chex.Numeric = 0.571  # its exponent of the number of tokens.


class Recommendation(NamedTuple):
    """What a law recommends."""

    stepsize: chex.Array  # (), real: the peak learning rate.
    batch: chex.Array  # (), real: tokens in a batch.


class Fit(NamedTuple):
    """A law that was fitted."""

    law: StepLaw  # means over the resamples.
    deviation: StepLaw  # standard deviations over them, of the logarithms of factors.


def step_law(
    parameters: chex.Numeric, tokens: chex.Numeric, law: StepLaw | None = None
) -> Recommendation:
    r"""The learning rate and the batch size at which a language model trains best.

    For N parameters beside embeddings and D training tokens

    .. math::

        \eta = 1.79 \, N^{-0.713} D^{0.307}, \quad B = 0.58 \, D^{0.571}

    with B in tokens. Fitted on AdamW and transformers, dense or not, of 6e7 to 1e9
    parameters on 2e9 to 1e11 tokens, for the recipe :func:`step_law_schedule`; do not
    extrapolate to fewer tokens. In the authors' sweeps the grid's best loss is missed
    by less than 0.1 %.

    Args:
        parameters: :math:`N > 0`, without embeddings.
        tokens: :math:`D > 0`.
        law: other coefficients, as of :func:`fit_step_law`.

    Returns:
        The stepsize and the batch size in tokens: divide by the length of a sequence,
        and round to what the hardware likes.

    Raises:
        ValueError: if a number is not positive.

    Examples:
        >>> from jaxsolve import schedules
        >>> stepsize, batch = schedules.step_law(1e9, 1e11)
        >>> print(f"{stepsize:.2e} {batch / 2048:.0f}")
        1.63e-03 541

    References:
        Li, Zheng, Hu et al., `Predictable Scale: Part I, Optimal Hyperparameter Scaling
        Law in Large Language Model Pretraining <https://arxiv.org/abs/2503.04715>`_,
        2025.
    """
    check("parameters", parameters)
    check("tokens", tokens)
    law = StepLaw() if law is None else law
    cast = real(parameters, tokens)
    n, d = jnp.log(cast(parameters)), jnp.log(cast(tokens))
    power = lambda factor, log: cast(factor) * jnp.exp(log)
    return Recommendation(
        power(law.factor, cast(law.parameters) * n + cast(law.tokens) * d),
        power(law.batch_factor, cast(law.batch_tokens) * d),
    )


def step_law_schedule(
    parameters: chex.Numeric,
    tokens: chex.Numeric,
    steps: int,
    *,
    warmup_steps: int = 2000,
    end_value: chex.Numeric = 1e-5,
    law: StepLaw | None = None,
) -> optax.Schedule:
    r"""The recipe of the Step Law: linear warm-up, cosine decay to a fixed end.

    The end is a number, not a fraction of the peak, of which the best peak depends.
    This is ``optax.warmup_cosine_decay_schedule`` with the peak of :func:`step_law`.

    Args:
        parameters: :math:`N > 0`, without embeddings.
        tokens: :math:`D > 0`.
        steps: updates in all, usually the tokens over the batch.
        warmup_steps: at least 1 and below `steps`.
        end_value: the learning rate at the end.
        law: other coefficients.

    Returns:
        An optax schedule.

    Raises:
        ValueError: if a number is out of its range.

    Examples:
        >>> from jaxsolve import schedules
        >>> stepsize = schedules.step_law_schedule(1e9, 1e11, 90_000)
        >>> print(f"{stepsize(2000):.2e} {stepsize(90_000):.0e}")
        1.63e-03 1e-05
    """
    check("steps", steps)
    check("warmup_steps", warmup_steps, 0, steps)
    check("end_value", end_value, closed="[")
    peak = step_law(parameters, tokens, law).stepsize
    cast = real(peak)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, peak, warmup_steps, steps, end_value=cast(end_value)
    )
    return lambda count: schedule(cast(count))  # optax would promote an integer


def fit_step_law(
    runs: chex.Array,
    *,
    tolerance: chex.Numeric = 0.0025,
    resamples: int = 1000,
    key: chex.PRNGKey | None = None,
) -> Fit:
    r"""Fits a law to the runs of a sweep.

    Keeps the runs whose loss is within the tolerance of the best one for the same N and
    D, draws as many of them with replacement, and solves least squares for

    .. math::

        \log \eta = a_0 + a_1 \log N + a_2 \log D, \quad
        \log B = b_0 + b_1 \log D

    Coefficients are the means over the resamples, of :math:`a_0` and :math:`b_0` before
    they are exponentiated. A resample that does not determine them does not count.

    Args:
        runs: (n, 5), real: of each run N, D, the stepsize, the batch and the loss, all
            positive; a run that is not finite, or diverged to NaN, does not count. At
            least two values of N and of D.
        tolerance: relative to the best loss; the authors' is 0.25 %.
        resamples: how many are drawn.
        key: a key of `jax.random`.

    Returns:
        The law, and the standard deviations of its coefficients.

    Raises:
        ValueError: if `runs` has another shape, a number is out of its range, or known
            runs have one value of N or of D; the law of traced ones is then NaN.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import schedules
        >>> n, d = (x.ravel() for x in jnp.meshgrid(
        ...     jnp.array([1e8, 4e8, 1e9]), jnp.array([1e10, 1e11])))
        >>> runs = jnp.stack([n, d, *schedules.step_law(n, d), jnp.ones(6)], axis=1)
        >>> fit = schedules.fit_step_law(runs, resamples=100)
        >>> print(f"{fit.law.parameters:.3f} {fit.law.tokens:.3f}")
        -0.713 0.307
    """
    check("tolerance", tolerance, closed="[")
    check("resamples", resamples)
    if jnp.ndim(runs) != 2 or jnp.shape(runs)[1] != 5:
        raise ValueError(
            "runs must have five columns: parameters, tokens, stepsize, batch, loss; "
            f"got shape {jnp.shape(runs)}."
        )
    runs = real(runs)(runs)
    key = jax.random.key(0) if key is None else key
    logs = jnp.log(runs[:, :4])
    good = jnp.all(jnp.isfinite(logs), axis=1) & jnp.isfinite(runs[:, 4])
    _check_spread(runs, good)
    logs = jnp.where(good[:, None], logs, 0)
    sizes, losses = runs[:, :2], jnp.where(good, runs[:, 4], jnp.inf)
    alike = jnp.all(sizes[:, None, :] == sizes[None, :, :], axis=2)
    best = jnp.min(jnp.where(alike, losses[None, :], jnp.inf), axis=1)
    kept = good & (losses <= (1 + real(runs)(tolerance)) * best)

    @jax.jit
    def resample_all(keys):
        return jax.lax.map(resample, keys, batch_size=50)

    def resample(key):
        chances = jnp.where(kept, 0.0, -jnp.inf)
        drawn = jax.random.categorical(key, chances, shape=losses.shape)
        # As many as are kept, which is not known while compiling.
        taken = jnp.arange(losses.size) < jnp.sum(kept)
        counts = jnp.zeros_like(losses).at[drawn].add(taken.astype(losses.dtype))
        return _least_squares(logs, counts)

    keys = jax.random.split(key, resamples)
    fits, sound = resample_all(keys)
    mean = StepLaw(*(jnp.mean(x, where=sound) for x in fits))
    factors = dict(factor=jnp.exp(mean.factor), batch_factor=jnp.exp(mean.batch_factor))
    deviation = StepLaw(*(jnp.std(x, where=sound) for x in fits))
    return Fit(mean._replace(**factors), deviation)


def _check_spread(runs, good):
    if not core.is_concrete(good):
        return
    for column, name in enumerate(("parameters", "tokens")):
        values = np.unique(np.asarray(runs)[np.asarray(good), column])
        if values.size < 2:
            raise ValueError(
                "runs that count must have at least two values of parameters and of "
                f"tokens, got {name} of {values}."
            )


def _least_squares(logs, counts):
    """The coefficients of a resample, of the constants logarithms; and whether any.

    Few runs may be drawn so that they do not determine them.
    """
    weights = counts / jnp.sum(counts)
    centre = weights @ logs
    n, d, stepsize, batch = ((logs - centre[None, :]) * jnp.sqrt(weights)[:, None]).T
    a, _, rank, _ = jnp.linalg.lstsq(jnp.stack([n, d], axis=1), stepsize, rcond=1e-4)
    b = (d @ batch) / (d @ d)
    constants = centre[2] - a @ centre[:2], centre[3] - b * centre[1]
    return StepLaw(constants[0], a[0], a[1], constants[1], b), rank == 2
