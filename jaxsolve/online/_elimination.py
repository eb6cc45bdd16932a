"""Elimination of candidates, in bandits that are linear, sparse, and nearly so."""

import itertools
import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve import core
from jaxsolve.online._rounds import check_positive


class Elimination(NamedTuple):
    """What `candidate_elimination` found."""

    action: chex.Array  # (), int32: that passed, or else the best one asked for.
    candidate: chex.Array  # (), int32: the candidate that it was taken for.
    queries: chex.Array  # (), int32: rewards that had to be asked for.
    passed: chex.Array  # (), bool: whether any candidate passed.


def sparse_net(dimension: int, sparsity: int, epsilon: float) -> np.ndarray:
    r"""Makes a net of the sparse vectors in the unit ball.

    For every support of s coordinates, the points of a grid of spacing
    :math:`\epsilon / \sqrt s` in the ball of radius :math:`1 + \epsilon / 2`. Every
    s-sparse vector of the unit ball is within :math:`\epsilon / 2` of one.

    Args:
        dimension: :math:`d \ge s`.
        sparsity: :math:`s \ge 1`. The net grows as :math:`(d / \epsilon)^s`.
        epsilon: :math:`\epsilon > 0`.

    Returns:
        The points, (M, d), float32; those of several supports come several times.

    Raises:
        ValueError: if the numbers do not fit.

    Examples:
        >>> from jaxsolve import online
        >>> online.sparse_net(3, 1, 0.5).shape
        (15, 3)
    """
    check_positive(epsilon=epsilon)
    if not 1 <= sparsity <= dimension:
        raise ValueError(
            f"sparsity must be from 1 to the dimension {dimension}, got {sparsity}."
        )
    spacing, radius = epsilon / math.sqrt(sparsity), 1 + epsilon / 2
    steps = math.floor(radius / spacing)
    line = spacing * np.arange(-steps, steps + 1)
    grid = np.stack(np.meshgrid(*[line] * sparsity), -1).reshape(-1, sparsity)
    grid = grid[np.sum(grid**2, 1) <= radius**2]
    parts = []
    for support in itertools.combinations(range(dimension), sparsity):
        points = np.zeros((len(grid), dimension), np.float32)
        points[:, support] = grid
        parts.append(points)
    return np.concatenate(parts)


def candidate_elimination(
    features: chex.Array,
    rewards: chex.Array,
    candidates: chex.Array,
    epsilon: chex.Numeric,
) -> Elimination:
    r"""Finds a nearly optimal action by few queries, believing the best candidate.

    Rewards are :math:`r_a = \langle \phi_a, \theta^\star \rangle + \nu_a` with
    :math:`|\nu_a| \le \epsilon`. Each candidate :math:`\theta` claims the value
    :math:`v(\theta) = \max_a \langle \phi_a, \theta \rangle` for its best action. From
    the greatest claim down, the reward of that action is asked for, unless known, and
    the first action with

    .. math::

        r_a \ge v(\theta) - 2 \epsilon

    is the answer. If a candidate is within :math:`\epsilon` of :math:`\theta^\star` and
    features are in the unit ball, it passes at the latest, so that the answer is within
    :math:`4 \epsilon` of the best reward. Queries are at most as many as candidates and
    as actions: for :func:`sparse_net` a number that depends on the actions not at all.

    The procedure is reconstructed, with low confidence, from the bound that is proved
    of it; the paper is about how many queries are needed, and its upper bound is by
    exponentially many candidates. Rewards are taken to be free of noise.

    Args:
        features: :math:`\phi`, (k, d), rows in the unit ball.
        rewards: (k,), of which only those that are asked for count.
        candidates: :math:`\theta`, (M, d), such as of :func:`sparse_net`.
        epsilon: :math:`\epsilon \ge 0`; below the misspecification, none may pass.

    Returns:
        An `Elimination`.

    Raises:
        ValueError: if a known epsilon is not one finite number, at least zero, or
            shapes do not fit.

    Examples:
        >>> import jax.numpy as jnp
        >>> from jaxsolve import online
        >>> features = jnp.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> net = online.sparse_net(2, 1, 0.2)
        >>> found = online.candidate_elimination(features, features[:, 1], net, 0.2)
        >>> print(found.action, found.queries)
        2 2

    References:
        Dong and Yang, `Does Sparsity Help in Learning Misspecified Linear Bandits?
        <https://arxiv.org/abs/2303.16998>`_, 2023.
    """
    known = core.is_concrete(epsilon)
    if known and (np.ndim(epsilon) or not 0 <= epsilon < np.inf):
        raise ValueError(
            f"epsilon must be one finite number, at least zero, got {epsilon!r}."
        )
    features = jnp.asarray(features)
    shapes = np.shape(features), np.shape(rewards), np.shape(candidates)
    wanted = shapes[0][:1], (*shapes[2][:1], *shapes[0][1:])
    if len(shapes[0]) != 2 or shapes[1:] != wanted or 0 in shapes[2]:
        raise ValueError(
            "features must be (K, d), rewards (K,) and candidates (N, d) with at least "
            f"one of each, got {shapes}."
        )
    if not jnp.issubdtype(features.dtype, jnp.floating):
        raise ValueError(f"features must be floating, got {features.dtype}.")
    like = lambda x: jnp.asarray(x, features.dtype)
    claims = jnp.matmul(
        like(candidates), features.T, precision=jax.lax.Precision.HIGHEST
    )
    actions, values = jnp.argmax(claims, 1).astype(jnp.int32), jnp.max(claims, 1)
    order = jnp.argsort(-values)
    asked = actions[order]
    passes = like(rewards)[asked] >= values[order] - 2 * like(epsilon)
    passed = jnp.any(passes)
    last = jnp.where(passed, jnp.argmax(passes), len(order) - 1)
    # An action is asked for once, whatever the number of candidates that like it.
    before = jnp.arange(len(order)) <= last
    seen = jnp.zeros(len(features), bool).at[asked].max(before)
    known = jnp.where(jnp.isnan(like(rewards)), -jnp.inf, like(rewards))
    best = jnp.argmax(jnp.where(seen, known, -jnp.inf))
    return Elimination(
        action=jnp.where(passed, asked[last], best.astype(jnp.int32)),
        candidate=order[last].astype(jnp.int32),
        queries=jnp.sum(seen, dtype=jnp.int32),
        passed=passed,
    )
