"""Dense BFGS and nonlinear CG against JAXopt, Optimistix and SciPy."""

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
import optimistix
import scipy.optimize

import jaxsolve
from bench import _peers as peers
from bench._harness import Contender, compare, row, target
from bench.smooth import gradient_norm, logistic, rosenbrock, start


def ours(factory, tol, max_steps=5000):
    """Give one of our solvers, one problem, to be compiled."""

    def build(fun):
        solver = factory(fun)

        def solve(x, data):
            out = jaxsolve.run(solver, x, data, max_steps=max_steps, tol=tol)
            return out.params, out.state.count

        return solve

    return build


def jaxopt_solver(factory, tol, max_steps=3000, **settings):
    """Give a JAXopt solver; its `tol` bounds the l2 norm of the gradient."""

    def build(fun):
        solver = factory(fun, maxiter=max_steps, tol=tol, unroll=False, **settings)

        def solve(x, data):
            out = solver.run(x, data)
            return out.params, out.state.iter_num

        return solve

    return build


def optimistix_cg(tol):
    """Give Optimistix's nonlinear CG, with its default rule, Polak and Ribiere's."""
    return peers.optimistix_minimise(optimistix.NonlinearCG(rtol=tol, atol=tol))


def scipy_minimize(method, tol, max_steps=5000):
    """Give a SciPy method over a jitted value_and_grad."""

    def build(fun):
        oracle = jax.jit(jax.value_and_grad(fun))

        def solve(x, data):
            def call(z):
                value, grad = oracle(z, data)
                return float(value), np.asarray(grad)

            out = scipy.optimize.minimize(
                call,
                np.asarray(x),
                jac=True,
                method=method,
                options={"gtol": tol, "maxiter": max_steps},
            )
            return jnp.asarray(out.x), out.nit

        return solve

    return build


def _row(name, problem, fun, x, data, bound, tolerances, options):
    l2, cauchy = tolerances  # the loosest that reach the bound
    contenders = [
        Contender("bfgs", ours(jaxsolve.smooth.bfgs, bound), "run, sup-norm"),
        Contender("nonlinear_cg", ours(jaxsolve.smooth.nonlinear_cg, bound), ""),
        Contender("lbfgs", ours(jaxsolve.smooth.lbfgs, bound), "for comparison"),
        Contender("jaxopt BFGS", jaxopt_solver(jaxopt.BFGS, l2), "default zoom"),
        Contender("jaxopt NonlinearCG", jaxopt_solver(jaxopt.NonlinearCG, l2), ""),
        Contender("optimistix BFGS", peers.optimistix_bfgs(cauchy), f"tol {cauchy:g}"),
        Contender("optimistix NonlinearCG", optimistix_cg(cauchy), f"tol {cauchy:g}"),
        Contender("scipy BFGS", scipy_minimize("BFGS", bound), "", compiled=False),
        Contender("scipy CG", scipy_minimize("CG", bound), "", compiled=False),
    ]
    judge = gradient_norm(fun, data)
    figures = compare(contenders, fun, (x, data), judge, bound, options)
    targets = []
    for mine, theirs in (("bfgs", "BFGS"), ("nonlinear_cg", "NonlinearCG")):
        for library in ("jaxopt", "optimistix"):
            peer = f"{library} {theirs}"
            if figures.of(peer)["reached"] < 0.99:
                continue
            ratio = figures.of(mine)["cold"] / figures.of(peer)["cold"]
            targets += [
                target(f"time of {peer} / ours", figures.ratio(peer, mine), ">=", 1.0),
                target(f"compile and first run, ours / {peer}", ratio, "<=", 1.1),
            ]
        targets.append(target(f"traces by {mine}", figures.of(mine)["traces"], "<=", 2))
    return row(name, problem, figures, "bfgs", targets=targets)


def rosenbrock_dense(options):
    """Measure the chained Rosenbrock function of 20 variables."""
    problem = "chained Rosenbrock, n=20, from (-1.2, 1, ...), to |grad| <= 1e-6"
    tolerances = (3e-6, 1e-9)
    yield _row(
        "rosenbrock_dense",
        problem,
        rosenbrock,
        start(20),
        jnp.ones(()),
        1e-6,
        tolerances,
        options,
    )


def logistic_dense(options):
    """Measure logistic regression, 500 x 50."""
    rng = np.random.default_rng(0)
    size = (100, 10) if options.quick else (500, 50)
    features = rng.normal(size=size)
    scores = 3 * features @ rng.normal(size=size[1]) / np.sqrt(size[1])
    labels = np.where(rng.random(size[0]) < 1 / (1 + np.exp(-scores)), 1.0, -1.0)
    data = (jnp.asarray(features), jnp.asarray(labels), jnp.asarray(1e-3))
    problem = f"logistic regression, {size[0]} x {size[1]}, ridge 1e-3, to 1e-6"
    yield _row(
        "logistic_dense",
        problem,
        logistic,
        jnp.zeros(size[1]),
        data,
        1e-6,
        (3e-6, 1e-6),
        options,
    )


ROWS = {"rosenbrock_dense": rosenbrock_dense, "logistic_dense": logistic_dense}
