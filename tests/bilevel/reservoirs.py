"""A reservoir and a thermal plant: targets in, cost and duals out, by ADMM."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.optimize import linprog

from jaxsolve import composite, core, prox
from jaxsolve.bilevel import Optimum

CAPACITY = 5.0


class Sides(NamedTuple):
    """The right-hand sides."""

    targets: np.ndarray  # (T,): what the storage should be.
    inflows: np.ndarray  # (T,)
    first: np.ndarray  # (): the storage at the start.


class Prices(NamedTuple):
    """What else the problem depends on."""

    demands: np.ndarray  # (T,)
    costs: np.ndarray  # (T,): of thermal power.
    deficit: np.ndarray  # (): of a unit of distance from a target.
    bend: np.ndarray  # (): by which thermal power grows dearer.


class Decisions(NamedTuple):
    """What is decided, (T,) each."""

    storage: np.ndarray
    release: np.ndarray
    spill: np.ndarray
    thermal: np.ndarray


def card():
    """The card's numbers."""
    inflows = np.random.default_rng(0).uniform(0, 3, 4)
    sides = Sides(np.array([1.3, 0.7, 1.1, 0.2]), inflows, np.array(2.0))
    prices = (
        np.array([2.0, 3.0, 2.0, 4.0]),
        np.array([10.0, 20.0, 15.0, 30.0]),
        np.array(50.0),
        np.array(0.0),
    )
    return sides, Prices(*prices)


def rows(x, data):
    """What is bounded, (balance, power, decisions), and what has a target."""
    del data
    lagged = jnp.concatenate([jnp.zeros_like(x.storage[:1]), x.storage[:-1]])
    balance = x.storage - lagged + x.release + x.spill
    return {"bounded": (balance, x.release + x.thermal, x), "target": x.storage}


def cost(x, data):
    """Of thermal power, linear unless there is a quadratic part."""
    prices = data[1]
    return prices.costs @ x.thermal + prices.bend / 2 * jnp.sum(x.thermal**2)


def allowed(data, strict=False):
    """The bounds, and the price of missing a target, infinite if strict."""
    sides, prices = data
    water = sides.inflows.at[0].add(sides.first)
    zero, free = jnp.zeros_like(water), jnp.full_like(water, jnp.inf)
    low = water, prices.demands, Decisions(zero, zero, zero, zero)
    full = jnp.full_like(water, CAPACITY)
    high = water, prices.demands, Decisions(full, free, free, free)
    near = prox.translate(prox.l1(prices.deficit), sides.targets)
    near = prox.box(sides.targets, sides.targets) if strict else near
    return prox.separable_sum({"bounded": prox.box(low, high), "target": near})


STRICT = functools.partial(allowed, strict=True)
SOLVER, STRICT_SOLVER = (
    composite.admm(composite.Quadratic(cost), prox.of_data(sets), rows)
    for sets in (allowed, STRICT)
)


def solve(sides, prices, max_steps=20_000, solver=SOLVER):
    """The program by ADMM, whose multipliers have the other sign."""
    zero, data = jnp.zeros_like(sides.targets), (sides, prices)
    start = Decisions(zero, zero, zero, zero)
    out = core.run(solver, start, data, max_steps=max_steps, tol=1e-9)
    x = out.params
    gap = jnp.sum(jnp.abs(x.storage - sides.targets))
    _, back = core.ravel(rows(x, data))
    gains = back(-out.state.penalty * out.state.dual)
    balance = gains["bounded"][0]
    duals = Sides(gains["target"], balance, balance[0])
    return Optimum(cost(x, data) + prices.deficit * gap, duals, out.status, x)


def reference(sides, prices):
    """The linear program by HiGHS: its value, and its duals row by row."""
    n = len(sides.targets)
    eye, zero = np.eye(n), np.zeros((n, n))
    # Columns: storage, release, spill, thermal, distance above and below the target.
    balance = [eye - np.eye(n, k=-1), eye, eye, zero, zero, zero]
    power = [zero, eye, zero, eye, zero, zero]
    target = [eye, zero, zero, zero, eye, -eye]
    water = np.array(sides.inflows)
    water[0] += sides.first
    price = np.full(2 * n, prices.deficit)
    miss = None if np.isfinite(prices.deficit) else 0  # none at an infinite price
    out = linprog(
        np.concatenate([np.zeros(3 * n), prices.costs, np.nan_to_num(price, posinf=0)]),
        A_eq=np.block([balance, power, target]),
        b_eq=np.concatenate([water, prices.demands, sides.targets]),
        bounds=[(0, CAPACITY)] * n + [(0, None)] * (3 * n) + [(0, miss)] * (2 * n),
    )
    return out.fun, out.eqlin.marginals
