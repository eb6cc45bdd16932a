"""Stepsizes for the last iterate: the table, its bound, its rates; decay and tables."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import schedules

COUNTS = np.arange(12)


def values(schedule, counts=COUNTS):
    return np.array([float(schedule(jnp.asarray(c, jnp.int32))) for c in counts])


def test_stepsizes_are_those_of_the_table(x64):
    t, total = COUNTS + 1.0, 10.0
    table = {
        "any horizon": (
            schedules.convex_last_iterate(0.7, 1.5),
            np.minimum(1 / 3, 0.7 / np.sqrt(t)),
        ),
        "known horizon": (
            schedules.convex_last_iterate(0.7, 1.5, steps=10),
            np.full(12, min(1 / 3, 0.7 / np.sqrt(10))),
        ),
        "heavy tails": (
            schedules.convex_last_iterate(0.7, moment=1.5),
            0.7 / t ** (1 / 1.5),
        ),
        "heavy tails, known horizon": (
            schedules.convex_last_iterate(0.7, 2.0, moment=1.5, steps=10),
            np.full(12, min(1 / 4, 0.7 / 10 ** (1 / 1.5))),
        ),
        "without smoothness": (
            schedules.nonsmooth_last_iterate(0.7, 10),
            np.maximum(0.7 * (total - t + 1) / total**1.5, 0),
        ),
        "strongly convex": (
            schedules.strongly_convex_last_iterate(0.3, 1.5),
            1 / (0.3 * (t + 2 * 5)),
        ),
        "strongly convex prox": (
            schedules.strongly_convex_last_iterate(0.3, 1.5, of_prox=True),
            2 / (0.3 * (t + 4 * 5)),
        ),
        "linear decay": (
            schedules.linear_decay(0.7, 10),
            np.maximum(0.7 * (1 - t / total), 0),
        ),
        "linear decay, warmed up": (
            schedules.linear_decay(0.7, 10, warmup_steps=4),
            np.maximum(0.7 * (1 - t / total), 0) * np.minimum(t / 4, 1),
        ),
    }
    for name, (schedule, expected) in table.items():
        np.testing.assert_allclose(values(schedule), expected, rtol=1e-12, err_msg=name)


def test_scales_follow_the_formula(x64):
    scale = schedules.last_iterate_scale(3.0, 2.0, 1.0)
    assert np.isclose(scale, np.sqrt(3 / 5), rtol=1e-12)
    sure = schedules.last_iterate_scale(3.0, 2.0, 1.0, failure=0.01)
    assert np.isclose(sure, np.sqrt(3 / 5 / np.log(100)), rtol=1e-12)


def test_schedules_take_traced_counts_and_numbers():
    laws = (
        lambda number: schedules.convex_last_iterate(number, number),
        lambda number: schedules.nonsmooth_last_iterate(number, 8 * number),
        lambda number: schedules.strongly_convex_last_iterate(number, number),
        lambda number: schedules.linear_decay(number, 8 * number, warmup_steps=number),
        lambda number: schedules.warmup(number, number),
    )
    numbers = jnp.array([1.0, 3.0])
    for law in laws:
        once = jax.jit(lambda number, count, law=law: law(number)(count))
        lanes = jax.vmap(once, (0, None))(numbers, jnp.asarray(2, jnp.int32))
        assert lanes.dtype == jnp.float32 and not lanes.weak_type
        single = [law(float(x))(2) for x in numbers]
        np.testing.assert_allclose(lanes, single, rtol=1e-6)
        slope = jax.grad(lambda number, law=law: law(number)(2))(1.5)
        assert np.isfinite(slope)
        transform = optax.scale_by_schedule(law(2.0))
        updates, _ = transform.update(jnp.ones(2), transform.init(jnp.ones(2)))
        np.testing.assert_allclose(updates, law(2.0)(0), rtol=1e-6)
        assert law(jnp.float32(2))(jnp.asarray(0, jnp.int32)).dtype == jnp.float32


def test_double_precision_follows_the_numbers_not_the_flag(x64):
    count = jnp.asarray(3, jnp.int32)
    assert schedules.nonsmooth_last_iterate(jnp.float32(1), 9)(count).dtype == "float32"
    assert schedules.nonsmooth_last_iterate(1.0, 9)(count).dtype == "float64"


@pytest.mark.parametrize("steps", [50, 200, 1000])
def test_last_iterate_of_subgradient_steps_keeps_the_bound(steps, x64):
    """On a maximum of |<a, x>|, whose minimum is at zero."""
    rng = np.random.default_rng(0)
    planes = rng.normal(size=(60, 30))
    start = rng.normal(size=30)
    distance, steepness = np.linalg.norm(start), np.linalg.norm(planes, axis=1).max()
    scale = distance / steepness * (steps / (steps + 1)) ** 1.5
    schedule = schedules.nonsmooth_last_iterate(scale, steps)

    def step(x, count):
        products = planes @ x
        i = jnp.argmax(jnp.abs(products))
        return x - schedule(count) * jnp.sign(products[i]) * planes[i], None

    planes = jnp.asarray(planes)
    last, _ = jax.lax.scan(step, jnp.asarray(start), jnp.arange(steps))
    gap = jnp.max(jnp.abs(planes @ last))
    assert gap <= steepness * distance / np.sqrt(steps + 1)


def last_error(schedule, steps, seeds=40):
    """Of x in subgradient steps on |x| with noise of size one, from 1."""
    counts = jnp.arange(steps, dtype=jnp.int32)

    def single(key):
        def step(x, given):
            count, noise = given
            return x - schedule(count) * (jnp.sign(x) + noise), None

        noises = jax.random.normal(key, (steps,))
        return abs(jax.lax.scan(step, jnp.float32(1), (counts, noises))[0])

    return float(jnp.mean(jax.vmap(single)(jax.random.split(jax.random.key(0), seeds))))


def test_linear_schedules_leave_a_tenth_of_the_last_error_of_others():
    steps, scale = 1000, 1 / np.sqrt(2)  # D / sqrt(G^2 + sigma^2)
    falling = schedules.nonsmooth_last_iterate(scale, steps)
    linear = last_error(falling, steps)
    decay = last_error(schedules.linear_decay(scale / np.sqrt(steps), steps), steps)
    root = last_error(schedules.convex_last_iterate(scale), steps)
    constant = last_error(schedules.convex_last_iterate(scale, steps=steps), steps)
    rising = last_error(lambda count: falling(steps - 1 - count), steps)
    assert max(linear, decay) < 0.1 * min(root, constant, rising)
    assert max(linear, decay) <= 1 / (scale * np.sqrt(steps))


@pytest.mark.parametrize("steps", [10**6, 10**7, 3 * 10**7, 2**31 - 1])
def test_steps_before_the_end_of_long_runs_are_exact_in_single_precision(steps):
    before = np.array([0, 1, 2, 3, 10, 1001])
    counts = jnp.asarray(steps - 1 - before, jnp.int32)
    past = jnp.asarray(2**31 - 1, jnp.int32)  # where counts of optax end
    decay = schedules.linear_decay(1.0, steps)
    falling = schedules.nonsmooth_last_iterate(np.sqrt(steps), steps)
    table = schedules.tabulated(jnp.arange(4.0)[::-1], steps)
    size = np.float32(steps)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6)
    for map_ in (jax.vmap, lambda law: jax.jit(jax.vmap(law))):
        close(map_(decay)(counts), before / size)
        close(map_(falling)(counts), (before + 1) / size)
        close(map_(table)(counts), 4 * before / size)
    assert decay(past) == 0 and decay(past).dtype == jnp.float32
    assert table(past) == 0
    if steps < 2**31 - 1:
        whole = jnp.float32(steps)  # as inject_hyperparams gives it
        traced = jax.jit(lambda t, c: schedules.linear_decay(1.0, t)(c))
        close([traced(whole, c) for c in counts], before / size)
        assert falling(past) == 0


def test_slopes_of_the_gap_are_those_of_the_rates(x64):
    """An l1-regularised quadratic, with noise: T^-1/2 and T^-1 at the last iterate."""
    rng, d, mu, big = np.random.default_rng(1), 20, 0.5, 3.6
    curvature = jnp.linspace(mu, big, d)
    centre = jnp.asarray(rng.normal(size=d))
    value = lambda x: jnp.sum(curvature * (x - centre) ** 2) / 2 + jnp.sum(abs(x)) / 10
    shrink = lambda x, s: jnp.sign(x) * jnp.maximum(jnp.abs(x) - s, 0)
    best = value(shrink(centre, 0.1 / curvature))

    def gap(schedule, steps):
        def single(key):
            def step(x, given):
                count, noise = given
                eta = schedule(count)
                grad = curvature * (x - centre) + noise
                return shrink(x - eta * grad, eta / 10), None

            given = jnp.arange(steps), jax.random.normal(key, (steps, d))
            return value(jax.lax.scan(step, jnp.zeros(d), given)[0]) - best

        return jnp.mean(jax.vmap(single)(jax.random.split(jax.random.key(3), 12)))

    horizons = (250, 1000, 4000)
    slopes = []
    for law in (
        lambda steps: schedules.convex_last_iterate(0.5, big),
        lambda steps: schedules.nonsmooth_last_iterate(1.0, steps),
        lambda steps: schedules.strongly_convex_last_iterate(mu, big),
    ):
        gaps = [float(gap(law(steps), steps)) for steps in horizons]
        slopes.append(np.polyfit(np.log(horizons), np.log(gaps), 1)[0])
    assert -0.75 < slopes[0] < -0.35 and slopes[1] < -0.6 and -1.4 < slopes[2] < -0.8


def test_warmup_lies_over_any_schedule_without_moving_it():
    base = optax.exponential_decay(1.0, 5, 0.5)
    warmed = schedules.warmup(base, 4)
    ramp = np.minimum((COUNTS + 1) / 4, 1)
    np.testing.assert_allclose(values(warmed), ramp * values(base), rtol=1e-6)
    np.testing.assert_allclose(values(schedules.warmup(base, 0)), values(base))


def test_tables_are_stretched_between_their_values():
    table = np.array([1.0, 3.0, 2.0, 0.0])
    np.testing.assert_array_equal(values(schedules.tabulated(table), range(4)), table)
    longer = values(schedules.tabulated(table, 8), range(9))
    np.testing.assert_allclose(longer, [1, 1, 2, 3, 2.5, 2, 1, 0, 0])
    shorter = values(schedules.tabulated(table, 2), range(3))
    np.testing.assert_allclose(shorter, [3, 0, 0])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: schedules.convex_last_iterate(0.0), "scale must be one"),
        (
            lambda: schedules.convex_last_iterate(1.0, -1.0),
            "smoothness must be one",
        ),
        (
            lambda: schedules.convex_last_iterate(1.0, moment=1.0),
            "moment must be one",
        ),
        (
            lambda: schedules.convex_last_iterate(1.0, moment=3.0),
            "moment must be one",
        ),
        (lambda: schedules.convex_last_iterate(1.0, steps=0), "steps must be one"),
        (lambda: schedules.nonsmooth_last_iterate(np.nan, 4), "scale must be one"),
        (lambda: schedules.nonsmooth_last_iterate(1.0, 0), "steps must be one"),
        (
            lambda: schedules.strongly_convex_last_iterate(0.0),
            "convexity must be one",
        ),
        (lambda: schedules.last_iterate_scale(1.0, 0.0), "larger of noise"),
        (lambda: schedules.last_iterate_scale(1.0, 1.0, failure=1.0), "failure must"),
        (lambda: schedules.linear_decay(-1.0, 4), "peak_value must be one"),
        (lambda: schedules.linear_decay(1.0, 4, warmup_steps=5), "warmup_steps must"),
        (lambda: schedules.linear_decay(1.0, 2**31), "steps must be one"),
        (lambda: schedules.linear_decay(1.0, 4, warmup_steps=-1), "warmup_steps must"),
        (lambda: schedules.tabulated(jnp.ones((2, 2))), "values must be one axis"),
        (lambda: schedules.tabulated(jnp.ones(0)), "values must be one axis"),
    ],
)
def test_numbers_out_of_range_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
