"""Random acyclic graphs and examples of them, as the TOPO card draws them."""

import numpy as np


def draw(seed, nodes, edges, examples=1000):
    """A linear model with Gaussian noise of one variance.

    Weights are of either sign, between 0.5 and 2 in size.

    Returns:
        The weights, an order of them, the second moments of the examples, and a matrix
        whose order is random, to start from.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(nodes)
    pairs = np.stack(np.triu_indices(nodes, 1), axis=1)
    chosen = pairs[rng.choice(len(pairs), edges, replace=False)]
    weights = np.zeros((nodes, nodes))
    size = rng.choice([-1, 1], edges) * rng.uniform(0.5, 2, edges)
    weights[order[chosen[:, 0]], order[chosen[:, 1]]] = size
    noise = rng.normal(size=(examples, nodes))
    data = noise @ np.linalg.inv(np.eye(nodes) - weights)
    place = np.argsort(rng.permutation(nodes))
    start = (place[:, None] < place[None, :]).astype(float)
    return weights, order, data.T @ data / examples, start


def distance(weights, truth, threshold=0.3):
    """Structural Hamming distance: pairs of nodes whose edge is not the true one."""
    wrong = (np.abs(weights) > threshold) != (truth != 0)
    return int(np.sum(np.triu(wrong | wrong.T)))
