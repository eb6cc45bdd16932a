"""BSVRB: the card's iterates and figures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import core
from jaxsolve.bilevel import BilevelProblem, BlockSampling, msvr, storm
from tests.bilevel import many, quadratic
from tests.bilevel.many import KEY, first, floats, second, start
from tests.bilevel.quadratic import MU, PROBLEM

CURVE = 0.5


def curved(levels, data):
    """Problem Q with Hessians that move with y."""
    return quadratic.lower(levels, data) + CURVE / 12 * jnp.sum(levels.lower**4)


ALPHA, BETA, TAU, ETA = 0.3, 0.2, 0.05, 0.04
FLOOR, RADIUS = 1.3, 0.4  # both are active on the way


def falling(count):
    """Stepsizes of the lower level that differ from move to move."""
    return TAU / (1 + 0.1 * jnp.asarray(count, float))


class Paper:
    """The card's update in NumPy; blocks are told."""

    def __init__(self, data, sampled, form):
        self.target, self.numbers = data
        self.m, self.sampled, self.form = len(self.target), sampled, form
        (_, dy, dx), every = self.numbers.cross.shape, range(self.m)
        self.x, self.y, self.v = np.zeros(dx), *np.zeros((2, self.m, dy))
        self.hessian = np.stack([self.raised(self.hess(self.y, i)) for i in every])
        self.slope = np.stack([self.g_y(self.x, self.y, i) for i in every])
        self.u = np.stack([self.signal(self.y, self.v, i) for i in every])
        first = self.x, self.y, self.v, self.hessian
        self.z = np.mean([self.hyper(*first, i) for i in every], 0)
        self.before, self.count, self.wrong = first, 0, np.full(self.m, np.inf)

    def g_y(self, x, y, i):
        hessian, cross, linear = (leaf[i] for leaf in self.numbers)
        return hessian @ y[i] - cross @ x - linear + CURVE / 3 * y[i] ** 3

    def hess(self, y, i):
        return self.numbers.hessian[i] + CURVE * np.diag(y[i] ** 2)

    def raised(self, matrix):
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        return vectors @ np.diag(np.maximum(values, FLOOR)) @ vectors.T

    def signal(self, y, v, i):
        return self.hess(y, i) @ v[i] - (y[i] - self.target[i])

    def hyper(self, x, y, v, hessian, i):
        f_y = y[i] - self.target[i]
        w = np.linalg.solve(hessian[i], f_y) if self.form == 1 else v[i]
        return MU * x + self.numbers.cross[i].T @ w

    def gap(self, y, v, hessian, i):
        if self.form == 2:
            return self.signal(y, v, i)
        f_y = y[i] - self.target[i]
        return self.hess(y, i) @ np.linalg.solve(hessian[i], f_y) - f_y

    def msvr(self, old, now, before):
        gamma = (self.m - self.sampled) / (self.sampled * (1 - ALPHA)) + (1 - ALPHA)
        return (1 - ALPHA) * old + ALPHA * now + gamma * (now - before)

    def move(self, index):
        x, y, v, hessian = self.x, self.y, self.v, self.hessian
        old_x, old_y, old_v, old_hessian = self.before
        new_hessian = hessian.copy()
        for i in index:
            now, before = self.g_y(x, y, i), self.g_y(old_x, old_y, i)
            self.slope[i] = self.msvr(self.slope[i], now, before)
            now, before = self.hess(y, i), self.hess(old_y, i)
            new_hessian[i] = self.raised(self.msvr(hessian[i], now, before))
            now, before = self.signal(y, v, i), self.signal(old_y, old_v, i)
            self.u[i] = self.msvr(self.u[i], now, before)
            parts = self.g_y(x, y, i), self.gap(y, v, hessian, i)
            self.wrong[i] = np.max(np.abs(parts))
        now = np.mean([self.hyper(x, y, v, hessian, i) for i in index], 0)
        old = old_x, old_y, old_v, old_hessian
        before = np.mean([self.hyper(*old, i) for i in index], 0)
        self.z = (1 - BETA) * (self.z - before) + now
        self.before = x, y, v, hessian
        tau = float(falling(self.count))
        self.count += 1
        new_v = v - tau * self.u
        norms = np.linalg.norm(new_v, axis=1, keepdims=True)
        self.x, self.y = x - ETA * self.z, y - tau * self.slope
        self.v = new_v * np.minimum(1, RADIUS / norms)
        self.hessian = new_hessian
        return bool(np.any(norms > RADIUS))


@pytest.mark.parametrize("blocks", [2, 5], ids=["two", "all"])
@pytest.mark.parametrize("form", [1, 2], ids=["v1", "v2"])
def test_first_iterates_are_the_cards(x64, form, blocks):
    data = many.draw(m=5, dx=2, dy=3, top=3.0)
    options = dict(estimators=(msvr(ALPHA), storm(BETA)), key=KEY)
    options["sampling"] = BlockSampling(blocks)
    problem = BilevelProblem(quadratic.upper, curved)
    if form == 1:
        solver = first(problem, ETA, falling, floor=FLOOR, **options)
    else:
        solver = second(problem, ETA, falling, radius=RADIUS, **options)
    params, data_x = start(5, 2, 3), floats(data)
    state = solver.init(params, data_x)
    for _ in range(-(-5 // blocks)):  # every block once: nothing moves
        params, state = solver.update(params, state, data_x)
    np.testing.assert_array_equal(params.upper, 0)
    paper, seen, bounded = Paper(data, blocks, form), set(), set()
    np.testing.assert_allclose(state.direction, paper.z, rtol=1e-12)
    for k in range(25):
        params, state = solver.update(params, state, data_x)
        index = np.flatnonzero(state.visited == k)
        assert len(index) == blocks
        seen.add(tuple(index))
        bounded.add(paper.move(index))
        error = max(np.max(np.abs(paper.z)), *paper.wrong)
        expected = paper.x, paper.y, paper.slope, paper.z, error
        ours = *params, state.slope, state.direction, state.error
        if form == 1:
            expected, ours = (*expected, paper.hessian), (*ours, state.memory.values)
        else:
            expected, ours = (
                (*expected, paper.v, paper.u),
                (
                    *ours,
                    state.memory.values,
                    state.memory.slope,
                ),
            )
        for value, wanted in zip(ours, expected, strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-10, atol=1e-12)
    assert len(seen) > 1 or blocks == 5
    assert bounded == {False, True} or form == 1


@pytest.mark.parametrize("make", [first, second], ids=["v1", "v2"])
def test_all_blocks_without_noise_reach_rounding(x64, make):
    data = many.draw()
    estimators = msvr(0.5), storm(0.5)
    solver = make(PROBLEM, 0.02, 0.1, estimators=estimators)
    out = core.run(solver, start(20), floats(data), max_steps=4000, tol=0.0)
    x = np.asarray(out.params.upper)
    assert np.linalg.norm(many.hypergradient(np.zeros(5), data)) > 0.76
    assert np.linalg.norm(many.hypergradient(x, data)) < 1e-14
    np.testing.assert_allclose(
        out.params.lower, many.lower_solution(x, data), atol=1e-13
    )


DATA = many.draw()
STEPS = 5000


def noisy_run(make, blocks, *, steps=STEPS, gamma=None, alpha=0.1, tau=0.01, eta=0.005):
    """The norm of the gradient of F along a run with the card's noise."""
    rng = np.random.default_rng(0)
    numbers = floats(DATA, jnp.float32)
    normal = lambda *shape: rng.standard_normal((steps, 20, *shape), np.float32)
    index = np.broadcast_to(np.arange(20), (steps, 20))
    batches = (index, normal(5), normal(4)), (index, normal(4), normal(4, 4))

    def upper(levels, data):
        i, *noise = data
        extra = sum(map(jnp.vdot, noise, levels))
        return quadratic.upper(levels, numbers[0][i]) + 0.3 * extra

    def lower(levels, data):
        i, slope, hessian = data
        y, one = levels.lower, jax.tree.map(lambda v: v[i], numbers[1])
        bend = y @ ((hessian + hessian.T) @ y) / 4
        return quadratic.lower(levels, one) + 0.3 * slope @ y + 0.03 * bend

    options = dict(sampling=BlockSampling(blocks), key=KEY)
    options["estimators"] = msvr(alpha, gamma), storm(0.02)
    solver = make(BilevelProblem(upper, lower), eta, tau, **options)
    record = lambda params, _: params.upper
    run = jax.jit(lambda batches: core.scan(solver, begin, batches, record=record))
    begin = start(20, dtype=jnp.float32)
    path = np.asarray(run(floats(batches)).history, np.float64)
    offset = many.hypergradient(np.zeros(5), DATA)
    rows = [many.hypergradient(e, DATA) - offset for e in np.eye(5)]
    return np.linalg.norm(path @ rows + offset, axis=1)


@pytest.mark.parametrize(
    "make, sizes", [(first, (1, 10)), (second, (1, 2, 5, 10))], ids=["v1", "v2"]
)
def test_more_blocks_give_less_noise(make, sizes):
    tails = [noisy_run(make, blocks)[STEPS // 2 :] for blocks in sizes]
    levels = [np.sqrt(np.mean(tail**2)) for tail in tails]
    assert np.all(np.diff(levels) < 0)
    assert levels[0] / levels[-1] >= 3


def test_correction_of_the_theory_keeps_v2_from_diverging():
    run = lambda gamma: noisy_run(second, 5, gamma=gamma, tau=0.02, eta=0.01)[-1]
    assert run(None) < 0.3
    assert run(0.0) > 100
