"""The proximal Lagrangian: Danskin's gradient, its sign, second derivatives."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import core, prox, smooth
from jaxsolve.bilevel import BilevelProblem, Levels, proximal_lagrangian
from jaxsolve.core import Status
from tests.bilevel import coupled
from tests.bilevel.quadratic import draw
from tests.case import Form

STEP = 1e-5
BOX = prox.box(-0.3, 0.3)
PLAIN = lambda fun: smooth.gradient_descent(fun, 0.3)  # noqa: E731 - compiles quickly
DATA = draw(dx=2, dy=3, top=2.0)
LEVELS = Levels(np.array([0.3, -0.5]), np.array([0.2, 0.6, -0.1]))


def layer(equality=False, lower_set=None, **options):
    problem = coupled.problem_of(Form(), equality=equality)
    problem = dataclasses.replace(problem, lower_set=lower_set)
    options = dict(gamma=coupled.GAMMA, tol=1e-11, max_steps=5000) | options
    return proximal_lagrangian(problem, **options)


def arguments(z=0.4):
    floats = lambda tree: jax.tree.map(jnp.asarray, tree)
    return floats(LEVELS), {"first": jnp.asarray(z)}, floats(DATA[1])


def value_of(v, *fixed):
    """The value as a function of all its arguments in one vector."""
    vector, unravel = core.ravel(arguments() if not fixed else fixed)
    return vector, lambda vector: v(*unravel(vector)).value


@pytest.mark.parametrize(
    "equality, options",
    [(False, {}), (True, {"inner": PLAIN}), (False, {"lower_set": BOX})],
    ids=["inequality", "equality", "box"],
)
def test_danskin_gradient_equals_finite_differences(x64, equality, options):
    vector, value = value_of(layer(equality, **options))
    value = jax.jit(value)
    slope = jax.grad(value)(vector)
    for e, ours in zip(np.eye(len(vector)), slope, strict=True):
        ahead, behind = value(vector + STEP * e), value(vector - STEP * e)
        np.testing.assert_allclose(ours, (ahead - behind) / (2 * STEP), atol=1e-8)


def test_gradient_is_that_of_the_card(x64):
    v = layer(inner=PLAIN)
    (x, y), z, data = arguments()
    out = v(Levels(x, y), z, data)
    assert out.status == Status.CONVERGED and out.multiplier["first"] > 0
    levels, anchor = jax.grad(lambda *args: v(*args, data).value, (0, 1))(
        Levels(x, y), z
    )
    direct = -DATA[1].cross.T @ out.lower + coupled.NORMAL[0] * out.multiplier["first"]
    np.testing.assert_allclose(levels.upper, direct, atol=1e-9)
    np.testing.assert_allclose(levels.lower, y - out.lower, atol=1e-9)
    step = (out.multiplier["first"] - z["first"]) / coupled.GAMMA[1]
    np.testing.assert_allclose(anchor["first"], step, atol=1e-9)


def test_gap_is_positive_and_vanishes_at_the_lower_solution(x64):
    v = layer(inner=PLAIN)
    (x, _), _, data = arguments()
    problem = coupled.problem_of(Form(), equality=False)
    # The lower solution and its multiplier, the constraint active.
    back = np.linalg.solve(data.hessian, np.stack([data.cross @ x + data.linear]).T)[
        :, 0
    ]
    normal = np.linalg.solve(data.hessian, coupled.NORMAL[1])
    short = coupled.BOUND + coupled.NORMAL[0] @ x + coupled.NORMAL[1] @ back
    multiplier = short / (coupled.NORMAL[1] @ normal)
    y = jnp.asarray(back - multiplier * normal)
    assert multiplier > 0
    gap = lambda y, z: (
        problem.lower(Levels(x, y), data)
        - v(Levels(x, y), {"first": jnp.asarray(z)}, data).value
    )
    assert abs(gap(y, multiplier)) < 1e-12
    inside = y + jnp.array([0.1, 0.2, -0.1])
    for point in (y, inside):
        assert coupled.constraint(Levels(x, point), None)["first"] < 1e-9
        assert gap(point, 0.0) > 1e-3
    assert gap(inside, multiplier) > 1e-3


def test_second_derivatives_are_right_with_the_implicit_rule(x64):
    rule = core.implicit(psd=True)
    vector, value = value_of(layer(inner=PLAIN, derivative=rule))
    way = np.cos(np.arange(len(vector)))
    slope = jax.grad(value)
    bend = jax.jit(lambda vector: jax.jvp(slope, (vector,), (way,)))
    ahead, behind = (bend(vector + h * way)[0] for h in (STEP, -STEP))
    expected = (ahead - behind) / (2 * STEP)
    np.testing.assert_allclose(bend(vector)[1], expected, atol=1e-6)


def test_unfinished_inner_run_refuses_its_gradient():
    v = layer(inner=PLAIN, max_steps=2, tol=1e-6)
    args = jax.tree.map(lambda x: x.astype(jnp.float32), arguments())
    assert v(*args).status == Status.MAX_STEPS
    slope = jax.grad(lambda levels: v(levels, *args[1:]).value)(args[0])
    assert not np.any(np.isfinite(slope.lower))


def test_it_maps_over_anchors_and_takes_any_inner_solver():
    args = jax.tree.map(lambda x: x.astype(jnp.float32), arguments())
    first, second = layer(inner=PLAIN, tol=1e-5), layer(tol=1e-5)
    anchors = {"first": jnp.array([0.0, 0.5, 2.0])}
    many = jax.vmap(first, in_axes=(None, 0, None))(args[0], anchors, args[2])
    for i, z in enumerate(anchors["first"]):
        single = second(args[0], {"first": z}, args[2])
        np.testing.assert_allclose(many.value[i], single.value, rtol=1e-5)
        assert single.value.dtype == jnp.float32


def test_static_mistakes_are_errors():
    fun = lambda levels, _: levels.upper * levels.lower
    with pytest.raises(ValueError, match="gamma must be one real number"):
        proximal_lagrangian(BilevelProblem(fun, fun), gamma=(0.0, 1.0))
    with pytest.raises(ValueError, match="BilevelProblem"):
        proximal_lagrangian(fun)
