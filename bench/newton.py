"""Newton's method: ours against SciPy's, and against L-BFGS."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

import jaxsolve
from bench._harness import Contender, compare, row, target
from bench.smooth import gradient_norm, logistic, ours, rosenbrock, start

NAMES = ("newton", "newton_cg", "regularized_newton")


def second_order(name, tol, max_steps=5000):
    """Give one of our Newton methods."""

    def build(fun):
        solver = getattr(jaxsolve.smooth, name)(fun)

        def solve(x, data):
            out = jaxsolve.run(solver, x, data, max_steps=max_steps, tol=tol)
            return out.params, out.state.count

        return solve

    return build


def scipy_newton(method, tol, max_steps=5000):
    """Give a method of SciPy over jitted derivatives; `gtol` bounds the l2 norm."""
    products = method != "trust-exact"

    def build(fun):
        oracle = jax.jit(jax.value_and_grad(fun))
        gradient = jax.grad(fun)
        hessian = jax.jit(jax.hessian(fun))
        product = jax.jit(
            lambda x, v, data: jax.jvp(lambda z: gradient(z, data), (x,), (v,))[1]
        )

        def solve(x, data):
            def call(z):
                value, grad = oracle(z, data)
                return float(value), np.asarray(grad)

            stop = {"xtol": tol * 1e-4} if method == "Newton-CG" else {"gtol": tol}
            second = {"hess": lambda z: np.asarray(hessian(z, data))}
            if products:
                second = {"hessp": lambda z, v: np.asarray(product(z, v, data))}
            out = scipy.optimize.minimize(
                call,
                np.asarray(x),
                jac=True,
                method=method,
                options={"maxiter": max_steps} | stop,
                **second,
            )
            return jnp.asarray(out.x), out.nit

        return solve

    return build


def _rows(name, problem, fun, x, data, bound, options):
    contenders = [Contender(n, second_order(n, bound), "run") for n in NAMES]
    contenders.append(Contender("lbfgs", ours(bound), "run"))
    for method in ("trust-exact", "trust-ncg", "Newton-CG"):
        build = scipy_newton(method, bound)
        contenders.append(Contender(f"scipy {method}", build, "", compiled=False))
    judge = gradient_norm(fun, data)
    figures = compare(contenders, fun, (x, data), judge, bound, options)
    peer = figures.fastest([c.name for c in contenders if c.name[:5] == "scipy"])
    best = figures.fastest(NAMES[:2])
    targets = [
        target(f"time of {peer} / {best}", figures.ratio(peer, best), ">=", 1.0),
        target("objective traces", figures.of(best)["traces"], "<=", 2),
    ]
    return row(name, problem, figures, best, targets=targets)


def rosenbrock_newton(options):
    """Measure one Rosenbrock problem."""
    size, bound = (6 if options.quick else 20), 1e-6
    problem = f"chained Rosenbrock, n={size}, from (-1.2, 1, ...), to |grad| <= 1e-6"
    args = (rosenbrock, start(size), jnp.ones(()), bound, options)
    yield _rows("rosenbrock", problem, *args)


def logistic_newton(options):
    """Measure logistic regression."""
    rng = np.random.default_rng(0)
    size = (200, 20) if options.quick else (2000, 200)
    features = rng.normal(size=size)
    scores = 3 * features @ rng.normal(size=size[1]) / np.sqrt(size[1])
    labels = np.where(rng.random(size[0]) < 1 / (1 + np.exp(-scores)), 1.0, -1.0)
    data = (jnp.asarray(features), jnp.asarray(labels), jnp.asarray(1e-3))
    shape = f"{size[0]} x {size[1]}"
    problem = f"logistic regression, {shape} normal features, ridge 1e-3, to 1e-6"
    yield _rows("logistic", problem, logistic, jnp.zeros(size[1]), data, 1e-6, options)


ROWS = {"rosenbrock": rosenbrock_newton, "logistic": logistic_newton}
