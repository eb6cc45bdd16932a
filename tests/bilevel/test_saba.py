"""SABA: the card's iterates, no noise where SOBA stalls, memories, bad input."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import bilevel, core, prox
from jaxsolve.bilevel import BilevelProblem, Levels
from jaxsolve.core import Status
from tests.bilevel import finite_sum, quadratic

SMALL = finite_sum.draw(n=6, dx=2, dy=3, top=2.0)
LARGE = finite_sum.draw()
KEY = jax.random.key(0)


def zeros(dx=2, dy=3):
    return Levels(np.zeros(dx), np.zeros(dy))


def solver_of(gamma=0.05, rho=0.2, batch=1, problem=finite_sum.PROBLEM, **options):
    options = dict(batch=batch, key=KEY) | options
    return bilevel.saba(problem, optax.sgd(gamma), rho, **options)


def drawn(state):
    """The batches that the next update takes, of the upper and of the lower level."""
    pairs = zip(state.orders, state.positions, strict=True)
    return [int(order[position]) for order, position in pairs]


def memories(state):
    """The memories with what the last update saw written into them."""
    j, i = map(int, state.rows)
    full = jax.tree.map(np.array, state.memories)
    for memory, row, seen in zip(full, (j, j, i, i, i), state.seen, strict=True):
        memory[row] = seen
    return full


class Card:
    """The card's update on a finite sum, in NumPy; batches are pairs of sizes."""

    def __init__(self, data, sizes, rho, gamma):
        targets, numbers = data
        mean = lambda leaf, size: leaf.reshape(-1, size, *leaf.shape[1:]).mean(1)
        self.targets = mean(targets, sizes[0])
        self.numbers = [mean(leaf, sizes[1]) for leaf in numbers]
        self.rho, self.gamma = rho, gamma
        self.x, self.y, self.v = np.zeros(2), np.zeros(3), np.zeros(3)
        m, n = len(self.targets), len(self.numbers[0])
        self.counts = dict(fx=m, fy=m, gy=n, hv=n, jv=n)
        size = dict(fx=2, fy=3, jv=2, hv=3, gy=3)
        self.memory = {q: np.zeros((self.counts[q], size[q])) for q in size}
        self.mean = {q: np.zeros(size[q]) for q in size}

    def sample(self, j, i):
        hessian, cross, linear = (leaf[i] for leaf in self.numbers)
        return dict(
            fx=quadratic.MU * self.x,
            fy=self.y - self.targets[j],
            gy=hessian @ self.y - cross @ self.x - linear,
            hv=hessian @ self.v,
            jv=-cross.T @ self.v,
        )

    def update(self, j, i, moves=True):
        reduced = {}
        for q, new in self.sample(j, i).items():
            row = j if q in ("fx", "fy") else i
            change = new - self.memory[q][row]
            reduced[q] = change + self.mean[q]
            self.mean[q] = self.mean[q] + change / self.counts[q]
            self.memory[q][row] = new
        if moves:
            self.y = self.y - self.rho * reduced["gy"]
            self.v = self.v - self.rho * (reduced["hv"] + reduced["fy"])
            self.x = self.x - self.gamma * (reduced["jv"] + reduced["fx"])


@pytest.mark.parametrize("full", [False, True], ids=["zero", "full"])
@pytest.mark.parametrize("sizes", [(1, 1), (3, 2)], ids=["single", "batches"])
def test_first_iterates_are_those_of_the_card(x64, sizes, full):
    solver = solver_of(batch=sizes, full=full)
    card = Card(SMALL, sizes, 0.2, 0.05)
    fill = max(card.counts.values()) if full else 0
    params = jax.tree.map(jnp.asarray, zeros())
    state = solver.init(params, SMALL)
    for k in range(20):
        card.update(*drawn(state), moves=k >= fill)
        params, state = solver.update(params, state, SMALL)
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
        close(params.upper, card.x)
        close(params.lower, card.y)
        close(state.inner.adjoint, card.v)
        close(state.inner.means.curve, card.mean["hv"])
        for part, name in zip(memories(state.inner), card.memory, strict=True):
            close(part, card.memory[name])


def test_noise_vanishes_where_that_of_soba_stays(x64):
    mean, start = finite_sum.mean(LARGE), zeros(5, 10)
    slope = lambda x: np.linalg.norm(quadratic.hypergradient(np.asarray(x), mean))
    solver = solver_of(gamma=0.02, rho=0.05)
    saba = core.run(solver, start, LARGE, max_steps=8000, tol=0.0)
    solver = bilevel.soba(finite_sum.PROBLEM, optax.sgd(0.02), 0.05)
    solver = core.minibatch(solver, (1, 1), key=KEY)
    soba = core.run(solver, start, LARGE, max_steps=8000, tol=0.0)
    assert slope(start.upper) > 0.1
    assert slope(saba.params.upper) < 1e-13
    assert slope(soba.params.upper) > 1e-3


def test_error_stops_a_run_though_every_update_sees_one_batch(x64):
    out = core.run(solver_of(), zeros(), SMALL, max_steps=5000, tol=1e-8)
    assert out.converged and out.state.count < 3000
    expected = quadratic.solution(finite_sum.mean(SMALL))
    np.testing.assert_allclose(out.params.upper, expected.upper, atol=1e-7)
    np.testing.assert_allclose(out.params.lower, expected.lower, atol=1e-7)


def test_full_pass_moves_nothing_and_fills_the_memories(x64):
    solver, start = solver_of(full=True), Levels(np.ones(2), np.ones(3))
    out = core.run(solver, start, SMALL, max_steps=6, tol=0.0)
    np.testing.assert_array_equal(out.params.upper, start.upper)
    assert out.state.error == np.inf
    target, (hessian, cross, linear) = finite_sum.mean(SMALL)
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14)
    close(
        out.state.inner.means.slope, hessian @ np.ones(3) - cross @ np.ones(2) - linear
    )
    close(out.state.inner.means.pull, 1 - target)
    moved = core.run(solver, start, SMALL, max_steps=7, tol=0.0)
    assert np.any(moved.params.upper != start.upper)


def test_means_stay_those_of_the_memories():
    out = core.run(solver_of(batch=2), zeros(), SMALL, max_steps=100, tol=0.0)
    inner = out.state.inner
    for mean, memory in zip(inner.means, memories(inner), strict=True):
        np.testing.assert_allclose(mean, np.mean(memory, 0), atol=1e-6)


def test_memories_are_changed_in_place():
    data, solver = finite_sum.draw(n=97), solver_of()
    run = lambda start: core.run(solver, start, data).params
    program = jax.jit(run).lower(zeros(5, 10)).compile().as_text()
    copies = re.findall(r"f32\[97,(?:5|10)\]\S* copy\(", program)
    assert len(copies) <= 5  # at the start; each update would copy all five, twice


def test_one_batch_of_everything_is_soba(x64):
    options = dict(max_steps=30, tol=0.0)
    out = core.run(solver_of(batch=6), zeros(), SMALL, **options)
    soba = bilevel.soba(finite_sum.PROBLEM, optax.sgd(0.05), 0.2)
    expected = core.run(soba, zeros(), SMALL, **options)
    np.testing.assert_allclose(out.params.upper, expected.params.upper, rtol=1e-10)
    np.testing.assert_allclose(out.params.lower, expected.params.lower, rtol=1e-10)


def test_level_may_have_no_data_of_its_own(x64):
    targets, numbers = SMALL
    upper = lambda levels, _: finite_sum.upper(levels, jnp.asarray(targets))
    solver = solver_of(problem=BilevelProblem(upper, finite_sum.lower))
    out = core.run(solver, zeros(), (None, numbers), max_steps=3000, tol=1e-8)
    expected = quadratic.solution(finite_sum.mean(SMALL))
    assert out.converged
    np.testing.assert_allclose(out.params.upper, expected.upper, atol=1e-7)


def test_batch_that_is_not_finite_ends_the_run_and_spoils_no_memory():
    targets, numbers = SMALL
    bad = np.where(np.arange(6)[:, None] == 2, np.nan, targets)
    out = core.run(solver_of(), zeros(), (bad, numbers), max_steps=100)
    assert out.status == Status.DIVERGED and out.state.count <= 6
    assert bool(core.all_finite(out.params))
    assert bool(core.all_finite(out.state.inner._replace(error=0.0, rows=None)))


def test_lane_that_is_not_finite_leaves_the_others_alone():
    targets, numbers = SMALL
    both = np.stack([targets, np.full_like(targets, np.nan)])
    solver = solver_of()
    run = lambda targets: core.run(solver, zeros(), (targets, numbers), max_steps=40)
    out = jax.vmap(run)(both)
    assert list(out.status) == [Status.MAX_STEPS, Status.DIVERGED]
    single = run(targets).params.upper
    np.testing.assert_allclose(out.params.upper[0], single, rtol=1e-5)
    np.testing.assert_array_equal(out.params.upper[1], 0)


@pytest.mark.parametrize("batch", [0, 1.0, (1, 2, 3), "2"])
def test_batch_that_is_no_size_is_refused(batch):
    with pytest.raises(ValueError, match="batch"):
        solver_of(batch=batch)


def test_problems_it_cannot_honour_are_refused():
    box = prox.box(0.0, 1.0)
    bounded = BilevelProblem(finite_sum.upper, finite_sum.lower, lower_set=box)
    with pytest.raises(ValueError, match="saba takes no lower_set"):
        solver_of(problem=bounded)
    with pytest.raises(ValueError, match="stepsize"):
        solver_of(rho=0.0)


def test_data_that_cannot_be_cut_into_batches_are_refused():
    targets, numbers = SMALL
    with pytest.raises(ValueError, match="multiple of the batch"):
        core.run(solver_of(batch=4), zeros(), SMALL)
    with pytest.raises(ValueError, match="leading axis"):
        core.run(solver_of(), zeros(), (targets, numbers._replace(linear=1.0)))
    with pytest.raises(ValueError, match="empty"):
        core.run(solver_of(), zeros(), (targets[:0], numbers))
