"""Layers: what they become as the temperature falls, and that they can be trained."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import linear_sum_assignment

from jaxsolve import transport

RNG = np.random.default_rng(0)
X = np.array([0.3, -1.2, 2.0, 0.9, -0.4])


def test_a_matching_is_the_best_assignment_at_small_temperatures(x64):
    # None of them has a second best assignment that is nearly as good.
    scores = np.random.default_rng(0).normal(size=(4, 5, 5))
    matchings = transport.sinkhorn_layer(scores, epsilon=1e-2)
    np.testing.assert_allclose(matchings.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(matchings.sum(-2), 1, atol=1e-5)
    for matching, one in zip(np.asarray(matchings), scores, strict=True):
        rows, columns = linear_sum_assignment(one, maximize=True)
        assert np.all(matching[rows, columns] > 0.9)


def test_rectangular_matchings_have_the_sums_asked_for(x64):
    scores, a = RNG.normal(size=(3, 4)), jnp.array([1.0, 2.0, 1.0])
    matching = transport.sinkhorn_layer(scores, epsilon=0.5, a=a)
    np.testing.assert_allclose(matching.sum(1), a, atol=1e-5)
    np.testing.assert_allclose(matching.sum(0), 1, atol=1e-5)
    forbidden = jnp.asarray(scores).at[0, 0].set(-jnp.inf)
    matching = transport.sinkhorn_layer(forbidden, epsilon=0.5)
    assert matching[0, 0] == 0 and bool(jnp.all(jnp.isfinite(matching)))


@pytest.mark.parametrize(
    ("soft", "hard"),
    [
        (lambda x: transport.soft_sort(x, epsilon=1e-4), np.sort),
        (
            lambda x: transport.soft_rank(x, epsilon=1e-4),
            lambda x: np.argsort(np.argsort(x)),
        ),
        (
            lambda x: transport.soft_top_k(x, 2, epsilon=1e-4),
            lambda x: (x >= np.sort(x)[-2]).astype(float),
        ),
        (lambda x: transport.soft_quantile(x, 0.5, epsilon=1e-4), np.median),
    ],
)
def test_soft_operators_harden(soft, hard, x64):
    np.testing.assert_allclose(soft(X), hard(X), atol=1e-3)


@pytest.mark.parametrize(
    "soft",
    [
        transport.soft_sort,
        transport.soft_rank,
        lambda x, **options: transport.soft_top_k(x, 2, **options),
        lambda x, **options: transport.soft_quantile(x, 0.4, **options),
        lambda x, **options: transport.sinkhorn_layer(jnp.outer(x, x), **options),
    ],
)
def test_derivatives_are_those_of_differences(soft, x64):
    probe = jnp.asarray(RNG.normal(size=np.shape(soft(X, epsilon=0.1))))
    fun = jax.jit(lambda x: jnp.sum(probe * soft(x, epsilon=0.1, tol=1e-12)))
    along, step = RNG.normal(size=5), 1e-5
    expected = (fun(X + step * along) - fun(X - step * along)) / (2 * step)
    np.testing.assert_allclose(jax.grad(fun)(X) @ along, expected, rtol=1e-5, atol=1e-8)


def test_soft_operators_work_along_an_axis_and_in_groups(x64):
    table = RNG.normal(size=(2, 6, 3))
    sorted_softly = transport.soft_sort(table, epsilon=1e-4, axis=1)
    np.testing.assert_allclose(sorted_softly, np.sort(table, axis=1), atol=0.02)
    groups = transport.soft_sort(table, epsilon=1e-4, axis=1, targets=3)
    means = np.sort(table, axis=1).reshape(2, 3, 2, 3).mean(2)
    np.testing.assert_allclose(groups, means, atol=0.02)


def test_a_ranking_is_learned_through_soft_ranks():
    """Linear scores are trained until their ranks are those of a hidden order."""
    features = jax.random.normal(jax.random.key(0), (12, 3))
    truth = jnp.argsort(jnp.argsort(features @ jnp.array([1.0, -2.0, 0.5])))

    def loss(w):
        ranks = transport.soft_rank(features @ w, epsilon=0.05)
        return jnp.mean((ranks - truth.astype(ranks.dtype)) ** 2)

    optimiser = optax.adam(0.1)

    @jax.jit
    def train(w):
        def step(carry, _):
            w, state = carry
            value, grad = jax.value_and_grad(loss)(w)
            updates, state = optimiser.update(grad, state)
            return (optax.apply_updates(w, updates), state), value

        (w, _), losses = jax.lax.scan(step, (w, optimiser.init(w)), length=60)
        return w, losses

    with jax.numpy_dtype_promotion("standard"):  # of Adam's own
        w, losses = train(jnp.ones(3))
    assert losses[-1] < 0.2 * losses[0]
    order = jnp.argsort(jnp.argsort(features @ w))
    assert jnp.mean(jnp.abs(order - truth)) < 1


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: transport.sinkhorn_layer(jnp.ones(3)), "scores"),
        (lambda: transport.soft_sort(jnp.ones(0)), "values"),
        (lambda: transport.soft_sort(jnp.ones(3, int)), "floats"),
        (lambda: transport.soft_top_k(jnp.ones(3), 3), "k is an integer from"),
        (lambda: transport.soft_quantile(jnp.ones(3), 1.5), "level"),
        (lambda: transport.sinkhorn_layer(jnp.ones((2, 2)), epsilon=0.0), "epsilon"),
    ],
)
def test_what_makes_no_sense_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_equal_values_share_their_places(x64):
    ranks = transport.soft_rank(jnp.array([1.0, 1.0, 1.0]))
    np.testing.assert_allclose(ranks, 1.0, atol=1e-6)
    gradient = jax.grad(lambda x: transport.soft_sort(x)[0])(jnp.ones(3))
    assert bool(jnp.all(jnp.isfinite(gradient)))
