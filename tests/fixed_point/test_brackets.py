"""Bisection, Chandrupatla's and ITP: their trials, their bounds, honest ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxsolve import core, fixed_point
from jaxsolve.core import Status

MAKES = (fixed_point.bisection, fixed_point.brent, fixed_point.itp)


def trials(make, fun, low, high, start, **options):
    """Where a solver evaluates, in NumPy."""
    seen = []

    def told(x, _):
        seen.append(float(x))
        return fun(x)

    with jax.disable_jit():
        solver = make.__wrapped__(told, low, high, **options)
        params, state = jnp.asarray(start), None
        state = solver.init(params, None)
        for _ in range(12):
            params, state = solver.update(params, state, None)
    return np.array(seen)


def bend(x):
    lib = jnp if isinstance(x, jax.Array) else np
    return x**3 - lib.exp(-x) - 2


def halves(low, high, steps):
    out = []
    for _ in range(steps):
        middle = low + 0.5 * (high - low)
        out.append(middle)
        low, high = (middle, high) if bend(middle) < 0 else (low, middle)
    return out


def chandrupatla(low, high, steps):
    """Chandrupatla (1997), from the middle."""
    x1, x2, t, out = high, low, 0.5, []
    f1, f2 = bend(x1), bend(x2)
    for _ in range(steps):
        x = x1 + t * (x2 - x1)
        out.append(x)
        f = bend(x)
        if np.sign(f) == np.sign(f1):
            x3, f3 = x1, f1
        else:
            x3, f3, x2, f2 = x2, f2, x1, f1
        x1, f1 = x, f
        xi, phi = (x1 - x2) / (x3 - x2), (f1 - f2) / (f3 - f2)
        t = 0.5
        if phi**2 < xi and (1 - phi) ** 2 < 1 - xi:
            t = f1 / (f2 - f1) * f3 / (f2 - f3)
            t += (x3 - x1) / (x2 - x1) * f1 / (f3 - f1) * f2 / (f3 - f2)
    return out


def oliveira(low, high, steps, slack=1):
    """Oliveira and Takahashi (2020), Section 2, to within 2^-40 of the width."""
    a, b, out = low, high, []
    width, most = b - a, 40 + slack
    epsilon = width / 2 / 2**40
    for j in range(steps):
        middle, chord = (a + b) / 2, (bend(b) * a - bend(a) * b) / (bend(b) - bend(a))
        sigma = np.sign(middle - chord)
        delta = 0.2 / width * (b - a) ** 2
        far = abs(middle - chord)
        truncated = chord + sigma * delta if delta <= far else middle
        radius = epsilon * 2.0 ** (most - j) - (b - a) / 2
        if abs(truncated - middle) <= radius:
            x = truncated
        else:
            x = middle - sigma * radius
        out.append(x)
        a, b = (a, x) if bend(x) > 0 else (x, b)
    return out


def test_trials_are_those_of_the_papers(x64):
    low, high, middle = 0.0, 3.0, 1.5
    ends = [middle, low, high]
    seen = trials(fixed_point.bisection, bend, low, high, middle)
    np.testing.assert_allclose(seen, ends + halves(low, high, 10)[1:], rtol=1e-12)
    seen = trials(fixed_point.brent, bend, low, high, middle)[:8]
    np.testing.assert_allclose(seen, ends + chandrupatla(low, high, 6)[1:], rtol=1e-9)
    seen = trials(fixed_point.itp, bend, low, high, 0.4)[:8]
    np.testing.assert_allclose(seen[3:], oliveira(0.4, high, 5), rtol=1e-7)


# Smooth, flat, steep, stepped, and the paper's hard ones, all rising through zero.
RISING = (
    lambda x, r: x - r,
    lambda x, r: (x - r) ** 9,
    lambda x, r: jnp.exp(8 * (x - r)) - 1,
    lambda x, r: jnp.cbrt(x - r),
    lambda x, r: jnp.sign(x - r),
    lambda x, r: jnp.where(x < r, -1e-9, 1e9 * (x - r + 1e-3)),
    lambda x, r: jnp.where(x < r, -1e9, 1e-9),
)


@pytest.mark.parametrize("slack", [0, 1, 3])
def test_itp_needs_never_more_than_its_bound(x64, slack):
    count, epsilon = 40, 2.0**-20
    kinds = jnp.repeat(jnp.arange(len(RISING)), count)
    centres = jnp.asarray(np.tile(np.linspace(-0.97, 0.99, count), len(RISING)))
    fun = lambda x, r: jnp.stack([f(x, r) for f in RISING])[kinds, jnp.arange(x.size)]
    solver = fixed_point.itp(fun, -1.0, 1.0, slack=slack)

    def gaps(x, state):
        return jnp.abs(state.ends.newest.x - state.ends.across.x)

    start = jnp.full(centres.shape, -1.5)  # outside: so the middle is tried first
    out = core.run(solver, start, centres, max_steps=45, tol=0.0, record=gaps)
    width = np.asarray(out.history)
    first = width[2]  # of the bracket when it is known
    bound = np.ceil(np.log2(first / (2 * epsilon))) + slack
    found = np.all(np.isfinite(width[: int(out.state.count)]), axis=1)
    done = width[: found.size] <= 2 * epsilon * (1 + 1e-9)
    steps = np.argmax(done | (np.arange(len(done))[:, None] > 40), axis=0) - 2
    assert np.all(steps <= bound)


def test_superlinear_rules_take_a_third_of_bisections_steps(x64):
    count = {}
    for make in MAKES:
        solver = make(lambda x, a: x**3 - jnp.exp(-x) - a, 0.0, 3.0)
        out = core.run(
            solver, jnp.linspace(0.5, 2.0, 7), jnp.linspace(0.0, 5, 7), tol=1e-9
        )
        assert out.converged
        roots = [
            scipy.optimize.brentq(lambda x, a=a: x**3 - np.exp(-x) - a, 0, 3)
            for a in np.linspace(0, 5, 7)
        ]
        np.testing.assert_allclose(out.params, roots, atol=1e-9)
        count[make.__name__] = int(out.state.count)
    assert 2 * count["brent"] < count["bisection"] > 2 * count["itp"]


@pytest.mark.parametrize("make", MAKES)
def test_the_start_is_tried_first_if_it_is_inside(make):
    solver = make(lambda x, a: x**3 - a, 0.0, 4.0)
    out = core.run(solver, 2.0, 8.0)
    assert out.converged and out.state.count == 1
    _, state = solver.update(jnp.asarray(9.0), solver.init(jnp.asarray(9.0), 8.0), 8.0)
    assert state.point == 2.0  # the middle
    assert core.run(solver, 9.0, 1.0).converged


@pytest.mark.parametrize("make", MAKES)
def test_brackets_may_depend_on_data_and_roots_are_differentiable(x64, make):
    solver = make(lambda x, a: x**3 - a, 0.0, lambda a: a + 1)
    solve = lambda a: core.run(solver, jnp.ones(2), a, tol=1e-12).params
    a = jnp.array([8.0, 27.0])
    np.testing.assert_allclose(jax.jacobian(solve)(a), np.diag([1 / 12, 1 / 27]), 1e-6)
    curve = jax.grad(jax.grad(lambda a: solve(jnp.stack([a, a]))[0]))(8.0)
    np.testing.assert_allclose(curve, -2 / 9 * 8 ** (-5 / 3), rtol=1e-6)


@pytest.mark.parametrize("make", MAKES)
def test_lanes_end_honestly_each_by_itself(make):
    solver = make(
        lambda x, a: jnp.exp(x) - a, -2.0, lambda a: jnp.where(a > 90, -3, 2.0)
    )
    data = jnp.array([1.0, -1.0, jnp.nan, 99.0, 5.0])
    out = jax.vmap(lambda a: core.run(solver, 0.3, a))(data)
    statuses = [1, Status.BREAKDOWN, Status.DIVERGED, Status.PRIMAL_INFEASIBLE, 1]
    np.testing.assert_array_equal(out.status, statuses)
    assert core.all_finite(out.params)
    np.testing.assert_allclose(out.params[4], np.log(5), rtol=1e-3)


@pytest.mark.parametrize("make", MAKES)
def test_a_pole_is_no_root_and_a_jump_one_if_a_width_is_given(make):
    pole = lambda x, a: 1 / (x - a)
    jump = lambda x, a: jnp.sign(x - a) + 0.5
    for options in ({}, {"width": 1e-3}):
        out = core.run(make(pole, -1.0, 2.0, **options), 0.1, 0.3)
        assert out.status in (Status.STALLED, Status.DIVERGED)
        assert core.all_finite(out.params)
    assert core.run(make(jump, -1.0, 2.0), 0.1, 0.3).status == Status.STALLED
    out = core.run(make(jump, -1.0, 2.0, width=1e-3), 0.1, 0.3)
    assert out.converged
    np.testing.assert_allclose(out.params, 0.3, atol=2e-3)


@pytest.mark.parametrize("make", MAKES)
def test_values_may_be_infinite_at_an_end_and_unknown_at_the_start(make):
    out = core.run(make(lambda x, a: jnp.log(x) - a, 0.0, 9.0), 1.0, 0.5)
    assert out.converged  # log(0) = -inf has a sign
    hole = lambda x, a: jnp.where(jnp.abs(x - 4) < 0.1, jnp.nan, x - a)
    assert core.run(make(hole, 0.0, 9.0), 4.0, 1.0).converged
    out = core.run(make(hole, 0.0, 9.0), 1.0, 4.0)
    assert out.status == Status.DIVERGED and core.all_finite(out.params)


@pytest.mark.parametrize("make", MAKES)
def test_a_root_at_an_end_is_found_and_trees_and_low_precision_are_kept(make):
    fun = lambda tree, _: {"a": tree["a"] - 2, "b": tree["b"] * 4}
    lower = {"a": -1.0, "b": 0.0}
    params = {"a": jnp.ones((2, 1), jnp.bfloat16), "b": jnp.ones(())}
    out = core.run(make(fun, lower, 3.0), params)
    assert out.converged and out.params["a"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(out.params["b"], 0)
    np.testing.assert_array_equal(np.asarray(out.params["a"], np.float32), 2)


def test_params_that_were_changed_are_tried_next():
    solver = fixed_point.bisection(lambda x, a: x - a, 0.0, 8.0)
    params, state = jnp.asarray(4.0), solver.init(jnp.asarray(4.0), 1.5)
    for _ in range(4):
        params, state = solver.update(params, state, 1.5)
    assert state.ends.newest.x[0] == 2
    params, state = solver.update(jnp.asarray(1.25), state, 1.5)
    assert params == 1.25 and state.ends.newest.x[0] == 1.25
    assert state.ends.across.x[0] == 2


def test_options_that_make_no_sense_are_value_errors():
    fun = lambda x, a: x - a
    with pytest.raises(ValueError, match="cross"):
        core.run(fixed_point.bisection(fun, 1.0, 0.0), 0.5)
    with pytest.raises(ValueError, match="width"):
        fixed_point.brent(fun, 0.0, 1.0, width=0.0)
    with pytest.raises(ValueError, match="kappa"):
        fixed_point.itp(fun, 0.0, 1.0, kappa2=3.0)
    with pytest.raises(ValueError, match="slack"):
        fixed_point.itp(fun, 0.0, 1.0, slack=-1)
    out = core.run(fixed_point.itp(fun, -jnp.inf, 1.0), 0.5, 0.7)
    assert out.status == Status.BREAKDOWN  # halving an infinite bracket leads nowhere
