"""PBO in both loops: the card's iterates and figures, sets, invariants, bad input."""

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
SETS = (-0.3, 0.4), (-0.4, 0.15)  # of x, of y
KEY = jax.random.key(0)


def boxes(upper=quadratic.upper, lower=quadratic.lower):
    return BilevelProblem(upper, lower, *(prox.box(*bounds) for bounds in SETS))


def gamma_of(sigma, rho=0.1):
    """The largest stepsize of the card, for eigenvalues up to 10."""
    return 1 / (10 + 1 / rho + sigma)


def pbo(alpha=0.05, sigma=0.1, rho=0.1, problem=quadratic.PROBLEM, **options):
    options = dict(stepsize=gamma_of(sigma, rho), penalty=1 / sigma) | options
    return bilevel.pbo(problem, optax.sgd(alpha), rho=rho, **options)


def momentum(alpha=0.02, sigma=0.1, rho=0.1, problem=quadratic.PROBLEM, **options):
    options = dict(stepsize=gamma_of(sigma, rho), penalty=1 / sigma) | options
    options = dict(momentum=0.3) | options
    return bilevel.pbo_momentum(problem, optax.sgd(alpha), rho=rho, **options)


def slope_at(x, data=DATA):
    """The norm of the gradient of psi, in closed form."""
    return np.linalg.norm(quadratic.hypergradient(np.asarray(x), data))


def pair_of(x, sigma, data=DATA):
    """y and z of the penalised problem, and psi_sigma itself, in closed form."""
    target, (hessian, cross, linear) = data
    load = cross @ x + linear
    y = np.linalg.solve(hessian + sigma * np.eye(10), load + sigma * target)
    z = np.linalg.solve(hessian, load)
    g = lambda y: y @ hessian @ y / 2 - y @ load
    f = np.sum((y - target) ** 2) / 2 + quadratic.MU / 2 * np.sum(x**2)
    return y, z, f + (g(y) - g(z)) / sigma


def penalised_slope(x, sigma):
    """The norm of the gradient of psi_sigma, in closed form."""
    y, z, _ = pair_of(np.asarray(x), sigma)
    return np.linalg.norm(quadratic.MU * x - DATA[1].cross.T @ (y - z) / sigma)


class Card:
    """The card's updates on problem Q in boxes, in NumPy."""

    def __init__(self, sigma, alpha, gamma, rho, beta):
        self.sigma, self.alpha, self.gamma = sigma, alpha, gamma
        self.rho, self.beta = rho, beta
        self.x, (self.y, self.z, self.u, self.v) = np.zeros(5), np.zeros((4, 10))
        self.estimate = None

    def slopes(self, x, u, v, data):
        """The gradients of sigma f + g, of g, and the direction of x."""
        target, (hessian, cross, linear) = data
        below = lambda y: hessian @ y - cross @ x - linear
        d_x = quadratic.MU * x - cross.T @ (u - v) / self.sigma
        return np.array(
            [self.sigma * (u - target) + below(u), below(v), d_x], dtype=object
        )

    def inner(self, d_u, d_v):
        move = lambda u, centre, d: np.clip(
            u - self.gamma * (d + (u - centre) / self.rho), *SETS[1]
        )
        self.u, self.v = move(self.u, self.y, d_u), move(self.v, self.z, d_v)

    def centres(self):
        mix = lambda y, u: (1 - self.beta) * y + self.beta * u
        self.y, self.z = mix(self.y, self.u), mix(self.z, self.v)

    def outer(self, d_x):
        self.x = np.clip(self.x - self.alpha * d_x, *SETS[0])

    def double(self, rounds, steps):
        """Algorithm 1: x, y, z after every update."""
        for _ in range(rounds):
            self.u, self.v = self.y, self.z
            for t in range(steps):
                self.inner(*self.slopes(self.x, self.u, self.v, DATA)[:2])
                t == steps - 1 and self.centres()
                yield self.x, self.y, self.z
            self.outer(self.slopes(self.x, self.y, self.z, DATA)[2])
            yield self.x, self.y, self.z

    def single(self, data, eta):
        """One update of Algorithm 2."""
        here = self.x, self.u, self.v
        now = self.slopes(*here, data)
        if self.estimate is None:
            self.estimate = now
        else:
            old = self.slopes(*self.previous, data)
            self.estimate = now + (1 - eta) * (self.estimate - old)
        self.previous = here
        d_u, d_v, d_x = self.estimate
        self.inner(d_u, d_v)
        self.centres()
        self.outer(d_x)
        return self.x, self.y, self.z


def assert_at(params, state, expected):
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    close(params.upper, expected[0])
    close(params.lower, expected[1])
    close(state.shadow, expected[2])


@pytest.mark.parametrize("steps", [1, 3])
def test_first_iterates_are_those_of_the_card(x64, steps):
    solver = pbo(0.1, 0.2, 0.3, boxes(), stepsize=0.08, damping=0.6, steps=steps)
    expected = list(Card(0.2, 0.1, 0.08, 0.3, 0.6).double(4, steps))
    ours = core.iterate(solver, ZERO, DATA, max_steps=len(expected), tol=0.0)
    for step, point in zip(ours, expected, strict=True):
        assert_at(*step, point)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_first_iterates_with_momentum_are_those_of_the_card(x64, eta):
    problem = boxes(finite_sum.upper, finite_sum.lower)
    solver = momentum(0.1, 0.2, 0.3, problem, stepsize=0.08, momentum=eta, damping=0.6)
    card = Card(0.2, 0.1, 0.08, 0.3, 0.6)
    data = finite_sum.draw(n=32)
    params, state = jax.tree.map(jnp.asarray, ZERO), solver.init(ZERO)
    for k in range(8):
        batch = jax.tree.map(lambda leaf, k=k: leaf[4 * k : 4 * k + 4], data)
        params, state = solver.update(params, state, batch)
        assert_at(params, state, card.single(finite_sum.mean(batch), eta))
        np.testing.assert_allclose(state.inner[0], card.u, rtol=1e-10)


@pytest.mark.parametrize(
    ("sigma", "bias"),
    [(1.0, 0.420), (0.1, 5.56e-2), (0.01, 5.76e-3), (1e-3, 5.78e-4), (1e-4, 5.78e-5)],
)
def test_bias_of_the_gradient_is_that_of_the_card(x64, sigma, bias):
    x = np.ones(5)
    y, z, _ = pair_of(x, sigma)
    unknowns = Levels(x, y), z
    for solver in (pbo(sigma=sigma), momentum(sigma=sigma)):
        (d_x, d_y), d_z = solver.residual(unknowns, DATA)
        off = np.linalg.norm(d_x - quadratic.hypergradient(x, DATA))
        np.testing.assert_allclose(off, bias, rtol=5e-3)
        np.testing.assert_allclose(d_y, 0, atol=1e-9)
        np.testing.assert_allclose(d_z, 0, atol=1e-9)


@pytest.mark.parametrize(
    ("sigma", "gap"), [(1.0, 1.256), (0.1, 0.1506), (0.01, 1.537e-2), (1e-3, 1.540e-3)]
)
def test_penalised_objective_lies_below_by_what_the_card_says(x64, sigma, gap):
    x = np.ones(5)
    lower = quadratic.lower_solution(x, DATA)
    value = float(quadratic.upper(Levels(x, lower), DATA[0]))
    np.testing.assert_allclose(value - pair_of(x, sigma)[2], gap, rtol=5e-3)


@pytest.mark.parametrize(
    ("sigma", "steps", "alpha", "rounds", "slope", "off"),
    [
        (0.1, 10, 0.05, 3000, 1e-9, 6.75e-2),
        (0.01, 10, 0.05, 3000, 1e-8, 6.89e-3),
        (0.01, 1, 0.02, 20_000, 1e-12, 6.89e-3),
    ],
)
def test_double_loop_ends_where_the_card_says(
    x64, sigma, steps, alpha, rounds, slope, off
):
    solver = pbo(alpha, sigma, steps=steps)
    out = core.run(solver, ZERO, DATA, max_steps=rounds * (steps + 1), tol=0.0)
    assert out.state.round == rounds
    assert penalised_slope(out.params.upper, sigma) < slope
    np.testing.assert_allclose(slope_at(out.params.upper), off, rtol=5e-3)


def test_single_loop_ends_at_the_same_point(x64):
    options = dict(max_steps=20_000, tol=1e-10)
    for damping in (1.0, 0.5):
        out = core.run(momentum(damping=damping), ZERO, DATA, **options)
        assert out.converged
        assert penalised_slope(out.params.upper, 0.1) < 1e-9


def test_on_fixed_data_momentum_changes_nothing(x64):
    end = lambda eta: core.run(
        momentum(momentum=eta), ZERO, DATA, max_steps=300, tol=0.0
    )
    plain, carried = end(1.0), end(0.2)
    np.testing.assert_allclose(carried.params.upper, plain.params.upper, rtol=1e-9)


def test_without_a_pull_to_the_centres_it_is_f2sa(x64):
    options = dict(stepsize=0.1, penalty=10.0)
    optimizer, start = optax.sgd(0.02), (quadratic.PROBLEM, ZERO, DATA)
    for ours, theirs in (
        (
            bilevel.pbo(start[0], optimizer, rho=1e14, **options),
            bilevel.f2sa(start[0], optimizer, **options),
        ),
        (
            bilevel.pbo_momentum(
                start[0], optimizer, rho=1e14, momentum=0.5, **options
            ),
            bilevel.f3sa(start[0], optimizer, momentum=0.5, **options),
        ),
    ):
        end = lambda solver: core.run(solver, *start[1:], max_steps=44, tol=0.0)
        left, right = end(ours), end(theirs)
        np.testing.assert_allclose(left.params.upper, right.params.upper, rtol=1e-9)
        np.testing.assert_allclose(left.params.lower, right.params.lower, rtol=1e-9)
        np.testing.assert_allclose(left.state.shadow, right.state.shadow, rtol=1e-9)


def gradient_in_boxes(x, sigma):
    """The gradient of psi_sigma with a set of y, by long projected descent."""
    target, (hessian, cross, linear) = DATA
    y, z = np.zeros(10), np.zeros(10)
    for _ in range(3000):
        below = lambda y: hessian @ y - cross @ x - linear
        step = lambda y, d: np.clip(y - d / 11, *SETS[1])
        y, z = step(y, sigma * (y - target) + below(y)), step(z, below(z))
    return quadratic.MU * x - cross.T @ (y - z) / sigma


@pytest.mark.parametrize(("make", "alpha"), [(pbo, 0.1), (momentum, 0.01)])
def test_solution_in_sets_is_stationary_and_never_left(x64, make, alpha):
    record = lambda params, _: params
    start = Levels(np.ones(5), np.ones(10))  # outside of both
    options = dict(max_steps=20_000, tol=1e-9)
    out = core.run(make(alpha, problem=boxes()), start, DATA, record=record, **options)
    assert out.converged
    for part, bounds in zip(out.history, SETS, strict=True):
        taken = np.asarray(part)[: int(out.state.count)]
        assert np.all((bounds[0] <= taken) & (taken <= bounds[1]))
    x = np.asarray(out.params.upper)
    moved = np.clip(x - gradient_in_boxes(x, 0.1), *SETS[0])
    np.testing.assert_allclose(moved, x, atol=1e-7)
    active = lambda part, bounds: np.isin(np.asarray(part), bounds).any()
    assert active(out.params.upper, SETS[0]) and active(out.params.lower, SETS[1])


@pytest.mark.parametrize("sigma", [0.4, 0.1])
@pytest.mark.parametrize("x", [0.05, -0.15, 0.7, 0.9])
def test_landscape_without_an_error_bound_is_that_of_the_card(x64, sigma, x):
    """f = x^2 + y^2, g = x y on [-1, 1]: psi_sigma has a kink of height 1/sigma."""
    box = prox.box(-1.0, 1.0)
    problem = BilevelProblem(
        lambda levels, _: levels.upper**2 + levels.lower**2,
        lambda levels, _: levels.upper * levels.lower,
        box,
        box,
    )
    y, z = np.clip(-x / (2 * sigma), -1, 1), -np.sign(x)
    solver = pbo(sigma=sigma, problem=problem)
    free = solver.residual((Levels(np.float64(x), y), z))[0].upper
    near = abs(x) <= 2 * sigma
    slope = 2 * x + (np.sign(x) / sigma - x / (2 * sigma**2) if near else 0)
    mapped = x - np.clip(x - slope, -1, 1)
    np.testing.assert_allclose(free, mapped, rtol=1e-12)


def test_of_many_lower_solutions_it_takes_the_best_for_the_upper_level(x64):
    problem = BilevelProblem(
        lambda levels, b: (levels.lower[1] - b) ** 2 + (levels.upper - 1.0) ** 2,
        lambda levels, _: (levels.lower[0] - levels.upper) ** 2,
    )
    start = Levels(np.zeros(()), np.zeros(2))
    solver = pbo(0.05, 0.1, 0.5, problem, stepsize=0.2)
    out = core.run(solver, start, (3.0, None), max_steps=5000, tol=1e-9)
    assert out.converged
    np.testing.assert_allclose(out.params.upper, 1.0, atol=1e-8)
    np.testing.assert_allclose(out.params.lower, [1.0, 3.0], atol=1e-8)


@pytest.mark.parametrize("eta", [1.0, 0.1])
def test_common_noise_ends_where_the_card_says(x64, eta):
    """Noise 0.3 on every gradient: about 0.05, with momentum or without."""
    noisy = lambda fun: (
        lambda levels, data: (
            fun(levels, data[0]) + levels.upper @ data[1] + levels.lower @ data[2]
        )
    )
    problem = BilevelProblem(noisy(quadratic.upper), noisy(quadratic.lower))
    steps = 20_000
    rng = np.random.default_rng(0)
    draw = lambda: tuple(0.3 * rng.standard_normal((steps, n)) for n in (5, 10))
    noise = draw(), draw()
    solver = momentum(0.002, 0.05, problem=problem, momentum=eta, damping=0.5)

    def body(carry, noise):
        data = tuple((part, *added) for part, added in zip(DATA, noise, strict=True))
        return solver.update(*carry, data), None

    start = jax.tree.map(jnp.asarray, ZERO)
    loop = lambda: jax.lax.scan(body, (start, solver.init(start)), noise)[0][0]
    assert penalised_slope(jax.jit(loop)().upper, 0.05) < 0.15


@pytest.mark.parametrize(("make", "alpha"), [(pbo, 0.02), (momentum, 0.002)])
def test_minibatches_reach_the_noise_of_their_steps(x64, make, alpha):
    data = finite_sum.draw()
    solver = make(alpha, problem=finite_sum.PROBLEM)
    solver = core.minibatch(solver, (16, 16), key=KEY)
    out = core.run(solver, ZERO, data, max_steps=8000, tol=0.0)
    mean = finite_sum.mean(data)
    assert slope_at(out.params.upper, mean) < 0.5 * slope_at(ZERO.upper, mean)


def test_growing_penalty_has_no_derivative_and_little_bias(x64):
    root = lambda k: jnp.sqrt(1.0 + jnp.asarray(k, float))
    alpha = lambda k: 0.2 / root(k)
    solver = bilevel.pbo(quadratic.PROBLEM, optax.sgd(alpha), 0.05, root, 0.1)
    out = core.run(solver, ZERO, DATA, max_steps=2000 * 11, tol=0.0)
    assert slope_at(out.params.upper) < 0.03
    solve = lambda target: core.run(solver, ZERO, (target, DATA[1])).params.upper
    with pytest.raises(ValueError, match="derivative"):
        jax.jacobian(solve)(jnp.asarray(DATA[0]))


@pytest.mark.parametrize("make", [pbo, momentum])
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
        ("penalty", dict(penalty=-1.0)),
        ("rho", dict(rho=np.inf, stepsize=0.1)),
        ("rho", dict(rho=None, stepsize=0.1)),
        ("rho", dict(rho=lambda k: 0.1, stepsize=0.1)),
        ("damping", dict(damping=0.0)),
        ("damping", dict(damping=1.1)),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_numbers_that_make_no_sense_are_refused(what, options):
    options = dict(rho=0.1, stepsize=0.05, penalty=10.0) | options
    with pytest.raises(ValueError, match=what):
        bilevel.pbo(quadratic.PROBLEM, optax.sgd(0.1), **options)
    with pytest.raises(ValueError, match=what):
        bilevel.pbo_momentum(quadratic.PROBLEM, optax.sgd(0.1), momentum=0.5, **options)


def test_what_they_cannot_honour_is_refused():
    coupled = BilevelProblem(
        quadratic.upper, quadratic.lower, constraint=lambda levels, _: levels.lower
    )
    for make, name in ((pbo, "pbo"), (momentum, "pbo_momentum")):
        with pytest.raises(ValueError, match=f"{name} takes no constraint"):
            make(problem=coupled)
        with pytest.raises(ValueError, match="empty"):
            core.run(make(), ZERO, (np.zeros((0, 10)), DATA[1]))
    with pytest.raises(ValueError, match="steps"):
        pbo(steps=0)
    for eta in (0.0, 1.5):
        with pytest.raises(ValueError, match="momentum"):
            momentum(momentum=eta)
