"""Nonlinear least squares: our three solvers beside JAXopt, Optimistix and SciPy."""

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
import optimistix
import scipy.optimize

import jaxsolve
from bench import _peers as peers
from bench._harness import Contender, compare, row, target

OURS = "jaxsolve"
MAX_STEPS = 500


def ours(tol, factory=jaxsolve.smooth.levenberg_marquardt):
    """Give one of our solvers, one problem, to be compiled."""

    def build(fun):
        solver = factory(fun)

        def solve(x, data):
            out = jaxsolve.run(solver, x, data, max_steps=MAX_STEPS, tol=tol)
            return out.params, out.state.count

        return solve

    return build


def ours_batch(tol):
    """Give our Levenberg-Marquardt through `solve_batch`, driven from Python."""

    def build(fun):
        solver = jaxsolve.smooth.levenberg_marquardt(fun)

        def solve(x, data):
            out = jaxsolve.solve_batch(solver, x, data, max_steps=MAX_STEPS, tol=tol)
            return out.params, out.state.count

        return solve

    return build


def jaxopt_marquardt(tol, **settings):
    """Give JAXopt's Levenberg-Marquardt; its `tol` bounds the l2 norm of J'r."""

    def build(fun):
        solver = jaxopt.LevenbergMarquardt(
            fun, maxiter=MAX_STEPS, tol=tol, unroll=False, **settings
        )

        def solve(x, data):
            out = solver.run(x, data)
            return out.params, out.state.iter_num

        return solve

    return build


def optimistix_fit(solver):
    """Give an Optimistix solver; it stops by Cauchy's rule on steps and values."""

    def build(fun):
        def solve(x, data):
            out = optimistix.least_squares(
                fun, solver, x, data, max_steps=MAX_STEPS, throw=False
            )
            return out.value, out.stats["num_steps"]

        return solve

    return build


def scipy_fit(method, tol):
    """Give SciPy's least_squares over jitted residuals and Jacobian."""

    def build(fun):
        residuals, jacobian = jax.jit(fun), jax.jit(jax.jacfwd(fun))

        def solve(x, data):
            out = scipy.optimize.least_squares(
                lambda z: np.asarray(residuals(z, data), np.float64),
                np.asarray(x, np.float64),
                jac=lambda z: np.asarray(jacobian(z, data), np.float64),
                method=method,
                xtol=tol,
                ftol=tol,
                gtol=tol,
                max_nfev=MAX_STEPS,
            )
            return jnp.asarray(out.x, x.dtype), out.nfev

        return solve

    return build


def gradient_norm(fun, batched=False):
    """Give the harness's judge: the sup-norm of J'r, computed outside."""
    gradient = jax.grad(lambda x, data: 0.5 * jnp.sum(fun(x, data) ** 2))
    gradient = jax.jit(jax.vmap(gradient) if batched else gradient)
    return lambda x, data: jnp.max(jnp.abs(gradient(x, data)), axis=-1)


def two_decays(x, data):
    """Residuals of a sum of two decays at 30 times."""
    times = jnp.linspace(0.0, 4.0, 30)
    return x[0] * jnp.exp(-x[1] * times) + x[2] * jnp.exp(-x[3] * times) - data


def curve_fits(options):
    """Measure 1,024 fits of two decays in one vmap."""
    lanes, bound = (16 if options.quick else 1024), 1e-6
    rng = np.random.default_rng(0)
    sizes = rng.uniform(1.0, 3.0, (lanes, 2))
    rates = np.stack(
        [rng.uniform(0.2, 0.6, lanes), rng.uniform(1.5, 3.0, lanes)], axis=1
    )
    times = np.linspace(0.0, 4.0, 30)
    curves = np.sum(sizes[:, :, None] * np.exp(-rates[:, :, None] * times), axis=1)
    curves = jnp.asarray(curves + 0.01 * rng.normal(size=curves.shape))
    points = jnp.tile(jnp.array([1.0, 0.5, 1.0, 1.5]), (lanes, 1))
    dense = {"materialize_jac": True}
    cauchy = 1e-6
    names = {
        OURS: (ours(bound / 10), "vmap(run), tol 1e-7"),
        "jaxsolve dogleg": (ours(bound / 10, jaxsolve.smooth.dogleg), "tol 1e-7"),
        "jaxopt LM": (jaxopt_marquardt(bound), "default CG, tol 1e-6"),
        "jaxopt LM cholesky": (
            jaxopt_marquardt(bound, solver="cholesky", **dense),
            "materialize_jac, tol 1e-6",
        ),
        "jaxopt LM qr": (
            jaxopt_marquardt(bound, solver="qr", **dense),
            "materialize_jac, tol 1e-6",
        ),
        "optimistix LM": (
            optimistix_fit(optimistix.LevenbergMarquardt(rtol=cauchy, atol=cauchy)),
            "rtol=atol=1e-6",
        ),
        "optimistix Dogleg": (
            optimistix_fit(optimistix.Dogleg(rtol=cauchy, atol=cauchy)),
            "rtol=atol=1e-6",
        ),
    }
    if options.quick:
        names.pop("jaxopt LM qr"), names.pop("optimistix Dogleg")
    contenders = [
        Contender(name, peers.batched(build), settings)
        for name, (build, settings) in names.items()
    ]
    batch = Contender(
        "jaxsolve solve_batch", ours_batch(bound / 10), "", compiled=False
    )
    contenders.insert(1, batch)
    judge = gradient_norm(two_decays, batched=True)
    figures = compare(
        contenders,
        two_decays,
        (points, curves),
        lambda params: judge(params, curves),
        bound,
        options,
    )
    best = figures.fastest([OURS, "jaxsolve solve_batch"])
    targets = [target("all lanes reach 1e-6", figures.of(OURS)["reached"], ">=", 1.0)]
    for library, goal in (("jaxopt", 3.0), ("optimistix", 1.0)):
        peer = figures.fastest([name for name in names if name.startswith(library)])
        targets.append(
            target(f"time of {peer} / {best}", figures.ratio(peer, best), ">=", goal)
        )
    targets.append(target("residual traces", figures.of(OURS)["traces"], "<=", 2))
    problem = (
        f"{lanes} fits in one vmap, 30 points of a exp(-b t) + c exp(-d t), noise 0.01,"
        " from (1, 0.5, 1, 1.5), to |J'r| <= 1e-6"
    )
    yield row("curve_fits", problem, figures, OURS, targets=targets)


def trajectories(x, steps=300, kept=20):
    """Predators and prey from three starts, by fixed steps of Runge and Kutta."""

    def field(y):
        return jnp.stack(
            [x[0] * y[0] - x[1] * y[0] * y[1], x[3] * y[0] * y[1] - x[2] * y[1]]
        )

    dt = 30.0 / steps

    def step(y, _):
        k1 = field(y)
        k2 = field(y + dt / 2 * k1)
        k3 = field(y + dt / 2 * k2)
        k4 = field(y + dt * k3)
        y = y + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return y, y

    def solve(start):
        path = jax.lax.scan(step, start, length=steps)[1]
        return path[:: steps // kept]

    starts = jnp.array([[9.0, 9.0], [10.0, 10.0], [11.0, 11.0]], x.dtype)
    return jax.vmap(solve)(starts)


def lotka_volterra(options):
    """Measure one fit of an ordinary differential equation, as U3."""
    bound, truth = 1e-6, jnp.array([0.1, 0.02, 0.4, 0.02])
    fun = lambda x, data: jnp.ravel(trajectories(x) - data)
    data = jax.jit(trajectories)(truth)
    dense = {"materialize_jac": True}
    cauchy = 1e-8
    names = {
        OURS: (ours(1e-10), "run, tol 1e-10"),
        "jaxsolve dogleg": (ours(1e-10, jaxsolve.smooth.dogleg), "tol 1e-10"),
        "jaxsolve GN": (ours(1e-10, jaxsolve.smooth.gauss_newton), "tol 1e-10"),
        "jaxopt LM": (jaxopt_marquardt(bound), "default CG, tol 1e-6"),
        "jaxopt LM cholesky": (
            jaxopt_marquardt(bound, solver="cholesky", **dense),
            "materialize_jac, tol 1e-6",
        ),
        "optimistix LM": (
            optimistix_fit(optimistix.LevenbergMarquardt(rtol=cauchy, atol=cauchy)),
            "rtol=atol=1e-8",
        ),
        "optimistix Dogleg": (
            optimistix_fit(optimistix.Dogleg(rtol=cauchy, atol=cauchy)),
            "rtol=atol=1e-8",
        ),
        "optimistix GN": (
            optimistix_fit(optimistix.GaussNewton(rtol=cauchy, atol=cauchy)),
            "rtol=atol=1e-8",
        ),
    }
    if options.quick:
        names = {k: v for k, v in names.items() if k in (OURS, "optimistix LM")}
    contenders = [Contender(name, build, what) for name, (build, what) in names.items()]
    for method in ("lm", "trf"):
        solve = scipy_fit(method, 1e-12)
        contenders.append(Contender(f"scipy {method}", solve, "", compiled=False))
    judge = gradient_norm(fun)
    start = jnp.zeros(4)
    figures = compare(
        contenders, fun, (start, data), lambda x: judge(x, data), bound, options
    )
    rest = [c.name for c in contenders if not c.name.startswith("jaxsolve")]
    peer = figures.fastest(rest)
    cold = figures.fastest([n for n in rest if not n.startswith("scipy")], "cold")
    ratio = figures.of(cold)["cold"] / figures.of(OURS)["cold"]
    targets = [
        target(f"time of {peer} / ours", figures.ratio(peer, OURS), ">=", 1.0),
        target(f"compile and first run of {cold} / ours", ratio, ">=", 1.0),
        target("residual traces", figures.of(OURS)["traces"], "<=", 2),
    ]
    problem = (
        "Lotka-Volterra, 3 starts, 20 times, 300 Runge-Kutta steps, four rates from "
        "zero, to |J'r| <= 1e-6"
    )
    yield row("lotka_volterra", problem, figures, OURS, targets=targets)


ROWS = {"curve_fits": curve_fits, "lotka_volterra": lotka_volterra}
