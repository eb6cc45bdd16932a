"""The stepsize of a searched forward-backward step: its test, and what it becomes."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxsolve import core
from jaxsolve.composite._forward_backward import inner


class Stepsize(NamedTuple):
    """A stepsize that shrinks when a test fails, and grows again when many hold."""

    eta: chex.Array  # (), real: the stepsize; zero before the first gradient.
    tested: chex.Array  # (), bool: whether a step of this length has passed the test.
    trials: chex.Array  # (), int32: steps rejected since the last was accepted.
    idle: chex.Array  # (), int32: steps accepted since it last changed.
    wait: chex.Array  # (), int32: how many there are before it grows.


def start(like: chex.Array) -> Stepsize:
    """No stepsize yet."""
    zero = jnp.zeros((), jnp.int32)
    return Stepsize(jnp.zeros_like(like), jnp.zeros((), bool), zero, zero, zero)


class Test(NamedTuple):
    """What a trial tells of the model at the anchor: value + <grad, d> + |d|^2/2 eta.

    Where values do not resolve the model, gradients do: the change of the gradient
    along the step is then compared with that of the model.
    """

    drop: chex.Array  # (), real: the objective less its linear model.
    bound: chex.Array  # (), real: the most that this may be.
    noise: chex.Array  # (), real: the rounding of the objective.
    eps: float  # ten units of rounding.

    @property
    def resolved(self) -> chex.Array:
        """Whether the values tell."""
        return self.bound > self.noise

    @property
    def holds(self) -> chex.Array:
        """Whether the objective is below its model."""
        return self.drop <= self.bound

    @property
    def room(self) -> chex.Array:
        """How many times as large the stepsize could have been on this step."""
        least = 0.01 * self.bound
        return self.bound / jnp.maximum(self.drop, jnp.where(least > 0, least, 1))

    def passed(self, step, grad, bend) -> chex.Array:
        """Whether the trial is good, by its values, or by its gradient and its change.

        The gradient is read only where values do not tell.
        """
        level = self.drop <= self.bound + self.noise
        slack = self.eps * jnp.sqrt(inner(grad, grad) * inner(step, step))
        gentle = inner(bend, step) <= 2 * self.bound + slack
        return jnp.where(self.resolved, self.holds, level & gentle)


def test(stepsize: Stepsize, value, anchor_value, anchor_grad, step, params) -> Test:
    """Compares the objective at a trial with the model at the anchor."""
    eps = 10 * max(float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(params))
    eta = jnp.where(stepsize.eta > 0, stepsize.eta, 1)
    return Test(
        drop=value - anchor_value - inner(anchor_grad, step),
        bound=inner(step, step) / (2 * eta),
        noise=eps * jnp.abs(anchor_value),
        eps=eps,
    )


def next_eta(stepsize: Stepsize, test: Test) -> chex.Array:
    """The stepsize after a step that was tested and accepted: larger if it is time."""
    most = jnp.where(stepsize.wait == 0, 10, 2)
    factor = jnp.where(test.resolved, jnp.clip(0.9 * test.room, 1, most), most)
    due = stepsize.idle >= stepsize.wait
    return jax.lax.stop_gradient(jnp.where(due, factor, 1) * stepsize.eta)


def accepted(stepsize: Stepsize, eta: chex.Array, tested: chex.Array) -> Stepsize:
    """After a step was accepted; `eta` is the next stepsize."""
    due = tested & (stepsize.idle >= stepsize.wait)
    grew = eta > stepsize.eta
    # Twice as soon again; a rejection that follows makes it twice as late.
    sooner = jnp.where(stepsize.wait > 0, jnp.maximum(stepsize.wait // 2, 1), 0)
    return Stepsize(
        eta=eta,
        tested=(stepsize.tested | tested) & ~grew,
        trials=jnp.zeros_like(stepsize.trials),
        idle=jnp.where(due, 0, stepsize.idle + 1),
        wait=jnp.where(grew, sooner, stepsize.wait),
    )


def rejected(stepsize: Stepsize, test: Test, finite: chex.Array) -> Stepsize:
    """After a step was rejected."""
    factor = jnp.where(test.resolved, jnp.clip(0.9 * test.room, 0.1, 0.8), 0.5)
    factor = jax.lax.stop_gradient(jnp.where(finite, factor, 0.1))
    return Stepsize(
        eta=factor * stepsize.eta,
        tested=jnp.zeros_like(stepsize.tested),
        trials=stepsize.trials + 1,
        idle=jnp.zeros_like(stepsize.idle),
        wait=jnp.clip(4 * stepsize.wait, 4, 160),
    )


def started(stepsize: Stepsize, grad: core.Params) -> Stepsize:
    """With the first gradient, if there was none: a step of unit length."""
    squared = jax.lax.stop_gradient(inner(grad, grad))
    unit = jax.lax.rsqrt(jnp.where(squared > 0, squared, 1))
    return stepsize._replace(eta=jnp.where(stepsize.eta > 0, stepsize.eta, unit))
