"""Transport at size: in float32, in ten dimensions, online, and a thousand at once."""

import time

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.interpreters import batching as _batching
from jax.interpreters import batching
from ott.geometry import geometry, pointcloud
from ott.problems.linear import linear_problem
from ott.solvers.linear import acceleration, sinkhorn

import jaxsolve
from bench._harness import Contender, compare, row, target
from bench.transport import OURS, marginal_error, ott_settings, otts, ours, pots
from bench.transport import squares as matrix
from jaxsolve import transport

# OTT 0.6 asks for this where it computes online; JAX has since moved it.
if not hasattr(batching, "is_vmappable"):
    batching.is_vmappable = _batching.is_vmappable


def in_float32(rows):
    """Measure rows where float64 is not enabled: OTT's momentum needs that."""

    def measure(options):
        with jax.enable_x64(False):
            yield from list(rows(options))

    return measure


def notebook(n, seed, dtype):
    """Give the clouds of OTT's notebook against POT: U(n, 6) and (N(n, 6) + .5) / 5."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(size=(n, 6)), (rng.normal(size=(n, 6)) + 0.5) / 5
    return jnp.asarray(x, dtype), jnp.asarray(y, dtype)


def compared(name, problem, x, y, epsilon, bound, options, *, goals=(), pot=True):
    """Measure ours, OTT at its settings, and POT, on two clouds."""
    tol = 0.9 * bound
    contenders = [
        Contender(OURS, ours(transport.newton_transport, epsilon, tol), f"tol {tol:g}")
    ]
    # A stored kernel that underflows runs to the end of OTT's iterations for nothing.
    deepest = float(jnp.max(matrix(x, y))) / epsilon
    underflows = deepest > -np.log(float(jnp.finfo(x.dtype).tiny))
    contenders += [
        Contender(k, otts(epsilon, tol, **settings), str(settings))
        for k, settings in ott_settings(epsilon).items()
        if not (underflows and "kernel" in k)
    ]
    if pot:
        names = {"pot log": "sinkhorn_log", "pot kernel": "sinkhorn"}
        contenders += [
            Contender(k, pots(epsilon, tol, method), method, compiled=False)
            for k, method in names.items()
        ]
    judge = marginal_error(x, y, epsilon)
    figures = compare(contenders, matrix, (x, y), judge, bound, options)
    best = {
        peer: figures.fastest([c.name for c in contenders if c.name.startswith(peer)])
        for peer in (("ott", "pot") if pot else ("ott",))
    }
    targets = [
        target(f"time of {best[k]} / ours", figures.ratio(best[k], OURS), ">=", goal)
        for k, goal in goals
    ]
    dtype = str(x.dtype)
    return row(name, problem, figures, OURS, targets=targets, dtype=dtype)


def sizes(options):
    """Measure OTT's notebook against POT, in float32."""
    for k, n in enumerate((64,) if options.quick else (512, 2048)):
        x, y = notebook(n, k, jnp.float32)
        mean = float(jnp.mean(matrix(x, y)))
        for share in (0.01, 0.05):
            bound = 0.01 / n**0.33
            problem = f"{n} points in 6-D, epsilon {share:g} of the mean cost"
            yield compared(
                f"notebook_{n}_{share:g}",
                f"{problem}, marginals to {bound:.1e} in L1",
                x,
                y,
                share * mean,
                bound,
                options._replace(compiles=1, calls=False),
                goals=(("ott", 1.0), ("pot", 1.0)),
            )


def ten_dimensions(options):
    """Measure 3,000 points in ten dimensions on the CPU, where OTT lost to POT."""
    n = 100 if options.quick else 3000
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.uniform(size=(n, 10))) for _ in range(2))
    epsilon = 1e-2 * float(jnp.mean(matrix(x, y)))
    yield compared(
        "ten_dimensions",
        f"{n} points in 10-D, epsilon 0.01 of the mean cost, marginals to 1e-3",
        x,
        y,
        epsilon,
        1e-3,
        options._replace(compiles=1, calls=False),
        goals=(("pot", 1.0),),
    )


def online(options):
    """Measure 20,000 points in float32 that are never a matrix, one run each."""
    n = 500 if options.quick else 20_000
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.uniform(size=(n, 2)), jnp.float32) for _ in range(2))
    epsilon, bound = 1e-2, 1e-3
    tol = 0.9 * bound

    def mine(x, y):
        cloud = transport.PointCloud(x, y, block=256)
        problem = transport.TransportProblem(cloud, epsilon=epsilon)
        solver, start = transport.newton_transport(), jnp.zeros(n, x.dtype)
        out = jaxsolve.run(solver, start, problem, tol=tol)
        return out.params, problem.other(out.params), out.state.count

    def otts_online(**settings):
        def solve(x, y):
            geometry = pointcloud.PointCloud(x, y, epsilon=epsilon, batch_size=256)
            solver = sinkhorn.Sinkhorn(threshold=tol, max_iterations=2000, **settings)
            out = solver(linear_problem.LinearProblem(geometry))
            shift = epsilon * np.log(n)
            return out.f + shift, out.g + shift, out.n_iters

        return solve

    @jax.jit
    def judge(f, g):
        cloud = transport.PointCloud(x, y, block=256)
        one, e = jnp.full(n, 1 / n, x.dtype), jnp.asarray(epsilon, x.dtype)
        rows = cloud.product((f, g), one, e, 1)
        columns = cloud.product((f, g), one, e, 0)
        return jnp.mean(jnp.abs(rows - 1)) + jnp.mean(jnp.abs(columns - 1))

    momentum = acceleration.Momentum(start=50, error_threshold=1.0)
    solves = {
        OURS: mine,
        "ott online": otts_online(),
        "ott online momentum": otts_online(momentum=momentum),
    }
    notes, seconds, memory = [], {}, {}
    for name, solve in solves.items():
        compiled = jax.jit(solve).lower(x, y).compile()
        memory[name] = compiled.memory_analysis().temp_size_in_bytes / 2**30
        begin = time.perf_counter()
        f, g, count = jax.block_until_ready(compiled(x, y))
        seconds[name] = time.perf_counter() - begin
        notes.append(
            f"{name}: {seconds[name]:.1f} s, {int(count)} updates, temporary "
            f"{memory[name]:.3f} GiB, marginals off by {float(judge(f, g)):.1e}"
        )
    best = min(seconds[k] for k in solves if k != OURS)
    yield {
        "row": "online",
        "problem": f"{n} points in 2-D online, epsilon {epsilon:g}, to {bound:g}",
        "dtype": "float32",
        "notes": notes,
        "seconds": seconds,
        "memory_gib": memory,
        "targets": [
            target("GiB of temporary memory", memory[OURS], "<=", 1.0),
            target("time of OTT online / ours", best / seconds[OURS], ">=", 1.0),
        ],
    }


def batch(options):
    """Measure a thousand small problems of mixed temperature at once."""
    lanes = 16 if options.quick else 1024
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(2, lanes, 64, 2))
    epsilon = 10 ** rng.uniform(-3, -1, lanes)
    yield _batch(options, tuple(jnp.asarray(z) for z in (x, y, epsilon)), 1e-6)
    with jax.enable_x64(False):
        single = tuple(jnp.asarray(z, jnp.float32) for z in (x, y, epsilon))
        done = _batch(options, single, 1e-4)
    yield done


def _batch(options, data, bound):
    tol = 0.9 * bound
    solver = transport.newton_transport()
    lanes = data[0].shape[0]
    start = jnp.zeros(data[0].shape[:2], data[0].dtype)

    def problem(fun):
        make = lambda x, y, e: transport.TransportProblem(fun(x, y), epsilon=e)
        return jax.jit(jax.vmap(make))

    @jax.jit
    @jax.vmap
    def both(problem, f):
        n = jnp.log(jnp.asarray(f.shape[0], f.dtype))
        shift = -problem.epsilon * n
        return jnp.concatenate([f + shift, problem.other(f) + shift])

    def packed(fun):
        make = problem(fun)

        def solve(*data):
            problems = make(*data)
            out = jaxsolve.solve_batch(
                solver, start, problems, tol=tol, max_steps=20_000
            )
            return both(problems, out.params), out.state.count

        return solve

    def mapped(inner):
        def build(fun):
            make = problem(fun)

            def one(f, problem):
                return inner(f, problem)

            def solve(*data):
                problems = make(*data)
                f, count = jax.vmap(one)(start, problems)
                return both(problems, f), count

            return solve

        return build

    def flat(f, problem):
        out = jaxsolve.run(solver, f, problem, tol=tol, max_steps=20_000)
        return out.params, out.state.count

    def nested(f, problem):
        """The same updates, a linear solve being a loop of its own."""
        update = lambda carry: solver.update(*carry, problem)
        live = lambda carry: (carry[1].error > tol) & (carry[1].count < 20_000)
        inner = lambda carry: live(carry) & carry[1].solving

        def outer(carry):
            carry = update(carry)  # a trial
            return jax.lax.while_loop(inner, update, carry)

        f, state = jax.lax.while_loop(live, outer, (f, solver.init(f, problem)))
        return f, state.count

    def otts_batch(**settings):
        def build(fun):
            def one(x, y, e):
                solve = sinkhorn.Sinkhorn(
                    threshold=tol, max_iterations=20_000, **settings
                )
                cost = geometry.Geometry(cost_matrix=fun(x, y), epsilon=e)
                out = solve(linear_problem.LinearProblem(cost))
                return jnp.concatenate([out.f, out.g]), out.n_iters

            return jax.vmap(one)

        return build

    anderson = acceleration.AndersonAcceleration(5, ridge_identity=1e-8)
    reference = "jaxsolve solve_batch"
    contenders = [
        Contender(reference, packed, f"newton, tol {tol:g}", compiled=False),
        Contender("jaxsolve vmap(run)", mapped(flat), "flattened CG"),
        Contender("jaxsolve inner loop", mapped(nested), "CG in a loop of its own"),
        Contender("ott anderson", otts_batch(anderson=anderson), "5, ridge 1e-8"),
    ]
    judge = marginal_error(*data)
    repeats = min(options.repeats, 3)
    options = options._replace(compiles=1, calls=False, repeats=repeats)
    figures = compare(contenders, matrix, data, judge, bound, options)
    ratio = figures.ratio("ott anderson", reference)
    return row(
        f"batch_{data[0].dtype}",
        f"{lanes} problems of 64x64, epsilon 1e-3 to 1e-1, marginals to {bound:g}",
        figures,
        reference,
        targets=[target("time of ott anderson / ours", ratio, ">=", 10.0)],
        dtype=str(data[0].dtype),
        notes=["OTT plain and with momentum take six times Anderson's time and more."],
    )


ROWS = {
    "sizes": in_float32(sizes),
    "ten_dimensions": ten_dimensions,
    "online": in_float32(online),
    "batch": batch,
}
