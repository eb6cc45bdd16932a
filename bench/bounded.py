"""Minimisation in a box: our L-BFGS-B against JAXopt's, alone and in a batch."""

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np

import jaxsolve
from bench import _peers as peers
from bench._harness import Contender, compare, row, target
from bench.smooth import rosenbrock, start

OURS = "jaxsolve vmap"
LOWER, UPPER = -2.0, 0.8


def ours(tol, max_steps=2000):
    """Give our L-BFGS-B, one problem, to be compiled."""

    def build(fun):
        solver = jaxsolve.smooth.lbfgsb(fun, (LOWER, UPPER))

        def solve(x, data):
            out = jaxsolve.run(solver, x, data, max_steps=max_steps, tol=tol)
            return out.params, out.state.count

        return solve

    return build


def ours_batch(tol, max_steps=2000):
    """Give our L-BFGS-B through `solve_batch`, driven from Python."""

    def build(fun):
        solver = jaxsolve.smooth.lbfgsb(fun, (LOWER, UPPER))

        def solve(x, data):
            out = jaxsolve.solve_batch(solver, x, data, max_steps=max_steps, tol=tol)
            return out.params, out.state.count

        return solve

    return build


def jaxopts(factory, tol, max_steps=2000, **settings):
    """Give a bounded solver of JAXopt's; its `tol` bounds the same projection."""

    def build(fun):
        solver = factory(fun=fun, maxiter=max_steps, tol=tol, **settings)

        def solve(x, data):
            bounds = jnp.full_like(x, LOWER), jnp.full_like(x, UPPER)
            out = solver.run(x, bounds, data)
            return out.params, out.state.iter_num

        return solve

    return build


def projected_gradient(fun, data, batched):
    """Give the harness's judge: the sup-norm of P(x - g) - x, computed outside."""
    gradient = jax.grad(fun)
    gradient = jax.jit(jax.vmap(gradient) if batched else gradient)

    def judge(x):
        inside = jnp.all((x >= LOWER) & (x <= UPPER), axis=-1)
        step = jnp.clip(x - gradient(x, data), LOWER, UPPER) - x
        return jnp.where(inside, jnp.max(jnp.abs(step), axis=-1), jnp.inf)

    return judge


def _contenders(bound, batched):
    zoom = {"jaxopt LBFGSB": (jaxopts(jaxopt.LBFGSB, bound, unroll=False), "zoom")}
    if batched:  # the others take 38 s a batch, or reach the bound in 1 % of the lanes
        return zoom
    projection = {"projection": jaxopt.projection.projection_box}
    return zoom | {
        "jaxopt LBFGSB backtracking": (
            jaxopts(jaxopt.LBFGSB, bound, unroll=False, linesearch="backtracking"),
            "1e-6",
        ),
        "jaxopt ProjectedGradient": (
            jaxopts(jaxopt.ProjectedGradient, bound, **projection),
            "1e-6",
        ),
    }


def batch(options):
    """Measure 1,024 chained Rosenbrock functions of 10 variables in one vmap."""
    lanes, n, bound = (16 if options.quick else 1024), 10, 1e-6
    rng = np.random.default_rng(0)
    points = jnp.asarray(rng.uniform(LOWER, UPPER, (lanes, n)))
    scales = jnp.asarray(rng.uniform(1.0, 100.0, lanes))
    contenders = [
        Contender(OURS, peers.batched(ours(bound)), "tol 1e-6"),
        Contender("jaxsolve solve_batch", ours_batch(bound), "tol 1e-6", False),
        *(
            Contender(name, peers.batched(build), settings)
            for name, (build, settings) in _contenders(bound, True).items()
        ),
    ]
    judge = projected_gradient(rosenbrock, scales, True)
    args = points, scales
    figures = compare(contenders, rosenbrock, args, judge, bound, options)
    yield _judged("batch", f"{lanes} bounded Rosenbrock n={n}", OURS, 5.0, figures)


def single(options):
    """Measure one chained Rosenbrock function of 100 variables in a box."""
    n, bound = (10 if options.quick else 100), 1e-6
    contenders = [
        Contender("jaxsolve", ours(bound), "tol 1e-6"),
        *(
            Contender(name, build, settings)
            for name, (build, settings) in _contenders(bound, False).items()
        ),
    ]
    args = start(n), jnp.asarray(100.0)
    judge = projected_gradient(rosenbrock, args[1], False)
    figures = compare(contenders, rosenbrock, args, judge, bound, options)
    yield _judged("single", f"bounded Rosenbrock n={n}", "jaxsolve", 1.0, figures)


def _judged(name, problem, mine, least, figures):
    best = figures.fastest([n for n in figures.outputs if n.startswith("jaxopt")])
    ours = [n for n in (mine, "jaxsolve solve_batch") if n in figures.outputs]
    targets = [
        target(f"time of {best} / {name}", figures.ratio(best, name), ">=", least)
        for name in ours
    ]
    peer = "jaxopt LBFGSB"
    ratio = figures.of(mine)["cold"] / figures.of(peer)["cold"]
    targets += [
        target(f"compile and first run, ours / {peer}", ratio, "<=", 1.0),
        target("lanes that reached the bound", figures.of(mine)["reached"], ">=", 1.0),
    ]
    return row(name, problem, figures, mine, targets=targets)


ROWS = {"batch": batch, "single": single}
