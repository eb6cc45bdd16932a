"""What every transformation promises, in optax's terms."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxsolve
from jaxsolve import core, transforms
from jaxsolve.core import Status
from tests.transforms.link import all_links

LINKS = all_links()
PARAMS = {"w": jnp.array([[1.0, -2.0]]), "b": jnp.array(0.5, jnp.float32)}
CENTER = jnp.array(3.0, jnp.float32)
KINDS = optax.GradientTransformation | optax.GradientTransformationExtraArgs


def fun(params, center=CENTER):
    leaves = [x.astype(center.dtype) for x in jax.tree.leaves(params)]
    squares = [jnp.sum((x - center) ** 2) for x in leaves]
    return sum(squares, jnp.zeros((), center.dtype))


def step(link, transform, params, state, center=CENTER, **more):
    needed = link.extras(lambda p: fun(p, center), params)
    grad = needed["grad"]
    updates, state = transform.update(grad, state, params, **{**needed, **more})
    return optax.apply_updates(params, updates), state


def cast(tree, dtype):
    return jax.tree.map(lambda x: x.astype(dtype), tree)


def form(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


def floats(tree):
    leaves = jax.tree.leaves(tree)
    return [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]


def assert_close(left, right, **options):
    close = lambda a, b: np.testing.assert_allclose(
        np.asarray(a, np.float64), np.asarray(b, np.float64), **options
    )
    plain = lambda tree: jax.tree.map(
        lambda x: (
            jax.random.key_data(x)
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            else x
        ),
        tree,
    )
    jax.tree.map(close, plain(left), plain(right))


@pytest.fixture(params=LINKS, ids=str)
def link(request):
    return request.param


def test_every_public_transformation_is_put_to_these_tests():
    public = set()
    for name in transforms.__all__:
        made = inspect.signature(getattr(transforms, name)).return_annotation
        if isinstance(made, type) and issubclass(made, KINDS):
            public.add(name)
    assert public == {link.factory for link in LINKS}
    assert len({str(link) for link in LINKS}) == len(LINKS)


def test_updates_lower_the_objective_and_ignore_what_they_do_not_know(link):
    transform = link.make()
    jax.eval_shape(transform.init, PARAMS)  # needs the shapes alone
    state = transform.init(PARAMS)
    plain, plain_state = step(link, transform, PARAMS, state)
    other, other_state = step(link, transform, PARAMS, state, unknown=jnp.ones(3))
    assert fun(plain) < fun(PARAMS) or not link.descends
    assert_close((plain, plain_state), (other, other_state), rtol=0)


def test_missing_extra_arguments_are_named(link):
    transform = link.make()
    state = transform.init(PARAMS)
    extra = link.extras(fun, PARAMS)
    for name in link.needs:
        less = {k: v for k, v in extra.items() if k != name}
        with pytest.raises((TypeError, ValueError), match=name):
            transform.update(extra["grad"], state, PARAMS, **less)
    transform.update(extra["grad"], state, PARAMS, **{k: extra[k] for k in link.needs})


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_updates_keep_dtypes_and_states_keep_their_form_and_precision(link, dtype):
    transform = link.make()
    params = cast(PARAMS, dtype)
    once = lambda p, s: step(link, transform, p, s)
    state = jax.eval_shape(transform.init, params)
    after = jax.eval_shape(once, params, state)
    assert form(after[0]) == form(params)
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert shapes(after[1]) == shapes(state)
    assert all(jnp.finfo(x.dtype).bits >= 32 for x in floats(state))


def test_steps_in_low_precision_are_those_of_wide_ones_rounded(link):
    transform = link.make()
    narrow, wide = cast(PARAMS, jnp.bfloat16), PARAMS
    narrow_state, wide_state = transform.init(narrow), transform.init(wide)
    for _ in range(2):
        narrow, narrow_state = step(link, transform, narrow, narrow_state)
        wide, wide_state = step(link, transform, wide, wide_state)
    assert_close(cast(narrow, jnp.float32), wide, rtol=0.05, atol=0.05)


def test_compiled_steps_equal_eager_ones_and_lanes_their_single_steps(link):
    transform = link.make()
    state = transform.init(PARAMS)
    once = lambda center: step(link, transform, PARAMS, state, center)
    centers = jnp.array([3.0, -1.0, 10.0])
    lanes = jax.jit(jax.vmap(once))(centers)
    for i, center in enumerate(centers):
        lane = jax.tree.map(lambda x: x[i], lanes)  # noqa: B023
        assert_close(lane, once(center), rtol=link.rtol, atol=1e-6)


def test_new_numbers_cost_no_trace(link):
    transform = link.make()
    once = jax.jit(lambda p, s, c: step(link, transform, p, s, c))
    params, state = PARAMS, transform.init(PARAMS)
    for center in (3.0, 2.0, 1.0):
        params, state = once(params, state, jnp.array(center, jnp.float32))
    assert once._cache_size() == 1


def test_gradients_that_are_not_finite_leave_no_trace_behind_apply_if_finite(link):
    transform = optax.apply_if_finite(link.make(), 5)
    params, state = step(link, transform, PARAMS, transform.init(PARAMS))
    bad, after = step(link, transform, params, state, jnp.array(jnp.nan))
    assert_close(bad, params, rtol=0)
    good, after = step(link, transform, bad, after)
    assert core.all_finite(good) and core.all_finite(floats(after))


def test_at_a_minimum_nothing_moves(link):
    transform = link.make()
    params = jax.tree.map(lambda x: 0 * x + CENTER, PARAMS)
    moved, state = step(link, transform, params, transform.init(params))
    assert core.all_finite(moved) and core.all_finite(floats(state))
    if link.still:
        assert_close(moved, params, rtol=0, atol=1e-6)


def test_they_compose_with_clipping_and_scaling(link):
    chained = optax.chain(optax.clip_by_global_norm(1e3), link.make(), optax.scale(0.5))
    half, _ = step(link, chained, PARAMS, chained.init(PARAMS))
    full, _ = step(link, link.make(), PARAMS, link.make().init(PARAMS))
    middle = jax.tree.map(lambda x, y: (x + y) / 2, PARAMS, full)
    assert_close(half, middle, rtol=1e-5)


def test_masked_leaves_pass_through(link):
    params = [PARAMS["w"], PARAMS["b"]]
    masked = optax.masked(link.make(), [True, False])
    shown = [params[0], optax.MaskedNode()]  # it is shown its own params only
    extra = link.extras(lambda p: fun([p[0], params[1]]), shown)
    grad = [extra["grad"][0], jnp.array(7.0)]
    updates, _ = masked.update(grad, masked.init(params), params, **extra)
    assert updates[1] == 7.0
    moved = [params[0] + updates[0], params[1]]
    assert fun(moved) < fun(params) or not link.descends


def test_parts_of_a_tree_may_have_their_own(link):
    labels = {"w": "ours", "b": "frozen"}
    parts = {"ours": link.make(), "frozen": optax.set_to_zero()}
    transform = optax.partition(parts, labels)
    shown = {"w": PARAMS["w"], "b": optax.MaskedNode()}
    extra = link.extras(lambda p: fun({**PARAMS, "w": p["w"]}), shown)
    grad = {"w": extra["grad"]["w"], "b": jnp.array(1.0)}
    updates, _ = transform.update(grad, transform.init(PARAMS), PARAMS, **extra)
    assert updates["b"] == 0 and core.all_finite(updates)
    alone, _ = link.make().update(
        extra["grad"], link.make().init(shown), shown, **extra
    )
    assert_close(updates["w"], alone["w"], rtol=1e-6)


def test_trees_may_be_empty_or_have_holes_or_one_entry(link):
    for params in ({}, {"a": None, "b": jnp.zeros(0)}, {"a": jnp.array([0.5])}):
        transform = link.make()
        moved, state = step(link, transform, params, transform.init(params))
        assert jax.tree.structure(moved) == jax.tree.structure(params)
        assert core.all_finite(moved) and core.all_finite(floats(state))


def test_accumulated_steps_are_steps_on_the_mean_gradient(link):
    with jax.numpy_dtype_promotion("standard"):  # optax itself promotes
        every = optax.MultiSteps(link.make(), 2)
        state = every.init(PARAMS)
        half, state = step(link, every, PARAMS, state)
        assert_close(half, PARAMS, rtol=0)
        full, _ = step(link, every, half, state)
    if link.accumulates:
        plain, _ = step(link, link.make(), PARAMS, link.make().init(PARAMS))
        assert_close(full, plain, rtol=1e-5)
    assert core.all_finite(full)


def test_hyperparameters_may_be_injected(link):
    if link.hyper is None:
        return
    name, number = link.hyper
    with jax.numpy_dtype_promotion("standard"):
        scope = {"make": link.make}
        exec(f"def factory({name}): return make({name}={name})", scope)
        inject = optax.inject_hyperparams(scope["factory"])
        transform = inject(lambda count: number / (count + 1))
        params, state = step(link, transform, PARAMS, transform.init(PARAMS))
        assert state.hyperparams[name] == number
        plain = link.make(**{name: number})
        expected, _ = step(link, plain, PARAMS, plain.init(PARAMS))
        assert_close(params, expected, rtol=1e-5)
        _, state = step(link, transform, params, state)
        assert state.hyperparams[name] == number / 2


def test_schedules_may_return_arrays(link):
    if link.rate is None:
        return
    given = lambda rate: link.make(**{link.rate: rate})
    scheduled = given(lambda count: jnp.where(count == 0, 0.125, 0.25))
    params, state = step(link, scheduled, PARAMS, scheduled.init(PARAMS))
    plain = given(0.125)
    expected, _ = step(link, plain, PARAMS, plain.init(PARAMS))
    assert_close(params, expected, rtol=1e-6)
    later, _ = step(link, scheduled, params, state)
    assert core.all_finite(later)


def test_states_are_as_large_as_they_say(link):
    params = {"w": jnp.zeros((500, 4)), "b": jnp.zeros(1000)}
    state = jax.eval_shape(link.make().init, params)
    size = sum(np.prod(x.shape) for x in floats(state))
    assert abs(size / 3000 - link.per_param) < 0.15


def test_sharded_states_equal_those_of_one_device(link):
    mesh = jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    params = {
        "w": jnp.linspace(-1.0, 2.0, 32).reshape(16, 2),
        "b": jnp.array(0.5, jnp.float32),
    }
    spread = NamedSharding(mesh, PartitionSpec("i"))
    copied = NamedSharding(mesh, PartitionSpec())
    sharded = jax.device_put(params, {"w": spread, "b": copied})
    transform = link.make()
    once = jax.jit(lambda p, s: step(link, transform, p, s))
    state = transform.init(params)
    shared = jax.jit(transform.init)(sharded)
    for _ in range(3):
        params, state = once(params, state)
        sharded, shared = once(sharded, shared)
    assert_close(sharded, params, rtol=1e-5, atol=1e-5)
    assert sharded["w"].sharding.is_equivalent_to(spread, 2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_they_make_solvers(link, dtype, request):
    if not link.converges:
        return
    if dtype == "float64":
        request.getfixturevalue("x64")
    solver = jaxsolve.from_optax(fun, link.make())
    out = core.run(solver, cast(PARAMS, dtype), CENTER.astype(dtype), tol=1e-2)
    assert out.status == Status.CONVERGED and out.params["w"].dtype == dtype
    assert_close(out.params, jax.tree.map(lambda x: 3 + 0 * x, PARAMS), atol=1e-2)
