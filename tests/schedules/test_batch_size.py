"""AdAdaGrad: statistics of batches, tests of their size, and the controller."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import schedules
from jaxsolve.schedules import BatchStatistics

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(24, 3, 2)) + 1.0
VECTOR = RNG.normal(size=(24, 4)) - 0.5
FLAT = np.concatenate([MATRIX.reshape(24, 6), VECTOR], axis=1)


def samples(dtype=jnp.float64):
    return {"w": jnp.asarray(MATRIX, dtype), "b": jnp.asarray(VECTOR, dtype)}


def flat(tree):
    return np.concatenate([np.ravel(tree["w"]), np.ravel(tree["b"])])


def card(gradients):
    """The quantities of the tests for flat gradients, in NumPy."""
    mean, variance = gradients.mean(0), gradients.var(0, ddof=1)
    products = gradients @ mean
    squared = mean @ mean
    across = gradients - np.outer(products / squared, mean)
    return dict(
        mean=mean,
        variance=variance,
        squared=squared,
        along=products.var(ddof=1),
        across=across.var(0, ddof=1).sum(),
    )


def assert_statistics(found, gradients, along=True):
    expected = card(gradients)
    np.testing.assert_allclose(flat(found.mean), expected["mean"], rtol=1e-10)
    np.testing.assert_allclose(flat(found.variance), expected["variance"], rtol=1e-10)
    assert found.count == len(gradients)
    if along:
        np.testing.assert_allclose(found.along, expected["along"], rtol=1e-10)


def test_statistics_are_those_of_a_plain_transcription(x64):
    assert_statistics(schedules.batch_statistics(samples()), FLAT)


def test_statistics_of_chunks_are_those_of_the_batch(x64):
    calls = []

    def gradients(chunk):
        calls.append(chunk["w"].shape)
        return jax.tree.map(lambda x: 2 * x, chunk)

    for size in (2, 6, 24):
        found = schedules.chunked_statistics(gradients, samples(), size)
        assert_statistics(found, 2 * FLAT)
    calls.clear()
    once = schedules.chunked_statistics(gradients, samples(), 6, along=False)
    assert_statistics(once, 2 * FLAT, along=False)
    assert once.along is None and set(calls) == {(6, 3, 2)}


def test_statistics_of_parts_are_merged_exactly(x64):
    parts = [jax.tree.map(lambda x, i=i: x[i], samples()) for i in np.split(
        np.arange(24), [5, 17]
    )]  # fmt: skip
    left, middle, right = map(schedules.batch_statistics, parts)
    merged = schedules.merge_statistics(schedules.merge_statistics(left, middle), right)
    assert_statistics(merged, FLAT, along=False)
    with pytest.raises(ValueError, match="merged statistics are without it"):
        schedules.inner_product_test()(merged)


def test_statistics_of_parts_of_one_sample_or_none_are_merged_exactly(x64):
    masked = lambda which: schedules.batch_statistics(samples(), mask=which)
    index = np.arange(24)
    for left in (index < 0, index < 1, index < 2, index < 24):
        for right in (index >= 24, index >= 23, index >= 2):
            parts = masked(jnp.asarray(left)), masked(jnp.asarray(right))
            merged = schedules.merge_statistics(*parts)
            taken = np.concatenate([FLAT[left], FLAT[right]])
            assert merged.count == len(taken)
            if len(taken) > 1:
                assert_statistics(merged, taken, along=False)
            else:
                mean = taken.sum(0)  # of one, or zero of none
                np.testing.assert_allclose(flat(merged.mean), mean, rtol=1e-12)
                assert np.all(np.isnan(flat(merged.variance)))
    one_by_one = masked(jnp.asarray(index < 0))
    for i in range(24):
        one_by_one = schedules.merge_statistics(one_by_one, masked(jnp.arange(24) == i))
    assert_statistics(one_by_one, FLAT, along=False)


def test_statistics_of_padded_batches_see_the_mask_only(x64):
    padded = jax.tree.map(
        lambda x: jnp.concatenate([x, jnp.full_like(x[:8], jnp.nan)]), samples()
    )
    mask = jnp.arange(32) < 24
    assert_statistics(schedules.batch_statistics(padded, mask=mask), FLAT)


def test_workers_share_the_statistics_of_all_samples(x64):
    split = jax.tree.map(lambda x: x.reshape(8, 3, *x.shape[1:]), samples())
    each = lambda part: schedules.batch_statistics(part, axis="workers")
    found = jax.vmap(each, axis_name="workers")(split)
    assert_statistics(jax.tree.map(lambda x: x[5], found), FLAT)
    mesh = jax.make_mesh((8,), ("workers",), axis_types=(jax.sharding.AxisType.Auto,))
    spread, whole = jax.P("workers"), jax.P()
    shared = jax.shard_map(each, mesh=mesh, in_specs=spread, out_specs=whole)
    assert_statistics(jax.jit(shared)(samples()), FLAT)
    # The mean of the variances plus the variance of the means, exactly so when both
    # are divided by the number of samples.
    parts = FLAT.reshape(8, 3, 10)
    rule = parts.var(1).mean(0) + (parts.mean(1) ** 2).mean(0) - FLAT.mean(0) ** 2
    np.testing.assert_allclose(
        rule * 24 / 23, flat(schedules.batch_statistics(samples()).variance), rtol=1e-10
    )


def test_demands_are_those_of_a_plain_transcription(x64):
    batch, q = schedules.batch_statistics(samples()), card(FLAT)
    squared = q["squared"]
    along = q["along"] / (0.5**2 * squared**2)
    across = q["across"] / (0.8**2 * squared)
    expected = {
        schedules.norm_test(0.3): q["variance"].sum() / (0.3**2 * squared),
        schedules.inner_product_test(0.5): along,
        schedules.orthogonality_test(0.8): across,
        schedules.augmented_test(0.5, 0.8): max(along, across),
        schedules.coordinate_test(0.3): np.max(q["variance"] / (0.3 * q["mean"]) ** 2),
    }
    for test, wanted in expected.items():
        np.testing.assert_allclose(test(batch), wanted, rtol=1e-9)
    error = np.sqrt(q["variance"].sum() / 24)
    np.testing.assert_allclose(schedules.standard_error(batch), error, rtol=1e-10)


def test_demands_of_gaussian_gradients_are_the_exact_ones():
    """1,240 and 142 samples of those of the card; here with other means."""
    mean = jnp.linspace(0.5, 1.5, 10)
    deviation = jnp.linspace(0.2, 1.6, 10)
    noise = jax.random.normal(jax.random.key(0), (4000, 10))
    gradients = mean[None] + deviation[None] * noise
    batch = schedules.batch_statistics(gradients)
    squared = jnp.sum(mean**2)
    exact = jnp.sum(deviation**2) / (0.1**2 * squared)
    np.testing.assert_allclose(schedules.norm_test()(batch), exact, rtol=0.05)
    exact = jnp.sum((mean * deviation) ** 2) / (0.1**2 * squared**2)
    np.testing.assert_allclose(schedules.inner_product_test()(batch), exact, rtol=0.08)


def test_batches_without_gradient_ask_for_all_and_without_variance_for_none():
    tests = (
        schedules.norm_test(),
        schedules.augmented_test(),
        schedules.coordinate_test(),
    )
    for test in tests:
        balanced = schedules.batch_statistics(jnp.array([1.0, -1.0]))
        assert test(balanced) == jnp.inf
        for equal in (jnp.zeros((3, 2)), jnp.ones((3, 2))):
            assert test(schedules.batch_statistics(equal)) == 0
        assert jnp.isnan(test(schedules.batch_statistics(jnp.full(3, jnp.nan))))


def test_a_small_gradient_settles_only_where_it_is_no_accident():
    accident = schedules.batch_statistics(jnp.array([1.0, -1.0]))
    real = schedules.batch_statistics(jnp.array([1e-5, 1.001e-5]))
    test = schedules.norm_test(0.5)
    assert not schedules.is_settled(accident, 1e-3, test)
    assert schedules.is_settled(real, 1e-3, test)
    assert not schedules.is_settled(real, 1e-6, test)


def asking(wanted):
    """Statistics of which the test below asks for a number of samples."""
    zero = jnp.zeros(())
    return BatchStatistics(jnp.asarray(4.0), zero, jnp.asarray(wanted), zero)


def demand(batch):
    return batch.variance


def sizes(controller, demands):
    state, found = controller.init(), []
    for wanted in demands:
        state = controller.update(state, asking(float(wanted)))
        found.append(int(state.size))
    return found


def test_sizes_never_shrink_and_stay_below_the_largest():
    controller = schedules.adaptive_batch_size(demand, 4, 50, ladder=False)
    demands = [1, 6.2, 3, np.nan, 20, np.inf, 7]
    assert sizes(controller, demands) == [4, 7, 7, 7, 20, 50, 50]
    assert controller.sizes is None


def test_ladders_have_few_sizes():
    controller = schedules.adaptive_batch_size(demand, 4, 50)
    assert controller.sizes == (4, 8, 16, 32, 50)
    assert sizes(controller, [1, 4.1, 16, 16.5, 33]) == [4, 8, 16, 32, 50]
    huge = schedules.adaptive_batch_size(demand, 2, 2**30)
    assert sizes(huge, [3e8, 1e30]) == [2**29, 2**30]


def test_tests_may_return_python_numbers():
    for test in (lambda batch: 9, lambda batch: 9.0):
        assert sizes(schedules.adaptive_batch_size(test, 4, 64), [0]) == [16]


def test_growth_is_capped_and_tests_are_rare_if_wanted():
    controller = schedules.adaptive_batch_size(
        demand, 4, 1000, ladder=False, interval=2, growth=2.0
    )
    assert sizes(controller, [900] * 5) == [4, 8, 8, 16, 16]
    ladder = schedules.adaptive_batch_size(demand, 4, 1000, growth=1.5)
    assert sizes(ladder, [900] * 3) == [8, 16, 32]  # rounded up to rungs


def test_controllers_compile_once_and_count_samples():
    controller = schedules.adaptive_batch_size(demand, 4, 64)
    update = jax.jit(controller.update)
    state = controller.init()
    for wanted in (1.0, 9.0, 40.0):
        state = update(state, asking(wanted))
    assert update._cache_size() == 1
    assert state.size == 64 and state.samples == 12 and state.count == 3
    full = state._replace(samples=jnp.asarray(2**31 - 3, jnp.int32))
    assert update(full, asking(1.0)).samples == 2**31 - 1


def test_batches_grow_geometrically_on_a_noisy_quadratic():
    """With a constant stepsize a growing batch goes on where a fixed one stays."""
    curvature = jnp.linspace(0.5, 2.0, 5)

    def train(controller, steps=60):
        x, state, key = jnp.full(5, 10.0), controller.init(), jax.random.key(0)
        history = []

        @jax.jit
        def step(x, state, noise):
            batch = schedules.batch_statistics((curvature * x)[None] + noise)
            return x - 0.4 * batch.mean, controller.update(state, batch)

        for i in range(steps):
            size = int(state.size)
            noise = jax.random.normal(jax.random.fold_in(key, i), (size, 5))
            x, state = step(x, state, noise)
            history.append(size)
        return np.array(history), float(jnp.linalg.norm(curvature * x))

    test = schedules.norm_test(0.5)
    grown, small = train(schedules.adaptive_batch_size(test, 4, 512, growth=2.0))
    fixed, large = train(
        schedules.adaptive_batch_size(lambda batch: 0.0 * test(batch), 4, 4)
    )
    assert np.all(fixed == 4) and small < 0.3 * large
    assert grown[-1] == 512 and np.all(np.diff(grown) >= 0)
    rungs = np.flatnonzero(np.diff(grown))
    assert len(rungs) >= 6 and np.all(np.diff(rungs) <= 20)


def test_adagrad_steps_take_the_gradient_of_the_statistics(x64):
    """The other half of an iteration is optax's own: x - alpha g / sqrt v."""
    batch = schedules.batch_statistics(samples())
    adagrad = optax.chain(
        optax.scale_by_rss(initial_accumulator_value=0.1, eps=0.0), optax.scale(-0.5)
    )
    updates, _ = adagrad.update(batch.mean, adagrad.init(batch.mean))
    mean = FLAT.mean(0)
    expected = -0.5 * mean / np.sqrt(0.1 + mean**2)
    np.testing.assert_allclose(flat(updates), expected, rtol=1e-6)


def test_low_precision_gradients_give_wide_statistics():
    found = schedules.batch_statistics(samples(jnp.bfloat16))
    assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(flat(found.mean), FLAT.mean(0), atol=0.02)
    chunks = schedules.chunked_statistics(lambda x: x, samples(jnp.bfloat16), 6)
    assert {x.dtype for x in jax.tree.leaves(chunks)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: schedules.batch_statistics(jnp.ones((1, 3))), "at least two"),
        (lambda: schedules.batch_statistics(jnp.ones(())), "one axis of samples"),
        (lambda: schedules.batch_statistics([jnp.ones(2), jnp.ones(3)]), "one axis"),
        (lambda: schedules.batch_statistics({}), "one axis of samples"),
        (lambda: schedules.chunked_statistics(lambda x: x, jnp.ones(6), 4), "divide"),
        (lambda: schedules.chunked_statistics(lambda x: x, jnp.ones(6), 1), "two"),
        (lambda: schedules.norm_test(0.0), "eta must be one"),
        (lambda: schedules.coordinate_test(-1.0), "eta must be one"),
        (lambda: schedules.inner_product_test(0.0), "theta must be one"),
        (lambda: schedules.orthogonality_test(np.nan), "nu must be one"),
        (lambda: schedules.adaptive_batch_size(demand, 1, 8), "first must be"),
        (lambda: schedules.adaptive_batch_size(demand, 2.0, 8), "first must be"),
        (lambda: schedules.adaptive_batch_size(demand, 9, 8), "largest must be"),
        (lambda: schedules.adaptive_batch_size(demand, 2, 8, interval=0), "interval"),
        (lambda: schedules.adaptive_batch_size(demand, 2, 8, growth=1.0), "growth"),
        (lambda: schedules.adaptive_batch_size(0.1, 2, 8), "test must be one"),
    ],
)
def test_wrong_options_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
