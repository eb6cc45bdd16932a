"""Equations: Newton, Broyden, Anderson and brackets against JAXopt and others."""

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
import optimistix
import scipy.optimize

import jaxsolve
from bench import _peers as peers
from bench._harness import Contender, compare, row, target
from jaxsolve import fixed_point

OURS = "jaxsolve"
BOUND = 1e-8


def tridiagonal(x, data):
    """Broyden's tridiagonal function, shifted by the data."""
    return (3 - 2 * x) * x - jnp.pad(x[:-1], (1, 0)) - 2 * jnp.pad(x[1:], (0, 1)) + data


def mixture(x, data):
    """A small dense system: a matrix and a cubic."""
    matrix, shift = data
    return matrix @ x + 0.1 * x**3 - shift


def contraction(x, data):
    """JAXopt's own test of Anderson and Broyden: an affine contraction, n = 200."""
    matrix, shift = data
    return matrix @ x + shift


def price(x, a):
    """A monotone scalar function: the rate at which payments are worth `a`."""
    return jnp.exp(-x) + jnp.exp(-2 * x) + 2 * jnp.exp(-3 * x) - a


def ours(make, tol=BOUND, max_steps=1000):
    """Give one of our solvers, to be compiled."""

    def build(fun):
        solver = make(fun)

        def solve(x, data):
            out = jaxsolve.run(solver, x, data, max_steps=max_steps, tol=tol)
            return out.params, out.state.count

        return solve

    return build


def jaxopt_run(make):
    """Give a JAXopt solver, its loop compiled and not unrolled."""

    def build(fun):
        solver = make(fun)

        def solve(x, data):
            out = solver.run(x, data)
            return out.params, out.state.iter_num

        return solve

    return build


def jaxopt_broyden(memory, gamma=1.0, tol=BOUND):
    """Give JAXopt's Broyden; its `tol` bounds the l2 norm."""
    options = dict(maxiter=1000, tol=tol, history_size=memory, gamma=gamma)
    return jaxopt_run(lambda fun: jaxopt.Broyden(fun, unroll=False, **options))


def jaxopt_anderson(tol=BOUND):
    """Give JAXopt's Anderson acceleration of a map."""
    options = dict(maxiter=1000, tol=tol, history_size=5, mixing_frequency=1)
    return jaxopt_run(
        lambda fun: jaxopt.AndersonAcceleration(fun, unroll=False, **options)
    )


def optimistix_root(solver, max_steps=1000):
    """Give an Optimistix root finder."""

    def build(fun):
        def solve(x, data):
            out = optimistix.root_find(
                fun, solver, x, data, max_steps=max_steps, throw=False
            )
            return out.value, out.stats["num_steps"]

        return solve

    return build


def scipy_root(method, **options):
    """Give a SciPy root finder over a jitted function."""

    def build(fun):
        call = jax.jit(fun)

        def solve(x, data):
            out = scipy.optimize.root(
                lambda z: np.asarray(call(z, data)),
                np.asarray(x),
                method=method,
                options=options,
            )
            return jnp.asarray(out.x), out.get("nit", out.get("nfev", 0))

        return solve

    return build


def norm_of(fun, data, batched=False):
    """Give the harness's judge: the sup-norm of F, computed outside."""
    judge = jax.jit(jax.vmap(fun) if batched else fun)
    return lambda x: jnp.max(jnp.abs(judge(x, data)), axis=-1)


def broyden(options):
    """Measure Broyden's tridiagonal function."""
    size, data = (50 if options.quick else 1000), jnp.ones(())
    contenders = [
        Contender(OURS, ours(fixed_point.broyden), "broyden, memory 20"),
        Contender("jaxsolve newton_krylov", ours(fixed_point.newton_krylov)),
        Contender("jaxopt Broyden", jaxopt_broyden(20), "history 20, gamma 1"),
        Contender(
            "jaxopt Broyden tuned", jaxopt_broyden(50, 0.2), "history 50, gamma 0.2"
        ),
        Contender(
            "scipy krylov", scipy_root("krylov", fatol=BOUND), "", compiled=False
        ),
    ]
    judge = norm_of(tridiagonal, data)
    args = (-jnp.ones(size), data)
    figures = compare(contenders, tridiagonal, args, judge, BOUND, options)
    peer = figures.fastest([c.name for c in contenders[2:]])
    targets = [target(f"time of {peer} / ours", figures.ratio(peer, OURS), ">=", 1.0)]
    problem = f"Broyden tridiagonal, n={size}, to |F| <= {BOUND:g}"
    yield row("broyden", problem, figures, OURS, targets=targets)


def dense(options):
    """Measure a batch of small dense systems."""
    lanes, size = (32 if options.quick else 1024), 8
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(lanes, size, size)) + 10 * np.eye(size)
    data = jnp.asarray(matrix), jnp.asarray(3 * rng.normal(size=(lanes, size)))
    newton = optimistix.Newton(rtol=1e-9, atol=1e-9)
    dogleg = optimistix.Dogleg(rtol=1e-9, atol=1e-9)
    plain = lambda fun: fixed_point.newton_root(fun, backtrack=False)
    contenders = [
        Contender(OURS, peers.batched(ours(fixed_point.newton_root)), "newton_root"),
        Contender("jaxsolve full steps", peers.batched(ours(plain))),
        Contender("jaxsolve chord", peers.batched(ours(fixed_point.chord))),
        Contender("jaxsolve broyden", peers.batched(ours(fixed_point.broyden))),
        Contender("optimistix Newton", peers.batched(optimistix_root(newton))),
        Contender("optimistix Dogleg", peers.batched(optimistix_root(dogleg))),
        Contender("jaxopt Broyden", peers.batched(jaxopt_broyden(20))),
    ]
    judge = norm_of(mixture, data, batched=True)
    args = (jnp.zeros((lanes, size)), data)
    figures = compare(contenders, mixture, args, judge, BOUND, options)
    peer = figures.fastest([c.name for c in contenders[4:]])
    best = figures.fastest([c.name for c in contenders[:4]])
    targets = [target(f"time of {peer} / {best}", figures.ratio(peer, best), ">=", 1.0)]
    problem = f"{lanes} dense systems of {size}, to |F| <= {BOUND:g}"
    yield row("dense", problem, figures, OURS, targets=targets)


def anderson(options):
    """Measure JAXopt's own contraction, by Anderson and as a root by Broyden."""
    size = 20 if options.quick else 200
    rng = np.random.default_rng(0)
    matrix = rng.uniform(-1, 1, size=(size, size))
    matrix = matrix + matrix.T
    matrix = matrix / (2 * np.max(np.abs(np.linalg.eigvalsh(matrix))) + 1e-4)
    data = jnp.asarray(matrix), jnp.asarray(rng.uniform(size=size))
    gap = lambda x, data: contraction(x, data) - x

    def rooted(build):
        return lambda fun: build(lambda x, data: fun(x, data) - x)

    wrapped = lambda fun: fixed_point.accelerate(fixed_point.picard(fun))
    contenders = [
        Contender(OURS, ours(fixed_point.anderson), "anderson, memory 5"),
        Contender("jaxsolve accelerate", ours(wrapped), "around picard"),
        Contender("jaxsolve broyden", rooted(ours(fixed_point.broyden))),
        Contender("jaxopt Anderson", jaxopt_anderson(), "history 5, mixing each step"),
        Contender(
            "jaxopt Broyden",
            rooted(jaxopt_broyden(20, -1.0)),
            "history 20, gamma -1; with its default of 1 it ends as NaN",
        ),
    ]
    judge = norm_of(gap, data)
    args = (jnp.zeros(size), data)
    figures = compare(contenders, contraction, args, judge, 1.01 * BOUND, options)
    ratio = figures.ratio
    targets = [
        target("Anderson: JAXopt / ours", ratio("jaxopt Anderson", OURS), ">=", 1.0),
        target(
            "Broyden: JAXopt / ours",
            ratio("jaxopt Broyden", "jaxsolve broyden"),
            ">=",
            1.0,
        ),
    ]
    problem = f"affine contraction, n={size}, to |T(x) - x| <= {BOUND:g}"
    yield row("anderson", problem, figures, OURS, targets=targets)


def brackets(options):
    """Measure a batch of scalar roots in brackets."""
    lanes = 64 if options.quick else 4096
    data = jnp.asarray(np.linspace(0.5, 3.5, lanes))
    args = (jnp.full(lanes, 1.0), data)

    def elementwise(make):
        return ours(lambda fun: make(fun, 0.0, 5.0))

    def jaxopt_bisection(fun):
        solver = jaxopt.Bisection(
            fun, 0.0, 5.0, maxiter=100, tol=BOUND, check_bracket=False, unroll=False
        )

        def solve(x, a):
            out = solver.run(None, a)
            return out.params, out.state.iter_num

        return jax.vmap(solve)

    def brentq(fun):
        numpy_price = lambda x, a: np.exp(-x) + np.exp(-2 * x) + 2 * np.exp(-3 * x) - a

        def solve(x, data):
            del x
            root = lambda a: scipy.optimize.brentq(numpy_price, 0, 5, (a,), xtol=1e-9)
            return jnp.asarray([root(a) for a in np.asarray(data)]), 0

        return solve

    contenders = [
        Contender(OURS, elementwise(fixed_point.itp), "itp"),
        Contender("jaxsolve brent", elementwise(fixed_point.brent)),
        Contender("jaxsolve bisection", elementwise(fixed_point.bisection)),
        Contender("jaxopt Bisection", jaxopt_bisection, "check_bracket=False"),
        Contender("scipy brentq", brentq, "in NumPy, one by one", compiled=False),
    ]
    judge = lambda x: jnp.abs(price(x, data))
    figures = compare(contenders, price, args, judge, BOUND, options)
    ratio = lambda name: figures.ratio("jaxopt Bisection", name)
    targets = [
        target("JAXopt's bisection / ours", ratio("jaxsolve bisection"), ">=", 1.0),
        target("JAXopt's bisection / itp", ratio(OURS), ">=", 2.0),
    ]
    problem = f"{lanes} scalar roots in [0, 5], to |F| <= {BOUND:g}"
    yield row("brackets", problem, figures, OURS, targets=targets)


ROWS = {"broyden": broyden, "dense": dense, "anderson": anderson, "brackets": brackets}
