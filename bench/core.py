"""The core: gradients through a run, batches, eager calls, memory, compile time."""

import functools

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
import optimistix

import jaxsolve
from bench import _peers as peers
from bench._harness import (
    Contender,
    clock,
    compare,
    compile_afresh,
    counting,
    interleave,
    row,
    target,
)
from bench.smooth import OURS, ours, rosenbrock, start

EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "traces",
    "/jax/core/compile/backend_compile_duration": "compiles",
}


class Compilations:
    """Counts JAX's own traces and compilations while it is entered."""

    def __init__(self):
        self.active, self.counts = False, dict.fromkeys(EVENTS.values(), 0)
        jax.monitoring.register_event_duration_secs_listener(self._hear)

    def _hear(self, event, duration, **_):
        if self.active and event in EVENTS:
            self.counts[EVENTS[event]] += 1

    def __enter__(self):
        self.active, self.counts = True, dict.fromkeys(EVENTS.values(), 0)
        return self.counts

    def __exit__(self, *_):
        self.active = False


# ------------------------------------------------------------- gradients through a run


def quadratic_form(x, matrix):
    """Give x' A x, U4's objective."""
    return x @ matrix @ x


def _unrolled(option, max_steps, rate, tol):
    """Solve and differentiate in the start, through all steps: `(grad, steps)`."""

    def value(fun, x, matrix):
        if option == "ours":
            solver = jaxsolve.smooth.gradient_descent(fun, stepsize=rate)
            rule = jaxsolve.core.unrolled()
            out = jaxsolve.run(
                solver, x, matrix, max_steps=max_steps, tol=tol, derivative=rule
            )
            return jnp.sum(out.params), out.state.count
        if option == "optimistix":
            solver = optimistix.GradientDescent(rate, rtol=0.0, atol=tol)
            adjoint = optimistix.RecursiveCheckpointAdjoint()
            solve = peers.optimistix_minimise(solver, max_steps, adjoint=adjoint)
            x, steps = solve(fun)(x, matrix)
            return jnp.sum(x), steps
        solver = jaxopt.GradientDescent(
            fun,
            stepsize=rate,
            tol=tol,
            acceleration=False,
            maxiter=max_steps,
            implicit_diff=False,
        )
        out = solver.run(x, matrix)
        return jnp.sum(out.params), out.state.iter_num

    def build(fun):
        def solve(x, matrix):
            gradient = jax.grad(lambda x: value(fun, x, matrix), has_aux=True)
            grad, steps = jax.vmap(gradient)(x)
            return (grad, steps), steps

        return solve

    return build


def _unroll_row(options, max_steps):
    size, rate, bound = (20 if options.quick else 100), 1e-3, 0.1
    root = jax.random.normal(jax.random.key(0), (size, size), jnp.float32)
    matrix = root.T @ root
    point = jax.random.normal(jax.random.key(1), (1, size), jnp.float32)
    values, vectors = np.linalg.eigh(np.asarray(matrix, np.float64))

    def error(out):
        grad, steps = map(np.asarray, out)
        decay = (1 - 2 * rate * values) ** steps[:, None]
        exact = (decay * vectors.sum(axis=0)) @ vectors.T
        return np.max(np.abs(grad - exact), axis=1) / np.max(np.abs(exact))

    contenders = [
        Contender(
            OURS, _unrolled("ours", max_steps, rate, bound), "unrolled(), tol .1"
        ),
        Contender(
            "optimistix",
            _unrolled("optimistix", max_steps, rate, 1.5e-4),
            "RecursiveCheckpointAdjoint, rtol 0, atol 1.5e-4: as many steps",
        ),
        Contender(
            "jaxopt",
            _unrolled("jaxopt", max_steps, rate, JAXOPT_L2),
            f"implicit_diff=False, tol {JAXOPT_L2} on the l2 norm: as many steps",
        ),
    ]
    figures = compare(contenders, quadratic_form, (point, matrix), error, 1e-2, options)
    targets = [
        target("optimistix / ours", figures.ratio("optimistix", OURS), ">=", 1.0),
        target("jaxopt / ours", figures.ratio("jaxopt", OURS), ">=", 20.0),
    ]
    return row(
        f"gradient_unrolled_{max_steps}",
        "U4: d sum(x) / d x0 through every step of gradient descent on x'Ax, "
        f"n={size}, 1 lane, max_steps {max_steps}; error against the closed form",
        figures,
        OURS,
        targets=targets,
        dtype="float32",
        notes=[f"steps: {[r['steps_max'] for r in figures.records]}"],
    )


JAXOPT_L2 = 0.4


def linear_quadratic(x, data):
    """Give x' A x - b' x, whose solution depends on b."""
    matrix, vector = data
    return x @ matrix @ x - vector @ x


def _implicit(option, max_steps, rate, tol):
    """Solve and differentiate in `b` by the implicit function theorem."""

    def value(fun, vector, matrix):
        x, data = jnp.zeros_like(vector), (matrix, vector)
        if option == "ours":
            solver = jaxsolve.smooth.gradient_descent(fun, stepsize=rate)
            out = jaxsolve.run(solver, x, data, max_steps=max_steps, tol=tol)
            return jnp.sum(out.params), out.state.count
        if option == "optimistix":
            solver = optimistix.GradientDescent(rate, rtol=0.0, atol=tol)
            x, steps = peers.optimistix_minimise(solver, max_steps)(fun)(x, data)
            return jnp.sum(x), steps
        solve = {"jaxopt": None, "jaxopt cg": jaxopt.linear_solve.solve_cg}[option]
        solver = jaxopt.GradientDescent(
            fun,
            stepsize=rate,
            tol=tol,
            acceleration=False,
            maxiter=max_steps,
            implicit_diff=True,
            implicit_diff_solve=solve,
        )
        out = solver.run(x, data)
        return jnp.sum(out.params), out.state.iter_num

    def build(fun):
        def solve(vector, matrix):
            gradient = jax.grad(lambda b: value(fun, b, matrix), has_aux=True)
            return jax.vmap(gradient)(vector)

        return solve

    return build


def _implicit_row(options):
    size, lanes, rate, tol = (20 if options.quick else 100), 16, 1e-3, 1e-4
    root = jax.random.normal(jax.random.key(0), (size, size))
    matrix = root.T @ root + 10 * jnp.eye(size)
    vectors = jax.random.normal(jax.random.key(1), (lanes, size))
    exact = 0.5 * np.linalg.solve(np.asarray(matrix), np.ones(size))

    def error(grad):
        return np.max(np.abs(np.asarray(grad) - exact), axis=1) / np.max(np.abs(exact))

    steps = 100_000
    contenders = [
        Contender(OURS, _implicit("ours", steps, rate, tol), "the solver's own rule"),
        Contender(
            "optimistix",
            _implicit("optimistix", steps, rate, tol * rate),
            "ImplicitAdjoint (default), rtol 0, atol 1e-7: a gradient of 1e-4",
        ),
        Contender(
            "jaxopt", _implicit("jaxopt", steps, rate, tol), "default: normal CG"
        ),
        Contender("jaxopt cg", _implicit("jaxopt cg", steps, rate, tol), "solve_cg"),
    ]
    args = (vectors, matrix)
    figures = compare(contenders, linear_quadratic, args, error, 1e-4, options)
    fast = figures.fastest(["jaxopt", "jaxopt cg"])
    targets = [
        target("optimistix / ours", figures.ratio("optimistix", OURS), ">=", 1.0),
        target(f"{fast} / ours", figures.ratio(fast, OURS), ">=", 1.0),
    ]
    return row(
        "gradient_implicit",
        f"d sum(x*) / d b, implicit, gradient descent on x'(A + 10)x - b'x, n={size}, "
        f"{lanes} lanes, max_steps {steps}; error against the closed form",
        figures,
        OURS,
        targets=targets,
        notes=[f"steps: {[r['steps_max'] for r in figures.records]}"],
    )


def gradient_through_vmap(options):
    """Measure U4, unrolled on all sides, and the implicit rule on all sides."""
    with jax.enable_x64(False):
        for max_steps in (500,) if options.quick else (10_000, 100_000):
            yield _unroll_row(options, max_steps)
    yield _implicit_row(options)


# -------------------------------------------------------------------------- batches


def bowl(x, data):
    """Give a quadratic of curvatures `data[0]`, at most one, about `data[1]`."""
    curvatures, centre = data
    return 0.5 * jnp.sum(curvatures * (x - centre) ** 2)


def _conditions(lanes, heavy):
    """Give condition numbers: all 30, or or a heavy tail that is cut at 500."""
    if not heavy:
        return np.full(lanes, 30.0)
    quantiles = (np.arange(lanes) + 0.5) / lanes
    tail = np.minimum(5 * (1 - quantiles) ** -0.75, 500.0)
    return np.random.default_rng(0).permutation(tail)


def _batch_row(name, make, fun, args, error, bound, options, goal, text):
    max_steps = 200_000

    def packed(fun):
        solver = make(fun)

        def solve(x, data):
            out = jaxsolve.solve_batch(solver, x, data, max_steps=max_steps, tol=bound)
            return out.params, out.state.count

        return solve

    def plain(fun):
        solver = make(fun)

        def solve(x, data):
            one = functools.partial(
                jaxsolve.run, solver, max_steps=max_steps, tol=bound
            )
            out = jax.vmap(one)(x, data)
            return out.params, out.state.count

        return solve

    contenders = [
        Contender("solve_batch", packed, "driven from Python", compiled=False),
        Contender("jit(vmap(run))", plain, "compiled as a whole"),
    ]
    options = options._replace(compiles=1, calls=False)
    figures = compare(contenders, fun, args, error, bound, options)
    x, counts = figures.outputs["solve_batch"]
    y, others = figures.outputs["jit(vmap(run))"]
    ratio = figures.ratio("jit(vmap(run))", "solve_batch")
    spread = float(np.max(others) / np.mean(others))
    notes = [
        f"steps: mean {np.mean(others):.0f}, longest {np.max(others)}, {spread:.1f}x "
        f"the mean; largest difference of params {np.max(np.abs(x - y)):.1e}, of step "
        f"counts {np.max(np.abs(counts - others))}"
    ]
    targets = [target("jit(vmap(run)) / solve_batch", ratio, ">=", goal)]
    targets += [target("params differ by", np.max(np.abs(x - y)), "<=", 10 * bound)]
    return row(
        name, text, figures, "solve_batch", targets=targets, notes=notes, spread=spread
    )


def heavy_tail_batch(options):
    """Measure solve_batch where few lanes need many steps, and where all are even."""
    lanes, size, bound = (256 if options.quick else 4096), 16, 1e-8
    centres = jax.random.normal(jax.random.key(0), (lanes, size))
    gradient = jax.jit(jax.vmap(jax.grad(bowl)))
    descent = functools.partial(jaxsolve.smooth.gradient_descent, stepsize=1.0)
    for name, heavy, goal in (
        ("heavy_tail_batch", True, 3.0),
        ("even_batch", False, 1 / 1.05),
    ):
        conditions = _conditions(lanes, heavy)
        curvatures = conditions[:, None] ** -np.linspace(0, 1, size)
        data = (jnp.asarray(curvatures), centres)
        args = (jnp.zeros((lanes, size)), data)

        def error(x, data=data):
            return np.max(np.abs(gradient(x, data)), axis=1)

        text = (
            f"{lanes} quadratics, n={size}, gradient descent, condition numbers "
            f"{conditions.min():.0f} .. {conditions.max():.0f}"
        )
        yield _batch_row(name, descent, bowl, args, error, bound, options, goal, text)
    if not options.quick:
        yield _lbfgs_tail(options)


def _lbfgs_tail(options):
    """Give a batch for L-BFGS: mostly easy lanes, a hundredth are hard Rosenbrocks."""
    lanes, size, bound = (256 if options.quick else 4096), 16, 1e-6
    scales = np.where(np.arange(lanes) % 101 == 0, 100.0, 1e-4)
    tilt = np.random.default_rng(0).uniform(0.9, 1.1, (lanes, size))
    args = (jnp.asarray(tilt) * start(size), jnp.asarray(scales))
    gradient = jax.jit(jax.vmap(jax.grad(rosenbrock)))

    def error(x):
        return np.max(np.abs(gradient(x, args[1])), axis=1)

    text = f"{lanes} Rosenbrocks, n={size}, L-BFGS, scale 1e-4, in every 101st lane 100"
    return _batch_row(
        "heavy_tail_lbfgs",
        lambda fun: jaxsolve.smooth.lbfgs(fun, memory=peers.MEMORY),
        rosenbrock,
        args,
        error,
        bound,
        options,
        3.0,
        text,
    )


# --------------------------------------------------------------------- eager calls


def eager_second_call(options):
    """Measure what a second eager call costs above the compiled loop."""
    listener = Compilations()
    records, targets, notes = [], [], []
    point = start(2)
    data = jnp.ones(())
    solvers = {
        "jaxsolve.run": lambda fun: _runner(fun),
        "jaxsolve.minimize": lambda fun: _minimizer(fun),
        "jaxopt LBFGS.run": lambda fun: _jaxopt_eager(fun),
        "optimistix.minimise": lambda fun: peers.optimistix_lbfgs(1e-9)(fun),
    }
    if options.quick:  # it takes a second for every eager call
        del solvers["jaxopt LBFGS.run"]
    for name, make in solvers.items():
        jax.clear_caches()
        traces = [0]
        solve = make(counting(rosenbrock, traces))
        jax.block_until_ready(solve(point, data))
        first = traces[0]
        fresh = jax.block_until_ready((point * 0.9, data * 1.1))
        with listener as counts:
            jax.block_until_ready(solve(*fresh))
        again = traces[0] - first
        compiled = jax.jit(solve).lower(point, data).compile()
        compiled(point, data)
        calls = [lambda s=solve: s(point, data), lambda c=compiled: c(point, data)]
        turns = interleave(calls, options.repeats)
        eager, bare = np.median(turns, axis=0)
        overhead = float(np.median(turns[:, 0] - turns[:, 1]))
        record = {
            "name": name,
            "eager": eager,
            "compiled": bare,
            "overhead": overhead,
            "second_traces_of_fun": again,
            "second_traces": counts["traces"],
            "second_compiles": counts["compiles"],
        }
        records.append(record)
        notes.append(
            f"{name:<22} eager {eager * 1e3:7.3f} ms, compiled {bare * 1e3:7.3f} ms, "
            f"overhead {overhead * 1e3:7.3f} ms; second call: {again} traces of fun, "
            f"{counts['traces']} traces, {counts['compiles']} compilations"
        )
        if name.startswith(OURS):
            targets += [
                target(f"{name}: overhead in ms", overhead * 1e3, "<=", 2.0),
                target(f"{name}: traces, second call", counts["traces"], "<=", 0),
                target(f"{name}: compilations", counts["compiles"], "<=", 0),
            ]
    yield {
        "row": "eager_second_call",
        "problem": "L-BFGS on Rosenbrock's function of two variables, new numbers",
        "dtype": "float64",
        "contenders": records,
        "notes": notes,
        "targets": targets,
    }


def _runner(fun):
    solver = jaxsolve.smooth.lbfgs(fun, memory=peers.MEMORY)
    return lambda x, data: jaxsolve.run(solver, x, data, tol=1e-6)


def _minimizer(fun):
    return lambda x, data: jaxsolve.minimize(fun, x, data)


def _jaxopt_eager(fun):
    return peers.jaxopt_lbfgs(1e-6)(fun)


# ------------------------------------------------------------------------- memory


def ridge(weights, data):
    """Least squares with a ridge, in a logarithm that is differentiated."""
    features, targets, log_ridge = data
    fit = 0.5 * jnp.mean((features @ weights - targets) ** 2)
    return fit + 0.5 * jnp.exp(log_ridge) * jnp.vdot(weights, weights)


def _hypergradient(option, steps, rate):
    def build(fun):
        def outer(log_ridge, features, targets):
            x, data = jnp.zeros(features.shape[1]), (features, targets, log_ridge)
            if option.startswith(OURS):
                solver = jaxsolve.smooth.gradient_descent(fun, stepsize=rate)
                core = jaxsolve.core
                rule = (
                    core.unrolled() if "unrolled" in option else core.implicit(psd=True)
                )
                out = jaxsolve.run(
                    solver, x, data, max_steps=steps, tol=1e-12, derivative=rule
                )
                x = out.params
            elif option.startswith("optimistix"):
                adjoint = optimistix.ImplicitAdjoint()
                if "unrolled" in option:
                    adjoint = optimistix.RecursiveCheckpointAdjoint()
                solver = optimistix.GradientDescent(rate, rtol=0.0, atol=1e-15)
                solve = peers.optimistix_minimise(solver, steps, adjoint=adjoint)
                x, _ = solve(fun)(x, data)
            else:
                solver = jaxopt.GradientDescent(
                    fun,
                    stepsize=rate,
                    tol=1e-12,
                    acceleration=False,
                    maxiter=steps,
                    implicit_diff="unrolled" not in option,
                )
                x = solver.run(x, data).params
            return 0.5 * jnp.mean((features @ x - targets) ** 2)

        def solve(log_ridge, features, targets):
            return jax.grad(outer)(log_ridge, features, targets), 0

        return solve

    return build


def hypergradient_memory(options):
    """Measure temporary memory of a gradient through ever more inner steps."""
    lengths = (10, 100) if options.quick else (10, 100, 1000)
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.normal(size=(200, 500)))
    args = (jnp.asarray(-2.0), features, jnp.asarray(rng.normal(size=200)))
    rate = float(1 / (np.linalg.norm(features, 2) ** 2 / 200 + np.exp(-2.0)))
    names = [
        f"{library} {rule}"
        for library in (OURS, "optimistix", "jaxopt")
        for rule in ("implicit", "unrolled")
    ]
    records, notes = [], []
    for name in names:
        sizes, seconds = [], []
        for steps in lengths:
            contender = Contender(name, _hypergradient(name, steps, rate))
            call, _, _, memory = compile_afresh(contender, ridge, args)
            sizes.append(memory)
            seconds.append(clock(call))
        records.append(
            {
                "name": name,
                "steps": list(lengths),
                "temp_bytes": sizes,
                "seconds": seconds,
            }
        )
        figures = ", ".join(
            f"{k}: {b / 2**20:.2f} MiB {t * 1e3:.1f} ms"
            for k, b, t in zip(lengths, sizes, seconds, strict=True)
        )
        notes.append(f"{name:<22} {figures}")
    flat, loop = records[0]["temp_bytes"], records[1]["temp_bytes"]
    yield {
        "row": "hypergradient_memory",
        "problem": "d loss / d log ridge through gradient descent, 500 weights; "
        "temporary bytes of the compiled gradient, by inner steps",
        "dtype": "float64",
        "contenders": records,
        "notes": notes,
        "targets": [
            target("implicit: last / first", flat[-1] / max(flat[0], 1), "<=", 1.0),
            target("unrolled / implicit, last", loop[-1] / max(flat[-1], 1), ">=", 1.0),
        ],
    }


# ------------------------------------------------------------------- compile time


def _ours_solver(make, tol=1e-6, max_steps=1000):
    def build(fun):
        solver = make(fun)

        def solve(x, data):
            out = jaxsolve.run(solver, x, data, max_steps=max_steps, tol=tol)
            return out.params, out.state.count

        return solve

    return build


def _jaxopt_solver(make):
    def build(fun):
        solver = make(fun)

        def solve(x, data):
            out = solver.run(x, data)
            return out.params, out.state.iter_num

        return solve

    return build


def _jaxopt_prox(fun):
    solver = jaxopt.ProximalGradient(fun, jaxopt.prox.prox_lasso, stepsize=0.1)

    def solve(x, data):
        out = solver.run(x, 0.1, data)
        return out.params, out.state.iter_num

    return solve


def _optimistix_fixed_point(fun):
    solver = optimistix.FixedPointIteration(rtol=1e-6, atol=1e-6)

    def solve(x, data):
        out = optimistix.fixed_point(fun, solver, x, data, max_steps=1000, throw=False)
        return out.value, out.stats["num_steps"]

    return solve


def fixed_map(x, data):
    """Give a contraction."""
    return 0.5 * jnp.cos(x) + data


def compile_time(options):
    """Measure trace, lowering and compilation of one solve of each solver."""
    room = jaxsolve
    gd = functools.partial(jaxopt.GradientDescent, stepsize=0.1, acceleration=False)
    optx_gd = optimistix.GradientDescent(0.1, rtol=1e-6, atol=1e-6)
    kinds = {
        "gradient_descent": (
            rosenbrock,
            _ours_solver(lambda f: room.smooth.gradient_descent(f, stepsize=0.1)),
            {
                "jaxopt": _jaxopt_solver(gd),
                "optimistix": peers.optimistix_minimise(optx_gd),
            },
        ),
        "lbfgs": (
            rosenbrock,
            ours(1e-6),
            {
                "jaxopt": peers.jaxopt_lbfgs(1e-6),
                "jaxopt backtracking": peers.jaxopt_lbfgs(
                    1e-6, linesearch="backtracking"
                ),
                "optimistix": peers.optimistix_lbfgs(1e-6),
                "optax": peers.optax_lbfgs(1e-6),
            },
        ),
        "proximal_gradient": (
            rosenbrock,
            _ours_solver(
                lambda f: room.composite.proximal_gradient(
                    f, room.prox.l1(0.1), stepsize=0.1
                )
            ),
            {"jaxopt": _jaxopt_prox},
        ),
        "picard": (
            fixed_map,
            _ours_solver(lambda f: room.fixed_point.picard(f)),
            {
                "jaxopt": _jaxopt_solver(jaxopt.FixedPointIteration),
                "optimistix": _optimistix_fixed_point,
            },
        ),
        "anderson": (
            fixed_map,
            _ours_solver(lambda f: room.fixed_point.anderson(f)),
            {"jaxopt": _jaxopt_solver(jaxopt.AndersonAcceleration)},
        ),
    }
    records, notes, targets = [], [], []
    args = (start(10), jnp.ones(()))
    for kind, (fun, mine, others) in kinds.items():
        contenders = [Contender(OURS, mine)]
        contenders += [Contender(name, build) for name, build in others.items()]
        times = {c.name: [] for c in contenders}
        for _ in range(options.compiles):
            for contender in contenders:
                _, seconds, traces, _ = compile_afresh(contender, fun, args)
                times[contender.name].append((*seconds[:2], traces))
        totals = {}
        for name, measured in times.items():
            lower, compiling, traces = np.median(measured, axis=0)
            totals[name] = lower + compiling
            records.append(
                {
                    "name": f"{kind}: {name}",
                    "lower": lower,
                    "compile": compiling,
                    "traces": int(traces),
                }
            )
            notes.append(
                f"{kind + ': ' + name:<36} trace+lower {lower * 1e3:6.0f} ms, compile "
                f"{compiling * 1e3:6.0f} ms, traces of fun {int(traces)}"
            )
        best = min(others, key=totals.get)
        ratio = totals[OURS] / totals[best]
        targets.append(target(f"{kind}: ours / {best}", ratio, "<=", 1.1))
    yield {
        "row": "compile_time",
        "problem": "one solve of 10 variables: trace+lower, compile",
        "dtype": "float64",
        "contenders": records,
        "notes": notes,
        "targets": targets,
    }


ROWS = {
    "gradient_through_vmap": gradient_through_vmap,
    "heavy_tail_batch": heavy_tail_batch,
    "eager_second_call": eager_second_call,
    "hypergradient_memory": hypergradient_memory,
    "compile_time": compile_time,
}
