"""Numbers out of their ranges, of every kind that numbers are given as."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import transforms

BELOW = {  # factories of one number that must not be below zero
    "max_stepsize": lambda x: transforms.scale_by_sps(max_stepsize=x),
    "c": lambda x: transforms.scale_by_sps(c=x),
    "growth": lambda x: transforms.scale_by_armijo(growth=x),
    "decrease": lambda x: transforms.scale_by_armijo(x),
    "momentum": lambda x: transforms.sps(momentum=x),
    "momentum of m_fac": lambda x: transforms.m_fac(0.1, momentum=x),
    "momentum of armijo_sgd": lambda x: transforms.armijo_sgd(momentum=x),
    "damping": lambda x: transforms.scale_by_m_fac(x),
    "damping of lanczos": lambda x: transforms.scale_by_lanczos(2, 2, x),
    "max_learning_rate": lambda x: transforms.scale_by_rayleigh(2, x),
    "max_momentum": lambda x: transforms.scale_by_lanczos_momentum(max_momentum=x),
    "learning_rate": lambda x: transforms.lion_k(x),
    "weight_decay": lambda x: transforms.lion_k(0.1, weight_decay=x),
    "b1": lambda x: transforms.scale_by_lion_k(b1=x),
    "b1 of adahessian": lambda x: transforms.scale_by_adahessian(b1=x),
    "weight_decay of adahessian": lambda x: transforms.adahessian(weight_decay=x),
    "width": lambda x: transforms.huber_kappa(x),
    "threshold": lambda x: transforms.sparse_kappa(x),
    "learning_rate of a ball": lambda x: transforms.rolling_ball(x),
    "radius": lambda x: transforms.rolling_ball(0.1, x),
    "target": lambda x: transforms.clip_by_softmax_radius(x),
    "cap": lambda x: transforms.scale_by_logit_spread(0.01, x),
    "tol": lambda x: transforms.target_surrogate(optax.sgd(0.1), tol=x),
    "scale": lambda x: transforms.adagrad_target_step(x),
    "most": lambda x: transforms.armijo_target_step(most=x),
    "initial_accumulator_value": lambda x: transforms.scale_by_adagrad_norm(x),
    "gamma": lambda x: transforms.scale_by_gradient_normalized_newton(x),
}
BAD = [-1.0, np.float32(-1), np.array(-1.0), jnp.float32(-1), jnp.bfloat16(-1)]
BAD += [jnp.float32(jnp.nan), np.ones(1), "x", None, 1j]


@pytest.mark.parametrize("make", BELOW)
def test_every_kind_of_number_is_checked_and_named(make):
    for bad in BAD:
        with pytest.raises(ValueError, match=f"{make.split()[0]} must be one real"):
            BELOW[make](bad)


@pytest.mark.parametrize("make", BELOW)
def test_numbers_in_range_and_traced_ones_are_taken(make):
    good = 2.0 if make in ("growth", "most") else 0.25
    for number in (good, np.float32(good), np.array(good), jnp.float32(good)):
        BELOW[make](number)

    def traced(number):
        BELOW[make](number)
        return number

    jax.jit(traced)(good)


@pytest.mark.parametrize("rate", [np.float32(2), jnp.float32(1), 1])
def test_rates_of_means_are_below_one(rate):
    for make in (transforms.scale_by_lion_k, transforms.scale_by_adahessian):
        for name in ("b1", "b2"):
            with pytest.raises(ValueError, match=name):
                make(**{name: rate})
    with pytest.raises(ValueError, match="implicit"):
        transforms.lion_k(rate, weight_decay=rate)


@pytest.mark.parametrize("eta", [-1.0, 0.0, jnp.nan])
def test_a_traced_stepsize_that_is_none_gives_no_finite_step_on_targets(eta):
    x, extra = jnp.ones(2), dict(target_fn=lambda x: x, target_grad=jnp.ones(2))

    def step(eta):
        transform = transforms.target_surrogate(optax.sgd(0.1), eta, steps=2)
        return transform.update(x, transform.init(x), x, **extra)[0]

    assert jnp.all(jnp.isnan(jax.jit(step)(eta)))
