"""F2SA and F3SA: the card's iterates and figures, invariants, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import bilevel, core, prox
from jaxsolve.bilevel import BilevelProblem, Levels
from jaxsolve.core import Status
from tests.bilevel import finite_sum, quadratic

DATA = quadratic.draw()
ZERO = Levels(np.zeros(5), np.zeros(10))
KEY = jax.random.key(0)


def f2sa(gamma=0.02, stepsize=0.1, penalty=10.0, problem=quadratic.PROBLEM, **options):
    return bilevel.f2sa(problem, optax.sgd(gamma), stepsize, penalty, **options)


def f3sa(gamma=0.01, stepsize=0.1, penalty=10.0, momentum=0.3, **options):
    problem = options.pop("problem", quadratic.PROBLEM)
    return bilevel.f3sa(
        problem, optax.sgd(gamma), stepsize, penalty, momentum, **options
    )


def slope_at(x, data=DATA):
    """The norm of the gradient of F, in closed form."""
    return np.linalg.norm(quadratic.hypergradient(np.asarray(x), data))


def power(first, exponent):
    """A schedule first * (1 + k)^exponent, for NumPy and for JAX."""
    return lambda k: first * (1.0 + jnp.asarray(k, float)) ** exponent


def slopes(x, y, z, data):
    """The five gradients on problem Q: f_x, f_y, the gap of g_x, and g_y twice."""
    target, (hessian, cross, linear) = data
    below = lambda y: hessian @ y - cross @ x - linear
    return np.array(
        [quadratic.MU * x, y - target, -cross.T @ (y - z), below(y), below(z)],
        dtype=object,
    )


def rounds(count, a, b, xi, penalty, steps):
    """The card's F2SA in NumPy: x, y, z after every update."""
    x, y, z, iterates = np.zeros(5), np.zeros(10), np.zeros(10), []
    for k in range(count):
        weight = penalty(k)
        for _ in range(steps):
            _, f_y, _, g_y, g_z = slopes(x, y, z, DATA)
            y, z = y - a(k) * (f_y + weight * g_y), z - b(k) * g_z
            iterates.append((x, y, z))
        f_x, _, gap, _, _ = slopes(x, y, z, DATA)
        x = x - xi(k) * (f_x + weight * gap)
        iterates.append((x, y, z))
    return iterates


def assert_iterates(solver, expected, data=DATA):
    """Equal iterates, where the data are the same at every update."""
    ours = core.iterate(solver, ZERO, data, max_steps=len(expected), tol=0.0)
    for (params, state), (x, y, z) in zip(ours, expected, strict=True):
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
        close(params.upper, x)
        close(params.lower, y)
        close(state.shadow, z)


@pytest.mark.parametrize("steps", [1, 3])
def test_first_iterates_are_those_of_the_card(x64, steps):
    weight, a, b = power(2.0, 0.5), power(0.02, -0.1), power(0.1, -0.2)
    xi = power(0.02, -0.5)
    scaled = lambda k: a(k) * weight(k)  # the paper's step, of f / lambda + g
    solver = f2sa(xi, scaled, weight, shadow_stepsize=b, steps=steps)
    assert_iterates(solver, rounds(4, a, b, xi, weight, steps))


def test_growing_penalty_reaches_what_the_card_says(x64):
    root = power(1.0, 0.5)
    solver = f2sa(power(0.2, -0.5), 0.1, root)
    out = core.run(solver, ZERO, DATA, max_steps=20_000 * 11, tol=0.0)
    assert out.state.round == 20_000
    assert 4.8e-3 < slope_at(out.params.upper) < 5e-3  # 4.9e-3 in the card


def test_time_scales_that_come_together_diverge(x64):
    """The exponents of the benchmark: all steps decay, while the penalty grows."""
    weight = lambda k: 1 + power(0.01 * 7 / 6, 6 / 7)(k)  # the sum of 0.01 k^(-1/7)
    scaled = lambda k: power(0.1, -5 / 7)(k) * weight(k)
    decay = power(0.1, -4 / 7)
    solver = f2sa(decay, scaled, weight, shadow_stepsize=decay)
    out = core.run(solver, ZERO, DATA, max_steps=20_000 * 11, tol=0.0)
    assert np.max(np.abs(out.params.upper)) > 1e6
    assert bool(core.all_finite(out.params))


def test_bias_is_of_the_order_of_one_over_the_penalty(x64):
    ends = []
    for penalty in (10.0, 20.0, 40.0, 80.0):
        out = core.run(f2sa(0.05, penalty=penalty), ZERO, DATA, max_steps=50_000)
        assert out.converged
        ends.append(slope_at(out.params.upper))
    ratios = np.array(ends[:-1]) / np.array(ends[1:])
    assert np.all((1.8 < ratios) & (ratios < 2.1))


def test_upper_level_moves_once_a_round(x64):
    solver = f2sa(steps=4)
    params, state, moves = ZERO, solver.init(ZERO), []
    for _ in range(15):
        new_params, state = solver.update(params, state, DATA)
        moves.append(bool(np.any(new_params.upper != params.upper)))
        params = new_params
    assert moves == [False, False, False, False, True] * 3
    assert state.round == 3


def batches(count):
    """Batches of four, and the numbers of problem Q that each of them is."""
    data = finite_sum.draw(n=4 * count)
    cut = lambda leaf: leaf.reshape(count, 4, *leaf.shape[1:])
    data = jax.tree.map(cut, data)
    return [jax.tree.map(lambda leaf, i=i: leaf[i], data) for i in range(count)]


@pytest.mark.parametrize("momentum", [0.3, 1.0])
def test_first_iterates_with_momentum_are_those_of_the_card(x64, momentum):
    solver = f3sa(momentum=momentum, problem=finite_sum.PROBLEM, shadow_stepsize=0.08)
    params, state = jax.tree.map(jnp.asarray, ZERO), solver.init(ZERO)
    x, y, z = np.zeros(5), np.zeros(10), np.zeros(10)
    for k, batch in enumerate(batches(8)):
        data = finite_sum.mean(batch)
        now = slopes(x, y, z, data)
        if k == 0:
            estimate = now
        else:
            before = slopes(*previous, data)  # noqa: F821
            estimate = now + (1 - momentum) * (estimate - before)
        f_x, f_y, gap, g_y, g_z = estimate
        previous = x, y, z  # noqa: F841
        x = x - 0.01 * (f_x + 10.0 * gap)
        y, z = y - 0.1 * (f_y / 10.0 + g_y), z - 0.08 * g_z
        params, state = solver.update(params, state, batch)
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
        close(params.upper, x)
        close(params.lower, y)
        close(state.shadow, z)


def test_on_fixed_data_momentum_changes_nothing(x64):
    end = lambda momentum: core.run(
        f3sa(momentum=momentum), ZERO, DATA, max_steps=500, tol=0.0
    )
    plain, carried = end(1.0), end(0.2)
    np.testing.assert_allclose(carried.params.upper, plain.params.upper, rtol=1e-10)
    np.testing.assert_allclose(carried.state.error, plain.state.error, rtol=1e-8)


def test_both_loops_end_at_the_same_point(x64):
    options = dict(max_steps=50_000, tol=1e-10)
    double = core.run(f2sa(0.05), ZERO, DATA, **options)
    single = core.run(f3sa(0.01), ZERO, DATA, **options)
    assert double.converged and single.converged
    np.testing.assert_allclose(double.params.upper, single.params.upper, atol=1e-8)
    np.testing.assert_allclose(double.state.shadow, single.state.shadow, atol=1e-8)


@pytest.mark.parametrize(("make", "gamma"), [(f2sa, 0.02), (f3sa, 0.002)])
def test_minibatches_reach_the_noise_of_their_steps(x64, make, gamma):
    data = finite_sum.draw()
    solver = make(gamma, problem=finite_sum.PROBLEM)
    solver = core.minibatch(solver, (16, 16), key=KEY)
    out = core.run(solver, ZERO, data, max_steps=8000, tol=0.0)
    mean = finite_sum.mean(data)
    assert slope_at(out.params.upper, mean) < 0.5 * slope_at(ZERO.upper, mean)


@pytest.mark.parametrize(("make", "gamma"), [(f2sa, 0.08), (f3sa, 0.01)])
def test_upper_set_is_kept(x64, make, gamma):
    box = prox.box(-0.2, 0.2)
    problem = BilevelProblem(quadratic.upper, quadratic.lower, upper_set=box)
    solver = make(gamma, problem=problem)
    record = lambda params, _: jnp.max(jnp.abs(params.upper))
    start = Levels(np.ones(5), np.zeros(10))
    out = core.run(solver, start, DATA, max_steps=20_000, tol=1e-7, record=record)
    assert out.converged and np.nanmax(out.history) <= 0.2
    found, _ = solver.residual((out.params, out.state.shadow), DATA)
    np.testing.assert_allclose(core.ravel(found)[0], 0, atol=1e-6)


@pytest.mark.parametrize("make", [f2sa, f3sa])
def test_schedule_of_penalties_has_no_derivative(make):
    solver = make(penalty=power(1.0, 0.5))
    solve = lambda target: core.run(solver, ZERO, (target, DATA[1])).params.upper
    with pytest.raises(ValueError, match="derivative"):
        jax.jacobian(solve)(jnp.asarray(DATA[0]))


@pytest.mark.parametrize("make", [f2sa, f3sa])
def test_levels_may_be_trees(x64, make):
    join = lambda part: jnp.concatenate([part["a"], part["b"]])
    inside = lambda fun: lambda levels, data: fun(Levels(*map(join, levels)), data)
    problem = BilevelProblem(inside(quadratic.upper), inside(quadratic.lower))
    start = Levels(*({"a": part[:2], "b": part[2:]} for part in ZERO))
    options = dict(max_steps=50, tol=0.0)
    out = core.run(make(problem=problem), start, DATA, **options)
    expected = core.run(make(), ZERO, DATA, **options)
    np.testing.assert_allclose(
        core.ravel((out.params, out.state.shadow))[0],
        core.ravel((expected.params, expected.state.shadow))[0],
    )


@pytest.mark.parametrize("make", [f2sa, f3sa])
def test_lane_that_is_not_finite_leaves_the_others_alone(make):
    target, numbers = DATA
    targets = np.stack([target, np.full_like(target, np.nan)])
    solver = make()
    run = lambda target: core.run(solver, ZERO, (target, numbers), max_steps=50)
    out = jax.vmap(run)(targets)
    assert list(out.status) == [Status.MAX_STEPS, Status.DIVERGED]
    np.testing.assert_allclose(
        out.params.upper[0], run(target).params.upper, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(out.params.upper[1], 0)


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("stepsize", dict(stepsize=0.0)),
        ("stepsize", dict(shadow_stepsize=np.inf)),
        ("penalty", dict(penalty=0.0)),
        ("penalty", dict(penalty=np.inf)),
        ("penalty", dict(penalty="large")),
    ],
)
def test_numbers_that_make_no_sense_are_refused(what, options):
    for make in (f2sa, f3sa):
        with pytest.raises(ValueError, match=what):
            make(**options)


def test_what_they_cannot_honour_is_refused():
    box = prox.box(0.0, 1.0)
    bounded = BilevelProblem(quadratic.upper, quadratic.lower, lower_set=box)
    for make, name in ((f2sa, "f2sa"), (f3sa, "f3sa")):
        with pytest.raises(ValueError, match=f"{name} takes no lower_set"):
            make(problem=bounded)
        with pytest.raises(ValueError, match="empty"):
            core.run(make(), ZERO, (np.zeros((0, 10)), DATA[1]))
    for steps in (0, 1.5):
        with pytest.raises(ValueError, match="steps"):
            f2sa(steps=steps)
    for momentum in (0.0, 1.5):
        with pytest.raises(ValueError, match="momentum"):
            f3sa(momentum=momentum)
