"""Lion-K: the paper's iterates for every K, its two phases, and the box it solves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import transforms

LAM = 0.5
HESSIAN = np.diag(np.linspace(0.5, 2.0, 6)) + 0.1
TARGET = np.array([3.0, -4.0, 0.2, 1.0, -0.5, 2.5])


def gradient(x):
    return HESSIAN @ (x - TARGET)


def polar(m):
    u, _, vt = np.linalg.svd(m, full_matrices=False)
    return u @ vt


def norm_slope(m, p):
    return np.sign(m) * np.abs(m) ** (p - 1) / np.sum(np.abs(m) ** p) ** ((p - 1) / p)


def largest(m, k):
    edge = np.sort(np.abs(m))[-k]
    return np.sign(m) * (np.abs(m) >= edge)


def rows(slope):
    return lambda m: np.stack([slope(row) for row in m.reshape(2, 3)]).ravel()


E = 0.3
# Each K beside its subgradient as the table of the paper has it; params are 2 x 3.
TABLE = {
    "l1": (transforms.l1_kappa(), np.sign),
    "half_square": (transforms.half_square_kappa(), lambda m: m),
    "sparse": (
        transforms.sparse_kappa(E),
        lambda m: np.sign(m) * (np.abs(m) > E),
    ),
    "huber": (transforms.huber_kappa(E), lambda m: np.clip(m, -E, E) / E),
    "smooth": (transforms.smooth_kappa(E), lambda m: m / np.sqrt(m**2 + E**2)),
    "l2": (transforms.lp_kappa(2.0), lambda m: norm_slope(m, 2)),
    "l3": (transforms.lp_kappa(3.0), lambda m: norm_slope(m, 3)),
    "l1.5": (transforms.lp_kappa(1.5), lambda m: norm_slope(m, 1.5)),
    "group": (transforms.lp_kappa(2.0, axis=1), rows(lambda m: norm_slope(m, 2))),
    "top_k": (transforms.top_k_kappa(2), lambda m: largest(m, 2)),
    "nuclear": (
        transforms.nuclear_kappa(),
        lambda m: polar(m.reshape(2, 3)).ravel(),
    ),
}
KAPPAS = {
    **{name: kappa for name, (kappa, _) in TABLE.items()},
    "leaves": transforms.per_leaf_kappa(transforms.lp_kappa(3.0)),
    "leaves_top_k": transforms.per_leaf_kappa(transforms.top_k_kappa(2)),
}


def papers(slope, steps, eta, b1, b2, implicit):
    """Chen et al. (2024): m follows the negative gradient."""
    x, m, iterates = np.full(6, 0.1), np.zeros(6), []
    for _ in range(steps):
        g = gradient(x)
        ahead = b1 * m - (1 - b1) * g
        m = b2 * m - (1 - b2) * g
        if implicit:
            x = (x + eta * slope(ahead)) / (1 + eta * LAM)
        else:
            x = x + eta * (slope(ahead) - LAM * x)
        iterates.append(x)
    return iterates


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("name", TABLE)
def test_first_iterates_are_the_papers(x64, name, implicit):
    kappa, slope = TABLE[name]
    transform = transforms.lion_k(0.1, kappa, 0.8, 0.95, LAM, implicit=implicit)
    update = jax.jit(transform.update)
    x = jnp.full((2, 3), 0.1)
    state = transform.init(x)
    for expected in papers(slope, 8, 0.1, 0.8, 0.95, implicit):
        g = jnp.asarray(gradient(np.asarray(x).ravel()).reshape(2, 3))
        step, state = update(g, state, x)
        x = x + step
        np.testing.assert_allclose(x.ravel(), expected, rtol=1e-10, atol=1e-12)


def test_with_the_one_norm_it_is_lion_bit_for_bit():
    rng = np.random.default_rng(0)
    schedule = optax.linear_schedule(1e-2, 0.0, 10)
    ours = transforms.lion_k(schedule, weight_decay=0.1)
    theirs = optax.lion(schedule, weight_decay=0.1)
    draw = lambda: {
        "w": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32),
        "b": jnp.asarray(rng.normal(), jnp.float32),
    }
    x = y = draw()
    state, other = ours.init(x), theirs.init(y)
    for _ in range(6):
        g = draw()
        step, state = ours.update(g, state, x)
        their_step, other = theirs.update(g, other, y)
        x, y = optax.apply_updates(x, step), optax.apply_updates(y, their_step)
        jax.tree.map(np.testing.assert_array_equal, (x, state[0].mu), (y, other[0].mu))


def test_without_decay_coordinates_move_by_the_rate_whatever_the_scale_of_the_loss():
    transform = transforms.lion_k(0.125, weight_decay=0.0)
    g = jnp.array([3.0, -1e-6, 0.0])
    for scale in (1.0, 1e4):
        step, _ = transform.update(scale * g, transform.init(g), g)
        np.testing.assert_array_equal(step, [-0.125, 0.125, 0.0])


@pytest.mark.parametrize("name", KAPPAS)
def test_conjugates_are_conjugates_and_balls_hold_subgradients(x64, name):
    kappa, rng = KAPPAS[name], np.random.default_rng(1)
    draw = lambda: [
        jnp.asarray(rng.normal(size=(3, 4))),
        jnp.asarray(rng.normal(size=(1, 2))),
    ]
    zero = jax.tree.map(jnp.zeros_like, draw())
    assert kappa.value(zero) == 0 == kappa.conjugate(zero)
    assert all(jnp.all(s == 0) for s in kappa.subgradient(zero))
    for _ in range(20):
        m, x = draw(), draw()
        slope = kappa.subgradient(m)
        pair = optax.tree.vdot(m, slope)
        total = kappa.value(m) + kappa.conjugate(slope)
        np.testing.assert_allclose(total, pair, rtol=1e-12, atol=1e-12)
        if kappa.dual_norm is not None:
            assert kappa.dual_norm(slope) <= 1 + 1e-12
            outside = optax.tree.scale(1.1 / kappa.dual_norm(x), x)
            assert kappa.conjugate(outside) == jnp.inf
            x = optax.tree.scale(0.99 / kappa.dual_norm(x), x)
        least = kappa.value(m) + kappa.conjugate(x) - optax.tree.vdot(m, x)
        assert least >= -1e-12


def test_the_lyapunov_function_falls_along_the_flow_to_a_stationary_point(x64):
    kappa = transforms.smooth_kappa(E)
    dt, eps, gamma, lam = 1e-3, 0.5, 1.5, LAM
    x, m = jnp.full(6, -0.5), jnp.zeros(6)
    hessian, target = jnp.asarray(HESSIAN), jnp.asarray(TARGET)
    f = lambda x: (x - target) @ hessian @ (x - target) / 2

    def lyapunov(x, m):
        k = kappa.penalty(lam * x)
        gap = k + kappa.value(m) - lam * m @ x
        mixed = (1 - eps * gamma) / (1 + eps * lam) * gap
        return gamma * (f(x) + k / lam) + mixed

    def flow(carry, _):
        x, m = carry
        m_dot = -gamma * jax.grad(f)(x) - gamma * m
        x_dot = kappa.subgradient(m + eps * m_dot) - lam * x
        return (x + dt * x_dot, m + dt * m_dot), lyapunov(x, m)

    (x, m), heights = jax.jit(lambda carry: jax.lax.scan(flow, carry, length=40_000))(
        (x, m)
    )
    assert np.max(np.diff(heights)) <= 1e-12
    stationary = lam * x - kappa.subgradient(-jax.grad(f)(x))
    np.testing.assert_allclose(stationary, 0, atol=1e-5)


def trajectory(transform, x, steps, center):
    """Iterates on a quadratic that is not separable."""

    def step(carry, _):
        x, state = carry
        g = jnp.asarray(HESSIAN) @ (x - center)
        updates, state = transform.update(g, state, x)
        x = x + updates
        return (x, state), x

    scan = jax.jit(lambda carry: jax.lax.scan(step, carry, length=steps)[1])
    return scan((x, transform.init(x)))


@pytest.mark.parametrize("implicit", [False, True])
def test_from_outside_of_the_box_the_distance_to_it_shrinks_as_proved(x64, implicit):
    eta, lam = 1e-2, 1.0
    transform = transforms.lion_k(eta, weight_decay=lam, implicit=implicit)
    x = jnp.linspace(-5.0, 8.0, 6)
    xs = trajectory(transform, x, 600, jnp.asarray(TARGET))
    outside = lambda x: np.linalg.norm(x - np.clip(x, -1 / lam, 1 / lam), axis=-1)
    factor = 1 / (1 + eta * lam) if implicit else 1 - eta * lam
    bound = factor ** np.arange(1, 601) * outside(np.asarray(x))
    assert np.all(outside(np.asarray(xs)) <= bound + 1e-12)


def test_it_finds_the_solution_in_the_box_at_the_rate_of_the_decay(x64):
    transform = transforms.lion_k(1e-3, weight_decay=1.0)
    center = jnp.array([3.0, -4.0, 5.0, 3.0, -4.0, 2.5])
    corner = np.sign(center)
    assert np.all(corner * (HESSIAN @ (corner - center)) < 0)  # it is the solution
    xs = trajectory(transform, jnp.zeros(6), 20_000, center)
    at = np.asarray(xs)[np.array([4, 8, 12, 16, 20]) * 1000 - 1]
    errors = np.max(np.abs(at - corner), axis=1)
    np.testing.assert_allclose(errors[1:] / errors[:-1], np.exp(-4), rtol=5e-3)
    assert errors[-1] < 1e-7
    gaps = []
    for x in at:
        g = jnp.asarray(HESSIAN @ (x - np.asarray(center)))
        gap = transforms.fenchel_gap(transforms.l1_kappa(), jnp.asarray(x), g, 1.0)
        assert gap.violation == 0
        gaps.append(gap.gap)
    assert np.all(np.divide(gaps[1:], gaps[:-1]) < 0.02)


def test_coordinates_inside_of_the_box_chatter_at_the_height_of_the_rate(x64):
    floors = []
    for eta in (1e-3, 1e-4):
        transform = transforms.lion_k(eta, weight_decay=1.0)
        center = jnp.array([0.1, -0.2, 0.2, 0.1, -0.5, 0.3])
        steps = int(6 / eta)
        xs = np.asarray(trajectory(transform, jnp.zeros(6), steps, center))
        floors.append(np.max(np.abs(xs[-steps // 3 :] - np.asarray(center))))
    np.testing.assert_allclose(np.divide(floors, [1e-3, 1e-4]), 1.3, atol=0.2)


def test_the_gap_is_that_of_frank_wolfe_and_of_points_in_the_ball():
    g, x, lam = jnp.array([0.5, -2.0, 1.0]), jnp.array([1.0, 0.5, -3.0]), 0.25
    gap = transforms.fenchel_gap(transforms.l1_kappa(), x, g, lam)
    vertex = -jnp.sign(g) / lam
    np.testing.assert_allclose(gap.gap, lam * jnp.sum(g * (x - vertex)), rtol=1e-6)
    far = transforms.fenchel_gap(transforms.l1_kappa(), 8 * x, g, lam)
    assert far.gap >= 0
    np.testing.assert_allclose(far.violation, 5.0, rtol=1e-6)
    heavy = transforms.fenchel_gap(transforms.half_square_kappa(), -g / lam, g, lam)
    assert abs(heavy.gap) < 1e-6 and heavy.violation == 0


def test_entries_that_tie_share_what_is_left():
    kappa = transforms.top_k_kappa(2)
    slope = kappa.subgradient([jnp.array([3.0, -1.0]), jnp.array([1.0, 1.0, 0.5])])
    np.testing.assert_allclose(slope[0], [1, -1 / 3], rtol=1e-6)
    np.testing.assert_allclose(slope[1], [1 / 3, 1 / 3, 0], rtol=1e-6)
    few = transforms.top_k_kappa(9).subgradient(jnp.array([3.0, -1.0, 0.0]))
    np.testing.assert_array_equal(few, [1, -1, 0])


def test_polar_factors_leave_out_null_spaces_and_newton_schulz_tends_to_them(x64):
    rng = np.random.default_rng(0)
    tall, stack = (
        jnp.asarray(rng.normal(size=(5, 3))),
        jnp.asarray(rng.normal(size=(2, 3, 4))),
    )
    exact = transforms.nuclear_kappa().subgradient
    for m in (tall, stack):
        before = np.inf
        for steps in (2, 6, 14):
            kappa = transforms.nuclear_kappa(steps)
            error = np.max(np.abs(kappa.subgradient(m) - exact(m)))
            assert kappa.dual_norm(kappa.subgradient(m)) <= 1 + 1e-12
            assert error < before
            before = error
        assert before < 1e-8
    flat = exact(jnp.outer(jnp.array([3.0, 4.0]), jnp.array([0.0, 2.0])))
    np.testing.assert_allclose(flat, [[0, 0.6], [0, 0.8]], atol=1e-12)
    np.testing.assert_allclose(exact(jnp.array([3.0, 4.0])), [0.6, 0.8], rtol=1e-12)
    assert transforms.nuclear_kappa(3).subgradient(jnp.array(-2.0)) == -1
    assert np.all(transforms.nuclear_kappa(3).subgradient(jnp.zeros((2, 2))) == 0)


def test_huge_and_tiny_momenta_neither_overflow_nor_vanish():
    for scale in (1e37, 1e30, 1e-30):
        m = scale * jnp.array([[3.0, 4.0]])
        for kappa in (transforms.lp_kappa(2.0), transforms.nuclear_kappa(1)):
            np.testing.assert_allclose(kappa.subgradient(m), [[0.6, 0.8]], rtol=1e-5)
        for width in (1e-30, 1.0, 1e30):
            smooth = transforms.smooth_kappa(width)
            assert np.all(np.isfinite(smooth.subgradient(m / 5)))
            assert np.isfinite(smooth.value(m / 5))
            assert np.isfinite(smooth.penalty(jnp.ones(2)))


def test_implicit_decay_spares_masked_leaves_and_follows_schedules():
    schedule = lambda count: jnp.where(count == 0, 0.5, 0.25)
    transform = transforms.lion_k(
        schedule, weight_decay=2.0, implicit=True, mask={"w": True, "b": False}
    )
    x = {"w": jnp.array([4.0]), "b": jnp.array([4.0])}
    state = transform.init(x)
    w = b = 4.0
    for eta in (0.5, 0.25):
        step, state = transform.update(x, state, x)
        x = optax.apply_updates(x, step)
        w, b = (w - eta) / (1 + 2 * eta), b - eta
        np.testing.assert_allclose((x["w"][0], x["b"][0]), (w, b), rtol=1e-6)


def test_decay_spares_masked_leaves():
    transform = transforms.lion_k(0.25, weight_decay=2.0, mask={"w": True, "b": False})
    x = {"w": jnp.array([4.0]), "b": jnp.array([4.0])}
    step, _ = transform.update(x, transform.init(x), x)
    np.testing.assert_allclose((step["w"][0], step["b"][0]), (-2.25, -0.25))


def test_the_smooth_norm_and_its_conjugate_keep_every_digit(x64):
    kappa = transforms.smooth_kappa(2.0)
    for size in (1e-6, 1e-3, 1.0, 1.9e4, 2.1e4, 1e9):
        m = np.float64(size)
        root = np.sqrt(np.longdouble(size) ** 2 + 4)
        value = np.longdouble(size) ** 2 / (root + 2)
        slope = np.longdouble(size) / root
        np.testing.assert_allclose(kappa.value(jnp.array([m])), value, rtol=1e-14)
        ours = kappa.subgradient(jnp.array([m]))
        np.testing.assert_allclose(ours[0], slope, rtol=4e-16)
        if size <= 1:
            x = np.longdouble(size)
            penalty = 2 * x**2 / (1 + np.sqrt(1 - x**2))
            np.testing.assert_allclose(kappa.penalty(jnp.array([m])), penalty)


def test_rounding_makes_no_gap_negative():
    kappa, g = transforms.smooth_kappa(1.0), jnp.array([1e-3])
    gap = lambda x: transforms.fenchel_gap(kappa, x, g, 1.0).gap
    gaps = jax.vmap(gap)(jnp.linspace(-3e-3, 3e-3, 101)[:, None])
    assert np.min(gaps) >= 0
    np.testing.assert_allclose(gaps[-1], 8e-6, rtol=1e-4)  # half of (4e-3)^2
    assert gap(kappa.subgradient(-g)) < 1e-12


def test_a_function_that_is_not_even_sees_the_negative_gradient():
    kappa = transforms.Kappa(  # one half of (m)_+^2: only what should grow, grows
        lambda m: jnp.sum(jnp.maximum(m, 0) ** 2) / 2,
        lambda m: jnp.maximum(m, 0),
        lambda x: jnp.where(jnp.all(x >= 0), jnp.sum(x**2) / 2, jnp.inf),
    )
    transform = transforms.scale_by_lion_k(kappa, 0.0)
    direction, _ = transform.update(
        jnp.array([1.0, -2.0]), transform.init(jnp.zeros(2))
    )
    np.testing.assert_array_equal(direction, [0.0, -2.0])


def test_gradients_that_are_not_a_number_are_passed_on():
    for name, kappa in KAPPAS.items():
        transform = transforms.scale_by_lion_k(kappa)
        g = jnp.array([[jnp.nan, 1.0, 2.0], [1.0, 2.0, 3.0]])
        step, _ = transform.update(g, transform.init(g))
        assert np.any(np.isnan(step)), name


def test_memory_may_be_narrow_if_asked_for():
    transform = transforms.scale_by_lion_k(mu_dtype=jnp.bfloat16)
    g = jnp.ones(3)
    step, state = transform.update(g, transform.init(g))
    assert state.mu.dtype == jnp.bfloat16 and step.dtype == jnp.float32


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: transforms.lion_k(0.1, jnp.sign), "Kappa"),
        (lambda: transforms.lion_k(0.1, b1=1.0), "b1"),
        (lambda: transforms.lion_k(0.1, b2=-0.1), "b2"),
        (lambda: transforms.lion_k(0.1, weight_decay=-1.0), "weight_decay"),
        (lambda: transforms.lion_k(0.5, weight_decay=2.0), "implicit"),
        (lambda: transforms.lion_k(-1.0), "learning_rate"),
        (lambda: transforms.lp_kappa(1.0), "l1_kappa"),
        (lambda: transforms.lp_kappa(float("inf")), "top_k_kappa"),
        (lambda: transforms.lp_kappa(2.0, axis=1).value(jnp.zeros(3)), "axis"),
        (lambda: transforms.top_k_kappa(0), "k must"),
        (lambda: transforms.nuclear_kappa(0), "newton_schulz"),
        (lambda: transforms.nuclear_kappa(True), "newton_schulz"),
        (lambda: transforms.sparse_kappa(-1.0), "threshold"),
        (lambda: transforms.huber_kappa(0.0), "width"),
        (lambda: transforms.smooth_kappa(0.0), "width"),
    ],
)
def test_wrong_options_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()
