"""Entropic barycenters against OTT-JAX and POT: lines, images, debiased, gradients."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import ot
from ott.geometry import geometry as ott_geometry
from ott.geometry import grid as ott_grid
from ott.problems.linear import barycenter_problem
from ott.solvers.linear import discrete_barycenter

from bench._harness import Contender, compare, row, target
from jaxsolve import transport

OURS = "jaxsolve"
LIMIT = 5_000  # updates, for everybody


def squares(line):
    """Give the squared distances of points of a line: the same for everybody."""
    return (line[:, None] - line[None, :]) ** 2


def ours(epsilon, tol, debiased=False, grid=False):
    """Give our door, on a matrix or on a square grid."""

    def build(fun):
        def solve(line, measures):
            cost = fun(line)
            out = transport.solve_barycenter(
                transport.GridCost([cost, cost]) if grid else cost,
                measures,
                epsilon=epsilon,
                debiased=debiased,
                tol=tol,
                max_steps=LIMIT,
            )
            return out.barycenter, out.state.count

        return solve

    return build


def otts(epsilon, tol, debiased=False, grid=False, lse_mode=True):
    """Give OTT's; its threshold bounds the mean L1 error of the marginals."""

    def build(fun):
        def solve(line, measures):
            if grid:
                fun(line)  # counted as everybody's; its grid makes its own
                geometry = ott_grid.Grid(x=[line] * 2, epsilon=epsilon)
            else:
                geometry = ott_geometry.Geometry(cost_matrix=fun(line), epsilon=epsilon)
            solver = discrete_barycenter.FixedBarycenter(
                threshold=tol,
                max_iterations=LIMIT,
                lse_mode=lse_mode,
                debiased=debiased,
            )
            problem = barycenter_problem.FixedBarycenterProblem(geometry, measures)
            out = solver(problem)
            steps = 10 * jnp.sum(out.errors[:, 0] >= 0)
            return out.histogram, steps

        return solve

    return build


def otts_inside(epsilon, tol, lse_mode=True):
    """Give the body of OTT's: its jit cannot be differentiated on this JAX."""
    body = discrete_barycenter._discrete_barycenter.__wrapped__

    def build(fun):
        def solve(line, measures):
            count, n = measures.shape
            geometry = ott_geometry.Geometry(cost_matrix=fun(line), epsilon=epsilon)
            begin = geometry.apply_cost(measures.T, axis=0).T
            begin = begin - jnp.mean(begin, 0, keepdims=True)
            weights = jnp.full(count, 1 / count)
            numbers = tol, (1,), 10, 0, LIMIT, lse_mode, False, n, n
            out = body(geometry, measures, weights, begin, *numbers)
            return out.histogram, 0

        return solve

    return build


def pots(epsilon, tol, debiased=False, grid=False, method="sinkhorn"):
    """Give POT's, on the host."""

    def build(fun):
        def solve(line, measures):
            cost, b = np.asarray(fun(line)), np.asarray(measures)
            options = dict(numItermax=LIMIT, stopThr=tol, log=True, method=method)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if grid:
                    side = len(line)
                    call = ot.bregman.convolutional_barycenter2d
                    if debiased:
                        call = ot.bregman.convolutional_barycenter2d_debiased
                    out, log = call(b.reshape(-1, side, side), epsilon, **options)
                else:
                    call = ot.bregman.barycenter
                    if debiased:
                        call = ot.bregman.barycenter_debiased
                    out, log = call(b.T, cost, epsilon, **options)
            return jnp.asarray(np.ravel(out)), log["niter"]

        return solve

    return build


def loosest(make, compiled, judge, bound, args):
    """Give the loosest power of ten as tolerance that reaches the bound, or None."""
    for power in range(2, 11):
        solve = make(tol=10.0**-power)(squares)
        out, steps = (jax.jit(solve) if compiled else solve)(*args)
        if judge(out) <= bound:
            return 10.0**-power
        if steps >= LIMIT - 1:
            break
    return None


def measured(name, problem, options, args, epsilon, bound, debiased, grid, goal):
    """Measure all on one problem: how far from the barycenter of a long run, in L1."""
    common = dict(epsilon=epsilon, debiased=debiased, grid=grid)
    exact, _ = jax.jit(ours(tol=1e-12, **common)(squares))(*args)
    judge = jax.jit(lambda found: jnp.sum(jnp.abs(found / jnp.sum(found) - exact)))
    makes = {
        OURS: (ours, {}, True),
        # Debiased it looks at its cost in Python, and jits all but that.
        "ott": (otts, {}, not debiased),
        "ott kernel": (otts, {"lse_mode": False}, not debiased),
        "pot": (pots, {}, False),
        "pot log": (pots, {"method": "sinkhorn_log"}, False),
    }
    contenders, notes = [], []
    for who, (make, extra, compiled) in makes.items():
        make = functools.partial(make, **common, **extra)
        tol = loosest(make, compiled, judge, bound, args)
        if tol is None:
            notes.append(f"{who} did not get there in {LIMIT} updates")
            continue
        settings = f"tol {tol:g} {extra or ''}"
        contenders.append(Contender(who, make(tol=tol), settings, compiled))
    figures = compare(contenders, squares, args, judge, bound, options)
    targets = []
    if len(contenders) > 1:
        best = figures.fastest([c.name for c in contenders if c.name != OURS])
        ratio = figures.ratio(best, OURS)
        targets = [target(f"time of {best} / ours", ratio, ">=", goal)]
    return row(name, problem, figures, OURS, targets=targets, notes=notes)


def bumps(line, count, seed=0):
    """Give mixtures of two bumps each, on a line."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        means, widths = rng.uniform(0.2, 0.8, 2), rng.uniform(0.02, 0.06, 2)
        bump = np.exp(-(((line[:, None] - means) / widths) ** 2) / 2) @ [0.6, 0.4]
        out.append(bump / bump.sum())
    return jnp.asarray(np.stack(out))


def images(line, count, seed=0):
    """Give squares and rings on a faint ground."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(line, line, indexing="ij")
    out = []
    for k in range(count):
        (a, b), r = rng.uniform(0.3, 0.7, 2), rng.uniform(0.1, 0.2)
        radius = np.hypot(x - a, y - b)
        ring = (radius < r) & (radius > r / 2)
        square = np.maximum(np.abs(x - a), np.abs(y - b)) < r
        image = (ring if k % 2 else square) + 1e-3
        out.append(np.ravel(image / image.sum()))
    return jnp.asarray(np.stack(out))


def lines(options):
    """Measure four histograms on a line, at two temperatures."""
    n = 50 if options.quick else 500
    line = jnp.linspace(0.0, 1.0, n)
    args = (line, bumps(np.asarray(line), 4))
    for epsilon in (1e-2, 1e-3):
        name = f"line_{epsilon:g}"
        problem = f"4 histograms, {n} points, epsilon {epsilon:g}, L1 to 1e-6"
        yield measured(name, problem, options, args, epsilon, 1e-6, False, False, 2.0)


def pictures(options):
    """Measure four images."""
    side = 12 if options.quick else 64
    line = jnp.linspace(0.0, 1.0, side)
    args = (line, images(np.asarray(line), 4))
    problem = f"4 images, {side} x {side}, epsilon 0.002, L1 to 1e-6"
    yield measured("images", problem, options, args, 2e-3, 1e-6, False, True, 2.0)


def debiased(options):
    """Measure debiased barycenters, of histograms and of images."""
    n, side = (30, 12) if options.quick else (200, 64)
    line = jnp.linspace(0.0, 1.0, n)
    args = (line, bumps(np.asarray(line), 4))
    epsilon = 4.0 / n**2  # as wide as the grid is fine: finer it is undetermined
    problem = f"4 histograms, {n} points, epsilon {epsilon:g}, debiased, L1 to 1e-3"
    yield measured("debiased", problem, options, args, epsilon, 1e-3, True, False, 1.0)
    line = jnp.linspace(0.0, 1.0, side)
    args = (line, images(np.asarray(line), 4))
    epsilon = 4.0 / side**2
    problem = f"4 images, {side} x {side}, epsilon {epsilon:g}, debiased, L1 to 1e-3"
    name = "debiased_images"
    yield measured(name, problem, options, args, epsilon, 1e-3, True, True, 1.0)


def gradients(options):
    """Measure the derivative in the measures, forward and backward pass together."""
    n = 40 if options.quick else 300
    epsilon, tol = 1e-2, 1e-8
    line = jnp.linspace(0.0, 1.0, n)
    args = (line, bumps(np.asarray(line), 3))
    probe = jnp.sin(7 * line)

    def differentiated(build):
        def wrapped(fun):
            solve = build(fun)

            def gradient(line, measures):
                # Through softmax: along all else masses would not stay equal.
                loss = lambda z: solve(line, jax.nn.softmax(z, 1))[0] @ probe
                return jax.grad(loss)(jnp.log(measures + 1e-6)), 0

            return gradient

        return wrapped

    exact, _ = jax.jit(differentiated(ours(epsilon, 1e-12))(squares))(*args)
    judge = lambda found: jnp.max(jnp.abs(found - exact)) / jnp.max(jnp.abs(exact))
    contenders = [
        Contender(OURS, differentiated(ours(epsilon, tol))),
        Contender("ott", differentiated(otts_inside(epsilon, tol))),
        Contender("ott kernel", differentiated(otts_inside(epsilon, tol, False))),
    ]
    figures = compare(contenders, squares, args, judge, 1e-4, options)
    best = figures.fastest(["ott", "ott kernel"])
    targets = [target(f"time of {best} / ours", figures.ratio(best, OURS), ">=", 2.0)]
    problem = f"gradient in 3 histograms, {n} points, epsilon {epsilon:g}"
    yield row("gradient", problem, figures, OURS, targets=targets)


ROWS = {
    "lines": lines,
    "images": pictures,
    "debiased": debiased,
    "gradients": gradients,
}
