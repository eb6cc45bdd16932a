"""Chains of links of ours and optimisers of optax, in front, behind and inside."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from jaxsolve import prox, transforms

PARAMS = {"w": jnp.array([[1.0, -2.0], [0.5, 2.5]]), "b": jnp.array([0.5])}
OPTIMISERS = {
    "lamb": lambda: optax.lamb(0.05),
    "lars": lambda: optax.lars(0.5, trust_coefficient=0.1),
    "lion": lambda: optax.lion(0.06),
    "adamw": lambda: optax.adamw(0.1),
    "sophia": lambda: contrib.sophia(
        0.1, hessian_diagonal_fn=transforms.hessian_diagonal(), update_interval=1
    ),
    "muon": lambda: contrib.muon(0.1),
    "adafactor": lambda: optax.adafactor(0.1),
    "private": lambda: optax.chain(
        optax.stateless(lambda grads, _: jax.tree.map(lambda g: g[None], grads)),
        contrib.differentially_private_aggregate(10.0, 1e-3, key=jax.random.key(0)),
        optax.sgd(0.3),
    ),
}


def fun(params):
    return sum(jnp.sum((x - 1) ** 2) for x in jax.tree.leaves(params))


@pytest.fixture(params=OPTIMISERS)
def optimiser(request):
    # Optax's own bias corrections mix integers and floats.
    with jax.numpy_dtype_promotion("standard"):
        yield OPTIMISERS[request.param]()


def trained(transform, params=PARAMS, steps=60, fun=fun):
    transform = optax.with_extra_args_support(transform)

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            value, grad = jax.value_and_grad(fun)(params)
            hvp = lambda v: jax.jvp(jax.grad(fun), (params,), (v,))[1]
            updates, state = transform.update(
                grad, state, params, value=value, value_fn=fun, hvp=hvp, grad=grad
            )
            return (optax.apply_updates(params, updates), state), value

        carry = params, transform.init(params)
        return jax.lax.scan(step, carry, length=steps)

    (params, state), values = train(params)
    return params, state, values


def test_a_projection_ends_every_optimiser(optimiser):
    box = prox.box(0.0, 0.75)
    params, _, values = trained(optax.chain(optimiser, transforms.projected(box)))
    for leaf in jax.tree.leaves(params):
        assert jnp.all((leaf >= 0) & (leaf <= 0.75))
    assert values[-1] < 0.9  # of 11.75, the least 5 / 16


def test_perp_grad_stands_before_every_optimiser(optimiser):
    # The function knows only the direction of its params, and so does the gradient.
    turned = lambda params: sum(
        jnp.sum((x / jnp.linalg.norm(x) - 0.5) ** 2) for x in jax.tree.leaves(params)
    )
    chain = optax.chain(transforms.perp_grad(), optimiser)
    _, _, values = trained(chain, {"w": PARAMS["w"]}, fun=turned)
    assert jnp.min(values) < 0.1 * values[0]


def test_gradients_are_recorded_before_every_optimiser(optimiser):
    recorded = transforms.record_gradient_norms(60)
    _, state, _ = trained(optax.chain(recorded, optimiser))
    norms = state[0].norms
    assert norms.shape == (60,)
    start = optax.tree.norm(jax.grad(fun)(PARAMS))
    np.testing.assert_allclose(norms[0], start, rtol=1e-6)
    assert jnp.all(norms > 0)
