"""The conformance cases of the core: what it makes solvers of."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxsolve import core
from tests.case import Case
from tests.smooth.cases import DATA, tilted

MATRIX = np.random.default_rng(1).normal(size=(4, 2, 3))


def interpolating(x, data):
    """Squares whose minimum is zero on every batch: its errors can stop a run."""
    matrix, center = data
    residuals = matrix @ (x - center[0])
    return jnp.mean(residuals**2 + residuals**4 / 20)


def interpolating_data():
    center = np.array([1.0, -2.0, 0.5])
    return MATRIX.reshape(8, 3), np.broadcast_to(center, (8, 3)).copy()


def interpolating_direction():
    rng = np.random.default_rng(2)
    turn = np.broadcast_to(rng.normal(size=3), (8, 3)).copy()
    return rng.normal(size=(8, 3)) / 10, turn


def shared(x, data):
    """What one worker knows of a common objective."""
    matrix, target = data
    residuals = matrix @ x - target
    return jnp.sum(jnp.sqrt(1 + residuals**2)) + jnp.sum(x**2) / 8


def data_parallel(objective, stepsize, axis):
    """Gradient descent whose workers average their gradients."""

    def gradient(params, data):
        grad = jax.grad(objective)(core.per_worker(params, axis), data)
        return jax.lax.pmean(grad, axis)

    def init(params, data):
        return core.OptaxState(
            jnp.zeros((), jnp.int32),
            core.real_scalar(jnp.inf, params),
            core.as_status(core.Status.RUNNING),
            core.real_scalar(jnp.inf, params),
            (),
        )

    def update(params, state, data):
        grad = gradient(params, data)
        finite = core.all_finite(grad)
        params = core.where(finite, core.axpy(-stepsize, grad, params), params)
        failed = jnp.where(finite, state.status, core.as_status(core.Status.DIVERGED))
        error = jnp.where(finite, core.sup_norm(grad), state.error)
        count = state.count + 1
        return params, state._replace(count=count, error=error, status=failed)

    return core.Solver(init, update, gradient, core.implicit(psd=True))


CASES = (
    Case(
        factory="core.from_optax",
        make=lambda form: core.from_optax(
            form.function(tilted), optax.sgd(0.3, momentum=0.3)
        ),
        params=np.zeros(3),
        data=DATA,
    ),
    Case(
        factory="core.minibatch",
        make=lambda form: core.minibatch(
            core.from_optax(form.function(interpolating), optax.sgd(0.2)),
            4,
            key=jax.random.key(0),
        ),
        params=np.zeros(3),
        data=interpolating_data(),
        direction=interpolating_direction(),
        solution=lambda data: data[1][0],
        closes=False,  # batches are drawn from the data that are given
        max_steps=2000,
    ),
    Case(
        factory="core.workers",
        make=lambda form: core.workers(
            data_parallel(form.function(shared), 0.2, "workers"), "workers"
        ),
        params=np.zeros(3),
        data=(MATRIX, np.random.default_rng(3).normal(size=(4, 2))),
        max_steps=2000,
        closes=False,  # the workers split the data that they are given
    ),
)
