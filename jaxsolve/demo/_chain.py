"""The same inner solve as a link of an optax chain."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxsolve
from jaxsolve.demo._clean import RIDGE, TOL, Digits, accuracy, fit, start


class Chained(NamedTuple):
    """What came out."""

    gap: float  # largest difference between the chain and the plain run.
    count: int  # updates taken by both.
    templates: np.ndarray  # (64, 10): of the plain run.
    positive: np.ndarray  # (64, 10): with a link that keeps them non-negative.
    certificate: float  # sup-norm of the projected gradient there.
    accuracy: tuple[float, float]  # on the test images: plain, non-negative.


@functools.partial(jax.jit, static_argnames=("transform", "steps"))
def drive(transform, model, data, steps):
    """Takes `steps` updates of an optax transformation, as everyone does."""

    def one(carry, _):
        model, state = carry
        zeros = optax.tree.zeros_like(model)  # the head of the chain ignores them
        updates, state = transform.update(zeros, state, model, data=data)
        return (optax.apply_updates(model, updates), state), None

    (model, _), _ = jax.lax.scan(one, (model, transform.init(model)), length=steps)
    return model


def chain(weights, train: Digits, test: Digits, steps: int, progress) -> Chained:
    """Puts two solvers at the head of optax chains, on the cleaned digits."""
    data = jnp.asarray(weights), train
    solver = jaxsolve.smooth.lbfgs(fit)
    plain = jaxsolve.run(solver, start(), data, tol=TOL)
    link = optax.chain(jaxsolve.to_optax(solver))
    count = int(plain.state.count)
    linked = drive(link, start(), data, count)
    gap = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), linked, plain.params)

    progress()

    # Half of the second moment of the images, offsets included, bounds the Hessian of
    # the cross entropy; any stepsize below 2 / L does.
    images = jnp.concatenate([train.images, jnp.ones((train.labels.size, 1))], 1)
    moment = (data[0][:, None] * images).T @ images / train.labels.size
    largest = float(jnp.linalg.norm(moment, 2)) / 2 + RIDGE
    descent = jaxsolve.smooth.gradient_descent(fit, 1.8 / largest)
    mask = {"templates": True, "offsets": False}
    projected = optax.chain(
        jaxsolve.to_optax(descent),
        optax.masked(optax.keep_params_nonnegative(), mask),
    )
    positive = drive(projected, start(), data, steps)
    progress()
    grad = jax.grad(fit)(positive, data)
    left = positive["templates"] - jnp.maximum(
        positive["templates"] - grad["templates"], 0
    )
    certificate = jnp.maximum(jnp.max(jnp.abs(left)), jnp.max(jnp.abs(grad["offsets"])))
    return Chained(
        float(max(gap.values())),
        count,
        np.asarray(plain.params["templates"]),
        np.asarray(positive["templates"]),
        float(certificate),
        (float(accuracy(plain.params, test)), float(accuracy(positive, test))),
    )
