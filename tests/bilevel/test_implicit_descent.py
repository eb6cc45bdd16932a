"""AID-BiO and HOAG: the rounds of the papers around any inner solver."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import Status, bilevel, core, fixed_point, smooth
from jaxsolve.bilevel import BilevelProblem, Levels
from tests.bilevel import quadratic
from tests.bilevel.rounds import START

DATA = quadratic.draw(dx=2, dy=3, top=2.0)
TARGET, (H, B, C) = DATA
STEP, BETA = 0.3, 0.2


def cg(w, rhs, steps, tol):
    """The card's AID, step 2; also the number of products."""
    r = rhs - H @ w
    p, products = r, 1
    while np.abs(r).max() > tol and products <= steps:
        product = H @ p
        a = r @ r / (p @ product)
        w, new_r = w + a * p, r - a * product
        p = new_r + (new_r @ new_r) / (r @ r) * p
        r, products = new_r, products + 1
    return w, products


def descend(x, y, steps, tol):
    """Gradient descent; its error is that of the point before the step."""
    error, count = np.inf, 0
    while error > tol and count < steps:
        slope = H @ y - B @ x - C
        y, error, count = y - STEP * slope, np.abs(slope).max(), count + 1
    return y, count


def paper(rounds, steps, tols):
    """HOAG with given steps, in NumPy: x, y, w and the updates after every round."""
    (x, y), w, total, after = START, np.zeros(3), 0, []
    for k in range(rounds):
        y, inner = descend(x, y, steps[0], tols(k))
        w, products = cg(w, y - TARGET, steps[1], tols(k))
        x = x - BETA * (quadratic.MU * x + B.T @ w)
        total += inner + products + 1
        after.append((x, y, w, total))
    return after


def plain(inner=None, **options):
    """The solver on problem Q, with gradient descent below."""
    inner = inner or smooth.gradient_descent(quadratic.PROBLEM.inner, STEP)
    settings = {"inner_steps": 6, "adjoint_steps": 3, **options}
    return bilevel.implicit_descent(
        quadratic.PROBLEM, inner, optax.sgd(BETA), **settings
    )


@pytest.mark.parametrize(
    ("name", "tols"),
    [
        ("HOAG", lambda k: 0.1 * 0.9 ** jnp.asarray(k, float)),
        ("HOAG, quadratic", lambda k: 0.1 / (1.0 + jnp.asarray(k, float)) ** 2),
        ("AID-BiO", lambda k: 0.0),
    ],
)
def test_rounds_are_those_of_the_papers(x64, name, tols):
    solver = plain(tol=0.0 if name == "AID-BiO" else tols)
    ours = core.iterate(solver, Levels(*START), DATA, max_steps=10**4, tol=0.0)
    ended = (step for step in ours if step[1].phase == 0 and step[1].taken == 0)
    for (x, y, w, total), (params, state) in zip(
        paper(8, (6, 3), tols), ended, strict=False
    ):
        np.testing.assert_allclose(params.upper, x, rtol=1e-10)
        np.testing.assert_allclose(params.lower, y, rtol=1e-10)
        np.testing.assert_allclose(state.adjoint, w, rtol=1e-10, atol=1e-14)
        assert state.count == total
    assert state.outer == 8


def test_default_tolerances_are_those_of_hoag(x64):
    start = Levels(*START)
    default, said = plain(), plain(tol=lambda k: 0.1 * 0.9 ** k.astype(jnp.float32))
    ends = [core.run(solver, start, DATA, max_steps=90) for solver in (default, said)]
    np.testing.assert_array_equal(ends[0].params.upper, ends[1].params.upper)


INNER = {
    "lbfgs": lambda p: smooth.lbfgs(p.inner),
    "anderson": lambda p: fixed_point.anderson(
        lambda y, data: y - 0.5 * jax.grad(p.inner)(y, data)
    ),
    "optax": lambda p: core.from_optax(p.inner, optax.sgd(0.5, momentum=0.5)),
}


def loss(y, batch):
    return jnp.mean(jax.nn.softplus(-batch[1] * (batch[0] @ y)))


LOGISTIC = BilevelProblem(
    lambda levels, data: loss(levels.lower, data) + 0.01 * jnp.sum(levels.upper**2),
    lambda levels, data: (
        loss(levels.lower, data) + jnp.sum(jnp.exp(levels.upper) * levels.lower**2)
    ),
)


def slopes(levels, data):
    """The hypergradient of the logistic problem, and g_y, in NumPy."""
    x, y = (np.asarray(level, float) for level in levels)

    def of_loss(batch):
        inputs, labels = batch
        p = 1 / (1 + np.exp(labels * (inputs @ y)))
        curved = inputs.T @ ((p * (1 - p))[:, None] * inputs)
        return -inputs.T @ (labels * p) / p.size, curved / p.size

    (f_y, _), (g_y, hessian) = map(of_loss, data)
    w = np.linalg.solve(hessian + 2 * np.diag(np.exp(x)), f_y)
    return 0.02 * x - 2 * np.exp(x) * y * w, g_y + 2 * np.exp(x) * y


@pytest.mark.parametrize("name", INNER)
def test_any_inner_solver_will_do(x64, name):
    """Logistic regression with a penalty for every weight, chosen on other data."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((2, 40, 4))
    labels = np.sign(inputs[..., 0] + 0.5 * rng.standard_normal((2, 40)))
    data = tuple(zip(inputs, labels, strict=True))
    solver = bilevel.implicit_descent(
        LOGISTIC, INNER[name](LOGISTIC), optax.sgd(5.0), inner_steps=60, adjoint_steps=4
    )
    start = Levels(np.full(4, -2.0), np.zeros(4))
    out = core.run(solver, start, data, max_steps=20_000, tol=1e-5)
    assert out.converged, out
    for slope in slopes(out.params, data):
        assert np.abs(slope).max() < 3e-5


def test_inner_solver_that_fails_ends_the_run():
    """A lower problem without a minimiser, and the failure is the inner solver's."""
    lower = lambda levels, data: -jnp.sum(levels.lower**3)
    upper = lambda levels, data: jnp.sum(levels.lower**2) + jnp.sum(levels.upper**2)
    problem = BilevelProblem(upper, lower)
    solver = bilevel.implicit_descent(
        problem, smooth.lbfgs(problem.inner), optax.sgd(0.1), 1e-6,
        inner_steps=500, adjoint_steps=2,
    )  # fmt: skip
    out = core.run(solver, Levels(np.ones(2), np.ones(2)), max_steps=1000)
    assert out.status == Status.DIVERGED
    assert core.all_finite(out.params)


def test_inner_solver_begins_anew_in_every_round(x64):
    inner = smooth.lbfgs(quadratic.PROBLEM.inner)
    solver = plain(inner=inner, inner_steps=4, tol=0.0)
    state = solver.init(Levels(*START), DATA)
    params, counts = Levels(*START), []
    for _ in range(20):
        params, state = solver.update(params, state, DATA)
        counts.append((int(state.phase), int(state.lower.count)))
    # Four lower updates, four products, a step of x.
    assert counts[:10] == [
        (0, 1),
        (0, 2),
        (0, 3),
        *[(1, 4)] * 4,
        (2, 4),
        (0, 4),
        (0, 1),
    ]


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("tol", {"tol": -1.0}),
        ("inner_steps", {"inner_steps": 0}),
        ("adjoint_steps", {"adjoint_steps": 2.5}),
        ("inner", {"inner": optax.sgd(0.1)}),
    ],
)
def test_options_that_make_no_sense_are_refused(what, options):
    with pytest.raises(ValueError, match=what):
        plain(**options)
