"""The conformance cases of online learners: on one loss, again and again."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve import online, prox
from tests.case import Case

CENTER = np.array([0.6, 0.45, 0.25])
START = np.array([0.05, 0.05, 0.9])
FAR = np.array([1.0, -2.0, 0.5])
STEPS = dict(max_steps=900)


def bowl(x, center):
    return jnp.sum((x - center) ** 2) / 2


def steep(x, center):
    """The same minimiser, but not the same steps in all directions."""
    z = x - center
    return jnp.sum(z**2) / 4 + jnp.sum(z**4) / 10 + jnp.sum(z) ** 2 / 20


def shifted(center):
    """The minimiser of `bowl` on the unit simplex."""
    return center - (np.sum(center) - 1) / 3


def clipped(center):
    return np.clip(center, -0.75, 0.75)


def shrunk(center):
    return np.sign(center) * np.maximum(np.abs(center) - 0.25, 0)


def in_the_ball(radius):
    def usable(x):
        return jnp.all(jnp.isfinite(x)) & (jnp.sum(x**2) <= radius**2 * 1.001)

    return usable


def on_the_simplex(x):
    return jnp.all(jnp.isfinite(x) & (x >= 0)) & (jnp.abs(jnp.sum(x) - 1) < 1e-4)


def in_the_box(x):
    return jnp.all(jnp.isfinite(x) & (jnp.abs(x) <= 0.75))


BALL = prox.euclidean_map(prox.l2_ball(1.0))


def booked(form):
    fun = form.function(steep)
    learner = online.mirror_descent(fun, BALL, online.variation_stepsize(2.0, 1.0))
    rivals = jax.vmap(form.wrap)(jnp.eye(3)[:2])
    return online.ledger(learner, prox.l2_ball_vertex(1.0), fun, rivals)


CASES = (
    Case(
        factory="online.mirror_descent",
        make=lambda form: online.mirror_descent(
            form.function(steep), BALL, online.variation_stepsize(2.0, 1.0)
        ),
        params=np.zeros(3),
        data=CENTER,
        solution=lambda center: center,
        usable=in_the_ball(1.0),
    ),
    Case(
        factory="online.mirror_descent",
        variant="entropy",
        make=lambda form: online.mirror_descent(
            form.function(bowl), prox.entropy_map(), 0.6
        ),
        params=START,
        data=CENTER,
        solution=shifted,
        usable=on_the_simplex,
    ),
    Case(
        factory="online.ftrl",
        make=lambda form: online.ftrl(
            form.function(bowl), prox.euclidean_map(prox.box(-0.75, 0.75)), 0.3
        ),
        params=np.zeros(3),
        data=FAR,
        solution=clipped,
        usable=in_the_box,
    ),
    Case(
        factory="online.log_barrier_ftrl",
        make=lambda form: online.log_barrier_ftrl(form.function(bowl), 1.5),
        params=START,
        data=CENTER,
        solution=shifted,
        usable=on_the_simplex,
        **STEPS,
    ),
    Case(
        factory="online.online_newton",
        make=lambda form: online.online_newton(
            form.function(steep), online.quadratic_ball(0.6), 0.5, 1.0
        ),
        params=np.zeros(3),
        data=CENTER,
        tol32=1e-6,  # of short steps along the boundary
        usable=in_the_ball(0.6),
    ),
    Case(
        factory="online.online_newton",
        variant="box",
        make=lambda form: online.online_newton(
            form.function(bowl),
            online.quadratic_set(prox.box(-0.75, 0.75)),
            0.5,
            1.0,
        ),
        params=np.zeros(3),
        data=FAR,
        solution=clipped,
        usable=in_the_box,
    ),
    Case(
        factory="online.ensemble",
        make=lambda form: online.ensemble(
            form.function(steep), BALL, np.array([0.2, 0.4]), 2.0, 1.0
        ),
        params=np.zeros(3),
        data=CENTER,
        solution=lambda center: center,
        usable=in_the_ball(1.0),
    ),
    Case(
        factory="online.stochastic_mirror_descent",
        make=lambda form: online.stochastic_mirror_descent(
            form.function(bowl), online.composite_map(prox.l1(0.25)), 0.4
        ),
        params=np.zeros(3),
        data=FAR,
        solution=shrunk,
    ),
    Case(
        factory="online.stochastic_mirror_descent",
        variant="powers",
        make=lambda form: online.stochastic_mirror_descent(
            form.function(bowl), online.power_map(1.5, 0.25), 0.8
        ),
        params=np.zeros(3),
        data=FAR,
        solution=shrunk,
    ),
    Case(
        factory="online.ledger",
        make=booked,
        params=np.zeros(3),
        data=CENTER,
        solution=lambda center: center,
        usable=in_the_ball(1.0),
        calls=2,  # at the play, and at the comparators
    ),
)
