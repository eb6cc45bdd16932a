"""Hypergradients: closed forms, the tables of the cards, and honest errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes

from jaxsolve import bilevel, composite, core, fixed_point, prox, smooth
from jaxsolve.bilevel import BilevelProblem, Levels
from jaxsolve.core import Status
from tests.bilevel import quadratic

DATA = quadratic.draw()
ONES = np.ones(5)
EXACT = quadratic.hypergradient(ONES, DATA)


def at(lower=None, upper=ONES):
    """The pair (1, 0), or another, in the dtype of the test."""
    lower = np.zeros(10) if lower is None else lower
    return Levels(jnp.asarray(upper, float), jnp.asarray(lower, float))


def data():
    return jax.tree.map(lambda x: jnp.asarray(x, float), DATA)


def off(gradient, exact=EXACT):
    return np.linalg.norm(np.asarray(gradient) - exact)


def inner(stepsize=None):
    return (
        smooth.newton(quadratic.PROBLEM.inner)
        if stepsize is None
        else smooth.gradient_descent(quadratic.PROBLEM.inner, stepsize)
    )


def implicit(solver=None, **options):
    solver = inner() if solver is None else solver
    return bilevel.implicit_hypergradient(quadratic.upper, solver, **options)


METHODS = {
    "lu": bilevel.dense(),
    "cg": bilevel.conjugate_gradient(),
    "gmres": bilevel.gmres(),
    "normal": bilevel.normal_cg(),
    "neumann": bilevel.neumann(0.18, 600),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_linear_solve_gives_the_closed_form(x64, name):
    found = implicit(linear_solve=METHODS[name])(at(), data(), tol=1e-12)
    assert found.status == Status.CONVERGED
    assert off(found.gradient) < 1e-9
    assert found.error < 1e-8
    assert found.adjoint_residual < 1e-10
    best = Levels(ONES, quadratic.lower_solution(ONES, DATA))
    np.testing.assert_allclose(found.value, quadratic.upper(best, DATA[0]), rtol=1e-12)


@pytest.mark.parametrize("terms", [10, 20, 40, 80])
def test_neumann_series_have_the_errors_of_the_card(x64, terms):
    table = {10: 9.6e-2, 20: 1.54e-2, 40: 1.34e-3, 80: 1.94e-5}
    lower = quadratic.lower_solution(ONES, DATA)
    method = bilevel.neumann(0.1, terms)
    h = implicit(linear_solve=method, rtol=np.inf)
    found = h(at(lower), data(), max_steps=0)
    assert off(found.gradient) == pytest.approx(table[terms], rel=6e-3)
    # What such a budget leaves is an error too, and is estimated.
    assert float(found.error) == pytest.approx(off(found.gradient), rel=0.1)


@pytest.mark.parametrize("steps", [20, 40, 80, 160])
def test_an_inexact_inner_solve_costs_what_the_card_says_and_is_found_out(x64, steps):
    table = {20: 0.205, 40: 2.51e-2, 80: 3.72e-4, 160: 8.12e-8}
    h = implicit(inner(0.1), rtol=np.inf)
    found = h(at(), data(), max_steps=steps, tol=0.0)
    error = off(found.gradient)
    assert error == pytest.approx(table[steps], rel=6e-3)
    assert float(found.error) == pytest.approx(error, rel=1e-5)
    better = implicit(inner(0.1), corrected=True)(
        at(), data(), max_steps=steps, tol=0.0
    )
    assert off(better.gradient) < 1e-12  # one Newton step solves a quadratic


UNROLLED = {
    1: 1.439,
    5: 0.5742,
    10: 0.3560,
    20: 0.1678,
    40: 2.343e-2,
    80: 3.523e-4,
    160: 7.699e-8,
}


@pytest.mark.parametrize("steps", UNROLLED)
def test_unrolled_gradients_have_the_errors_of_the_card(x64, steps):
    h = bilevel.unrolled_hypergradient(quadratic.upper, inner(0.1), steps, rtol=np.inf)
    found = h(at(), data())
    assert off(found.gradient) == pytest.approx(UNROLLED[steps], rel=6e-4)
    assert float(found.error) == pytest.approx(off(found.gradient), rel=1e-5)


def test_forward_and_reverse_unrolling_agree(x64):
    make = functools.partial(
        bilevel.unrolled_hypergradient, quadratic.upper, inner(0.1), 7, estimated=False
    )
    left, right = (make(forward=f)(at(), data()).gradient for f in (False, True))
    np.testing.assert_allclose(left, right, rtol=1e-13)


def test_unrolling_at_the_solution_is_a_neumann_series(x64):
    lower = quadratic.lower_solution(ONES, DATA)
    for steps in (1, 6):
        unrolled = bilevel.unrolled_hypergradient(
            quadratic.upper, inner(0.1), steps, estimated=False
        )
        series = implicit(linear_solve=bilevel.neumann(0.1, steps), rtol=np.inf)
        np.testing.assert_allclose(
            unrolled(at(lower), data()).gradient,
            series(at(lower), data(), max_steps=0).gradient,
            atol=1e-12,
        )


def test_one_step_differentiation_is_unrolling_the_last_update(x64):
    slope = -0.1 * DATA[1].cross  # of T in x, transposed below
    h = bilevel.unrolled_hypergradient(
        quadratic.upper, inner(0.1), 4, truncate=1, estimated=False
    )
    found = h(at(), data())
    rest = np.asarray(found.lower) - DATA[0]
    expected = quadratic.MU * ONES - slope.T @ rest
    np.testing.assert_allclose(found.gradient, expected, rtol=1e-12)


@pytest.mark.parametrize("sigma", [1.0, 0.1, 0.01, 1e-3, 1e-4])
def test_penalties_have_the_bias_of_the_card_and_know_it(x64, sigma):
    table = {1.0: 0.420, 0.1: 5.56e-2, 0.01: 5.76e-3, 1e-3: 5.78e-4, 1e-4: 5.78e-5}
    make = functools.partial(
        bilevel.penalty_hypergradient, quadratic.PROBLEM, smooth.newton, sigma,
        rtol=np.inf,
    )  # fmt: skip
    found = make()(at(), data(), tol=1e-12)
    assert off(found.gradient) == pytest.approx(table[sigma], rel=2e-3)
    assert 1 <= float(found.error) / off(found.gradient) < 1.2
    better = make(corrected=True)(at(), data(), tol=1e-12)
    assert off(better.gradient) <= float(better.error) < 0.12 * float(found.error)


def test_a_warm_start_leaves_nothing_to_solve_and_several_are_combined(x64):
    method = bilevel.conjugate_gradient(max_steps=1)
    h = implicit(linear_solve=method, rtol=np.inf, estimated=False)
    exact = np.linalg.solve(
        DATA[1].hessian, quadratic.lower_solution(ONES, DATA) - DATA[0]
    )
    cold = h(at(), data(), tol=1e-12)
    assert cold.adjoint_residual > 0.1
    warm = h(at(), data(), start=jnp.asarray(exact), tol=1e-12)
    assert warm.adjoint_residual < 1e-12
    parts = np.stack([exact - 1.0, exact + 2.0, np.cos(np.arange(10.0))])
    recycled = h(at(), data(), start=jnp.asarray(parts), tol=1e-12)
    assert recycled.adjoint_residual < 1e-12
    np.testing.assert_allclose(recycled.gradient, EXACT, atol=1e-9)


def test_the_gradient_can_be_differentiated_again_in_every_way(x64):
    h = implicit(linear_solve=bilevel.conjugate_gradient())
    slope, _ = quadratic.pieces(DATA)
    hessian = quadratic.MU * np.eye(5) + slope.T @ slope

    def gradient(x, start=None):
        return h(Levels(x, jnp.zeros(10)), data(), start=start).gradient

    x, start = jnp.asarray(ONES), h(at(), data()).adjoint
    np.testing.assert_allclose(jax.jacfwd(gradient)(x), hessian, atol=1e-8)
    np.testing.assert_allclose(jax.jacrev(gradient)(x, start), hessian, atol=1e-8)

    def optimum(x):
        out = core.run(inner(), jnp.zeros(10), (x, data()[1]))
        return quadratic.upper(Levels(x, out.params), data()[0])

    np.testing.assert_allclose(jax.hessian(optimum)(x), hessian, atol=1e-8)


def test_penalties_give_a_gradient_that_can_be_differentiated(x64):
    h = bilevel.penalty_hypergradient(quadratic.PROBLEM, smooth.newton, 1e-4)
    slope, _ = quadratic.pieces(DATA)
    hessian = quadratic.MU * np.eye(5) + slope.T @ slope

    def gradient(x):
        return h(Levels(x, jnp.zeros(10)), data(), tol=1e-12).gradient

    np.testing.assert_allclose(jax.jacfwd(gradient)(jnp.ones(5)), hessian, atol=2e-4)


def test_soft_directions_beside_stiff_ones_are_seen_by_the_estimate(x64):
    # Conjugate gradients reach a loose residual in the stiff half alone.
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((200, 200))).Q
    ends = np.linspace(0.5, 1.0, 100), np.linspace(1e-4, 1.5e-4, 100)
    hessian = basis @ np.diag(np.concatenate(ends)) @ basis.T
    cross, target = rng.standard_normal((200, 5)), rng.standard_normal(200)
    matrix = jnp.asarray((hessian + hessian.T) / 2)

    def lower(levels, _):
        x, y = levels
        return y @ (matrix @ y) / 2 - y @ (jnp.asarray(cross) @ x) * 1e-4

    problem = BilevelProblem(
        lambda levels, _: jnp.sum((levels.lower - jnp.asarray(target)) ** 2) / 2, lower
    )
    exact_y = np.linalg.solve(hessian, cross @ ONES) * 1e-4
    y = jnp.asarray(exact_y + 3.0 * rng.standard_normal(200))
    y = y - (matrix @ y - jnp.asarray(cross @ ONES) * 1e-4)
    jacobian = np.linalg.solve(hessian, cross) * 1e-4
    exact = jacobian.T @ (exact_y - target)
    solver = smooth.lbfgs(problem.inner)
    h = bilevel.implicit_hypergradient(problem.upper, solver, rtol=np.inf)
    found = h(Levels(jnp.asarray(ONES), y), max_steps=0)
    error = off(found.gradient, exact)
    assert error > 0.05 * np.linalg.norm(exact)
    assert 0.8 <= float(found.error) / error <= 1.25


@pytest.mark.parametrize(
    "name", ["default", "lu", "gmres", "normal", "neumann", "warm gmres"]
)
def test_a_map_that_is_not_symmetric_has_the_right_transpose(x64, name):
    rng = np.random.default_rng(2)
    n = 12
    raw = np.triu(rng.standard_normal((n, n)))
    matrix = 0.6 * raw / np.linalg.norm(raw, 2)
    push, weight = rng.standard_normal((n, 3)), rng.standard_normal(n)
    steps = lambda y, d: jnp.asarray(matrix) @ y + jnp.asarray(push) @ jnp.sin(d[0])
    methods = {
        **METHODS, "neumann": bilevel.neumann(1.0, 80), "default": None,
        "warm gmres": METHODS["gmres"],
    }  # fmt: skip
    h = bilevel.implicit_hypergradient(
        lambda levels, _: jnp.asarray(weight) @ levels.lower,
        fixed_point.picard(steps),
        linear_solve=methods[name],
    )
    x = np.array([0.3, -0.2, 0.5])
    inverse = np.linalg.inv(np.eye(n) - matrix)
    exact = np.cos(x) * (push.T @ inverse.T @ weight)
    start = jnp.asarray(inverse.T @ weight + 0.1) if "warm" in name else None

    def gradient(x):
        levels = Levels(x, jnp.zeros(n))
        return h(levels, start=start, tol=1e-13).gradient

    np.testing.assert_allclose(gradient(jnp.asarray(x)), exact, rtol=1e-7)
    hessian = np.diag(-np.sin(x) * (push.T @ inverse.T @ weight))
    np.testing.assert_allclose(jax.jacrev(gradient)(jnp.asarray(x)), hessian, atol=1e-6)


def test_a_saddle_of_the_lower_level_is_refused():
    def lower(levels, _):
        x, (u, v) = levels
        return (u - x) ** 2 / 2 - 0.05 * v**2 + v**4 / 4 - v * (x - 1)

    upper = lambda levels, _: levels.lower[0] + 0.3 * levels.lower[1]
    solver = smooth.gradient_descent(BilevelProblem(upper, lower).inner, 0.1)
    h = bilevel.implicit_hypergradient(upper, solver)
    found = h(Levels(jnp.asarray(1.0), jnp.array([1.0, 0.0])))
    assert found.status == Status.BREAKDOWN and np.isnan(found.gradient)


def test_unrolling_takes_all_its_steps_from_an_exact_start(x64):
    plain = (DATA[0], DATA[1]._replace(linear=np.zeros(10)))
    plain = jax.tree.map(jnp.asarray, plain)
    levels = Levels(jnp.zeros(5), jnp.zeros(10))  # where the lower slope is zero
    unrolled = bilevel.unrolled_hypergradient(
        quadratic.upper, inner(0.1), 20, estimated=False
    )
    series = implicit(linear_solve=bilevel.neumann(0.1, 20), rtol=np.inf)
    np.testing.assert_allclose(
        unrolled(levels, plain).gradient,
        series(levels, plain, max_steps=0).gradient,
        atol=1e-12,
    )


def test_the_units_of_the_upper_level_do_not_matter_to_a_refusal():
    small = BilevelProblem(
        lambda levels, d: 1e-4 * quadratic.upper(levels, d), quadratic.lower
    )
    h = bilevel.penalty_hypergradient(small, smooth.newton, 1e4)
    found = h(at(), data())
    assert found.status != Status.CONVERGED or off(found.gradient / 1e-4) < 0.2


# ---------------------------------------------------------------------- real data


@functools.cache
def cancer(share=0.5):
    features, labels = load_breast_cancer(return_X_y=True)
    features = (features - features.mean(0)) / features.std(0)
    order = np.random.default_rng(0).permutation(len(labels))
    cut = int(share * len(labels))
    first, rest = order[:cut], order[cut:]
    part = lambda rows: (features[rows], 2.0 * labels[rows] - 1)
    return part(rest), part(first)


def logistic(weights, data):
    features, labels = data
    return jnp.mean(jax.nn.softplus(-labels * (features @ weights)))


def penalised(levels, data):
    x, w = levels
    return logistic(w, data) + jnp.sum(jnp.exp(x) * w**2) / 2


CANCER = BilevelProblem(lambda levels, d: logistic(levels.lower, d), penalised)


def inners(penalty):
    features, labels = cancer()[1]
    top = np.linalg.norm(features, 2) ** 2 / (4 * len(labels)) + np.exp(penalty)
    return {
        "gradient": smooth.gradient_descent(CANCER.inner, 1 / top),
        "lbfgs": smooth.lbfgs(CANCER.inner),
    }


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("kind", ["gradient", "lbfgs"])
def test_the_error_is_told_within_a_factor_of_two_or_not_at_all(x64, kind, each):
    told = 0
    h = None
    data = jax.tree.map(jnp.asarray, cancer())
    newton = bilevel.implicit_hypergradient(CANCER.upper, smooth.newton(CANCER.inner))
    for penalty in (-8.0, -4.0, -1.0):
        levels = Levels(jnp.full((30,) if each else (), penalty), jnp.zeros(30))
        exact = newton(levels, data, tol=1e-13).gradient
        h = bilevel.implicit_hypergradient(
            CANCER.upper, inners(penalty)[kind], rtol=np.inf
        )
        for steps in (1, 4, 16, 64):
            found = h(levels, data, max_steps=steps)
            error = np.linalg.norm(found.gradient - exact)
            if np.isfinite(found.error):
                told += 1
                assert 0.5 <= float(found.error) / error <= 2
            else:
                assert error > 0.02 * np.linalg.norm(exact)
    assert told >= 4


def test_ridge_on_diabetes_has_its_closed_form(x64):
    features, target = load_diabetes(return_X_y=True)
    features, target = features * 21, (target - target.mean()) / target.std()
    a, b, p, q = features[:250], target[:250], features[250:], target[250:]

    def fit(w, data):
        features, target = data
        return jnp.mean((features @ w - target) ** 2) / 2

    problem = BilevelProblem(
        lambda levels, d: fit(levels.lower, d),
        lambda levels, d: (
            fit(levels.lower, d) + jnp.exp(levels.upper) / 2 * jnp.sum(levels.lower**2)
        ),
    )
    x = -2.0
    gram = a.T @ a / len(b) + np.exp(x) * np.eye(10)
    w = np.linalg.solve(gram, a.T @ b / len(b))
    slope = -np.linalg.solve(gram, np.exp(x) * w)
    exact = slope @ (p.T @ (p @ w - q)) / len(q)
    data = jax.tree.map(jnp.asarray, ((p, q), (a, b)))
    solver = smooth.lbfgs(problem.inner)
    h = bilevel.implicit_hypergradient(problem.upper, solver)
    found = h(Levels(jnp.asarray(x), jnp.zeros(10)), data, tol=1e-11)
    np.testing.assert_allclose(found.gradient, exact, rtol=1e-8)


def test_lasso_with_more_features_than_samples_has_that_of_its_support(x64):
    rng = np.random.default_rng(0)
    a, x_true = rng.standard_normal((100, 1000)), np.zeros(1000)
    x_true[:10] = 3
    b, check = a @ x_true + 0.1 * rng.standard_normal(100), rng.standard_normal(1000)
    top = np.linalg.norm(a, 2) ** 2 / 100

    def fit(w, data):
        return jnp.mean((data[1][0] @ w - data[1][1]) ** 2) / 2

    penalty = prox.of_data(lambda data: prox.l1(jnp.exp(data[0])))
    solver = composite.proximal_gradient(fit, penalty, 1 / top)
    upper = lambda levels, d: jnp.sum((levels.lower - d) ** 2) / 2
    h = bilevel.implicit_hypergradient(upper, solver)
    levels = Levels(jnp.asarray(-2.0), jnp.zeros(1000))
    found = h(
        levels,
        (jnp.asarray(check), (jnp.asarray(a), jnp.asarray(b))),
        tol=1e-11,
        max_steps=5000,
    )
    w = np.asarray(found.lower)
    on = np.flatnonzero(w)
    gram = a[:, on].T @ a[:, on] / 100
    slope = -np.exp(-2.0) * np.linalg.solve(gram, np.sign(w[on]))
    assert found.converged and 10 <= len(on) <= 100
    np.testing.assert_allclose(found.gradient, slope @ (w - check)[on], rtol=1e-8)


# ------------------------------------------------------------------ threads by name


def test_vmex_366_a_constrained_inner_solve_of_four_steps_is_refused(x64):
    rng = np.random.default_rng(3)
    skew = rng.standard_normal((12, 12))
    matrix = jnp.asarray(skew @ skew.T + np.diag(np.logspace(0, 3, 12)))

    def lower(levels, _):
        x, y = levels
        return y @ (matrix @ y) / 2 - y @ jnp.concatenate([x, x**2]) * 30

    upper = lambda levels, _: jnp.sum((levels.lower - 0.5) ** 2)
    problem = BilevelProblem(upper, lower)
    solver = smooth.lbfgsb(problem.inner, (-0.3, 0.3))
    h = bilevel.implicit_hypergradient(upper, solver)
    levels = Levels(jnp.linspace(1.0, 2.0, 6), jnp.zeros(12))
    starved = h(levels, max_steps=4)
    assert starved.status == Status.MAX_STEPS
    assert np.all(np.isnan(starved.gradient)) and starved.inner_residual > 0.1
    full = h(levels, tol=1e-10)

    def value(x):
        out = core.run(solver, levels.lower, (x, None), tol=1e-12)
        return upper(Levels(x, out.params), None)

    step = 1e-5 * np.eye(6)
    slopes = [(value(levels.upper + e) - value(levels.upper - e)) / 2e-5 for e in step]
    assert full.converged and full.error < 1e-8
    assert np.any(np.abs(full.lower) == 0.3) and np.any(np.abs(full.lower) < 0.3)
    np.testing.assert_allclose(full.gradient, slopes, rtol=1e-6, atol=1e-8)


def test_hypertorch_8_the_map_that_is_differentiated_is_the_residual(x64):
    # Heavy ball iterates one map; what is differentiated is another, the gradient.
    solver = smooth.nonlinear_cg(quadratic.PROBLEM.inner)
    found = implicit(solver)(at(), data(), tol=1e-11)
    assert off(found.gradient) < 1e-9


def test_jaxopt_232_shapes_of_the_adjoint_come_from_the_solution(x64):
    # Both levels are trees; a scalar, a matrix and a vector among their leaves.
    def lower(levels, _):
        x, y = levels
        fit = y["matrix"] @ x["a"] - x["b"] * jnp.ones(2)
        return jnp.sum(fit**2) + jnp.sum(y["matrix"] ** 2) + (y["scalar"] - x["b"]) ** 2

    upper = lambda levels, _: (
        jnp.sum(levels.lower["matrix"]) + levels.lower["scalar"] ** 2
    )
    problem = BilevelProblem(upper, lower)
    x = {"a": jnp.arange(1.0, 4.0), "b": jnp.asarray(0.5)}
    y = {"matrix": jnp.zeros((2, 3)), "scalar": jnp.asarray(0.0)}
    solver = smooth.lbfgs(problem.inner)
    found = bilevel.implicit_hypergradient(upper, solver)(Levels(x, y), tol=1e-12)
    total = float(jnp.sum(x["a"]))
    norm = 1 + float(jnp.sum(x["a"] ** 2))  # y = b 1 a^T / (1 + a^T a)
    np.testing.assert_allclose(found.gradient["b"], 2 * total / norm + 1.0, rtol=1e-9)
    expected = 2 * 0.5 * (1 / norm - 2 * total * x["a"] / norm**2)
    np.testing.assert_allclose(found.gradient["a"], expected, rtol=1e-9)
    assert jax.tree.structure(found.adjoint) == jax.tree.structure(y)


# ------------------------------------------------------------------------ bad input


def solved(lower, upper=lambda levels, _: jnp.sum(levels.lower), size=2, **options):
    solver = smooth.lbfgs(BilevelProblem(upper, lower).inner)
    h = bilevel.implicit_hypergradient(upper, solver, **options)
    return h(Levels(jnp.ones(size), jnp.zeros(size)))


def test_a_lower_level_without_minimiser_diverges_and_is_refused():
    found = solved(lambda levels, _: jnp.sum(levels.lower * levels.upper))
    assert found.status == Status.DIVERGED
    assert np.all(np.isnan(found.gradient))


def test_a_stationary_point_that_is_no_minimum_is_refused():
    found = solved(
        lambda levels, _: (
            jnp.sum((1 - levels.upper) * levels.lower) - jnp.sum(levels.lower**2)
        )
    )
    assert found.status in (Status.BREAKDOWN, Status.DIVERGED)
    assert np.all(np.isnan(found.gradient))


def test_a_singular_lower_hessian_is_refused_unless_the_gradient_does_not_see_it():
    flat = lambda levels, _: jnp.sum((jnp.sum(levels.lower) - levels.upper[0]) ** 2)
    seen = solved(flat, upper=lambda levels, _: levels.lower[0])
    assert seen.status == Status.BREAKDOWN
    assert np.all(np.isnan(seen.gradient))
    unseen = solved(flat, upper=lambda levels, _: jnp.sum(levels.lower), ridge=1e-4)
    np.testing.assert_allclose(unseen.gradient, [1.0, 0.0], atol=1e-3)


def test_an_upper_loss_that_ignores_the_lower_solution_has_its_own_gradient():
    found = solved(
        lambda levels, _: jnp.sum((levels.lower - levels.upper) ** 2),
        upper=lambda levels, _: jnp.sum(levels.upper**2),
    )
    assert found.converged and found.error == 0
    np.testing.assert_allclose(found.gradient, [2.0, 2.0])


def test_bad_arguments_say_what_is_wanted():
    with pytest.raises(ValueError, match="residual"):
        implicit(inner()._replace(residual=None))
    with pytest.raises(ValueError, match="Levels"):
        implicit()((jnp.ones(5), jnp.zeros(10)), data())
    with pytest.raises(ValueError, match="pair"):
        implicit()(at(), data()[0])
    with pytest.raises(ValueError, match="empty"):
        implicit()(at(), (jnp.zeros((0, 10)), data()[1]))
    with pytest.raises(ValueError, match="start"):
        implicit()(at(), data(), start=jnp.zeros(3))
    with pytest.raises(ValueError, match="terms"):
        bilevel.neumann(0.1, 0)
    with pytest.raises(ValueError, match="truncate"):
        bilevel.unrolled_hypergradient(quadratic.upper, inner(0.1), 3, truncate=4)
    with pytest.raises(ValueError, match="sigma"):
        bilevel.penalty_hypergradient(quadratic.PROBLEM, smooth.newton, 0.0)
    with pytest.raises(ValueError, match="function"):
        BilevelProblem(quadratic.upper, None)
    with pytest.raises(ValueError, match="rtol"):
        implicit(rtol=-1.0)
    with pytest.raises(ValueError, match="ridge"):
        implicit(ridge=-1.0)
    coupled = BilevelProblem(quadratic.upper, quadratic.lower, constraint=max)
    with pytest.raises(ValueError, match="constraint"):
        bilevel.penalty_hypergradient(coupled, smooth.newton, 0.1)
    picard = composite.projected_gradient(quadratic.PROBLEM.inner, prox.non_negative())
    with pytest.raises(ValueError, match="gmres"):
        implicit(picard, linear_solve=bilevel.conjugate_gradient())(at(), data())


def test_lanes_are_judged_by_themselves_and_nan_does_not_spread():
    h = implicit(inner(0.1))
    levels = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), at())
    scale = jnp.asarray([1.0, 1.0, jnp.nan])[:, None]
    lanes = jax.vmap(lambda levels: h(levels, data(), max_steps=400))(
        levels._replace(upper=levels.upper * scale)
    )
    single = h(at(), data(), max_steps=400)
    np.testing.assert_allclose(lanes.gradient[0], single.gradient, rtol=1e-5)
    np.testing.assert_array_equal(lanes.gradient[0], lanes.gradient[1])
    assert list(lanes.status) == [1, 1, Status.DIVERGED]
    assert np.all(np.isnan(lanes.gradient[2]))


def test_single_precision_is_trusted_out_of_the_box():
    for solver in (smooth.lbfgs(quadratic.PROBLEM.inner), inner(), inner(0.1)):
        found = implicit(solver)(at(), data())
        assert found.converged
        assert off(found.gradient) < 2 * found.error < 2e-3
        assert found.gradient.dtype == jnp.float32


def test_new_numbers_cost_no_trace():
    calls = []

    def upper(levels, target):
        calls.append(1)
        return quadratic.upper(levels, target)

    h = bilevel.implicit_hypergradient(upper, inner())
    h(at(), data())
    before = len(calls)
    h(at(np.ones(10), 2 * ONES), data())
    assert len(calls) == before


def test_a_refused_gradient_refuses_its_derivatives_too(x64):
    h = implicit(inner(0.1))

    def gradient(x):
        return h(Levels(x, jnp.zeros(10)), data(), max_steps=2).gradient

    assert np.all(np.isnan(gradient(jnp.asarray(ONES))))
    assert not np.any(np.isfinite(jax.jacfwd(gradient)(jnp.asarray(ONES))))
