"""The small parts: trees, lanes, schedules, memory of factories."""

import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import core

MIXED = {
    "half": jnp.asarray([[1.5, 2.0]], jnp.bfloat16),
    "full": (jnp.asarray(3.0), jnp.zeros((0,)), jnp.asarray([4.0, 5.0])),
}


def test_ravel_keeps_order_dtypes_and_shapes():
    vector, unravel = core.ravel(MIXED)
    assert vector.dtype == jnp.float32
    np.testing.assert_array_equal(vector, [3, 4, 5, 1.5, 2])
    back = unravel(vector)
    assert jax.tree.structure(back) == jax.tree.structure(MIXED)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(MIXED), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_array_equal(a, b)


def test_ravel_takes_the_widest_dtype(x64):
    tree = {"a": jnp.ones(1, jnp.float32), "b": jnp.ones(1, jnp.float64)}
    assert core.ravel(tree)[0].dtype == jnp.float64
    assert core.ravel({"a": tree["a"]})[0].dtype == jnp.float32
    assert core.real_dtype({"n": jnp.ones(1, jnp.int64)}) == np.float32
    assert core.real_scalar(1, {"a": tree["a"]}).dtype == jnp.float32
    assert core.sup_norm(tree).dtype == jnp.float64


def test_ravel_fine_keeps_small_steps_until_params_are_changed_by_others():
    params = jnp.ones(2, jnp.bfloat16)
    fine = jnp.array([1.0001, 0.9999])
    np.testing.assert_array_equal(core.ravel_fine(params, fine)[0], fine)
    moved = jnp.asarray([2.0, 1.0], jnp.bfloat16)
    np.testing.assert_array_equal(
        core.ravel_fine(moved, fine)[0], jnp.array([2.0, 0.9999])
    )
    exact = jnp.ones(2)  # 32 bits are their own master copy
    np.testing.assert_array_equal(core.ravel_fine(exact, fine)[0], exact)


def test_arithmetic_keeps_the_dtype_of_each_leaf(x64):
    for scalar in (0.5, jnp.float32(0.5), jnp.float64(0.5)):
        out = core.axpy(scalar, MIXED, MIXED)
        for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(MIXED), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, jnp.asarray(1.5, b.dtype) * b)
    picked = core.where(jnp.bool_(True), MIXED, core.axpy(1.0, MIXED, MIXED))
    jax.tree.map(np.testing.assert_array_equal, picked, MIXED)


def test_norms_and_finiteness_of_odd_trees():
    assert core.sup_norm(MIXED) == 5
    assert core.sup_norm({"a": jnp.zeros((0,))}) == 0
    assert bool(core.all_finite(MIXED)) and bool(core.all_finite({}))
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        assert not bool(core.all_finite({**MIXED, "bad": jnp.array([0, bad])}))
        assert not bool(jnp.isfinite(core.sup_norm({"bad": jnp.array([0, bad])})))


def test_schedule_is_a_number_or_a_function():
    assert core.as_schedule(0.1)(5) == 0.1
    assert core.as_schedule(lambda count: count + 1)(5) == 6


def test_any_lane_is_reduced_over_all_vmaps_and_stays_a_branch():
    def heavy(x):
        return jax.lax.cond(core.any_lane(x > 0), jnp.sin, jnp.cos, x)

    lanes = jnp.array([-1.0, 2.0])
    np.testing.assert_allclose(jax.vmap(heavy)(lanes), jnp.sin(lanes), rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(heavy)(-jnp.abs(lanes)), jnp.cos(lanes), 1e-6)
    nested = jnp.array([[-1.0, -2.0], [-1.0, 1.0]])
    out = jax.vmap(jax.vmap(heavy))(nested)
    np.testing.assert_allclose(out, jnp.sin(nested), rtol=1e-6)
    assert "cond[" in str(jax.make_jaxpr(jax.vmap(heavy))(lanes))
    assert heavy(jnp.float32(-1)) == jnp.cos(-1.0)


def test_any_lane_survives_loops_and_jit():
    @jax.jit
    @jax.vmap
    def count(limit):
        def body(carry):
            steps, own = carry
            active = own < limit
            busy = core.any_lane(active).astype(jnp.int32)
            return steps + busy, own + active.astype(jnp.int32)

        start = jnp.int32(0), jnp.int32(0)
        return jax.lax.fori_loop(0, 10, lambda _, c: body(c), start)

    steps, own = count(jnp.array([1, 4, 7]))
    assert list(own) == [1, 4, 7] and list(steps) == [7, 7, 7]


# ------------------------------------------------------------------- memoised factories


@core.memoise
def factory(fun, number=1, *, extra=None):
    return [fun, number, extra]


def test_memoise_knows_calls_by_their_arguments_however_written():
    fun = lambda x: x
    assert factory(fun) is factory(fun, 1) is factory(fun=fun, number=1)
    assert factory(fun, 1) is not factory(fun, 1.0)
    assert factory(fun, 1) is not factory(fun, True)
    assert factory(fun, (1, 2)) is not factory(fun, (1.0, 2))
    assert factory(fun, extra=len) is not factory(fun)
    assert factory(None) is factory(None)
    assert factory.__name__ == "factory"


def test_memoise_does_not_keep_what_cannot_be_hashed():
    fun = lambda x: x
    for value in (jnp.ones(2), np.ones(2), [1], {"a": 1}, (1, [2]), jax.random.key(0)):
        assert factory(fun, value) is not factory(fun, value)


def test_memoise_frees_what_is_built_around_a_function():
    class Owner:
        def method(self, x):
            return x

    def make():
        owner = Owner()
        fun = functools.partial(owner.method)
        result = core.Solver(fun, owner.method)
        held = core.memoise(lambda f: result)
        assert held(owner.method) is held(owner.method)
        return weakref.ref(owner)

    ref = make()
    gc.collect()
    assert ref() is None


def test_memoise_keeps_no_more_than_a_bounded_number():
    fun = lambda x: x
    first = factory(fun, -1)
    for number in range(100):
        factory(fun, number)
    assert factory(fun, -1) is not first


@pytest.mark.parametrize("where", ["closure", "default", "partial", "nested", "field"])
def test_memoise_sees_tracers_wherever_a_function_holds_them(where):
    seen = []

    @jax.jit
    def trace(c):
        class Model:
            def __call__(self, x):
                return x + self.c

        model = Model()
        model.c = c
        inner = lambda x: x + c
        fun = {
            "closure": lambda x: x + c,
            "default": lambda x, c=c: x + c,
            "partial": functools.partial(jnp.add, c),
            "nested": lambda x: inner(x),
            "field": model,
        }[where]
        seen.append(factory(fun) is factory(fun))
        return c

    with jax.checking_leaks():
        trace(1.0)
    assert seen == [False]
