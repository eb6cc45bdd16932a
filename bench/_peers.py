"""The peers' sides: `build(fun)` gives `solve(x, data) -> (params, steps)`.

Settings are the fastest found that reach the bound. JAXopt: `implicit_diff=False`
silently unrolls the loop to `maxiter` steps (tens of times slower in a batch), so
forward runs say `unroll=False`.
"""

import functools

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
import optax
import optimistix
import scipy.optimize

MEMORY = 10


def jaxopt_lbfgs(tol, max_steps=3000, **settings):
    """Give JAXopt's L-BFGS; its `tol` bounds the l2 norm of the gradient."""

    def build(fun):
        solver = jaxopt.LBFGS(
            fun,
            maxiter=max_steps,
            tol=tol,
            history_size=MEMORY,
            use_gamma=True,
            unroll=False,
            **settings,
        )

        def solve(x, data):
            out = solver.run(x, data)
            return out.params, out.state.iter_num

        return solve

    return build


def optimistix_minimise(solver, max_steps=5000, **settings):
    """Give an Optimistix minimiser; it stops by Cauchy's rule on steps and values."""

    def build(fun):
        def solve(x, data):
            out = optimistix.minimise(
                fun, solver, x, data, max_steps=max_steps, throw=False, **settings
            )
            return out.value, out.stats["num_steps"]

        return solve

    return build


def optax_lbfgs(tol, max_steps=3000):
    """Give optax's L-BFGS and zoom search in one compiled loop, stopped by sup-norm."""
    transform = optax.lbfgs(memory_size=MEMORY)

    def build(fun):
        def solve(x, data):
            def value_fn(x):
                return fun(x, data)

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
                return (count == 0) | ((count < max_steps) & (error > tol))

            start = (x, transform.init(x))
            x, state = jax.lax.while_loop(unfinished, step, start)
            return x, optax.tree.get(state, "count")

        return solve

    return build


def optax_eager(tol, max_steps=3000):
    """Give optax's L-BFGS as its documentation does: a Python loop of jitted steps."""
    transform = optax.lbfgs(memory_size=MEMORY)

    def build(fun):
        @jax.jit
        def step(x, state, data):
            def value_fn(x):
                return fun(x, data)

            oracle = optax.value_and_grad_from_state(value_fn)
            value, grad = oracle(x, state=state)
            updates, state = transform.update(
                grad, state, x, value=value, grad=grad, value_fn=value_fn
            )
            error = optax.tree.norm(optax.tree.get(state, "grad"), ord=jnp.inf)
            return optax.apply_updates(x, updates), state, error

        def solve(x, data):
            state, count, error = transform.init(x), 0, np.inf
            while count < max_steps and error > tol:
                x, state, error = step(x, state, data)
                count += 1
            return x, count

        return solve

    return build


def scipy_lbfgsb(tol, max_steps=5000):
    """Give SciPy's L-BFGS-B over a jitted value_and_grad."""

    def build(fun):
        oracle = jax.jit(jax.value_and_grad(fun))

        def solve(x, data):
            shape, dtype = np.shape(x), x.dtype

            def call(z):
                value, grad = oracle(z.reshape(shape).astype(dtype), data)
                return float(value), np.asarray(grad, np.float64).ravel()

            out = scipy.optimize.minimize(
                call,
                np.asarray(x, np.float64).ravel(),
                jac=True,
                method="L-BFGS-B",
                options={
                    "gtol": tol,
                    "ftol": 0.0,
                    "maxcor": MEMORY,
                    "maxiter": max_steps,
                    "maxfun": 2 * max_steps,
                },
            )
            return jnp.asarray(out.x.reshape(shape), dtype), out.nit

        return solve

    return build


def batched(build):
    """Vmap a build over the leading axes of both arguments."""

    @functools.wraps(build)
    def wrapped(fun):
        return jax.vmap(build(fun))

    return wrapped


def optimistix_lbfgs(tol, **settings):
    """Give Optimistix's L-BFGS in its inverse form, six times the faster one."""
    solver = optimistix.LBFGS(rtol=tol, atol=tol, history_length=MEMORY)
    return optimistix_minimise(solver, **settings)


def optimistix_bfgs(tol, **settings):
    """Give Optimistix's BFGS in its inverse form, three times the faster one."""
    return optimistix_minimise(optimistix.BFGS(rtol=tol, atol=tol), **settings)
