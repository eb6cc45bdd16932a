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


def pots(epsilon, threshold, method="sinkhorn_log"):
    """Give one of POT's Sinkhorn methods, on the host."""

    def build(fun):
        def solve(x, y):
            cost = np.asarray(fun(x, y))
            uniform = [np.full(k, 1 / k, cost.dtype) for k in cost.shape]
            # Its threshold bounds the L2 error of one marginal.
            least = threshold / len(uniform[1]) ** 0.5
            settings = dict(stopThr=least, numItermax=20_000, warn=False)
            _, log = ot.sinkhorn(
                *uniform, cost, epsilon, method=method, log=True, **settings
            )
            if method == "sinkhorn":
                with np.errstate(divide="ignore"):
                    scaled = np.log(log["u"]), np.log(log["v"])
            else:
                scaled = log["log_u"], log["log_v"]
            found = np.concatenate([epsilon * np.ravel(k) for k in scaled])
            return jnp.asarray(found.astype(cost.dtype)), log["niter"]

        return solve

    return build


def marginal_error(x, y, epsilon):
    """Give the judge: the L1 error of both marginals of absolute potentials."""
    x, y = (np.asarray(z, np.float64) for z in (x, y))
    cost = np.sum((x[..., :, None, :] - y[..., None, :, :]) ** 2, -1)
    n, m = cost.shape[-2:]
    epsilon = np.asarray(epsilon, np.float64)[..., None, None]

    def judge(potentials):
        potentials = np.asarray(potentials, np.float64)
        f, g = potentials[..., :n, None], potentials[..., None, n:]
        plan = np.exp((f + g - cost) / epsilon)
        rows = np.abs(plan.sum(-1) - 1 / n).sum(-1)
        return rows + np.abs(plan.sum(-2) - 1 / m).sum(-1)

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
    if bound > 1e-9 and epsilon >= 5e-3:  # below, POT takes minutes
        contenders.append(Contender("pot", pots(epsilon, tol), "", compiled=False))
    judge = marginal_error(x, y, epsilon)
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
        for bound in (1e-6, 1e-12):
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


def cost_gradients(options):
    """Measure the derivative of the plan's cost in the points of one side."""
    n = 40 if options.quick else 1000
    x, y = clouds(n)
    epsilon, tol = 1e-2, 1e-8

    def mine(tol):
        def build(fun):
            def cost(x, y):
                problem = transport.TransportProblem(fun(x, y), epsilon=epsilon)
                solver, start = transport.newton_transport(), jnp.zeros(n)
                out = jaxsolve.run(solver, start, problem, tol=tol, max_steps=20_000)
                return problem.cost(out.params)

            return lambda x, y: (jax.grad(cost)(x, y), 0)

        return build

    def theirs(**settings):
        solve = otts(epsilon, tol, **settings)

        def build(fun):
            def cost(x, y):
                potentials, _ = solve(fun)(x, y)
                f, g = potentials[:n, None], potentials[None, n:]
                matrix = fun(x, y)
                return jnp.sum(matrix * jnp.exp((f + g - matrix) / epsilon))

            return lambda x, y: (jax.grad(cost)(x, y), 0)

        return build

    exact, _ = jax.jit(mine(1e-13)(squares))(x, y)
    judge = lambda found: jnp.max(jnp.abs(found - exact)) / jnp.max(jnp.abs(exact))
    names = ott_settings(epsilon)
    contenders = [Contender(OURS, mine(tol))]
    contenders += [Contender(k, theirs(**v), str(v)) for k, v in names.items()]
    figures = compare(contenders, squares, (x, y), judge, 1e-4, options)
    best = figures.fastest(list(names))
    targets = [target(f"time of {best} / ours", figures.ratio(best, OURS), ">=", 5.0)]
    problem = f"gradient of the cost, {n} points, epsilon {epsilon:g}"
    yield row("cost_gradient", problem, figures, OURS, targets=targets)


def hessians(options):
    """Measure Hessians of the value in weights and in points: OTT's notebook."""
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.uniform(size=(k, 3))) for k in (17, 15))
    a, b = (jnp.asarray(rng.uniform(0.1, 1.1, size=k)) for k in (17, 15))
    a, b = a / a.sum(), b / b.sum()
    epsilon, tol = 0.1, 1e-8

    def mine(fun):
        def value(a, x):
            out = transport.solve(fun(x, y), a, b, epsilon=epsilon, tol=tol)
            return out.dual_value

        return value

    def theirs(unroll):
        def build(fun):
            def value(a, x):
                cost = ott_geometry.Geometry(cost_matrix=fun(x, y), epsilon=epsilon)
                how = dict(implicit_diff=None) if unroll else {}
                solver = sinkhorn.Sinkhorn(threshold=tol, max_iterations=200, **how)
                return solver(linear_problem.LinearProblem(cost, a, b)).reg_ot_cost

            return value

        return build

    builds = {OURS: mine, "ott implicit": theirs(False), "ott unrolled": theirs(True)}
    project = jnp.eye(17) - 1 / 17  # weights keep their sum
    for k, what in enumerate(("weights", "points")):

        def second(build, k=k):
            def wrapped(fun):
                hessian = jax.hessian(build(fun), k)
                return lambda a, x: (hessian(a, x), 0)

            return wrapped

        def shape(h, k=k):
            return project @ h @ project if k == 0 else h

        slope, step = jax.jit(jax.grad(mine(squares), k)), 1e-5
        basis = project if k == 0 else jnp.eye(x.size).reshape(-1, *x.shape)
        columns = []
        for e in step * basis:
            up, down = ((a + e, x), (a - e, x)) if k == 0 else ((a, x + e), (a, x - e))
            columns.append((slope(*up) - slope(*down)) / (2 * step))
        exact = shape(jnp.stack(columns).reshape(*((a, x)[k].shape * 2)))

        def judge(h, exact=exact, shape=shape):
            return jnp.max(jnp.abs(shape(h) - exact)) / jnp.max(jnp.abs(exact))

        contenders = [Contender(name, second(b)) for name, b in builds.items()]
        figures = compare(contenders, squares, (a, x), judge, 1e-4, options)
        peers = [name for name in builds if name != OURS]
        best = figures.fastest(peers)
        goal = target(f"time of {best} / ours", figures.ratio(best, OURS), ">=", 1.0)
        problem = f"Hessian of the value in {what}, 17 by 15 points"
        yield row(f"hessian_{what}", problem, figures, OURS, targets=[goal])


ROWS = {
    "values": values,
    "gradients": gradients,
    "cost_gradients": cost_gradients,
    "hessians": hessians,
}
