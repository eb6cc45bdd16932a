"""The conformance cases of mirror descent, block coordinate descent and Frank-Wolfe."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxsolve import composite, prox
from tests.case import Case

CENTER = np.array([0.6, 0.45, 0.25])
MATRIX = np.array([[1.0, 0.3, 0.0], [0.0, 1.2, -0.4], [0.2, 0.0, 0.8]])
START = np.array([0.05, 0.05, 0.9])


def bowl(x, center):
    """On the unit simplex, its minimum is the center less a common shift."""
    return jnp.sum((x - center) ** 2) / 2


def shifted(center):
    return center - (np.sum(center) - 1) / 3


def tilted(x, data):
    """No closed form."""
    z = data["matrix"] @ (x - data["center"])
    return jnp.sum(z**2 / 2 + z**4 / 40)


def on_the_simplex(x):
    return jnp.all(jnp.isfinite(x) & (x >= 0)) & (jnp.abs(jnp.sum(x) - 1) < 1e-4)


def not_negative(x):
    return jnp.all(jnp.isfinite(x) & (x >= 0))


def mirror(form, fun, *args, **options):
    return composite.mirror_descent(form.function(fun), *args, **options)


def of_arrays(form, fun):
    """As form.function, of predictions: one array in every form."""

    def counted(predictions, data):
        form.calls += 1
        return fun(predictions, form.unwrap_data(data))

    return counted


def quadratic_model(form):
    at = form.unwrap_data
    gram = lambda data: at(data)["matrix"].T @ at(data)["matrix"]
    return composite.QuadraticModel(gram, lambda data: at(data)["center"])


def least_squares(form):
    squares = of_arrays(form, lambda p, data: jnp.sum((p - data["center"]) ** 2) / 2)
    matrix = lambda data: form.unwrap_data(data)["matrix"]
    return composite.LinearModel(squares, matrix, lambda data: 1.0)


# An oracle without corners: the solver keeps its vertices.
CROSS = prox.l1_ball_vertex(2.0)._replace(corners=None)
DATA = {"center": CENTER, "matrix": MATRIX}

CASES = (
    Case(
        factory="composite.mirror_descent",
        make=lambda form: mirror(form, bowl, prox.entropy_map(), 1.5),
        params=START,
        data=CENTER,
        solution=shifted,
        usable=on_the_simplex,
    ),
    Case(
        factory="composite.mirror_descent",
        variant="searched",
        make=lambda form: mirror(form, tilted, prox.tsallis_map(0.5)),
        params=START,
        data=DATA,
        tol32=1e-5,  # the search is not the same to rounding; its end is.
        usable=on_the_simplex,
    ),
    Case(
        factory="composite.mirror_descent",
        variant="accelerated",
        make=lambda form: mirror(
            form, tilted, prox.log_barrier_map(None), 0.5, accelerate=True
        ),
        params=np.array([2.0, 0.2, 1.0]),
        data=DATA,
        usable=not_negative,
    ),
    Case(
        factory="composite.mirror_descent",
        variant="accelerated-searched",
        make=lambda form: mirror(form, tilted, prox.entropy_map(), accelerate=True),
        params=START,
        data=DATA,
        usable=on_the_simplex,
    ),
    Case(
        factory="composite.block_coordinate_descent",
        make=lambda form: composite.block_coordinate_descent(
            least_squares(form), prox.l1(0.05)
        ),
        params=np.array([3.0, -3.0, 2.0]),
        data=DATA,
    ),
    Case(
        factory="composite.block_coordinate_descent",
        variant="quadratic-random",
        make=lambda form: composite.block_coordinate_descent(
            quadratic_model(form), prox.l1(0.05), key=jax.random.key(0)
        ),
        params=np.array([3.0, -3.0, 2.0]),
        data=DATA,
    ),
    Case(
        factory="composite.block_coordinate_descent",
        variant="general",
        make=lambda form: composite.block_coordinate_descent(
            form.function(tilted), prox.non_negative(), np.array([0.5, 0.4, 0.6])
        ),
        params=np.array([2.0, 0.2, 1.0]),
        data=DATA,
    ),
    Case(
        factory="composite.frank_wolfe",
        make=lambda form: composite.frank_wolfe(
            form.function(bowl), prox.l2_ball_vertex(2.0)
        ),
        params=np.array([3.0, -3.0, 2.0]),
        data=CENTER,
        solution=lambda center: center,
    ),
    Case(
        factory="composite.pairwise_frank_wolfe",
        make=lambda form: composite.pairwise_frank_wolfe(
            form.function(bowl), prox.simplex_vertex()
        ),
        params=np.zeros(3),
        data=CENTER,
        solution=shifted,
    ),
    Case(
        factory="composite.away_frank_wolfe",
        make=lambda form: composite.away_frank_wolfe(
            form.function(tilted), CROSS, capacity=8
        ),
        params=np.zeros(3),
        data=DATA,
    ),
)
