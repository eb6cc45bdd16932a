"""Online learners: they play a point, are shown a loss, and play again.

A learner is a `Solver` whose ``fun(params, data)`` is the loss of a round, whose data
change from round to round, and whose params are what is to be played next:

    >>> import jax.numpy as jnp
    >>> import jaxsolve
    >>> from jaxsolve import online, prox
    >>> ball = prox.euclidean_map(prox.l2_ball(1.0))
    >>> fun = lambda x, target: jnp.sum((x - target) ** 2) / 2
    >>> learner = online.mirror_descent(fun, ball, online.variation_stepsize(2.0, 2.0))
    >>> learner = online.ledger(learner, prox.l2_ball_vertex(1.0))
    >>> targets = jnp.stack([jnp.ones(100), jnp.zeros(100)], 1) / 2
    >>> solution = jaxsolve.scan(learner, jnp.zeros(2), targets)
    >>> print(solution.params.round(2), bool(solution.state.regret < 1))
    [0.5 0. ] True

`jaxsolve.scan` plays a stream, `learner.update` one round inside of a larger program.
Where gradients come from elsewhere, they are the data of :func:`linear_loss`, and
`jaxsolve.to_optax` makes a link of an optax chain; `jaxsolve.from_optax` makes a
learner of any optax transformation, though none for a ledger, which reads the rounds
that the learners here record.
"""

from jaxsolve.online._elimination import (
    Elimination,
    candidate_elimination,
    sparse_net,
)
from jaxsolve.online._ensemble import EnsembleState, ensemble, ensemble_stepsizes
from jaxsolve.online._estimators import (
    dilated_bonus,
    exploration_bonus,
    importance_weighted,
    inverse_covariance,
    linear_estimate,
    magnitude_reduced,
)
from jaxsolve.online._ftrl import FtrlState, ftrl, log_barrier_ftrl
from jaxsolve.online._ledger import LedgerState, ledger
from jaxsolve.online._log_barrier import log_barrier_simplex
from jaxsolve.online._losses import linear_loss
from jaxsolve.online._maps import composite_map, power_map
from jaxsolve.online._metric import (
    Quadratic,
    QuadraticDomain,
    quadratic_ball,
    quadratic_set,
)
from jaxsolve.online._mirror_descent import MirrorDescentState, mirror_descent
from jaxsolve.online._newton import OnlineNewtonState, online_newton
from jaxsolve.online._stepsizes import (
    VariationStepsize,
    strongly_convex_stepsize,
    variation_stepsize,
)
from jaxsolve.online._stochastic_mirror_descent import stochastic_mirror_descent

__all__ = (
    "Elimination",
    "EnsembleState",
    "FtrlState",
    "LedgerState",
    "MirrorDescentState",
    "OnlineNewtonState",
    "Quadratic",
    "QuadraticDomain",
    "VariationStepsize",
    "candidate_elimination",
    "composite_map",
    "dilated_bonus",
    "ensemble",
    "ensemble_stepsizes",
    "exploration_bonus",
    "ftrl",
    "importance_weighted",
    "inverse_covariance",
    "ledger",
    "linear_estimate",
    "linear_loss",
    "log_barrier_ftrl",
    "log_barrier_simplex",
    "magnitude_reduced",
    "mirror_descent",
    "online_newton",
    "power_map",
    "quadratic_ball",
    "quadratic_set",
    "sparse_net",
    "stochastic_mirror_descent",
    "strongly_convex_stepsize",
    "variation_stepsize",
)
