"""Sliced distances and sparse plans against POT and OTT-JAX."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import ot
from ott.tools import sliced

import jaxsolve
from bench._harness import Contender, compare, row, target
from jaxsolve import smooth, transport

OURS = "jaxsolve"


def clouds(n, d, seed=0):
    """Give a normal cloud, and another that is stretched along one direction."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, n, d))
    along = rng.normal(size=d)
    along = along / np.linalg.norm(along)
    return jnp.asarray(x), jnp.asarray(y + 0.8 * np.outer(y @ along, along))


def slices(options):
    """Measure the mean over given directions, and its gradient in the points."""
    n = 50 if options.quick else 2000
    x, y = clouds(n, 10)
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(100, 10))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions = jnp.asarray(directions)
    theirs = lambda x, y: sliced.sliced_wasserstein(
        x, y, proj_fn=lambda z, **_: z @ directions.T
    )[0]
    mine = lambda x, y: transport.projected_wasserstein(x, y, directions)

    def pot(_):
        def value(x, y):
            found = ot.sliced_wasserstein_distance(
                np.asarray(x), np.asarray(y), projections=np.asarray(directions.T)
            )
            return jnp.asarray(found**2), 0

        return value

    exact = pot(None)(x, y)[0]
    judge = lambda found: jnp.abs(found - exact) / exact
    values = [
        Contender(OURS, lambda _: lambda x, y: (mine(x, y), 0)),
        Contender("ott", lambda _: lambda x, y: (theirs(x, y), 0)),
        Contender("pot", pot, compiled=False),
    ]
    figures = compare(values, jnp.sum, (x, y), judge, 1e-8, options)
    goals = [
        target(f"time of {k} / ours", figures.ratio(k, OURS), ">=", 1.0)
        for k in ("ott", "pot")
    ]
    problem = f"{n} points in 10-D, 100 directions"
    yield row("sliced", problem, figures, OURS, targets=goals)

    slope = jax.jit(jax.grad(mine))(x, y)
    judge = lambda found: jnp.max(jnp.abs(found - slope)) / jnp.max(jnp.abs(slope))
    both = [
        Contender(OURS, lambda _: lambda x, y: (jax.grad(mine)(x, y), 0)),
        Contender("ott", lambda _: lambda x, y: (jax.grad(theirs)(x, y), 0)),
    ]
    figures = compare(both, jnp.sum, (x, y), judge, 1e-8, options)
    goal = target("time of ott / ours", figures.ratio("ott", OURS), ">=", 1.0)
    yield row("sliced_gradient", problem, figures, OURS, targets=[goal])


def maximal(options):
    """Measure the direction in which clouds differ most, against many at random."""
    n = 50 if options.quick else 2000
    x, y = clouds(n, 10)
    pair = transport.PointPair(x, y)
    starts = jax.random.normal(jax.random.key(0), (20, 10), x.dtype)

    def best(start):
        out = jaxsolve.run(transport.max_sliced(), start, pair, max_steps=1000)
        return -transport.projected_wasserstein(x, y, out.params)

    top = -jnp.min(jax.jit(jax.vmap(best))(starts))

    def mine(count):
        def build(_):
            def value(x, y):
                data = transport.PointPair(x, y)

                def one(start):
                    solver = transport.max_sliced()
                    out = jaxsolve.run(solver, start, data, max_steps=1000)
                    found = transport.projected_wasserstein(x, y, out.params)
                    return found, out.state.count

                found, counts = jax.vmap(one)(starts[:count])
                return jnp.max(found), jnp.max(counts)

            return value

        return build

    def pot(count):
        def build(_):
            def value(x, y):
                found = ot.max_sliced_wasserstein_distance(
                    np.asarray(x), np.asarray(y), n_projections=count, seed=0
                )
                return jnp.asarray(found**2), count

            return value

        return build

    ours = "jaxsolve 8 starts"
    contenders = [Contender(ours, mine(8)), Contender("jaxsolve 1 start", mine(1))]
    contenders += [
        Contender(f"pot {k} directions", pot(k), compiled=False)
        for k in (50, 1000, 10_000)
    ]
    judge = lambda found: jnp.maximum(1 - found / top, 0)
    figures = compare(contenders, jnp.sum, (x, y), judge, 1e-2, options)
    problem = f"{n} points in 10-D; short of the best of 20 starts by at most 1 %"
    most = "pot 10000 directions"
    goal = target(f"time of {most} / ours", figures.ratio(most, ours), ">=", 1.0)
    yield row("max_sliced", problem, figures, ours, targets=[goal])


def sparse(options):
    """Measure plans of at most k nonzeros a column against POT's own semi-dual."""
    n, m, k, gamma = (30, 10, 6, 1.0) if options.quick else (400, 50, 16, 0.1)
    rng = np.random.default_rng(0)
    cost = jnp.asarray(rng.uniform(size=(n, m)))

    def value(plan):
        return jnp.sum(cost * plan) + gamma / 2 * jnp.sum(plan**2)

    def mine(_):
        solver = transport.sparse_transport(smooth.lbfgs)

        def solve(cost):
            problem = transport.SparseTransportProblem(cost, k=k, gamma=gamma)
            start = jnp.zeros(n, cost.dtype)
            out = jaxsolve.run(solver, start, problem, tol=1e-7, max_steps=5000)
            return problem.plan(out.params), out.state.count

        return solve

    def pot(_):
        def solve(cost):
            with contextlib.redirect_stdout(None):  # it prints shapes
                plan = ot.smooth.smooth_ot_semi_dual(
                    np.full(n, 1 / n),
                    np.full(m, 1 / m),
                    np.asarray(cost),
                    gamma,
                    reg_type="sparsity_constrained",
                    max_nz=k,
                    numItermax=5000,
                )
            return jnp.asarray(plan), 0

        return solve

    judge = lambda plan: jnp.sum(jnp.abs(plan.sum(1) - 1 / n))
    contenders = [Contender(OURS, mine), Contender("pot", pot, compiled=False)]
    figures = compare(contenders, jnp.sum, (cost,), judge, 1e-5, options)
    notes = [
        f"{name}: objective {float(value(figures.outputs[name][0])):.8f}, at most "
        f"{int(jnp.max(jnp.sum(figures.outputs[name][0] > 0, 0)))} nonzeros a column"
        for name in (OURS, "pot")
    ]
    goal = target("time of pot / ours", figures.ratio("pot", OURS), ">=", 1.0)
    problem = f"{n} by {m}, {k} nonzeros a column, gamma {gamma:g}, rows to 1e-5 in L1"
    yield row("sparse", problem, figures, OURS, targets=[goal], notes=notes)


ROWS = {"slices": slices, "maximal": maximal, "sparse": sparse}
