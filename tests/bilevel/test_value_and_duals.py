"""Values and duals: the card's numbers, policies trained by them, honest refusal."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

from jaxsolve import bilevel, core
from jaxsolve.bilevel import Optimum
from jaxsolve.core import Status
from tests.bilevel import reservoirs

SIDES, PRICES = reservoirs.card()
REACHABLE = np.array([1.3, 0.9, 0.8, 0.2])
value_of = bilevel.value_and_duals(reservoirs.solve)


def differences(fun, sides, step=1e-5):
    """Central differences of a function in all right-hand sides."""
    vector, back = core.ravel(sides)
    moved = lambda e: fun(jax.tree.map(np.asarray, back(vector + e)))
    steps = step * np.eye(vector.size)
    return np.array([(moved(e) - moved(-e)) / (2 * step) for e in steps])


def test_value_and_duals_of_the_card(x64):
    value, slope = jax.value_and_grad(lambda s: value_of(s, PRICES).value)(SIDES)
    np.testing.assert_allclose(value, 172.72086995, atol=1e-6)
    np.testing.assert_allclose(slope.targets, [-20, -50, 40, 30], atol=1e-6)


def test_derivatives_in_all_right_hand_sides_are_those_of_an_exact_solver(x64):
    slope = jax.jit(jax.grad(lambda s: value_of(s, PRICES).value))(SIDES)
    exact = lambda sides: reservoirs.reference(sides, PRICES)[0]
    np.testing.assert_allclose(
        core.ravel(slope)[0], differences(exact, SIDES), atol=1e-5
    )


def test_strict_targets_have_pure_shadow_prices(x64):
    strict = functools.partial(reservoirs.solve, solver=reservoirs.STRICT_SOLVER)
    sides = SIDES._replace(targets=REACHABLE)
    best = jax.jit(bilevel.value_and_duals(strict))(sides, PRICES)
    assert best.status == Status.CONVERGED
    np.testing.assert_allclose(best.aux.storage, REACHABLE, atol=1e-7)
    hard = PRICES._replace(deficit=np.array(np.inf))
    value, marginals = reservoirs.reference(sides, hard)
    np.testing.assert_allclose(best.value, value, rtol=1e-7)
    np.testing.assert_allclose(best.duals.targets, marginals[-4:], atol=1e-5)


def test_linear_policy_trained_by_duals_reaches_the_direct_optimum(x64):
    free = PRICES._replace(deficit=np.array(0.0))
    direct, _ = reservoirs.reference(SIDES, free)

    def loss(policy, deficit):
        targets = policy["slope"] * SIDES.inflows + policy["offset"]
        prices = PRICES._replace(deficit=deficit)
        return value_of(SIDES._replace(targets=targets), prices).value

    transform = optax.adam(optax.exponential_decay(0.2, 200, 0.002))
    # In phases, as the card's; the price of water is at most 30.
    phases = optax.piecewise_constant_schedule(5.0, {20: 8.0})

    @jax.jit
    def train(policy):
        def step(carry, count):
            policy, state = carry
            grad = jax.grad(loss)(policy, phases(count))
            updates, state = transform.update(grad, state)
            return (optax.apply_updates(policy, updates), state), None

        carry = policy, transform.init(policy)
        return jax.lax.scan(step, carry, jnp.arange(200))[0][0]

    with jax.numpy_dtype_promotion("standard"):  # optax
        policy = train({"slope": jnp.zeros(4), "offset": jnp.full(4, 2.5)})
    assert loss(policy, 40.0) > direct - 1e-6
    np.testing.assert_allclose(loss(policy, 500.0), direct, rtol=1e-3)


def bent_stage(first, target, inflow, price, demand):
    """One stage with a quadratic cost: its cost, and where it leaves the storage."""
    one = lambda x: jnp.reshape(x, (1,))
    sides = reservoirs.Sides(one(target), one(inflow), first)
    prices = reservoirs.Prices(one(demand), one(price), jnp.array(50.0), jnp.array(4.0))
    start = reservoirs.Decisions(*[jnp.zeros(1)] * 4)
    data = sides, prices
    out = core.run(reservoirs.SOLVER, start, data, max_steps=20_000, tol=1e-10)
    storage = out.params.storage
    gap = jnp.sum(jnp.abs(storage - sides.targets))
    return reservoirs.cost(out.params, data) + 50.0 * gap, storage[0]


def test_stages_in_turn_are_differentiated_through_their_conditions(x64):
    def total(targets):
        def stage(storage, data):
            value, storage = bent_stage(storage, *data)
            return storage, value

        data = targets, jnp.asarray(SIDES.inflows), PRICES.costs, PRICES.demands
        return jnp.sum(jax.lax.scan(stage, jnp.asarray(2.0), data)[1])

    targets = jnp.asarray(np.array([1.3, 0.95, 0.8, 0.2]))
    check_grads(jax.jit(total), (targets,), 1, ["rev"], atol=1e-4, rtol=1e-4, eps=1e-5)


def test_batch_of_scenarios_is_one_vmap(x64):
    inflows = np.random.default_rng(1).uniform(0, 3, (5, 4))

    def loss(targets, inflows):
        sides = SIDES._replace(targets=targets, inflows=inflows)
        return value_of(sides, PRICES).value

    batch = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(SIDES.targets, inflows)
    for row, inflow in zip(batch, inflows, strict=True):
        exact = lambda t, inflow=inflow: reservoirs.reference(
            SIDES._replace(targets=t, inflows=inflow), PRICES
        )[0]
        np.testing.assert_allclose(row, differences(exact, SIDES.targets), atol=1e-4)


def square(rhs, data):
    """min x^2 / 2 where x is the sum of the right-hand sides; data may spoil it."""
    total = rhs["a"].sum() + rhs["b"]
    duals = {"a": jnp.full_like(rhs["a"], total), "b": total}
    good = jnp.where(data > 0, int(Status.CONVERGED), int(Status.MAX_STEPS))
    return Optimum(total**2 / 2, duals, good, total)


RHS = {"a": jnp.array([1.0, -1.0]), "b": jnp.array(2.0)}
quick = bilevel.value_and_duals(square)


def test_failed_solve_refuses_in_both_modes():
    value = lambda rhs, data: quick(rhs, data).value
    assert bool(jnp.isfinite(value(RHS, 0.0)))
    slope = jax.jit(jax.grad(value))(RHS, 0.0)
    assert not np.any(np.isfinite(core.ravel(slope)[0]))
    along = {"a": jnp.array([1.0, -1.0]), "b": jnp.array(0.0)}
    assert not np.isfinite(jax.jvp(lambda r: value(r, 0.0), (RHS,), (along,))[1])
    assert jax.jvp(lambda r: value(r, 1.0), (RHS,), (along,))[1] == 0


def test_failed_lane_can_be_masked_and_leaves_the_others_alone():
    def loss(rhs, data):
        best = quick(rhs, data)
        return jnp.where(best.status == Status.CONVERGED, best.value, 0.0)

    slopes = jax.vmap(jax.grad(loss), (None, 0))(RHS, jnp.array([1.0, 0.0, 1.0]))
    np.testing.assert_array_equal(slopes["b"], [2, 0, 2])
    tangents = lambda data: jax.jvp(lambda r: loss(r, data), (RHS,), (RHS,))[1]
    np.testing.assert_array_equal(jax.vmap(tangents)(jnp.array([1.0, 0.0])), [4, 0])


def test_starved_and_spoiled_programs_refuse(x64):
    starved = bilevel.value_and_duals(functools.partial(reservoirs.solve, max_steps=3))
    spoiled = SIDES._replace(inflows=np.full(4, np.nan))
    for fun, sides in ((starved, SIDES), (value_of, spoiled)):
        slope = jax.grad(lambda s, fun=fun: fun(s, PRICES).value)(sides)
        assert not np.any(np.isfinite(core.ravel(slope)[0]))


def test_value_or_duals_that_are_not_finite_refuse_without_a_status():
    bad = bilevel.value_and_duals(lambda rhs, data: (rhs.sum(), rhs / 0 * data))
    good = bilevel.value_and_duals(lambda rhs, data: (rhs.sum(), data * jnp.ones(2)))
    ones = jnp.ones(2)
    assert np.all(np.isnan(jax.grad(lambda r: bad(r, 1.0).value)(ones)))
    np.testing.assert_array_equal(jax.grad(lambda r: good(r, 3.0).value)(ones), 3)


def foreign(sides, prices):
    """HiGHS, as a NumPy function."""
    value, marginals = reservoirs.reference(sides, prices)
    water = marginals[:4]
    return value, reservoirs.Sides(marginals[-4:], water, water[0])


def in_a_callback(sides, prices):
    form = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), sides)
    shapes = (jax.ShapeDtypeStruct((), sides.targets.dtype), form)
    call = lambda *args: jax.tree.map(np.asarray, foreign(*args))
    return jax.pure_callback(call, shapes, sides, prices, vmap_method="sequential")


def test_foreign_optimiser_is_wrapped_eagerly_and_in_a_callback(x64):
    for solve, change in ((foreign, lambda f: f), (in_a_callback, jax.jit)):
        fun = bilevel.value_and_duals(solve)
        slope = change(jax.grad(lambda s, fun=fun: fun(s, PRICES).value))(SIDES)
        np.testing.assert_allclose(slope.targets, [-20, -50, 40, 30], atol=1e-9)


def test_gradient_of_a_policy_is_its_jacobian_times_the_duals(x64):
    def targets(policy):
        return jnp.tanh(policy * SIDES.inflows) + policy**2 / 5

    policy = jnp.asarray(np.array([0.5, 0.8, 0.3, 0.6]))
    place = lambda t: SIDES._replace(targets=t)
    loss = lambda policy: value_of(place(targets(policy)), PRICES).value
    duals = value_of(place(targets(policy)), PRICES).duals.targets
    (expected,) = jax.vjp(targets, policy)[1](duals)
    np.testing.assert_allclose(jax.grad(loss)(policy), expected, rtol=1e-12)


@pytest.mark.parametrize("transform", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_derivatives_that_duals_do_not_give_are_refused(transform):
    vector = lambda b: quick({"a": RHS["a"], "b": b}, 1.0).value
    with pytest.raises(ValueError, match="first derivatives"):
        transform(jax.grad(jax.grad(vector)))(2.0)
    with pytest.raises(ValueError, match="right-hand sides only"):
        transform(jax.grad(lambda data: quick(RHS, data).value))(1.0)
    closing = lambda c: bilevel.value_and_duals(lambda rhs, _: (c * rhs, c))(3.0)
    with pytest.raises(ValueError, match="right-hand sides only"):
        transform(jax.grad(lambda c: closing(c).value))(1.0)
    assert transform(jax.grad(lambda b: vector(b) + b**2))(2.0) == 6


def test_dtypes_are_those_of_the_problem(x64):
    for dtype in (jnp.float32, jnp.float64):
        rhs = jax.tree.map(lambda x: x.astype(dtype), RHS)
        value, slope = jax.value_and_grad(lambda r: quick(r, 1).value)(rhs)
        assert value.dtype == dtype and slope["a"].dtype == dtype
    mixed = {"a": RHS["a"].astype(jnp.bfloat16), "b": RHS["b"].astype(jnp.float32)}

    def wide(rhs, data):
        return square(jax.tree.map(lambda x: x.astype(jnp.float32), rhs), data)

    slope = jax.grad(lambda r: bilevel.value_and_duals(wide)(r, 1).value)(mixed)
    assert slope["a"].dtype == jnp.bfloat16


def test_lowers_for_every_platform():
    slope = jax.jit(jax.vmap(jax.grad(lambda b: quick(RHS | {"b": b}, 1.0).value)))
    for platform in ("cuda", "tpu"):
        slope.trace(jnp.ones(3)).lower(lowering_platforms=(platform,))


def test_wrong_forms_are_refused():
    ones = jnp.ones(2)
    for solve, rhs, message in (
        (lambda rhs, data: (rhs.sum(), jnp.ones(3)), ones, "form of the right-hand"),
        (lambda rhs, data: (rhs, rhs), ones, "one real scalar"),
        (lambda rhs, data: (rhs.sum(), rhs), jnp.arange(2), "float"),
    ):
        with pytest.raises(ValueError, match=message):
            bilevel.value_and_duals(solve)(rhs)
    with pytest.raises(ValueError, match="function"):
        bilevel.value_and_duals(3.0)
