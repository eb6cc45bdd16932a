"""What every transformation promises, in optax's terms."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxsolve
from jaxsolve import core, transforms
from jaxsolve.core import Status

MAKERS = {
    "sps": lambda **o: transforms.sps(**o),
    "sps-momentum": lambda **o: transforms.sps(momentum=0.5, growth=1.5, **o),
    "scale_by_sps": lambda **o: optax.chain(
        transforms.scale_by_sps(**o), optax.scale(-1.0)
    ),
    "armijo_sgd": lambda **o: transforms.armijo_sgd(**o),
    "armijo_sgd-goldstein": lambda **o: transforms.armijo_sgd(
        goldstein=True, momentum=0.5, **o
    ),
    "scale_by_armijo": lambda **o: optax.chain(
        optax.scale(-1.0), transforms.scale_by_armijo(**o)
    ),
}
PARAMS = {"w": jnp.array([[1.0, -2.0]]), "b": jnp.array(0.5)}
CENTER = jnp.array(3.0)


def fun(params, center=CENTER):
    leaves = [x.astype(center.dtype) for x in jax.tree.leaves(params)]
    return sum(jnp.sum((x - center) ** 2) for x in leaves)


def extra(params, center=CENTER):
    value, grad = jax.value_and_grad(fun)(params, center)
    value_fn = lambda params: fun(params, center)
    return grad, dict(value=value, grad=grad, value_fn=value_fn)


def step(transform, params, state, center=CENTER, **more):
    grad, needed = extra(params, center)
    updates, state = transform.update(grad, state, params, **needed, **more)
    return optax.apply_updates(params, updates), state


def form(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


def assert_close(left, right, **options):
    close = lambda a, b: np.testing.assert_allclose(
        np.asarray(a, np.float64), np.asarray(b, np.float64), **options
    )
    jax.tree.map(close, left, right)


@pytest.fixture(params=MAKERS, ids=MAKERS)
def make(request):
    return MAKERS[request.param]


def test_every_public_transformation_is_put_to_these_tests():
    public = {
        n for n in transforms.__all__ if inspect.isfunction(getattr(transforms, n))
    }
    assert public == {name.split("-")[0] for name in MAKERS}


def test_updates_lower_the_objective_and_ignore_what_they_do_not_know(make):
    transform = make()
    state = jax.eval_shape(transform.init, PARAMS)  # needs the shapes alone
    state = transform.init(PARAMS)
    plain, plain_state = step(transform, PARAMS, state)
    other, other_state = step(transform, PARAMS, state, unknown=jnp.ones(3))
    assert fun(plain) < fun(PARAMS)
    assert_close((plain, plain_state), (other, other_state), rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_updates_keep_dtypes_and_states_keep_their_form(make, dtype):
    transform = make()
    params = jax.tree.map(lambda x: x.astype(dtype), PARAMS)
    state = jax.eval_shape(transform.init, params)
    after = jax.eval_shape(lambda p, s: step(transform, p, s), params, state)
    assert form(after[0]) == form(params)
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert shapes(after[1]) == shapes(state)


def test_compiled_steps_equal_eager_ones_and_lanes_their_single_steps(make):
    transform = make()
    state = transform.init(PARAMS)
    once = lambda center: step(transform, PARAMS, state, center)
    centers = jnp.array([3.0, -1.0, 10.0])
    lanes = jax.jit(jax.vmap(once))(centers)
    for i, center in enumerate(centers):
        lane = jax.tree.map(lambda x: x[i], lanes)  # noqa: B023
        assert_close(lane, once(center), rtol=1e-5)


def test_a_value_that_is_not_finite_gives_no_step_and_leaves_no_trace(make):
    transform = make()
    state = transform.init(PARAMS)
    params, state = step(transform, PARAMS, state)
    trace = lambda s: [x for x in jax.tree.leaves(s) if x.dtype == jnp.float32]
    grad, needed = extra(params)
    bad = dict(needed, value=jnp.array(jnp.nan), value_fn=lambda p: jnp.nan * fun(p))
    bad["grad"] = grad = jax.tree.map(lambda g: g * jnp.nan, grad)
    updates, after = transform.update(grad, state, params, **bad)
    assert core.all_finite(updates)
    after, _ = step(transform, optax.apply_updates(params, updates), after)[::-1]
    assert all(jnp.isfinite(x).all() for x in trace(after))


def test_they_compose_with_clipping_masks_and_accumulation(make):
    chained = optax.chain(optax.clip_by_global_norm(1e3), make(), optax.scale(0.5))
    assert_close(
        jax.tree.map(
            jnp.subtract, step(chained, PARAMS, chained.init(PARAMS))[0], PARAMS
        ),
        jax.tree.map(
            lambda x, y: 0.5 * (x - y),
            step(make(), PARAMS, make().init(PARAMS))[0],
            PARAMS,
        ),
        rtol=1e-5,
    )
    params = [PARAMS["w"], PARAMS["b"]]
    masked = optax.masked(make(), [True, False])
    value, grad = jax.value_and_grad(fun)(params)
    seen = lambda p: fun([p[0], params[1]])  # it is shown its own params only
    grad_seen = [grad[0], optax.MaskedNode()]
    updates, _ = masked.update(
        grad, masked.init(params), params, value=value, grad=grad_seen, value_fn=seen
    )
    assert_close(updates[1], grad[1], rtol=0)
    assert fun([params[0] + updates[0], params[1]]) < value


def test_accumulated_steps_are_steps_on_the_mean_gradient(make):
    with jax.numpy_dtype_promotion("standard"):  # optax itself promotes
        every = optax.MultiSteps(make(), 2)
        state = every.init(PARAMS)
        half, state = step(every, PARAMS, state)
        assert_close(half, PARAMS, rtol=0)
        full, _ = step(every, half, state)
    assert_close(full, step(make(), PARAMS, make().init(PARAMS))[0], rtol=1e-5)


def test_hyperparameters_may_be_injected(make):
    with jax.numpy_dtype_promotion("standard"):
        inject = optax.inject_hyperparams(
            lambda max_stepsize: make(max_stepsize=max_stepsize)
        )
        transform = inject(max_stepsize=lambda count: 0.25 / (count + 1))
        state = transform.init(PARAMS)
        params, state = step(transform, PARAMS, state)
        assert state.hyperparams["max_stepsize"] == 0.25
        params, state = step(transform, params, state)
        assert state.hyperparams["max_stepsize"] == 0.125


def test_they_make_solvers(make):
    solver = jaxsolve.from_optax(fun, make())
    out = core.run(solver, PARAMS, CENTER, tol=1e-2)
    assert out.status == Status.CONVERGED
    assert_close(out.params, jax.tree.map(lambda x: 3 + 0 * x, PARAMS), atol=1e-2)


def test_they_make_solvers_in_double_precision(make, x64):
    solver = jaxsolve.from_optax(fun, make())
    params = jax.tree.map(lambda x: x.astype(jnp.float64), PARAMS)
    out = core.run(solver, params, CENTER.astype(jnp.float64), tol=1e-2)
    assert out.status == Status.CONVERGED and out.params["w"].dtype == jnp.float64
