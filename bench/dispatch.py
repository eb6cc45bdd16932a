"""Hydrothermal dispatch: policies trained through duals, and by unrolling.

Two reservoirs in a row and a thermal plant, twelve months. A policy sees the inflow of
a month and says what the storage should be at its end. All policies are judged by one
simulation of 200 years that none has seen, against the best decisions in hindsight.
"""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize

import jaxsolve
from bench._harness import target
from jaxsolve import bilevel, composite, core, prox
from jaxsolve.bilevel import Optimum

T, BATCH, TEST = 12, 4, 200
SEASON = np.sin(2 * np.pi * np.arange(T) / T)
DEMAND = 4.0 - 0.8 * SEASON
CAPACITY, TURBINE, POWER = (
    np.array([6.0, 4.0]),
    np.array([3.0, 4.0]),
    np.array([0.6, 0.8]),
)
FIRST, PRICE, BEND, WATER = CAPACITY / 2, 10.0, 8.0, np.array([14.0, 8.0])
DEFICIT = 4.0  # the unit of the price of a missed target; water is worth up to 40.
PHASES = 0.1, 1.0, 10.0, 30.0  # the card's


class Decisions(NamedTuple):
    """What is decided: (T, 2), (T, 2), (T, 2) and (T,)."""

    storage: jax.Array
    release: jax.Array
    spill: jax.Array
    thermal: jax.Array


def draw(key, years):
    """Draw inflows, (years, T, 2): wet seasons, and months that resemble the last."""
    noise = jax.random.normal(key, (T, years, 2))
    follow = lambda level, new: (0.7 * level + 0.7 * new,) * 2
    _, levels = jax.lax.scan(follow, noise[0], noise)
    mean = jnp.log(jnp.asarray([1.4, 0.5])) + 0.6 * jnp.asarray(SEASON)[:, None, None]
    return jnp.exp(mean + 0.4 * levels).swapaxes(0, 1)


def arrivals(out):
    """Add to each reservoir what the upper one lets go."""
    return jnp.stack([jnp.zeros_like(out[..., 0]), out[..., 0]], -1)


def rows(x, data):
    """Give what is bounded, and what has a target."""
    del data
    before = jnp.concatenate([jnp.zeros_like(x.storage[:1]), x.storage[:-1]])
    out = x.release + x.spill
    balance = x.storage - before + out - arrivals(out)
    power = x.release @ POWER + x.thermal
    return {"bounded": (balance, power, x), "target": x.storage}


def cost(x, data=None):
    """Compute what thermal power costs, less the worth of the water that is left."""
    del data
    thermal = PRICE * jnp.sum(x.thermal) + BEND / 2 * jnp.sum(x.thermal**2)
    return thermal - WATER @ x.storage[-1]


def allowed(data):
    """Make the bounds, and the price of missing a target."""
    targets, inflows, deficit = data
    water = inflows.at[0].add(FIRST)
    like = lambda x: jnp.broadcast_to(x, water.shape)
    zero, month = jnp.zeros_like(water), jnp.zeros_like(water[:, 0])
    low = water, jnp.asarray(DEMAND), Decisions(zero, zero, zero, month)
    most = Decisions(like(CAPACITY), like(TURBINE), zero + jnp.inf, month + jnp.inf)
    box = prox.box(low, (water, month + jnp.inf, most))
    near = prox.translate(prox.l1(deficit), targets)
    return prox.separable_sum({"bounded": box, "target": near})


SOLVER = composite.admm(composite.Quadratic(cost), prox.of_data(allowed), rows)


def optimum(targets, data, tol=1e-4):
    """Solve a whole year: value, duals of the targets, status, decisions."""
    inflows, deficit = data
    zero = jnp.zeros((T, 2), inflows.dtype)
    start = Decisions(zero, zero, zero, zero[:, 0])
    data = targets, inflows, deficit
    out = jaxsolve.run(SOLVER, start, data, max_steps=4000, tol=tol)
    x = out.params
    _, back = core.ravel(rows(x, data))
    duals = back(-out.state.penalty * out.state.dual)["target"]
    value = cost(x) + deficit * jnp.sum(jnp.abs(x.storage - targets))
    return Optimum(value, duals, out.status, x)


value_of = bilevel.value_and_duals(optimum)


def policy(weights, month, inflow, storage):
    """Compute the target of a month: a small network."""
    season = 2 * jnp.pi * month / T
    seen = jnp.stack([jnp.sin(season), jnp.cos(season), month / T])
    seen = jnp.concatenate([jnp.log(inflow), storage / CAPACITY, seen])
    hidden = jnp.tanh(seen @ weights["in"] + weights["inner"])
    return CAPACITY * jax.nn.sigmoid(hidden @ weights["out"] + weights["outer"])


def begin(key, width=16):
    """Draw a policy's weights."""
    first, second = jax.random.split(key)
    return {
        "in": 0.3 * jax.random.normal(first, (7, width)),
        "inner": jnp.zeros(width),
        "out": 0.3 * jax.random.normal(second, (width, 2)),
        "outer": jnp.zeros(2),
    }


def targets_of(weights, inflows):
    """Roll the policy forward on its own targets."""

    def month(last, data):
        new = policy(weights, *data, last)
        return new, new

    return jax.lax.scan(month, jnp.asarray(FIRST), (jnp.arange(float(T)), inflows))[1]


def simulate(weights, inflows):
    """Follow the policy as far as the plants allow; gives the decisions of the year."""

    def month(storage, data):
        number, inflow, demand = data
        aim = policy(weights, number, inflow, storage)
        upper = _plant(storage[0] + inflow[0], aim[0], 0)
        lower = _plant(storage[1] + inflow[1] + upper[1] + upper[2], aim[1], 1)
        storage, release, spill = jnp.stack([upper, lower], -1)
        thermal = jax.nn.relu(demand - release @ POWER)
        return storage, Decisions(storage, release, spill, thermal)

    data = jnp.arange(float(T)), inflows, jnp.asarray(DEMAND)
    return jax.lax.scan(month, jnp.asarray(FIRST), data)[1]


def _plant(water, aim, i):
    wanted = jax.nn.relu(water - aim)
    release = jnp.minimum(wanted, TURBINE[i])
    spill = jax.nn.relu(water - release - CAPACITY[i])  # rather than to miss the target
    return jnp.stack([water - release - spill, release, spill])


def through_duals(weights, inflows, deficit):
    """Compute the loss of the two-stage rule: the value of the year's program."""
    best = value_of(targets_of(weights, inflows), (inflows, deficit))
    return jnp.where(best.status == core.Status.CONVERGED, best.value, 0.0)


def unrolled(weights, inflows, deficit):
    """Compute the loss of the simulation, which JAX differentiates."""
    del deficit
    return cost(simulate(weights, inflows))


def train(loss, steps, key, rate=0.02):
    """Train a policy on fresh years; gives the weights and the losses."""
    first, *keys = jax.random.split(key, steps + 1)
    transform = optax.adam(optax.cosine_decay_schedule(rate, steps))
    deficits = (
        DEFICIT * jnp.repeat(jnp.asarray(PHASES), -(-steps // len(PHASES)))[:steps]
    )

    @jax.jit
    def all_steps(weights):
        def step(carry, data):
            weights, state = carry
            key, deficit = data
            mean = lambda weights: jnp.mean(
                jax.vmap(loss, (None, 0, None))(weights, draw(key, BATCH), deficit)
            )
            value, grad = jax.value_and_grad(mean)(weights)
            change, state = transform.update(grad, state)
            return (optax.apply_updates(weights, change), state), value

        carry = weights, transform.init(weights)
        (weights, _), values = jax.lax.scan(step, carry, (jnp.stack(keys), deficits))
        return weights, values

    return all_steps(begin(first))


def hindsight(inflows):
    """Find the best decisions of a year that is known: cost, and status."""
    best = optimum(jnp.zeros_like(inflows), (inflows, jnp.zeros(())), tol=1e-6)
    return best.value, best.status


def certified(inflows):
    """Find the same cost by SciPy, for one year."""
    shapes = Decisions(*[jnp.zeros((T, 2))] * 3, jnp.zeros(T))
    x, back = core.ravel(shapes)
    image = lambda x: core.ravel(rows(back(x), None)["bounded"][:2])[0]
    matrix = np.asarray(jax.jacobian(image)(x))
    water = np.array(inflows)
    water[0] += FIRST
    n, water = 2 * T, water.ravel()
    most = Decisions(
        *(np.tile(v, (T, 1)) for v in (CAPACITY, TURBINE, [np.inf] * 2)), [np.inf] * T
    )
    top = np.concatenate([np.ravel(v) for v in most])
    out = scipy.optimize.minimize(
        jax.jit(jax.value_and_grad(lambda x: cost(back(x)))),
        np.asarray(x),
        jac=True,
        method="SLSQP",
        bounds=list(zip(np.zeros_like(top), top, strict=True)),
        constraints=[
            scipy.optimize.LinearConstraint(matrix[:n], water, water),
            scipy.optimize.LinearConstraint(matrix[n:], DEMAND, np.inf),
        ],
        options={"maxiter": 500, "ftol": 1e-10},
    )
    return out.fun


def policies(options):
    """Measure every policy's cost above the best in hindsight."""
    steps = 8 if options.quick else 240
    inflows = draw(jax.random.key(1), 8 if options.quick else TEST)
    floor, status = jax.jit(jax.vmap(hindsight))(inflows)
    solved = float(jnp.mean(status == core.Status.CONVERGED))
    judged = lambda weights: jax.vmap(lambda w: cost(simulate(weights, w)))(inflows)
    notes = [
        f"in hindsight: {jnp.mean(floor):.2f}, {solved:.1%} solved; of the first year "
        f"{floor[0]:.4f}, by SciPy {certified(inflows[0]):.4f}"
    ]
    costs = {"untrained": judged(begin(jax.random.key(0)))}
    for name, loss, number in (
        ("through duals", through_duals, steps),
        ("through duals, four times as long", through_duals, 4 * steps),
        ("unrolled", unrolled, steps),
        ("unrolled, ten times as long", unrolled, 10 * steps),
    ):
        start = time.perf_counter()
        weights, _ = jax.block_until_ready(train(loss, number, jax.random.key(0)))
        seconds = time.perf_counter() - start
        costs[name] = judged(weights)
        notes.append(f"{name}: {number} steps in {seconds:.1f} s, compilation included")
    mean = {name: float(jnp.mean(value)) for name, value in costs.items()}
    best = float(jnp.mean(floor))
    above = {name: (value - best) / abs(best) for name, value in mean.items()}
    notes += [f"{n}: {v:.2f}, {above[n]:.1%} above hindsight" for n, v in mean.items()]
    yield {
        "row": "policies",
        "problem": f"2 reservoirs, {T} months, {len(inflows)} unseen years, {BATCH} "
        "years a step; mean cost",
        "dtype": "float64",
        "hindsight": best,
        "cost": mean,
        "notes": notes,
        "targets": [
            target("share of hindsight solved", solved, ">=", 1.0),
            target(
                "gap of duals / gap of unrolled",
                above["through duals"] / above["unrolled"],
                "<=",
                1.1,
            ),
        ],
    }


ROWS = {"policies": policies}
