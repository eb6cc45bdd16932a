"""BSVRB: sampled and lazy blocks, examples, trees, shards, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxsolve import core, prox
from jaxsolve.bilevel import BilevelProblem, BlockSampling, Levels, bsvrb_v2
from jaxsolve.core import Status
from tests.bilevel import many, quadratic
from tests.bilevel.many import KEY, first, floats, second, start
from tests.bilevel.quadratic import MU, PROBLEM

TAU, ETA = 0.05, 0.04
FEW = BlockSampling(2)


def updates(solver, params, data, count):
    """Params and state after so many updates, taken by hand: these compile quickly."""
    state = solver.init(params, data)
    for _ in range(count):
        params, state = solver.update(params, state, data)
    return core.Solution(params, state, state.status, None)


# ------------------------------------------------------------------------- sampling


@pytest.mark.parametrize("make", [first, second], ids=["v1", "v2"])
def test_lazy_blocks_catch_up_exactly(x64, make):
    data = floats(many.draw(m=7))
    lazy, eager = (
        make(PROBLEM, ETA, TAU, sampling=BlockSampling(3, lazy=lazy), key=KEY)
        for lazy in (True, False)
    )
    behind, ahead = (updates(s, start(7), data, 40) for s in (lazy, eager))
    np.testing.assert_allclose(behind.params.upper, ahead.params.upper, rtol=1e-10)
    np.testing.assert_array_equal(behind.state.visited, ahead.state.visited)
    missed = 36 - np.asarray(behind.state.visited)
    assert np.max(missed) > 2
    slope = np.asarray(behind.state.slope)
    caught_up = behind.params.lower - TAU * missed[:, None] * slope
    np.testing.assert_allclose(caught_up, ahead.params.lower, rtol=1e-10)
    gaps = np.max(np.abs(behind.params.lower - ahead.params.lower), axis=1)
    np.testing.assert_array_equal(gaps > 1e-9, missed > 0)


def test_blocks_that_agree_converge_though_few_are_sampled(x64):
    target, numbers = many.draw(m=6, dx=2, dy=3, top=2.0)
    x, ones = np.array([1.0, -2.0]), []
    for cross, hessian, linear in zip(
        numbers.cross, numbers.hessian, numbers.linear, strict=True
    ):
        y = np.linalg.solve(hessian, cross @ x + linear)
        ones.append(y + hessian @ cross @ np.linalg.solve(cross.T @ cross, MU * x))
    data = floats((np.stack(ones), numbers))
    for make in (first, second):
        solver = make(PROBLEM, 0.05, 0.1, sampling=FEW, key=KEY)
        out = core.run(solver, start(6, 2, 3), data, max_steps=20000, tol=1e-9)
        assert out.status == Status.CONVERGED
        np.testing.assert_allclose(out.params.upper, x, atol=1e-7)


def one_of_each(levels, data):
    """Two lower blocks: one follows x, the other goes to one."""
    aim = jnp.where(data == 0, levels.upper, 1.0)
    return (levels.lower - aim) ** 2 / 2


@pytest.mark.parametrize("make", [first, second], ids=["v1", "v2"])
def test_a_block_that_no_move_has_visited_is_not_taken_for_solved(x64, make):
    upper = lambda levels, data: jnp.where(data == 0, levels.lower**2 / 2, 0.0)
    problem, begin = BilevelProblem(upper, one_of_each), Levels(0.0, jnp.zeros(2))
    data = jnp.arange(2), jnp.arange(2)
    for seed in range(4):  # some draw the solved block first
        one = dict(sampling=BlockSampling(1), key=jax.random.key(seed))
        solver = make(problem, 0.05, 0.1, **one)
        out = core.run(solver, begin, data, max_steps=3000, tol=1e-6)
        assert out.status == Status.CONVERGED
        np.testing.assert_allclose(out.params.lower, [0, 1], atol=1e-5)
        params, state, *_ = updates(solver, begin, data, 3)
        assert state.error == np.inf  # one move, one block


def with_examples(m, n):
    """Data of n targets each, whose means are those of problem Q."""
    target, numbers = many.draw(m=m)
    noise = np.random.default_rng(1).normal(size=(m, n, 4))
    noise -= noise.mean(1, keepdims=True)
    problem = BilevelProblem(
        lambda levels, targets: jnp.mean(
            jax.vmap(lambda t: quadratic.upper(levels, t))(targets)
        ),
        quadratic.lower,
    )
    return problem, floats((target[:, None] + noise, numbers), jnp.float32)


def test_examples_are_sampled_of_their_own_blocks():
    problem, data = with_examples(m=6, n=8)
    begin = start(6, dtype=jnp.float32)
    make = lambda sampling: second(problem, ETA, TAU, sampling=sampling, key=KEY)
    run = lambda sampling, count: updates(make(sampling), begin, data, count)
    all_of_8 = run(BlockSampling(2, examples=(8, None)), 20)
    plain = run(FEW, 20)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
    jax.tree.map(close, all_of_8.params, plain.params)
    means = np.asarray(data[0]).mean(1)
    for blocks in (2, None):
        one = run(BlockSampling(blocks, examples=(1, None)), 3 if blocks else 1)
        # U = -f_y, the target, at y = v = 0: an example of each own block.
        rows = -np.asarray(one.state.memory.slope)
        gaps = np.abs(np.asarray(data[0]) + rows[:, None]).max(2).min(1)
        np.testing.assert_allclose(gaps, 0, atol=1e-6)
        assert np.all(np.abs(rows + means).max(1) > 1e-3)


def test_trees_at_both_levels_and_schedules():
    target, numbers = floats(many.draw(m=4, dx=2, dy=3), jnp.float32)
    join = lambda levels: Levels(levels.upper["x"], jnp.concatenate(levels.lower))
    problem = BilevelProblem(
        lambda levels, data: quadratic.upper(join(levels), data),
        lambda levels, data: quadratic.lower(join(levels), data),
    )
    falling = lambda count: 0.05 / jnp.sqrt(1.0 + count.astype(jnp.float32))
    zeros = jnp.zeros((4, 3))
    split = Levels({"x": jnp.zeros(2)}, (zeros[:, :1], zeros[:, 1:]))
    for make in (first, second):
        options = dict(sampling=FEW, key=KEY)
        runs = [
            updates(make(p, 0.05, falling, **options), s, (target, numbers), 30).params
            for p, s in ((problem, split), (PROBLEM, start(4, 2, 3)))
        ]
        np.testing.assert_allclose(runs[0].upper["x"], runs[1].upper, rtol=1e-4)


def test_upper_set_is_kept(x64):
    data = many.draw(m=4, dx=2, dy=3)
    problem = BilevelProblem(
        quadratic.upper, quadratic.lower, upper_set=prox.box(-0.05, 0.05)
    )
    solver = second(problem, 0.1, 0.1)
    out = core.run(solver, start(4, 2, 3), floats(data), max_steps=3000, tol=1e-9)
    assert out.status == Status.CONVERGED
    x = np.asarray(out.params.upper)
    wrong = x - np.clip(x - many.hypergradient(x, data), -0.05, 0.05)
    np.testing.assert_allclose(wrong, 0, atol=1e-8)
    assert np.max(np.abs(x)) == 0.05


# ---------------------------------------------------------------------------- shards


def spread_over_eight():
    mesh = jax.make_mesh((8,), ("blocks",), axis_types=(AxisType.Auto,))
    return NamedSharding(mesh, PartitionSpec("blocks"))


def assert_same(spread, single):
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)
    jax.tree.map(close, spread.params, single.params)
    jax.tree.map(close, spread.state.slope, single.state.slope)


@pytest.mark.parametrize("blocks", [10, None], ids=["ten", "all"])
def test_hundred_blocks_sharded_equal_the_run_on_one_device(blocks):
    data, begin = floats(many.draw(m=100), jnp.float32), start(100, dtype=jnp.float32)
    solver = second(PROBLEM, 0.02, 0.05, sampling=BlockSampling(blocks), key=KEY)
    place = spread_over_eight()

    def run(params, data):
        # Inside of a jit the axis need not be a multiple of the devices.
        constrain = lambda tree: jax.lax.with_sharding_constraint(tree, place)
        params = Levels(params.upper, constrain(params.lower))
        return core.run(solver, params, constrain(data), max_steps=200, tol=0.0)

    program = jax.jit(run).lower(begin, data).compile()
    single = core.run(solver, begin, data, max_steps=200, tol=0.0)
    assert_same(program(begin, data), single)
    text = program.as_text()
    assert "f32[13,4,4]" in text  # every device holds an eighth
    assert "f32[100,4,4]" not in text.split("ENTRY")[0]


def test_blocks_that_are_put_on_a_mesh_stay_there():
    data, begin = floats(many.draw(m=104), jnp.float32), start(104, dtype=jnp.float32)
    solver = first(PROBLEM, 0.02, 0.05, sampling=BlockSampling(10), key=KEY)
    place = spread_over_eight()
    params = Levels(begin.upper, jax.device_put(begin.lower, place))
    run = lambda *args: core.run(solver, *args, max_steps=100, tol=0.0)
    out = run(params, jax.device_put(data, place))
    assert_same(out, run(begin, data))
    for leaf in (out.params.lower, out.state.slope, out.state.memory.values):
        assert leaf.sharding.is_equivalent_to(place, leaf.ndim)


# -------------------------------------------------------------------------- bad input


def test_nan_data_end_the_run_and_spare_the_other_lanes():
    data = floats(many.draw(m=5, dx=2, dy=3), jnp.float32)
    solver = second(PROBLEM, ETA, TAU, sampling=FEW, key=KEY)
    begin = start(5, 2, 3, dtype=jnp.float32)
    solve = lambda target: core.run(solver, begin, (target, data[1]), max_steps=30)
    bad = data[0].at[3, 0].set(jnp.nan)  # in one block
    lanes = jax.vmap(solve)(jnp.stack([data[0], bad, 2 * data[0]]))
    np.testing.assert_array_equal(
        lanes.status, [Status.MAX_STEPS, Status.DIVERGED, Status.MAX_STEPS]
    )
    assert bool(core.all_finite(lanes.params))
    np.testing.assert_allclose(lanes.params.upper[0], solve(data[0]).params.upper, 1e-5)


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
@pytest.mark.parametrize("make", [first, second], ids=["v1", "v2"])
def test_nan_that_comes_later_leaves_what_there_was(make, lazy):
    data = floats(many.draw(m=5, dx=2, dy=3), jnp.float32)
    solver = make(PROBLEM, ETA, TAU, sampling=BlockSampling(2, lazy=lazy), key=KEY)
    params, state, *_ = updates(solver, start(5, 2, 3), data, 6)
    bad = jax.tree.map(lambda v: jnp.full_like(v, jnp.nan), data)
    new_params, new_state = solver.update(params, state, bad)
    assert new_state.status == Status.DIVERGED and new_state.error == state.error
    jax.tree.map(np.testing.assert_array_equal, new_params, params)
    kept = new_state.slope, new_state.memory, new_state.direction
    assert bool(core.all_finite(kept))


def test_diverging_steps_end_with_finite_params():
    data = floats(many.draw(m=5, dx=2, dy=3), jnp.float32)
    for make in (first, second):
        solver = make(PROBLEM, 1.0, 3.0, sampling=FEW, key=KEY)
        out = updates(solver, start(5, 2, 3), data, 300)
        assert out.status == Status.DIVERGED
        assert bool(core.all_finite(out.params))


@pytest.mark.parametrize("lazy", [False, True], ids=["eager", "lazy"])
@pytest.mark.parametrize("bad", [jnp.inf, jnp.nan], ids=str)
def test_a_stepsize_that_is_no_number_is_divergence(bad, lazy):
    data = floats(many.draw(m=5, dx=2, dy=3), jnp.float32)
    breaks = lambda count: jnp.where(count < 4, TAU, bad)
    sampling, sgd = BlockSampling(2, lazy=lazy), optax.sgd(ETA)
    for taus in ((breaks, TAU), (TAU, breaks)):
        solver = bsvrb_v2(PROBLEM, sgd, *taus, sampling=sampling, key=KEY)
        out = core.run(solver, start(5, 2, 3, jnp.float32), data, max_steps=30)
        assert out.status == Status.DIVERGED and out.state.count == 3 + 4 + 1
        assert bool(core.all_finite(out.params))
    solver = first(PROBLEM, ETA, breaks, sampling=sampling, key=KEY)
    out = core.run(solver, start(5, 2, 3, jnp.float32), data, max_steps=30)
    assert out.status == Status.DIVERGED and bool(core.all_finite(out.params))


def test_static_mistakes_are_errors():
    data = floats(many.draw(m=5, dx=2, dy=3), jnp.float32)
    begin = start(5, 2, 3)
    run = lambda data, **options: core.run(
        second(PROBLEM, ETA, TAU, **options), begin, data, max_steps=2
    )
    with pytest.raises(ValueError, match="leading axis, of blocks"):
        run((data[0][:4], data[1]))
    with pytest.raises(ValueError, match="6 of 5 blocks"):
        run(data, sampling=BlockSampling(6), key=KEY)
    with pytest.raises(ValueError, match="second axes"):
        run((data[0][:, 0], data[1]), sampling=BlockSampling(examples=2), key=KEY)
    with pytest.raises(ValueError, match="4 of 3 examples"):
        run(data, sampling=BlockSampling(examples=(4, None)), key=KEY)
    with pytest.raises(ValueError, match="give `key=`"):
        run(data, sampling=FEW)
    with pytest.raises(ValueError, match="positive Python integers"):
        run(data, sampling=BlockSampling(0), key=KEY)
    with pytest.raises(ValueError, match="must be a bilevel.BlockSampling"):
        run(data, sampling=2, key=KEY)
    with pytest.raises(ValueError, match="estimators must be a pair"):
        run(data, estimators=(0.1, 0.1))
    with pytest.raises(ValueError, match="radius must be positive"):
        run(data, radius=0.0)
    with pytest.raises(ValueError, match="floor must be one real number"):
        first(PROBLEM, ETA, TAU, floor=0.0)
    with pytest.raises(ValueError, match="empty"):
        run((jnp.zeros((5, 0, 3)), data[1]))
    with pytest.raises(ValueError, match="takes no lower_set"):
        parts = quadratic.upper, quadratic.lower
        second(BilevelProblem(*parts, lower_set=prox.box(0.0, 1.0)), ETA, TAU)
