"""The promises of every proximal operator, put to one table of cases."""

import functools
import importlib
import inspect
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsolve import prox
from tests.prox.block import ROWS, Case, inside, tree

POINTS = 12

A = np.random.default_rng(1).normal(size=(2, 7))
B = np.array([0.5, -1.0])
NORMAL = np.array([1.0, -2.0, 0.5, 1.0, 0.0, 3.0, -1.0])
COLUMN = np.array([[0.3], [0.9], [1.5], [0.6]])
SHIFT = np.array([[0.3, -0.2, 0.8]])


def l1_norm(x, w):
    return np.sum(w * np.abs(x))


def l2_norms(x, w, axis):
    return np.sum(w * np.sqrt(np.sum(x**2, axis, keepdims=True)))


def linf_norms(x, w, axis):
    return np.sum(w * np.max(np.abs(x), axis, keepdims=True))


def in_simplex(x, r, axis=None):
    gap = np.abs(np.sum(x, axis, keepdims=True) - r)
    return inside(max(np.max(gap), np.max(-x)))


def in_l1_ball(x, r, axis=None):
    return inside(np.sum(np.abs(x), axis, keepdims=True) - r)


def in_l2_ball(x, r, axis=None):
    return inside(np.sqrt(np.sum(x**2, axis, keepdims=True)) - r)


CASES = [
    Case("identity", "identity", prox.identity, (), lambda x: 0.0, line=(),
         conjugate=lambda: prox.box(0.0, 0.0)),
    Case("l1", "l1", prox.l1, (0.7,), l1_norm, line=(0.7,),
         conjugate=prox.linf_ball),
    Case("l1 by leaf", "l1", lambda w: prox.l1(tree(w)), (np.arange(7) / 4,), l1_norm),
    Case("squared l2", "squared_l2", prox.squared_l2, (0.7,),
         lambda x, w: w / 2 * np.sum(x**2), line=(0.7,),
         conjugate=lambda w: prox.squared_l2(1 / w)),
    Case("elastic net", "elastic_net", prox.elastic_net, (0.7, 0.4),
         lambda x, v, w: l1_norm(x, v) + w / 2 * np.sum(x**2), line=(0.7, 0.4)),
    Case("group lasso", "group_lasso", prox.group_lasso, (1.3,),
         lambda x, w: l2_norms(x, w, None), line=(1.3,), conjugate=prox.l2_ball),
    Case("group lasso of rows", "group_lasso",
         lambda w: prox.group_lasso(w, axis=-1), (COLUMN,),
         lambda x, w: l2_norms(x, w, -1), params=ROWS,
         conjugate=lambda w: prox.l2_ball(w, axis=-1)),
    Case("linf", "linf", prox.linf, (1.3,), lambda x, w: linf_norms(x, w, None),
         line=(1.3,), conjugate=prox.l1_ball),
    Case("linf of columns", "linf", lambda w: prox.linf(w, axis=0), (SHIFT**2 + 0.5,),
         lambda x, w: linf_norms(x, w, 0), params=ROWS,
         conjugate=lambda w: prox.l1_ball(w, axis=0)),
    Case("box", "box", prox.box, (-0.5, 0.8),
         lambda x, lo, up: inside(np.maximum(lo - x, x - up)), projection=True,
         line=(-0.5, 0.8)),
    Case("box of rows", "box", lambda lo: prox.box(lo, np.array([1.0, np.inf, 1.0])),
         (-COLUMN,),
         lambda x, lo: inside(np.maximum(lo - x, x - np.array([1.0, np.inf, 1.0]))),
         params=ROWS, projection=True),
    Case("non-negative", "non_negative", prox.non_negative, (), lambda x: inside(-x),
         projection=True, line=(), conjugate=lambda: prox.box(-np.inf, 0.0)),
    Case("simplex", "simplex", prox.simplex, (1.5,), in_simplex, projection=True,
         line=(1.5,)),
    Case("simplex of rows", "simplex", lambda r: prox.simplex(r, axis=1), (COLUMN,),
         lambda x, r: in_simplex(x, r, 1), params=ROWS, projection=True),
    Case("l1 ball", "l1_ball", prox.l1_ball, (1.5,), in_l1_ball, projection=True,
         line=(1.5,), conjugate=prox.linf),
    Case("l1 balls of columns", "l1_ball", lambda r: prox.l1_ball(r, axis=0), (1.5,),
         lambda x, r: in_l1_ball(x, r, 0), params=ROWS, projection=True),
    Case("l2 ball", "l2_ball", prox.l2_ball, (1.5,), in_l2_ball, projection=True,
         line=(1.5,), conjugate=prox.group_lasso),
    Case("l2 balls of rows", "l2_ball", lambda r: prox.l2_ball(r, axis=1), (COLUMN,),
         lambda x, r: in_l2_ball(x, r, 1), params=ROWS, projection=True),
    Case("linf ball", "linf_ball", prox.linf_ball, (0.8,),
         lambda x, r: inside(np.abs(x) - r), projection=True, line=(0.8,),
         conjugate=prox.l1),
    Case("affine set", "affine_set", prox.affine_set, (A, B),
         lambda x, a, b: inside(np.abs(a @ x - b)), projection=True,
         line=(np.array([[2.0]]), np.array([1.0]))),
    Case("hyperplane", "hyperplane",
         lambda a, b: prox.hyperplane(tree(a), b), (NORMAL, 0.5),
         lambda x, a, b: inside(np.abs(a @ x - b)), projection=True),
    Case("halfspace", "halfspace", prox.halfspace, (2.0, 1.0),
         lambda x, a, b: inside(np.sum(a * x) - b), projection=True, line=(2.0, 1.0)),
    Case("conjugate of l1", "conjugate", lambda w: prox.conjugate(prox.l1(w)), (0.7,),
         lambda x, w: inside(np.abs(x) - w), projection=True, line=(0.7,),
         conjugate=prox.l1),
    Case("conjugate of the simplex", "conjugate",
         lambda r: prox.conjugate(prox.simplex(r)), (1.5,), lambda x, r: r * np.max(x),
         line=(1.5,), conjugate=prox.simplex),
    Case("scaled l1", "scale", lambda v, w: prox.scale(prox.l1(v), w), (0.7, 1.5),
         lambda x, v, w: w * l1_norm(x, v), line=(0.7, 1.5),
         conjugate=lambda v, w: prox.linf_ball(v * w)),
    Case("translated l1", "translate",
         lambda w, s: prox.translate(prox.l1(w), tree(s)), (0.7, NORMAL),
         lambda x, w, s: l1_norm(x - s, w)),
    Case("translated l2 ball", "translate",
         lambda r, s: prox.translate(prox.l2_ball(r), s), (1.5, 0.3),
         lambda x, r, s: in_l2_ball(x - s, r), projection=True, line=(1.5, 0.3)),
    Case("stretched group lasso", "scale_argument",
         lambda w, c: prox.scale_argument(prox.group_lasso(w), c), (1.3, -0.6),
         lambda x, w, c: l2_norms(c * x, w, None), line=(1.3, -0.6)),
    Case("group lasso plus a quadratic", "add_quadratic",
         lambda v, w: prox.add_quadratic(prox.group_lasso(v), w), (1.3, 0.4),
         lambda x, v, w: l2_norms(x, v, None) + w / 2 * np.sum(x**2), line=(1.3, 0.4)),
    Case("separable sum", "separable_sum",
         lambda w, r: prox.separable_sum({"b": prox.l1(w), "w": prox.simplex(r)}),
         (0.7, 1.5), lambda x, w, r: l1_norm(x[:3], w) + in_simplex(x[3:], r),
         conjugate=lambda w, r: prox.separable_sum(
             {"b": prox.linf_ball(w), "w": prox.conjugate(prox.simplex(r))})),
]  # fmt: skip

# Tested by themselves: what takes an operator and gives it back, what is none in the
# 2-norm, and what is as accurate as the solver in it.
APART = {"resolve", "isotonic_kl", "kl_birkhoff", "kl_transport"}
APART |= {"birkhoff", "image_variation", "polyhedron", "transport"}

# Further cases lie beside, in files of their own.
for path in sorted(pathlib.Path(__file__).parent.glob("blocks_*.py")):
    CASES += importlib.import_module(f"tests.prox.{path.stem}").CASES

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
every_projection = pytest.mark.parametrize(
    "case", [c for c in CASES if c.projection], ids=lambda case: case.id
)
every_conjugate = pytest.mark.parametrize(
    "case", [c for c in CASES if c.conjugate], ids=lambda case: case.id
)
every_convex = pytest.mark.parametrize(
    "case", [c for c in CASES if c.convex], ids=lambda case: case.id
)
every_line = pytest.mark.parametrize(
    "case", [c for c in CASES if c.line is not None], ids=lambda case: case.id
)


def draw(case, count=POINTS, seed=0, dtype=np.float64):
    """Random params: of several magnitudes, with the batch axis first."""
    rng = np.random.default_rng(seed)
    scale = np.geomspace(0.2, 5, count)

    def leaf(shape):
        noise = rng.normal(size=(count, *shape))
        return (noise * scale.reshape(count, *(1,) * len(shape))).astype(dtype)

    return jax.tree.map(leaf, case.params, is_leaf=lambda s: isinstance(s, tuple))


def flat(params, count=POINTS):
    """Params with a batch axis as arrays of float64 with a batch axis."""
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(params)]
    if len(leaves) == 1:
        return leaves[0]
    return np.concatenate([x.reshape(count, -1) for x in leaves], axis=1)


def inner(x, y):
    return np.sum((x * y).reshape(len(x), -1), axis=1)


STEPSIZES = np.random.default_rng(2).uniform(0.3, 2.0, POINTS)


# Little optimised code compiles faster, and rounds what it computes twice differently:
# an operator must not lean on the two being equal.
PLAIN = {"xla_backend_optimization_level": 0}


@functools.lru_cache
def compiled(make):
    """The operator over a batch of params and stepsizes, its numbers traced."""
    return jax.jit(
        jax.vmap(
            lambda params, stepsize, numbers: make(*numbers)(params, stepsize),
            in_axes=(0, 0, None),
        ),
        compiler_options=PLAIN,
    )


def evaluate(case, params, stepsizes=STEPSIZES):
    with jax.enable_x64(True):
        return compiled(case.make)(params, stepsizes, case.numbers)


def test_every_public_factory_has_a_case():
    things = {name: getattr(prox, name) for name in prox.__all__}
    functions = {k: v for k, v in things.items() if inspect.isfunction(v)}
    factories = {
        name
        for name, function in functions.items()
        if inspect.signature(function).return_annotation is prox.Prox
    }
    cases = {case.name for case in CASES}
    assert cases <= factories
    assert factories - cases <= APART


@every_convex
def test_prox_satisfies_its_variational_inequality(case):
    params = draw(case)
    x, t = flat(params), STEPSIZES
    p = flat(evaluate(case, params))
    rng = np.random.default_rng(3)
    others = np.concatenate([p, p + rng.normal(size=p.shape) * 0.1, x])
    values = [case.value(y, *case.numbers) for y in others]
    assert np.all(np.isfinite(values[:POINTS]))
    for i in range(POINTS):
        slope = np.sum(((x[i] - p[i]) * (others - p[i])).reshape(len(others), -1), 1)
        assert np.all(values >= values[i] + slope / t[i] - 1e-7)


@every_convex
def test_prox_is_firmly_nonexpansive(case):
    params, others = draw(case, seed=4), draw(case, seed=5)
    p, q = flat(evaluate(case, params)), flat(evaluate(case, others))
    x, y = flat(params), flat(others)
    assert np.all(inner(p - q, p - q) <= inner(p - q, x - y) + 1e-10)


@every_line
def test_prox_is_the_best_point_of_a_grid(case):
    grid = np.linspace(-6, 6, 12001)
    values = np.array([case.value(np.array([y]), *case.line) for y in grid])
    x = np.linspace(-4, 4, POINTS)
    with jax.enable_x64(True):
        out = compiled(case.make)(x[:, None], STEPSIZES, case.line)
    for i in range(POINTS):
        best = grid[np.argmin(values + (grid - x[i]) ** 2 / (2 * STEPSIZES[i]))]
        np.testing.assert_allclose(out[i, 0], best, atol=1e-3)


@every_projection
def test_projection_is_feasible_idempotent_and_ignores_the_stepsize(case):
    params = draw(case)
    once = evaluate(case, params)
    for p in flat(once):
        assert case.value(p, *case.numbers) == 0
    np.testing.assert_allclose(flat(evaluate(case, once)), flat(once), atol=1e-10)
    other = evaluate(case, params, STEPSIZES[::-1].copy())
    np.testing.assert_allclose(flat(other), flat(once), atol=1e-12)


@every_conjugate
def test_conjugate_is_the_known_one(case):
    make = lambda *numbers: prox.conjugate(case.make(*numbers))
    params = draw(case)
    expected = evaluate(case._replace(make=case.conjugate), params)
    actual = evaluate(case._replace(make=make), params)
    np.testing.assert_allclose(flat(actual), flat(expected), atol=1e-12)


@every_conjugate
def test_moreau_decomposes_every_point(case):
    params, x = draw(case), flat(draw(case))
    t = STEPSIZES.reshape(-1, *(1,) * (x.ndim - 1))
    scaled = jax.tree.map(
        lambda v: v / STEPSIZES.reshape(-1, *(1,) * (v.ndim - 1)), params
    )
    p = flat(evaluate(case, params))
    q = flat(evaluate(case._replace(make=case.conjugate), scaled, 1 / STEPSIZES))
    np.testing.assert_allclose(p + t * q, x, atol=1e-12)


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.convex and not c.conjugate], ids=lambda case: case.id
)
def test_conjugating_twice_changes_nothing(case):
    make = lambda *numbers: prox.conjugate(prox.conjugate(case.make(*numbers)))
    params = draw(case)
    actual = evaluate(case._replace(make=make), params)
    np.testing.assert_allclose(flat(actual), flat(evaluate(case, params)), atol=1e-12)


@every_case
def test_vmap_and_jit_change_nothing(case):
    params = draw(case)
    batch = flat(evaluate(case, params))[:2]
    with jax.enable_x64(True):
        operator = case.make(*case.numbers)
        lanes = [
            operator(jax.tree.map(lambda x: x[i], params), STEPSIZES[i])
            for i in range(2)
        ]
    stacked = jax.tree.map(lambda *x: np.stack(x), *lanes)
    np.testing.assert_allclose(flat(stacked, 2), batch, atol=1e-12)


@every_case
def test_low_precision_keeps_its_dtype_and_rounds_once(case):
    dtypes = (jnp.bfloat16, jnp.float32)
    params = [jax.tree.map(lambda x, d=d: x.astype(d), draw(case)) for d in dtypes]
    numbers = jax.tree.map(np.float32, case.numbers)
    both = lambda params, stepsize: [case.make(*numbers)(p, stepsize) for p in params]
    both = jax.jit(jax.vmap(both), compiler_options=PLAIN)
    for dtype, x, y in zip(
        dtypes, params, both(params, STEPSIZES.astype(np.float32)), strict=True
    ):
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(y))
        exact = flat(evaluate(case, jax.tree.map(np.float64, x)))
        eps, slack = float(jnp.finfo(dtype).eps), 1e-5 * np.max(np.abs(flat(x)))
        np.testing.assert_allclose(flat(y), exact, rtol=eps, atol=slack)


@every_case
def test_leaves_of_different_dtypes_keep_theirs(case):
    params = jax.tree.map(lambda x: jnp.asarray(x[0], jnp.float32), draw(case))
    leaves, treedef = jax.tree.flatten(params)
    leaves[0] = leaves[0].astype(jnp.bfloat16)
    mixed = treedef.unflatten(leaves)
    out = jax.eval_shape(case.make(*case.numbers), mixed)
    assert jax.tree.map(lambda x: x.dtype, out) == jax.tree.map(
        lambda x: x.dtype, mixed
    )
    assert not any(x.weak_type for x in jax.tree.leaves(out))


@every_case
def test_double_precision_is_kept(case):
    out = evaluate(case, draw(case))
    assert all(x.dtype == np.float64 for x in jax.tree.leaves(out))


@functools.lru_cache
def differentiated(make):
    """The operator over a batch: value, two derivatives along a line, and the vjp."""

    def operator(primals):
        params, stepsize, numbers = primals
        return make(*numbers)(params, stepsize)

    def derivatives(primals, tangents, cotangents):
        push = lambda primals: jax.jvp(operator, (primals,), (tangents,))
        (value, first), (_, second) = jax.jvp(push, (primals,), (tangents,))
        return value, first, second, jax.vjp(operator, primals)[1](cotangents)[0]

    return jax.jit(jax.vmap(derivatives), compiler_options=PLAIN)


def primals_of(case):
    numbers = jax.tree.map(lambda x: np.stack([np.float64(x)] * POINTS), case.numbers)
    return draw(case, seed=6), STEPSIZES, numbers


def paired(left, right):
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return sum(inner(np.asarray(x), np.asarray(y)) for x, y in pairs)


@every_case
def test_derivatives_in_params_stepsize_and_numbers_are_exact(case):
    primals = primals_of(case)
    rng = np.random.default_rng(7)
    direction = lambda tree: jax.tree.map(lambda x: rng.normal(size=x.shape), tree)
    tangents, cotangents = direction(primals), direction(primals[0])
    # The seeded points keep farther than h from the kinks.
    h = 1e-6
    step = lambda s: jax.tree.map(lambda x, v: x + s * h * v, primals, tangents)
    with jax.enable_x64(True):
        at = lambda p: differentiated(case.make)(p, tangents, cotangents)
        _, first, second, pullback = at(primals)
        ahead, behind = at(step(1)), at(step(-1))
    slope, curvature = (
        (flat(a) - flat(b)) / (2 * h)
        for a, b in zip(ahead[:2], behind[:2], strict=True)
    )
    size = 1 + np.abs(flat(first)) + np.abs(flat(second))
    assert np.all(np.abs(slope - flat(first)) < 1e-6 * size)
    assert np.all(np.abs(curvature - flat(second)) < 1e-5 * size)
    np.testing.assert_allclose(
        paired(pullback, tangents), paired(cotangents, first), atol=1e-9
    )


@every_case
def test_derivatives_at_zero_are_finite_in_both_modes(case):
    params, stepsizes, numbers = primals_of(case)
    primals = (jax.tree.map(np.zeros_like, params), stepsizes, numbers)
    ones = jax.tree.map(np.ones_like, primals)
    with jax.enable_x64(True):
        out = differentiated(case.make)(primals, ones, ones[0])
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(out))


@every_case
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_prox_lowers_for_accelerators(case, platform):
    params = jax.tree.map(lambda x: jnp.asarray(x[0], jnp.float32), draw(case))
    numbers = jax.tree.map(jnp.float32, case.numbers)
    operator = lambda params, stepsize, numbers: case.make(*numbers)(params, stepsize)
    traced = jax.jit(operator).trace(params, jnp.float32(1), numbers)
    assert traced.lower(lowering_platforms=(platform,)).as_text()


@every_case
def test_integer_params_are_refused(case):
    params = jax.tree.map(lambda x: jnp.zeros(x[0].shape, jnp.int32), draw(case))
    with pytest.raises(ValueError, match=r"must be real floating.*int32.*cast it"):
        jax.eval_shape(case.make(*case.numbers), params)


@every_case
def test_nan_stays_where_it_was_and_never_raises(case):
    params = draw(case)
    leaves, treedef = jax.tree.flatten(params)
    leaves[0].reshape(POINTS, -1)[0, 0] = np.nan
    out = flat(evaluate(case, treedef.unflatten(leaves)))
    assert np.isnan(out[0].ravel()[0])
    assert np.all(np.isfinite(out[1:]))


@every_line
def test_a_tree_is_treated_as_its_entries(case):
    params = draw(case)
    whole = flat(params)
    with jax.enable_x64(True):
        on_tree = compiled(case.make)(params, STEPSIZES, case.numbers)
        on_vector = compiled(case.make)(whole, STEPSIZES, case.numbers)
    np.testing.assert_allclose(flat(on_tree), np.asarray(on_vector), atol=1e-12)
