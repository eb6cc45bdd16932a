"""Entropic transport against OTT-JAX and POT: values, potentials and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import ot
from ott.geometry import epsilon_scheduler
from ott.geometry import geometry as ott_geometry
from ott.problems.linear import linear_problem
from ott.solvers.linear import acceleration, sinkhorn

import jaxsolve
from bench._harness import Contender, compare, row, target
from jaxsolve import transport

OURS = "jaxsolve newton"


def squares(x, y):
    """Give the matrix of squared distances: the same for everybody."""
    return transport.PointCloud(x, y).matrix()


def ours(make, epsilon, tol, max_steps=20_000):
    """Give one of our solvers; absolute potentials of both sides, concatenated."""

    def build(fun):
        def solve(x, y):
            cost = fun(x, y)
            problem = transport.TransportProblem(cost, epsilon=epsilon)
            start = jnp.zeros(x.shape[0], x.dtype)
            out = jaxsolve.run(make(), start, problem, tol=tol, max_steps=max_steps)
            f, g = out.params, problem.other(out.params)
            f, g = f + epsilon * jnp.log(problem.a), g + epsilon * jnp.log(problem.b)
            return jnp.concatenate([f, g]), out.state.count

        return solve

    return build


def otts(epsilon, threshold, schedule=None, max_iterations=20_000, **settings):
    """Give OTT's Sinkhorn; its threshold bounds the L1 error of one marginal."""

    def build(fun):
        def solve(x, y):
            temperature = epsilon
            if schedule is not None:
                temperature = epsilon_scheduler.Epsilon(epsilon, **schedule)
            geometry = ott_geometry.Geometry(cost_matrix=fun(x, y), epsilon=temperature)
            solver = sinkhorn.Sinkhorn(
                threshold=threshold, max_iterations=max_iterations, **settings
            )
            out = solver(linear_problem.LinearProblem(geometry))
            return jnp.concatenate([out.f, out.g]), out.n_iters

        return solve

    return build


def pots(epsilon, threshold):
    """Give POT's Sinkhorn in the log domain, on the host."""

    def build(fun):
        def solve(x, y):
            cost = np.asarray(fun(x, y))
            uniform = [np.full(k, 1 / k) for k in cost.shape]
            _, log = ot.bregman.sinkhorn_log(
                *uniform, cost, epsilon, stopThr=threshold, numItermax=20_000, log=True
            )
            f, g = (epsilon * np.ravel(log[k]) for k in ("log_u", "log_v"))
            return jnp.asarray(np.concatenate([f, g])), log["niter"]

        return solve

    return build


def marginal_error(cost, epsilon):
    """Give the judge: the L1 error of both marginals of absolute potentials."""
    n, m = cost.shape

    @jax.jit
    def judge(potentials):
        f, g = potentials[:n], potentials[n:]
        plan = jnp.exp((f[:, None] + g[None, :] - cost) / epsilon)
        rows = jnp.sum(jnp.abs(plan.sum(1) - 1 / n))
        return rows + jnp.sum(jnp.abs(plan.sum(0) - 1 / m))

    return judge


def ott_settings(epsilon):
    """Give OTT's settings that we know to be fast."""
    anderson = acceleration.AndersonAcceleration(5, ridge_identity=1e-8)
    momentum = acceleration.Momentum(start=50, error_threshold=1.0)
    names = {
        "ott": {},
        "ott momentum": {"momentum": momentum},
        "ott anderson": {"anderson": anderson},
        "ott schedule": {"schedule": {"init": 10.0, "decay": 0.95}},
    }
    if epsilon >= 5e-3:  # below, its kernel underflows
        names["ott kernel"] = {"lse_mode": False}
        names["ott kernel momentum"] = {"lse_mode": False, "momentum": momentum}
    return names


def clouds(n, dimension=2, seed=0, dtype=jnp.float64):
    """Give two clouds of points in the unit cube."""
    rng = np.random.default_rng(seed)
    draw = lambda: jnp.asarray(rng.uniform(size=(n, dimension)), dtype)
    return draw(), draw()


def forward(options, epsilon, bound):
    """Measure one problem to one accuracy."""
    n = 60 if options.quick else 1000
    x, y = clouds(n)
    tol = 0.9 * bound
    contenders = [
        Contender(OURS, ours(transport.newton_transport, epsilon, tol), f"tol {tol:g}"),
        Contender(
            "jaxsolve sinkhorn",
            ours(
                functools.partial(transport.sinkhorn, relaxation="adaptive"),
                epsilon,
                tol / 2,
            ),
            "kernel, adaptive relaxation",
        ),
    ]
    contenders += [
        Contender(name, otts(epsilon, tol, **settings), str(settings))
        for name, settings in ott_settings(epsilon).items()
    ]
    if bound > 1e-9:
        contenders.append(Contender("pot", pots(epsilon, tol), "", compiled=False))
    judge = marginal_error(squares(x, y), epsilon)
    figures = compare(contenders, squares, (x, y), judge, bound, options)
    best = figures.fastest([c.name for c in contenders if c.name.startswith("ott")])
    most, plain = (4.0, 10.0) if epsilon >= 5e-3 else (10.0, 50.0)
    targets = [
        target(f"time of {best} / ours", figures.ratio(best, OURS), ">=", most),
        target("time of plain ott / ours", figures.ratio("ott", OURS), ">=", plain),
        target(
            "compile and first run, ours / ott",
            figures.of(OURS)["cold"] / figures.of("ott")["cold"],
            "<=",
            1.0,
        ),
    ]
    name = f"forward_{epsilon:g}_{bound:g}"
    problem = f"{n} points in 2-D, epsilon {epsilon:g}, marginals to {bound:g}"
    return row(name, problem, figures, OURS, targets=targets)


def values(options):
    """Measure two temperatures to two accuracies."""
    for epsilon in (1e-2, 1e-3):
        for bound in (1e-6, 1e-11):
            yield forward(options, epsilon, bound)


def gradients(options):
    """Measure the derivative of a potential, forward and backward pass together."""
    n = 40 if options.quick else 1000
    x, y = clouds(n)
    epsilon, tol = 1e-2, 1e-8
    probe = jnp.asarray(np.random.default_rng(1).normal(size=n))
    probe = probe - jnp.mean(probe)

    def differentiated(build):
        def wrapped(fun):
            solve = build(fun)

            def gradient(x, y):
                return jax.grad(lambda x: jnp.sum(probe * solve(x, y)[0][:n]))(x), 0

            return gradient

        return wrapped

    builds = {OURS: ours(transport.newton_transport, epsilon, tol)}
    builds |= {
        name: otts(epsilon, tol, **settings)
        for name, settings in ott_settings(epsilon).items()
    }
    exact, _ = jax.jit(
        differentiated(ours(transport.newton_transport, epsilon, 1e-13))(squares)
    )(x, y)
    judge = lambda found: jnp.max(jnp.abs(found - exact)) / jnp.max(jnp.abs(exact))
    contenders = [Contender(k, differentiated(b)) for k, b in builds.items()]
    figures = compare(contenders, squares, (x, y), judge, 1e-4, options)
    best = figures.fastest([k for k in builds if k.startswith("ott")])
    targets = [target(f"time of {best} / ours", figures.ratio(best, OURS), ">=", 5.0)]
    problem = f"gradient of a potential, {n} points, epsilon {epsilon:g}"
    yield row("gradient", problem, figures, OURS, targets=targets)


ROWS = {"values": values, "gradients": gradients}
