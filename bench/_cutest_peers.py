"""Everybody's way through one CUTEst problem, at settings that reach 1e-6 in value.

A contender is `build(problem) -> solve(x0) -> (params, steps)`, where a problem is a
`Problem`. All but SciPy and our doors are one jitted function. Peers take 2,000 steps,
whatever a step of theirs costs in evaluations; ours take 2,000 evaluations.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
import optax
import optimistix
import scipy.optimize

import jaxsolve

STEPS = 2000
TOL = 1e-8


class Problem(NamedTuple):
    """One problem: `fun(x, args)` is a scalar, or the residuals of a system."""

    name: str
    fun: Callable
    x0: jax.Array
    args: Any
    bounds: tuple | None = None


def tol():
    """Give the tolerance asked of every library: 1e-8, in float32 1e-4."""
    return TOL if jax.config.jax_enable_x64 else 1e-4


def ours(problem):
    """Give `minimize`, which chooses."""
    return _door(jaxsolve.minimize, problem, bounds=problem.bounds)


def our_root(problem):
    """Give `root` for square systems, else `least_squares`."""
    shape = jax.eval_shape(problem.fun, problem.x0, problem.args).shape
    square = shape == problem.x0.shape
    return _door(jaxsolve.root if square else jaxsolve.least_squares, problem)


def our_least_squares(problem):
    """Give `least_squares`."""
    return _door(jaxsolve.least_squares, problem)


def _door(door, problem, **options):
    # In single precision everybody is given the same tolerance; in double, the default.
    if not jax.config.jax_enable_x64:
        options["tol"] = tol()

    def solve(x0):
        out = door(problem.fun, x0, problem.args, max_steps=STEPS, **options)
        return out.params, out.state.count, out

    return solve


def solver(make):
    """Give one solver of ours, as `make(fun, bounds) -> Solver`."""

    def build(problem):
        made = make(problem.fun, problem.bounds)

        def solve(x0):
            out = jaxsolve.run(made, x0, problem.args, max_steps=STEPS)
            return out.params, out.state.count, out

        return solve

    return build


def _jitted(inner):
    def build(problem):
        return jax.jit(lambda x0: inner(problem, x0))

    return build


def jaxopt_minimise(kind, **settings):
    """Give a JAXopt solver of unconstrained problems."""

    def inner(problem, x0):
        made = kind(problem.fun, maxiter=STEPS, tol=tol(), unroll=False, **settings)
        out = made.run(x0, problem.args)
        return out.params, out.state.iter_num

    return _jitted(inner)


def jaxopt_lbfgsb():
    """Give JAXopt's L-BFGS-B."""

    def inner(problem, x0):
        made = jaxopt.LBFGSB(problem.fun, maxiter=STEPS, tol=tol(), unroll=False)
        out = made.run(x0, problem.bounds, problem.args)
        return out.params, out.state.iter_num

    return _jitted(inner)


def jaxopt_projected_gradient():
    """Give JAXopt's projected gradient."""

    def inner(problem, x0):
        made = jaxopt.ProjectedGradient(
            problem.fun,
            projection=jaxopt.projection.projection_box,
            maxiter=STEPS,
            tol=tol(),
        )
        out = made.run(x0, problem.bounds, problem.args)
        return out.params, out.state.iter_num

    return _jitted(inner)


def jaxopt_lm():
    """Give JAXopt's Levenberg-Marquardt, by Cholesky."""

    def inner(problem, x0):
        made = jaxopt.LevenbergMarquardt(
            problem.fun,
            maxiter=STEPS,
            tol=tol(),
            solver="cholesky",
            materialize_jac=True,
        )
        out = made.run(x0, problem.args)
        return out.params, out.state.iter_num

    return _jitted(inner)


def optimistix_solver(solve, kind):
    """Give `kind` of Optimistix by its `solve`; `root_find` takes square systems."""

    def inner(problem, x0):
        out = solve(
            problem.fun,
            kind(rtol=tol(), atol=tol()),
            x0,
            problem.args,
            max_steps=STEPS,
            throw=False,
        )
        return out.value, out.stats["num_steps"]

    return _jitted(inner)


def optax_lbfgs():
    """Give optax's L-BFGS in a compiled loop."""
    transform = optax.lbfgs()

    def inner(problem, x0):
        value_fn = lambda x: problem.fun(x, problem.args)
        oracle = optax.value_and_grad_from_state(value_fn)

        def step(carry):
            x, state = carry
            value, grad = oracle(x, state=state)
            updates, state = transform.update(
                grad, state, x, value=value, grad=grad, value_fn=value_fn
            )
            return optax.apply_updates(x, updates), state

        def unfinished(carry):
            count = optax.tree.get(carry[1], "count")
            error = optax.tree.norm(optax.tree.get(carry[1], "grad"), ord=jnp.inf)
            return (count == 0) | ((count < STEPS) & (error > tol()))

        x, state = jax.lax.while_loop(unfinished, step, (x0, transform.init(x0)))
        return x, optax.tree.get(state, "count")

    return _jitted(inner)


def scipy_minimize(method, **options):
    """Give a SciPy minimiser over a jitted value_and_grad."""

    def build(problem):
        oracle = jax.jit(jax.value_and_grad(lambda x: problem.fun(x, problem.args)))

        def call(z):
            value, grad = oracle(jnp.asarray(z, problem.x0.dtype))
            return float(value), np.asarray(grad, np.float64)

        bounds = None
        if problem.bounds is not None:
            bounds = scipy.optimize.Bounds(*map(np.asarray, problem.bounds))

        def solve(x0):
            start = np.asarray(x0, np.float64)
            out = scipy.optimize.minimize(
                call, start, jac=True, method=method, bounds=bounds, options=options
            )
            return out.x, out.nit

        return solve

    return build


def scipy_least_squares(method):
    """Give SciPy's least squares over jitted residuals and Jacobian."""

    def build(problem):
        fun = lambda x: problem.fun(x, problem.args)
        values, jacobian = jax.jit(fun), jax.jit(jax.jacfwd(fun))
        device = lambda z: jnp.asarray(z, problem.x0.dtype)

        def solve(x0):
            out = scipy.optimize.least_squares(
                lambda z: np.asarray(values(device(z)), np.float64),
                np.asarray(x0, np.float64),
                jac=lambda z: np.asarray(jacobian(device(z)), np.float64),
                method=method,
                xtol=1e-12,
                ftol=1e-14,
                gtol=1e-12,
                max_nfev=STEPS,
            )
            return out.x, out.nfev

        return solve

    return build


MINIMISERS = {
    "jaxsolve minimize": ours,
    "SciPy BFGS": scipy_minimize("BFGS", gtol=TOL, maxiter=STEPS),
    "SciPy L-BFGS-B": scipy_minimize(
        "L-BFGS-B", gtol=TOL, ftol=1e-15, maxiter=STEPS, maxfun=10 * STEPS
    ),
    "optax L-BFGS": optax_lbfgs(),
    "Optimistix BFGS": optimistix_solver(optimistix.minimise, optimistix.BFGS),
    "Optimistix L-BFGS": optimistix_solver(optimistix.minimise, optimistix.LBFGS),
    "JAXopt BFGS": jaxopt_minimise(jaxopt.BFGS),
    "JAXopt L-BFGS": jaxopt_minimise(jaxopt.LBFGS),
}
BOUNDED = {
    "jaxsolve minimize": ours,
    "SciPy L-BFGS-B": scipy_minimize(
        "L-BFGS-B", gtol=TOL, ftol=1e-15, maxiter=STEPS, maxfun=10 * STEPS
    ),
    "SciPy trust-constr": scipy_minimize("trust-constr", maxiter=STEPS),
    "JAXopt L-BFGS-B": jaxopt_lbfgsb(),
    "JAXopt projected gradient": jaxopt_projected_gradient(),
}
EQUATIONS = {
    "jaxsolve root": our_root,
    "jaxsolve least_squares": our_least_squares,
    "SciPy least_squares": scipy_least_squares("trf"),
    "Optimistix LM": optimistix_solver(
        optimistix.least_squares, optimistix.LevenbergMarquardt
    ),
    "Optimistix dogleg": optimistix_solver(optimistix.least_squares, optimistix.Dogleg),
    "Optimistix Newton": optimistix_solver(optimistix.root_find, optimistix.Newton),
    "JAXopt LM": jaxopt_lm(),
}
