"""Projected and proximal gradient against JAXopt, and ADMM against them."""

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
from sklearn.datasets import make_classification

import jaxsolve
from bench._harness import Contender, compare, row, target
from jaxsolve import composite, prox

OURS = "jaxsolve"


def ours(make, tol, max_steps=20_000):
    """Give one of our solvers, to be compiled."""

    def build(fun):
        solver = make(fun)

        def solve(x, data):
            out = jaxsolve.run(solver, x, data, max_steps=max_steps, tol=tol)
            return out.params, out.state.count

        return solve

    return build


def projected(projection, tol, accelerate=True, max_steps=20_000):
    """Give JAXopt's projected gradient, with its own search."""

    def build(fun):
        solver = jaxopt.ProjectedGradient(
            fun,
            lambda x, _: projection(x),
            maxiter=max_steps,
            tol=tol,
            acceleration=accelerate,
            implicit_diff=False,
        )

        def solve(x, data):
            params, state = solver.run(x, None, data)
            return params, state.iter_num

        return solve

    return build


def proximal(weight, tol, max_steps=20_000):
    """Give JAXopt's FISTA on a lasso, with its own search."""

    def build(fun):
        solver = jaxopt.ProximalGradient(
            fun, jaxopt.prox.prox_lasso, maxiter=max_steps, tol=tol, implicit_diff=False
        )

        def solve(x, data):
            params, state = solver.run(x, weight, data)
            return params, state.iter_num

        return solve

    return build


def mapping_norm(fun, operator, data):
    """Give the judge: the sup-norm of x - prox(x - gradient), computed outside."""
    gradient = jax.grad(fun)
    gap = lambda x: jnp.max(jnp.abs(x - operator(x - gradient(x, data), 1.0)))
    return jax.jit(gap)


def least_squares(x, data):
    """Half the mean squared residual."""
    matrix, values = data
    return 0.5 * jnp.mean((matrix @ x - values) ** 2)


def svm_dual(beta, data):
    """The dual of a multiclass linear support vector machine, over simplices."""
    features, labels, ridge = data
    primal = features.T @ (labels - beta)
    return 0.5 * jnp.vdot(primal, primal) / ridge + jnp.vdot(beta, labels - 1)


def nnls(options):
    """Time non-negative least squares."""
    m, n = (60, 20) if options.quick else (1000, 200)
    rng = np.random.default_rng(0)
    matrix = np.abs(rng.normal(size=(m, n))) / np.sqrt(n)
    values = matrix @ np.maximum(rng.normal(size=n), 0) + 0.1 * rng.normal(size=m)
    data, bound = (jnp.asarray(matrix), jnp.asarray(values)), 1e-6
    project = jaxopt.projection.projection_non_negative
    make = lambda fun: composite.projected_gradient(fun, prox.non_negative())
    contenders = [
        Contender(OURS, ours(make, bound)),
        Contender("JAXopt", projected(project, bound)),
        Contender("JAXopt plain", projected(project, bound, accelerate=False)),
    ]
    judge = mapping_norm(least_squares, prox.non_negative(), data)
    figures = compare(
        contenders, least_squares, (jnp.zeros(n), data), judge, 10 * bound, options
    )
    yield _judged("nnls", f"NNLS, {m} x {n}, tol {bound:g}", figures)


def svm(options):
    """Time the dual of JAXopt's multiclass support vector machine."""
    m = 40 if options.quick else 700
    features, classes = make_classification(
        n_samples=m, n_features=20, n_informative=5, n_classes=5, random_state=0
    )
    labels = np.eye(5)[classes]
    data, bound = (jnp.asarray(features), jnp.asarray(labels), 100.0 * m), 1e-6
    project = jax.vmap(jaxopt.projection.projection_simplex)
    simplex = prox.simplex(axis=1)
    make = lambda fun: composite.projected_gradient(fun, simplex)
    # Everybody's loosest tolerance that reaches the bound: none measures as we do here.
    mine, theirs = 5000 * bound, 30 * bound
    contenders = [
        Contender(OURS, ours(make, mine), f"tol {mine:g}"),
        Contender("JAXopt", projected(project, theirs), f"tol {theirs:g}"),
        Contender("JAXopt plain", projected(project, theirs, accelerate=False), ""),
    ]
    start = jnp.full((m, 5), 0.2)
    judge = mapping_norm(svm_dual, simplex, data)
    figures = compare(contenders, svm_dual, (start, data), judge, 10 * bound, options)
    yield _judged("svm", f"multiclass SVM dual, {m} simplices of 5", figures)


def lasso(options):
    """Time a lasso: FISTA, ours and JAXopt's, ADMM and Douglas-Rachford."""
    m, n = (40, 20) if options.quick else (500, 200)
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(m, n)) @ np.diag(np.linspace(0.1, 1, n))
    values = matrix[:, :10] @ rng.normal(size=10) + 0.1 * rng.normal(size=m)
    data, bound, weight = (jnp.asarray(matrix), jnp.asarray(values)), 1e-6, 0.01
    g = prox.l1(weight)
    quadratic = lambda fun: composite.admm(composite.Quadratic(fun), g)
    contenders = [
        Contender(
            "jaxsolve", ours(lambda fun: composite.proximal_gradient(fun, g), bound)
        ),
        Contender("jaxsolve ADMM", ours(quadratic, bound)),
        Contender("JAXopt", proximal(weight, bound)),
    ]
    judge = mapping_norm(least_squares, g, data)
    figures = compare(
        contenders, least_squares, (jnp.zeros(n), data), judge, 10 * bound, options
    )
    yield _judged("lasso", f"lasso, {m} x {n}, weight {weight}", figures)


def _judged(name, problem, figures):
    best = figures.fastest(
        [r["name"] for r in figures.records if "JAXopt" in r["name"]]
    )
    goals = [
        target(f"time over {best}", 1 / figures.ratio(best, OURS), "<=", 1.0),
        target("accuracy reached", figures.of(OURS)["reached"], ">=", 1.0),
    ]
    return row(name, problem, figures, OURS, targets=goals)


ROWS = {"nnls": nnls, "svm": svm, "lasso": lasso}
