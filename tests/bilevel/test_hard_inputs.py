"""What users get wrong, and numbers that overflow: errors that help, no false trust."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import bilevel, core, smooth
from jaxsolve.bilevel import BilevelProblem, Levels
from jaxsolve.core import Status
from jaxsolve.transforms import sps

TWO = jnp.ones(2)
ZERO = jnp.zeros(2)
KEY = jax.random.key(0)


def lower(y, data):
    x, matrix = data
    return 0.5 * y @ (matrix.astype(y.dtype) @ y) - x.astype(y.dtype) @ y


def upper(levels, center):
    return 0.5 * jnp.sum((levels.lower - center.astype(levels.lower.dtype)) ** 2)


PROBLEM = BilevelProblem(
    upper, lambda levels, m: lower(levels.lower, (levels.upper, m))
)
DATA = 3 * TWO, 2 * jnp.eye(2)
MAKERS = {
    "implicit": lambda **o: bilevel.implicit_hypergradient(
        upper, smooth.lbfgs(lower), **o
    ),
    "unrolled": lambda **o: bilevel.unrolled_hypergradient(
        upper, smooth.gradient_descent(lower, 0.4), 60, **o
    ),
    "penalty": lambda **o: bilevel.penalty_hypergradient(
        PROBLEM, smooth.lbfgs, 1e-3, **o
    ),
}


@pytest.fixture(params=MAKERS, ids=MAKERS)
def make(request):
    return MAKERS[request.param]


def test_levels_of_integers_are_refused(make):
    whole = jnp.ones(2, jnp.int32)
    with pytest.raises(ValueError, match="upper must be real floats"):
        make()(Levels(whole, ZERO), DATA)
    with pytest.raises(ValueError, match="lower must be real floats"):
        make()(Levels(TWO, whole), DATA)


def test_numbers_of_python_and_named_defaults_cost_no_trace():
    traces = []

    def counted(levels, data):
        traces.append(1)
        return (levels.lower - 3.0) ** 2

    inner = smooth.gradient_descent(lambda y, data: (y - data[0]) ** 2 + y**2, 0.25)
    h = bilevel.implicit_hypergradient(counted, inner)
    first = h(Levels(1.0, 0.0))
    before = len(traces)
    h(Levels(jnp.float32(2.0), 0.0), max_steps=999)
    h(Levels(jnp.array(1.5), jnp.array(0.5)), tol=1e-3)
    assert len(traces) == before
    np.testing.assert_allclose(first.gradient, -2.5, rtol=1e-5)


def test_a_gradient_whose_error_is_infinite_is_not_trusted():
    found = MAKERS["implicit"]()(
        Levels(1e-20 * TWO, ZERO), (3 * TWO, 1e-20 * jnp.eye(2))
    )
    assert found.status != Status.CONVERGED or jnp.isfinite(found.error)
    flat = 3 * TWO, jnp.diag(jnp.array([1.0, 0.0]))  # no minimiser
    found = bilevel.penalty_hypergradient(PROBLEM, smooth.lbfgs, 1e-2)(
        Levels(TWO, ZERO), flat
    )
    assert found.status != Status.CONVERGED
    assert jnp.isnan(found.gradient).any()


def test_unjudged_gradients_of_runs_that_diverged_are_refused():
    h = MAKERS["unrolled"](estimated=False)
    for levels, data in (
        (Levels(jnp.nan * TWO, ZERO), DATA),
        (Levels(TWO, ZERO), (3 * TWO, jnp.nan * jnp.eye(2))),
    ):
        found = h(levels, data)
        assert found.status == Status.DIVERGED and jnp.isnan(found.gradient).all()
    assert h(Levels(TWO, ZERO), DATA).status == Status.CONVERGED


@pytest.mark.parametrize("pair", ["float32-float64", "float64-float32"])
def test_levels_may_have_different_dtypes(make, pair, x64):
    x, y = (jnp.ones(2, dtype) for dtype in pair.split("-"))
    data = 3 * jnp.ones(2), 2 * jnp.eye(2)
    found = make()(Levels(x, 0 * y), data)
    assert found.status == Status.CONVERGED
    assert found.gradient.dtype == x.dtype and found.lower.dtype == y.dtype
    np.testing.assert_allclose(found.gradient, -1.25, rtol=2e-2)


def test_a_traced_penalty_that_is_negative_is_not_trusted():
    at = jax.jit(
        lambda sigma: bilevel.penalty_hypergradient(PROBLEM, smooth.lbfgs, sigma)(
            Levels(TWO, ZERO), DATA
        )
    )
    assert at(1e-3).status == Status.CONVERGED
    assert at(-1e-3).status != Status.CONVERGED


def test_a_problem_stands_for_its_upper_objective():
    inner = smooth.lbfgs(PROBLEM.inner)
    whole = bilevel.implicit_hypergradient(PROBLEM, inner)(Levels(TWO, ZERO), DATA)
    part = bilevel.implicit_hypergradient(upper, inner)(Levels(TWO, ZERO), DATA)
    np.testing.assert_array_equal(whole.gradient, part.gradient)


def test_what_is_swapped_is_named():
    inner = smooth.lbfgs(lower)
    with pytest.raises(ValueError, match="upper is a function"):
        bilevel.implicit_hypergradient(inner, inner)
    with pytest.raises(ValueError, match="factory such as smooth.lbfgs"):
        bilevel.penalty_hypergradient(PROBLEM, inner, 1e-2)
    for wrong in ("cg", bilevel.dense, bilevel.neumann):
        with pytest.raises(ValueError, match=r"bilevel.dense\(\)"):
            bilevel.implicit_hypergradient(upper, inner, linear_solve=wrong)


def test_messages_name_what_was_given_and_no_tracers():
    h = MAKERS["implicit"]()
    with pytest.raises(ValueError, match="pair .* got a tuple of 3"):
        h(Levels(TWO, ZERO), (*DATA, None))
    with pytest.raises(ValueError, match=r"got an array of shape \(2,\)"):
        h(Levels(TWO, ZERO), TWO)
    with pytest.raises(ValueError, match=r"got an array of shape \(2,\)"):
        bilevel.soba(PROBLEM, sps(), 0.1).init(TWO, DATA)


def test_duals_that_are_not_finite_are_no_optimum():
    solve = lambda rhs, data: (jnp.sum(rhs), rhs * data, jnp.int32(Status.CONVERGED), 0)
    wrapped = bilevel.value_and_duals(solve)
    assert wrapped(TWO, TWO).status == Status.CONVERGED
    assert wrapped(TWO, jnp.nan * TWO).status == Status.BREAKDOWN

    def masked(rhs):
        found = wrapped(rhs, jnp.nan * TWO)
        return jnp.where(found.status == Status.CONVERGED, found.value, 0.0)

    np.testing.assert_array_equal(jax.grad(masked)(TWO), 0.0)


def test_orders_must_be_permutations():
    for wrong in ([1, 1, 0], [1.0, 2.0, 0.0], [[0, 1]]):
        with pytest.raises(ValueError, match="permutation"):
            bilevel.complete_dag(jnp.array(wrong))


def test_sizes_of_minibatches_must_fit_the_data():
    solver = core.minibatch(bilevel.soba(PROBLEM, sps(), 0.1), (2, 2, 2), key=KEY)
    with pytest.raises(ValueError, match="sizes"):
        solver.init(Levels(TWO, ZERO), DATA)
