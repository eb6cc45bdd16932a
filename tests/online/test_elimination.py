"""Elimination of candidates: the card's figures, and its order by hand."""

import jax
import numpy as np
import pytest

from jaxsolve import online


def by_hand(features, rewards, candidates, epsilon):
    """Steps 1 to 4 of the card."""
    claims = candidates @ features.T
    asked = set()
    for j in np.argsort(-claims.max(1), kind="stable"):
        a = claims[j].argmax()
        asked.add(a)
        if rewards[a] >= claims[j].max() - 2 * epsilon:
            return a, j, len(asked), True
    return max(asked, key=lambda a: rewards[a]), j, len(asked), False


def problem(seed, actions=400, dimension=8, epsilon=0.1):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(actions, dimension))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    theta = np.zeros(dimension)
    theta[rng.choice(dimension, 2, replace=False)] = [0.8, -0.5]
    noise = rng.uniform(-epsilon, epsilon, actions)
    return features.astype(np.float32), (features @ theta + noise).astype(np.float32)


def test_few_queries_find_an_action_within_four_epsilon():
    """The card: d=8, s=2, k=400, epsilon=0.1; 20,328 candidates."""
    features, rewards = problem(0)
    net = online.sparse_net(8, 2, 0.1)
    assert 15_000 < len(net) < 25_000
    found = jax.jit(online.candidate_elimination)(features, rewards, net, 0.1)
    assert found.passed
    assert rewards.max() - rewards[found.action] <= 4 * 0.1
    assert found.queries < 200


@pytest.mark.parametrize("seed", range(4))
def test_order_of_elimination_is_the_cards(seed, x64):
    features, rewards = problem(seed, 30, 4, 0.2)
    features, rewards = features.astype(float), rewards.astype(float)
    candidates = np.random.default_rng(seed).normal(size=(50, 4)) / 2
    for epsilon in (0.0, 0.2, 1.0):
        found = online.candidate_elimination(features, rewards, candidates, epsilon)
        expected = by_hand(features, rewards, candidates, epsilon)
        assert tuple(int(x) for x in found) == tuple(int(x) for x in expected)


def test_net_is_dense_in_the_sparse_vectors_of_the_ball():
    net = online.sparse_net(4, 2, 0.3)
    rng = np.random.default_rng(0)
    for _ in range(50):
        theta = np.zeros(4)
        support = rng.choice(4, 2, replace=False)
        theta[support] = rng.normal(size=2)
        theta /= max(1, np.linalg.norm(theta))
        assert np.min(np.linalg.norm(net - theta, axis=1)) <= 0.3 / 2 + 1e-6
    assert np.all(np.count_nonzero(net, axis=1) <= 2)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="sparsity"):
        online.sparse_net(3, 4, 0.1)
    with pytest.raises(ValueError, match="epsilon"):
        online.sparse_net(3, 1, 0.0)
    for epsilon in (-0.1, np.nan, np.inf, np.ones(2)):
        with pytest.raises(ValueError, match="epsilon"):
            online.candidate_elimination(np.eye(2), np.ones(2), np.eye(2), epsilon)
