"""Bilevel: hypergradients and algorithms, by oracle calls and by time."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
import optax
from jaxopt import linear_solve
from sklearn.datasets import load_breast_cancer, load_wine

from bench._harness import interleave, target
from jaxsolve import bilevel, core, smooth
from jaxsolve.bilevel import BilevelProblem, Levels


class Simulated(NamedTuple):
    """The simulated quadratics of the bilevel benchmark, as examples and as means."""

    data: tuple  # ((a, b), (h, u, v)): what the examples of both levels are made of.
    linear: tuple  # of both levels: d and e above, a tilt below.
    hessian: np.ndarray  # (dy, dy): mean of the lower one.
    cross: np.ndarray  # (dy, dx): mean derivative of g_y in x.
    above: tuple  # means of the upper Hessian: of x, of x and y, of y.


def simulated(n_in, n_out, dx=10, dy=100, *, large=1.0, cross=0.1, mu=0.1, seed=0):
    """Draw the problem: spectra between mu and 1, one zero eigenvalue above."""
    rng = np.random.default_rng(seed)

    def basis(d):
        return np.linalg.svd(rng.standard_normal((d, 1)))[0]

    root = np.logspace(np.log10(mu) / 2, np.log10(large) / 2, dy)
    h = rng.standard_normal((n_in, dy)) * root @ basis(dy).T
    z = rng.standard_normal((n_in, min(dx, dy))) * np.sqrt(cross)
    u, v = z @ basis(dy)[:, : z.shape[1]].T, z @ basis(dx)[:, : z.shape[1]].T
    joint = np.logspace(np.log10(mu) / 2, np.log10(large) / 2, dx + dy)
    joint[0] = 0.0
    s = rng.standard_normal((n_out, dx + dy)) * joint @ basis(dx + dy).T
    a, b = s[:, :dx], s[:, dx:]
    d, e, tilt = rng.standard_normal(dx), *rng.standard_normal((2, dy))
    return Simulated(
        ((a, b), (h, u, v)),
        ((d, e), tilt),
        h.T @ h / n_in,
        u.T @ v / n_in,
        (a.T @ a / n_out, a.T @ b / n_out, b.T @ b / n_out),
    )


def examples(problem: Simulated) -> BilevelProblem:
    """Give the problem on batches of examples."""
    (d, e), tilt = problem.linear

    def upper(levels, batch):
        x, y = levels
        a, b = batch
        return jnp.mean((a @ x + b @ y) ** 2) / 2 + d @ x + e @ y

    def lower(levels, batch):
        x, y = levels
        h, u, v = batch
        return jnp.mean((h @ y) ** 2 / 2 + (u @ y) * (v @ x)) + tilt @ y

    return BilevelProblem(upper, lower)


def means(problem: Simulated) -> BilevelProblem:
    """Give the same functions of all examples, by their mean matrices."""
    (d, e), tilt = problem.linear
    xx, xy, yy = map(jnp.asarray, problem.above)
    hessian, cross = jnp.asarray(problem.hessian), jnp.asarray(problem.cross)

    def upper(levels, _):
        x, y = levels
        return x @ (xx @ x) / 2 + x @ (xy @ y) + y @ (yy @ y) / 2 + d @ x + e @ y

    def lower(levels, _):
        x, y = levels
        return y @ (hessian @ y) / 2 + y @ (cross @ x) + tilt @ y

    return BilevelProblem(upper, lower)


def truth(problem: Simulated):
    """Give the closed form of the gradient of F, as a function of x."""
    (d, e), tilt = problem.linear
    xx, xy, yy = problem.above
    slope = -np.linalg.solve(problem.hessian, problem.cross)
    offset = -np.linalg.solve(problem.hessian, tilt)
    matrix = xx + xy @ slope + (xy @ slope).T + slope.T @ yy @ slope
    constant = d + xy @ offset + slope.T @ (yy @ offset + e)
    matrix, constant = jnp.asarray(matrix), jnp.asarray(constant)
    return lambda x: matrix @ x + constant


def start(problem: Simulated):
    """Give the start of the benchmark: x at -2, y at 0."""
    dx, dy = problem.cross.shape[1], problem.cross.shape[0]
    return Levels(jnp.full(dx, -2.0), jnp.zeros(dy))


# --------------------------------------------------------------------- trajectories


def by_solver(solver, price, updates, exact, problem_data):
    """Give ``levels -> (norms, oracles)`` of a run; updates cost `price(state)`."""

    def record(params, state):
        return jnp.linalg.norm(exact(params.upper)), jnp.asarray(price(state), float)

    def trajectory(levels):
        out = core.run(
            solver,
            levels,
            problem_data,
            max_steps=updates,
            tol=0.0,
            record=record,
            derivative=core.stop(),
        )
        norms, prices = out.history
        return norms, jnp.cumsum(prices)

    return trajectory


def by_jaxopt(problem, exact, rounds, inner, cost, optimizer, draw):
    """Give the same of JAXopt: an inner run, its gradient, a step of the upper one."""

    def value(x, y, data):
        upper_data, lower_data = data
        y = inner.run(y, x, lower_data).params
        return problem.upper(Levels(x, y), upper_data), y

    def one(carry, key):
        x, y, state = carry
        gradient, y = jax.grad(value, has_aux=True)(x, y, draw(key))
        updates, state = optimizer.update(gradient, state, x)
        x = optax.apply_updates(x, updates)
        return (x, y, state), jnp.linalg.norm(exact(x))

    def trajectory(levels):
        carry = *levels, optimizer.init(levels.upper)
        keys = jax.random.split(jax.random.key(0), rounds)
        _, norms = jax.lax.scan(one, carry, keys)
        return norms, cost * jnp.arange(1.0, rounds + 1)

    return trajectory


def least(norms):
    """Give the least of the last ten norms."""
    return float(norms[-10:].min())


def typical(norms):
    """Give the median over the last tenth of a noisy run."""
    return float(np.median(norms[-max(1, len(norms) // 10) :]))


def reached(norms, oracles, budget, end):
    """Give the norm at the end of a budget; infinity for a run that diverged."""
    inside = np.asarray(oracles) <= budget
    norms = np.where(np.isfinite(norms), norms, np.inf)[inside]
    return end(norms) if norms.size else np.inf


def tuned(make, grid, levels, budget, end=least):
    """Run every setting of a grid, and give the best of them with its trajectory."""
    best = (np.inf, None, None)
    for setting in grid:
        norms, oracles = jax.jit(make(setting))(levels)
        found = reached(norms, oracles, budget, end)
        if found < best[0]:
            best = found, setting, (norms, oracles)
    return best


def jaxopt_inner(problem, kind, steps, stepsize, products):
    """Give JAXopt's inner solver, implicit by CG or unrolled."""

    def fun(y, x, lower_data):
        return problem.lower(Levels(x, y), lower_data)

    implicit = not kind.startswith("unrolled")
    options = dict(maxiter=steps, tol=0.0, implicit_diff=implicit)
    if implicit:
        solve = functools.partial(linear_solve.solve_cg, maxiter=products)
        options["implicit_diff_solve"] = solve
    if kind.endswith("lbfgs"):
        return jaxopt.LBFGS(fun, unroll=not implicit, **options)
    return jaxopt.GradientDescent(
        fun, stepsize=stepsize, acceleration=False, unroll=not implicit, **options
    )


STEPS = (0.1, 0.3, 1.0, 3.0, 10.0)  # of the upper level, over its largest curvature


RATIOS = (1.0, 0.3, 0.1, 0.03)  # of the upper step to the lower one


def optimizers(scale):
    """Give the upper steps that everybody may choose from."""
    plain = {f"sgd {s:g}": optax.sgd(s * scale) for s in STEPS}
    fast = {
        f"nesterov {s:g}, {m:g}": optax.sgd(s * scale, momentum=m, nesterov=True)
        for s in STEPS[:3]
        for m in (0.9, 0.97)
    }
    return {**plain, **fast}


def contenders(problem, budget, exact, step, scale):
    """Give every algorithm, with its grid of settings, for full batches."""
    data = (None, None)
    fixed = lambda price: lambda state: price
    by_phase = lambda state: jnp.where(state.phase == 0, 1.0, 2.0)
    choice = optimizers(scale)
    run = functools.partial(by_solver, exact=exact, problem_data=data)
    inner = smooth.lbfgs(problem.inner)

    def implicit(name):
        optimizer = choice[name]
        solver = bilevel.implicit_descent(
            problem, inner, optimizer, 0.0, inner_steps=12, adjoint_steps=12
        )
        return run(solver, by_phase, budget)

    def amigo(name):
        solver = bilevel.amigo(
            problem, choice[name], step, step, inner_steps=5, adjoint_steps=5
        )
        return run(solver, by_phase, budget)

    def stocbio(name):
        solver = bilevel.stocbio(
            problem, choice[name], step, inner_steps=10, terms=10, eta=step
        )
        return run(solver, by_phase, budget)

    def soba(name):
        return run(bilevel.soba(problem, choice[name], step), fixed(2.0), budget // 2)

    def f2sa(name):
        solver = bilevel.f2sa(
            problem, choice[name], step, lambda k: 1 + 0.1 * k, steps=5
        )
        return run(solver, fixed(2.0), budget // 2)

    def pbo(name):
        # Its direction is as steep as the penalty before y and z have settled.
        slow = optax.chain(choice[name], optax.scale(0.3))
        solver = bilevel.pbo(problem, slow, step / 2, 30.0, 1.0, steps=5)
        return run(solver, fixed(2.0), budget // 2)

    ours = dict(
        implicit_descent=implicit, amigo=amigo, stocbio=stocbio, soba=soba, f2sa=f2sa,
        pbo=pbo,
    )  # fmt: skip
    peers = {}
    kinds = [("gradient", 10), ("gradient", 30), ("lbfgs", 10), ("lbfgs", 30)]
    for kind, products in [*kinds, ("unrolled gradient", 0)]:
        for steps in (10, 100):
            cost = steps + products + 1 if products else 3 * steps
            solver = jaxopt_inner(problem, kind, steps, step, products)
            label = f"jaxopt {kind} {steps}" + (f", CG {products}" if products else "")
            peers[label] = functools.partial(
                _peer, problem, exact, budget // cost, solver, cost, choice
            )
    return ours, peers, list(choice)


def _peer(problem, exact, rounds, solver, cost, choice, name):
    draw = lambda key: (None, None)
    return by_jaxopt(problem, exact, rounds, solver, cost, choice[name], draw)


def deterministic(options):
    """Measure hypergradient norms after 2,000 lower oracles on full batches."""
    shape = (512, 256) if options.quick else (32768, 1024)
    budget = 200 if options.quick else 2000
    problem = simulated(*shape)
    exact, levels = truth(problem), start(problem)
    curvature = np.linalg.eigvalsh(jax.jacfwd(exact)(levels.upper))
    step = 1 / np.linalg.eigvalsh(problem.hessian)[-1]
    ours, peers, names = contenders(
        means(problem), budget, exact, step, 1 / curvature[-1]
    )
    names = names[2:3] if options.quick else names
    notes, found, histories = [], {}, {}
    for name, make in {**ours, **peers}.items():
        norm, setting, history = tuned(make, names, levels, budget)
        found[name] = norm
        notes.append(f"{name}: {norm:.1e} ({setting})")
        if history is not None:
            histories[name] = thinned(*history, budget)
    best = min(found[k] for k in ours)
    peer = min(found[k] for k in peers if "unrolled" not in k)
    yield {
        "row": "deterministic",
        "problem": f"simulated quadratics {shape}, norm of the hypergradient after "
        f"{budget} lower oracles; curvatures of F {curvature[0]:.2g} to "
        f"{curvature[-1]:.2g}",
        "dtype": "float64",
        "notes": notes,
        "norms": found,
        "histories": histories,
        "targets": [target("norm of jaxopt implicit / ours", peer / best, ">=", 1000)],
    }


def thinned(norms, oracles, budget, points=60):
    """Keep some points of a trajectory, for a picture."""
    at = np.searchsorted(np.asarray(oracles), np.linspace(1, budget, points))
    at = np.unique(np.minimum(at, len(norms) - 1))
    return [[float(oracles[i]), float(norms[i])] for i in at]


def stochastic(options):
    """Measure the same on minibatches of 64, where JAXopt has SGD and its gradients."""
    shape, size = ((512, 256), 64) if options.quick else ((32768, 1024), 64)
    budget = 1000 if options.quick else 40_000
    problem = simulated(*shape)
    exact, levels = truth(problem), start(problem)
    curvature = np.linalg.eigvalsh(jax.jacfwd(exact)(levels.upper))
    loss, data = examples(problem), jax.tree.map(jnp.asarray, problem.data)
    key = jax.random.key(1)
    sampled = lambda solver: core.minibatch(solver, (size, size), key=key)
    run = functools.partial(by_solver, exact=exact, problem_data=data)
    by_phase = lambda state: jnp.where(state.inner.phase == 0, 1.0, 2.0)
    two = lambda state: 2.0
    worst = float(np.max(np.sum(problem.data[1][0] ** 2, 1)))

    def saba(setting):
        rho, ratio = setting
        solver = bilevel.saba(
            loss, optax.sgd(rho * ratio), rho, batch=(size, size), key=key
        )
        return run(solver, two, budget // 2)

    def soba(setting):
        rho, ratio = setting
        decay = lambda k: rho / jnp.sqrt(1 + k / 100)
        solver = bilevel.soba(loss, optax.sgd(lambda k: decay(k) * ratio), decay)
        return run(sampled(solver), two, budget // 2)

    def amigo(setting):
        rho, ratio = setting
        solver = bilevel.amigo(
            loss, optax.sgd(rho * ratio * 5), rho, rho, inner_steps=5, adjoint_steps=5
        )
        return run(sampled(solver), by_phase, budget)

    def stocbio(setting):
        rho, ratio = setting
        solver = bilevel.stocbio(
            loss, optax.sgd(rho * ratio * 10), rho, inner_steps=10, terms=10, eta=rho
        )
        return run(sampled(solver), by_phase, budget)

    def bo_rep(setting):
        rho, ratio = setting
        solver = bilevel.bo_rep(
            loss,
            bilevel.normalized_momentum(lambda k: rho * ratio / jnp.sqrt(1.0 + k)),
            bilevel.epoch_sgd(rho, 3),
            rho,
            period=2,
        )
        return run(sampled(solver), by_phase, budget)

    def draw(key):
        upper_key, lower_key = jax.random.split(key)
        part = lambda tree, key, n: jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(
                leaf, jax.random.randint(key, (), 0, n // size) * size, size
            ),
            tree,
        )
        return (
            part(data[0], upper_key, shape[1]),
            part(data[1], lower_key, shape[0]),
        )

    def peer(steps):
        def make(setting):
            rho, ratio = setting
            solver = jaxopt_inner(loss, "gradient", steps, rho, 10)
            cost, rate = steps + 11, optax.sgd(rho * ratio * 10)
            return by_jaxopt(loss, exact, budget // cost, solver, cost, rate, draw)

        return make

    ours = dict(saba=saba, soba=soba, amigo=amigo, stocbio=stocbio, bo_rep=bo_rep)
    peers = {"jaxopt implicit 1": peer(1), "jaxopt implicit 10": peer(10)}
    rates = (0.3, 0.1, 0.03)
    grid = [(r * size / (size + worst), q) for r in rates for q in RATIOS]
    grid = grid[5:6] if options.quick else grid
    notes, found, histories = [], {}, {}
    for name, make in {**ours, **peers}.items():
        norm, setting, history = tuned(make, grid, levels, budget, typical)
        found[name] = norm
        notes.append(f"{name}: {norm:.1e} (rate, ratio {setting})")
        if history is not None:
            histories[name] = thinned(*history, budget)
    best = min(found[k] for k in ours)
    rival = min(found[k] for k in peers)
    yield {
        "row": "stochastic",
        "problem": f"simulated quadratics {shape}, batches of {size}, median "
        f"norm of the hypergradient over the last tenth of {budget} lower oracles; "
        f"curvatures of F "
        f"{curvature[0]:.2g} to {curvature[-1]:.2g}",
        "dtype": "float64",
        "notes": notes,
        "norms": found,
        "histories": histories,
        "targets": [target("norm of jaxopt implicit / ours", rival / best, ">=", 10)],
    }


# -------------------------------------------------------------------- hypergradients


def logistic(weights, data):
    """Mean logistic loss."""
    features, labels = data
    return jnp.mean(jax.nn.softplus(-labels * (features @ weights)))


def cancer():
    """Give per-feature regularisation of breast cancer: ``(problem, data)``."""
    features, labels = load_breast_cancer(return_X_y=True)
    features = (features - features.mean(0)) / features.std(0)
    order = np.random.default_rng(0).permutation(len(labels))
    part = lambda rows: (
        jnp.asarray(features[rows]),
        jnp.asarray(2.0 * labels[rows] - 1),
    )
    problem = BilevelProblem(
        lambda levels, data: logistic(levels.lower, data),
        lambda levels, data: (
            logistic(levels.lower, data)
            + jnp.sum(jnp.exp(levels.upper) * levels.lower**2) / 2
        ),
    )
    return problem, (part(order[284:]), part(order[:284]))


def errors(options):
    """Measure the hypergradient's error, as it is and as estimated, by inner steps."""
    del options
    problem, data = cancer()
    newton = smooth.newton(problem.inner)
    reference = bilevel.implicit_hypergradient(problem.upper, newton)
    notes, table = [], []
    features = data[1][0]
    for penalty in (-8.0, -4.0, -1.0):
        levels = Levels(jnp.full(30, penalty), jnp.zeros(30))
        exact = reference(levels, data, tol=1e-13).gradient
        top = np.linalg.norm(features, 2) ** 2 / (4 * len(features)) + np.exp(penalty)
        inners = {
            "gradient": smooth.gradient_descent(problem.inner, 1 / top),
            "lbfgs": smooth.lbfgs(problem.inner),
        }
        for kind, inner in inners.items():
            make = functools.partial(
                bilevel.implicit_hypergradient, problem.upper, inner, rtol=np.inf
            )
            for steps in (1, 4, 16, 64):
                found = make()(levels, data, max_steps=steps)
                better = make(corrected=True)(levels, data, max_steps=steps)
                peer = _jaxopt_gradient(problem, kind, steps, 1 / top)(levels, data)
                norm = functools.partial(_relative, exact)
                line = dict(
                    penalty=penalty,
                    inner=kind,
                    steps=steps,
                    error=norm(found.gradient),
                    estimated=float(found.error / jnp.linalg.norm(exact)),
                    corrected=norm(better.gradient),
                    jaxopt=norm(peer),
                )
                table.append(line)
                notes.append(
                    f"penalty {penalty:g}, {steps:2d} steps of {kind}: error "
                    f"{line['error']:.1e}, estimated {line['estimated']:.1e}, corrected"
                    f" {line['corrected']:.1e}; jaxopt {line['jaxopt']:.1e}"
                )
    ratios = [t["estimated"] / t["error"] for t in table if np.isfinite(t["estimated"])]
    yield {
        "row": "errors",
        "problem": "breast cancer, a penalty a feature, hypergradient after some steps",
        "dtype": "float64",
        "notes": notes,
        "table": table,
        "targets": [
            target("estimated / true error, least", min(ratios), ">=", 0.5),
            target("estimated / true error, largest", max(ratios), "<=", 2.0),
        ],
    }


def _relative(exact, gradient):
    return float(jnp.linalg.norm(gradient - exact) / jnp.linalg.norm(exact))


def _jaxopt_gradient(problem, kind, steps, stepsize):
    inner = jaxopt_inner(problem, kind, steps, stepsize, 50)

    @jax.jit
    def gradient(levels, data):
        def value(x):
            y = inner.run(levels.lower, x, data[1]).params
            return problem.upper(Levels(x, y), data[0])

        return jax.grad(value)(levels.upper)

    return gradient


def cost(options):
    """Measure a gradient beside what it must at least do: one adjoint solve."""
    n, dy = (200, 50) if options.quick else (4000, 400)
    rng = np.random.default_rng(0)
    part = lambda n: (
        jnp.asarray(rng.standard_normal((n, dy)) / np.sqrt(dy)),
        jnp.asarray(np.sign(rng.standard_normal(n))),
    )
    data = part(n), part(n)
    problem = BilevelProblem(cancer()[0].upper, cancer()[0].lower)
    solver = smooth.lbfgs(problem.inner)
    x = jnp.full(dy, -3.0)
    y = core.run(solver, jnp.zeros(dy), (x, data[1]), tol=1e-9).params
    levels, tol = Levels(x, y), float(jnp.finfo(y.dtype).eps) ** 0.75

    @jax.jit
    def least(levels, data):
        """The linear solve, and one derivative of the residual."""
        x, y = levels
        f = jax.grad(problem.upper)(levels, data[0])
        slope = lambda x, y: jax.grad(problem.inner)(y, (x, data[1]))
        product = lambda v: jax.jvp(lambda y: slope(x, y), (y,), (v,))[1]
        w, _ = jax.scipy.sparse.linalg.cg(product, f.lower, tol=tol)
        return f.upper - jax.vjp(lambda x: slope(x, y), x)[1](w)[0]

    make = functools.partial(
        bilevel.implicit_hypergradient, problem.upper, solver,
        linear_solve=bilevel.conjugate_gradient(),
    )  # fmt: skip
    at = lambda h: lambda: h(levels, data, max_steps=0).gradient
    # No update is a run that has not converged: trusted as it is, or if judged.
    calls = [
        lambda: least(levels, data),
        at(make(estimated=False, rtol=np.inf)),
        at(make()),
    ]
    for call in calls:
        jax.block_until_ready(call())
    turns = interleave(calls, options.repeats)
    middle = np.median(turns, 0)
    ratios = np.median(turns[:, 1:] / turns[:, :1], 0)
    yield {
        "row": "cost",
        "problem": f"logistic regression, {n} examples of {dy} features, at a solution",
        "dtype": "float64",
        "notes": [
            f"one CG solve and one residual derivative {middle[0]:.2e} s, "
            f"hypergradient {middle[1]:.2e} s, with its estimate {middle[2]:.2e} s"
        ],
        "targets": [
            target("gradient / least", ratios[0], "<=", 1.2),
            target("gradient with estimate / least", ratios[1], "<=", 2.0),
        ],
    }


def wine(lanes, seed=0):
    """Give random splits of wine, one sort against the others: ``(problem, data)``."""
    features, sorts = load_wine(return_X_y=True)
    features = (features - features.mean(0)) / features.std(0)
    signs = np.where(sorts == 1, 1.0, -1.0)
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(178) for _ in range(lanes)])
    part = lambda rows: (jnp.asarray(features[rows]), jnp.asarray(signs[rows]))
    return cancer()[0], (part(rows[:, :89]), part(rows[:, 89:]))


def batch(options):
    """Measure 64 bilevel problems in one vmap beside a loop over jitted JAXopt."""
    lanes = 4 if options.quick else 64
    problem, data = wine(lanes)
    yield _batch("batch", "random splits of wine", problem, data, lanes, 13, options)
    problem, data = cancer()
    yield _batch(
        "batch_large", "starts on breast cancer", problem, data, lanes, 30, options
    )


def _batch(name, what, problem, data, lanes, size, options):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.uniform(-5, 0, (lanes, size)))
    y = jnp.zeros(size)
    rounds, rate = 10, 1.0
    axis = 0 if data[0][0].ndim == 3 else None  # of the data, shared or not
    lane = lambda i: jax.tree.map(lambda a: a[i], data) if axis == 0 else data

    def ours(inner, tol, **settings):
        h = bilevel.implicit_hypergradient(problem.upper, inner, **settings)

        def solve(x, data):
            def one(carry, _):
                x, y = carry
                found = h(Levels(x, y), data, tol=tol)
                return (x - rate * found.gradient, found.lower), None

            return jax.lax.scan(one, (x, y), length=rounds)[0][0]

        mapped = jax.jit(jax.vmap(solve, (0, axis)))
        return lambda: mapped(x, data)

    inner = jaxopt.LBFGS(
        lambda y, x, rows: problem.lower(Levels(x, y), rows),
        tol=5e-6,
        maxiter=500,
        implicit_diff_solve=functools.partial(linear_solve.solve_cg, maxiter=100),
    )

    def peer(x, data):
        def value(x, y):
            y = inner.run(y, x, data[1]).params
            return problem.upper(Levels(x, y), data[0]), y

        def one(carry, _):
            x, y = carry
            g, y = jax.grad(value, has_aux=True)(x, y)
            return (x - rate * g, y), None

        return jax.lax.scan(one, (x, y), length=rounds)[0][0]

    looped, mapped = jax.jit(peer), jax.jit(jax.vmap(peer, (0, axis)))
    singles = [(x[i], lane(i)) for i in range(lanes)]
    lbfgs = smooth.lbfgs(problem.inner)
    calls = {
        "jaxsolve, inner 3e-4, corrected": ours(lbfgs, 3e-4, corrected=True),
        "jaxsolve, inner 1e-6, judged": ours(lbfgs, 1e-6),
        "jaxsolve, inner 1e-6": ours(lbfgs, 1e-6, estimated=False),
        "jaxopt loop": lambda: [looped(*single) for single in singles],
        "jaxopt vmap": lambda: mapped(x, data),
    }
    exact = ours(smooth.newton(problem.inner), 1e-12)()
    gaps = {}
    for key, call in calls.items():
        found = jax.block_until_ready(call())
        found = jnp.stack(found) if isinstance(found, list) else found
        gaps[key] = float(jnp.max(jnp.abs(found - exact)))
    turns = interleave(list(calls.values()), options.repeats)
    seconds = dict(zip(calls, map(float, np.median(turns, 0)), strict=True))
    ratio = float(np.median(turns[:, 3] / turns[:, 0]))
    return {
        "row": name,
        "problem": f"{lanes} {what}, a penalty a feature, {rounds} steps of x",
        "dtype": "float64",
        "notes": [
            f"{k}: {v:.3f} s, x off by {gaps[k]:.1e}" for k, v in seconds.items()
        ],
        "seconds": seconds,
        "targets": [target("time of jaxopt loop / ours", ratio, ">=", 5.0)],
    }


ROWS = {
    "errors": errors,
    "cost": cost,
    "batch": batch,
    "deterministic": deterministic,
    "stochastic": stochastic,
}
