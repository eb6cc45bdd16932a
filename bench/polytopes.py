"""Projections onto polyhedra and transport polytopes, against JAXopt."""

import functools

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np

from bench._harness import Contender, compare, row, target
from jaxsolve import prox

OURS = "jaxsolve"
BOUND = 1e-6


def _build(project):
    """A contender's builder; a projection has no objective and tells no steps."""

    def build(fun):
        del fun
        return lambda *args: (project(*args), jnp.zeros((), jnp.int32))

    return build


def _measure(name, problem, contenders, args, error, options):
    """A row: every contender against the same judge of what it returned."""
    contenders = [Contender(n, _build(p), s) for n, p, s in contenders]
    options = options._replace(calls=False)
    figures = compare(contenders, lambda: None, args, error, BOUND, options)
    peer = figures.fastest([c.name for c in contenders[1:]])
    mine, other = figures.of(OURS), figures.of(peer)
    targets = [
        target("worst error", mine["worst"], "<=", 1e-10),
        target(f"time of {peer} / ours", figures.ratio(peer, OURS), ">=", 1.0),
    ]
    notes = [f"{peer}: worst error {other['worst']:.1e}"]
    return row(name, problem, figures, OURS, targets=targets, notes=notes)


def _polyhedron(rng, n, lanes):
    equations, rows = n // 10, n
    inside = rng.normal(size=n)
    A, G = rng.normal(size=(equations, n)), rng.normal(size=(rows, n))
    room = rng.exponential(size=rows) * (rng.random(rows) < 0.5)
    points = 3 * rng.normal(size=(lanes, n))
    return tuple(map(jnp.asarray, (points, A, A @ inside, G, G @ inside + room)))


def polyhedron(options):
    """Measure random polyhedra: half as many rows tight at a point of the set."""
    ours = lambda x, *rows: prox.polyhedron(*rows)(x)
    theirs = lambda x, *rows: jaxopt.projection.projection_polyhedron(
        x, rows, check_feasible=False
    )

    def tight(x, A, b, G, h):
        solver = jaxopt.OSQP(matvec_Q=lambda _, v: v, tol=1e-9, maxiter=20_000)
        blocks = dict(params_eq=(A, b), params_ineq=(G, h))
        return solver.run(params_obj=(None, -x), **blocks).params.primal

    sizes = [(10, 1), (10, 4)] if options.quick else [(50, 1), (200, 1), (50, 32)]
    for n, lanes in sizes:
        args = _polyhedron(np.random.default_rng(0), n, lanes)
        over = lambda f: jax.vmap(f, (0, None, None, None, None))
        exact = jax.jit(over(ours))(*args)
        gap = max(_certificate(*args, exact))
        contenders = [
            (OURS, over(ours), "to rounding"),
            ("jaxopt", over(theirs), "projection_polyhedron, default tolerance"),
            ("jaxopt tight", over(tight), "OSQP, tol 1e-9"),
        ]
        yield _measure(
            f"polyhedron_{n}x{lanes}",
            f"{lanes} points in R^{n}, {n // 10} equations, {n} inequalities; distance "
            f"from ours, whose KKT gap is {gap:.0e}",
            contenders,
            args,
            lambda y, exact=exact: jnp.max(jnp.abs(y - exact), axis=1),
            options,
        )


def _certificate(points, A, b, G, h, exact):
    """What is missing of the KKT conditions, by SciPy's non-negative least squares."""
    from scipy.optimize import nnls

    points, A, b, G, h, exact = map(np.asarray, (points, A, b, G, h, exact))
    for x, y in zip(points, exact, strict=True):
        active = np.concatenate([A, -A, G[G @ y > h - 1e-9]])
        yield nnls(active.T, x - y)[1]
        yield max(np.max(np.abs(A @ y - b)), np.max(G @ y - h))


def _gap(a, b, plans):
    sums = jnp.abs(plans.sum(-1) - a[None]), jnp.abs(plans.sum(-2) - b[None])
    return jnp.maximum(jnp.max(sums[0], axis=1), jnp.max(sums[1], axis=1))


def _transport(name, ours, theirs, options):
    """Rows for one geometry; each side is a function of scores, a and b."""
    solver = functools.partial(
        jaxopt.LBFGS, tol=1e-9, maxiter=5000, linesearch="zoom", unroll=False
    )
    tight = lambda s, a, b: theirs(s, (a, b), make_solver=lambda fun: solver(fun=fun))
    plain = lambda s, a, b: theirs(s, (a, b))
    sizes = [(8, 1), (8, 4)] if options.quick else [(50, 1), (200, 1), (50, 32)]
    for n, lanes in sizes:
        rng = np.random.default_rng(0)
        scores = jnp.asarray(rng.normal(size=(lanes, n, n)))
        if "birkhoff" in name:
            a = b = jnp.ones(n)
        else:
            a, b = (jnp.asarray(rng.dirichlet(np.full(n, 5.0))) for _ in range(2))
        over = lambda f: jax.vmap(f, (0, None, None))
        contenders = [
            (OURS, over(ours), "to rounding"),
            ("jaxopt", over(plain), "default: LBFGS, tol 1e-3"),
            ("jaxopt tight", over(tight), "LBFGS, tol 1e-9"),
        ]
        yield _measure(
            f"{name}_{n}x{lanes}",
            f"{lanes} matrices of {n} x {n} normal scores; violation of the sums",
            contenders,
            (scores, a, b),
            functools.partial(_gap, a, b),
            options,
        )


def transport(options):
    """Measure projections onto transport polytopes of random marginals."""
    ours = lambda s, a, b: prox.transport(a, b)(s)
    yield from _transport(
        "transport", ours, jaxopt.projection.projection_transport, options
    )


def kl_transport(options):
    """Measure the same in the sense of Kullback and Leibler."""
    ours = lambda s, a, b: prox.kl_transport(a, b)(s)
    yield from _transport(
        "kl_transport", ours, jaxopt.projection.kl_projection_transport, options
    )


def birkhoff(options):
    """Measure projections onto the doubly stochastic matrices."""
    ours = lambda s, a, b: prox.birkhoff()(s)
    yield from _transport(
        "birkhoff", ours, jaxopt.projection.projection_transport, options
    )


def kl_birkhoff(options):
    """Measure the same in the sense of Kullback and Leibler."""
    ours = lambda s, a, b: prox.kl_birkhoff()(s)
    yield from _transport(
        "kl_birkhoff", ours, jaxopt.projection.kl_projection_transport, options
    )


ROWS = {
    "polyhedron": polyhedron,
    "transport": transport,
    "kl_transport": kl_transport,
    "birkhoff": birkhoff,
    "kl_birkhoff": kl_birkhoff,
}
