"""Runs: when they stop, what they keep, what they show, what they cost."""

import contextlib
import gc
import re
import weakref

import equinox as eqx
import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsolve
from jaxsolve import core, smooth
from jaxsolve.core import Solution, Status
from tests.core.solvers import State, iteration, toward

HALVING = iteration(toward)
ONE, ZERO = jnp.ones(()), jnp.zeros(())


def square(x, data):
    return jnp.sum((x - data) ** 2)


@contextlib.contextmanager
def counted():
    """Counts traces and compilations while it is open."""
    events = []
    listen = lambda name, seconds, **_: events.append(name.split("/")[-1])
    jax.monitoring.register_event_duration_secs_listener(listen)
    found = {}
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)
    found["traced"] = events.count("jaxpr_trace_duration")
    found["compiled"] = events.count("backend_compile_duration")


# ------------------------------------------------------------------------- stopping


def test_stops_at_the_first_error_that_is_at_most_tol():
    # Errors are 1/2, 1/4, ...
    for tol, count in ((0.5, 1), (0.26, 2), (0.25, 2), (0.2499, 3), (1e-3, 10)):
        out = core.run(HALVING, ZERO, ONE, tol=tol)
        assert (out.state.count, bool(out.converged)) == (count, True)
        assert out.params == 1 - 0.5**count and out.state.error == 0.5**count


def test_default_tol_is_the_square_root_of_epsilon(x64):
    for dtype, count in ((jnp.float32, 12), (jnp.float64, 26), (jnp.bfloat16, 4)):
        solver = smooth.gradient_descent(square, 0.25)
        out = core.run(solver, jnp.zeros((), dtype), jnp.ones((), dtype))
        assert bool(out.converged)
        assert float(out.state.error) <= np.sqrt(float(jnp.finfo(dtype).eps))
        assert abs(out.state.count - count) <= 2


@pytest.mark.parametrize("max_steps", [0, 1, 7])
def test_max_steps_counts_the_updates_of_this_call(max_steps):
    out = core.run(HALVING, ZERO, ONE, max_steps=max_steps, tol=0.0)
    assert out.status == Status.MAX_STEPS and out.state.count == max_steps
    assert out.params == 1 - 0.5**max_steps
    more = core.run(
        HALVING, out.params, ONE, state=out.state, max_steps=max_steps, tol=0.0
    )
    assert more.state.count == 2 * max_steps
    assert more.status == Status.MAX_STEPS


def test_state_that_has_converged_is_looked_at_once_more():
    out = core.run(HALVING, ZERO, ONE, tol=0.1)
    again = core.run(HALVING, out.params, ONE, state=out.state, tol=0.1)
    assert again.state.count == out.state.count + 1 and bool(again.converged)
    elsewhere = core.run(HALVING, out.params, 100 * ONE, state=out.state, max_steps=1)
    assert not elsewhere.converged  # an old error proves nothing on new data


def test_max_steps_and_tol_may_be_traced():
    solve = jax.jit(lambda n, tol: core.run(HALVING, ZERO, ONE, max_steps=n, tol=tol))
    assert solve(5, 0.0).state.count == 5
    assert solve(50, 0.2).state.count == 3
    lanes = jax.vmap(solve)(jnp.array([2, 50, 50, 0]), jnp.array([0, 0.1, 1.0, 0.1]))
    assert list(lanes.state.count) == [2, 4, 1, 0]
    expected = [Status.MAX_STEPS, Status.CONVERGED, Status.CONVERGED, Status.MAX_STEPS]
    assert list(lanes.status) == expected


@pytest.mark.parametrize("every", [2, 3, 7, 100])
def test_check_every_looks_rarely_but_keeps_max_steps_exactly(every):
    free = core.run(HALVING, ZERO, ONE, tol=0.2, check_every=every, max_steps=1000)
    assert bool(free.converged) and free.state.count == -(-3 // every) * every
    for limit in (1, 5, 6):
        out = core.run(HALVING, ZERO, ONE, tol=0.0, check_every=every, max_steps=limit)
        assert out.state.count == limit and out.status == Status.MAX_STEPS


def test_check_every_keeps_max_steps_exactly_in_every_lane_of_a_vmap():
    def solve(limit, tol):
        return core.run(HALVING, ZERO, ONE, max_steps=limit, tol=tol, check_every=4)

    limits = jnp.array([0, 1, 3, 4, 5, 9, 50], jnp.int32)
    lanes = jax.jit(jax.vmap(solve))(limits, jnp.array([0.0] * 6 + [0.1]))
    assert list(lanes.state.count[:6]) == [0, 1, 3, 4, 5, 9]
    assert bool(lanes.converged[6]) and 4 <= lanes.state.count[6] <= 8


def test_stop_adds_a_criterion_of_the_users():
    stop = lambda params, state: params > 0.9
    out = core.run(HALVING, ZERO, ONE, stop=stop, tol=0.0)
    assert bool(out.converged) and out.state.count == 4
    lanes = jax.vmap(lambda d: core.run(HALVING, ZERO, d, stop=stop, tol=0.0))(
        jnp.array([1.0, 2.0])
    )
    assert list(lanes.state.count) == [4, 1]


def test_error_that_is_not_a_number_ends_the_run_as_diverged():
    out = core.run(HALVING, ZERO, jnp.array(jnp.nan))
    assert out.status == Status.DIVERGED and out.state.count == 1


def test_own_failure_of_a_state_beats_a_small_error_and_a_small_error_beats_a_stall():
    for own, expected in (
        (Status.BREAKDOWN, Status.BREAKDOWN),
        (Status.PRIMAL_INFEASIBLE, Status.PRIMAL_INFEASIBLE),
        (Status.STALLED, Status.CONVERGED),
        (Status.RUNNING, Status.CONVERGED),
    ):
        state = core.OptaxState(jnp.int32(0), ZERO, jnp.int32(own), ZERO, ())
        held = core.Solver(lambda p, d, s=state: s, lambda p, s, d: (p, s))
        out = core.run(held, ZERO, ONE, tol=1e-3, max_steps=3)
        assert out.status == expected


# ---------------------------------------------------------------- history, progress


def test_record_keeps_every_update_and_nan_where_none_was_taken():
    keep = lambda params, state: {"x": params, "count": state.count}
    out = core.run(HALVING, ZERO, ONE, tol=0.2, max_steps=6, record=keep)
    x = [0.5, 0.75, 0.875, np.nan, np.nan, np.nan]
    np.testing.assert_array_equal(out.history["x"], x)
    np.testing.assert_array_equal(out.history["count"], [1, 2, 3, 0, 0, 0])


def test_record_under_vmap_and_check_every_is_that_of_single_runs():
    def solve(data, every=1):
        keep = lambda params, state: state.error
        return core.run(
            HALVING, ZERO, data, tol=0.3, max_steps=6, record=keep, check_every=every
        )

    lanes = jax.vmap(solve)(jnp.array([1.0, 4.0]))
    np.testing.assert_array_equal(lanes.history[0], [0.5, 0.25] + [np.nan] * 4)
    np.testing.assert_array_equal(lanes.history[1], [2, 1, 0.5, 0.25] + [np.nan] * 2)
    rare = solve(ONE, every=4).history
    np.testing.assert_array_equal(rare, [0.5, 0.25, 0.125, 0.0625, np.nan, np.nan])


def test_progress_is_shown_on_standard_error_and_ends_its_line(capfd):
    out = core.run(HALVING, ZERO, ONE, tol=1e-3, max_steps=200, progress=True)
    jax.block_until_ready(out)
    jax.effects_barrier()
    shown = capfd.readouterr()
    assert shown.out == ""
    assert re.search(r"10/200 updates, error 9.77e-04 \n$", shown.err), shown.err
    core.run(HALVING, ZERO, ONE, tol=1e-3, max_steps=200)
    assert capfd.readouterr().err == ""


def test_plot_draws_one_line_for_each_lane_and_each_key():
    keep = lambda params, state: {"error": state.error, "x": params}
    solve = lambda d: core.run(HALVING, ZERO, d, max_steps=5, tol=0.2, record=keep)
    history = jax.vmap(solve, out_axes=Solution(0, 0, 0, 1))(jnp.array([1.0, 2.0]))
    axes = core.plot_convergence(history.history, color="k")
    assert len(axes.lines) == 4 and axes.get_yscale() == "log"
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["error", "x"]
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), [1, 2, 3, 4, 5])
    assert core.plot_convergence(history.history["x"], ax=axes) is axes
    with pytest.raises(ValueError, match="record"):
        core.plot_convergence(None)


def test_solution_says_how_it_ended():
    text = repr(core.run(HALVING, ZERO, ONE, tol=0.2))
    assert text == "Solution(converged after 3 updates, error 1.25e-01, params=0.875)"
    lanes = jax.vmap(lambda d: core.run(HALVING, ZERO, d, tol=0.1, max_steps=5))
    text = repr(lanes(jnp.array([1.0, 2.0, jnp.nan, 1e3])))
    assert "4 lanes: 2 converged, 1 max_steps, 1 diverged; 1 to 5 updates" in text
    jax.jit(lambda d: repr(core.run(HALVING, ZERO, d)) and d)(ONE)
    big = core.run(HALVING, jnp.zeros(100), jnp.ones(100))
    assert "float32[100]" in repr(big)
    assert "converged" in repr(
        Solution({"a": jnp.ones(2)}, State(3, 0.0), jnp.int32(1))
    )


def test_every_status_has_a_message():
    for status in Status:
        assert status.message.endswith(".") and len(status.message) > 10
    assert core.as_status(Status.STALLED).dtype == jnp.int32


# ------------------------------------------------------------- traces, compilations


def test_second_eager_run_neither_traces_nor_compiles_though_numbers_change():
    solver = smooth.lbfgs(square)
    core.run(solver, jnp.zeros(2), jnp.ones(2))
    start, data = np.ones(2, np.float32), np.full(2, 3, np.float32)
    with counted() as found:
        core.run(solver, start, data, tol=1e-5, max_steps=17)
        core.run(smooth.lbfgs(square), start, data, tol=0.0)
    assert found == {"traced": 0, "compiled": 0}


def test_second_eager_gradient_and_vmap_neither_trace_nor_compile():
    start = np.zeros(2, np.float32)
    solver = smooth.gradient_descent(square, 0.25)
    solve = lambda data: core.run(solver, start, data).params

    def both(scale):
        _, pull = jax.vjp(solve, np.full(2, scale, np.float32))
        pull(np.ones(2, np.float32))
        jax.vmap(solve)(np.full((3, 2), scale, np.float32))

    calls = 0

    def counting(x, data):
        nonlocal calls
        calls += 1
        return square(x, data)

    solver = smooth.gradient_descent(counting, 0.25)
    both(1.0)
    before = calls
    with counted() as found:
        both(2.0)
    assert calls == before
    assert found["compiled"] == 0


def test_eager_gradient_is_a_handful_of_programs_not_one_for_each_operation():
    start = np.zeros(17, np.float32)  # a size that no other test has compiled for
    solver = smooth.gradient_descent(lambda x, d: square(x, jnp.sin(d) * d), 0.25)
    solve = lambda data: core.run(solver, start, data).params
    with counted() as found:
        _, pull = jax.vjp(solve, np.full(17, 1, np.float32))
        pull(np.ones(17, np.float32))
    assert found["compiled"] <= 6


def test_equal_factory_calls_give_one_solver_and_different_ones_do_not():
    assert smooth.lbfgs(square) is smooth.lbfgs(square, 10)
    assert smooth.lbfgs(square) is not smooth.lbfgs(square, 9)
    assert smooth.lbfgs(square) is not smooth.lbfgs(lambda x, d: square(x, d))
    one = smooth.gradient_descent(square, 1)
    assert one is not smooth.gradient_descent(square, 1.0)
    array = jnp.array(0.1)  # unhashable: never kept
    assert smooth.gradient_descent(square, array) is not smooth.gradient_descent(
        square, array
    )


def test_function_that_closes_over_a_tracer_is_not_kept():
    @jax.jit
    def solve(c):
        fun = lambda x, data: jnp.sum((x - c) ** 2)
        assert smooth.lbfgs(fun) is not smooth.lbfgs(fun)
        return core.run(smooth.lbfgs(fun), jnp.zeros(2)).params

    with jax.checking_leaks():
        np.testing.assert_allclose(solve(jnp.ones(2)), 1, atol=1e-4)


def test_deleted_function_takes_its_solver_and_compiled_loops_along():
    def make():
        fun = lambda x, data: jnp.sum((x - data) ** 2)
        solver = smooth.gradient_descent(fun, 0.25)
        solve = lambda data: core.run(solver, jnp.zeros(2), data).params
        solve(jnp.ones(2))
        jax.jit(jax.vmap(jax.grad(lambda d: solve(d).sum())))(jnp.ones((2, 2)))
        jaxsolve.solve_batch(solver, jnp.zeros((2, 2)), jnp.ones((2, 2)))
        list(core.iterate(solver, jnp.zeros(2), jnp.ones(2), max_steps=1))
        return weakref.ref(solver.update), weakref.ref(fun)

    refs = make()
    gc.collect()
    assert [ref() for ref in refs] == [None, None]


def test_deleted_wrapped_solver_is_freed():
    def make():
        inner = iteration(lambda x, data: toward(x, jnp.mean(data)))
        outer = core.workers(inner, "workers")
        chained = core.minibatch(inner, 2, key=jax.random.key(0))
        return [weakref.ref(s.update) for s in (inner, outer, chained)]

    refs = make()
    gc.collect()
    assert [ref() for ref in refs] == [None, None, None]


# -------------------------------------------------------------------- iterate, scan


def test_iterate_yields_the_steps_of_the_run():
    steps = list(core.iterate(HALVING, 0.0, 1.0, tol=0.2))
    assert [float(x) for x, _ in steps] == [0.5, 0.75, 0.875]
    assert [int(s.count) for _, s in steps] == [1, 2, 3]
    params, state = steps[0]
    rest = list(core.iterate(HALVING, params, 1.0, tol=0.2, state=state))
    assert [float(x) for x, _ in rest] == [0.75, 0.875]
    assert len(list(core.iterate(HALVING, 0.0, 1.0, tol=0.0, max_steps=4))) == 4


def test_scan_takes_one_update_a_batch_and_is_differentiable():
    batches = jnp.array([1.0, 2.0, 4.0])
    out = core.scan(HALVING, 0.0, batches)
    np.testing.assert_allclose(out.params, 1 / 8 + 2 / 4 + 4 / 2)
    assert out.status == Status.MAX_STEPS and out.state.count == 3
    np.testing.assert_allclose(out.history, [0.5, 0.75, 1.375])
    slope = jax.grad(lambda b: core.scan(HALVING, 0.0, b).params)(batches)
    np.testing.assert_allclose(slope, [1 / 8, 1 / 4, 1 / 2])
    more = core.scan(HALVING, out.params, batches, state=out.state)
    assert more.state.count == 6
    kept = core.scan(HALVING, 0.0, batches, record=lambda p, s: (p, s.count)).history
    np.testing.assert_array_equal(kept[1], [1, 2, 3])


@pytest.mark.parametrize(
    "batches",
    [None, (), jnp.zeros((0, 2)), jnp.ones(()), (jnp.ones(3), jnp.ones(2))],
)
def test_scan_refuses_batches_without_one_leading_axis(batches):
    with pytest.raises(ValueError, match="leading ax"):
        core.scan(HALVING, 0.0, batches)


# ------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("tol", [-1e-3, float("nan"), np.ones(2)])
def test_tolerance_that_is_not_one_non_negative_number_is_refused(tol):
    with pytest.raises(ValueError, match="tol must be one non-negative"):
        core.run(HALVING, ZERO, ONE, tol=tol)


@pytest.mark.parametrize("max_steps", [-1, 2.5, np.array([1, 2])])
def test_max_steps_that_is_no_count_is_refused(max_steps):
    with pytest.raises(ValueError, match="max_steps must be an integer"):
        core.run(HALVING, ZERO, ONE, max_steps=max_steps)


@pytest.mark.parametrize("every", [0, -3])
def test_check_every_below_one_is_refused(every):
    with pytest.raises(ValueError, match="check_every must be an integer"):
        core.run(HALVING, ZERO, ONE, check_every=every)


def test_record_and_unrolled_need_static_max_steps():
    record = lambda params, state: state.error
    for options in ({"record": record}, {"derivative": core.unrolled()}):
        run = lambda n, o=options: core.run(HALVING, ZERO, ONE, max_steps=n, **o)
        with pytest.raises(ValueError, match="Python integer"):
            jax.jit(run)(3)


@pytest.mark.parametrize(
    "params, words",
    [
        (jnp.arange(3), "real float arrays, got a leaf of dtype int32"),
        (3, "int32"),
        (True, "bool"),
        (jnp.ones(2, complex), "real and imaginary parts"),
        ({}, "no leaves"),
        (None, "no leaves"),
        ({"a": "x"}, "leaf of type str"),
        (eqx.nn.Linear(2, 2, key=jax.random.key(0)), None),
        (eqx.nn.MLP(1, 1, 2, 1, key=jax.random.key(0)), "eqx.partition"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_params_that_cannot_be_optimised_are_refused(params, words):
    solver = smooth.gradient_descent(lambda x, d: jnp.zeros(()), 0.1)
    if words is None:
        core.run(solver, params)  # all leaves are arrays
        return
    with pytest.raises(ValueError, match=words):
        core.run(solver, params)


@pytest.mark.parametrize(
    "thing, words",
    [
        (optax.sgd(0.1), "from_optax"),
        (square, "minimize"),
        ((1, 2, 3, 4), "factory"),
        (None, "got NoneType"),
    ],
    ids=["optax", "function", "tuple", "none"],
)
def test_what_is_no_solver_is_refused_with_a_hint(thing, words):
    with pytest.raises(ValueError, match=words):
        core.run(thing, ZERO, ONE)
    with pytest.raises(ValueError, match="jaxsolve.Solver is wanted"):
        core.to_optax(thing)
    with pytest.raises(ValueError, match="jaxsolve.Solver is wanted"):
        next(core.iterate(thing, ZERO, ONE))
    with pytest.raises(ValueError, match="jaxsolve.Solver is wanted"):
        core.scan(thing, ZERO, jnp.ones(3))
    with pytest.raises(ValueError, match="jaxsolve.Solver is wanted"):
        core.solve_batch(thing, jnp.zeros(3), jnp.ones(3))


def test_update_that_changes_the_form_of_params_or_state_is_refused():
    for function, words in (
        (lambda x, d: (x, x), "tree structure"),
        (lambda x, d: jnp.stack([x, x]), "shapes and dtypes"),
        (lambda x, d: x.astype(jnp.bfloat16), "shapes and dtypes"),
    ):
        safe = lambda x, d, f=function: f(x, d)
        solver = iteration(safe)
        bad = solver._replace(
            update=lambda p, s, d, f=safe: (f(p, d), s._replace(count=s.count + 1))
        )
        with pytest.raises(ValueError, match=words):
            core.run(bad, ZERO, ONE)
    grows = HALVING._replace(update=lambda p, s, d: (p, s._replace(error=jnp.ones(2))))
    with pytest.raises(ValueError, match="the state that update returns"):
        core.run(grows, ZERO, ONE)


@pytest.mark.parametrize("state", [(), {"count": 0}, State(jnp.zeros(2), ZERO), None])
def test_state_without_count_and_error_is_refused(state):
    bad = HALVING._replace(init=lambda params, data: state)
    with pytest.raises(ValueError, match="scalar field `(count|error)`"):
        core.run(bad, ZERO, ONE)


def test_weakly_typed_and_numpy_starts_are_taken():
    for start in (0.0, np.float32(0), np.zeros(()), ZERO):
        out = core.run(HALVING, start, 1.0)
        assert out.params.dtype == jnp.float32 and not out.params.weak_type


def test_the_euclidean_stop_rule_has_the_meaning_of_jaxopts_tolerance():
    fun = lambda x, data: jnp.sum((x - data) ** 4)
    stop = core.l2_below(1e-2)
    out = core.run(smooth.lbfgs(fun), jnp.zeros(3), 2.0, tol=0.0, stop=stop)
    tight = core.run(smooth.lbfgs(fun), jnp.zeros(3), 2.0)
    assert out.converged and 0 < jnp.linalg.norm(out.jac) <= 1e-2
    assert out.count < tight.count
    stepped = smooth.gradient_descent(lambda x, data: jnp.sum((x - data) ** 2), 0.1)
    out = core.run(stepped, jnp.zeros(4), 2.0, tol=0.0, stop=stop)
    assert 2 * out.error <= 1e-2
    with pytest.raises(ValueError, match="positive"):
        core.l2_below(0.0)
