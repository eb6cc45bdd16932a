"""Surrogates in the space of targets: the authors' steps, and what they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsolve import prox, transforms

RNG = np.random.default_rng(0)
X = RNG.normal(size=(8, 3))
Y = RNG.normal(size=8)


def model(theta):
    return jnp.tanh(jnp.asarray(X, theta.dtype) @ theta)


def loss(z):
    return jnp.sum((z - jnp.asarray(Y, z.dtype)) ** 2 * 2) + jnp.sum(z**4)


def advance(transform, theta, state, model=model, loss=loss):
    """One update with one gradient of the loss."""
    target_grad = jax.grad(loss)(model(theta))
    extra = dict(target_fn=model, target_grad=target_grad, target_value_fn=loss)
    step, state = transform.update(theta, state, theta, **extra)
    return optax.apply_updates(theta, step), state


def armijo(z, g, last):
    eta = min(max(1.8 * last, 1e-4), 1e4)
    value = lambda z: float(loss(jnp.asarray(z)))
    while eta > 1e-4 and value(z - eta * g) > value(z) - 0.5 * eta * g @ g:
        eta = max(0.9 * eta, 1e-4)
    return eta


def authors(rule, weigh, outer, steps, alpha):
    """Lavington et al. (2023): inner gradient descent on the surrogate."""
    theta, iterates, etas, total, eta = np.full(3, 0.3), [], [], 0.0, 1.0
    for t in range(outer):
        z = np.tanh(X @ theta)
        g = 4 * (z - Y) + 4 * z**3
        total += g @ g
        if rule == "constant":
            eta = 0.2
        elif rule == "schedule":
            eta = 0.2 / np.sqrt(t + 1)
        elif rule == "adagrad":
            eta = 1.5 / np.sqrt(total)
        else:
            eta = armijo(z, g, eta)
        w = weigh(z)
        for _ in range(steps):
            f = np.tanh(X @ theta)
            slope = X.T @ ((1 - f**2) * (g + w * (f - z) / eta))
            theta = theta - alpha * slope
        iterates.append(theta)
        etas.append(eta)
    return iterates, etas


RULES = {
    "constant": 0.2,
    "schedule": lambda t: 0.2 / jnp.sqrt(jnp.asarray(t + 1, float)),
    "adagrad": transforms.adagrad_target_step(1.5),
    "armijo": transforms.armijo_target_step(),
}
LOGISTIC = lambda z: 1 / (1 + np.exp(-z)) / (1 + np.exp(z)) + 1e-5
WEIGHTS = {
    "squared": (transforms.squared_divergence, np.ones_like),
    "logistic": (transforms.logistic_divergence, LOGISTIC),
}


@pytest.mark.parametrize(
    "rule, distance",
    [(rule, "squared") for rule in RULES] + [("constant", "logistic")],
)
def test_first_iterates_are_the_authors(x64, rule, distance):
    divergence, weigh = WEIGHTS[distance]
    transform = transforms.target_surrogate(
        optax.sgd(0.01), RULES[rule], steps=6, divergence=divergence
    )
    theta = jnp.full(3, 0.3)
    state = transform.init(theta)
    expected, etas = authors(rule, weigh, 4, 6, 0.01)
    once = jax.jit(lambda theta, state: advance(transform, theta, state))
    for point, eta in zip(expected, etas, strict=True):
        theta, state = once(theta, state)
        np.testing.assert_allclose(theta, point, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(state.stepsize, eta, rtol=1e-12)
        assert state.steps == 6


@pytest.mark.parametrize("eta", [1e-3, 1.0, 1e3])
def test_one_inner_step_is_gradient_descent_on_the_objective(x64, eta):
    transform = transforms.target_surrogate(optax.sgd(0.1), eta, steps=1)
    theta = jnp.full(3, 0.3)
    moved, _ = advance(transform, theta, transform.init(theta))
    slope = jax.grad(lambda theta: loss(model(theta)))(theta)
    np.testing.assert_allclose(moved, theta - 0.1 * slope, rtol=1e-12)


def test_a_squared_loss_of_linear_targets_takes_one_gradient(x64):
    x, y = jnp.asarray(X), jnp.asarray(Y)
    linear, squared = lambda theta: x @ theta, lambda z: jnp.sum((z - y) ** 2) / 2
    rate = 1 / np.linalg.norm(X, 2) ** 2
    transform = transforms.target_surrogate(optax.sgd(rate), 1.0, steps=2000, tol=1e-12)
    theta = jnp.zeros(3)
    theta, state = advance(transform, theta, transform.init(theta), linear, squared)
    np.testing.assert_allclose(theta, np.linalg.lstsq(X, Y)[0], rtol=1e-9)
    assert state.steps < 2000  # it ended early


def test_more_inner_steps_need_fewer_gradients_and_the_bound_holds(x64):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(200, 20)) * np.geomspace(1, 32, 20))
    truth = rng.normal(size=20) / np.geomspace(1, 32, 20)
    flips = rng.uniform(size=200) < 1 / (1 + np.exp(np.asarray(x) @ truth * 2))
    signs = jnp.asarray(np.where(flips, -1.0, 1.0))
    linear = lambda theta: x @ theta
    logistic = lambda z: jnp.sum(jnp.logaddexp(0, -signs * z))
    alpha = 4.0 / np.linalg.norm(x, 2) ** 2

    def losses(steps):
        transform = transforms.target_surrogate(optax.sgd(alpha), 4.0, steps=steps)

        def outer(carry, _):
            theta, state = carry
            new, state = advance(transform, theta, state, linear, logistic)
            change, z = linear(new) - linear(theta), linear(theta)
            bound = logistic(z) + jax.grad(logistic)(z) @ change + change @ change / 8
            return (new, state), (logistic(linear(new)), bound)

        theta = jnp.zeros(20)
        run = jax.jit(lambda carry: jax.lax.scan(outer, carry, length=50)[1])
        values, bounds = run((theta, transform.init(theta)))
        assert np.all(values <= bounds + 1e-9)  # majorise and minimise
        assert np.all(np.diff(values) <= 1e-9)
        return np.asarray(values)[[0, 4, 19, 49]] / 200

    few, some, many = losses(1), losses(10), losses(100)
    # The authors' ordering, by factors: with ten times the steps three quarters of the
    # loss at most, from five gradients on.
    assert np.all(some < few) and np.all(some[1:] < 0.75 * few[1:])
    assert np.all(many < 0.75 * some)


def test_the_gradient_is_frozen():
    asked = []

    def expensive(z):
        asked.append(1)
        return loss(z)

    transform = transforms.target_surrogate(optax.sgd(0.01), 0.2, steps=20)
    theta = jnp.full(3, 0.3)
    grad = jax.grad(expensive)(model(theta))
    extra = dict(target_fn=model, target_grad=grad)
    transform.update(theta, transform.init(theta), theta, **extra)
    assert len(asked) == 1


def test_any_transformation_may_be_inside_even_a_line_search(x64):
    theta = jnp.full(3, 0.3)
    objective = lambda theta: loss(model(theta))
    for inner in (
        optax.adam(0.05),
        transforms.armijo_sgd(0.5, growth=1.8, shrink=0.9),
        optax.chain(optax.lbfgs(learning_rate=0.1)),
    ):
        transform = transforms.target_surrogate(inner, 0.05, steps=10)
        moved, state = advance(transform, theta, transform.init(theta))
        assert objective(moved) < objective(theta)
        again, _ = advance(transform, moved, state)
        fresh, _ = advance(transform, moved, transform.init(theta))
        np.testing.assert_allclose(again, fresh)  # inner states begin anew


def test_targets_may_be_trees_and_divergences_those_of_mirror_maps(x64):
    theta = {"a": jnp.array(0.3), "b": jnp.array([0.1, 0.2])}
    tree = lambda p: {"u": p["a"] * p["b"], "v": jnp.sum(p["b"])}
    value = lambda z: jnp.sum((z["u"] - 1) ** 2) + (z["v"] - 2) ** 2
    transform = transforms.target_surrogate(optax.sgd(0.05), 0.1)
    moved, _ = advance(transform, theta, transform.init(theta), tree, value)
    assert value(tree(moved)) < value(tree(theta))

    x = jnp.array([0.2, 0.3])
    shares = lambda x: jax.nn.softmax(jnp.append(x, 0.0))
    cost = lambda z: z @ jnp.array([1.0, -1.0, 0.5])
    mirrored = transforms.target_surrogate(
        optax.sgd(0.1), 1.0, divergence=prox.entropy_map().divergence
    )
    moved, _ = advance(mirrored, x, mirrored.init(x), shares, cost)
    assert cost(shares(moved)) < cost(shares(x))


def test_newton_like_distances_are_the_curvature_of_their_losses(x64):
    z, d = jnp.asarray(RNG.normal(size=(2, 4))), jnp.asarray(RNG.normal(size=(2, 4)))
    lse = lambda z: jnp.sum(jax.nn.logsumexp(z, axis=-1))
    softplus = lambda z: jnp.sum(jax.nn.softplus(z))
    for loss, divergence in (
        (lse, transforms.softmax_divergence),
        (softplus, transforms.logistic_divergence),
    ):
        curved = jnp.vdot(d, jax.jvp(jax.grad(loss), (z,), (d,))[1])
        damped = (curved + 1e-5 * jnp.sum(d**2)) / 2
        np.testing.assert_allclose(divergence(z + d, z), damped, rtol=1e-10)
        exact = transforms.bregman_divergence(loss)
        near = exact(z + 1e-4 * d, z)
        np.testing.assert_allclose(near, 1e-8 * curved / 2, rtol=1e-2)
        assert exact(z + d, z) > 0 == exact(z, z)


def test_the_search_ends_at_its_least_and_spares_zero_gradients():
    z, never = jnp.ones(2), lambda z: jnp.where(jnp.all(z == 1), 0.0, jnp.inf)
    rule = transforms.armijo_target_step()
    eta, _ = rule.update(rule.init(z), 0, z, z, never)
    np.testing.assert_allclose(eta, 1e-4, rtol=1e-6)
    eta, _ = rule.update(rule.init(z), 0, z, 0 * z, lambda z: jnp.sum(z))
    np.testing.assert_allclose(eta, 1.8, rtol=1e-6)
    adagrad = transforms.adagrad_target_step(2.0)
    eta, _ = adagrad.update(adagrad.init(z), 0, z, 0 * z, None)
    assert eta == 2.0


def test_adagrads_rule_holds_at_every_scale():
    rule = transforms.adagrad_target_step(2.0)
    for scale in (1e-25, 1.0, 1e25):
        g, memory = scale * jnp.array([3.0, 4.0]), rule.init(jnp.ones(2))
        for expected in (2 / 5, 2 / 5 / 2**0.5):
            eta, memory = rule.update(memory, 0, g, g, None)
            np.testing.assert_allclose(scale * eta, expected, rtol=1e-5)
        eta, after = rule.update(memory, 0, g, g * jnp.nan, None)
        assert jnp.isnan(eta) and after == memory


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: transforms.target_surrogate(jnp.sum), "optax"),
        (lambda: transforms.target_surrogate(optax.sgd(1.0), 0.0), "stepsize"),
        (lambda: transforms.target_surrogate(optax.sgd(1.0), steps=0), "steps"),
        (lambda: transforms.target_surrogate(optax.sgd(1.0), tol=-1.0), "tol"),
        (lambda: transforms.adagrad_target_step(0.0), "scale"),
        (lambda: transforms.armijo_target_step(decrease=1.0), "decrease"),
        (lambda: transforms.armijo_target_step(shrink=1.0), "shrink"),
        (lambda: transforms.armijo_target_step(0.0), "first"),
        (lambda: transforms.armijo_target_step(growth=0.5), "growth"),
        (lambda: transforms.armijo_target_step(least=1.0, most=0.1), "most"),
    ],
)
def test_wrong_options_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_what_does_not_fit_is_named():
    theta = jnp.ones(3)
    transform = transforms.target_surrogate(optax.sgd(0.1))
    state = transform.init(theta)
    extra = dict(target_fn=model, target_grad=jnp.ones(7))
    with pytest.raises(ValueError, match="target_grad"):
        transform.update(theta, state, theta, **extra)
    with pytest.raises(ValueError, match="params"):
        transform.update(theta, state, **extra)
    searched = transforms.target_surrogate(
        optax.sgd(0.1), transforms.armijo_target_step()
    )
    extra = dict(target_fn=model, target_grad=jnp.ones(8))
    with pytest.raises(ValueError, match="target_value_fn"):
        searched.update(theta, searched.init(theta), theta, **extra)
