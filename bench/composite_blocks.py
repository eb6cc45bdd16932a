"""Mirror descent, block coordinate descent and Frank-Wolfe, against their peers."""

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
from jaxopt import objective
from sklearn import linear_model, svm
from sklearn.datasets import make_classification

import jaxsolve
from bench._harness import Contender, compare, row, target
from jaxsolve import composite, prox

OURS = "jaxsolve"


def ours(make, tol, max_steps=10_000):
    """Give one of our solvers, to be compiled."""

    def build(fun):
        solver = make(fun)

        def solve(x, data):
            out = jaxsolve.run(solver, x, data, max_steps=max_steps, tol=tol)
            return out.params, out.state.count

        return solve

    return build


def jaxopts(make, hyper=None):
    """Give one of JAXopt's solvers, to be compiled."""

    def build(fun):
        solver = make(fun)

        def solve(x, data):
            out = solver.run(x, hyper, *data)
            return out.params, out.state.iter_num

        return solve

    return build


def driver(fit):
    """Give a library that is driven from Python."""

    def build(_):
        def solve(x, data):
            return fit(x, data)

        return solve

    return build


def mapping_of(fun, operator, data):
    """Give the judge: the sup-norm of the gradient mapping with unit stepsize."""
    gradient = jax.grad(fun)
    judge = lambda x: x - operator(x - gradient(x, data), 1.0)
    return jax.jit(lambda x: jnp.max(jnp.abs(judge(x))))


def multitask(options):
    """Measure the multitask lasso, by rows, against JAXopt and scikit-learn."""
    rng = np.random.default_rng(0)
    samples, features, tasks = (60, 100, 3) if options.quick else (200, 500, 5)
    matrix = rng.normal(size=(samples, features))
    truth = np.zeros((features, tasks))
    truth[: features // 20] = rng.normal(size=(features // 20, tasks))
    targets = matrix @ truth + 0.1 * rng.normal(size=(samples, tasks))
    weight = 0.1 * np.linalg.norm(matrix.T @ targets / samples, axis=1).max()
    data, bound = (jnp.asarray(matrix), jnp.asarray(targets)), 1e-6
    x = jnp.zeros((features, tasks))
    model = composite.least_squares_model()
    judge = mapping_of(model, prox.group_lasso(weight, axis=1), data)

    def bcd(fun, scale):
        # JAXopt takes the mean over samples and tasks.
        return jaxopt.BlockCoordinateDescent(
            fun, jaxopt.prox.prox_group_lasso, tol=1e-8, maxiter=5000, unroll=False
        )

    class Squares(type(objective.least_squares)):
        def columnwise_lipschitz_const(self, data):
            return super().columnwise_lipschitz_const(data) / data[1].size

    hyper = weight / tasks
    peer = linear_model.MultiTaskLasso(weight, fit_intercept=False, tol=1e-8)

    def fit(x, data):
        peer.fit(matrix, targets)
        return peer.coef_.T, peer.n_iter_

    greedy = lambda fun: composite.block_coordinate_descent(
        model, prox.group_lasso(weight)
    )
    shuffled = lambda fun: composite.block_coordinate_descent(
        model, prox.group_lasso(weight), key=jax.random.key(0)
    )
    fista = lambda fun: composite.proximal_gradient(
        model, prox.group_lasso(weight, axis=1)
    )
    wrap = lambda solver: lambda _: _packed(solver, hyper)
    contenders = [
        Contender(OURS, ours(greedy, bound), "cyclic"),
        Contender("jaxsolve shuffled", ours(shuffled, bound), ""),
        Contender("jaxsolve proximal_gradient", ours(fista, bound), ""),
        Contender("jaxopt BCD", wrap(bcd(objective.least_squares, 1)), "as it is"),
        Contender("jaxopt BCD, right constant", wrap(bcd(Squares(), 1)), ""),
        Contender("scikit-learn MultiTaskLasso", driver(fit), "", compiled=False),
    ]
    if options.quick:
        contenders.pop(3)
    figures = compare(contenders, model, (x, data), judge, bound, options)
    fair = "jaxopt BCD, right constant"
    targets = [
        target(f"time of {fair} / ours", figures.ratio(fair, OURS), ">=", 1.0),
        target("ours reaches 1e-6", figures.of(OURS)["reached"], ">=", 1.0),
    ]
    problem = f"multitask lasso, {samples} x {features}, {tasks} tasks, to 1e-6"
    yield row("multitask_lasso", problem, figures, OURS, targets=targets)


def _packed(solver, hyper):
    """JAXopt's `run(x, hyper, data)` for data that are one argument."""

    def solve(x, data):
        out = solver.run(x, hyper, data)
        return out.params, out.state.iter_num

    return solve


def svm_problem(options):
    """Make the dual of a multiclass support vector machine, with its judge."""
    samples, features = (60, 20) if options.quick else (300, 100)
    matrix, labels = make_classification(
        samples, features, n_informative=5, n_classes=5, random_state=0
    )
    data = (jnp.asarray(matrix), jnp.asarray(np.eye(5)[labels]), jnp.asarray(10.0))
    start = jnp.full((samples, 5), 0.2)
    judge = mapping_of(composite.svm_dual_model(), prox.simplex(axis=1), data)
    shape = f"{samples} x {features}, 5 classes, ridge 10"
    return matrix, labels, data, start, judge, shape


def svm_dual(options):
    """Measure block coordinate descent on the dual of a support vector machine."""
    matrix, labels, data, x, judge, shape = svm_problem(options)
    bound, model = 1e-5, composite.svm_dual_model()
    make = lambda fun: composite.block_coordinate_descent(model, prox.simplex())
    fista = lambda fun: composite.proximal_gradient(model, prox.simplex(axis=1))
    peer = jaxopt.BlockCoordinateDescent(
        objective.multiclass_linear_svm_dual,
        lambda v, hyper=None, scaling=1.0: jaxopt.projection.projection_simplex(v),
        tol=1e-7,
        maxiter=5000,
        unroll=False,
    )

    class Dual(type(objective.multiclass_linear_svm_dual)):
        def columnwise_lipschitz_const(self, l2reg, data):
            return super().columnwise_lipschitz_const(l2reg, data) / l2reg

    fair = jaxopt.BlockCoordinateDescent(
        Dual(), peer.block_prox, tol=1e-7, maxiter=5000, unroll=False
    )

    def packed(solver):
        def solve(x, data):
            features, labels, ridge = data
            out = solver.run(x, None, ridge, (features, labels))
            return out.params, out.state.iter_num

        return lambda _: solve

    linear = svm.LinearSVC(
        C=0.1, multi_class="crammer_singer", fit_intercept=False, tol=1e-6,
        max_iter=100_000,
    )  # fmt: skip

    def fit(x, data):
        linear.fit(matrix, labels)
        return linear.coef_.T, linear.n_iter_

    def either(params):
        """The error of dual variables, or that of primal weights by their loss."""
        if params.shape == x.shape:
            return judge(params)
        return jnp.abs(_primal(params, data) - best) / best

    dual = jaxsolve.run(make(None), x, data, max_steps=5000, tol=1e-9).params
    weights = data[0].T @ (data[1] - dual) / data[2]
    best = _primal(weights, data)
    contenders = [
        Contender(OURS, ours(make, bound), "cyclic"),
        Contender("jaxsolve proximal_gradient", ours(fista, bound), ""),
        Contender("jaxopt BCD", packed(peer), "as it is"),
        Contender("jaxopt BCD, right constant", packed(fair), ""),
        Contender("scikit-learn LinearSVC", driver(fit), "judged by the primal", False),
    ]
    figures = compare(contenders, model, (x, data), either, bound, options)
    name = figures.fastest([c.name for c in contenders[2:4]])
    targets = [
        target(f"time of {name} / ours", figures.ratio(name, OURS), ">=", 1.0),
        target("ours reaches 1e-5", figures.of(OURS)["reached"], ">=", 1.0),
    ]
    yield row("svm_dual", f"SVM dual, {shape}", figures, OURS, targets=targets)


def _primal(weights, data):
    """The primal objective of the support vector machine."""
    features, labels, ridge = data
    scores = features @ weights
    hinge = jnp.max(scores + 1 - labels, axis=1) - jnp.sum(scores * labels, axis=1)
    return jnp.sum(hinge) + ridge / 2 * jnp.sum(weights**2)


def mirror(options):
    """Measure mirror descent on the dual of a support vector machine."""
    _, _, data, x, judge, shape = svm_problem(options)
    bound, model = 1e-3, composite.svm_dual_model()
    # Of the gradient, from the 1-norms of rows to their sup-norms.
    stepsize = float(data[2] / jnp.linalg.norm(data[0], 2) ** 2)
    entropy = prox.entropy_map(axis=1)
    makes = {
        OURS: lambda f: composite.mirror_descent(f, entropy, accelerate=True),
        "jaxsolve plain": lambda f: composite.mirror_descent(f, entropy),
        "jaxsolve given stepsize": lambda f: composite.mirror_descent(
            f, entropy, stepsize
        ),
        "jaxsolve given, accelerated": lambda f: composite.mirror_descent(
            f, entropy, stepsize, accelerate=True
        ),
    }
    contenders = [Contender(n, ours(make, bound), "") for n, make in makes.items()]

    def peer(fun):
        kl = lambda z, _: jax.vmap(jax.nn.softmax)(z)
        step = jaxopt.MirrorDescent.make_projection_grad(kl, jnp.log)
        solver = jaxopt.MirrorDescent(
            fun, step, stepsize=stepsize, maxiter=10_000, tol=0.0, unroll=False
        )
        return _packed(solver, None)

    settings = "given stepsize; 10,000 steps, as ours takes with it"
    contenders.append(Contender("jaxopt MirrorDescent", peer, settings))
    figures = compare(contenders, model, (x, data), judge, bound, options)
    name = "jaxopt MirrorDescent"
    best = figures.fastest(list(makes))
    targets = [
        target(f"time of {name} / {best}", figures.ratio(name, best), ">=", 1.0),
        target(
            f"time of {name} / ours, the same stepsize and steps",
            figures.ratio(name, "jaxsolve given stepsize"),
            ">=",
            1.0,
        ),
    ]
    problem = f"SVM dual by entropic mirror descent, {shape}, to 1e-3"
    yield row("mirror", problem, figures, OURS, targets=targets)


def frank_wolfe(options):
    """Measure Frank-Wolfe variants on least squares over a 1-norm ball."""
    rng = np.random.default_rng(0)
    samples, features = (60, 40) if options.quick else (300, 200)
    matrix = rng.normal(size=(samples, features)) / np.sqrt(samples)
    truth = np.where(np.arange(features) < features // 10, 1.0, 0.0)
    data = jnp.asarray(matrix), jnp.asarray(matrix @ truth)
    radius = 0.7 * features // 10
    fun = lambda x, data: 0.5 * jnp.sum((data[0] @ x - data[1]) ** 2)
    oracle, bound = prox.l1_ball_vertex(radius), 1e-5

    def gap(x):
        grad = jax.grad(fun)(x, data)
        return jnp.vdot(grad, x - oracle.vertex(grad))

    makes = {
        OURS: lambda f: composite.pairwise_frank_wolfe(f, oracle),
        "jaxsolve away": lambda f: composite.away_frank_wolfe(f, oracle),
        "jaxsolve plain": lambda f: composite.frank_wolfe(f, oracle),
        "jaxsolve 2/(k+2)": lambda f: composite.frank_wolfe(
            f, oracle, lambda k: 2 / (k + 2)
        ),
    }
    contenders = [Contender(n, ours(m, bound, 5000), "") for n, m in makes.items()]
    projected = lambda f: composite.proximal_gradient(f, prox.l1_ball(radius))
    contenders.append(Contender("projected gradient", ours(projected, 1e-6), ""))
    peer = lambda f: _packed(
        jaxopt.ProjectedGradient(
            f, jaxopt.projection.projection_l1_ball, tol=1e-6, maxiter=5000,
            unroll=False,
        ),
        radius,
    )  # fmt: skip
    contenders.append(Contender("jaxopt ProjectedGradient", peer, ""))
    x = jnp.zeros(features)
    figures = compare(contenders, fun, (x, data), jax.jit(gap), bound, options)
    targets = [target("ours reaches 1e-5", figures.of(OURS)["reached"], ">=", 1.0)]
    problem = f"least squares on a 1-norm ball, {samples} x {features}, gap to 1e-5"
    yield row("frank_wolfe", problem, figures, OURS, targets=targets)


ROWS = {
    "multitask_lasso": multitask,
    "svm_dual": svm_dual,
    "mirror": mirror,
    "frank_wolfe": frank_wolfe,
}
