"""What every solver promises, asked of every case of every room.

One solver and a few compiled programs serve all questions to a case; see `Bench`.
"""

import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxsolve import core
from jaxsolve.core import Status
from tests.case import Closed, Dicts, Form, Half, all_cases, cast, public_factories

CASES = all_cases()
LANES = 8
NAN_LANE = 3
STEP = 1e-4  # of central differences
MANUAL = 6  # updates taken by hand
F32, F64, BF16 = jnp.dtype("float32"), jnp.dtype("float64"), jnp.dtype("bfloat16")


class Bench:
    """A case's solver, and its programs, each made when it is first asked for."""

    def __init__(self, case):
        self.case, self.form = case, Form()
        self.solver = case.make(self.form)
        self.freed = weakref.ref(self.solver.update)

    def run(self, data, **options):
        """An eager run from the case's start, in single precision."""
        return self.case.run(self.solver, self.case.start(F32), data, **options)

    @functools.cached_property
    def first(self):
        """The first eager run, and how often it called the problem's functions."""
        before = self.form.calls
        solution = self.run(self.case.lane(0, F32))
        return solution, self.form.calls - before

    @functools.cached_property
    def singles(self):
        """Eager runs of all lanes, one by one."""
        return [plain(self.run(self.case.lane(i, F32))) for i in range(LANES)]

    @functools.cached_property
    def batch(self):
        """An eager vmap of the run, from data to arrays of NumPy."""
        return lambda data: plain(jax.vmap(self.run)(data))

    @functools.cached_property
    def lanes(self):
        """The result of a vmap of all lanes."""
        return self.batch(self.case.lanes(LANES, F32))

    def pull(self, data):
        """The gradient of `loss` in the data, by eager reverse mode."""
        solve = lambda data: self.run(data, derivative=self.case.derivative).params
        params, pull = jax.vjp(solve, data)
        (cotangent,) = pull(self.cotangent(params))
        return plain(cotangent)

    def cotangent(self, params):
        return jax.tree.map(np.asarray, jax.jit(jax.grad(self.loss))(params))

    def loss(self, params):
        """A fixed scalar that depends on all that is determined, not linearly."""
        vector, _ = core.ravel(self.case.output(params))
        weights = jnp.asarray(np.cos(1.0 + np.arange(vector.size)), vector.dtype)
        return jnp.sum(weights * vector + vector**2 / 2)

    def at(self, step, form, dtype):
        """The solver and its data, a step away; the form may close over them."""
        data, way = cast(self.case.data, dtype), cast(self.case.toward(), dtype)
        real = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
        data = jax.tree.map(lambda x, d: x + step * d if real(x) else x, data, way)
        if form is None:
            return self.solver, data
        form = form(data)
        return self.case.make(form), form.wrap_data(data)

    @functools.cached_property
    def slopes(self):
        """One program in double precision: the loss with its derivatives, in lanes.

        As ``slopes(step, max_steps, tol, masked)``: under a mask, lanes that have not
        converged contribute nothing to the loss.
        """
        case = self.case

        def lane(step, max_steps, tol, masked):
            def loss(step):
                steps = max_steps if case.refuses else case.max_steps
                solver, data = self.at(step, None, F64)
                out = case.run(
                    solver,
                    case.start(F64),
                    data,
                    max_steps=steps,
                    tol=tol,
                    derivative=case.derivative,
                )
                value = jnp.where(out.converged | ~masked, self.loss(out.params), 0)
                return value, (case.output(out.params), out.status)

            one = jnp.ones_like(step)
            if not case.differentiable:
                return loss(step)
            value, forward, (output, status) = jax.jvp(
                loss, (step,), (one,), has_aux=True
            )
            gradient = jax.grad(loss, has_aux=True)
            reverse, second, _ = jax.jvp(gradient, (step,), (one,), has_aux=True)
            return value, (output, status), forward, reverse, second

        return jax.jit(jax.vmap(lane))

    @functools.cached_property
    def table(self):
        """The slopes: at the data, to both sides, after a long run, starved twice."""
        with jax.enable_x64(True):
            return jax.device_get(self.slopes(*self.plan(self.case.starved)))

    def plan(self, starved):
        """The lanes of the table; the last two take `starved` steps."""
        case = self.case
        full, tol = case.max_steps, case.tol64
        long = 4 * full if case.solution is None else 0
        tol = np.sqrt(np.finfo(F64).eps) if tol is None else tol
        step = np.array([0, STEP, -STEP, 0, 0, 0])
        steps = np.array([full, full, full, long, starved, starved], np.int32)
        tols = np.array([tol, tol, tol, 0, tol, tol])
        return step, steps, tols, np.array([False] * 5 + [True])


def plain(tree):
    """NumPy arrays of a tree that may hold random keys."""

    def leaf(x):
        if x.dtype == jax.dtypes.float0:
            return np.zeros(x.shape)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        return np.asarray(x)

    return jax.tree.map(leaf, tree)


def assert_identical(left, right):
    jax.tree.map(np.testing.assert_array_equal, plain(left), plain(right))


def assert_close(left, right, tolerance):
    close = functools.partial(
        np.testing.assert_allclose, rtol=tolerance, atol=tolerance
    )
    wide = lambda x: np.asarray(x, np.float64)
    jax.tree.map(lambda a, b: close(wide(a), wide(b)), left, right)


def lane(tree, index):
    return jax.tree.map(lambda x: x[index], tree)


def form_of(tree):
    """Shapes, dtypes and weakness of all leaves."""
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


@pytest.fixture(scope="module", params=CASES, ids=[case.name for case in CASES])
def bench(request):
    return Bench(request.param)


def test_every_public_solver_has_a_case():
    assert public_factories() <= {case.factory for case in CASES}


def test_no_two_cases_have_one_name():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


def test_objective_is_traced_at_most_twice(bench):
    _, calls = bench.first
    assert calls <= 2 * bench.case.calls


def test_known_answer_in_single_precision(bench):
    solution, _ = bench.first
    assert bool(solution.converged), solution
    output = bench.case.output(solution.params)
    assert_close(output, answer(bench), bench.case.answer(F32))


def test_known_answer_in_double_precision(bench):
    (_, (output, status), *_) = bench.table
    assert status[0] == Status.CONVERGED
    assert_close(lane(output, 0), answer(bench), bench.case.answer(F64))


def answer(bench):
    """The known answer, or that of a long run in double precision."""
    case = bench.case
    if case.solution is not None:
        return case.output(case.solution(case.data))
    _, (output, _), *_ = bench.table
    return lane(output, 3)


def test_new_numbers_cost_no_trace(bench):
    case = bench.case
    bench.run(case.lane(0, F32))  # traced again, if caches were cleared meanwhile
    calls = bench.form.calls
    bench.run(case.lane(1, F32), tol=0.1, max_steps=7)
    assert bench.form.calls == calls


def test_second_vmap_and_second_gradient_cost_no_trace(bench):
    case, rounds = bench.case, (0, 1)
    for again in rounds:
        calls = bench.form.calls
        bench.batch(case.lanes(LANES, F32))
        case.differentiable and bench.pull(case.lane(again, F32))
    assert bench.form.calls == calls


def test_lane_of_a_vmap_equals_its_single_run(bench):
    assert_lanes_equal_singles(bench.lanes, bench)


def assert_lanes_equal_singles(lanes, bench):
    """Equal to rounding; to the tolerance of a run where rounding moved its end."""
    case = bench.case
    for i, single in enumerate(bench.singles):
        out = lane(lanes, i)
        assert out.status == single.status
        same = out.state.count == single.state.count
        tolerance = case.answer32 / 100 if same else case.answer32
        assert_close(case.output(out.params), case.output(single.params), tolerance)


def test_nan_data_end_the_run_with_finite_params_and_spare_the_other_lanes(bench):
    case = bench.case
    if case.spoil is None:
        return
    bad = cast(case.spoil(case.moved(NAN_LANE * case.spread)), F32)
    one_bad = lambda all, one: np.where(others(all), np.asarray(all), np.asarray(one))
    batch = bench.batch(jax.tree.map(one_bad, case.lanes(LANES, F32), bad))
    for out in (plain(bench.run(bad)), lane(batch, NAN_LANE)):
        assert out.status not in (Status.CONVERGED, Status.RUNNING)
        assert bool(core.all_finite(out.params)) and bool(case.usable(out.params))
    good = others(np.empty(LANES))
    assert_identical(lane(batch, good), lane(bench.lanes, good))


def others(leaf):
    """Where a batch is not the NaN lane: (LANES, 1, ...)."""
    return (np.arange(LANES) != NAN_LANE).reshape(-1, *[1] * (np.ndim(leaf) - 1))


def test_pmap_over_eight_devices_equals_single_runs(bench):
    out = jax.pmap(bench.run)(bench.case.lanes(LANES, F32))
    assert_lanes_equal_singles(plain(out), bench)


def test_sharded_batch_equals_single_runs_inside_jit_too(bench):
    mesh = jax.make_mesh((LANES,), ("batch",), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec("batch"))
    data = jax.device_put(bench.case.lanes(LANES, F32), spread)
    out = jax.jit(jax.vmap(bench.run))(data)
    assert_lanes_equal_singles(plain(out), bench)


def test_derivatives_agree_with_central_differences(bench):
    case = bench.case
    if not case.differentiable:
        with pytest.raises(ValueError, match="derivative"):
            bench.pull(case.lane(0, F32))
        return
    value, _, forward, reverse, second = bench.table
    close = functools.partial(assert_close, tolerance=case.slope64)
    slope = (value[1] - value[2]) / (2 * STEP)
    close(forward[0], slope)
    close(reverse[0], slope)
    close(second[0], (reverse[1] - reverse[2]) / (2 * STEP))


def test_starved_run_refuses_its_derivatives_and_can_be_masked(bench):
    case = bench.case
    starved = bench.run(case.lane(0, F32), max_steps=case.starved)
    assert starved.status == Status.MAX_STEPS
    assert starved.state.count == case.starved
    assert bool(case.usable(starved.params))
    if not (case.differentiable and case.refuses):
        return
    _, (_, status), *slopes = bench.table
    assert list(status[-2:]) == [Status.MAX_STEPS] * 2
    assert not np.any(np.isfinite([slope[-2] for slope in slopes]))  # refused
    forward, reverse, _ = slopes
    assert forward[-1] == reverse[-1] == 0  # refused too, but masked
    with jax.enable_x64(True):
        _, _, *fed = jax.device_get(bench.slopes(*bench.plan(case.max_steps)))
    for slope, other in zip(slopes, fed, strict=True):
        np.testing.assert_array_equal(slope[:3], other[:3])


def test_dictionaries_give_the_same_answer(bench):
    case, form = bench.case, Dicts()
    if not case.dicts:
        return
    start, data = form.wrap(case.start(F32)), form.wrap_data(case.lane(0, F32))
    out = case.run(case.make(form), start, data)
    assert jax.tree.structure(out.params) == jax.tree.structure(start)
    assert bool(out.converged), out
    output = case.output(form.unwrap(out.params))
    assert_close(output, answer(bench), case.answer(F32))


def test_functions_may_close_over_traced_data(bench):
    case = bench.case
    if not (case.closes and case.differentiable):
        return

    def loss(step):
        solver, data = bench.at(step, Closed, F32)
        start = Closed(None).wrap(case.start(F32)) if case.dicts else case.start(F32)
        out = case.run(solver, start, data, derivative=case.derivative)
        return bench.loss(Closed(None).unwrap(out.params))

    with jax.checking_leaks():
        slope = jax.jit(jax.grad(loss))(np.float32(0))
    pulled = bench.pull(case.lane(0, F32))
    expected = jax.tree.map(lambda a, b: np.sum(a * b), pulled, case.toward())
    assert_close(slope, sum(jax.tree.leaves(expected)), 10 * case.answer(F32))


def test_outputs_have_the_dtype_of_the_inputs_and_states_are_fixed_in_form(bench):
    case = bench.case
    low = case.make(Half())
    assert_keeps_form(case, bench.solver, F32, F32)
    if case.low_precision:
        assert_keeps_form(case, low, BF16, F32)
    with jax.enable_x64(True):  # the dtype follows the inputs, never the flag
        assert_keeps_form(case, bench.solver, F32, F32)
        assert_keeps_form(case, bench.solver, F64, F64)


def assert_keeps_form(case, solver, dtype, working):
    params, data = case.start(dtype), case.lane(0, working)
    out = jax.eval_shape(lambda p, d: case.run(solver, p, d), params, data)
    assert form_of(out.params) == form_of(params)
    state = jax.eval_shape(solver.init, params, data)
    assert isinstance(state, tuple) and state._fields[:2] == ("count", "error")
    assert (state.count.shape, state.count.dtype) == ((), jnp.int32)
    assert (state.error.shape, state.error.dtype) == ((), working)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))
    after = jax.eval_shape(solver.update, params, state, data)
    assert form_of(after) == form_of((params, state))
    dtypes = {x.dtype for x in jax.tree.leaves(state)}
    real = {d for d in dtypes if jnp.issubdtype(d, jnp.floating)}
    assert real <= {dtype, working}


def test_run_and_its_gradient_lower_for_every_platform(bench):
    case = bench.case

    def loss(step):
        solver, data = bench.at(step, None, F32)
        options = dict(derivative=case.derivative) if case.differentiable else {}
        return bench.loss(case.run(solver, case.start(F32), data, **options).params)

    traced = jax.jit(jax.grad(loss) if case.differentiable else loss).trace(
        np.float32(0)
    )
    for platform in ("cuda", "tpu"):
        traced.lower(lowering_platforms=(platform,))


def test_saved_run_goes_on_bit_for_bit(bench):
    data = bench.case.lane(0, F32)
    whole = bench.run(data, max_steps=2 * MANUAL, tol=0.0)
    half = bench.run(data, max_steps=MANUAL, tol=0.0)
    rest = bench.case.run(
        bench.solver, half.params, data, state=half.state, max_steps=MANUAL, tol=0.0
    )
    assert_identical(rest[:3], whole[:3])


def test_updates_by_hand_and_in_an_optax_chain_equal_the_run(bench):
    case, solver = bench.case, bench.solver
    start, data = case.start(F32), case.lane(0, F32)
    expected = bench.run(data, max_steps=MANUAL, tol=0.0)
    params, state = start, solver.init(start, data)
    for _ in range(MANUAL):
        params, state = solver.update(params, state, data)
        assert bool(case.usable(params))
    assert_close(params, expected.params, 1e-5)
    assert state.count == MANUAL
    if not case.links:
        return
    chain = optax.chain(core.to_optax(solver, data), optax.scale(1.0))
    params, state = start, chain.init(start)
    for _ in range(MANUAL):
        change, state = chain.update(params, state, params)
        params = optax.apply_updates(params, change)
    assert_close(params, expected.params, 1e-5)


def test_integer_params_are_refused(bench):
    params = jax.tree.map(lambda x: x.astype(jnp.int32), bench.case.start(F32))
    with pytest.raises(ValueError, match="float"):
        bench.case.run(bench.solver, params, bench.case.lane(0, F32))


def test_deleted_solver_is_freed(bench):
    if bench.case.calls == 0:  # made of numbers alone: kept in a small table
        assert bench.case.make(Form()) is bench.case.make(Form())
        return
    bench.first  # noqa: B018
    freed = bench.freed
    bench.__dict__.clear()
    gc.collect()
    assert freed() is None
